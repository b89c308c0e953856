"""The logs API: what was recorded, for programs and for the dashboard."""

from . import content, limits, sessions, stream
from .routes import blueprint

__all__ = ["blueprint", "content", "limits", "sessions", "stream"]

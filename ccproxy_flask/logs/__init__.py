"""The logs API: what was recorded, for programs and for the dashboard."""

from . import content, sessions, stream
from .routes import blueprint

__all__ = ["blueprint", "content", "sessions", "stream"]

"""The logs API: what was recorded, for programs and for the dashboard."""

from . import content, stream
from .routes import blueprint

__all__ = ["blueprint", "content", "stream"]

"""Tracers: whole exchanges, redacted, for those who look for what went wrong."""

from __future__ import annotations

from .base import Headers, NullTracer, RequestTracer, StreamingTracer, Tracer
from .console import ConsoleTracer
from .files import FileTracer, read_trace
from .queued import QueuedTracer
from .trail import Trail, Trails

__all__ = [
    "ConsoleTracer",
    "FileTracer",
    "Headers",
    "NullTracer",
    "QueuedTracer",
    "RequestTracer",
    "StreamingTracer",
    "Tracer",
    "Trail",
    "Trails",
    "read_trace",
]

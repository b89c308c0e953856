"""Tracers: whole exchanges, redacted, for those who look for what went wrong."""

from __future__ import annotations

from .base import Headers, NullTracer, RequestTracer, StreamingTracer, Tracer
from .console import ConsoleTracer
from .exchange_capture import CaptureFactory, ExchangeCapture
from .files import FileTracer, read_trace
from .queued import QueuedTracer

__all__ = [
    "CaptureFactory",
    "ConsoleTracer",
    "ExchangeCapture",
    "FileTracer",
    "Headers",
    "NullTracer",
    "QueuedTracer",
    "RequestTracer",
    "StreamingTracer",
    "Tracer",
    "read_trace",
]

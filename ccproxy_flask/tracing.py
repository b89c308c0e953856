"""The tracing extension: one trace for each request in flight, closed exactly once.

``trace(blueprint, …)`` opens a trace in ``g.trace`` before each request of the blueprint and
closes it after the last byte of the answer. Where a trace ends, its record goes to the sinks:
callables that take a record. Configuration: none; state: ``app.extensions["ccproxy.tracing"]``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from flask import Blueprint, Flask, Response, current_app, g, request

from . import redact, serving
from .record import RequestRecord, new_request_id

if TYPE_CHECKING:
    from collections.abc import Iterable

log = structlog.get_logger(__name__)

Sink = Callable[[RequestRecord], None]
EXTENSION = "ccproxy.tracing"
REQUEST_ID_HEADER = "x-ccproxy-request-id"
_LONGEST_PATH = 1024
_LONGEST_AGENT = 256


@dataclass
class Sinks:
    """Where records go: *started* when a trace has its first facts, *ended* when it closes.

    The ``stored_`` ones get the records of proxied requests only.
    """

    started: list[Sink] = field(default_factory=list)
    ended: list[Sink] = field(default_factory=list)
    stored_started: list[Sink] = field(default_factory=list)
    stored_ended: list[Sink] = field(default_factory=list)
    node: str | None = None


class Trace:
    """One request in flight. Use as a context manager, or call :meth:`finish` yourself."""

    __slots__ = ("_began", "_finished", "_sinks", "_started", "_stored", "record")

    def __init__(self, record: RequestRecord, sinks: Sinks, stored: bool = False) -> None:
        self.record = record
        self._sinks = sinks
        self._stored = stored
        self._began = time.perf_counter()
        self._started = False
        self._finished = False

    def elapsed(self) -> float:
        """Return the seconds since the request came in."""
        return time.perf_counter() - self._began

    def start(self) -> None:
        """Tell the sinks what is known so far; later calls do nothing."""
        if self._started:
            return
        self._started = True
        self._tell(self._sinks.started)
        if self._stored:
            self._tell(self._sinks.stored_started)

    def finish(self, error: BaseException | None = None) -> None:
        """Close the record and hand it to every sink; later calls do nothing."""
        if self._finished:
            return
        self._finished = True
        self.start()
        record = self.record
        record.duration_seconds = self.elapsed()
        record.duration_ms = record.duration_seconds * 1000
        if error is not None:
            note_error_in(record, error)
        if self._stored:
            self._tell(self._sinks.stored_ended)
        self._tell(self._sinks.ended)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self.finish(error)

    def _tell(self, sinks: Iterable[Sink]) -> None:
        for sink in sinks:
            try:
                sink(self.record)
            except Exception:  # a broken sink must not break the answer
                log.exception("sink_failed", sink=repr(sink))


def init_app(app: Flask, sinks: Sinks) -> None:
    """Set the sinks of *app*."""
    app.extensions[EXTENSION] = sinks


def open_trace(
    method: str, path: str, query: str, client_ip: str | None, agent: str | None, **more: Any
) -> Trace:
    """Return a new trace. *more* are further fields of its record."""
    sinks: Sinks = current_app.extensions[EXTENSION]
    stored = more.pop("stored", False)
    record = RequestRecord(
        request_id=new_request_id(),
        timestamp=datetime.now(UTC),
        method=method,
        path=path[:_LONGEST_PATH],
        query=redact.kept_query(query),
        client_ip=client_ip,
        user_agent=redact.shortened(agent, _LONGEST_AGENT),
        node=sinks.node,
        **more,
    )
    return Trace(record, sinks, stored)


def trace(blueprint: Blueprint, service_type: str, stored: bool = False) -> None:
    """Trace each request of *blueprint*.

    Where *stored*, its record is kept, and the view calls ``g.trace.start()`` when it knows the
    first facts; else the request gets its log line and its metrics only.
    """

    @blueprint.before_request
    def _open() -> None:
        structlog.contextvars.clear_contextvars()
        environ = request.environ
        path, query = serving.raw_target(environ)
        rule = "other" if stored or request.url_rule is None else request.url_rule.rule
        current = open_trace(
            environ["REQUEST_METHOD"],
            path,
            query,
            environ.get("REMOTE_ADDR"),
            environ.get("HTTP_USER_AGENT"),
            service_type=service_type,
            endpoint=rule,
            stored=stored,
        )
        g.trace = current
        structlog.contextvars.bind_contextvars(request_id=current.record.request_id)
        if not stored:
            current.start()

    @blueprint.after_request
    def _close_with(response: Response) -> Response:
        current: Trace = g.trace
        current.record.status_code = response.status_code
        response.headers[REQUEST_ID_HEADER] = current.record.request_id
        if request.environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            current.finish()  # such a view returns when it is over, and its answer is never sent
        else:
            response.call_on_close(current.finish)
        return response


def note_error(error: BaseException) -> None:
    """Let the record of the current request say what went wrong."""
    current: Trace | None = g.get("trace")
    if current is not None:
        note_error_in(current.record, error)


def note_error_in(record: RequestRecord, error: BaseException) -> None:
    """Let *record* say what went wrong, where it does not say so yet."""
    if record.error_type is None:
        record.error_type = getattr(error, "error_type", "internal_error")
        record.error_message = redact.shortened(str(error), 500)

"""The tracing extension: one trace for each request in flight, closed exactly once.

``trace(blueprint, …)`` opens a trace in ``g.trace`` before each request of the blueprint and
closes it after the last byte of the answer; the proxy, which is served before Flask's dispatch,
begins and finishes its traces itself. Where a trace ends, its record goes to the sinks: callables
that take a record. Configuration: none; state: ``app.extensions["ccproxy.tracing"]``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from flask import Blueprint, Flask, Response, current_app, g, request

from . import redact
from .credentials import Credentials
from .record import COLUMNS, DURATIONS, RequestRecord, new_request_id
from .server import middleware

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import WSGIEnvironment

log = structlog.get_logger(__name__)

Sink = Callable[[RequestRecord], None]
EXTENSION = "ccproxy.tracing"
REQUEST_ID_HEADER = "x-ccproxy-request-id"


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


class Storage(Protocol):
    """What keeps records; :class:`ccproxy_flask.journal.JournalWriter` is one."""

    def start(self, record: RequestRecord) -> None:
        """A request has begun."""

    def end(self, record: RequestRecord) -> None:
        """A request is over."""


_NO_SINKS = Sinks()


def _close_durations(record: RequestRecord, elapsed: float) -> None:
    """Note how long it took, to the microsecond: what is behind that is noise of arithmetic."""
    record.duration_seconds, record.duration_ms = _rounded(elapsed, 1e6), elapsed * 1000
    known = vars(record)
    for name in DURATIONS:
        if (value := known.get(name)) is not None:
            known[name] = _rounded(value, 1e3)


def _rounded(value: float, parts: float) -> float:
    """Return *value*, which is no less than 0, in whole parts of one; much quicker than round()."""
    return int(value * parts + 0.5) / parts


class RequestContext:
    """One request in flight. Use as a context manager, or call :meth:`finish` yourself.

    Published as ``RequestContext``. *start_time* is one of ``time.perf_counter()``; *metadata*
    that is named like a column goes into the record; *storage* gets the record at the end. The
    proxy gives a *record* that has its first facts, and the *sinks* of the application.
    """

    __slots__ = (
        "_finished",
        "_logger",
        "_sinks",
        "_started",
        "_stored",
        "credentials",
        "metadata",
        "record",
        "start_time",
        "storage",
    )

    def __init__(
        self,
        request_id: str | None = None,
        start_time: float | None = None,
        logger: Any = None,
        metadata: dict[str, Any] | None = None,
        storage: Storage | None = None,
        *,
        record: RequestRecord | None = None,
        sinks: Sinks = _NO_SINKS,
        stored: bool = False,
    ) -> None:
        self.record = record or RequestRecord(request_id or new_request_id(), datetime.now(UTC))
        self.start_time = time.perf_counter() if start_time is None else start_time
        self._logger = logger
        self.metadata: dict[str, Any] = {}
        self.storage = storage
        self.credentials = Credentials()
        """What the request was sent with: no text of its record shows a part of it."""
        self._sinks = sinks
        self._stored = stored
        self._started = False
        self._finished = False
        if metadata:
            self.add_metadata(**metadata)

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.record.request_id

    @property
    def logger(self) -> Any:
        """A structlog logger that names the request, and the metadata added so far."""
        if self._logger is None:
            self._logger = structlog.get_logger().bind(request_id=self.request_id)
        return self._logger

    @property
    def duration_seconds(self) -> float:
        """The seconds since the request began."""
        return self.elapsed()

    @property
    def duration_ms(self) -> float:
        """The milliseconds since the request began."""
        return self.elapsed() * 1000

    def add_metadata(self, **metadata: Any) -> None:
        """Remember facts of the request: for its log lines, and columns for its record."""
        self.metadata.update(metadata)
        for name in metadata.keys() & _SETTABLE:
            setattr(self.record, name, metadata[name])
        self._logger = self.logger.bind(**metadata)

    def log_event(self, event: str, **fields: Any) -> None:
        """Write a log line about the request, with its duration so far (milliseconds)."""
        self.logger.info(event, duration_ms=self.duration_ms, **fields)

    def elapsed(self) -> float:
        """Return the seconds since the request came in."""
        return time.perf_counter() - self.start_time

    def start(self) -> None:
        """Tell the sinks what is known so far; later calls do nothing."""
        if self._started:
            return
        self._started = True
        self.credentials.hide_in(self.record)
        self._tell(self._sinks.started)
        if self._stored:
            tracker.add_context(self)
            self._tell(self._sinks.stored_started)
        if self.storage is not None:
            self._tell((self.storage.start,))

    def finish(self, error: BaseException | None = None) -> None:
        """Close the record and hand it to every sink; later calls do nothing."""
        if self._finished:
            return
        self._finished = True
        self.start()
        record = self.record
        _close_durations(record, self.elapsed())
        if error is not None:
            note_error(record, error)
        self.credentials.hide_in(record)
        if self._stored:
            tracker.remove_context(record.request_id)
            self._tell(self._sinks.stored_ended)
        if self.storage is not None:
            self._tell((self.storage.end,))
        self._tell(self._sinks.ended)

    def __enter__(self) -> RequestContext:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self.finish(error)

    def _tell(self, sinks: Iterable[Sink]) -> None:
        for sink in sinks:
            try:
                sink(self.record)
            except Exception:  # a broken sink must not break the answer
                log.exception("sink_failed", sink=repr(sink))


class ContextTracker:
    """The requests in flight in this process, by id."""

    def __init__(self) -> None:
        self._contexts: dict[str, RequestContext] = {}

    def add_context(self, context: RequestContext) -> None:
        """Take *context* in."""
        self._contexts[context.request_id] = context

    def remove_context(self, request_id: str) -> RequestContext | None:
        """Let a context go and return it, None where there is none."""
        return self._contexts.pop(request_id, None)

    def get_context(self, request_id: str) -> RequestContext | None:
        """Return a context, None where there is none."""
        return self._contexts.get(request_id)

    def get_active_count(self) -> int:
        """Return how many there are."""
        return len(self._contexts)

    def get_all_contexts(self) -> dict[str, RequestContext]:
        """Return all of them by id; a copy."""
        return dict(self._contexts)

    def cleanup_stale_contexts(self, max_age_seconds: float = 300) -> int:
        """Let go what is older, and return how many that were."""
        stale = [
            request_id
            for request_id, context in self.get_all_contexts().items()
            if context.duration_seconds > max_age_seconds
        ]
        return sum(self.remove_context(request_id) is not None for request_id in stale)


tracker = ContextTracker()
"""The proxy's own requests, and those of ``tracked_request_context``."""

_SETTABLE = frozenset(COLUMNS) - {"request_id", "timestamp"}


def log_start(record: RequestRecord) -> None:
    """Write the log line of a beginning; a sink."""
    log.debug("request_start", request_id=record.request_id, method=record.method, path=record.path)


def log_end(record: RequestRecord) -> None:
    """Write the log line of an end; a sink."""
    event = "request_success" if record.error_type is None else "request_error"
    log.debug(
        event,
        request_id=record.request_id,
        status_code=record.status_code,
        duration_ms=record.duration_ms,
        error_type=record.error_type,
    )


def init_app(app: Flask, sinks: Sinks) -> None:
    """Set the sinks of *app*."""
    app.extensions[EXTENSION] = sinks


def open_trace(
    sinks: Sinks,
    method: str,
    path: str,
    query: str,
    client_ip: str | None,
    agent: str | None,
    stored: bool = False,
    **more: Any,
) -> RequestContext:
    """Return a new trace. *more* are further fields of its record."""
    record = RequestRecord.begun(
        new_request_id(),
        datetime.now(UTC),
        method=redact.kept_method(method),
        path=redact.kept_path(path),
        query=redact.kept_query(query),
        client_ip=client_ip,
        user_agent=redact.kept_agent(agent),
        node=sinks.node,
        **more,
    )
    return RequestContext(record=record, sinks=sinks, stored=stored)


def begin(environ: WSGIEnvironment, sinks: Sinks, **more: Any) -> RequestContext:
    """Return the trace of the request *environ*; log lines name it from here on.

    *more* are further fields of its record, and ``stored``: whether that is kept. Whoever begins
    a trace that is stored calls its ``start()`` when it knows the first facts.
    """
    path, query = middleware.raw_target(environ)
    begun = open_trace(
        sinks,
        environ["REQUEST_METHOD"],
        path,
        query,
        environ.get("REMOTE_ADDR"),
        environ.get("HTTP_USER_AGENT"),
        **more,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=begun.record.request_id)
    return begun


def trace(blueprint: Blueprint, service_type: str) -> None:
    """Trace each request of *blueprint*: it gets its log line and its metrics, and no row."""

    @blueprint.before_request
    def _open() -> None:
        rule = request.url_rule.rule if request.url_rule is not None else "other"
        sinks: Sinks = current_app.extensions[EXTENSION]
        g.trace = begin(request.environ, sinks, service_type=service_type, endpoint=rule)
        g.trace.start()

    @blueprint.after_request
    def _close_with(response: Response) -> Response:
        current: RequestContext = g.trace
        current.record.status_code = response.status_code
        response.headers[REQUEST_ID_HEADER] = current.record.request_id
        if request.environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            current.finish()  # such a view returns when it is over, and its answer is never sent
        else:
            response.call_on_close(current.finish)
        return response


def note_error(record: RequestRecord, error: BaseException) -> None:
    """Let *record* say what went wrong, where it does not say so yet."""
    if record.error_type is None:
        record.error_type = getattr(error, "error_type", "internal_error")
        record.error_message = redact.shortened(str(error), 500)

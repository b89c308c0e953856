"""Answers to what the HTTP server cannot read: in the shape of an API, and with a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from .. import serving, tracing
from ..errors import BadRequest, HeadersTooLarge, ProxyError, error_body
from ..record import new_request_id
from .providers import dialect_of
from .routes import SERVICE_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


def refuser(cfg: Any, sinks: tracing.Sinks) -> Callable[[Any, Any, Any, BaseException], None]:
    """Return what takes the place of gunicorn's ``handle_error``.

    That one answers with a page of HTML, and logs what the client sent: keys in an URL, too.
    """

    def refuse(_request: Any, sock: Any, address: Any, error: BaseException) -> None:
        found = serving.unreadable(error, cfg)
        if found is not None:
            _refuse(found, sinks, sock, address)
            return
        log.error("request_failed", exc_info=error)
        reason = "the proxy failed on this request; its log has the reason"
        _send(sock, ProxyError(reason), "", new_request_id())

    return refuse


def _refuse(found: serving.Unreadable, sinks: tracing.Sinks, sock: Any, address: Any) -> None:
    path, _, query = found.target.partition("?")
    ip = address[0] if isinstance(address, tuple) else None
    trace = tracing.open_trace(
        sinks, found.method, path, query, ip, None, stored=True, service_type=SERVICE_TYPE
    )
    error = HeadersTooLarge(found.reason) if found.status == 431 else BadRequest(found.reason)
    error.status = trace.record.status_code = found.status
    with trace:
        tracing.note_error(trace.record, error)
        _send(sock, error, path, trace.record.request_id)


def _send(sock: Any, error: ProxyError, path: str, request_id: str) -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("x-request-id", request_id),
        (tracing.REQUEST_ID_HEADER, request_id),
    ]
    body = error_body(dialect_of(path, {}), error, request_id)
    serving.answer_and_close(sock, error.status, headers, body)

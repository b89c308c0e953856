"""Answers to what the HTTP server cannot read: in the shape of an API, and with a row."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import structlog

from .. import request_context
from ..dialects import meaning_of
from ..errors import ProxyError
from ..record import new_request_id
from ..server import request_parser, response_writer, sockets
from .routes import SERVICE_TYPE, is_own_page

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


def error_answers(
    cfg: Any, sinks: request_context.Sinks
) -> Callable[[Any, Any, Any, BaseException], None]:
    """Return what takes the place of gunicorn's ``handle_error``.

    That one answers with a page of HTML, and logs what the client sent: keys in an URL, too.
    """

    def answer(_request: Any, sock: Any, address: Any, error: BaseException) -> None:
        found = request_parser.unreadable(error, cfg)
        if found is not None:
            _refuse(*found, sinks, sock, address)
        elif isinstance(error, ssl.SSLError) or request_parser.is_broken_body(error):
            # Nobody waits for an answer; the connection is closed behind this.
            log.debug("connection_broken", kind=type(error).__name__)
        else:
            _report(error, sock)

    return answer


def _refuse(
    error: ProxyError,
    method: str,
    target: str,
    sinks: request_context.Sinks,
    sock: Any,
    address: Any,
) -> None:
    path, _, query = target.partition("?")
    ip = address[0] if isinstance(address, tuple) else ""
    stored = not (path and is_own_page(method, path))
    trace = request_context.open_trace(
        sinks, method, path, query, ip, None, stored=stored, service_type=SERVICE_TYPE
    )
    trace.credentials.add_query(query)
    trace.record.status_code = error.status
    request_context.note_error(trace.record, error)
    with trace:
        trace.start()
        _send(sock, error, method, path, trace.record.request_id)
    sockets.let_go(sock)


def _report(error: BaseException, sock: Any) -> None:
    structlog.contextvars.clear_contextvars()  # they are of the request before
    request_id = new_request_id()
    log.error("request_failed", request_id=request_id, exc_info=error)
    reason = "the proxy failed on this request; its log has the reason"
    _send(sock, ProxyError(reason), "", "", request_id)


def _send(sock: Any, error: ProxyError, method: str, path: str, request_id: str) -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("x-request-id", request_id),
        (request_context.REQUEST_ID_HEADER, request_id),
    ]
    dialect = meaning_of(method, path, {}).dialect
    body = dialect.error_body(error, request_id) if method != "HEAD" else b""
    response_writer.answer_past_wsgi(sock, error.status, headers, body)

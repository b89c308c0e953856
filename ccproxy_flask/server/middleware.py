"""What WSGI does not tell: headers as they came, the raw path, and how a connection ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gunicorn.http import parser, wsgi
from werkzeug.middleware.proxy_fix import ProxyFix

from .client_connections import connections
from .request_parser import PlainRequest, finishing
from .response_writer import TransparentResponse
from .sockets import let_go

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from .request_parser import Headers


def install() -> None:
    """Make gunicorn read and write as it is said here, in this process."""
    parser.RequestParser.mesg_class = PlainRequest
    parser.RequestParser.finish_body = finishing(parser.Parser.finish_body)
    wsgi.WSGIErrorsWrapper = LateErrors
    wsgi.Response = TransparentResponse


class LateErrors(wsgi.WSGIErrorsWrapper):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's ``wsgi.errors``, made ready by the first who writes to it: hardly anybody."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, data: str) -> None:
        """Write *data* to the error log's streams."""
        if "streams" not in vars(self):
            super().__init__(self._cfg)
        super().write(data)


class GunicornMiddleware:
    """The outermost WSGI layer: hands on what WSGI itself does not tell.

    ``ccproxy.headers``: all request headers, lower-case names, in order, repeated ones too.
    ``ccproxy.force_close``: call it to close the client's connection after the answer.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        writer = getattr(start_response, "__self__", None)
        if isinstance(writer, TransparentResponse):
            environ["ccproxy.headers"] = writer.wire_headers
            environ["ccproxy.force_close"] = writer.force_close
            connections.begin(writer.sock)
        return self._app(environ, start_response)


class BehindProxies:
    """Believes what *count* proxies of the operator's say of the client (Werkzeug: ProxyFix).

    Their headers are for us: they are not passed on to upstreams.
    """

    def __init__(self, app: WSGIApplication, count: int) -> None:
        self._app = ProxyFix(app, count, count, count, count, count)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        environ["ccproxy.headers"] = [
            pair for pair in request_headers(environ) if pair[0] not in _FORWARDED
        ]
        return self._app(environ, start_response)


_FORWARDED = frozenset(f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix"))


def request_headers(environ: Mapping[str, Any]) -> Headers:
    """Return all request headers, with lower-case names."""
    headers: Headers | None = environ.get("ccproxy.headers")
    if headers is not None:
        return headers
    return [
        (name.removeprefix("HTTP_").replace("_", "-").lower(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    ]


def raw_target(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return path and query as the client wrote them."""
    target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if target[:1] != "/":  # absolute form, or a server that does not tell
        _scheme, found, rest = target.partition("://")
        slash = rest.find("/")
        target = rest[slash:] if found and slash >= 0 else environ["PATH_INFO"]
        if not found and environ.get("QUERY_STRING"):
            target += "?" + environ["QUERY_STRING"]
    path, _, query = target.partition("?")
    return path, query


def close_after_answer(
    environ: dict[str, Any], reading: Callable[[float], None] | None = None
) -> None:
    """Close the client's connection after the answer, though its request may still be coming.

    Not at once: what arrives at a closed connection makes the client's system throw away the
    answer (RFC 9112 §9.6). *reading* waits for who reads the rest, for so many seconds at most;
    without it, the rest is read here.
    """
    environ.get("ccproxy.force_close", lambda: None)()
    environ["ccproxy.linger"] = reading


def linger(environ: dict[str, Any], sock: Any) -> None:
    """Do what :func:`close_after_answer` promised for the request of *environ*, now answered."""
    if "ccproxy.linger" in environ:
        let_go(sock, environ.pop("ccproxy.linger"))

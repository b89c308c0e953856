"""How gunicorn writes answers here: a relayed one as it is, each head with its first bytes."""

from __future__ import annotations

import contextlib
import http
from typing import TYPE_CHECKING, Any

from gunicorn.http import wsgi

from .sockets import send_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from .request_parser import Headers


class WireHeaders(list[tuple[str, str]]):
    """Answer headers to which nothing may be added."""


class TransparentResponse(wsgi.Response):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's writer; sends a head with its first bytes, and adds nothing to a relayed one."""

    headers_sent: bool
    _transparent = False
    _has_more = False
    _held_head = b""

    def __init__(self, req: Any, sock: Any, cfg: Any) -> None:
        super().__init__(req, sock, cfg)
        self.wire_headers: Headers | None = getattr(req, "wire_headers", None)
        if self.wire_headers is not None:
            return
        self.wire_headers = [(name.lower(), value) for name, value in req.headers]
        if any(name == "script_name" for name, _ in self.wire_headers):
            # gunicorn would take it for a setting, and shorten the path by it
            req.headers = [pair for pair in req.headers if pair[0] != "SCRIPT_NAME"]

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Remember whether *headers* are relayed ones."""
        self._transparent = isinstance(headers, WireHeaders)
        write: Callable[[bytes], None] = super().start_response(status, headers, exc_info)
        return write

    def process_headers(self, headers: Headers) -> None:
        """Take relayed headers as they are: gunicorn would drop their Server and Date."""
        if not self._transparent:
            super().process_headers(headers)
            return
        self.headers.extend(headers)
        for name, value in headers:
            if len(name) == 14 and name.lower() == "content-length":
                self.response_length = int(value)

    def default_headers(self) -> list[str]:
        """Return the status line and the headers of this connection."""
        if not self._transparent:
            status, _server, *others = super().default_headers()
            return [status, *others]
        major, minor = self.req.version
        connection = "close" if self.should_close() else "keep-alive"
        lines = [f"HTTP/{major}.{minor} {self.status}\r\n", f"Connection: {connection}\r\n"]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines

    def send_headers(self) -> None:
        """Send the head, or keep it for the first bytes that come right behind it."""
        if self.headers_sent:
            return
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        self.headers_sent = True
        self._held_head = "".join(lines).encode("latin-1")
        if not self._has_more:
            self._flush_head()

    def write(self, arg: bytes) -> None:
        """Send *arg*; together with the head where that was not sent yet."""
        self._has_more = bool(arg) and not self._omits_body
        super().write(arg)
        if self._held_head:  # the body turned out to be over
            self._flush_head()

    def _flush_head(self) -> None:
        head, self._held_head = self._held_head, b""
        send_all(self.sock, head)

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        if self._held_head:
            data, self._held_head = self._held_head + data, b""
        send_all(self.sock, data)


def answer_past_wsgi(sock: Any, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer, as the last one of its connection."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}", "\r\n"]
    with contextlib.suppress(OSError):
        send_all(sock, "\r\n".join(lines).encode("latin-1") + body)

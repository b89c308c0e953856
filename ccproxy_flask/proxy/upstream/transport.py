"""The direct way to the upstreams: HTTP/1.1 on sockets of our own.

Blocking calls are cooperative under gunicorn's gevent worker, and plain ones elsewhere.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

from ... import http1
from ...errors import ClientDisconnected, ProxyError, UpstreamBroken, UpstreamTimeout
from ...server.sockets import hang_up, send_all, take_turns
from .call import READ_SIZE, UpstreamCall, UpstreamResponse
from .connections import Connections, Origin, origin_of

if TYPE_CHECKING:
    from ...settings import Proxy
    from ..body import RequestBody
    from .call import UpstreamRequest
    from .connections import Connection

# A read of so much says that more is waiting.
_MUCH = 16 << 10
_TRAILER_SECONDS = 10.0
_COOPERATIVE = socket.socket.__module__.startswith("gevent")


class DirectTransport:
    """Calls over connections that are kept and used again."""

    def __init__(self, options: Proxy) -> None:
        self.connections = Connections(options)
        self._origins: dict[str, Origin] = {}

    def call(self, request: UpstreamRequest) -> DirectCall:
        """Return a call that is not sent yet."""
        origin = self._origins.get(request.base_url)
        if origin is None:
            origin = self._origins[request.base_url] = origin_of(request.base_url)
        return DirectCall(request, origin, self.connections)

    def close(self) -> None:
        """Close all idle connections."""
        self.connections.close()


class DirectCall(UpstreamCall):
    """A call over one of our own connections."""

    def __init__(self, request: UpstreamRequest, origin: Origin, connections: Connections) -> None:
        super().__init__(request)
        self._origin, self._connections = origin, connections
        self._connection: Connection | None = None
        self._framing: http1.Framing | None = None
        self._keep_seconds: float | None = None
        self._early = b""
        self._turn_began = 0.0
        self._trailers_until = 0.0

    def send(self) -> UpstreamResponse:
        """Send the request; see :meth:`UpstreamCall.send`."""
        request = self.request
        try:
            connection = self._connections.take(self._origin, request.connect_timeout, self.token)
            self._connection = connection
            connection.sock.settimeout(request.read_timeout)
            self._send_request(connection.sock)
            head, rest = self._read_head(connection.sock)
            self.token.check()
            self._begin_body(head, rest)
        except (OSError, http1.NotHttp) as error:
            raise self._ended(error) from error
        except ProxyError:
            self.close()
            self.token.check()  # the connection may have failed because it was cancelled
            raise
        except BaseException:
            self.close()
            raise
        return UpstreamResponse(head.status, head.reason, head.headers, self, head.named)

    @property
    def ready(self) -> bool:
        """True where the next read returns at once."""
        return bool(self._early) or self._connection is None

    def read(self) -> bytes:
        """Return what is there; see :meth:`UpstreamCall.read`."""
        if self._early:
            data, self._early = self._early, b""
            return data
        connection, framing = self._connection, self._framing
        if connection is None or framing is None:
            self.token.check()
            return b""
        try:
            while not framing.done:
                received = connection.sock.recv(READ_SIZE)
                if len(received) >= _MUCH:
                    self._let_others_run()
                payload = framing.feed(received) if received else framing.end()
                if payload:
                    self._release()
                    return payload
                self._bound_trailers(connection, framing)
        except (OSError, http1.NotHttp) as error:
            raise self._ended(error) from error
        self._release()
        self.token.check()
        return b""

    def close(self) -> None:
        """Close the connection where it was not released, and end an upload that still runs."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self.upload is not None and self.upload.is_alive():
            hang_up(connection.sock)
        self.token.release()
        connection.close()

    def _ended(self, error: Exception) -> Exception:
        """Close the connection, and return what to raise for *error*."""
        self.close()
        upload = self.upload
        if isinstance(upload, Upload) and upload.error is not None:
            return upload.error
        if self.token.cancelled:
            return ClientDisconnected("the client went away")
        if isinstance(error, TimeoutError):
            return UpstreamTimeout("the upstream was silent for too long")
        reason = error.strerror if isinstance(error, OSError) else None
        return UpstreamBroken(f"the upstream broke off or sent no valid HTTP: {reason or error}")

    def _send_request(self, sock: socket.socket) -> None:
        head, body = _request_head(self.request, self._origin), self.request.body
        if body is None:
            send_all(sock, head)
        elif body.whole is not None:
            send_all(sock, head + body.whole)
        else:
            upload = self.upload = Upload(sock, head, body)
            if isinstance(sock, ssl.SSLSocket) and not _COOPERATIVE:
                upload.run()  # OpenSSL allows no second thread on a connection
            else:
                upload.start()

    def _read_head(self, sock: socket.socket) -> tuple[http1.Head, bytes]:
        """Return the final head, and what came with it of the body."""
        held = b""
        interim = 0
        while True:
            data = sock.recv(READ_SIZE)
            if not data:
                raise http1.NotHttp("the upstream closed the connection without an answer")
            held += data
            while (end := held.find(b"\r\n\r\n")) >= 0:
                head, held = http1.parse_head(held[:end]), held[end + 4 :]
                if head.status >= 200:
                    return head, held
                interim += end
                if head.status == 101:
                    raise http1.NotHttp("the upstream changed to a protocol nobody asked for")
            if interim + len(held) > http1.LONGEST_HEAD:
                raise http1.NotHttp("the head of the answer does not end")

    def _begin_body(self, head: http1.Head, rest: bytes) -> None:
        framing = self._framing = http1.framing_of(self.request.method, head)
        if head.keep_alive:
            is_said = "keep-alive" in head.named
            self._keep_seconds = _keep_alive_seconds(head) if is_said else math.inf
        if rest and framing.done:
            framing.rest = rest  # an answer without a body had one: this connection is of no use
        elif rest:
            self._early = framing.feed(rest)
        self._release()

    def _release(self) -> None:
        """Give the connection back where the answer is read to its end; it is not ours any more."""
        connection, framing = self._connection, self._framing
        if connection is None or framing is None or not framing.done:
            return
        if self.upload is not None and self.upload.is_alive():
            return  # closed by close(), when the client has its answer
        self._connection = None
        self.token.release()
        if self._keep_seconds is not None and not framing.rest and not self.token.cancelled:
            self._connections.give_back(connection, self._keep_seconds)
        else:
            connection.close()

    def _bound_trailers(self, connection: Connection, framing: http1.Framing) -> None:
        """Give an upstream that has sent the whole body little time for what follows it."""
        if not framing.in_trailers:
            return
        now = time.monotonic()
        if not self._trailers_until:
            self._trailers_until = now + min(_TRAILER_SECONDS, self.request.read_timeout)
        if now >= self._trailers_until:
            raise TimeoutError
        connection.sock.settimeout(self._trailers_until - now)

    def _let_others_run(self) -> None:
        # Where data is always there, nothing would ever wait, and one answer hold up all others.
        self._turn_began = take_turns(self._turn_began)


class Upload(threading.Thread):
    """Sends a long body; beside the reader, since an upstream may answer before the end of it."""

    def __init__(self, sock: socket.socket, head: bytes, body: RequestBody) -> None:
        super().__init__(daemon=True, name="upload")
        self._sock, self._head, self._body = sock, head, body
        self.error: ProxyError | ClientDisconnected | None = None

    def run(self) -> None:
        """Send head and body; what goes wrong is kept for the reader of the answer."""
        try:
            self._sock.sendall(self._head)
            for piece in self._body.wire_pieces():
                self._sock.sendall(piece)
        except (ClientDisconnected, ProxyError) as error:
            self.error = error
            hang_up(self._sock)  # the call's own: it keeps the connection until this ends
        except (OSError, ValueError):
            # The upstream reads no more. Its answer, or the lack of one, says why.
            self._body.discard()


def _request_head(request: UpstreamRequest, origin: Origin) -> bytes:
    lines = [
        f"{request.method} {origin.path}{request.target} HTTP/1.1",
        f"host: {origin.authority}",
    ]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if request.body is not None and request.body.length is None:
        lines.append("transfer-encoding: chunked")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def _keep_alive_seconds(head: http1.Head) -> float:
    for part in head.named.get("keep-alive", "").split(","):
        word, _, number = part.strip().partition("=")
        if word.lower() == "timeout" and number.isdigit():
            return max(0.0, int(number) - 1.0)
    return math.inf

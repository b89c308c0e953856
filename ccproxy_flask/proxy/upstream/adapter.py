"""A transport adapter for ``requests``: HTTP/1.1 on sockets of our own.

Blocking calls are cooperative under gunicorn's gevent worker, and plain ones elsewhere.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import certifi
import requests
from requests.adapters import BaseAdapter
from requests.cookies import RequestsCookieJar
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, SSLError
from requests.structures import CaseInsensitiveDict

from ...serving import send_all
from .. import http1
from .calls import BrokenAnswer, Call, Lifeline, PreparedCall
from .connection import READ_SIZE, Addresses, Connection, Origin
from .proxied import joined

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...settings import Proxy

# A read of so much says that more is waiting; after so many of them it is the others' turn.
_MUCH = 16 << 10
_TURN = 4
_NO_TIME = timedelta(0)


class WireAdapter(BaseAdapter):
    """HTTP/1.1 over pooled connections; answers come as :class:`WireBody` in ``raw``."""

    def __init__(self, options: Proxy) -> None:
        super().__init__()
        self._options = options
        self._addresses = Addresses(options.dns_cache_seconds)
        self._idle: dict[Origin, deque[Connection]] = {}
        self._origins: dict[str, Origin] = {}
        self._tls: ssl.SSLContext | None = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
        line: Lifeline | None = None,
    ) -> requests.Response:
        """Send a :class:`PreparedCall`; return once the head of the answer is there."""
        del stream, timeout, verify, cert, proxies  # requests passes them; the call knows better
        assert isinstance(request, PreparedCall)  # noqa: S101  the one kind that is ever sent
        call = request.call
        line = line or Lifeline()
        origin = self._origin(call.base_url)
        connection = self._connection(origin, call.connect_timeout, line)
        try:
            connection.sock.settimeout(call.read_timeout)
            head, rest = self._exchange(connection, origin, call, line)
            line.check()
            framing = http1.framing_of(call.method, head)
            raw = WireBody(connection, framing, head, rest, self._give_back)
        except http1.NotHttp as error:
            connection.close()
            raise BrokenAnswer(str(error)) from error
        except TimeoutError as error:
            connection.close()
            raise ReadTimeout("no answer in time") from error
        except OSError as error:
            connection.close()
            raise BrokenAnswer(f"{error.strerror or error}") from error
        except BaseException:
            connection.close()
            raise
        return WireResponse(request, head, raw)

    def close(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _exchange(
        self, connection: Connection, origin: Origin, call: Call, line: Lifeline
    ) -> tuple[http1.Head, bytes]:
        head = _request_head(call, origin)
        body = call.body
        if body is None:
            send_all(connection.sock, head)
        elif body.whole is not None:
            send_all(connection.sock, head + body.whole)
        else:
            line.upload = connection.upload(head, body)
        try:
            return connection.read_head()
        except (OSError, http1.NotHttp):
            connection.raise_upload_error()
            raise

    def _origin(self, base_url: str) -> Origin:
        found = self._origins.get(base_url)
        if found is None:
            parts = urlsplit(base_url)
            tls = parts.scheme == "https"
            port = parts.port or (443 if tls else 80)
            found = Origin(tls, parts.hostname or "", port, parts.netloc, parts.path)
            self._origins[base_url] = found
        return found

    def _connection(self, origin: Origin, timeout: float, line: Lifeline) -> Connection:
        idle = self._idle.get(origin)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.usable():
                line.attach(connection.sock)
                return connection
            connection.close()
        return Connection(self._connected(origin, timeout, line), origin)

    def _connected(self, origin: Origin, timeout: float, line: Lifeline) -> socket.socket:
        deadline = time.monotonic() + timeout
        problem: OSError = OSError("no address")
        for family, address in self._addresses.of(origin.host, origin.port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                line.attach(sock)
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return self._secured(sock, origin, line) if origin.tls else sock
            except ssl.SSLError as error:
                sock.close()
                raise SSLError(f"{origin.authority}: {error}") from error
            except OSError as error:
                sock.close()
                problem = error
            except BaseException:
                sock.close()
                raise
        if isinstance(problem, TimeoutError):
            raise ConnectTimeout(f"{origin.authority} after {timeout:g} s") from problem
        raise NoConnection(f"{origin.authority}: {problem.strerror or problem}") from problem

    def _secured(self, sock: socket.socket, origin: Origin, line: Lifeline) -> socket.socket:
        if self._tls is None:
            bundle = self._options.ca_bundle or certifi.where()
            self._tls = ssl.create_default_context(cafile=str(bundle))
            self._tls.set_alpn_protocols(["http/1.1"])
        secured = self._tls.wrap_socket(
            sock, server_hostname=origin.host, do_handshake_on_connect=False
        )
        try:
            line.attach(secured)  # before the handshake: it may be what never ends
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured

    def _give_back(self, connection: Connection, head: http1.Head) -> None:
        idle = self._idle.setdefault(connection.origin, deque())
        if len(idle) >= self._options.max_idle_connections:
            connection.close()
            return
        connection.keep(min(self._options.idle_connection_seconds, _keep_alive_seconds(head)))
        idle.append(connection)


class WireBody:
    """The body of an answer; what ``requests`` calls ``raw``."""

    def __init__(
        self,
        connection: Connection,
        framing: http1.Framing,
        head: http1.Head,
        rest: bytes,
        give_back: Any,
    ) -> None:
        self.wire_headers = head.headers
        self._connection: Connection | None = connection
        self._framing, self._head, self._give_back = framing, head, give_back
        self._large_reads = 0
        self._early = b""
        if rest and framing.done:
            framing.rest = rest  # an answer without a body had one: this connection is of no use
        elif rest:
            self._early = framing.feed(rest)
        self._release()

    @property
    def ready(self) -> bool:
        """True where the next read returns at once."""
        return bool(self._early) or self._connection is None

    def read1(self, size: int = READ_SIZE, decode_content: bool = False) -> bytes:  # noqa: ARG002  urllib3's signature
        """Return what is there, at least one byte; ``b""`` at the end."""
        if self._early:
            data, self._early = self._early, b""
            return data
        connection, framing = self._connection, self._framing
        if connection is None:
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
        except http1.NotHttp as error:
            connection.raise_upload_error()
            raise BrokenAnswer(str(error)) from error
        except OSError:
            connection.raise_upload_error()
            raise
        self._release()
        return b""

    def _let_others_run(self) -> None:
        # Where data is always there, nothing would ever wait, and one answer hold up all others.
        self._large_reads += 1
        if self._large_reads % _TURN == 0:
            time.sleep(0)

    def close(self) -> None:
        """Close the connection where the body was not read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _release(self) -> None:
        connection = self._connection
        if connection is None or not self._framing.done:
            return
        if connection.busy:
            return  # closed by close(), when the client has its answer
        self._connection = None
        if self._head.keep_alive and not self._framing.rest:
            self._give_back(connection, self._head)
        else:
            connection.close()


class WireResponse(requests.Response):
    """A response whose headers and cookies are only made where somebody looks at them."""

    def __init__(self, request: PreparedCall, head: http1.Head, raw: WireBody) -> None:
        self._content = False  # type: ignore[assignment]  # requests' mark for "not read yet"
        self._content_consumed = False
        self._next = None
        self.status_code = head.status
        self.reason = head.reason
        self.raw = raw
        self.request = request
        self.url = request.url or ""
        self.encoding = None
        self.history = []
        self.elapsed = _NO_TIME

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]  # made late
        """The headers; repeated ones joined, as ``requests`` has them."""
        return CaseInsensitiveDict(joined(cast("Any", self.raw).wire_headers))

    @cached_property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]  # made late
        """No cookies: they are between the client and the upstream."""
        return RequestsCookieJar()


def _request_head(call: Call, origin: Origin) -> bytes:
    lines = [f"{call.method} {origin.path}{call.target} HTTP/1.1", f"host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in call.headers]
    if call.body is not None and call.body.length is None:
        lines.append("transfer-encoding: chunked")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def _keep_alive_seconds(head: http1.Head) -> float:
    for name, value in head.headers:
        if name.lower() == "keep-alive":
            for part in value.split(","):
                word, _, number = part.strip().partition("=")
                if word.lower() == "timeout" and number.isdigit():
                    return max(0.0, int(number) - 1.0)
    return float("inf")

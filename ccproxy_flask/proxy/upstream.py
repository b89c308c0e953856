"""The way to the upstreams: a transport adapter for ``requests``, on sockets of our own.

``requests`` keeps its session, its adapters' door and its exceptions; the way to the socket is
ours, because the stock one spends most of a request's time on what a proxy must not do (cookies,
redirects, decoding) and holds back parts of a stream. Where an outbound proxy is configured, the
stock adapter takes over.

Blocking calls are cooperative under gunicorn's gevent worker, and plain ones elsewhere.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

import certifi
import requests
import urllib3.exceptions
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException, SSLError
from requests.structures import CaseInsensitiveDict
from urllib3.util import SKIP_HEADER

from ..errors import (
    ClientDisconnected,
    ProxyError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ..serving import send_all
from . import http1
from .headers import first_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..settings import Proxy
    from .body import RequestBody
    from .headers import Headers

_READ_SIZE = 64 << 10
# A read of so much says that more is waiting; after so many of them it is the others' turn.
_MUCH = 16 << 10
_TURN = 4
_COOPERATIVE = socket.socket.__module__.startswith("gevent")


class BrokenAnswer(NoConnection):
    """The connection was there, but no whole HTTP answer came over it."""


class Call(NamedTuple):
    """One request to an upstream: everything but the body as it goes on the wire."""

    base_url: str
    method: str
    target: str
    """Raw path and query below the base URL."""
    headers: Headers
    body: RequestBody | None
    connect_timeout: float
    read_timeout: float


class PreparedCall(requests.PreparedRequest):
    """A prepared request that nothing has normalised."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.method = call.method
        self.url = call.base_url + call.target


class Answer:
    """An upstream's answer: its head, and its body as it arrives.

    *read()* returns what is there, at least one byte, and ``b""`` at the end. Raises
    UpstreamBroken, UpstreamTimeout, or ClientDisconnected after *abort()*. *close()* may be
    called any number of times.
    """

    def __init__(self, response: requests.Response, line: Lifeline) -> None:
        self._response = response
        self._raw = cast("Any", response.raw)
        self._line = line
        self.status: int = response.status_code
        self.reason: str = response.reason or ""
        self.headers: Headers = self._raw.wire_headers
        self.named = first_values(self.headers)

    @property
    def ready(self) -> bool:
        """True where *read()* returns at once."""
        return bool(self._raw.ready)

    def read(self) -> bytes:
        """Return the next bytes of the body, not decoded."""
        try:
            data: bytes = self._raw.read1(_READ_SIZE)
        except FOREIGN_ERRORS as error:
            self._line.check()
            raise translated(error) from error
        if not data:
            self._line.check()
        return data

    def close(self) -> None:
        """Give the connection back where the body was read to its end, else close it."""
        self._raw.close()


class Lifeline:
    """Lets another greenlet cut a call short, wherever it waits."""

    def __init__(self) -> None:
        self.cut = False
        self.upload: threading.Thread | None = None
        """Who sends the rest of a long body, beside the reader of the answer."""
        self._sock: socket.socket | None = None

    def attach(self, sock: socket.socket | None) -> None:
        """Remember the socket the call waits on from now."""
        self._sock = sock
        self.check()

    def abort(self) -> None:
        """End the call: whoever waits on it gets ClientDisconnected."""
        self.cut = True
        if self._sock is not None:
            shut_down(self._sock)

    def check(self) -> None:
        """Raise ClientDisconnected after *abort()*."""
        if self.cut:
            raise ClientDisconnected("the client went away")


FOREIGN_ERRORS = (RequestException, urllib3.exceptions.HTTPError, OSError)


def translated(error: Exception) -> ProxyError:
    """Return our error for one of ``requests``, ``urllib3`` or the operating system."""
    if isinstance(error, ConnectTimeout):
        return UpstreamTimeout(f"no connection to the upstream in time: {error}")
    if isinstance(error, ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return UpstreamTimeout("the upstream was silent for too long")
    if isinstance(error, NoConnection) and not isinstance(error, BrokenAnswer):
        return UpstreamUnreachable(f"cannot reach the upstream: {error}")
    return UpstreamBroken(f"the upstream broke off or sent no valid HTTP: {error}")


class Upstreams:
    """Sends calls; one for an application. *close()* closes what is idle."""

    def __init__(self, options: Proxy) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._proxies: dict[str, str] = {}
        adapter: BaseAdapter
        if options.outbound_proxy:
            self._proxies = {"http": options.outbound_proxy, "https": options.outbound_proxy}
            adapter = ProxiedAdapter(verify=str(options.ca_bundle) if options.ca_bundle else True)
        else:
            adapter = WireAdapter(options)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def send(self, call: Call, line: Lifeline) -> Answer:
        """Send *call* and return its answer once the head of it is there.

        Raises UpstreamUnreachable, UpstreamBroken, UpstreamTimeout, BodyTooLarge, or
        ClientDisconnected where the client goes away before.
        """
        prepared = PreparedCall(call)
        adapter = self._session.get_adapter(call.base_url)
        timeouts = (call.connect_timeout, call.read_timeout)
        try:
            if isinstance(adapter, WireAdapter):
                response = adapter.send(prepared, True, timeouts, line=line)
            else:
                response = adapter.send(prepared, True, timeouts, proxies=self._proxies)
        except FOREIGN_ERRORS as error:
            line.check()
            raise translated(error) from error
        return Answer(response, line)

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()


class Origin(NamedTuple):
    """Where connections go."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str


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


class Connection:
    """One connection to an upstream, and what was read from it too early."""

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self.sock = sock
        self.origin = origin
        self._until = 0.0
        self._upload: Upload | None = None

    def keep(self, seconds: float) -> None:
        """Remember how long the connection may be idle."""
        self._until = time.monotonic() + seconds

    def usable(self) -> bool:
        """True where the idle connection is not too old, and the upstream has not closed it."""
        if time.monotonic() > self._until:
            return False
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False  # closed by the upstream, or it said something nobody asked for

    def upload(self, head: bytes, body: RequestBody) -> Upload:
        """Send a long request while the answer may already come."""
        upload = self._upload = Upload(self.sock, head, body)
        if isinstance(self.sock, ssl.SSLSocket) and not _COOPERATIVE:
            upload.run()  # OpenSSL allows no second thread on a connection
        else:
            upload.start()
        return upload

    def raise_upload_error(self) -> None:
        """Raise what ended the upload, where that was not the upstream."""
        if self._upload is not None and self._upload.error is not None:
            raise self._upload.error

    def read_head(self) -> tuple[http1.Head, bytes]:
        """Return the final head, and what came with it of the body."""
        held = b""
        interim = 0
        while True:
            data = self.sock.recv(_READ_SIZE)
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

    @property
    def busy(self) -> bool:
        """True while the request is still being sent."""
        return self._upload is not None and self._upload.is_alive()

    def close(self) -> None:
        """Close the connection, and end an upload that still runs."""
        if self._upload is not None and self._upload.is_alive():
            shut_down(self.sock)
        self._upload = None
        self.sock.close()


class Upload(threading.Thread):
    """Sends a long body; beside the reader, since an upstream may answer before the end of it."""

    def __init__(self, sock: socket.socket, head: bytes, body: RequestBody) -> None:
        super().__init__(daemon=True, name="upload")
        self._sock, self._head, self._body = sock, head, body
        self.error: Exception | None = None

    def run(self) -> None:
        """Send head and body; what goes wrong is kept for the reader of the answer."""
        try:
            self._sock.sendall(self._head)
            for piece in self._body.wire_pieces():
                self._sock.sendall(piece)
        except (ClientDisconnected, ProxyError) as error:
            self.error = error
            shut_down(self._sock)
        except (OSError, ValueError):
            # The upstream reads no more. Its answer, or the lack of one, says why.
            self._body.discard()


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

    def read1(self, size: int = _READ_SIZE, decode_content: bool = False) -> bytes:  # noqa: ARG002  urllib3's signature
        """Return what is there, at least one byte; ``b""`` at the end."""
        if self._early:
            data, self._early = self._early, b""
            return data
        connection, framing = self._connection, self._framing
        if connection is None:
            return b""
        try:
            while not framing.done:
                received = connection.sock.recv(_READ_SIZE)
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


class Addresses:
    """Looked-up addresses, kept for a while and looked up again in the background."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[tuple[str, int], tuple[float, list[tuple[int, Any]]]] = {}
        self._asking: set[tuple[str, int]] = set()

    def of(self, host: str, port: int) -> list[tuple[int, Any]]:
        """Return (family, address) pairs in the order to try. Raises requests' ConnectionError."""
        key = (host, port)
        known = self._known.get(key)
        if known is None:
            return self._ask(key)
        if time.monotonic() > known[0] and key not in self._asking:
            self._asking.add(key)
            threading.Thread(target=self._refresh, args=(key,), daemon=True).start()
        return known[1]

    def _refresh(self, key: tuple[str, int]) -> None:
        try:
            self._ask(key)
        except NoConnection:  # the old answer serves on
            self._known[key] = (time.monotonic() + self._seconds, self._known[key][1])
        finally:
            self._asking.discard(key)

    def _ask(self, key: tuple[str, int]) -> list[tuple[int, Any]]:
        try:
            answers = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NoConnection(f"{key[0]}: {error}") from error
        found: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in answers]
        self._known[key] = (time.monotonic() + self._seconds, found)
        return found


class ProxiedAdapter(HTTPAdapter):
    """The stock transport, for those who reach the upstreams through a proxy."""

    def __init__(self, verify: bool | str) -> None:
        super().__init__(max_retries=0)
        self._verify = verify

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: bool | str = True,  # noqa: ARG002  ours counts
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a :class:`PreparedCall` through the proxy."""
        assert isinstance(request, PreparedCall)  # noqa: S101  the one kind that is ever sent
        request.headers = CaseInsensitiveDict(_joined(request.call.headers))
        for name in ("user-agent", "accept-encoding"):
            request.headers.setdefault(name, SKIP_HEADER)  # else urllib3 adds its own
        body = request.call.body
        if body is not None:
            # Where there is no length, the chunks are made behind this door.
            whole = body.plain if body.length is None else body.whole
            request.body = whole if whole is not None else body.pieces()  # type: ignore[assignment]  # or an iterator
        response = super().send(request, stream, timeout, self._verify, cert, proxies)
        raw: Any = response.raw
        raw.wire_headers = [(str(name), str(value)) for name, value in raw.headers.iteritems()]
        raw.ready = False
        return response


def _joined(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _request_head(call: Call, origin: Origin) -> bytes:
    lines = [f"{call.method} {origin.path}{call.target} HTTP/1.1", f"host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in call.headers]
    if call.body is not None and call.body.length is None:
        lines.append("transfer-encoding: chunked")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


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
        return CaseInsensitiveDict(_joined(cast("Any", self.raw).wire_headers))

    @cached_property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]  # made late
        """No cookies: they are between the client and the upstream."""
        return RequestsCookieJar()


_NO_TIME = timedelta(0)


def _keep_alive_seconds(head: http1.Head) -> float:
    for name, value in head.headers:
        if name.lower() == "keep-alive":
            for part in value.split(","):
                word, _, number = part.strip().partition("=")
                if word.lower() == "timeout" and number.isdigit():
                    return max(0.0, int(number) - 1.0)
    return float("inf")


def shut_down(sock: socket.socket) -> None:
    """End *sock* for whoever waits on it; over a copy, since TLS sockets forget theirs."""
    with contextlib.suppress(OSError):
        copy = socket.socket(fileno=socket.dup(sock.fileno()))
        with copy:
            copy.shutdown(socket.SHUT_RDWR)

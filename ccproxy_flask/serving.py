"""What we need of gunicorn beyond WSGI: headers as they came, and answers without additions.

WSGI joins repeated request headers, and gunicorn adds ``Server`` and ``Date`` to each answer. A
transparent proxy must do neither. Under another server the WSGI way is used.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import functools
import http
import math
import os
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn.http import body as bodies
from gunicorn.http import errors, message, parser, wsgi
from werkzeug.middleware.proxy_fix import ProxyFix

from . import http1
from .errors import Unreadable
from .record import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

Headers = list[tuple[str, str]]
ParseException = errors.ParseException
"""What gunicorn raises where a request, or the body that a view reads, is malformed."""


class WireHeaders(list[tuple[str, str]]):
    """Answer headers to which nothing may be added."""


LONGEST_HEAD = 256 << 10


class PlainRequest(message.Request):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's parser of requests, quicker where each line of the head is a plain one.

    As soon as one is not, gunicorn's own code reads them all: what it refuses is refused.
    """

    body: Any
    max_buffer_headers: int
    wire_headers: Headers | None = None
    """All headers with lower-case names, where they were plain ones."""

    def __init__(self, *args: Any) -> None:
        try:
            super().__init__(*args)
        except ParseException as error:
            error.unread = self  # for unreadable()
            raise

    def parse(self, unreader: Any) -> Any:
        """Read the head; as much of it as :data:`LONGEST_HEAD`."""
        # While a head goes on, gunicorn looks through all of it again at each piece that comes.
        self.max_buffer_headers = min(self.max_buffer_headers, LONGEST_HEAD)
        return super().parse(unreader)

    def set_body_reader(self) -> None:
        """Let bodies be read as they come; what gunicorn refuses of their framing is refused."""
        super().set_body_reader()
        reader: Any = self.body.reader
        if isinstance(reader, bodies.ChunkedReader):
            self.body = bodies.Body(BodyReader(self.unreader, http1.Chunked()))
        elif isinstance(reader, bodies.LengthReader):
            self.body = bodies.Body(BodyReader(self.unreader, http1.Sized(reader.length)))

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> Headers:
        """Return the headers in *data*, with upper-case names."""
        headers = None if from_trailer else self._plain_headers(data)
        return super().parse_headers(data, from_trailer) if headers is None else headers

    def _plain_headers(self, data: bytes) -> Headers | None:
        lines = data.decode("latin-1").split("\r\n")
        if (
            len(lines) > self.limit_request_fields
            or self.cfg.secure_scheme_headers
            or data.translate(None, _VISIBLE) != b"\r\n" * (len(lines) - 1)
        ):
            return None
        longest = self.limit_request_field_size - len("\r\n")
        upper, lower, once = [], [], set()
        for line in lines:
            name, colon, value = line.partition(":")
            names = _plain_name(name) if colon and len(name) <= _LONGEST_NAME else None
            if names is None or names[0] in once or len(line) > longest:
                return None
            value = value.strip(" \t")
            upper.append((names[0], value))
            lower.append((names[1], value))
            if names[0] in message.RFC9110_5_3_SINGLETON_FIELDS:
                once.add(names[0])
        self.wire_headers = lower
        return upper


class MalformedBody(errors.ParseException):  # type: ignore[misc]  # gunicorn is untyped
    """The chunks of a request's body are not what they should be."""


class BodyReader:
    """Reads a body as it comes, where gunicorn's own readers wait until a piece is full."""

    def __init__(self, unreader: Any, framing: http1.Framing) -> None:
        self._unreader, self._framing = unreader, framing
        self._held = b""

    @property
    def done(self) -> bool:
        """True where nothing of the body is to come any more."""
        return self._framing.done and not self._held

    def read(self, size: int) -> bytes:
        """Return what has come, at least one byte and at most *size*; ``b""`` at the end.

        A body of known length that is cut ends early. Raises gunicorn's NoMoreData for one in
        chunks, and MalformedBody.
        """
        data = self._held or self._next(size)
        data, self._held = data[:size], data[size:]
        return data

    def has_come(self) -> bool:
        """True where more than was read has come from the client already."""
        sock = getattr(self._unreader, "sock", None)
        if sock is None or self._held:
            return True
        if getattr(sock, "pending", int)():  # of TLS
            return True
        try:
            with _plain(sock) as plain:
                return bool(plain.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT))
        except (OSError, ValueError):
            return False

    def _next(self, size: int) -> bytes:
        framing, received = self._framing, b""
        try:
            while not framing.done:
                received = self._unreader.read(None, read_ahead=size)
                if not received and isinstance(framing, http1.Sized):
                    return b""
                payload = framing.feed(received) if received else framing.end()
                if framing.rest:
                    rest, framing.rest = framing.rest, b""
                    self._unreader.unread(rest)  # of the next request
                if payload:
                    return payload
        except http1.NotHttp as error:
            if received:
                raise MalformedBody(str(error)) from error
            raise errors.NoMoreData from error
        return b""


def body_source(environ: Mapping[str, Any]) -> Any:
    """Return what to read the body from: a BodyReader, or what another server has."""
    stream = environ["wsgi.input"]
    reader = getattr(stream, "reader", None)
    return reader if isinstance(reader, BodyReader) else stream


_TOO_LARGE = (
    "over {limit_request_fields} headers, over {limit_request_field_size} bytes in one, or over "
    f"{LONGEST_HEAD} in all"
)
# The first kind that fits counts.
_UNREADABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.LimitRequestLine, 414, "the request line is longer than {limit_request_line} bytes"),
    (errors.LimitRequestHeaders, 431, _TOO_LARGE),
    (errors.UnsupportedTransferCoding, 501, "the body has a transfer coding that is not known"),
    (errors.ExpectationFailed, 417, "no expectation but 100-continue can be met"),
    (errors.ForbiddenProxyRequest, 403, "the PROXY protocol is not for this address to speak"),
    (errors.InvalidRequestLine, 400, "the request line is not valid HTTP"),
    (errors.InvalidRequestMethod, 400, "the method is not a valid one of HTTP"),
    (errors.InvalidHTTPVersion, 400, "only HTTP/1.0 and HTTP/1.1 are spoken here"),
    (errors.ObsoleteFolding, 400, "a header is folded over several lines"),
    (errors.InvalidHeaderName, 400, "the name of a header is not valid HTTP"),
    (
        errors.InvalidHeader,
        400,
        "a header is not valid HTTP, or stands there twice, or contradicts another one",
    ),
    (ParseException, 400, "the request is not valid HTTP"),
)


def unreadable(error: BaseException, cfg: Any) -> tuple[Unreadable, str, str] | None:
    """Return what is wrong with the head of a request that was refused with *error*, its method
    and its target; None where *error* is about something else.

    Method and target are "" unless they are what they should be: whatever stands in their place
    may be a secret.
    """
    request = getattr(error, "unread", None)
    if request is None:
        return None
    status, reason = next(
        (status, reason) for kind, status, reason in _UNREADABLE if isinstance(error, kind)
    )
    problem = Unreadable(reason.format_map(vars(cfg)), status)
    method, target = request.method or "", request.uri or ""
    if method not in METHODS or not target.startswith("/"):
        method = target = ""
    return problem, method, target


def is_broken_body(error: BaseException) -> bool:
    """Tell whether *error* is about the rest of a body, whose request was answered before."""
    ours = (
        errors.ConfigurationProblem,
        errors.InvalidResponseHeader,
        errors.InvalidResponseHeaderName,
    )
    return isinstance(error, ParseException) and not isinstance(error, ours)


def answer_past_wsgi(sock: Any, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer, as the last one of its connection."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}", "\r\n"]
    with contextlib.suppress(OSError):
        send_all(sock, "\r\n".join(lines).encode("latin-1") + body)


_VISIBLE = bytes([9, *range(32, 127), *range(128, 256)])
_LONGEST_NAME = 64


@functools.lru_cache(maxsize=1024)
def _plain_name(name: str) -> tuple[str, str] | None:
    """Return the *name* of a header in upper and in lower case, None where it is a special one."""
    if not message.TOKEN_RE.fullmatch(name) or "_" in name or name.lower() == "expect":
        return None
    return name.upper(), name.lower()


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
            if name.lower() == "content-length":
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


def send_all(sock: Any, data: bytes) -> None:
    """Send *data*; in one call to the system where the socket takes it whole."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def install() -> None:
    """Make gunicorn read and write as it is said here, in this process."""
    parser.RequestParser.mesg_class = PlainRequest
    wsgi.Response = TransparentResponse


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


def let_go(sock: Any, reading: Callable[[float], None] | None = None) -> None:
    """End *sock* for writing, and read what still comes; *reading* waits for who does that."""
    with contextlib.suppress(OSError):
        sock.shutdown(_socket.SHUT_WR)
        if reading is not None:
            reading(_LINGER_SECONDS)
            return
        left, deadline = _LINGER_BYTES, time.monotonic() + _LINGER_SECONDS
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            sock.settimeout(seconds)
            data = sock.recv(_LINGER_PIECE)
            if not data:
                return
            left -= len(data)


_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64 << 20
_LINGER_PIECE = 64 << 10


def raw_target(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return path and query as the client wrote them."""
    target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if not target.startswith("/"):  # absolute form, or a server that does not tell
        _scheme, found, rest = target.partition("://")
        slash = rest.find("/")
        target = rest[slash:] if found and slash >= 0 else environ["PATH_INFO"]
        if not found and environ.get("QUERY_STRING"):
            target += "?" + environ["QUERY_STRING"]
    path, _, query = target.partition("?")
    return path, query


class ClientConnections:
    """The clients' connections of this process, in the order in which they fell silent.

    A stop need not wait for those that ask nothing, and over *room* connections each new one ends
    one of them: else so many silent ones would keep all others out until their time is over.
    """

    def __init__(self, room: int = sys.maxsize) -> None:
        self.room = room
        self._idle: OrderedDict[Any, None] = OrderedDict()
        self._silent: OrderedDict[Any, float] = OrderedDict()
        self._open = 0
        self._stopping = False

    def watched(self, serve: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
        """Return *serve*, gunicorn's function for one connection, so that we know of it."""

        def serve_watched(listener: Any, sock: Any, address: Any) -> None:
            if self._open >= self.room:
                self._make_way()
            self._open += 1
            self._silent[sock] = time.monotonic()
            try:
                serve(listener, sock, address)
            finally:
                self._open -= 1
                self._silent.pop(sock, None)
                self._idle.pop(sock, None)

        return serve_watched

    def _make_way(self) -> None:
        waiting = self._silent or self._idle
        if waiting:
            end_reading(waiting.popitem(last=False)[0])

    def begin(self, sock: Any) -> None:
        """A request came in on *sock*."""
        self._silent.pop(sock, None)
        self._idle.pop(sock, None)

    def end(self, sock: Any) -> None:
        """The request on *sock* is answered; the connection may be used again, or be closed."""
        if self._stopping:
            end_reading(sock)
            return
        self._idle[sock] = None

    def stop(self) -> None:
        """Let idle connections end, and busy ones after the answer they wait for."""
        self._stopping = True
        while self._idle:
            end_reading(self._idle.popitem()[0])

    def end_silent(self, seconds: float) -> None:
        """End the connections on which no request has come for so long since they were opened."""
        before = time.monotonic() - seconds
        while self._silent:
            sock = next(iter(self._silent))
            if self._silent[sock] > before:
                return
            del self._silent[sock]
            end_reading(sock)


class AcceptErrors:
    """Takes the place of ``handle_error`` of gevent's hub, as its documentation allows.

    Where the process may open no more files, gevent tries again by itself: one line from time to
    time is enough, instead of a traceback for each try.
    """

    def __init__(self, handle_error: Callable[..., None]) -> None:
        self._handle_error = handle_error
        self._told_at = -math.inf

    def __call__(self, context: Any, kind: Any, value: Any, traceback: Any) -> None:
        """Tell of an error in *context*."""
        if getattr(value, "errno", None) not in (errno.EMFILE, errno.ENFILE):
            self._handle_error(context, kind, value, traceback)
        elif time.monotonic() - self._told_at > _TELL_SECONDS:
            self._told_at = time.monotonic()
            log.error("no_descriptors_left", reason=os.strerror(value.errno))


_TELL_SECONDS = 10.0


def client_socket(environ: Mapping[str, Any]) -> Any:
    """Return the socket of the client's connection; None where the server does not tell."""
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")


def has_left(sock: Any) -> bool:
    """True where the peer of *sock* closed the connection, as far as can be told at once."""
    try:
        with _plain(sock) as plain:
            return plain.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        return True


def hang_up(sock: Any) -> None:
    """End the connection of *sock* in both directions; who waits to write to it is woken."""
    with contextlib.suppress(OSError, ValueError), _plain(sock) as plain:
        plain.shutdown(_socket.SHUT_RDWR)


@contextlib.contextmanager
def _plain(sock: Any) -> Iterator[_socket.socket]:
    """The socket of the system under *sock*, which may be one of gevent's, or of TLS.

    Takes no descriptor of its own: it must work where there are none left. Raises OSError or
    ValueError where *sock* is closed.
    """
    plain = _socket.socket(fileno=sock.fileno())
    try:
        yield plain
    finally:
        plain.detach()


def end_reading(sock: Any) -> None:
    """Let the reader of *sock* find its end, behind what has come in already."""
    # Past gevent's own shutdown(): that throws an error at the greenlet that waits for data, and
    # gunicorn would log it with its traceback.
    with contextlib.suppress(OSError, ValueError), _plain(sock) as plain:
        plain.shutdown(_socket.SHUT_RD)


connections = ClientConnections()

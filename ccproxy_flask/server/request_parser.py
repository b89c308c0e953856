"""How gunicorn reads requests here: plain heads quickly, and bodies as they come."""

from __future__ import annotations

import _socket
import functools
import re
from typing import TYPE_CHECKING, Any

from gunicorn.http import body as bodies
from gunicorn.http import errors, message

from ccproxy_flask import http1
from ccproxy_flask.errors import Unreadable
from ccproxy_flask.record import METHODS

from .sockets import system_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


Headers = list[tuple[str, str]]
ParseException = errors.ParseException
"""What gunicorn raises where a request, or the body that a view reads, is malformed."""
LONGEST_HEAD = 256 << 10


class PlainRequest(message.Request):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's parser of requests, quicker where each line of the head is a plain one.

    As soon as one is not, gunicorn's own code reads them all: what it refuses is refused.
    """

    body: Any
    max_buffer_headers: int
    wire_headers: Headers | None = None
    """All headers with lower-case names, where they were plain ones."""
    _names: frozenset[str] | None = None
    """What they are called, where each is there once."""

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

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Read the first line."""
        plain = _PLAIN_LINE.fullmatch(line_bytes)
        if plain is None:
            super().parse_request_line(line_bytes)
            return
        method, target, path, query, minor = plain.groups()
        self.method, self.uri, self.path = method.decode(), target.decode(), path.decode()
        self.query, self.fragment = query.decode() if query else "", ""
        self.version = (1, int(minor))

    def should_close(self) -> bool:
        """Tell whether this is the last request of its connection."""
        if self._names is None or "connection" in self._names or self.method == "CONNECT":
            return bool(super().should_close())
        return self.must_close or self.version == (1, 0)

    def set_body_reader(self) -> None:
        """Let bodies be read as they come; what gunicorn refuses of their framing is refused."""
        framing: http1.Framing | None = self._plain_framing()
        if framing is None:
            super().set_body_reader()
            reader: Any = self.body.reader
            if isinstance(reader, bodies.ChunkedReader):
                framing = http1.Chunked()
            elif isinstance(reader, bodies.LengthReader):
                framing = http1.Sized(reader.length)
            else:
                return
        self.body = Body(BodyReader(self.unreader, framing))

    def _plain_framing(self) -> http1.Sized | None:
        """Return the framing of a body with a plain length, or of none; None: look closer."""
        if self.wire_headers is None:
            return None
        named = dict(self.wire_headers)
        if len(named) != len(self.wire_headers) or "transfer-encoding" in named:
            return None
        self._names = frozenset(named)
        length = named.get("content-length", "0")
        return http1.Sized(int(length)) if length.isascii() and length.isdecimal() else None

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
        if len(data) > min(_LONGEST_REMEMBERED, self.limit_request_field_size - 2):
            longest = self.limit_request_field_size - len("\r\n")
            if any(len(line) > longest or line.find(":") > _LONGEST_NAME for line in lines):
                return None
        upper, lower, once = [], [], set()
        for line in lines:
            name, colon, value = line.partition(":")
            names = _plain_name(name)
            if names is None or not colon or names[0] in once:
                return None
            value = value.strip(" \t")
            upper.append((names[0], value))
            lower.append((names[1], value))
            if names[0] in message.RFC9110_5_3_SINGLETON_FIELDS:
                once.add(names[0])
        self.wire_headers = lower
        return upper


class Body(bodies.Body):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's body, quicker where nothing is left of it."""

    @property
    def is_over(self) -> bool:
        """True where all of it was read."""
        return self.reader.done and not self.buf.tell() and not self.failed

    def read(self, size: int | None = None) -> bytes:
        """Return the next *size* bytes, all of them without."""
        return b"" if self.is_over else bytes(super().read(size))


def finishing(finish_body: Callable[..., bool]) -> Callable[..., bool]:
    """Return gunicorn's *finish_body* of a parser, quicker where nothing is left to read."""

    def finish(self: Any, *args: Any, **options: Any) -> bool:
        body = getattr(self.mesg, "body", None)
        if isinstance(body, Body) and body.is_over:
            return True
        return finish_body(self, *args, **options)

    return finish


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
            with system_socket(sock) as plain:
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


# A method, a path that does not begin with two slashes, a query, a version.
_PLAIN_LINE = re.compile(
    rb"([A-Z]{3,16}) ((/(?:[!-\"$-.0->@-~][!-\"$->@-~]*)?)(?:\?([!-\"$-~]*))?) HTTP/1\.([01])"
)
_VISIBLE = bytes([9, *range(32, 127), *range(128, 256)])
_LONGEST_NAME, _LONGEST_REMEMBERED = 64, 4096


@functools.lru_cache(maxsize=1024)
def _plain_name(name: str) -> tuple[str, str] | None:
    """Return the *name* of a header in upper and in lower case, None where it is a special one."""
    if not message.TOKEN_RE.fullmatch(name) or "_" in name or name.lower() == "expect":
        return None
    return name.upper(), name.lower()

"""What the proxy tells tracers of one exchange, and of which exchanges it tells."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .exchange import STATUS
from .streams import is_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .base import Tracer

_Pairs = list[tuple[str, str]]


class Trails:
    """Begins a trail for each request whose path is chosen.

    *include* and *exclude* are patterns (``*``, ``?``, ``[…]``) of raw paths; without *include*
    all are chosen. Of each body at most *max_body_bytes* are gathered.
    """

    def __init__(
        self,
        tracer: Tracer,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_body_bytes: int = 1 << 20,
    ) -> None:
        self._tracer, self._include, self._exclude = tracer, include, exclude
        self._limit = max_body_bytes

    def begin(self, request_id: str, method: str, target: str, headers: _Pairs) -> Trail | None:
        """Return the trail of a request that a client sent, None where it is not chosen.

        *target* is raw path and query.
        """
        path = target.partition("?")[0]
        if any(fnmatchcase(path, pattern) for pattern in self._exclude):
            return None
        if self._include and not any(fnmatchcase(path, pattern) for pattern in self._include):
            return None
        return Trail(self._tracer, request_id, method, target, headers, self._limit)


class Trail:
    """One exchange on its way to the tracers; it ends exactly once."""

    def __init__(
        self,
        tracer: Tracer,
        request_id: str,
        method: str,
        target: str,
        headers: _Pairs,
        limit: int,
    ) -> None:
        self._tracer, self._id, self._limit = tracer, request_id, limit
        self._method, self._headers = method, headers
        host = next((value for name, value in headers if name == "host"), "localhost")
        self._url = f"http://{host}{target}"
        self._body = bytearray()
        self._answer = bytearray()
        self._head: tuple[int, _Pairs] | None = None
        self._streams = self._told = self._over = False
        self._chunks = self._bytes = 0

    def feed(self, piece: bytes) -> None:
        """Take a piece of the request's body as the client sent it."""
        # One byte over the limit says that it was cut.
        self._body += piece[: max(0, self._limit + 1 - len(self._body))]

    def sends(self, url: str, headers: _Pairs, body: bytes | None, is_whole: bool) -> None:
        """The request goes to *url*; with *body*, where that is not what the client sent.

        Where the body *is_whole* the tracers see it now, else with the answer.
        """
        self._url = url
        self._headers = [("host", urlsplit(url).netloc), *headers]
        if body is not None:
            self._body = bytearray(body[: self._limit + 1])
        if is_whole:
            self._tell()

    def head(self, status: int, headers: _Pairs, content_type: str) -> None:
        """The head of the upstream's answer is there."""
        self._tell()
        self._head = status, headers
        self._streams = is_stream(content_type)
        if self._streams:
            self._tracer.trace_stream_start(self._id, [(STATUS, str(status)), *headers])

    def piece(self, data: bytes) -> None:
        """The upstream sent *data* of its answer."""
        self._chunks += 1
        self._bytes += len(data)
        if self._streams:
            self._tracer.trace_stream_chunk(self._id, data, self._chunks)
        else:
            self._answer += data[: max(0, self._limit + 1 - len(self._answer))]

    def end(self, error: BaseException | None) -> None:
        """The upstream's answer is over, whole or with *error*."""
        if self._over or self._head is None:
            return
        self._over = True
        self._tell_error(error)
        if self._streams:
            self._tracer.trace_stream_complete(self._id, self._chunks, self._bytes)
        else:
            self._tracer.trace_response(self._id, *self._head, bytes(self._answer))

    def answered(
        self, status: int, headers: _Pairs, body: bytes, error: BaseException | None
    ) -> None:
        """The proxy answers by itself."""
        if self._over:
            return
        self._over = True
        self._tell()
        self._tell_error(error)
        self._tracer.trace_response(self._id, status, headers, body)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            body = bytes(self._body)
            self._tracer.trace_request(self._id, self._method, self._url, self._headers, body)

    def _tell_error(self, error: BaseException | None) -> None:
        if error is not None:
            kind = getattr(error, "error_type", "internal_error")
            self._tracer.trace_error(self._id, kind, str(error))


class Both:
    """Feeds what it gets to two readers."""

    def __init__(self, *feeds: Callable[[bytes], None]) -> None:
        self._feeds = feeds

    def feed(self, data: bytes) -> None:
        """Hand *data* on."""
        for feed in self._feeds:
            feed(data)

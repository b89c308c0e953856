"""What tracers are told of one exchange, and which exchanges they are told of."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .exchange import STATUS
from .streams import is_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..proxy.observers import RequestHead, ResponseHead
    from ..record import RequestRecord
    from .base import Tracer


class CaptureFactory:
    """Makes the observer of each request whose path is chosen, None for the others.

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

    def __call__(self, _record: RequestRecord, head: RequestHead) -> ExchangeCapture | None:
        """Return the capture of a request that a client sent."""
        path = head.target.partition("?")[0]
        if any(fnmatchcase(path, pattern) for pattern in self._exclude):
            return None
        if self._include and not any(fnmatchcase(path, pattern) for pattern in self._include):
            return None
        return ExchangeCapture(self._tracer, head, self._limit)


class ExchangeCapture:
    """One exchange on its way to the tracers; an observer."""

    def __init__(self, tracer: Tracer, head: RequestHead, limit: int) -> None:
        self._tracer, self._id, self._method = tracer, head.request_id, head.method
        self._limit = limit
        if head.url:
            self._url = head.url
            self._headers = [("host", urlsplit(head.url).netloc), *head.sent_headers]
        else:
            self._url = f"http://{head.named.get('host', 'localhost')}{head.target}"
            self._headers = head.headers
        self._body = bytearray()
        self._answer = bytearray()
        self._head: tuple[int, list[tuple[str, str]]] = 0, []
        self._streams = self._reported = False
        self._chunks = self._bytes = 0

    def request_head(self, head: RequestHead) -> None:
        """Do nothing: the tracers are told of a request when its body is there."""

    def request_chunk(self, data: bytes, at: float) -> None:  # noqa: ARG002  tracers have a clock
        """Take a piece of the request's body."""
        if not data:
            self._report()
        # One byte over the limit says that it was cut.
        self._body += data[: max(0, self._limit + 1 - len(self._body))]

    def response_head(self, head: ResponseHead) -> None:
        """Take the head of the answer."""
        self._report()
        self._head = head.status, head.headers
        self._streams = not head.own and is_stream(head.named.get("content-type", ""))
        if self._streams:
            status = (STATUS, str(head.status))
            self._tracer.trace_stream_start(self._id, [status, *head.headers])

    def response_chunk(self, data: bytes, at: float) -> None:  # noqa: ARG002  tracers have a clock
        """Take a piece of the answer."""
        self._chunks += 1
        self._bytes += len(data)
        if self._streams:
            self._tracer.trace_stream_chunk(self._id, data, self._chunks)
        else:
            self._answer += data[: max(0, self._limit + 1 - len(self._answer))]

    def end(self, record: RequestRecord, error: BaseException | None) -> None:  # noqa: ARG002  the error says more
        """The exchange is over, whole or with *error*."""
        if error is not None:
            kind = getattr(error, "error_type", "internal_error")
            self._tracer.trace_error(self._id, kind, str(error))
        if self._streams:
            self._tracer.trace_stream_complete(self._id, self._chunks, self._bytes)
        else:
            self._tracer.trace_response(self._id, *self._head, bytes(self._answer))

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            body = bytes(self._body)
            self._tracer.trace_request(self._id, self._method, self._url, self._headers, body)

"""What a tracer is: it sees whole exchanges pass, and keeps or shows them. Pure.

A tracer gets things as they are, keys and all; what it writes down it has to redact. Its methods
never raise. The calls for one exchange come in this order, with one *request_id*:

1. ``trace_request``;
2. where the answer is a stream, ``trace_stream_start`` and a ``trace_stream_chunk`` for each piece;
3. ``trace_error``, where something went wrong;
4. the end, once: ``trace_stream_complete`` for a stream, else ``trace_response``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers by name, or (name, value) pairs where names repeat. Those of a streamed answer begin
with ``:status``, the pseudo-header of RFC 9113 §8.3.2."""


@runtime_checkable
class RequestTracer(Protocol):
    """Sees requests, and answers that are not streams."""

    def trace_request(
        self, request_id: str, method: str, url: str, headers: Headers, body: bytes | None
    ) -> None:
        """Take a request as it is sent to the upstream at *url*."""

    def trace_response(
        self, request_id: str, status: int, headers: Headers, body: bytes | None
    ) -> None:
        """Take a whole answer; the exchange is over."""


@runtime_checkable
class StreamingTracer(Protocol):
    """Sees streams."""

    def trace_stream_start(self, request_id: str, headers: Headers) -> None:
        """Take the head of a streamed answer."""

    def trace_stream_chunk(self, request_id: str, chunk: bytes, chunk_number: int) -> None:
        """Take one piece of it, as it came off the wire; the first has the number 1."""

    def trace_stream_complete(self, request_id: str, total_chunks: int, total_bytes: int) -> None:
        """The stream is over, and so is the exchange; also where it was cut short."""


@runtime_checkable
class Tracer(RequestTracer, StreamingTracer, Protocol):
    """What the proxy tells: both of the above, errors, and the end of the program."""

    def trace_error(self, request_id: str, error_type: str, message: str) -> None:
        """Take what went wrong in an exchange; its end is still to come."""

    def forget(self, request_id: str) -> None:
        """Give up an exchange of which a part was lost."""

    def close(self) -> None:
        """Write what waits. Later calls of any method do nothing."""


class NullTracer:
    """Keeps nothing."""

    def trace_request(
        self, request_id: str, method: str, url: str, headers: Headers, body: bytes | None
    ) -> None:
        """Do nothing."""

    def trace_response(
        self, request_id: str, status: int, headers: Headers, body: bytes | None
    ) -> None:
        """Do nothing."""

    def trace_stream_start(self, request_id: str, headers: Headers) -> None:
        """Do nothing."""

    def trace_stream_chunk(self, request_id: str, chunk: bytes, chunk_number: int) -> None:
        """Do nothing."""

    def trace_stream_complete(self, request_id: str, total_chunks: int, total_bytes: int) -> None:
        """Do nothing."""

    def trace_error(self, request_id: str, error_type: str, message: str) -> None:
        """Do nothing."""

    def forget(self, request_id: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def pairs(headers: Headers) -> Sequence[tuple[str, str]]:
    """Return *headers* as (name, value) pairs."""
    return list(headers.items() if isinstance(headers, Mapping) else headers)

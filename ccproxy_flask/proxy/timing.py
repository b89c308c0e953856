"""The observer of time: when the first byte came, in how many pieces, how long it stalled. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .observers import NullObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..record import RequestRecord
    from .observers import ObserverFactory, ResponseHead


class Timing(NullObserver):
    """Counts and times what the upstream sends: ``ttfb_ms``, ``chunks``, ``response_bytes``.

    *tell_gap* gets the longest time (seconds) without a byte in a stream.
    """

    __slots__ = ("_chunks", "_gap", "_last", "_record", "_size", "_tell_gap")

    def __init__(
        self, record: RequestRecord, tell_gap: Callable[[RequestRecord, float], None]
    ) -> None:
        self._record, self._tell_gap = record, tell_gap
        self._chunks = self._size = 0
        self._gap = self._last = 0.0

    def response_head(self, head: ResponseHead) -> None:
        """Take the time of the upstream's first byte."""
        if not head.own:
            self._record.ttfb_ms = head.at * 1000

    def response_chunk(self, data: bytes, at: float) -> None:
        """Count a piece, and measure the gap before it."""
        if self._chunks and at - self._last > self._gap:
            self._gap = at - self._last
        self._last = at
        self._chunks += 1
        self._size += len(data)

    def end(self, record: RequestRecord, error: BaseException | None) -> None:  # noqa: ARG002  an observer's signature
        """Write the counts down, and tell of the gap where it was in a stream."""
        record.chunks, record.response_bytes = self._chunks, self._size
        if self._chunks > 1 and record.streaming and (record.status_code or 500) < 400:
            self._tell_gap(record, self._gap)


def timing(tell_gap: Callable[[RequestRecord, float], None]) -> ObserverFactory:
    """Return what makes a :class:`Timing` for each exchange."""
    return lambda record, _head: Timing(record, tell_gap)

"""Observers of time: when the first byte came, in how many pieces, how long it stalled. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .observers import NullObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..record import RequestRecord
    from .observers import ObserverFactory, ResponseHead


class Timing(NullObserver):
    """Counts and times what the upstream sends: ``ttfb_ms``, ``chunks``, ``response_bytes``."""

    __slots__ = ("_chunks", "_record", "_size")

    def __init__(self, record: RequestRecord, _head: object = None) -> None:
        self._record = record
        self._chunks = self._size = 0

    def response_head(self, head: ResponseHead) -> None:
        """Take the time of the upstream's first byte."""
        if not head.own:
            self._record.ttfb_ms = head.at * 1000

    def response_chunk(self, data: bytes, at: float) -> None:  # noqa: ARG002  an observer's signature
        """Count a piece."""
        self._chunks += 1
        self._size += len(data)

    def end(self, record: RequestRecord, error: BaseException | None) -> None:  # noqa: ARG002  an observer's signature
        """Write the counts down."""
        record.chunks, record.response_bytes = self._chunks, self._size


class Gaps(NullObserver):
    """Finds the longest time (seconds) without a byte in a stream, for *tell*."""

    __slots__ = ("_last", "_longest", "_tell")

    def __init__(self, tell: Callable[[RequestRecord, float], None]) -> None:
        self._tell = tell
        self._last = self._longest = -1.0

    def response_chunk(self, data: bytes, at: float) -> None:  # noqa: ARG002  an observer's signature
        """Measure the gap before a piece."""
        if self._last >= 0 and at - self._last > self._longest:
            self._longest = at - self._last
        self._last = at

    def end(self, record: RequestRecord, error: BaseException | None) -> None:  # noqa: ARG002  an observer's signature
        """Tell of the longest gap, where a stream had one."""
        if self._longest >= 0 and record.streaming and (record.status_code or 500) < 400:
            self._tell(record, self._longest)


def gaps(tell: Callable[[RequestRecord, float], None]) -> ObserverFactory:
    """Return what makes a :class:`Gaps` for each exchange."""
    return lambda _record, _head: Gaps(tell)

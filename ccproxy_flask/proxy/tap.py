"""The tap watches an answer pass and changes nothing. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..usage import Answer, AnswerReader


class Tap:
    """Counts and times the pieces of one answer, and lets a reader see them.

    Times are those of the caller's clock, in seconds; None means "has not happened".
    """

    __slots__ = (
        "_answer",
        "_last",
        "_reader",
        "chunks",
        "first_byte",
        "first_content",
        "longest_gap",
        "size",
    )

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._answer: Answer | None = None
        self.chunks = 0
        self.size = 0
        self.first_byte: float | None = None
        self.first_content: float | None = None
        self.longest_gap: float | None = None
        self._last = 0.0

    def feed(self, data: bytes, now: float) -> None:
        """Watch *data*, which arrived at *now*."""
        if self.chunks:
            gap = now - self._last
            if self.longest_gap is None or gap > self.longest_gap:
                self.longest_gap = gap
        else:
            self.first_byte = now
        self._last = now
        self.chunks += 1
        self.size += len(data)
        self._reader.feed(data)
        if self.first_content is None and self._reader.content_seen:
            self.first_content = now

    def close(self) -> Answer:
        """Return what the answer said of itself, as far as it was seen."""
        if self._answer is None:
            self._answer = self._reader.close()
        return self._answer

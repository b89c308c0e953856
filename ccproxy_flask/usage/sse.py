"""Find the events of a stream in bytes that are cut anywhere.

Server-Sent Events (WHATWG HTML, "Server-sent events") and JSON lines. Most events of a stream are
one delta of text each and say nothing that is recorded: whole blocks of them are passed over with
a few substring searches, and only what a parser calls worth it is parsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from .partial_json import PartialJsonParser

if TYPE_CHECKING:
    from .parser import ResponseParser

_BOM = b"\xef\xbb\xbf"
# Long enough to tell what kind of line it is: "data: [DONE]" is none to be skimmed.
_SHORTEST_LONG_LINE = 16


class EventStream:
    """The events of one stream; *prefix* is what a line of data begins with (none: JSON lines)."""

    __slots__ = (
        "_held",
        "_in_long_line",
        "_limit",
        "_one_line_events",
        "_parser",
        "_partial",
        "_pending",
        "_pending_size",
        "_prefix",
    )

    def __init__(self, parser: ResponseParser, limit: int, prefix: bytes = b"data:") -> None:
        self._parser = parser
        self._limit = max(limit, _SHORTEST_LONG_LINE)
        self._prefix = prefix
        self._held = b""
        self._one_line_events = True
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._in_long_line = False
        self._partial: PartialJsonParser | None = None

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        if self._held:
            data = self._held + data
            self._held = b""
        tail = b""
        if data.find(b"\r") >= 0:
            data, tail = _with_plain_line_ends(data)
        if self._in_long_line:
            data = self._long_line_goes_on(data)
        cut = data.rfind(b"\n") + 1
        if cut == len(data):
            self._held = tail
        else:
            self._held = data[cut:] + tail
            data = data[:cut]
            if len(self._held) > self._limit:
                self._begin_long_line(data)
                return
        if data and not (self._one_line_events and not self._parser.may_matter(data)):
            self._read_lines(data)

    def end(self) -> None:
        """No more comes: an event without its end is read as far as it came."""
        if self._in_long_line:
            self._end_long_line()
        elif self._held:
            self._read_lines(self._held)
        self._event_is_over()

    def _begin_long_line(self, before: bytes) -> None:
        line, self._held = self._held, b""
        if before:
            self._read_lines(before)
        line = line.removeprefix(_BOM)
        self._in_long_line = True
        if line.startswith(self._prefix):
            self._partial = PartialJsonParser(self._parser.wanted)
            self._partial.feed(line[len(self._prefix) :])

    def _long_line_goes_on(self, data: bytes) -> bytes:
        end = data.find(b"\n")
        line = data if end < 0 else data[:end]
        if self._partial is not None:
            self._partial.feed(line)
        if end < 0:
            return b""
        self._end_long_line()
        return data[end + 1 :]

    def _end_long_line(self) -> None:
        partial, self._partial = self._partial, None
        self._in_long_line = False
        if partial is not None:
            self._read_skimmed(partial)

    def _read_lines(self, block: bytes) -> None:
        prefix, skip = self._prefix, len(self._prefix)
        may_matter = self._parser.may_matter
        for line in block.removeprefix(_BOM).removesuffix(b"\n").split(b"\n"):
            if not line:
                self._event_is_over()
            elif line.startswith(prefix) and (not self._one_line_events or may_matter(line)):
                self._read_payload(line[skip:])

    def _read_payload(self, payload: bytes) -> None:
        if self._pending:
            self._put_aside(payload)
        elif len(payload) > self._limit:
            self._skim(payload)
        elif not self._parsed(payload):
            self._put_aside(payload)

    def _parsed(self, payload: bytes) -> bool:
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            text = payload.strip()
            if text == b"[DONE]":
                self._parser.done()
            # What is no JSON at all (a keep-alive text) need not be put together with more.
            return text[:1] not in (b"{", b"[") or text == b"[DONE]"
        if isinstance(event, dict):
            self._parser.event(event)
        return True

    def _put_aside(self, payload: bytes) -> None:
        """An event may have several lines of data; they are read when it is over."""
        self._one_line_events = False
        self._pending_size += len(payload)
        if self._pending_size <= self._limit:
            self._pending.append(payload)

    def _event_is_over(self) -> None:
        if not self._pending:
            return
        payload = b"\n".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        if not self._parsed(payload):
            # Cut short: what there is may still say something.
            self._skim(payload)

    def _skim(self, payload: bytes) -> None:
        partial = PartialJsonParser(self._parser.wanted)
        partial.feed(payload)
        self._read_skimmed(partial)

    def _read_skimmed(self, partial: PartialJsonParser) -> None:
        if isinstance(partial.found, dict):
            self._parser.event(partial.found)


def _with_plain_line_ends(data: bytes) -> tuple[bytes, bytes]:
    """Return *data* with each line end as one line feed, and a last CR that may be half of one."""
    tail = b"\r" if data.endswith(b"\r") else b""
    if tail:
        data = data[:-1]
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), tail

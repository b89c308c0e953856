"""Usage for OpenAI chat streams whose client did not ask for it (``PROXY__INJECT_STREAM_USAGE``).

The request gets ``stream_options.include_usage``, and what that adds to the answer is taken out
again: the last chunk, without choices, and ``"usage":null`` in the others (OpenAI API reference,
"Streaming", 2026-11). Pure.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_LONGEST_EVENT = 4 << 20
_LONGEST_END = 3  # what may be there of an end before its last byte


def asking_for_usage(body: bytes) -> bytes | None:
    """Return *body* with the option set, None where it is no JSON object or asks already."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict) or parsed.get("stream") is not True:
        return None
    options = parsed.get("stream_options")
    if options is None and "stream_options" not in parsed:
        rest = body[body.index(b"{") + 1 :]
        return b'{"stream_options":{"include_usage":true},' + rest
    if options is not None and (not isinstance(options, dict) or "include_usage" in options):
        return None
    parsed["stream_options"] = {**(options or {}), "include_usage": True}
    return orjson.dumps(parsed)


class UsageRemover:
    """Takes the added parts out of an event stream, event by event."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """Return what of *data*, and of what was held back before, the client is to see."""
        # An end may lie across the cut; what was searched before that is not searched again.
        searched = self._tail + data
        self._tail = searched[-_LONGEST_END:]
        if _EVENT_END.search(searched) is None:
            self._held.append(data)
            self._size += len(data)
            return self.close() if self._size > _LONGEST_EVENT else b""
        data = self.close() + data
        shown: list[bytes] = []
        start = 0
        for match in _EVENT_END.finditer(data):
            shown.append(_cleaned(data[start : match.end()]))
            start = match.end()
        if start < len(data):
            self._held, self._size = [data[start:]], len(data) - start
        return b"".join(shown)

    def close(self) -> bytes:
        """Return what is still held back."""
        held, self._held, self._size = b"".join(self._held), [], 0
        return held


def _cleaned(event: bytes) -> bytes:
    if b'"usage"' not in event or not event.startswith(b"data:"):
        return event
    try:
        chunk: Any = orjson.loads(event[5:])
    except orjson.JSONDecodeError:
        return event
    if not isinstance(chunk, dict) or "usage" not in chunk:
        return event
    usage = chunk.pop("usage")
    if isinstance(usage, dict):
        return b"" if chunk.get("choices") == [] else event
    without = _NULL_USAGE.sub(b"", event, count=1)
    try:
        if orjson.loads(without[5:]) == chunk:
            return without
    except orjson.JSONDecodeError:
        pass
    return b"data: " + orjson.dumps(chunk) + b"\n\n"

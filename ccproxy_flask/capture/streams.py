"""What of a streamed answer may be shown, event by event. Pure.

A secret in a stream is cut into pieces: each event carries a few letters of it. So the pieces of
one text are searched together, and each event is shown with its part of what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..redact import REDACTED
from ..usage.decode import Decoder, Undecodable
from .bodies import LARGEST_DECODED, SHORTEST_KEY, Redactor, media_type
from .fields import NESTED, OPAQUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STREAM_TYPES = (
    "text/event-stream",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
)
_LONGEST_LINE = 4 << 20
_PLACE = ("type", "index", "output_index", "content_index", "item_id")


class ShownEvent(NamedTuple):
    """One event: in which chunk it ended (0 is the first), and what may be shown of it."""

    chunk: int
    text: str
    value: Any = None


class _Piece:
    """A part of a text, until the whole of it is known."""

    __slots__ = ("raw", "shown")

    def __init__(self, raw: str) -> None:
        self.raw = self.shown = raw


def is_stream(content_type: str) -> bool:
    """True for the media types in which answers are streamed."""
    return media_type(content_type) in STREAM_TYPES


def shown_events(
    chunks: Sequence[bytes], content_type: str, content_encoding: str, known: Redactor
) -> list[ShownEvent]:
    """Return the events in the *chunks* of a stream, as they came off the wire."""
    blocks = list(_blocks(chunks, media_type(content_type), content_encoding))
    pieces = _Pieces(known)
    events = [(chunk, _parsed(block, known, pieces)) for chunk, block in blocks]
    pieces.hide()
    return [event.shown(chunk) for chunk, event in events]


def _blocks(
    chunks: Sequence[bytes], kind: str, content_encoding: str
) -> Iterator[tuple[int, list[str]]]:
    """Give the lines of each event, with the number of the chunk it ended in."""
    by_line = kind != "text/event-stream"
    lines: list[str] = []
    last = 0
    for number, line in _lines(chunks, content_encoding):
        last = number
        if by_line:
            if line.strip():
                yield number, [line]
        elif line:
            lines.append(line)
        elif lines:
            yield number, lines
            lines = []
    if lines:
        yield last, lines


def _lines(chunks: Sequence[bytes], content_encoding: str) -> Iterator[tuple[int, str]]:
    held, size, number = b"", 0, 0
    try:
        decoder = Decoder(content_encoding)
        for number, chunk in enumerate(chunks):
            for piece in decoder.decode(chunk):
                size += len(piece)
                *whole, held = (held + piece).split(b"\n")
                for line in whole:
                    yield number, line.removesuffix(b"\r").decode("utf-8", "replace")
            if size > LARGEST_DECODED or len(held) > _LONGEST_LINE:
                return
    except Undecodable:
        return
    if held:
        yield number, held.decode("utf-8", "replace")


def shown_values(values: Sequence[Any], known: Redactor) -> list[Any]:
    """Return the members of a JSON list that was streamed as such (Gemini without ``alt=sse``)."""
    pieces = _Pieces(known)
    shown = [pieces.value(value) for value in values]
    pieces.hide()
    found: list[Any] = orjson.loads(orjson.dumps(shown, default=lambda piece: piece.shown))
    return found


class _Parsed(NamedTuple):
    """An event: its lines that are no JSON, and what is."""

    lines: list[str]
    data: object = None
    mark: str = ""

    def shown(self, chunk: int) -> ShownEvent:
        if self.data is None:
            return ShownEvent(chunk, "\n".join(self.lines))
        text = orjson.dumps(self.data, default=lambda piece: piece.shown).decode()
        shown = "\n".join([*self.lines, self.mark + text])
        return ShownEvent(chunk, shown, orjson.loads(text))


def _parsed(lines: list[str], known: Redactor, pieces: _Pieces) -> _Parsed:
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    bare = not data and lines[0].lstrip()[:1] in ("{", "[")
    try:
        value = orjson.loads(lines[0] if bare else "\n".join(data))
    except orjson.JSONDecodeError:
        return _Parsed([known.words(line) for line in lines])
    if bare:
        return _Parsed([], pieces.value(value))
    others = [known.words(line) for line in lines if not line.startswith("data:")]
    return _Parsed(others, pieces.value(value), "data: ")


class _Pieces(Redactor):
    """Redacts like the redactor *known*, but keeps texts back until all events are there."""

    def __init__(self, known: Redactor) -> None:
        super().__init__()
        self._known = known
        self._texts: dict[tuple[object, ...], list[_Piece]] = {}
        self._where: tuple[object, ...] = ()

    def value(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """Return *value* with pieces where texts are."""
        before = self._where
        if depth == 0:
            self._where = ()
        place = [value.get(key) for key in _PLACE] if isinstance(value, dict) else []
        self._where += (name, *(each for each in place if isinstance(each, str | int)))
        shown = super().value(value, name, depth)
        self._where = before
        return shown

    def leaf(self, text: str, name: str) -> Any:
        """Return a piece, to be filled by :meth:`hide`."""
        if (name in OPAQUE and len(text) > 64) or "://" in text or text.startswith("data:"):
            return self._known.leaf(text, name)
        piece = _Piece(text)
        self._texts.setdefault((*self._where, name), []).append(piece)
        return piece

    def text(self, text: str) -> str:
        """Return *text* with everything secret in it hidden."""
        return self._known.text(text)

    def hide(self) -> None:
        """Hide in all pieces what is secret in the texts they make up."""
        for where, pieces in self._texts.items():
            raw = "".join(piece.raw for piece in pieces)
            if where[-1] in NESTED or (where[-1] == "delta" and "arguments" in str(where)):
                self._hide_nested(raw, pieces)
            else:
                self._hide_spans(raw, pieces)

    def _hide_nested(self, raw: str, pieces: list[_Piece]) -> None:
        whole = self._known.nested(raw)
        if whole == raw:
            return
        if whole == REDACTED:  # several of them, or one that was cut
            for piece in pieces:
                piece.shown = self._known.nested(piece.raw)
            return
        for piece in pieces:
            piece.shown = ""
        pieces[0].shown = whole

    def _hide_spans(self, raw: str, pieces: list[_Piece]) -> None:
        spans = self._known.spans(raw)
        at = 0
        for piece in pieces:
            end = at + len(piece.raw)
            inside = [(max(b, at), min(e, end), b >= at) for b, e in spans if b < end and e > at]
            shown = piece.raw
            for begin, stop, is_first in reversed(inside):
                mark = REDACTED if is_first else ""
                shown = shown[: begin - at] + mark + shown[stop - at :]
            piece.shown = shown if len(shown) < SHORTEST_KEY else self._known.text(shown)
            at = end

"""Read a few values out of a JSON text of any size, in constant memory, cut anywhere.

The parser walks only along the paths it was told; everything else it passes over without
building it, strings and nesting respected. A text that is not JSON makes it stop, not raise.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

WantedMembers: TypeAlias = "dict[str, Wanted]"
Wanted: TypeAlias = "WantedMembers | list[Wanted] | None"
"""What to keep, in the shape of the document: None keeps a value whole, an object or a one-item
list says what of its members or items to keep."""

_BLOCK = 16 << 10
_LONGEST_VALUE = 64 << 10
_LONGEST_KEY = 1 << 10
_MOST_ITEMS = 64
_DEEPEST = 10_000
_TOKENS_BEFORE_BULK = 64

_SPACE = re.compile(rb"[\s,]*+")
_KEY = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*+:\s*+(?=\S)', re.DOTALL)
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR_END = re.compile(rb"[\s,}\]]")
# A bracket, or a string; its last group is empty where the string goes on in the next block.
_TOKEN = re.compile(rb'[{}\[\]]|"[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)

_ONE_KIND_OF_BRACKET = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")
_STEP = {ord("["): 1, ord("]"): -1}

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPENERS, _CLOSERS = frozenset(b"{["), frozenset(b"}]")
_SCALAR, _STRING, _CONTAINER = 1, 2, 3
_UNWANTED: Any = object()


class _Frame:
    """An object or list on the path: what is wanted of it, and what was found."""

    __slots__ = ("found", "key", "wanted")

    def __init__(self, wanted: Wanted, found: dict[str, Any] | list[Any]) -> None:
        self.wanted = wanted
        self.found = found
        self.key = ""


class PartialJsonParser:
    """Keeps what is *wanted* of one JSON text. ``found`` has it, also while the text goes on.

    Items of a list at the root go to *on_item*, where one is given, as soon as each is whole.
    """

    def __init__(
        self, wanted: Wanted, on_item: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.found: Any = None
        self.finished = False
        """The text is whole, or cannot be read any further."""
        self.complete = False
        self._wanted = wanted
        self.on_item = on_item
        self._stack: list[_Frame] = []
        self._rest = b""
        self._inside = 0
        self._depth = 0
        self._quoted = False
        self._kept: list[bytes] | None = None
        self._kept_size = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece of the text."""
        at = 0
        while at < len(data) and not self.finished:
            block = data[at : at + _BLOCK]
            at += _BLOCK
            if self._rest:
                block = self._rest + block
            self._rest = b""
            # An escape that is cut in two is read with the next piece.
            tail = b""
            if block[-1] == _BACKSLASH and (len(block) - len(block.rstrip(b"\\"))) % 2:
                block, tail = block[:-1], b"\\"
            self._read(block)
            self._rest += tail

    def _read(self, block: bytes) -> None:
        at = 0
        while at < len(block) and not self.finished:
            if self._inside:
                at = self._pass_over(block, at)
            elif self._stack:
                at = self._next_member(block, at)
            else:
                at = self._open_root(block, at)

    def _open_root(self, block: bytes, at: int) -> int:
        if block.startswith(b"\xef\xbb\xbf", at):
            at += 3
        match = _SPACE.match(block, at)
        at = match.end() if match else at
        if at == len(block):
            return at
        opener = block[at : at + 1]
        if opener == b"{" and isinstance(self._wanted, dict):
            self.found = {}
        elif opener == b"[" and isinstance(self._wanted, list):
            self.found = []
        else:
            self.finished = True
            return at
        self._stack.append(_Frame(self._wanted, self.found))
        return at + 1

    def _next_member(self, block: bytes, at: int) -> int:
        match = _SPACE.match(block, at)
        at = match.end() if match else at
        if at == len(block):
            return at
        if block[at] in _CLOSERS:
            self._leave()
            return at + 1
        frame = self._stack[-1]
        wanted = frame.wanted
        if isinstance(wanted, dict):
            match = _KEY.match(block, at)
            if match is None:
                self.finished = len(block) - at > _LONGEST_KEY or block[at] != _QUOTE
                self._rest = block[at:]
                return len(block)
            frame.key = match[1].decode("utf-8", "replace")
            return self._enter(block, match.end(), wanted.get(frame.key, _UNWANTED))
        room = isinstance(wanted, list) and len(frame.found) < _MOST_ITEMS
        return self._enter(block, at, wanted[0] if wanted and room else _UNWANTED)

    def _enter(self, block: bytes, at: int, wanted: Wanted) -> int:
        first = block[at]
        if first == ord("{") and isinstance(wanted, dict):
            self._descend(wanted, {})
            return at + 1
        if first == ord("[") and isinstance(wanted, list):
            self._descend(wanted, [])
            return at + 1
        self._kept = [] if wanted is None else None
        self._kept_size = 0
        if first == _QUOTE:
            self._inside = _STRING
        elif first in _OPENERS:
            self._inside = _CONTAINER
            self._depth = 0
        else:
            self._inside = _SCALAR
        self._quoted = False
        return self._pass_over(block, at, begin=True)

    def _descend(self, wanted: Wanted, found: dict[str, Any] | list[Any]) -> None:
        self._store(found)
        self._stack.append(_Frame(wanted, found))

    def _store(self, value: object) -> None:
        frame = self._stack[-1]
        if isinstance(frame.found, dict):
            frame.found[frame.key] = value
        else:
            frame.found.append(value)

    def _leave(self) -> None:
        self._stack.pop()
        if not self._stack:
            self.finished = self.complete = True
        elif len(self._stack) == 1 and self.on_item and isinstance(self.found, list):
            item = self.found[-1]
            self.found.clear()
            self.on_item(item)

    def _pass_over(self, block: bytes, at: int, *, begin: bool = False) -> int:
        """Go on to the end of the value *at* is in, or of *block*; return where that is."""
        if self._inside == _SCALAR:
            match = _SCALAR_END.search(block, at)
            end, over = (match.start(), True) if match else (len(block), False)
        elif self._inside == _STRING:
            end, over = _string_end(block, at + begin)
        else:
            end, over = self._container_end(block, at, begin=begin)
        if self._kept is not None:
            self._keep(block[at:end])
        if over:
            self._inside = 0
            if self._kept is not None:
                self._store_kept()
        return end

    def _keep(self, piece: bytes) -> None:
        self._kept_size += len(piece)
        if self._kept_size > _LONGEST_VALUE:
            self._kept = None
        elif self._kept is not None:
            self._kept.append(piece)

    def _store_kept(self) -> None:
        try:
            self._store(orjson.loads(b"".join(self._kept or ())))
        except orjson.JSONDecodeError:
            self.finished = True

    def _container_end(self, block: bytes, at: int, *, begin: bool) -> tuple[int, bool]:
        # A value that began in an earlier block is a long one: it probably fills this one too.
        if not begin and self._passed_in_bulk(block, at):
            return len(block), False
        if self._quoted:
            at, closed = _string_end(block, at)
            if not closed:
                return at, False
            self._quoted = False
        return self._container_end_by_tokens(block, at, try_bulk=begin)

    def _container_end_by_tokens(
        self, block: bytes, at: int, *, try_bulk: bool
    ) -> tuple[int, bool]:
        depth = self._depth
        for number, match in enumerate(_TOKEN.finditer(block, at)):
            first = block[match.start()]
            if first == _QUOTE:
                self._quoted = not match[1]
            elif first in _OPENERS:
                depth += 1
            else:
                depth -= 1
                if depth <= 0:
                    return match.end(), True
            if try_bulk and number == _TOKENS_BEFORE_BULK:
                self._depth = depth
                if self._passed_in_bulk(block, match.end()):
                    return len(block), False
        self._depth = depth
        self.finished = depth > _DEEPEST
        return len(block), False

    def _passed_in_bulk(self, block: bytes, at: int) -> bool:
        """Pass over the rest of *block* where the value does not end in it."""
        brackets, quoted = _outline(block[at:], self._quoted)
        lowest, last = _levels(brackets)
        if self._depth + lowest <= 0:
            return False
        self._depth += last
        self._quoted = quoted
        self.finished = self._depth > _DEEPEST
        return True


def _string_end(block: bytes, at: int) -> tuple[int, bool]:
    """Return where the string *at* is in ends, and whether it does end in *block*."""
    if block.find(b'"', at) < 0 or b'"' not in _without_escapes(block[at:]):
        return len(block), False
    match = _STRING_REST.match(block, at)
    end = match.end() if match else at
    return (end + 1, True) if end < len(block) else (end, False)


def _without_escapes(text: bytes) -> bytes:
    """Return *text* without the quotes in it that end no string."""
    if b"\\" not in text:
        return text
    return text.replace(b"\\\\", b"").replace(b'\\"', b"")


def _outline(text: bytes, quoted: bool) -> tuple[bytes, bool]:
    """Return the brackets of *text* that are not in strings, and whether it ends in a string."""
    parts = _without_escapes(text).split(b'"')
    outside = b"".join(parts[quoted::2])
    ends_quoted = quoted ^ (len(parts) % 2 == 0)
    return outside.translate(_ONE_KIND_OF_BRACKET, _ALL_BUT_BRACKETS), ends_quoted


def _levels(brackets: bytes) -> tuple[int, int]:
    """Return the lowest and the last level of *brackets*, relative to where they begin."""
    # Pairs that close at once go first, layer by layer; real texts have few layers.
    for _ in range(6):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    if not brackets:
        return 0, 0
    levels = list(accumulate(map(_STEP.__getitem__, brackets)))
    lowest = min(levels)
    return min(lowest, 0), levels[-1]


class JsonBody:
    """One JSON text: parsed whole while it is small, skimmed once it is over *limit* bytes."""

    def __init__(self, wanted: Wanted, limit: int) -> None:
        self._wanted = wanted
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._partial: PartialJsonParser | None = None

    def feed(self, data: bytes) -> None:
        """Take the next piece of the text."""
        if self._partial is not None:
            self._partial.feed(data)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._skim()

    def end(self) -> tuple[Any, bool]:
        """Return the document (of a cut one, what was found), and whether it was whole."""
        if self._partial is None:
            try:
                return orjson.loads(b"".join(self._parts)), True
            except orjson.JSONDecodeError:
                self._skim()
        partial = self._partial
        return (partial.found, partial.complete) if partial else (None, False)

    def _skim(self) -> None:
        text = b"".join(self._parts)
        self._parts.clear()
        # An error of Google's can come as a list of one.
        is_list = text.lstrip()[:1] == b"["
        self._partial = PartialJsonParser([self._wanted] if is_list else self._wanted)
        self._partial.feed(text)

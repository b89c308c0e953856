"""Cut a body where its JSON has parts that come again: messages, tools, long texts. Pure.

A client sends its whole conversation with every turn. Cut at the boundaries of its parts, each
part is the same bytes as in the turn before, and is kept once.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A string as a whole (or to the end, where it has none), or a character of structure: no part tries
# one stretch of text twice.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
SMALLEST_ELEMENT = 64
"""Elements of an array that are shorter stay with what stands around them; bytes."""
SMALLEST_STRING = 512
"""Strings from here on are pieces of their own; bytes."""
LARGEST_PIECE = 1 << 20
_LARGE_EVENT = re.compile(rb"^(?:data:)?[ ]?(\{[^\r\n]{4095,})", re.MULTILINE)
_DEEPEST = 8
_OPEN, _CLOSE = b"[{", b"]}"


def cut(body: bytes) -> list[bytes]:
    """Return *body* as slices that make it up, in order; an empty body has none.

    What is no JSON, or not whole, is cut as far as it can be read. The slices always make up the
    body again.
    """
    cuts = sorted({0, len(body), *_boundaries(body)})
    return [
        body[at : min(at + LARGEST_PIECE, end)]
        for begin, end in itertools.pairwise(cuts)
        for at in range(begin, end, LARGEST_PIECE)
    ]


def cut_stream(body: bytes) -> list[bytes]:
    """Return a stream of events as slices that make it up. A large event is cut as :func:`cut`
    does: some repeat what was asked. Small ones stay together."""
    pieces: list[bytes] = []
    at = 0
    for match in _LARGE_EVENT.finditer(body):
        pieces += [body[at : match.start(1)], *cut(match[1])]
        at = match.end()
    pieces.append(body[at:])
    return [
        piece[begin : begin + LARGEST_PIECE]
        for piece in pieces
        for begin in range(0, len(piece), LARGEST_PIECE)
    ]


def _boundaries(body: bytes) -> Iterator[int]:
    """Yield where elements of arrays begin (with the comma before them) and end, and strings."""
    if not body.lstrip()[:1] or body.lstrip()[:1] not in b"[{":
        return
    # For each open container: whether it is an array, and where its current element begins.
    stack: list[tuple[bool, int]] = []
    for match in _TOKEN.finditer(body):
        first, begin, end = body[match.start()], match.start(), match.end()
        if first == 0x22:
            if end - begin >= SMALLEST_STRING:
                yield begin
                yield end
        elif first in _OPEN:
            stack.append((first == 0x5B, end))
        elif first == 0x2C:  # a comma
            if stack and stack[-1][0]:
                yield from _element(stack, begin)
                stack[-1] = (True, begin)
        elif first in _CLOSE and stack:
            yield from _element(stack, begin)
            stack.pop()


def _element(stack: list[tuple[bool, int]], end: int) -> Iterator[int]:
    is_array, begin = stack[-1]
    if is_array and len(stack) <= _DEEPEST and end - begin >= SMALLEST_ELEMENT:
        yield begin
        yield end

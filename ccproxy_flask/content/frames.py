"""How a worker hands an exchange to the storage plane: frames on a stream. Pure.

A frame is a head of 17 bytes (kind, number of the exchange in its connection, size, µs since the
exchange began; big-endian) and *size* bytes.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HEAD = struct.Struct(">BIIQ")
HEAD_BYTES = _HEAD.size
FRAME_COST = 192
"""What a frame takes in memory besides its bytes, head and objects together; bytes."""
LARGEST = 16 << 20
"""A larger frame is nobody's; bytes."""


class Kind(enum.IntEnum):
    """What a frame is."""

    REQUEST_HEAD = 1
    REQUEST_CHUNK = 2
    RESPONSE_HEAD = 3
    RESPONSE_CHUNK = 4
    END = 5
    ABANDON = 6
    """The rest of the exchange does not come: forget it."""


class Frame(NamedTuple):
    """One frame. Heads and ends are JSON."""

    kind: Kind
    number: int
    micros: int
    data: bytes


class NotFrames(ValueError):
    """What came is not from a worker of this version."""


head_of: Callable[[Kind, int, int, int], bytes] = _HEAD.pack
"""Returns the head of a frame: its kind, the number of its exchange, how many bytes follow, µs."""


class FrameParser:
    """Makes frames of the bytes of a stream, however they are cut. Raises NotFrames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole with *data*."""
        self._held += data
        at = 0
        while len(self._held) - at >= HEAD_BYTES:
            kind, number, size, micros = _HEAD.unpack_from(self._held, at)
            if size > LARGEST or not Kind.REQUEST_HEAD <= kind <= Kind.ABANDON:
                raise NotFrames(f"a frame of kind {kind} and {size} bytes")
            end = at + HEAD_BYTES + size
            if len(self._held) < end:
                break
            yield Frame(Kind(kind), number, micros, bytes(self._held[at + HEAD_BYTES : end]))
            at = end
        del self._held[:at]

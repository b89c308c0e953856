"""Small things packed: ids of parts, and the times of pieces. Pure.

What cannot be unpacked raises ZstdError or ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LEVEL = 9


def pack(data: bytes) -> bytes:
    """Return *data* compressed, without a dictionary."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def unpack(data: bytes) -> bytes:
    """Return what :func:`pack` made smaller."""
    return zstandard.ZstdDecompressor().decompress(data)


def packed_ids(ids: Sequence[int]) -> bytes:
    """Return *ids* as steps from one to the next: mostly 1, and so next to nothing."""
    return pack(
        _varints((b - a) << 1 ^ (b - a) >> 63 for a, b in zip([0, *ids], ids, strict=False))
    )


def unpacked_ids(data: bytes) -> list[int]:
    """Return what :func:`packed_ids` was given."""
    ids, last = [], 0
    for number in _numbers(unpack(data)):
        last += number >> 1 ^ -(number & 1)
        ids.append(last)
    return ids


def packed_times(times: Sequence[tuple[int, int]]) -> bytes:
    """Return (offset, µs), neither of which ever falls, as steps from one to the next."""
    return pack(_varints(_steps(times)))


def unpacked_times(data: bytes) -> list[tuple[int, int]]:
    """Return what :func:`packed_times` was given."""
    return list(_sums(_numbers(unpack(data))))


def _steps(times: Sequence[tuple[int, int]]) -> Iterator[int]:
    last = (0, 0)
    for offset, micros in times:
        yield offset - last[0]
        yield max(0, micros - last[1])
        last = offset, max(micros, last[1])


def _sums(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    offset = micros = 0
    for index in range(0, len(numbers), 2):
        offset, micros = offset + numbers[index], micros + numbers[index + 1]
        yield offset, micros


def _varints(numbers: Iterable[int]) -> bytes:
    """Return *numbers*, none negative, as LEB128."""
    found = bytearray()
    for number in numbers:
        while number > 0x7F:
            found.append(number & 0x7F | 0x80)
            number >>= 7  # noqa: PLW2901  what is left of it
        found.append(number)
    return bytes(found)


def _numbers(data: bytes) -> list[int]:
    found, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(number)
            number = shift = 0
    return found

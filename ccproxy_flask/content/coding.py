"""Compressed bodies: read them, and say how to make the very same bytes again. Pure.

A compressed body cannot be cut into parts that come again. Where the same library with the same
settings gives the same bytes, it is enough to keep what it says and how it was compressed.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import brotli  # type: ignore[import-untyped]  # has no stubs
import zstandard

from ccproxy_flask.usage.decode import Decoder, Undecodable, codings_of

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_DECODED = 64 << 20
_LARGEST_TRIED = 8 << 20


class TooLarge(Exception):
    """The body says more than is kept of one."""


def decoded(wire: bytes, content_encoding: str) -> bytes | None:
    """Return what *wire* says, None where it is not what *content_encoding* promises.

    Raises TooLarge over :data:`LARGEST_DECODED` bytes.
    """
    if not codings_of(content_encoding):
        return wire
    pieces, size = [], 0
    try:
        for piece in Decoder(content_encoding).decode(wire):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_DECODED:
                raise TooLarge
    except Undecodable:
        return None
    return b"".join(pieces)


def way_of(wire: bytes, said: bytes, content_encoding: str) -> str | None:
    """Return the name of a way to compress *said* that gives *wire*, None where none does."""
    codings = codings_of(content_encoding)
    if not codings:
        return "plain" if wire == said else None
    if len(codings) > 1 or len(said) > _LARGEST_TRIED:
        return None
    for name in _LIKELY.get(codings[0], ()):
        if compressed(said, name) == wire:
            return name
    return None


def compressed(said: bytes, way: str) -> bytes:
    """Return *said* compressed in the *way* that :func:`way_of` named."""
    coding, _, level = way.partition("-")
    return _WAYS[coding](said, level)


def _gzip(said: bytes, level: str) -> bytes:
    packer = zlib.compressobj(int(level), wbits=zlib.MAX_WBITS | 16)
    return packer.compress(said) + packer.flush()


def _zlib(said: bytes, level: str) -> bytes:
    return zlib.compress(said, int(level))


def _zstd(said: bytes, level: str) -> bytes:
    number, _, size = level.partition("-")
    packer = zstandard.ZstdCompressor(level=int(number), write_content_size=not size)
    if not size:
        return packer.compress(said)
    unsized = packer.compressobj()
    return unsized.compress(said) + unsized.flush()


_WAYS: dict[str, Callable[[bytes, str], bytes]] = {
    "plain": lambda said, _level: said,
    "gzip": _gzip,
    "deflate": _zlib,
    "br": lambda said, level: bytes(brotli.compress(said, quality=int(level))),
    "zstd": _zstd,
}
# What clients use: their libraries' usual levels.
_LIKELY: dict[str, tuple[str, ...]] = {
    "gzip": ("gzip-6", "gzip-9", "gzip-1"),
    "deflate": ("deflate-6", "deflate-9"),
    "br": ("br-4", "br-11"),
    "zstd": ("zstd-3", "zstd-3-unsized", "zstd-1"),
}

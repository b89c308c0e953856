"""Undo the content coding of a body (RFC 9110 §8.4) in pieces of bounded size.

A few bytes can stand for gigabytes. So the output comes in pieces, and a body that grows
beyond all reason is given up: it is only read along, the client gets its bytes all the same.
"""

from __future__ import annotations

import zlib
from typing import IO, TYPE_CHECKING, Protocol, cast

import brotli  # type: ignore[import-untyped]  # has no stubs
import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 64 << 10
# Of the recorded answers none compresses better than 61 to 1, whole and with brotli.
_LARGEST_RATIO = 200
_ALWAYS_ALLOWED = 4 << 20
_MOST_AT_ONCE = 16 << 20
# RFC 9659: a decoder for the web need not support larger windows.
_LARGEST_ZSTD_WINDOW = 8 << 20
_MOST_CODINGS = 4


class Undecodable(Exception):
    """The body is not what its content coding says, or too large, or the coding is unknown."""


class _Coding(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]: ...


class Decoder:
    """Undoes the codings of the header *content_encoding*, the last one first.

    Raises Undecodable, also later from ``decode``.
    """

    def __init__(self, content_encoding: str) -> None:
        names = codings_of(content_encoding)
        if len(names) > _MOST_CODINGS or not all(name in _CODINGS for name in names):
            raise Undecodable(content_encoding[:64])
        self._codings = [_CODINGS[name]() for name in reversed(names)]
        self._taken = 0
        self._given = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data* says, in pieces of at most 128 KiB."""
        self._taken += len(data)
        try:
            yield from self._through(data, 0)
        except (zlib.error, brotli.error, zstandard.ZstdError, MemoryError) as error:
            raise Undecodable(str(error)) from None

    def _through(self, data: bytes, stage: int) -> Iterator[bytes]:
        if stage == len(self._codings):
            yield data
            return
        for piece in self._codings[stage].decode(data):
            self._given += len(piece)
            if self._given > _ALWAYS_ALLOWED + _LARGEST_RATIO * self._taken:
                raise Undecodable("grows beyond all reason")
            yield from self._through(piece, stage + 1)


def codings_of(content_encoding: str | None) -> list[str]:
    """Return the names in a Content-Encoding header that stand for a coding."""
    if not content_encoding:
        return []
    names = (name.strip().lower() for name in content_encoding.split(","))
    return [name for name in names if name not in ("", "identity")]


class _Zlib:
    """gzip (RFC 1952) with any number of members, and zlib."""

    def __init__(self, window: int = zlib.MAX_WBITS | 32) -> None:
        self._window = window
        self._inflate = zlib.decompressobj(window)

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inflate.eof:
                if data[:1] == b"\0":  # padding after the last member
                    return
                self._inflate = zlib.decompressobj(self._window)
            piece = self._inflate.decompress(data, _PIECE)
            if piece:
                yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data


class _Deflate:
    """What HTTP calls deflate: zlib by the book, raw deflate from some servers."""

    def __init__(self) -> None:
        self._first = b""
        self._coding: _Zlib | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._coding is None:
            self._first += data
            if len(self._first) < 2:
                return
            data, self._first = self._first, b""
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._coding = _Zlib(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        yield from self._coding.decode(data)


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        piece = self._decompressor.process(data, output_buffer_limit=_PIECE)
        while piece:
            yield piece
            # can_accept_more_data() is also true while there is output left.
            piece = self._decompressor.process(b"", output_buffer_limit=_PIECE)


class _Zstd:
    """zstd (RFC 8878) with any number of frames."""

    def __init__(self) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
        self._pieces: list[bytes] = []
        self._size = 0
        # It wants no more of a file than write().
        sink = cast("IO[bytes]", self)
        self._writer = decompressor.stream_writer(sink, write_size=_PIECE, closefd=False)

    def write(self, piece: bytes) -> int:
        """Take a piece from the decompressor, which has no other way to stop at a size."""
        self._size += len(piece)
        if self._size > _MOST_AT_ONCE:
            raise Undecodable("grows beyond all reason")
        self._pieces.append(bytes(piece))
        return len(piece)

    def decode(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _PIECE):
            self._size = 0
            self._writer.write(data[at : at + _PIECE])
            pieces, self._pieces = self._pieces, []
            yield from pieces


_CODINGS: dict[str, type[_Coding]] = {
    "gzip": _Zlib,
    "x-gzip": _Zlib,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}

"""The body of a client's request: read as it comes, watched, and sent on in the same framing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from ..errors import BadRequest, BodyTooLarge, ClientDisconnected, ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = 64 << 10


class Stream(Protocol):
    """What WSGI calls ``wsgi.input``."""

    def read(self, size: int, /) -> bytes:
        """Return *size* bytes, or fewer at the end."""


class RequestBody:
    """A body of *length* bytes, or in chunks where *length* is None.

    What fits into one piece is read at once, into ``whole``; the rest stays with the client until
    the upstream takes it. *on_piece* gets each piece, and ``b""`` behind the last one. Raises
    ClientDisconnected where the client stops in the middle, BadRequest where its framing is
    malformed, and BodyTooLarge over *limit* bytes.
    """

    def __init__(
        self, stream: Stream, length: int | None, limit: int, on_piece: Callable[[bytes], None]
    ) -> None:
        self._stream, self._limit, self._on_piece = stream, limit, on_piece
        self.length = length
        self.size = 0
        self._first = self._read()
        self._ended = self._is_end(self._first)
        self.whole: bytes | None = self._whole()

    def _whole(self) -> bytes | None:
        if not self._ended:
            return None
        if self.length is None:
            size = b"%x\r\n" % len(self._first)
            return (size + self._first + b"\r\n" if self._first else b"") + b"0\r\n\r\n"
        return self._first

    def replace(self, whole: bytes) -> None:
        """Send *whole*, with its length, instead of what the client sent."""
        self.whole, self.length = whole, len(whole)

    @property
    def plain(self) -> bytes | None:
        """The whole body without its framing, where it fitted into one piece."""
        return self._first if self._ended else None

    def read_all(self) -> bytes:
        """Return the whole body; only for bodies that have to be changed."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield the body in pieces, without framing."""
        piece = self._first
        while piece:
            yield piece
            if self._ended:
                return
            piece = self._read()
            self._ended = self._is_end(piece)

    def discard(self) -> None:
        """Read what is left, to nobody: a client still sending does not look for its answer."""
        with contextlib.suppress(ProxyError, ClientDisconnected):
            for _ in self.pieces():
                pass

    def wire_pieces(self) -> Iterator[bytes]:
        """Yield the body in pieces, in the framing that the client used."""
        if self.length is not None:
            yield from self.pieces()
            return
        for piece in self.pieces():
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    def _read(self) -> bytes:
        wanted = PIECE if self.length is None else min(PIECE, self.length - self.size)
        piece = _read(self._stream, wanted)
        if self.length is not None and len(piece) < wanted:
            raise ClientDisconnected("the client stopped in the middle of its request")
        self.size += len(piece)
        if self.size > self._limit:
            raise BodyTooLarge(f"the request body is over the limit of {self._limit} bytes")
        self._on_piece(piece)
        if piece and self._is_end(piece):
            self._on_piece(b"")
        return piece

    def _is_end(self, piece: bytes) -> bool:
        return len(piece) < PIECE if self.length is None else self.size >= self.length


def _read(stream: Stream, size: int) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:  # gunicorn's for a body that is cut is one too
        raise ClientDisconnected("the client stopped in the middle of its request") from error
    except Exception as error:  # each WSGI server has its own exceptions for a malformed body
        raise BadRequest(f"the request body is malformed: {type(error).__name__}") from error

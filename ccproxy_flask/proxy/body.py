"""The body of a client's request: read as it comes, watched, and sent on in the same framing."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from ..errors import BadRequest, BodyTooLarge, ClientDisconnected, ProxyError, RequestTimeout
from ..server.request_parser import BodyReader
from ..server.sockets import take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = 64 << 10


def _tell_nobody(_piece: bytes) -> None:
    """Nothing comes after the end."""


# A request that is not here after so long is shown as one in flight.
_SLOW_SECONDS = 0.5


class RequestBody:
    """A body of *length* bytes, or in chunks where *length* is None.

    :meth:`begin` reads the first piece. A short body is read at once, into ``whole``; the rest of
    a long one, or of one whose chunks are still to come, stays with the client until the upstream
    takes it. *on_piece* gets each piece, and ``b""`` behind the last one. Reading raises
    ClientDisconnected where the client stops in the middle, RequestTimeout after *give_up()*,
    BadRequest where the framing is malformed, and BodyTooLarge over *limit* bytes.
    """

    whole: bytes | None = None
    """The body as it goes on the wire, where it was short."""

    def __init__(
        self, source: Any, length: int | None, limit: int, on_piece: Callable[[bytes], None]
    ) -> None:
        self._source, self._limit, self._on_piece = source, limit, on_piece
        self._reader = source if isinstance(source, BodyReader) else None
        self.length = length
        self.size = 0
        self._first = b""
        self._ended = False
        self._began = time.monotonic()
        self._waiting_since: float | None = None
        self._given_up = False

    def begin(self) -> None:
        """Read what is to be sent first."""
        pieces = [self._read()]
        while not self._ended and self.size < PIECE and self._gathers():
            pieces.append(self._read())
        self._first = b"".join(pieces)
        if not self._ended:
            return
        if self.length is None:
            size = b"%x\r\n" % len(self._first)
            self.whole = (size + self._first + b"\r\n" if self._first else b"") + b"0\r\n\r\n"
        else:
            self.whole = self._first

    def _gathers(self) -> bool:
        """True where the next piece is to be sent together with those before it."""
        if self.length is not None:
            return True
        return self._reader is None or self._reader.has_come()

    def replace(self, whole: bytes) -> None:
        """Send *whole*, with its length, instead of what the client sent."""
        self.whole, self.length = whole, len(whole)

    @property
    def plain(self) -> bytes | None:
        """The whole body without its framing, where it was short."""
        return self._first if self.whole is not None else None

    def read_all(self) -> bytes:
        """Return the whole body; only for bodies that have to be changed."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield the body in pieces, without framing."""
        if self._first:
            yield self._first
        turn = 0.0
        while not self._ended:
            turn = take_turns(turn)
            if piece := self._read():
                yield piece

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

    @property
    def slow(self) -> bool:
        """True where the client has taken its time so far."""
        return time.monotonic() - self._began > _SLOW_SECONDS

    def silent_for(self, now: float) -> float:
        """Return for how many seconds the client is being waited for; *now* is monotonic."""
        since = self._waiting_since
        return 0.0 if since is None else now - since

    def give_up(self) -> None:
        """Let the end that the reader is about to find mean that nothing came for too long."""
        self._given_up = True

    def _read(self) -> bytes:
        """Return the next piece; ``b""`` where there is none any more."""
        piece = self._received()
        if not piece and self.length is not None:
            raise self._cut()
        self.size += len(piece)
        if self.size > self._limit:
            self._ended = True
            raise BodyTooLarge(f"the request body is over the limit of {self._limit} bytes")
        self._ended = self._is_end(piece)
        if piece:
            self._on_piece(piece)
        if self._ended:
            self._on_piece(b"")
            # Who is told has this body: without a circle, memory is free at once.
            self._on_piece = _tell_nobody
        return piece

    def _received(self) -> bytes:
        left = PIECE if self.length is None else min(PIECE, self.length - self.size)
        self._waiting_since = time.monotonic()
        try:
            piece: bytes = self._source.read(left)
        except OSError as error:  # gunicorn's for a body that is cut is one too
            raise self._cut() from error
        except Exception as error:  # each WSGI server has its own exceptions for a malformed body
            self._ended = True
            raise BadRequest(f"the request body is malformed: {type(error).__name__}") from error
        finally:
            self._waiting_since = None
        return piece

    def _is_end(self, piece: bytes) -> bool:
        if self.length is not None:
            return self.size >= self.length
        return not piece or (self._reader is not None and self._reader.done)

    def _cut(self) -> Exception:
        """Return what to raise where the client stopped in the middle of its request."""
        self._ended = True
        if self._given_up:
            return RequestTimeout("the client was silent for too long in the middle of its request")
        return ClientDisconnected("the client stopped in the middle of its request")

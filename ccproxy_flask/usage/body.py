"""Read the copy of a body as it passes, and never disturb it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .decode import Decoder, Undecodable, codings_of


class BodyReader(ABC):
    """Reads a copy of a body as it came from the wire, in constant memory.

    Never raises: what cannot be read is left, and what was seen until then stays. A kind of body
    says how with :meth:`_read` (the next decoded piece) and :meth:`_read_end`.
    """

    def __init__(self, content_encoding: str | None) -> None:
        self.failed = False
        """Something could not be read, and nothing is read any more."""
        self._decoder: Decoder | None = None
        if codings_of(content_encoding):
            try:
                self._decoder = Decoder(content_encoding or "")
            except Undecodable:
                self.failed = True

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body, still compressed where it is."""
        if self.failed or not data:
            return
        try:
            if self._decoder is None:
                self._read(data)
            else:
                for piece in self._decoder.decode(data):
                    self._read(piece)
        except Exception:  # noqa: BLE001 reading along must never break what passes
            self.failed = True

    def _end(self) -> None:
        """Read what the end of the body tells, also where it broke off."""
        try:
            self._read_end()
        except Exception:  # noqa: BLE001 reading along must never break what passes
            self.failed = True

    @abstractmethod
    def _read(self, data: bytes) -> None:
        """Read the next piece, decoded."""

    @abstractmethod
    def _read_end(self) -> None:
        """Read what only the end tells."""

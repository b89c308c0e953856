"""The worker's side: bytes wait in bounded memory, and go to the storage plane over a socket.

Nothing is parsed, hashed or searched here, and no byte is copied: what passes is only kept a
moment longer. Where there is no room, or nobody takes it, an exchange is dropped as a whole.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from .frames import FRAME_COST, HEAD_BYTES, Kind, head_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = structlog.get_logger(__name__)

_AT_ONCE = 64 << 10
_GATHER_SECONDS = 0.02
"""For so long frames gather, unless there are many: to send each by itself takes most of the time
that handing on takes."""
_PAUSE_SECONDS = 0.2
_STALLED_SECONDS = 10.0
_AWAY_SECONDS = 15.0
"""For so long exchanges wait for somebody to take them."""
_LARGEST_CHUNK = 8 << 20


class Handover:
    """Hands exchanges on to who listens on the unix socket *path*; at most *max_bytes* wait.

    *on_drop* is called with a reason, once for each exchange that is dropped: ``queue_full``,
    ``too_large``, ``not_taken``.
    """

    def __init__(
        self, path: Path, max_bytes: int, max_exchange_bytes: int, on_drop: Callable[[str], None]
    ) -> None:
        self._path, self._max_bytes = path, max_bytes
        self.max_exchange_bytes, self.on_drop = max_exchange_bytes, on_drop
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._numbers = 0
        self.connection = 0
        """The number of the connection; what began on another one is lost."""
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._away_since: float | None = None

    def begin(self, head: dict[str, Any]) -> HandedExchange | None:
        """Begin to hand an exchange on; None where nobody takes it."""
        if self._closed or self._is_away():
            self.on_drop("not_taken")
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="handover")
            self._thread.start()
        self._numbers = (self._numbers + 1) & 0xFFFFFFFF
        exchange = HandedExchange(self, self._numbers)
        exchange.put(Kind.REQUEST_HEAD, 0, orjson.dumps(head))
        return exchange

    def put(self, kind: Kind, number: int, micros: int, data: bytes) -> bool:
        """Take a frame; False where there is no room for it."""
        size = len(data)
        held = self._bytes + size + FRAME_COST
        if (self._closed or held > self._max_bytes) and kind is not Kind.ABANDON:
            return False
        self._bytes = held
        self._waiting.append((head_of(kind, number, size, micros), data))
        if not self._wake.is_set():  # who waits looks for frames after each clear()
            self._wake.set()
        return True

    def close(self, seconds: float = 2.0) -> None:
        """Hand on what waits, within *seconds*."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closed or self._waiting:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(_STALLED_SECONDS)
                try:
                    sock.connect(str(self._path))
                except OSError as error:
                    if self._closed:
                        return
                    self._wait(error)
                    continue
                self._away_since = None
                try:
                    self._send_all(sock)
                except OSError as error:
                    self._lose(error)

    def _is_away(self) -> bool:
        since = self._away_since
        return since is not None and time.monotonic() - since > _AWAY_SECONDS

    def _wait(self, error: OSError) -> None:
        """Nobody listens, yet or any more: what waits is kept for a while."""
        if self._away_since is None:
            self._away_since = time.monotonic()
        elif self._is_away() and self._waiting:
            self._lose(error)
        time.sleep(_PAUSE_SECONDS)

    def _send_all(self, sock: socket.socket) -> None:
        while self._waiting or not self._closed:
            self._wake.clear()
            if not self._waiting:
                self._wake.wait()
            if self._bytes < _AT_ONCE and not self._closed:
                time.sleep(_GATHER_SECONDS)
            while self._waiting:
                sock.sendall(self._taken())
                time.sleep(0)  # where it never has to wait, the others would

    def _taken(self) -> bytes:
        parts, size = [], 0
        while self._waiting and size < _AT_ONCE:
            head, data = self._waiting.popleft()
            parts += [head, data]
            size += len(head) + len(data)
        self._bytes -= size + len(parts) // 2 * (FRAME_COST - HEAD_BYTES)
        return b"".join(parts)

    def _lose(self, error: OSError) -> None:
        """Forget all that waits: nobody takes it, or who took the beginning of it is gone."""
        self.connection += 1
        self._waiting.clear()
        self._bytes = 0
        if not self._closed:
            log.warning("content_not_taken", reason=error.strerror or str(error))


class HandedExchange:
    """One exchange that is handed on, until :meth:`end`, or until it is dropped."""

    __slots__ = ("_connection", "_handover", "_number", "_size", "dropped")

    def __init__(self, handover: Handover, number: int) -> None:
        self._handover, self._number = handover, number
        self._connection = handover.connection
        self._size = 0
        self.dropped = False

    def put(self, kind: Kind, micros: int, data: bytes) -> None:
        """Hand a part on. Later calls do nothing once a part was lost."""
        if self.dropped:
            return
        self._size += len(data)
        if self._connection != self._handover.connection:
            self._drop("not_taken")
        elif self._size > self._handover.max_exchange_bytes:
            self._drop("too_large")
        elif len(data) > _LARGEST_CHUNK:
            self._size -= len(data)
            for at in range(0, len(data), _LARGEST_CHUNK):
                self.put(kind, micros, data[at : at + _LARGEST_CHUNK])
        elif not self._handover.put(kind, self._number, micros, data):
            self._drop("queue_full")

    def end(self, facts: dict[str, Any], micros: int) -> bool:
        """End the exchange with its *facts*; tell whether all of it was handed on."""
        self.put(Kind.END, micros, orjson.dumps(facts))
        return not self.dropped

    def _drop(self, reason: str) -> None:
        self.dropped = True
        self._handover.on_drop(reason)
        if reason != "not_taken":
            self._handover.put(Kind.ABANDON, self._number, 0, b"")

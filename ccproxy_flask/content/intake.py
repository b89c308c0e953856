"""The storage plane's side: takes what workers hand on, and keeps it.

A thread for each worker reads its frames; one thread makes of whole exchanges what is kept, and
keeps some at once. What is not whole when its worker goes is forgotten.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sqlite3
import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from ..folders import make_private
from .assembly import RawExchange, assembled
from .coding import TooLarge
from .conversations import Conversations
from .frames import FRAME_COST, Frame, FrameParser, Kind, NotFrames
from .store import by_day

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .conversations import OnNamed
    from .day_file import Exchange
    from .store import ContentStore

log = structlog.get_logger(__name__)

_READ_BYTES = 1 << 20
_BATCH = 64
_BATCH_BYTES = 8 << 20
_BATCH_SECONDS = 0.1
_RETAIN_SECONDS = 60.0


class Intake:
    """Listens on the unix socket *path* and keeps what comes in *store*.

    At most *max_bytes* are in memory; what goes over it is dropped as a whole, and *on_drop* is
    called with its request id and a reason: ``queue_full``, ``too_large`` (it says more than is
    kept), ``no_room``, ``unreadable``. *on_named*: as :class:`.Conversations`. Raises OSError where
    it cannot listen there.
    """

    def __init__(
        self,
        path: Path,
        store: ContentStore,
        max_bytes: int,
        on_drop: Callable[[str, str], None],
        on_named: OnNamed = lambda _named, _renamed: None,
    ) -> None:
        self._conversations = Conversations(store, on_named)
        self.store, self._max_bytes, self._on_drop = store, max_bytes, on_drop
        self._whole: queue.SimpleQueue[RawExchange | None] = queue.SimpleQueue()
        self._bytes = 0
        self._counting = threading.Lock()
        self._failing = False
        self._whole_ids: set[str] = set()
        self._socket = _listening(path)
        self._path = path
        self._threads = [
            threading.Thread(target=target, daemon=True, name=name)
            for target, name in ((self._accept, "content-accept"), (self._keep, "content-keep"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of exchanges are in memory."""
        return self._bytes

    def holds(self, request_id: str) -> bool:
        """True where all of the exchange is here, and it is not decided yet whether it is kept."""
        return request_id in self._whole_ids

    def close(self) -> None:
        """Keep what is whole, and end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        self._whole.put(None)
        self._threads[1].join()
        self.store.close()

    # -- take --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(
                target=self._take, args=(connection,), daemon=True, name="content-take"
            ).start()

    def _take(self, connection: socket.socket) -> None:
        parser = FrameParser()
        open_ones: dict[int, RawExchange] = {}
        with connection:
            try:
                while data := connection.recv(_READ_BYTES):
                    for frame in parser.feed(data):
                        self._take_frame(frame, open_ones)
            except (OSError, NotFrames, ValueError, KeyError) as error:
                log.warning("content_connection_ended", reason=str(error))
        for raw in open_ones.values():
            self._grow(-raw.size)

    def _take_frame(self, frame: Frame, open_ones: dict[int, RawExchange]) -> None:
        if frame.kind is Kind.REQUEST_HEAD:
            open_ones[frame.number] = RawExchange(request_head=_head_in(frame.data))
        raw = open_ones.get(frame.number)
        if raw is None:  # given up
            return
        size = len(frame.data) + FRAME_COST
        raw.size += size
        self._grow(size)
        if frame.kind is Kind.ABANDON or self._bytes > self._max_bytes:
            del open_ones[frame.number]
            self._grow(-raw.size)
            if frame.kind is not Kind.ABANDON:
                self._on_drop(raw.request_head["request_id"], "queue_full")
            return
        _add(raw, frame)
        if frame.kind is Kind.END:
            del open_ones[frame.number]
            self._whole_ids.add(raw.request_head["request_id"])
            self._whole.put(raw)

    def _grow(self, size: int) -> None:
        with self._counting:
            self._bytes += size

    # -- keep --------------------------------------------------------------------------------------

    def _keep(self) -> None:
        retained_at = float("-inf")
        while (batch := self._next_batch()) is not None:
            if batch:
                self._keep_batch(batch)
            if time.monotonic() - retained_at > _RETAIN_SECONDS:
                retained_at = time.monotonic()
                self._try(self._retain)

    def _next_batch(self) -> list[RawExchange] | None:
        """Return what came within a moment; None at the end."""
        batch: list[RawExchange] = []
        until = time.monotonic() + _BATCH_SECONDS
        while len(batch) < _BATCH and sum(raw.size for raw in batch) < _BATCH_BYTES:
            try:
                wait = until - time.monotonic() if batch else _RETAIN_SECONDS
                raw = self._whole.get(timeout=max(0.0, wait))
            except queue.Empty:
                break
            if raw is None:
                self._whole.put(None)
                return batch or None
            batch.append(raw)
        return batch

    def _keep_batch(self, batch: list[RawExchange]) -> None:
        exchanges = [found for raw in batch if (found := self._assembled(raw)) is not None]
        for some in by_day(exchanges):
            if not self._try(partial(self.store.add, some)):
                for exchange in some:
                    self._on_drop(exchange.request_id, "no_room")
        self._conversations.stored()
        self._whole_ids.difference_update(raw.request_head["request_id"] for raw in batch)
        self._grow(-sum(raw.size for raw in batch))

    def _assembled(self, raw: RawExchange) -> Exchange | None:
        request_id = raw.request_head["request_id"]
        try:
            return self._followed(assembled(raw, partial(self._are_new, request_id)))
        except TooLarge:
            self._on_drop(request_id, "too_large")
        except Exception:  # no body of a stranger may end the recording of others
            log.exception("content_not_assembled", request_id=request_id)
            self._on_drop(request_id, "unreadable")
        return None

    def _followed(self, exchange: Exchange) -> Exchange:
        try:
            self._conversations.follow(exchange)
        except (sqlite3.Error, OSError) as error:  # said where it is to be kept
            log.debug("conversation_not_followed", reason=str(error))
        return exchange

    def _are_new(self, request_id: str, pieces: Sequence[bytes]) -> Sequence[bool]:
        try:
            return self.store.are_new(request_id, pieces)
        except (sqlite3.Error, OSError):  # said where it is to be kept
            return [True] * len(pieces)

    def _retain(self) -> None:
        self.store.retain(datetime.now(UTC))

    def _try(self, work: Callable[[], object]) -> bool:
        """Do some *work* on the files; where that is not possible, say so once."""
        try:
            work()
        except (sqlite3.Error, OSError) as error:
            if not self._failing:
                self._failing = True
                log.error("content_not_kept", reason=str(error))  # noqa: TRY400  a fact
        except Exception:  # a defect here must not end the keeping of what comes
            log.exception("content_not_kept")
        else:
            self._failing = False
            return True
        return False


def _head_in(data: bytes) -> dict[str, Any]:
    head: dict[str, Any] = orjson.loads(data)
    return head | {"request_id": str(head["request_id"])}


def _add(raw: RawExchange, frame: Frame) -> None:
    if frame.kind is Kind.REQUEST_CHUNK:
        raw.request.append(frame.data)
    elif frame.kind is Kind.RESPONSE_HEAD:
        raw.response_head = orjson.loads(frame.data)
    elif frame.kind is Kind.RESPONSE_CHUNK:
        offset = raw.times[-1][0] + len(raw.response[-1]) if raw.times else 0
        raw.times.append((offset, frame.micros))
        raw.response.append(frame.data)
    elif frame.kind is Kind.END:
        raw.end = orjson.loads(frame.data)


def _listening(path: Path) -> socket.socket:
    make_private(path.parent)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        listening.bind(str(path))
    finally:
        os.umask(mask)
    listening.listen(64)
    return listening

"""What other machines have stored, for those who follow the journal of this one: as a worker's.

A lake has the rows of all machines; a live feed reads the journal of its own. So the recorder
writes what is new in the lake into segments of its own, as the ends of requests. Nobody stores
those.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

import structlog

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.journal.segments import list_segments, mirror_id, segment_name

if TYPE_CHECKING:
    from pathlib import Path

    from ccproxy_flask.store.base import RecordingStore

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
_SEGMENT_SECONDS = 30.0
_KEEP_SECONDS = 60.0


class Others:
    """Copies the news of *store* into *directory*, in a thread, until :meth:`close`."""

    def __init__(self, store: RecordingStore, directory: Path) -> None:
        self._store, self._directory = store, directory
        self._worker = mirror_id()
        self._number, self._fd, self._began = 0, -1, 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="others")
        self._thread.start()

    def _run(self) -> None:
        position = None
        self._remove_old(keep_seconds=0.0)
        while not self._stopping.wait(POLL_SECONDS):
            try:
                position, lines = self._store.news(position)
                if lines:
                    self._write(lines)
                self._remove_old(_KEEP_SECONDS)
            except (StoreUnavailable, OSError) as error:
                log.debug("others_not_followed", reason=str(error))
        if self._fd >= 0:
            os.close(self._fd)

    def _write(self, lines: list[bytes]) -> None:
        if self._fd < 0 or time.monotonic() - self._began > _SEGMENT_SECONDS:
            self._begin_next()
        text = memoryview(b"".join(b'{"event":"end",' + line[1:] + b"\n" for line in lines))
        while text:
            text = text[os.write(self._fd, text) :]

    def _begin_next(self) -> None:
        """Have the next segment in place, locked, before letting go of the last: as workers do."""
        self._number += 1
        path = self._directory / segment_name(self._worker, self._number)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        following = os.open(path, flags, 0o600)
        fcntl.flock(following, fcntl.LOCK_EX)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._began = following, time.monotonic()

    def _remove_old(self, keep_seconds: float) -> None:
        current = segment_name(self._worker, self._number)
        for segment in list_segments(self._directory, mirrors=True):
            is_old = time.time() - segment.modified > keep_seconds
            if segment.name != current and is_old:
                (self._directory / segment.name).unlink(missing_ok=True)

    def close(self) -> None:
        """End it."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

"""What was said, by day: files of one day or a part of it, found through the request's id.

One process keeps (the recorder), any thread of it reads. A request id is a UUIDv7, which says
when the request began; so the id alone says in which files to look.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from .day_file import DayFile, Exchange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d+))?\.sqlite")
_REQUEST_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_PARTS = 8
"""A file is full at this part of the space: so that there is always one to delete."""


class ContentStore:
    """The files in *directory*: at most *max_bytes*, none of a day over *days* ago."""

    def __init__(self, directory: Path, max_bytes: int, days: float) -> None:
        self._directory, self._max_bytes, self._days = directory, max_bytes, days
        self._lock = threading.Lock()
        self._open: dict[str, DayFile] = {}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    # -- keep --------------------------------------------------------------------------------------

    def add(self, exchanges: Sequence[Exchange]) -> None:
        """Keep *exchanges*. Raises sqlite3.Error or OSError where there is no room, and keeps none
        of the day that failed."""
        by_day: dict[str, list[Exchange]] = {}
        for exchange in exchanges:
            by_day.setdefault(_day_of(exchange.request_id), []).append(exchange)
        with self._lock:
            for day, some in by_day.items():
                self._current(day).add(some)

    def is_known(self, request_id: str, piece: bytes) -> bool:
        """True where the current file of the request's day has *piece*."""
        with self._lock:
            return bool(self._current(_day_of(request_id)).known([piece]))

    def retain(self, now: datetime) -> int:
        """Delete what is too old or too much, and return how many files that were."""
        files = self._files()
        oldest = (now.timestamp() - self._days * 86_400) // 86_400 * 86_400
        doomed = [path for path, day, _ in files if _begin_of(day) < oldest]
        kept = [path for path, _, _ in files if path not in doomed]
        total = sum(_size(path) for path in kept)
        while len(kept) > 1 and total > self._max_bytes:
            doomed.append(kept.pop(0))
            total -= _size(doomed[-1])
        with self._lock:
            for path in doomed:
                self._delete(path)
        return len(doomed)

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(_size(path) for path, _, _ in self._files())

    def reset(self) -> None:
        """Delete everything."""
        with self._lock:
            for path, _, _ in self._files():
                self._delete(path)

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _current(self, day: str) -> DayFile:
        opened = self._open.get(day)
        if opened is not None and opened.size() < self._max_bytes // _PARTS:
            return opened
        if opened is not None:
            opened.close()
        parts = [part for _, each, part in self._files() if each == day] or [1]
        part = max(parts) + (opened is not None)
        path = self._directory / (f"{day}.sqlite" if part == 1 else f"{day}.{part}.sqlite")
        while len(self._open) > 2:  # of days before
            self._open.pop(min(self._open)).close()
        self._open[day] = DayFile(path)
        return self._open[day]

    def _delete(self, path: Path) -> None:
        for day, opened in list(self._open.items()):
            if opened.path == path:
                self._open.pop(day).close()
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        log.info("content_removed", file=path.name)

    # -- read --------------------------------------------------------------------------------------

    def exchange(self, request_id: str) -> Exchange | None:
        """Return an exchange, None where it is not kept. Raises sqlite3.Error."""
        if not _REQUEST_ID.fullmatch(request_id):
            return None
        for path, _, _ in self._files(_day_of(request_id)):
            with _reading(path) as file:
                if file is not None and (found := file.exchange(request_id)) is not None:
                    return found
        return None

    def has(self, request_id: str) -> bool:
        """True where the exchange is kept."""
        if not _REQUEST_ID.fullmatch(request_id):
            return False
        for path, _, _ in self._files(_day_of(request_id)):
            with _reading(path) as file:
                if file is not None and file.has(request_id):
                    return True
        return False

    def session(self, session_id: str) -> list[str]:
        """Return the ids of the requests of a session that are kept, in order."""
        found: list[str] = []
        for path, _, _ in self._files():
            with _reading(path) as file:
                found += file.session(session_id) if file is not None else ()
        return sorted(found)

    def request_ids(self) -> Iterator[str]:
        """Yield the ids of all that is kept, day by day."""
        for path, _, _ in self._files():
            with _reading(path) as file:
                yield from list(file.request_ids()) if file is not None else ()

    def search(self, question: str, limit: int) -> list[tuple[str, int, str]]:
        """Return (request id, at, part) of what has all words of *question*, newest first."""
        found: list[tuple[str, int, str]] = []
        for path, _, _ in reversed(self._files()):
            if len(found) < limit:
                with _reading(path) as file:
                    found += file.search(question, limit - len(found)) if file is not None else ()
        return found

    def _files(self, day: str | None = None) -> list[tuple[Path, str, int]]:
        """Return (path, day, part), the oldest first."""
        found = []
        for path in self._directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and day in (None, match[1]):
                found.append((path, match[1], int(match[2] or 1)))
        return sorted(found, key=lambda each: each[1:])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[DayFile | None]:
    """Open a file for one question; None where it was deleted meanwhile."""
    try:
        file = DayFile(path, read_only=True)
    except sqlite3.OperationalError:
        if path.exists():
            raise
        yield None
        return
    try:
        yield file
    finally:
        file.close()


def _day_of(request_id: str) -> str:
    millis = int(request_id[:8] + request_id[9:13], 16)
    return datetime.fromtimestamp(millis / 1000, UTC).date().isoformat()


def _begin_of(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def _size(path: Path) -> int:
    size = 0
    for suffix in ("", "-wal"):
        with contextlib.suppress(OSError):
            size += path.with_name(path.name + suffix).stat().st_size
    return size

"""Append the start and the end of each request to the journal, without ever waiting."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
import weakref
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ccproxy_flask.record import new_request_id

from .lines import CANCELLED, dropped_line, lost_line, record_line
from .segments import list_segments, segment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ccproxy_flask.record import RequestRecord

DropReason = Literal["journal_full", "disk_full", "unwritable"]

LONGEST_BACKLOG_LINES = 10_000
LONGEST_BACKLOG_BYTES = 16 << 20
_MOST_LOST = 10_000
_MEASURE_SECONDS = 0.5
_RETRY_SECONDS = 0.1
_TEND_SECONDS = 0.02
_LOOK_SECONDS = 0.05
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(slots=True)
class _Open:
    """A request whose end is not on disk yet."""

    start: bytes
    written: bool
    """Its start line is on disk."""
    end: bytes | None = None
    """The line that waits to be written."""


class _Refused(Exception):
    """A line cannot be written now."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason)
        self.reason: DropReason = reason


class JournalWriter:
    """The journal of one process.

    :meth:`start` and :meth:`end` never raise and never wait. A line that cannot be written stays in
    memory, up to a bound, and is tried again by :meth:`tend`. What goes over the bound is dropped:
    a request whose start is on disk gets a ``lost`` line as soon as one can be written, and is not
    counted; any other is counted, once, by *on_drop* with a :data:`DropReason`. A process that was
    forked gets a segment of its own at its first line.

    *max_bytes* bounds all segments in *directory* together, *min_free_bytes* is what stays free on
    its disk (both may be changed later); a segment is closed at *segment_bytes* or after
    *segment_seconds*.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        min_free_bytes: int,
        segment_bytes: int,
        segment_seconds: float,
        on_drop: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self.max_bytes, self.min_free_bytes = max_bytes, min_free_bytes
        self._segment_bytes = min(segment_bytes, max(4096, max_bytes // 8))
        self._segment_seconds = segment_seconds
        self._step = min(1 << 20, max_bytes // 64)
        self._on_drop = on_drop
        self._fd: int | None = None
        self._begin_life()
        own = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := own()) and method())

    def _begin_life(self) -> None:
        self._lock = threading.Lock()
        self._worker = new_request_id().replace("-", "")
        self._number = 0
        self._opened_at = 0.0
        self._appended = 0
        self._torn = self._broken = False
        self._open: dict[str, _Open] = {}
        self._waiting: deque[str] = deque()
        self._waiting_bytes = 0
        self._lost: deque[bytes] = deque()
        self._dropped: Counter[str] = Counter()
        self._trouble: DropReason | None = None
        self._retry_at = 0.0
        self._measured_at = -_MEASURE_SECONDS
        self._looked_at = 0.0
        self._total = self._free = self._since_measure = 0

    def _after_fork(self) -> None:
        """Let go of the parent's segment: a copy of its descriptor would keep its lock alive."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._begin_life()

    # -- the two events of a request ---------------------------------------------------------------

    def start(self, record: RequestRecord) -> None:
        """Note that the request of *record* began."""
        line = record_line("start", record)
        with self._lock:
            written = self._try(line)
            self._open[record.request_id] = _Open(line, written)

    def end(self, record: RequestRecord) -> None:
        """Keep the finished *record*."""
        line = record_line("end", record)
        with self._lock:
            request = self._open.pop(record.request_id, None)
            if not self._try(line):
                self._keep(record.request_id, request or _Open(b"", written=False), line)

    @property
    def backlog_lines(self) -> int:
        """How many finished records wait in memory to be written."""
        return len(self._waiting) + len(self._lost)

    @property
    def dropped(self) -> dict[str, int]:
        """Dropped records by reason that the journal has not been told of yet."""
        return dict(self._dropped)

    @property
    def trouble(self) -> str | None:
        """Why lines cannot be written now; None where they can."""
        return self._trouble

    def _keep(self, request_id: str, request: _Open, line: bytes) -> None:
        fits = (
            len(self._waiting) < LONGEST_BACKLOG_LINES
            and self._waiting_bytes + len(line) <= LONGEST_BACKLOG_BYTES
        )
        if fits:
            request.end = line
            self._open[request_id] = request
            self._waiting.append(request_id)
            self._waiting_bytes += len(line)
        elif not request.written:
            self._drop()
        elif len(self._lost) < _MOST_LOST:
            self._lost.append(request.start)
        # Over that bound too the request still gets a row: its start line is on disk without an
        # end, and the recorder closes it when this worker is gone.

    def _drop(self) -> None:
        reason = self._trouble or "unwritable"
        self._dropped[reason] += 1
        self._on_drop(reason)

    # -- writing -----------------------------------------------------------------------------------

    def _try(self, line: bytes) -> bool:
        """Write *line* and return True, or note the trouble and return False."""
        if self._trouble is not None and time.monotonic() < self._retry_at:
            return False
        try:
            self._append(line)
        except _Refused as refused:
            self._in_trouble(refused.reason)
        except OSError as error:
            self._broken = error.errno not in _FULL
            self._in_trouble("unwritable" if self._broken else "disk_full")
        else:
            self._trouble = None
            return True
        return False

    def _in_trouble(self, reason: DropReason) -> None:
        self._trouble = reason
        self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _append(self, line: bytes) -> None:
        now = time.monotonic()
        self._need_room(len(line), now)
        fd = self._fd
        if fd is None or self._broken or self._is_due(now) or self._is_removed(fd, now):
            fd = self._next_segment()
        if self._torn:
            line = CANCELLED + b"\n" + line
        self._write(fd, line)
        self._torn = False
        self._appended += len(line)

    def _write(self, fd: int, data: bytes) -> None:
        rest = data
        while rest:
            # Once a part is written the line is torn until the whole of it is.
            written = os.write(fd, rest)
            self._since_measure += written
            rest = rest[written:]
            self._torn = self._torn or bool(rest)

    def _is_due(self, now: float) -> bool:
        """True where the segment is full, or old and not only a copy of the one before."""
        if self._appended >= self._segment_bytes:
            return True
        return self._appended > 0 and now - self._opened_at >= self._segment_seconds

    def _is_removed(self, fd: int, now: float) -> bool:
        if now - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = now
        return os.fstat(fd).st_nlink == 0

    def _need_room(self, size: int, now: float) -> None:
        if now - self._measured_at >= _MEASURE_SECONDS or self._since_measure > self._step:
            self._measure(now)
        used = self._since_measure + size
        if self._total + used > self.max_bytes:
            raise _Refused("journal_full")
        if self._free - used < self.min_free_bytes:
            raise _Refused("disk_full")

    def _measure(self, now: float) -> None:
        self._make_directory()
        disk = os.statvfs(self._directory)
        self._free = disk.f_bavail * disk.f_frsize
        self._total = sum(segment.size for segment in list_segments(self._directory))
        self._since_measure = 0
        self._measured_at = now
        if self._fd is not None and not self._is_in_place(self._fd):
            self._broken = True

    def _is_in_place(self, fd: int) -> bool:
        """False where the segment was moved or removed under our hands."""
        try:
            there = (self._directory / segment_name(self._worker, self._number)).stat()
        except FileNotFoundError:
            return False
        here = os.fstat(fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _next_segment(self) -> int:
        """Open the next segment, beginning with all requests in flight, and leave the old one.

        The new one is in place and locked before the old one is let go, and the old one is kept
        where that fails.
        """
        self._make_directory()
        name = segment_name(self._worker, self._number + 1)
        hidden = self._directory / f".{name}.new"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(hidden, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rest = memoryview(b"".join(self._still_open()))
            while rest:
                rest = rest[os.write(fd, rest) :]
            hidden.rename(self._directory / name)
        except OSError:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            raise
        self._moved_to(fd)
        return fd

    def _still_open(self) -> Iterator[bytes]:
        yield from (request.start for request in self._open.values())
        yield from self._lost

    def _moved_to(self, fd: int) -> None:
        old, self._fd = self._fd, fd
        if old is not None:
            os.close(old)
        self._number += 1
        self._opened_at = time.monotonic()
        self._appended = 0
        self._torn = self._broken = False
        for request in self._open.values():
            request.written = bool(request.start)

    # -- what is done at leisure -------------------------------------------------------------------

    def tend(self) -> None:
        """Write what waits, and leave a segment that is old. Call it about once a second."""
        with self._lock:
            self._retry_at = 0.0
            if self._fd is not None and self._should_leave(self._fd):
                self._leave_segment()
            self._write_waiting(time.monotonic() + _TEND_SECONDS)

    def _should_leave(self, fd: int) -> bool:
        # A full journal gets room only where segments are left behind, so this asks for none.
        if self._is_due(time.monotonic()) or (self._trouble is not None and self._appended > 0):
            return True
        try:
            return not self._is_in_place(fd)
        except OSError:
            return True

    def _leave_segment(self) -> None:
        try:
            self._next_segment()
        except OSError as error:
            self._in_trouble("disk_full" if error.errno in _FULL else "unwritable")

    def _write_waiting(self, deadline: float = float("inf")) -> None:
        while self._waiting and time.monotonic() < deadline:
            request = self._open[self._waiting[0]]
            if request.end is None or not self._try(request.end):
                return
            self._waiting_bytes -= len(request.end)
            del self._open[self._waiting.popleft()]
        while self._lost:
            if not self._try(lost_line(self._lost[0])):
                return
            self._lost.popleft()
        for reason, count in list(self._dropped.items()):
            if not self._try(dropped_line(reason, count)):
                return
            del self._dropped[reason]
        self._write_starts(deadline)

    def _write_starts(self, deadline: float) -> None:
        for request in self._open.values():
            if request.written or request.end is not None:
                continue
            if time.monotonic() >= deadline or not self._try(request.start):
                return
            request.written = True

    def close(self) -> None:
        """Write what waits, count what cannot be written, and let go of the segment.

        With requests still in flight its lock is kept, and goes with the process: what they end
        with can still be written, and nobody takes them for lost before.
        """
        with self._lock:
            self._retry_at = 0.0
            self._write_waiting()
            for request_id in self._waiting:
                if not self._open.pop(request_id).written:
                    self._drop()
            self._waiting.clear()
            self._waiting_bytes = 0
            if self._fd is not None and not self._open:
                os.close(self._fd)
                self._fd = None

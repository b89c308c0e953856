"""Append the start and the end of each request to the journal, without ever waiting."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import weakref
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gevent import monkey

from ccproxy_flask.folders import make_private
from ccproxy_flask.record import new_request_id

from .ledger import UNKNOWN_REASON, Account, Ledger
from .lines import CANCELLED, lost_line, record_line
from .segments import list_segments, segment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ccproxy_flask.record import RequestRecord

DropReason = Literal["journal_full", "disk_full", "unwritable"]

LONGEST_BACKLOG_LINES = 10_000
LONGEST_BACKLOG_BYTES = 16 << 20
# The system's own: it is held for moments, and no greenlet switches meanwhile.
_new_lock = monkey.get_original("_thread", "allocate_lock")
_MEASURE_SECONDS = 0.5
_RETRY_SECONDS = 0.1
_SMALLEST_SEGMENT = 64 << 10
_MAINTAIN_SECONDS = 0.02
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


class _StartRefused(_Refused):
    """There is room for the ends of what has begun, but not for more to begin."""


class JournalWriter:
    """The journal of one process.

    :meth:`start` and :meth:`end` never raise and never wait. A line that cannot be written stays in
    memory, up to a bound, and is tried again by :meth:`maintain`. What goes over the bound is
    dropped: a request whose start is on disk gets a ``lost`` line as soon as one can be written,
    and is not counted; any other is counted, once, by *on_drop* with a :data:`DropReason` and in
    the :class:`Ledger`. Where room gets short, starts are refused before ends: so what has a start
    on disk can end there. A process that was forked gets a segment of its own at its first line.

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
        self._ledger: Ledger | None = None
        self._begin_life()
        own = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := own()) and method())

    def _begin_life(self) -> None:
        self._lock = _new_lock()
        self._worker = new_request_id().replace("-", "")
        self._number = 0
        self._opened_at = 0.0
        self._appended = 0
        self._torn = self._broken = False
        self._open: dict[str, _Open] = {}
        self._open_bytes = 0
        """Of the start lines on disk in :attr:`_open`: a new segment repeats them."""
        self._waiting: deque[str] = deque()
        self._waiting_bytes = 0
        self._lost: deque[bytes] = deque()
        self._account = Account(self._worker)
        self._unwritten = self._half_written = 0
        self._dropped: Counter[str] = Counter()
        self._trouble: DropReason | None = None
        self._starts_refused: DropReason | None = None
        self._retry_at = 0.0
        self._measured_at = -_MEASURE_SECONDS
        self._looked_at = 0.0
        self._total = self._free = self._since_measure = 0

    def _after_fork(self) -> None:
        """Let go of the parent's files: a copy of a descriptor would keep its lock alive."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        self._begin_life()

    # -- the two events of a request ---------------------------------------------------------------

    def start(self, record: RequestRecord) -> None:
        """Note that the request of *record* began."""
        line = record_line("start", record)
        with self._lock:
            request = self._open[record.request_id] = _Open(line, written=False)
            self._unwritten += 1
            if self._try_start(line):
                self._is_on_disk(request)
            if self._is_account_due():
                self._keep_account()

    def end(self, record: RequestRecord) -> None:
        """Keep the finished *record*."""
        line = record_line("end", record)
        with self._lock:
            request = self._open.pop(record.request_id, None)
            if request is None:
                request = _Open(b"", written=False)
                self._unwritten += 1
            if self._try(line):
                self._is_over(request)
            else:
                self._keep(record.request_id, request, line)
            if self._is_account_due():
                self._keep_account()

    @property
    def worker(self) -> str:
        """The id of this process's life, with which the names of its files begin."""
        return self._worker

    @property
    def backlog_lines(self) -> int:
        """How many finished records of this process wait in memory to be written."""
        return len(self._waiting) + len(self._lost)

    @property
    def dropped(self) -> dict[str, int]:
        """Records that this process dropped, by reason."""
        return dict(self._dropped)

    @property
    def trouble(self) -> str | None:
        """Why lines cannot be written now; None where they can."""
        return self._trouble or self._starts_refused

    def _is_on_disk(self, request: _Open) -> None:
        request.written = True
        self._unwritten -= 1
        self._open_bytes += len(request.start)

    def _is_over(self, request: _Open) -> None:
        """The end of *request* is on disk, or it is not to be written any more."""
        if request.written:
            self._open_bytes -= len(request.start)
        else:
            self._unwritten -= 1

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
            self._half_written += request.written
        elif request.written:
            # As many at most as were in flight: with the memory full no start is written.
            self._lost.append(request.start)
            self._half_written += 1
        else:
            self._is_over(request)
            self._drop()

    def _drop(self) -> None:
        reason = self.trouble or UNKNOWN_REASON
        self._dropped[reason] += 1
        self._on_drop(reason)

    # -- the ledger --------------------------------------------------------------------------------

    def _is_account_due(self) -> bool:
        """True where what there is to say differs from what the ledger says."""
        known = self._account
        return (
            self._ledger is None
            or self._unwritten != known.unwritten
            or len(self._waiting) + len(self._lost) != known.waiting
            or (self._trouble or self._starts_refused) is not None
            or known.in_trouble
        )

    def _keep_account(self, *, closed: bool = False) -> None:
        if self._ledger is None:
            self._ledger = Ledger(self._directory, self._worker)
        self._account = Account(
            self._worker,
            self._account.turn + 1,
            self._unwritten,
            self.backlog_lines,
            self._half_written,
            dict(self._dropped),
            self.trouble or self._account.trouble,
            in_trouble=self.trouble is not None,
            closed=closed,
        )
        self._ledger.write(self._account)

    # -- writing -----------------------------------------------------------------------------------

    def _try_start(self, line: bytes) -> bool:
        """Write the start *line* where that leaves room for the ends of what has begun."""
        if len(self._waiting) > LONGEST_BACKLOG_LINES // 2:
            return False
        self._starts_refused = None
        return self._try(line, is_start=True)

    def _try(self, line: bytes, *, is_start: bool = False) -> bool:
        """Write *line* and return True, or note the trouble and return False."""
        if self._trouble is not None and time.monotonic() < self._retry_at:
            return False
        try:
            self._append(line, is_start)
        except _StartRefused as refused:
            self._starts_refused = refused.reason
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

    def _append(self, line: bytes, is_start: bool) -> None:
        now = time.monotonic()
        self._need_room(len(line), now, is_start)
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
        # On a small disk a segment must end while there is room for the next one.
        appended = self._appended
        if appended >= _SMALLEST_SEGMENT or appended >= self._segment_bytes:
            room = self._free - self._since_measure - self.min_free_bytes
            if appended >= min(self._segment_bytes, max(_SMALLEST_SEGMENT, room // 4)):
                return True
        return self._appended > 0 and now - self._opened_at >= self._segment_seconds

    def _is_removed(self, fd: int, now: float) -> bool:
        if now - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = now
        return os.fstat(fd).st_nlink == 0

    def _need_room(self, size: int, now: float, is_start: bool) -> None:
        if now - self._measured_at >= _MEASURE_SECONDS or self._since_measure > self._step:
            self._measure(now)
        used = self._since_measure + size
        if self._total + used > self.max_bytes:
            raise _Refused("journal_full")
        if self._free - used < self.min_free_bytes:
            raise _Refused("disk_full")
        if is_start and (
            self._total + used > self.max_bytes * 3 // 4
            or self._open_bytes + size > self.max_bytes // 8
        ):
            raise _StartRefused("journal_full")

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
            make_private(self._directory)

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
        yield from (request.start for request in self._open.values() if request.written)
        yield from self._lost

    def _moved_to(self, fd: int) -> None:
        old, self._fd = self._fd, fd
        if old is not None:
            os.close(old)
        self._number += 1
        self._opened_at = time.monotonic()
        self._appended = 0
        self._torn = self._broken = False

    # -- what is done at leisure -------------------------------------------------------------------

    def maintain(self) -> None:
        """Write what waits, and leave a segment that is old. Call it about once a second."""
        with self._lock:
            self._retry_at = 0.0
            if self._fd is not None and self._should_leave(self._fd):
                self._leave_segment()
            self._write_waiting(time.monotonic() + _MAINTAIN_SECONDS)
            if self._ledger is not None and (self._is_account_due() or self._ledger.is_missing):
                self._keep_account()

    def _should_leave(self, fd: int) -> bool:
        # A full journal gets room only where segments are left behind, so this asks for none.
        if self._is_due(time.monotonic()) or (self.trouble is not None and self._appended > 0):
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
            self._half_written -= request.written
            self._is_over(request)
            del self._open[self._waiting.popleft()]
        while self._lost:
            if not self._try(lost_line(self._lost[0])):
                return
            self._open_bytes -= len(self._lost.popleft())
            self._half_written -= 1
        self._write_starts(deadline)

    def _write_starts(self, deadline: float) -> None:
        for request in self._open.values():
            if request.written or request.end is not None:
                continue
            if time.monotonic() >= deadline or not self._try_start(request.start):
                return
            self._is_on_disk(request)
        self._starts_refused = None

    def close(self) -> None:
        """Write what waits, count what cannot be written, and let go of the segment.

        With requests still in flight its lock is kept, and goes with the process: what they end
        with can still be written, and nobody takes them for lost before.
        """
        with self._lock:
            self._retry_at = 0.0
            self._write_waiting()
            while self._waiting:
                request = self._open.pop(self._waiting.popleft())
                if not request.written:
                    self._is_over(request)
                    self._drop()
            self._waiting_bytes = 0
            if not self._open:
                self._let_go()
            elif self._is_account_due():
                self._keep_account()

    def _let_go(self) -> None:
        """Close the files: the ledger says what of it was on purpose before the lock goes."""
        if self._ledger is not None and (self._dropped or self._half_written):
            self._keep_account(closed=True)
            self._ledger.close()
        elif self._ledger is not None:
            self._ledger.remove()
        self._ledger = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

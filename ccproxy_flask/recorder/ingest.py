"""Move the journal's lines into the store: each request once, whatever dies in between."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from ccproxy_flask.journal.ledger import FoundLedger, read_ledgers, remove_ledger
from ccproxy_flask.journal.lines import CANCELLED, identify, parse, storable
from ccproxy_flask.journal.reader import read_lines, read_rest
from ccproxy_flask.journal.segments import Segment, by_worker, is_alive, list_segments
from ccproxy_flask.record import RequestRecord, to_json
from ccproxy_flask.store.base import CommittedOffset, RowsRefused

from .chains import Chains
from .limits import KNOWN_OF_EACH
from .limits import Limits as RateLimits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ccproxy_flask.store.base import RecordingStore
    from ccproxy_flask.store.limit_rows import LimitRow

log = structlog.get_logger(__name__)

KEEP_SECONDS = 60.0
"""How long a stored segment stays, for those who follow the journal live."""
BATCH_BYTES = 16 << 20
"""About so much of the journal goes into one transaction: few large ones cost less than many."""
_READ_BYTES = 4 << 20
_DAMAGED_NAME = "damaged.ndjson"
_LARGEST_DAMAGED = 16 << 20
_LEDGER_ENDING = ".ledger"
# As it stands in a line only where it is the column: quotes in texts are escaped.
_CONTENT = b'"content":"'
_WORKER_LOST = "the worker process ended with this request in flight"
_RECORD_LOST = "the request ended, but its record could not be written"


class Observer(Protocol):
    """Who wants to know what the recorder does."""

    def written(self, count: int) -> None:
        """*count* records reached the store."""

    def worker_lost(self, record: RequestRecord) -> None:
        """A request went down with its worker."""

    def dropped(self, reason: str, count: int = 1) -> None:
        """*count* requests went down with their worker, which could not write a line of them."""

    def backlog(self, size: int) -> None:
        """*size* bytes of the journal are not stored yet."""

    def store_health(self, up: bool) -> None:
        """The store takes records, or it does not."""

    def content_dropped(self, reason: str) -> None:
        """The content of an exchange could not be kept."""


class NullObserver:
    """An observer that does nothing."""

    def written(self, count: int) -> None:
        """Do nothing."""

    def worker_lost(self, record: RequestRecord) -> None:
        """Do nothing."""

    def dropped(self, reason: str, count: int = 1) -> None:
        """Do nothing."""

    def backlog(self, size: int) -> None:
        """Do nothing."""

    def store_health(self, up: bool) -> None:
        """Do nothing."""

    def content_dropped(self, reason: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When stored segments are not kept for others to read: over half of *max_bytes* of journal,
    or with less free on its disk than twice *min_free_bytes*, or than the journal takes."""

    max_bytes: int
    min_free_bytes: int


@dataclass(slots=True)
class _Worker:
    """What is known of the writer of some segments."""

    starts: dict[str, bytes] = field(default_factory=dict)
    """The start lines of requests that have not ended."""
    closed_at: int = 0
    """The newest segment when the worker was found dead and its open requests were stored."""
    followed: bool = False
    """It was seen alive: what it writes from then on is new to the store."""
    seen: int = 0
    """The newest of its segments that was looked at."""


@dataclass(slots=True)
class _Slice:
    """Some lines of one segment."""

    segment: Segment
    begin: int
    end: int
    """Where the lines end."""
    starts: dict[str, bytes] = field(default_factory=dict)
    rows: list[tuple[str, bytes]] = field(default_factory=list)
    """Request id and JSON of what goes into the store."""
    kept_content: list[str] = field(default_factory=list)
    """Those of these requests whose row says that their content is kept."""
    damaged: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.end - self.begin

    def take(self, line: bytes) -> None:
        """Sort *line* in."""
        known = identify(line)
        if known is not None:
            event, request_id = known
            if event == "start":
                self.starts[request_id] = line
            else:
                self.rows.append((request_id, line))
                self._note_content(request_id, line)
        elif line and not line.endswith(CANCELLED):
            self._take_other(line, parse(line))

    def _note_content(self, request_id: str, line: bytes) -> None:
        at = line.find(_CONTENT) + len(_CONTENT)
        if at < len(_CONTENT):
            return
        if line.startswith(b'kept"', at):
            self.kept_content.append(request_id)
        elif line.startswith(b'dropped"', at):
            self.counts["content_dropped"] += 1

    def _take_other(self, line: bytes, fields: dict[str, Any] | None) -> None:
        kind = fields["event"] if fields is not None else None
        request_id = fields.get("request_id") if fields is not None else None
        if fields is not None and kind == "dropped" and isinstance(fields.get("count"), int):
            self.counts[f"dropped:{str(fields.get('reason'))[:32]}"] += fields["count"]
        elif fields is None or not isinstance(request_id, str):
            self.damaged.append(line)
        elif kind == "start":
            self.starts[request_id] = line
        elif kind == "end":
            self.rows.append((request_id, line))
        elif kind == "lost":
            row = fields | {"error_type": "record_lost", "error_message": _RECORD_LOST}
            self.rows.append((request_id, to_json(storable(row))))
            self.counts["record_lost"] += 1
        else:
            self.damaged.append(line)


class Ingest:
    """One pass after the other over the journal in *directory*.

    Every call may raise StoreUnavailable; what was then not stored stays in the journal. Throw the
    object away after that and make a new one: only the store knows whether a commit that failed
    took place.
    """

    def __init__(
        self,
        store: RecordingStore,
        directory: Path,
        limits: Limits,
        observer: Observer | None = None,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._store, self._directory, self._limits = store, directory, limits
        self._observer: Observer = observer or NullObserver()
        self._keep_seconds = keep_seconds
        self.kept_content: list[str] = []
        """The requests of stored rows that say that their content is kept; for who takes them."""
        self.is_behind = False
        """Whether the last step left something that it saw."""
        self._chains = Chains(store.conversations)
        self._rate_limits = RateLimits(store.newest_limits(KNOWN_OF_EACH))
        self._positions: dict[str, int] = {}
        self._unmarked: set[str] = set()
        """Segments whose position the store does not know: there was no row to store with it."""
        self._replayed: set[str] = set()
        """Segments of which the store may have rows already: nobody saw them being written."""
        self._workers: dict[str, _Worker] = {}
        self._folded: set[str] = set()
        """Ledgers of dead workers that are part of the store's counts."""
        self.folds = 0
        """How often that changed."""
        self._reported: set[str] = set()
        """Files of the journal that cannot be read; each is logged once."""
        self._caught_up_at = time.monotonic()
        self._rebuild()

    def backlog(self) -> tuple[int, float]:
        """Return how many bytes of the journal are not stored, and for how many seconds there have
        been such; as things are, also while a step takes long. Raises OSError."""
        waiting = self._not_stored(list_segments(self._directory))
        return waiting, time.monotonic() - self._caught_up_at if waiting else 0.0

    def _not_stored(self, segments: Iterable[Segment]) -> int:
        known = self._positions
        return sum(max(0, segment.size - known.get(segment.name, 0)) for segment in segments)

    def dropped(self) -> Counter[str]:
        """Return the requests without a row, by reason, that the store's counts lack."""
        found: Counter[str] = Counter()
        for ledger in read_ledgers(self._directory):
            if _ledger_mark(ledger) not in self._folded:
                found.update(ledger.dropped)
        return found

    def _rebuild(self) -> None:
        """Take from the store how far each segment is stored, and from there what is open."""
        marks = self._store.marks()
        self._folded = {name for name in marks if name.endswith(_LEDGER_ENDING)}
        for segment in list_segments(self._directory):
            mark = marks.get(segment.name)
            if mark is None:
                continue
            worker = self._worker(segment)
            self._positions[segment.name] = mark.position
            if mark.closed:
                worker.closed_at = segment.number
                worker.starts.clear()
                continue
            try:
                for part in self._parts(segment, 0, mark.position):
                    _apply(worker, part)
            except OSError as error:
                self._report(segment.name, str(error))

    def _worker(self, segment: Segment) -> _Worker:
        return self._workers.setdefault(segment.worker, _Worker())

    def _parts(self, segment: Segment, begin: int, end: int) -> Iterable[_Slice]:
        while begin < end:
            part = self._read(segment, begin, min(_READ_BYTES, end - begin))
            if part is None or part.end == begin:
                return
            begin = part.end
            yield part

    def _read(self, segment: Segment, begin: int, limit: int) -> _Slice | None:
        try:
            lines, end = read_lines(self._directory / segment.name, begin, limit)
        except FileNotFoundError:
            return None
        part = _Slice(segment, begin, end)
        for line in lines:
            part.take(line)
        return part

    def forget_limits(self) -> None:
        """Take what is said of rate limits from here on for new: the store has no row of them."""
        self._rate_limits = RateLimits([])

    def rename_conversations(self) -> None:
        """Tell rows of chains whose beginning came after what goes on with them."""
        if self._chains.renamed:
            told = self._store.name_conversations({}, self._chains.renamed)
            if told is not None:  # else later
                self._chains.renamed = {}

    # -- one pass ----------------------------------------------------------------------------------

    def step(self) -> bool:
        """Store a batch of what is new; return False where there was nothing.

        Raises StoreUnavailable, or OSError where the journal cannot be read.
        """
        segments = list_segments(self._directory, self._report)
        readable: list[list[Segment]] = []
        parts, self.is_behind = self._collect(by_worker(segments), readable)
        if parts:
            self._keep(parts)
        gone = [] if self.is_behind else self._finish(readable, segments)
        self._measure(segment for segment in segments if segment.name not in gone)
        return bool(parts)

    def _report(self, name: str, reason: str = "not a regular file of ours") -> None:
        if name not in self._reported:
            self._reported.add(name)
            log.error("segment_not_readable", segment=name, reason=reason)

    def _collect(
        self, groups: Mapping[str, list[Segment]], readable: list[list[Segment]]
    ) -> tuple[list[_Slice], bool]:
        """Return about a batch of what is new, and whether there is more; *readable* gets the
        groups all of which could be read. A segment that cannot be holds up its worker's alone."""
        found: list[_Slice] = []
        for group in groups.values():
            room = BATCH_BYTES - sum(map(len, found))
            if room <= 0:
                return found, True
            try:
                found += self._news(group, room)
            except OSError as error:
                self._report(group[0].worker, str(error))
                continue
            readable.append(group)
        return found, sum(map(len, found)) >= BATCH_BYTES

    def _news(self, group: list[Segment], room: int) -> list[_Slice]:
        found: list[_Slice] = []
        for segment in group:
            self._look_at(segment, group)
            # What stood in the list may have grown before its worker left it for the next; a
            # request's end in that must not come after what its worker wrote later.
            size = segment.size if segment is group[-1] else self._size(segment)
            for part in self._parts(segment, self._positions.get(segment.name, 0), size):
                found.append(part)
                room -= len(part)
                if room <= 0:
                    return found
        return found

    def _look_at(self, segment: Segment, group: list[Segment]) -> None:
        """Note whether the rows of *segment* are new: those that its worker writes while we follow
        it are. Others may have been put back, and be there already."""
        worker = self._worker(segment)
        if segment.number > worker.seen and segment.name not in self._positions:
            was_followed = worker.followed
            worker.followed = was_followed or is_alive(self._directory, group[-1])
            if not was_followed and not (worker.followed and segment is group[-1]):
                self._replayed.add(segment.name)
        elif segment.name not in self._positions:
            self._replayed.add(segment.name)
        worker.seen = max(worker.seen, segment.number)

    def _keep(self, parts: list[_Slice]) -> None:
        """Store *parts*, and only then remember that they are."""
        named = iter(self._chains.named([row for part in parts for row in part.rows]))
        for part in parts:
            part.rows = list(itertools.islice(named, len(part.rows)))
        rows = [line for part in parts for _, line in part.rows]
        kept = len(rows)
        counts = sum((part.counts for part in parts), Counter[str]())
        damaged = [line for part in parts for line in part.damaged]
        counts.update({"damaged_lines": len(damaged)} if damaged else {})
        stated, ignored = self._rate_limits.changes(row for part in parts for row in part.rows)
        counts.update({"limits_ignored": ignored} if ignored else {})
        if rows or counts:
            ends = {name: self._positions[name] for name in self._unmarked} | _ends(parts)
            marks = [CommittedOffset(name, end) for name, end in ends.items()]
            try:
                if any(part.segment.name in self._replayed for part in parts):
                    by_id = {request_id: line for part in parts for request_id, line in part.rows}
                    kept = self._store.append_missing(by_id, marks, counts, limits=stated)
                else:
                    self._store.append(rows, marks, counts, stated)
            except RowsRefused as refused:
                log.warning("rows_refused", rows=len(rows), reason=str(refused)[:300])
                damaged += self._keep_what_fits(parts, marks, counts, stated)
            self._unmarked.clear()
            self._observer.written(kept)
        else:
            self._unmarked.update(_ends(parts))
        for part in parts:
            self._positions[part.segment.name] = part.end
            _apply(self._worker(part.segment), part)
            self.kept_content += part.kept_content
        if damaged:
            self._put_aside(damaged)

    def _keep_what_fits(
        self,
        parts: list[_Slice],
        marks: list[CommittedOffset],
        counts: Counter[str],
        stated: list[LimitRow],
    ) -> list[bytes]:
        """Store the rows of *parts* that can be, without what does not fit; return the others.

        A request whose end is beyond repair stays open, and gets its row when its worker is gone.
        """
        refused: list[bytes] = []
        for part in parts:
            kept = []
            for request_id, line in part.rows:
                row, whole = _repaired(line)
                if row is None or not self._keep_one(request_id, row):
                    refused.append(line)
                    continue
                kept.append((request_id, line))
                if not whole:
                    refused.append(line)
            part.rows = kept
            part.kept_content = list(set(part.kept_content).intersection(dict(kept)))
        counts["damaged_lines"] += len(refused)
        self._store.append([], marks, counts, stated)
        return refused

    def _keep_one(self, request_id: str, row: bytes) -> bool:
        # One by one the marks come last, so a row may be there from a try that was broken off.
        try:
            self._store.append_missing({request_id: row}, [], {})
        except RowsRefused:
            return False
        return True

    def _put_aside(self, lines: list[bytes]) -> None:
        """Keep damaged *lines* for a person to look at."""
        log.warning("journal_lines_damaged", count=len(lines), file=_DAMAGED_NAME)
        path = self._directory / _DAMAGED_NAME
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
            try:
                if os.fstat(fd).st_size < _LARGEST_DAMAGED:
                    os.write(fd, b"\n".join(lines) + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("damaged_lines_not_kept", reason=error.strerror)

    # -- the ends of segments and of workers -------------------------------------------------------

    def _finish(self, groups: list[list[Segment]], segments: list[Segment]) -> list[str]:
        ledgers = {one.account.worker: one for one in read_ledgers(self._directory)}
        pressed = self._is_pressed(segments)
        gone: list[str] = []
        for group in groups:
            try:
                gone += self._finish_group(group, pressed, ledgers.get(group[0].worker))
            except OSError as error:
                self._report(group[0].worker, str(error))
        if gone:
            self._store.forget(gone)
        open_workers = {one.worker for one in segments} - {
            group[0].worker for group in groups if self._has_ended(group)
        }
        for worker, ledger in ledgers.items():
            if not ledger.alive and worker not in open_workers:
                self._fold(ledger)
        for group in groups:
            if self._has_ended(group) and group[-1].name in gone:
                del self._workers[group[0].worker]
        return gone

    def _finish_group(
        self, group: list[Segment], pressed: bool, ledger: FoundLedger | None
    ) -> list[str]:
        for segment in group[:-1]:
            self._take_rest(segment, comes_again=True)
        self._close_if_dead(group[-1], ledger)
        return self._remove_stored(group, pressed)

    def _fold(self, ledger: FoundLedger) -> None:
        """Add what a dead worker could not keep to the counts of the store, once."""
        name, account = _ledger_mark(ledger), ledger.account
        if account.final and name not in self._folded:
            counts = {f"dropped:{reason}": count for reason, count in account.final.items()}
            # The mark stays for good: the ledger may be put back, or be on a disk gone read-only.
            self._store.append([], [CommittedOffset(name, account.turn, closed=True)], counts)
            self._store.settle()
            self._folded.add(name)
            self.folds += 1
            log.warning("records_dropped", worker=account.worker, **account.final)
            for reason, count in account.lost.items():
                self._observer.dropped(reason, count)
        remove_ledger(ledger)

    def _has_ended(self, group: list[Segment]) -> bool:
        return self._worker(group[-1]).closed_at == group[-1].number

    def _take_rest(self, segment: Segment, comes_again: bool) -> None:
        """Take what stands behind the last newline of a segment that nobody writes any more.

        A worker that left a segment with half a line writes that line to its next one.
        """
        begin = self._positions.get(segment.name, 0)
        try:
            rest = read_rest(self._directory / segment.name, begin)
        except FileNotFoundError:
            return
        if not rest or b"\n" in rest:
            return
        part = _Slice(segment, begin, begin + len(rest))
        if comes_again:
            pass
        elif parse(rest) is not None:
            part.take(rest)
        else:
            part.damaged.append(rest)
        self._keep([part])

    def _close_if_dead(self, newest: Segment, ledger: FoundLedger | None) -> None:
        worker = self._worker(newest)
        if worker.closed_at == newest.number or is_alive(self._directory, newest):
            return
        # It may have written between our reading and its death.
        size = self._size(newest)
        for part in self._parts(newest, self._positions.get(newest.name, 0), size):
            self._keep([part])
        self._take_rest(newest, comes_again=False)
        kind = _kind_of_loss(ledger, len(worker.starts))
        found = (_lost_row(line, kind) for line in worker.starts.values())
        rows = {row["request_id"]: row for row in found if row is not None}
        lines = {request_id: to_json(row) for request_id, row in rows.items()}
        mark = CommittedOffset(newest.name, self._positions.get(newest.name, 0), closed=True)
        kept = self._store.append_missing(lines, [mark], {}, kind)
        worker.starts.clear()
        worker.closed_at = newest.number
        if kept:
            log.warning(kind, worker=newest.worker, requests=kept)
        if kept and kind == "worker_lost":
            for row in rows.values():
                self._observer.worker_lost(RequestRecord(**row))

    def _size(self, segment: Segment) -> int:
        try:
            return (self._directory / segment.name).stat().st_size
        except FileNotFoundError:
            return 0

    def _remove_stored(self, group: list[Segment], pressed: bool) -> list[str]:
        """Delete the segments of a worker that nobody needs any more, oldest first."""
        ended = self._has_ended(group)
        removed: list[str] = []
        for segment in group:
            stored = self._positions.get(segment.name, 0) >= segment.size
            left = segment is not group[-1] or ended
            if not (stored and left and (pressed or self._is_old(segment))):
                break
            if not removed:
                self._store.settle()
            try:
                (self._directory / segment.name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("segment_not_removed", segment=segment.name, reason=error.strerror)
                break
            self._positions.pop(segment.name, None)
            self._unmarked.discard(segment.name)
            self._replayed.discard(segment.name)
            removed.append(segment.name)
        return removed

    def _is_old(self, segment: Segment) -> bool:
        # A clock that was set back must not keep segments for ever.
        return abs(time.time() - segment.modified) > self._keep_seconds

    def _is_pressed(self, segments: list[Segment]) -> bool:
        size = sum(segment.size for segment in segments)
        if size > self._limits.max_bytes // 2:
            return True
        try:
            disk = os.statvfs(self._directory)
        except FileNotFoundError:
            return False
        return disk.f_bavail * disk.f_frsize < max(2 * self._limits.min_free_bytes, size)

    def _measure(self, segments: Iterable[Segment]) -> None:
        waiting = self._not_stored(segments)
        if not waiting:
            self._caught_up_at = time.monotonic()
        self._observer.backlog(waiting)


def _apply(worker: _Worker, part: _Slice) -> None:
    """Note in *worker* which requests are open after *part*."""
    worker.starts.update(part.starts)
    for request_id, _ in part.rows:
        worker.starts.pop(request_id, None)


def _ends(parts: list[_Slice]) -> dict[str, int]:
    return {part.segment.name: part.end for part in parts}


def _repaired(line: bytes) -> tuple[bytes | None, bool]:
    """Return the row of *line* without what does not fit, None where it cannot be one at all; and
    whether all did fit."""
    fields = parse(line)
    row = storable(fields) if fields is not None else None
    if fields is None or row is None or row["request_id"] is None or row["timestamp"] is None:
        return None, False
    whole = all(row[name] is not None or fields.get(name) is None for name in row)
    return to_json(row), whole


def _lost_row(start: bytes, kind: str) -> dict[str, Any] | None:
    fields = parse(start)
    row = storable(fields) if fields is not None else None
    if row is None or row["request_id"] is None or row["timestamp"] is None:
        return None
    message = _WORKER_LOST if kind == "worker_lost" else _RECORD_LOST
    return row | {"error_type": kind, "error_message": message}


def _kind_of_loss(ledger: FoundLedger | None, starts: int) -> str:
    """Return why the ends of so many requests of a dead worker are not there."""
    if ledger is None or not (ledger.account.closed or ledger.account.half_written >= starts):
        return "worker_lost"
    return "record_lost"


def _ledger_mark(ledger: FoundLedger) -> str:
    return f"{ledger.account.worker}{_LEDGER_ENDING}"

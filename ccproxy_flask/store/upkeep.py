"""What a store does by itself: rows move to parts, small parts become one, old ones go.

All in small steps, beside those who write and ask. What is killed at any moment leaves each row in
one place: the files of a step count from the commit on that takes their rows out of the database.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from ccproxy_flask.errors import StoreUnavailable

from .limits import LimitsCopy
from .limits import expire as expire_limits
from .parts import RECENT, SUFFIX, UNFINISHED, Part
from .statements import number_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import duckdb

    from .database import Database
    from .parts import Parts
    from .sums import Sums

log = structlog.get_logger(__name__)

PART_ROWS = 250_000
"""So many rows are about one part."""
RECENT_ROWS = 400_000
"""With more rows than that in the database, the oldest of a running day become a part of it."""
SETTLED = timedelta(minutes=10)
"""So long after its end a day is taken to be over: rows come in when their request ends."""
FEW_ROWS = 10_000
"""Fewer rows of older days wait for others that come late."""
EXPIRED_ROWS = 100_000
"""So many rows are deleted at a time."""
LEAST_WASTE = 64 << 20
"""Less free space than this stays in the file for what comes."""
LIMITS_SECONDS = 300.0
"""The copy of the table of rate limits is about so old at most."""
_STEP_SECONDS = 300.0
_LEAST_ROOM = 64 << 20


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: *days*, and as much as fits into *max_bytes*; None: no bound."""

    days: float | None = None
    max_bytes: int | None = None


class Upkeep:
    """Looks after *database*, *parts* and *sums*. *changed* is called when rows went or moved.

    :meth:`step` is for one thread; the lock is held by whoever changes which parts count.
    """

    def __init__(
        self,
        database: Database,
        parts: Parts,
        sums: Sums,
        retention: Retention,
        changed: Callable[[], None],
    ) -> None:
        self._database, self._parts, self._sums, self._retention = database, parts, sums, retention
        self._changed = changed
        self._limits = LimitsCopy(parts.folder)
        self._limits_from = time.monotonic()
        """From then on the table of rate limits is looked after."""
        self.lock = threading.Lock()
        self._few_from = time.monotonic()
        """From then on a few rows of older days are moved, too."""
        self._sealing = False
        self._unwritten = False
        """True where a checkpoint will give space back."""
        self._uncompacted = False
        """True where rows went to make the database's file smaller, which it is not yet."""
        self._gone: list[tuple[float, str]] = []
        """Files that count no more, and since when."""

    # -- at the start ------------------------------------------------------------------------------

    def open(self) -> None:
        """Put in order what a process that was killed has left.

        A new database takes the parts that it finds: the one before it was lost.
        """
        folder = self._parts.folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in (*folder.glob(f"*{UNFINISHED}"), *folder.glob("recent-*")):
            left.unlink()
        there = {path.name for path in folder.glob(f"*{SUFFIX}")}
        with self._database.changes(_STEP_SECONDS) as cursor:
            known = self._parts.registered(cursor)
            missing = [part for part in known if part.name not in there]
            for part in missing:
                log.error("part_missing", file=part.name, rows=part.rows)
            self._parts.unregister(cursor, missing)
            self._renew_sums(cursor, missing)
            unknown = sorted(there - {part.name for part in known})
            if unknown and not known and not _has_rows(cursor):
                # The largest first: a smaller one may have become a part of it.
                unknown.sort(key=lambda name: -(folder / name).stat().st_size)
                self._adopt(cursor, unknown)
            else:
                self._put_aside(unknown)
            self._parts.renew_view(cursor)
            if taken := self._limits.read(cursor):
                log.warning("limits_adopted", rows=taken)

    def _adopt(self, cursor: duckdb.DuckDBPyConnection, names: list[str]) -> None:
        adopted: list[Part] = []
        for name in names:
            part = self._parts.described(cursor, self._parts.folder / name, name)
            if part is None or self._parts.are_known(cursor, part, adopted):
                self._put_aside([name])
                continue
            adopted.append(part)
            self._parts.register(cursor, part)
            log.warning("part_adopted", file=name, rows=part.rows)

    def _put_aside(self, names: list[str]) -> None:
        """Keep files that nobody knows: they were left in the moment before they were to count, or
        somebody put them there."""
        aside = self._parts.folder / "unknown"
        for name in names:
            aside.mkdir(mode=0o700, exist_ok=True)
            (self._parts.folder / name).rename(aside / name)
            log.warning("part_unknown", file=name, kept_as=str(aside / name))

    # -- step by step ------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one small part of what there is to do; return True where there may be more.

        Raises StoreUnavailable.
        """
        with self.lock:
            done = self._expire() or self._seal() or self._merge() or self._sum_up()
            self._unwritten |= done
            self._remove_gone()
            if self._unwritten and not done and self._database.is_quiet():
                self._database.checkpoint()
                self._unwritten = False
            self._keep_limits()
            return done or self._compact()

    def _keep_limits(self) -> None:
        """Let what was said of rate limits go with the records of its time, and copy the rest."""
        if time.monotonic() < self._limits_from:
            return
        self._limits_from = time.monotonic() + LIMITS_SECONDS
        days = self._retention.days
        oldest = _now() - timedelta(days=days) if days is not None else None
        with self._database.changes(_STEP_SECONDS) as cursor:
            if self._retention.max_bytes is not None:
                first = cursor.execute("SELECT min(timestamp) FROM access_logs").fetchone()
                oldest = max(filter(None, (oldest, first[0] if first else None)), default=None)
            expire_limits(cursor, oldest)
        self._refuse_without_room()
        with self._database.questions(_STEP_SECONDS) as cursor:
            self._limits.write(cursor)

    def _expire(self) -> bool:
        """Let the oldest records go: whole files, or some rows."""
        days, most = self._retention.days, self._retention.max_bytes
        oldest = _now() - timedelta(days=days) if days is not None else None
        with self._database.changes(_STEP_SECONDS) as cursor:
            known = self._parts.registered(cursor)
            expired = [part for part in known if oldest and part.last < oldest]
            if not expired and most is not None:
                expired = self._surplus(known, most)
            self._drop(cursor, expired)
            rows = sum(part.rows for part in expired)
            if not expired:
                rows = self._delete(cursor, oldest, None if known or self._uncompacted else most)
        if rows:
            self._mark_gone(expired)
            log.info("records_expired", count=rows, files=len(expired))
        return rows > 0

    def _surplus(self, known: list[Part], most: int) -> list[Part]:
        """Return the oldest parts that are too many for so many bytes in all."""
        used, _ = self._database.free_bytes()
        surplus = used + sum(part.bytes for part in known) - most
        expired = []
        for part in known:
            if surplus <= 0:
                break
            surplus -= part.bytes
            expired.append(part)
        return expired

    def _delete(
        self, cursor: duckdb.DuckDBPyConnection, oldest: datetime | None, most: int | None
    ) -> int:
        """Delete some of the oldest rows of the database; return how many."""
        count, step = 0, EXPIRED_ROWS
        if oldest is not None:
            count = _count(cursor, f"SELECT count(*) FROM {RECENT} WHERE timestamp < ?", oldest)  # noqa: S608  our names
        if not count and most is not None:
            count = step = self._surplus_rows(cursor, most)
            self._uncompacted = count > 0
        if not count:
            return 0
        [(first, last)] = cursor.execute(
            "SELECT min(timestamp), max(timestamp) FROM "  # noqa: S608  our names
            f"(FROM {RECENT} ORDER BY timestamp LIMIT ?)",
            [min(count, step)],
        ).fetchall()
        deleted = cursor.execute(f"DELETE FROM {RECENT} WHERE timestamp <= ?", [last])  # noqa: S608  our names
        number = number_in(deleted)
        self._renew_days(cursor, first, last)
        return number

    def _surplus_rows(self, cursor: duckdb.DuckDBPyConnection, most: int) -> int:
        used, _ = self._database.free_bytes()
        rows = _count(cursor, f"SELECT count(*) FROM {RECENT}")  # noqa: S608  our names
        return rows - int(rows * most / used) if used > most else 0

    def _seal(self) -> bool:
        """Move rows of a day that is over, or some of too many, to a part."""
        today = (_now() - SETTLED).replace(hour=0, minute=0, second=0, microsecond=0)
        with self._database.questions() as cursor:
            [(rows, first)] = cursor.execute(
                f"SELECT count(*), min(timestamp) FROM {RECENT}"  # noqa: S608  our names
            ).fetchall()
            if not rows or (first >= today and rows <= RECENT_ROWS):
                if self._sealing:
                    self._sealing, self._few_from = (
                        False,
                        time.monotonic() + SETTLED.total_seconds(),
                    )
                return False
            old = _count(cursor, f"SELECT count(*) FROM {RECENT} WHERE timestamp < ?", today)  # noqa: S608  our names
            many = rows > RECENT_ROWS or old >= FEW_ROWS
            if not (many or self._sealing or time.monotonic() >= self._few_from):
                return False
            self._sealing = True
            begin = first.replace(hour=0, minute=0, second=0, microsecond=0)
            end = self._end_of_part(cursor, begin)
        self._refuse_without_room()
        with self._sums.lock, self._database.changes(_STEP_SECONDS) as cursor:
            which = f"timestamp >= '{begin}' AND timestamp < '{end}'"
            waiting = f"(generation IS NULL OR generation > {self._sums.summed_to(cursor)})"
            self._sums.add(cursor, f"FROM {RECENT} WHERE {which} AND {waiting}")
            rows_of = f"{self._parts.relation([])} WHERE {which}"
            part = self._parts.write(cursor, _name(begin), rows_of)
            deleted = number_in(cursor.execute(f"DELETE FROM {RECENT} WHERE {which}"))  # noqa: S608  our names
            if part is None or part.rows != deleted:
                raise StoreUnavailable(f"of {deleted} rows the file {part} was made")
            self._parts.register(cursor, dataclasses.replace(part, summed=True))
            self._parts.renew_view(cursor)
        self._changed()
        self._database.checkpoint()
        log.info("records_sealed", file=part.name, count=part.rows, bytes=part.bytes)
        return True

    def _end_of_part(self, cursor: duckdb.DuckDBPyConnection, begin: datetime) -> datetime:
        """Return the time before which there are about as many rows as one part has, at the
        latest the end of the day that begins with *begin*."""
        end = begin + timedelta(days=1)
        found = cursor.execute(
            f"SELECT timestamp FROM {RECENT} WHERE timestamp < ? ORDER BY timestamp "  # noqa: S608  our names
            "LIMIT 1 OFFSET ?",
            [end, PART_ROWS],
        ).fetchone()
        # A thousandth of a second more, or many rows of one moment would be no part at all.
        return min(end, found[0] + timedelta(milliseconds=1)) if found else end

    def _merge(self) -> bool:
        """Let two or more small parts of a day that is over be one."""
        with self._database.questions() as cursor:
            known = self._parts.registered(cursor)
        over = [part for part in known if part.first.date() < (_now() - SETTLED).date()]
        small = [part for part in over if part.rows < PART_ROWS // 2 and part.summed]
        for _, group in groupby(small, lambda part: part.first.date()):
            found = list(group)[:16]
            if len(found) > 1:
                self._refuse_without_room()
                self._merge_into_one(found)
                return True
        return False

    def _merge_into_one(self, small: list[Part]) -> None:
        with self._database.changes(_STEP_SECONDS) as cursor:
            rows = self._parts.relation(small, recent="")
            part = self._parts.write(cursor, _name(small[0].first), rows)
            if part is None or part.rows != sum(one.rows for one in small):
                raise StoreUnavailable(f"of {len(small)} files the file {part} was made")
            self._parts.unregister(cursor, small)
            self._parts.register(cursor, dataclasses.replace(part, summed=True))
            self._parts.renew_view(cursor)
        self._mark_gone(small)
        log.info("parts_merged", file=part.name, files=len(small), count=part.rows)

    # -- sums --------------------------------------------------------------------------------------

    def _sum_up(self) -> bool:
        """Add a file to the sums that is not in them, or let those of a day be fewer rows."""
        with self._database.changes(_STEP_SECONDS) as cursor:
            waiting = [part for part in self._parts.registered(cursor) if not part.summed]
            if waiting:
                self._sums.add(cursor, self._parts.relation(waiting[:1], recent=""))
                self._parts.unregister(cursor, waiting[:1])
                self._parts.register(cursor, dataclasses.replace(waiting[0], summed=True))
                return True
            days = self._sums.scattered(cursor, _day(_now()))
            if days:
                self._sums.compact(cursor, days[0])
        return bool(days)

    def _renew_sums(self, cursor: duckdb.DuckDBPyConnection, gone: list[Part]) -> None:
        """Let the sums of the days of files that count no more be those of what is left."""
        for part in gone:
            if part.summed:
                self._renew_days(cursor, part.first, part.last)

    def _renew_days(
        self, cursor: duckdb.DuckDBPyConnection, first: datetime, last: datetime
    ) -> None:
        begin = first.replace(hour=0, minute=0, second=0, microsecond=0)
        end = last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        known = [
            part
            for part in self._parts.registered(cursor)
            if part.summed and part.first < end and part.last >= begin
        ]
        recent = f"(FROM {RECENT} WHERE generation <= {self._sums.summed_to(cursor)})"
        rows = self._parts.relation(known, recent)
        self._sums.renew(cursor, _day(first), _day(last), rows)

    def _compact(self) -> bool:
        """Give the free space of the database's file back, where most of it is free."""
        used, free = self._database.free_bytes()
        if not self._uncompacted and (free < LEAST_WASTE or free < used):
            return False
        if used > self._database.disk_free():
            raise StoreUnavailable(f"a copy of the database needs {used} bytes of the disk")
        self._database.compact()
        self._uncompacted = False
        return True

    def _refuse_without_room(self) -> None:
        free = self._database.disk_free()
        if free < _LEAST_ROOM:
            raise StoreUnavailable(f"{free} bytes of the disk are free for files of records")

    # -- files that go -----------------------------------------------------------------------------

    def reset(self) -> int:
        """Delete all rows and return how many there were."""
        with self.lock:
            with self._sums.lock, self._database.changes(_STEP_SECONDS) as cursor:
                known = self._parts.registered(cursor)
                deleted = number_in(cursor.execute(f"DELETE FROM {RECENT}"))  # noqa: S608  our names
                cursor.execute("DELETE FROM rate_limits")
                self._limits.remove()
                self._parts.unregister(cursor, known)
                self._parts.renew_view(cursor)
                self._sums.clear(cursor)
            self._mark_gone(known)
            self._unwritten = True
            self._remove_gone()
        return deleted + sum(part.rows for part in known)

    def _drop(self, cursor: duckdb.DuckDBPyConnection, parts: list[Part]) -> None:
        if parts:
            self._parts.unregister(cursor, parts)
            self._parts.renew_view(cursor)
            self._renew_sums(cursor, parts)

    def _mark_gone(self, parts: list[Part]) -> None:
        self._changed()
        self._gone += [(time.monotonic(), part.name) for part in parts]

    def _remove_gone(self) -> None:
        """Remove files that count no more and that nobody reads.

        Before that the database forgets them for good, also where its log of changes is lost.
        """
        if not self._gone:
            return
        self._database.checkpoint()
        oldest = self._database.oldest_reader()
        for since, name in list(self._gone):
            if since <= oldest:
                (self._parts.folder / name).unlink(missing_ok=True)
                self._gone.remove((since, name))


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _day(moment: datetime) -> int:
    """Return the days since 1970."""
    return (moment - datetime(1970, 1, 1)).days  # noqa: DTZ001  both are UTC


def _name(day: datetime) -> str:
    return f"{day:%Y-%m-%d}-{os.urandom(4).hex()}{SUFFIX}"


def _count(cursor: duckdb.DuckDBPyConnection, text: str, *values: object) -> int:
    return number_in(cursor.execute(text, list(values)))


def _has_rows(cursor: duckdb.DuckDBPyConnection) -> bool:
    return _count(cursor, f"SELECT count(*) FROM (FROM {RECENT} LIMIT 1)") > 0  # noqa: S608  our names

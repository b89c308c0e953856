"""The store on one DuckDB file and Parquet files beside it. In the recorder's process."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from ccproxy_flask.errors import StoreUnavailable

from . import statements
from .adhoc_sql import AdhocSql
from .base import StoreStatus, abandoned
from .batch import BatchFile
from .database import Database, days_folder
from .intake import Intake
from .limits import copied as copy_limits
from .parts import RECENT, Parts
from .pipes import Pipes
from .questions import Questions
from .snapshots import Snapshots, beside
from .statements import number_in
from .sums import Sums
from .upkeep import RECENT_ROWS, Retention, Upkeep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

MOST_EXPORTS = 2
_SNAPSHOT_SECONDS = 10.0


class DuckDBStore(Intake, Questions):
    """All rows in the database at *path* and in the files beside it: a RecordingStore.

    It is put together of what takes records, what answers questions, and ``upkeep``, which looks
    after the files. *keep_free*: so many bytes of the disk are for others.

    Raises StoreUnavailable, or StoreDamaged.
    """

    backend = "duckdb"

    def __init__(self, path: Path, keep_free: int = 0, retention: Retention | None = None) -> None:
        self.path = path
        self._batch = BatchFile()
        self._pipes: Pipes | None = None
        self._files_closed = False
        self._version = 0
        """Another one after each change of the rows."""
        folder = days_folder(path)
        self._adhoc_sql = AdhocSql([str(folder)])
        self._snapshots = Snapshots(folder, self._copy_recent, lambda: self._version)
        try:
            self.database = Database(
                path, lambda: [self._batch.path, *self._make_pipes(path)], keep_free
            )
        except (StoreUnavailable, OSError):
            self._close_files()
            raise
        parts, sums = Parts(folder), Sums()
        Intake.__init__(self, self.database, parts, sums, self._batch, self._changed)
        Questions.__init__(self, self.database, parts, sums, self._pipes)
        self._upkeep = Upkeep(self.database, parts, sums, retention or Retention(), self._moved)
        try:
            self._upkeep.open()
            self.last_write = self._newest()
        except (StoreUnavailable, OSError):
            self.close()
            raise

    def is_in_place(self) -> bool:
        """False where the file was removed or replaced under our hands."""
        return self.database.is_in_place()

    def has_lost_its_log(self) -> bool:
        """True where what was written last is on the disk only after a checkpoint."""
        return self.database.has_lost_its_log()

    def checkpoint(self) -> None:
        """Write what is in the log of changes into the database, unless somebody is in the way."""
        self.database.checkpoint()

    def reset(self) -> int:
        """Delete all rows and return how many there were."""
        return self._upkeep.reset()

    @property
    def usable(self) -> bool:
        """False after an error that only opening the database again can heal…"""
        return self.database.usable

    @property
    def damaged(self) -> bool:
        """…or not even that."""
        return self.database.damaged

    def _changed(self) -> None:
        self._version += 1

    def _moved(self) -> None:
        """Rows are in other files now: what was said of them before is not to be used."""
        self._changed()
        self._snapshots.close()

    def _make_pipes(self, path: Path) -> list[str]:
        """Make the pipes for exports; without them there are none, and all else goes on."""
        folder = path.parent.resolve()
        paths = [folder / f"{path.name}.export-{n}" for n in range(MOST_EXPORTS)]
        try:
            self._pipes = Pipes(paths)
        except OSError as error:
            log.warning("exports_not_possible", reason=error.strerror)
            return []
        return [str(path) for path in paths]

    def _newest(self) -> datetime | None:
        with self.database.questions() as cursor:
            [(recent,)] = cursor.execute(f"SELECT max(timestamp) FROM {RECENT}").fetchall()  # noqa: S608  our names
            times = [part.last for part in self._parts.registered(cursor)]
        times += [recent] if recent else []
        return max(times).replace(tzinfo=UTC) if times else None

    def close(self) -> None:
        """Break off what runs, write everything into the database file, and let go of it."""
        self._adhoc_sql.close()
        try:
            self.database.close()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        if self._files_closed:  # their numbers may be somebody else's by now
            return
        self._files_closed = True
        self._adhoc_sql.close()
        self._snapshots.close()
        if self._pipes is not None:
            self._pipes.close()
        self._batch.close()

    def content_kept_since(self, seconds: float, limit: int) -> list[str]:
        """As RecordingStore.content_kept_since()."""
        with self.database.questions() as cursor:
            rows = cursor.execute(statements.CONTENT_KEPT, [seconds, limit]).fetchall()
        return [row[0] for row in rows]

    def content_dropped(self, request_ids: Sequence[str]) -> int | None:
        """As RecordingStore.content_dropped(): None while rows are moved to files."""
        if not self._upkeep.lock.acquire(blocking=False):
            return None
        try:
            with self.database.transaction() as cursor:
                values = [min(request_ids), max(request_ids), statements.texts(request_ids)]
                changed = number_in(cursor.execute(statements.CONTENT_DROPPED, values))
                statements.add_counts(cursor, {"content_dropped": changed} if changed else {})
        finally:
            self._upkeep.lock.release()
        self._changed()
        return changed

    def name_conversations(
        self, named: Mapping[str, str], renamed: Mapping[str, str]
    ) -> int | None:
        """As RecordingStore.name_conversations(): None while rows are moved to files."""
        if not self._upkeep.lock.acquire(blocking=False):
            return None
        changed = 0
        try:
            with self.database.transaction() as cursor:
                for sql, values in statements.naming(named, renamed):
                    changed += number_in(cursor.execute(sql, values))
        finally:
            self._upkeep.lock.release()
        self._changed()
        return changed

    def maintain(self) -> bool:
        """Do a small part of what keeps the store small and quick; True where there is more.

        Raises StoreUnavailable.
        """
        self._adhoc_sql.maintain()
        return self._upkeep.step()

    def sql(self, text: str, limit: int) -> bytes:
        """Answer one SELECT of the operator's; *limit* rows at most. Raises QueryRefused."""
        with self.database.reading(), self._snapshots.lease() as views:
            return self._adhoc_sql.answer(text, limit, views, abandoned.get())

    def _copy_recent(self, path: Path) -> dict[str, str]:
        """Write the recent rows to *path*, and limits beside it; return the SELECTs of all of them,
        from files alone."""
        place = statements.quoted(str(path))
        with self.database.questions(_SNAPSHOT_SECONDS) as cursor:
            cursor.execute("BEGIN TRANSACTION")
            if number_in(cursor.execute(f"SELECT count(*) FROM {RECENT}")) > 3 * RECENT_ROWS:  # noqa: S608  our names
                raise StoreUnavailable("records are being moved to files, ask again later", 60)
            rows = self._parts.relation([])
            cursor.execute(f"COPY ({rows}) TO {place} (FORMAT parquet, COMPRESSION lz4_raw)")
            known = self._parts.registered(cursor)
            limits = copy_limits(cursor, beside(path))
        logs = self._parts.relation(known, recent=f"read_parquet({place})")
        return {"access_logs": logs, "rate_limits": limits}

    def status(self) -> StoreStatus:
        """Return the state of the database alone: the journal's is the recorder's to tell."""
        with self.database.questions() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            rows = number_in(cursor.execute(f"SELECT count(*) FROM {RECENT}"))  # noqa: S608  our names
            rows += sum(part.rows for part in self._parts.registered(cursor))
            counts = cursor.execute("SELECT name, value FROM journal_counts").fetchall()
        return StoreStatus(self.backend, str(self.path), rows, self.last_write, counts=dict(counts))

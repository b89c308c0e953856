"""The store on one DuckDB file: rows go in, questions are answered. In the recorder's process."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import orjson
import structlog

from ccproxy_flask.errors import StoreUnavailable

from . import analytics, statements
from .adhoc_sql import AdhocSql
from .base import (
    CommittedOffset,
    Cursor,
    EntriesPage,
    QueryPage,
    RowsRefused,
    StoreStatus,
    Totals,
    abandoned,
)
from .batch import BatchFile
from .database import Database, days_folder
from .pipes import Pipes
from .snapshots import Snapshots
from .statements import number_in

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from .base import LogFilter, Page

log = structlog.get_logger(__name__)

EXPORT_SECONDS = 900.0
"""The same for an export, the time its reader takes included."""
MOST_EXPORTS = 2
STEP_ROWS = 20_000
"""So many rows are deleted at a time."""
_UNFIT = (
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.ConstraintException,
    duckdb.OutOfRangeException,
)


class DuckDBStore(Database):
    """All rows in the database at *path*: a RecordingStore, and what retention needs."""

    backend = "duckdb"

    def __init__(self, path: Path, keep_free: int = 0) -> None:
        self._batch = BatchFile()
        self._pipes: Pipes | None = None
        self._files_closed = False
        self._version = 0
        """Another one after each change of the rows."""
        days = days_folder(path)
        self._adhoc_sql = AdhocSql(days)
        self._snapshots = Snapshots(days, self._copy_rows, lambda: self._version)
        self._insert = statements.insert(self._batch.path)
        self._insert_missing = statements.insert_missing(self._batch.path)
        try:
            super().__init__(path, lambda: [self._batch.path, *self._make_pipes(path)], keep_free)
        except (StoreUnavailable, OSError):
            self._close_files()
            raise
        try:
            days.mkdir(mode=0o700, exist_ok=True)
            for left in days.glob("recent-*.parquet"):
                left.unlink()
            self._last_write = self._newest()
        except (StoreUnavailable, OSError):
            self.close()
            raise

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
        with self.questions() as cursor:
            found = cursor.execute("SELECT max(timestamp) FROM access_logs").fetchone()
        return found[0].replace(tzinfo=UTC) if found and found[0] else None

    def close(self) -> None:
        """Break off what runs, write everything into the database file, and let go of it."""
        self._adhoc_sql.close()
        try:
            super().close()
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

    # -- writing -----------------------------------------------------------------------------------

    def append(
        self, rows: Sequence[bytes], marks: Sequence[CommittedOffset], counts: Mapping[str, int]
    ) -> None:
        """Keep *rows* (JSON objects), set *marks* and add *counts*: all of it or nothing.

        Raises RowsRefused where a row does not fit the columns.
        """
        with self.transaction() as cursor:
            if rows:
                self._batch.fill(rows)
                try:
                    kept = number_in(cursor.execute(self._insert))
                except _UNFIT as error:
                    raise RowsRefused(str(error)) from error
                if kept != len(rows):
                    raise RowsRefused(f"{len(rows)} lines are {kept} rows")
            statements.set_marks(cursor, marks)
            statements.add_counts(cursor, counts)
        self._version += 1
        self._last_write = datetime.now(UTC) if rows else self._last_write

    def append_missing(
        self,
        rows: Mapping[str, bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        count: str | None = None,
    ) -> int:
        """As :meth:`append`, but only those *rows* (by request id) whose request is not there; add
        their number to *count*, too, and return it."""
        kept = 0
        with self.transaction() as cursor:
            if rows:
                self._batch.fill(list(rows.values()))
                try:
                    kept = number_in(cursor.execute(self._insert_missing, [min(rows), max(rows)]))
                except _UNFIT as error:
                    raise RowsRefused(str(error)) from error
            statements.set_marks(cursor, marks)
            statements.add_counts(cursor, counts)
            statements.add_counts(cursor, {count: kept} if kept and count else {})
        self._version += 1
        self._last_write = datetime.now(UTC) if kept else self._last_write
        return kept

    def marks(self) -> dict[str, CommittedOffset]:
        """Return all marks by segment."""
        with self.questions() as cursor:
            rows = cursor.execute("SELECT segment, position, closed FROM journal_marks").fetchall()
        return {name: CommittedOffset(name, position, closed) for name, position, closed in rows}

    def forget(self, segments: Sequence[str]) -> None:
        """Delete the marks of *segments*, which are gone."""
        with self.transaction() as cursor:
            cursor.execute("DELETE FROM journal_marks WHERE segment IN ?", [list(segments)])

    def reset(self) -> int:
        """Delete all rows and return how many there were."""
        with self.unrewritten():
            with self.transaction() as cursor:
                deleted = number_in(cursor.execute("DELETE FROM access_logs"))
            self._version += 1
            self.checkpoint()
        return deleted

    def retain(self, oldest: datetime | None, max_bytes: int | None) -> int:
        """Delete some of the rows that are older than *oldest*, or that are too many for
        *max_bytes* of data; return how many. 0: there are none left to delete, or it is not the
        time for it, because the file is being rewritten.

        Deletes few at a time, so that nobody waits for it: call it again. New rows take the space
        that is free then; where :meth:`is_wasteful`, :meth:`shrink` makes the file smaller.
        """
        if not self._rewriting.acquire(blocking=False):
            return 0
        try:
            return self._retain(oldest, max_bytes)
        finally:
            self._rewriting.release()

    def _retain(self, oldest: datetime | None, max_bytes: int | None) -> int:
        surplus = self._surplus(max_bytes) if max_bytes is not None else 0
        before = oldest.astimezone(UTC).replace(tzinfo=None) if oldest is not None else None
        step = min(surplus, STEP_ROWS) if surplus else STEP_ROWS
        if before is None and not surplus:
            return 0
        self._version += 1
        with self.transaction() as cursor:
            return number_in(
                cursor.execute(statements.RETAIN, [before if not surplus else None, step])
            )

    def _surplus(self, max_bytes: int) -> int:
        """Return how many rows are too many, by the mean size of a row in the file."""
        with self.questions() as cursor:
            rows = number_in(cursor.execute("SELECT count(*) FROM access_logs"))
            [(used, kept)] = cursor.execute(statements.SPACE).fetchall()
        if not rows or used <= max_bytes:
            return 0
        # Deleted rows take space until a whole group of them is gone: they are counted, too.
        return max(0, rows - int(max_bytes * max(kept, rows) / used))

    # -- questions ---------------------------------------------------------------------------------

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """Return one page of rows, and how many there are in all."""
        condition, values = statements.condition(where)
        direction = "DESC" if page.order_desc else "ASC"
        # With its table, a name is the column and not the text that is shown of it: much faster.
        order = f"access_logs.{page.order_by} {direction} NULLS LAST, request_id {direction}"
        sql = statements.ENTRIES.replace("/*where*/", condition).replace("/*order*/", order)
        count = f"SELECT count(*) FROM access_logs WHERE {condition}"  # noqa: S608  our names
        with self.questions() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            total = number_in(cursor.execute(count, values))
            rows = cursor.execute(sql, [*values, page.limit, page.offset]).fetchall()
            cursor.execute("COMMIT")
        return EntriesPage(statements.array(rows), total)

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """Return up to *limit* rows, newest first, from after *cursor* on."""
        condition, values = statements.condition(where)
        if cursor is not None:
            seen = cursor.timestamp.replace(tzinfo=None)
            condition += " AND (timestamp < ? OR (timestamp = ? AND request_id < ?))"
            values += [seen, seen, cursor.request_id]
        order = "access_logs.timestamp DESC, request_id DESC"
        sql = statements.ENTRIES.replace("/*where*/", condition).replace("/*order*/", order)
        sql = sql.replace("to_json(page)::VARCHAR", "to_json(page)::VARCHAR, timestamp, request_id")
        with self.questions() as asking:
            rows = asking.execute(sql, [*values, limit + 1, 0]).fetchall()
        has_more, rows = len(rows) > limit, rows[:limit]
        last = Cursor(datetime.fromisoformat(rows[-1][1]), rows[-1][2]) if has_more else None
        return QueryPage(statements.array(rows), len(rows), str(last) if last else None)

    def totals(self, where: LogFilter) -> Totals:
        """Return the sums over all rows of *where*."""
        condition, values = statements.condition(where)
        with self.questions() as cursor:
            row = cursor.execute(
                statements.TOTALS.replace("/*where*/", condition), values
            ).fetchone()
        return Totals(*row) if row else Totals()

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """Return the figures of ``/logs/analytics`` as the text of a JSON object."""
        if where.start_time is None:
            raise ValueError("analytics need a start")
        condition, values = statements.condition(where)
        with self.questions() as cursor:
            sql_text = statements.ANALYTICS.replace("/*where*/", condition)
            rows = cursor.execute(sql_text, [bucket_seconds, *values]).fetchall()
        now = datetime.now(UTC)
        end = min(where.end_time or now, now)
        return orjson.dumps(analytics.analytics(rows, bucket_seconds, where.start_time, end))

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """Give all rows as ``csv``, ``jsonl`` or ``parquet``."""
        if self._pipes is None:
            raise StoreUnavailable("the database's folder can hold no pipe for exports", 60)
        form_options, names = statements.EXPORTS[form]
        condition, values = statements.condition(where)
        asking: list[duckdb.DuckDBPyConnection] = []

        def write(path: Path) -> None:
            rows = f"SELECT {names} FROM access_logs WHERE {condition}"  # noqa: S608  our names
            options = f"{form_options}, USE_TMP_FILE false, PRESERVE_ORDER false"
            copy = f"COPY ({rows}) TO {statements.quoted(str(path))} ({options})"
            with self.questions(EXPORT_SECONDS) as cursor:
                asking.append(cursor)
                cursor.execute(copy, values)

        def cancel() -> None:
            for cursor in asking:
                with suppress(duckdb.ConnectionException):  # it has just ended by itself
                    cursor.interrupt()

        return self._pipes.transfer(write, cancel)

    def sql(self, text: str, limit: int) -> bytes:
        """Answer one SELECT of the operator's; *limit* rows at most. Raises QueryRefused."""
        with self._snapshots.lease() as view:
            return self._adhoc_sql.answer(text, limit, view, abandoned.get())

    def _copy_rows(self, path: Path) -> str:
        """Write all rows to *path*; return the SELECT that reads them there."""
        place = statements.quoted(str(path))
        with self.questions() as cursor:
            rows = f"SELECT {statements.NAMES} FROM access_logs"  # noqa: S608  our names
            cursor.execute(f"COPY ({rows}) TO {place} (FORMAT parquet, COMPRESSION lz4_raw)")
        return f"SELECT * FROM read_parquet({place})"  # noqa: S608  our names

    def status(self) -> StoreStatus:
        """Return the state of the database alone: the journal's is the recorder's to tell."""
        with self.questions() as cursor:
            rows = number_in(cursor.execute("SELECT count(*) FROM access_logs"))
            counts = cursor.execute("SELECT name, value FROM journal_counts").fetchall()
        return StoreStatus(
            self.backend, str(self.path), rows, self._last_write, counts=dict(counts)
        )

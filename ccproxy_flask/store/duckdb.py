"""The store on one DuckDB file. The only home of ``duckdb``: the recorder's process imports it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import structlog

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import COLUMN_TYPES, COLUMNS

from . import figures, sql
from .base import (
    Cursor,
    EntriesPage,
    LogFilter,
    Mark,
    Page,
    QueryPage,
    QueryRefused,
    RowsRefused,
    StoreDamaged,
    StoreStatus,
    Totals,
)
from .pipes import Pipes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

log = structlog.get_logger(__name__)

SCHEMA_VERSION = 1
MEMORY_LIMIT = "256MB"
"""Of DuckDB's buffers; a query that needs more spills to disk."""
THREADS = 2
"""Of queries and inserts together: most of the machine is for the workers."""
SPILL_LIMIT = "4GB"
QUERY_SECONDS = 30.0
"""A query that takes longer is broken off."""
SQL_SECONDS = 10.0
"""The same for a query of the operator's own."""
SQL_BYTES = 512 << 20
"""By so much the process may grow meanwhile."""
_WATCH_SECONDS = 0.02
EXPORT_SECONDS = 900.0
"""The same for an export, the time its reader takes included."""
MOST_EXPORTS = 2
MOST_SQL = 2
_LONGEST_ANSWER = 32 << 20

_SQL_TYPES: dict[type, str] = {
    str: "VARCHAR",
    datetime: "TIMESTAMP",
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    Decimal: "DECIMAL(20,10)",
}
COLUMN_SQL: dict[str, str] = {name: _SQL_TYPES[COLUMN_TYPES[name]] for name in COLUMNS}
_LARGEST_ROW = 2 << 20  # DuckDB takes memory for several of these
_NEEDED = ("request_id", "timestamp")
_NAMES = ", ".join(COLUMNS)
_SHOWN = ", ".join(
    f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ') AS {name}" if kind == "TIMESTAMP" else name
    for name, kind in COLUMN_SQL.items()
)
_HERE = Path(__file__).parent
# The parts of a message that tell what a duckdb.IOException is about (DuckDB 1.5).
_DAMAGE = (
    "Corrupt database file",
    "not a valid DuckDB database file",
    "Could not read enough bytes",
    "Failed to deserialize",
)
_UNFIT = (
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.ConstraintException,
    duckdb.OutOfRangeException,
)


def _sql(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


_ENTRIES = _sql("queries/entries.sql").replace("/*columns*/", _SHOWN)
_TOTALS = _sql("queries/totals.sql")
_ANALYTICS = _sql("queries/analytics.sql")
_RETAIN = _sql("queries/retain.sql")
_SPACE = _sql("queries/space.sql")
_BLOCKS = "SELECT block_size * used_blocks, block_size * free_blocks FROM pragma_database_size()"
STEP_ROWS = 20_000
"""So many rows are deleted at a time."""
_LAST_ANSWERS_SECONDS = 2.0
LEAST_FREE = 64 << 20
"""Less free space than this stays in the file for what comes."""
# Parquet has types of its own for times and money; the others are text.
_EXPORTS = {
    "csv": ("FORMAT csv, HEADER", _SHOWN),
    "jsonl": ("FORMAT json", _SHOWN),
    "parquet": ("FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480", _NAMES),
}


class DuckDBStore:
    """All rows in one file, for one process.

    Opens the database at *path*, makes it where there is none, and migrates it. Safe to call from
    several threads: queries run beside each other and beside one append. Raises StoreUnavailable
    (held by another process, no permission, made by a newer version…) or StoreDamaged.
    """

    backend = "duckdb"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.usable = True
        """False after an error that only opening the database again can heal…"""
        self.damaged = False
        """…or not even that."""
        self._writing = threading.Lock()
        self._active: set[duckdb.DuckDBPyConnection] = set()
        self._batch = _BatchFile()
        self._files_closed = False
        self._pipes: Pipes | None = None
        self._asking_sql = threading.BoundedSemaphore(MOST_SQL)
        try:
            self._connection = self._opened()
        except (StoreUnavailable, OSError):
            self._close_files()
            raise
        self._insert = (
            f"INSERT INTO access_logs ({_NAMES}) SELECT {_NAMES} FROM "  # noqa: S608  our names
            f"read_json('{self._batch.path}', format='newline_delimited', columns={COLUMN_SQL}, "
            f"maximum_object_size={_LARGEST_ROW})"
        )
        self._insert_missing = (
            f"{self._insert} AS new WHERE NOT EXISTS "  # noqa: S608  our names
            "(SELECT 1 FROM access_logs AS old WHERE old.request_id = new.request_id)"
        )
        try:
            self._inode = self.path.stat().st_ino
            self._last_write = self._newest()
        except (StoreUnavailable, OSError):
            self.close()
            raise

    # -- opening -----------------------------------------------------------------------------------

    def _opened(self) -> duckdb.DuckDBPyConnection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mask = os.umask(0o077)
        try:
            connection = duckdb.connect(str(self.path), config=self._config())
            if _wastes(connection):
                connection = self._rewritten(connection)
        except duckdb.Error as error:
            raise self._translated(error) from error
        finally:
            os.umask(mask)
        try:
            # No statement, whoever wrote it, opens another file or changes these settings.
            allowed = ", ".join(_quoted(path) for path in (self._batch.path, *self._make_pipes()))
            connection.execute(f"SET allowed_paths = [{allowed}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            _migrate(connection)
        except duckdb.Error as error:
            connection.close()
            raise self._translated(error) from error
        except StoreUnavailable:
            connection.close()
            raise
        return connection

    def _rewritten(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """Put a copy without free space in the place of the file; return a connection to it.

        DuckDB gives back only what is free at the end of a file, which its own tables keep in use.
        """
        began = self.path.stat().st_size
        copy = self._beside(".copy")
        copy.unlink(missing_ok=True)
        try:
            _copy_database(connection, copy)
        except duckdb.Error as error:  # no room for it: the file stays as it is
            log.warning("database_not_rewritten", reason=_first_line(str(error)))
            with suppress(duckdb.Error):  # it may not have been attached
                connection.execute("DETACH ccproxy_copy")
            copy.unlink(missing_ok=True)
            return connection
        connection.close()
        if self._beside(".wal").exists():
            copy.unlink()
        else:
            copy.replace(self.path)
            log.info("database_rewritten", before=began, after=self.path.stat().st_size)
        return duckdb.connect(str(self.path), config=self._config())

    def _make_pipes(self) -> list[str]:
        """Make the pipes for exports; without them there are none, and all else goes on."""
        folder = self.path.parent.resolve()
        paths = [folder / f"{self.path.name}.export-{n}" for n in range(MOST_EXPORTS)]
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

    def is_in_place(self) -> bool:
        """False where the file was removed or replaced under our hands."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _config(self) -> dict[str, Any]:
        return {
            "threads": THREADS,
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": f"{self.path}.tmp",
            "max_temp_directory_size": SPILL_LIMIT,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            # The batch file changes its content, not its name.
            "enable_external_file_cache": False,
        }

    def close(self) -> None:
        """Break off what runs, write everything into the database file, and let go of it."""
        self.usable = False
        for cursor in list(self._active):
            cursor.interrupt()
        with self._writing:
            self._close_files()
            self._connection.close()

    def _close_files(self) -> None:
        if self._files_closed:  # their numbers may be somebody else's by now
            return
        self._files_closed = True
        if self._pipes is not None:
            self._pipes.close()
        self._batch.close()

    # -- writing -----------------------------------------------------------------------------------

    def append(
        self, rows: Sequence[bytes], marks: Sequence[Mark], counts: Mapping[str, int]
    ) -> None:
        """Keep *rows* (JSON objects), set *marks* and add *counts*: all of it or nothing.

        Raises RowsRefused where a row does not fit the columns.
        """
        with self._transaction() as cursor:
            if rows:
                self._batch.fill(rows)
                try:
                    kept = _number(cursor.execute(self._insert))
                except _UNFIT as error:
                    raise RowsRefused(str(error)) from error
                if kept != len(rows):
                    raise RowsRefused(f"{len(rows)} lines are {kept} rows")
            _set_marks(cursor, marks)
            _add_counts(cursor, counts)
        self._last_write = datetime.now(UTC) if rows else self._last_write

    def append_missing(self, rows: Sequence[bytes], marks: Sequence[Mark], count: str) -> int:
        """Keep those *rows* whose request is not there, add their number to *count*, return it."""
        kept = 0
        with self._transaction() as cursor:
            if rows:
                self._batch.fill(rows)
                try:
                    kept = _number(cursor.execute(self._insert_missing))
                except _UNFIT as error:
                    raise RowsRefused(str(error)) from error
            _set_marks(cursor, marks)
            _add_counts(cursor, {count: kept} if kept and count else {})
        self._last_write = datetime.now(UTC) if kept else self._last_write
        return kept

    def marks(self) -> dict[str, Mark]:
        """Return all marks by segment."""
        with self.questions() as cursor:
            rows = cursor.execute("SELECT segment, position, closed FROM journal_marks").fetchall()
        return {name: Mark(name, position, closed) for name, position, closed in rows}

    def forget(self, segments: Sequence[str]) -> None:
        """Delete the marks of *segments*, which are gone."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM journal_marks WHERE segment IN ?", [list(segments)])

    def reset(self) -> int:
        """Delete all rows and return how many there were."""
        with self._transaction() as cursor:
            deleted = _number(cursor.execute("DELETE FROM access_logs"))
        self._checkpoint()
        return deleted

    def retain(self, oldest: datetime | None, max_bytes: int | None) -> int:
        """Delete some of the rows that are older than *oldest*, or that are too many for
        *max_bytes* of data; return how many. 0: there are none left to delete.

        Deletes few at a time, so that nobody waits for it: call it again. New rows take the space
        that is free then; where :meth:`is_wasteful`, opening the file again makes it smaller.
        """
        surplus = self._surplus(max_bytes) if max_bytes is not None else 0
        before = oldest.astimezone(UTC).replace(tzinfo=None) if oldest is not None else None
        step = min(surplus, STEP_ROWS) if surplus else STEP_ROWS
        if before is None and not surplus:
            return 0
        with self._transaction() as cursor:
            return _number(cursor.execute(_RETAIN, [before if not surplus else None, step]))

    def _surplus(self, max_bytes: int) -> int:
        """Return how many rows are too many, by the mean size of a row in the file."""
        with self.questions() as cursor:
            rows = _number(cursor.execute("SELECT count(*) FROM access_logs"))
            [(used, kept)] = cursor.execute(_SPACE).fetchall()
        if not rows or used <= max_bytes:
            return 0
        # Deleted rows take space until a whole group of them is gone: they are counted, too.
        return max(0, rows - int(max_bytes * max(kept, rows) / used))

    def is_wasteful(self) -> bool:
        """Tell whether most of the file is free, or taken by rows that are gone."""
        self._checkpoint()
        with self.questions() as cursor:
            rows = _number(cursor.execute("SELECT count(*) FROM access_logs"))
            [(used, kept)] = cursor.execute(_SPACE).fetchall()
            [(_, free)] = cursor.execute(_BLOCKS).fetchall()
        # While questions run, DuckDB keeps the place of deleted rows.
        gone = int(used * (1 - rows / kept)) if kept else 0
        return bool(free + gone >= LEAST_FREE and free + gone > used - gone)

    def shrink(self, before_swap: Callable[[], None]) -> bool:
        """Give the free space of the file back, where most of it is free; True where that was done.

        A copy is made while questions go on; then, after *before_swap* was called, the copy takes
        the file's place, and this store is no longer *usable*: open another one at once. Nothing
        is written meanwhile.
        """
        if not self.is_wasteful():
            return False
        with self._writing:
            copy = self._without_waste()
            if copy is None:
                return False
            before_swap()
            deadline = time.monotonic() + _LAST_ANSWERS_SECONDS
            while self._active and time.monotonic() < deadline:
                time.sleep(0.01)
            self.usable = False
            for cursor in list(self._active):
                cursor.interrupt()
            self._close_files()
            self._connection.close()
            before = self.path.stat().st_size
            if self._beside(".wal").exists():  # the old file's; the new one must not read it
                copy.unlink()
                return True
            copy.replace(self.path)
        log.info("database_rewritten", before=before, after=self.path.stat().st_size)
        return True

    def _without_waste(self) -> Path | None:
        """Return a copy of the file that has no free space; None where there can be none now."""
        # A copy of the copy: DuckDB lets nobody open the file twice. The log of what has not gone
        # into the file yet belongs to it.
        source, log_of_source, copy = (self._beside(end) for end in (".old", ".old.wal", ".copy"))
        mask = os.umask(0o077)
        try:
            for path in (source, log_of_source, copy):
                path.unlink(missing_ok=True)
            shutil.copyfile(self.path, source)
            with suppress(FileNotFoundError):
                shutil.copyfile(self._beside(".wal"), log_of_source)
            with duckdb.connect(str(source), config=self._config()) as connection:
                _copy_database(connection, copy)
        except (duckdb.Error, OSError) as error:  # no room for it: the file stays as it is
            log.warning("database_not_rewritten", reason=_first_line(str(error)))
            copy.unlink(missing_ok=True)
            return None
        finally:
            os.umask(mask)
            source.unlink(missing_ok=True)
            log_of_source.unlink(missing_ok=True)
        return copy

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _checkpoint(self) -> None:
        try:
            self._connection.execute("CHECKPOINT")
        except duckdb.Error as error:  # queries are running; the next checkpoint makes room
            log.info("checkpoint_put_off", error=str(error))

    # -- questions ---------------------------------------------------------------------------------

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """Return one page of rows, and how many there are in all."""
        condition, values = _condition(where)
        direction = "DESC" if page.order_desc else "ASC"
        # With its table, a name is the column and not the text that is shown of it: much faster.
        order = f"access_logs.{page.order_by} {direction} NULLS LAST, request_id {direction}"
        sql = _ENTRIES.replace("/*where*/", condition).replace("/*order*/", order)
        count = f"SELECT count(*) FROM access_logs WHERE {condition}"  # noqa: S608  our names
        with self.questions() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            total = _number(cursor.execute(count, values))
            rows = cursor.execute(sql, [*values, page.limit, page.offset]).fetchall()
            cursor.execute("COMMIT")
        return EntriesPage(_array(rows), total)

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """Return up to *limit* rows, newest first, from after *cursor* on."""
        condition, values = _condition(where)
        if cursor is not None:
            seen = cursor.timestamp.replace(tzinfo=None)
            condition += " AND (timestamp < ? OR (timestamp = ? AND request_id < ?))"
            values += [seen, seen, cursor.request_id]
        order = "access_logs.timestamp DESC, request_id DESC"
        sql = _ENTRIES.replace("/*where*/", condition).replace("/*order*/", order)
        sql = sql.replace("to_json(page)::VARCHAR", "to_json(page)::VARCHAR, timestamp, request_id")
        with self.questions() as asking:
            rows = asking.execute(sql, [*values, limit + 1, 0]).fetchall()
        has_more, rows = len(rows) > limit, rows[:limit]
        last = Cursor(datetime.fromisoformat(rows[-1][1]), rows[-1][2]) if has_more else None
        return QueryPage(_array(rows), len(rows), str(last) if last else None)

    def totals(self, where: LogFilter) -> Totals:
        """Return the sums over all rows of *where*."""
        condition, values = _condition(where)
        with self.questions() as cursor:
            row = cursor.execute(_TOTALS.replace("/*where*/", condition), values).fetchone()
        return Totals(*row) if row else Totals()

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """Return the figures of ``/logs/analytics`` as the text of a JSON object."""
        if where.start_time is None:
            raise ValueError("analytics need a start")
        condition, values = _condition(where)
        with self.questions() as cursor:
            sql_text = _ANALYTICS.replace("/*where*/", condition)
            rows = cursor.execute(sql_text, [bucket_seconds, *values]).fetchall()
        now = datetime.now(UTC)
        end = min(where.end_time or now, now)
        return orjson.dumps(figures.analytics(rows, bucket_seconds, where.start_time, end))

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """Give all rows as ``csv``, ``jsonl`` or ``parquet``."""
        if self._pipes is None:
            raise StoreUnavailable("the database's folder can hold no pipe for exports", 60)
        options, names = _EXPORTS[form]
        condition, values = _condition(where)
        asking: list[duckdb.DuckDBPyConnection] = []

        def write(path: Path) -> None:
            copy = (
                f"COPY (SELECT {names} FROM access_logs WHERE {condition}) "  # noqa: S608  our names
                f"TO {_quoted(str(path))} ({options}, USE_TMP_FILE false, PRESERVE_ORDER false)"
            )
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
        if not self._asking_sql.acquire(blocking=False):
            raise StoreUnavailable("other SQL queries are running", retry_after=5)
        began = time.perf_counter()
        try:
            with self.questions(SQL_SECONDS) as cursor, _bounded(cursor) as bound:
                try:
                    names, rows, truncated = _answer(cursor, _checked(cursor, text), limit)
                except duckdb.Error as error:
                    raise _refusal(error, bound.is_set()) from error
        finally:
            self._asking_sql.release()
        facts = {
            "row_count": len(rows),
            "truncated": truncated,
            "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        }
        shown = b'{"columns":' + orjson.dumps(names) + b',"rows":[' + ",".join(rows).encode()
        return shown + b"]," + orjson.dumps(facts)[1:]

    def status(self) -> StoreStatus:
        """Return the state of the database alone: the journal's is the recorder's to tell."""
        with self.questions() as cursor:
            rows = _number(cursor.execute("SELECT count(*) FROM access_logs"))
            counts = cursor.execute("SELECT name, value FROM journal_counts").fetchall()
        return StoreStatus(
            self.backend, str(self.path), rows, self._last_write, counts=dict(counts)
        )

    # -- both --------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._writing:
            self._refuse_if_unusable()
            try:
                self._connection.execute("BEGIN TRANSACTION")
                yield self._connection
                self._connection.execute("COMMIT")
            except duckdb.Error as error:
                self._roll_back()
                raise self._translated(error) from error
            except RowsRefused:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # a failed COMMIT ends the transaction itself
        except duckdb.Error as error:
            self.usable = False
            log.warning("rollback_failed", error=str(error))

    @contextmanager
    def questions(self, seconds: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for one thread, to read with, for a bounded time."""
        self._refuse_if_unusable()
        try:
            cursor = self._connection.cursor()
        except duckdb.Error as error:
            raise self._translated(error) from error
        alarm = threading.Timer(seconds or QUERY_SECONDS, cursor.interrupt)
        alarm.daemon = True
        self._active.add(cursor)
        alarm.start()
        try:
            yield cursor
        except duckdb.Error as error:
            raise self._translated(error) from error
        finally:
            alarm.cancel()
            self._active.discard(cursor)
            cursor.close()

    def _refuse_if_unusable(self) -> None:
        if not self.usable:
            raise StoreUnavailable("the database is being opened again")

    def _translated(self, error: duckdb.Error) -> StoreUnavailable:
        text = str(error)
        if any(sign in text for sign in _DAMAGE):
            self.usable, self.damaged = False, True
            return StoreDamaged(f"{self.path} is damaged: {_first_line(text)}")
        if isinstance(error, duckdb.FatalException | duckdb.InternalException):
            self.usable = False
        if "Could not set lock" in text:
            return StoreUnavailable(f"{self.path} is held by another process", retry_after=5)
        if isinstance(error, duckdb.InterruptException):
            return StoreUnavailable(f"the query took longer than {QUERY_SECONDS:.0f} s", 5)
        if isinstance(error, duckdb.OutOfMemoryException):
            return StoreUnavailable("the query needs more memory than it may have", 5)
        return StoreUnavailable(_first_line(text), retry_after=5)


def _checked(cursor: duckdb.DuckDBPyConnection, text: str) -> str:
    """Return *text* where it is one SELECT that may be answered, else raise QueryRefused."""
    statements = cursor.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise sql.not_allowed("only one SELECT is answered")
    found = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", [text]).fetchall()
    [(tree,)] = found
    sql.check(orjson.loads(tree))
    # What is run is what was checked, without comments and semicolons.
    [(checked,)] = cursor.execute("SELECT json_deserialize_sql(?::JSON)", [tree]).fetchall()
    return str(checked)


def _answer(
    cursor: duckdb.DuckDBPyConnection, query: str, limit: int
) -> tuple[list[str], list[str], bool]:
    """Return the names, the rows as the texts of JSON arrays, and whether there are more."""
    columns = cursor.execute(f"DESCRIBE SELECT * FROM ({query}) AS page").fetchall()  # noqa: S608  checked
    cells = [sql.cell(number, kind) for number, (_, kind, *_) in enumerate(columns)]
    aliases = ", ".join(f"c{number}" for number in range(len(cells)))
    row = " || ',' || ".join(cells)
    cursor.execute(f"SELECT '[' || {row} || ']' FROM ({query}) AS page({aliases})")  # noqa: S608  checked
    rows: list[str] = []
    size = 0
    while len(rows) <= limit and size < _LONGEST_ANSWER and (found := cursor.fetchmany(100)):
        rows += [text for (text,) in found]
        size += sum(len(text) for (text,) in found)
    truncated = len(rows) > limit or size >= _LONGEST_ANSWER
    return [name for name, *_ in columns], rows[:limit], truncated


@contextmanager
def _bounded(cursor: duckdb.DuckDBPyConnection) -> Iterator[threading.Event]:
    """Break off what *cursor* does where this process grows by SQL_BYTES, and set the event.

    DuckDB's own bound holds for its buffers, not for long texts in the making.
    """
    most = _resident_bytes() + SQL_BYTES
    done, broken_off = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            if _resident_bytes() > most:
                broken_off.set()
                with suppress(duckdb.ConnectionException):  # it has just ended by itself
                    cursor.interrupt()

    watcher = threading.Thread(target=watch, daemon=True, name="sql-memory")
    watcher.start()
    try:
        yield broken_off
    finally:
        done.set()
        watcher.join()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def _refusal(error: duckdb.Error, too_large: bool) -> Exception:
    """Return what to raise where a query of the operator's failed by *error*."""
    if isinstance(error, duckdb.InterruptException) and not too_large:
        return QueryRefused("sql_timeout", f"the query took longer than {SQL_SECONDS:.0f} s")
    if isinstance(error, duckdb.OutOfMemoryException) or too_large:
        return QueryRefused("sql_out_of_memory", "the query needs more memory than it may have")
    if isinstance(error, duckdb.FatalException | duckdb.InternalException | duckdb.IOException):
        return error
    return QueryRefused("sql_invalid", _first_line(str(error)))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class _BatchFile:
    """Rows on their way in: a file without a place on any disk, which DuckDB reads by its path."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd, self._named = os.memfd_create("ccproxy-batch"), None
            self.path = f"/proc/self/fd/{self._fd}"
        else:
            self._fd, self._named = tempfile.mkstemp(prefix="ccproxy-", suffix=".ndjson")
            self.path = self._named

    def fill(self, rows: Sequence[bytes]) -> None:
        """Let the file have these *rows* and nothing else."""
        os.ftruncate(self._fd, 0)
        rest = memoryview(b"\n".join(rows) + b"\n")
        offset = 0
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        os.close(self._fd)
        if self._named is not None:
            Path(self._named).unlink(missing_ok=True)


# -- the schema ------------------------------------------------------------------------------------


def _migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Make or renew the schema, all of it or nothing; refuse one of a newer version."""
    connection.execute("BEGIN TRANSACTION")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER, migrated_at TIMESTAMP)"
    )
    found = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    version = found[0] if found else None
    if version is not None and version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"the database has schema {version}, this version knows {SCHEMA_VERSION}: upgrade", 60
        )
    for number in range((version or 0) + 1, SCHEMA_VERSION + 1):
        [script] = _HERE.glob(f"migrations/{number:04d}_*.sql")
        connection.execute(_with_columns(script.read_text(encoding="utf-8")))
    if version != SCHEMA_VERSION:
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("INSERT INTO schema_version VALUES (?, ?)", [SCHEMA_VERSION, now])
    _add_missing_columns(connection)
    connection.execute("COMMIT")


def _copy_database(connection: duckdb.DuckDBPyConnection, copy: Path) -> None:
    [(name,)] = connection.execute("SELECT current_database()").fetchall()
    connection.execute(f"ATTACH {_quoted(str(copy))} AS ccproxy_copy")
    connection.execute(f'COPY FROM DATABASE "{name}" TO ccproxy_copy')
    connection.execute("DETACH ccproxy_copy")


def _wastes(connection: duckdb.DuckDBPyConnection) -> bool:
    [(used, free)] = connection.execute(_BLOCKS).fetchall()
    return bool(free >= LEAST_FREE and free > used)


def _with_columns(script: str) -> str:
    columns = ", ".join(
        f"{name} {kind} NOT NULL" if name in _NEEDED else f"{name} {kind}"
        for name, kind in COLUMN_SQL.items()
    )
    return script.replace("/*columns*/);", f"{columns});")


def _add_missing_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Columns that only came with a newer record need no migration of their own."""
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'access_logs'"
    ).fetchall()
    there = {name for (name,) in rows}
    for name, kind in COLUMN_SQL.items():
        if name not in there:
            connection.execute(f"ALTER TABLE access_logs ADD COLUMN {name} {kind}")


# -- parts of statements ---------------------------------------------------------------------------


def _set_marks(cursor: duckdb.DuckDBPyConnection, marks: Sequence[Mark]) -> None:
    for mark in marks:
        cursor.execute("DELETE FROM journal_marks WHERE segment = ?", [mark.segment])
        values = [mark.segment, mark.position, mark.closed]
        cursor.execute("INSERT INTO journal_marks VALUES (?, ?, ?)", values)


def _add_counts(cursor: duckdb.DuckDBPyConnection, counts: Mapping[str, int]) -> None:
    for name, number in counts.items():
        changed = _number(
            cursor.execute(
                "UPDATE journal_counts SET value = value + ? WHERE name = ?", [number, name]
            )
        )
        if not changed:
            cursor.execute("INSERT INTO journal_counts VALUES (?, ?)", [name, number])


_COMPARISONS = {
    "start_time": "timestamp >= ?",
    "end_time": "timestamp <= ?",
    "model": "model = ?",
    "provider": "provider = ?",
    "status_code_min": "status_code >= ?",
    "status_code_max": "status_code <= ?",
    "min_duration_ms": "duration_ms >= ?",
    "max_duration_ms": "duration_ms <= ?",
    "streaming": "streaming = ?",
    "session_id": "session_id = ?",
    "request_id": "request_id = ?",
    "error_type": "error_type = ?",
}
_SEARCHED = ("path", "model", "model_requested", "user_agent", "error_type", "error_message")


def _condition(where: LogFilter) -> tuple[str, list[Any]]:
    """Return the SQL of *where*, made of our own text alone, and the values for its marks."""
    parts, values = ["true"], []
    for name, comparison in _COMPARISONS.items():
        value = getattr(where, name)
        if value is not None:
            parts.append(comparison)
            naive = value.astimezone(UTC).replace(tzinfo=None) if "_time" in name else value
            values.append(naive)
    for names, operator in (
        (where.service_type.include, "IN"),
        (where.service_type.exclude, "NOT IN"),
    ):
        if names:
            parts.append(f"service_type {operator} ({', '.join('?' * len(names))})")
            values.extend(names)
    if where.q is not None:
        parts.append("(" + " OR ".join(f"contains(lower({name}), ?)" for name in _SEARCHED) + ")")
        values.extend([where.q.lower()] * len(_SEARCHED))
    return " AND ".join(parts), values


def _number(cursor: duckdb.DuckDBPyConnection) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _array(rows: Sequence[tuple[Any, ...]]) -> bytes:
    return ("[" + ",".join(row[0] for row in rows) + "]").encode()


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def set_aside(path: Path) -> Path:
    """Move a damaged database and what belongs to it out of the way; return where it is now."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    path.rename(target)
    log_of_changes = path.with_name(path.name + ".wal")
    if log_of_changes.exists():
        log_of_changes.rename(target.with_name(target.name + ".wal"))
    return target

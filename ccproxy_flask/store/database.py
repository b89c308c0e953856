"""One DuckDB file in one process: its connections, their bounds, their locks, and their errors."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb
import structlog

from ccproxy_flask.errors import StoreUnavailable

from . import schema
from .base import RowsRefused, StoreDamaged
from .statements import BLOCKS, SPACE, number_in, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

MEMORY_LIMIT = "256MB"
"""Of DuckDB's buffers; a query that needs more spills to disk."""
THREADS = 2
"""Of queries and inserts together: most of the machine is for the workers."""
SPILL_LIMIT = "4GB"
QUERY_SECONDS = 30.0
"""A query that takes longer is broken off."""
# The parts of a message that tell what a duckdb.IOException is about (DuckDB 1.5).
_DAMAGE = (
    "Corrupt database file",
    "not a valid DuckDB database file",
    "Could not read enough bytes",
    "Failed to deserialize",
)
_LAST_ANSWERS_SECONDS = 2.0
LEAST_FREE = 64 << 20
"""Less free space than this stays in the file for what comes."""


class Database:
    """The file at *path*, made where there is none, and migrated.

    Safe to call from several threads: questions run beside each other and beside one transaction.
    No statement opens another file, except those that *allow* gives; it is called when the database
    is this process's. Raises StoreUnavailable (held by another process, no permission, made by a
    newer version…) or StoreDamaged.
    """

    def __init__(self, path: Path, allow: Callable[[], Sequence[str]]) -> None:
        self.path = path
        self.usable = True
        """False after an error that only opening the database again can heal…"""
        self.damaged = False
        """…or not even that."""
        self._allow = allow
        self._writing = threading.Lock()
        self._active: set[duckdb.DuckDBPyConnection] = set()
        self._connection = self._opened()
        self._inode = self.path.stat().st_ino

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
            allowed = ", ".join(quoted(path) for path in self._allow())
            connection.execute(f"SET allowed_paths = [{allowed}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            schema.migrate(connection)
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
            log.warning("database_not_rewritten", reason=first_line(str(error)))
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
            self._connection.close()

    # -- use ---------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
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
            return StoreDamaged(f"{self.path} is damaged: {first_line(text)}")
        if isinstance(error, duckdb.FatalException | duckdb.InternalException):
            self.usable = False
        if "Could not set lock" in text:
            return StoreUnavailable(f"{self.path} is held by another process", retry_after=5)
        if isinstance(error, duckdb.InterruptException):
            return StoreUnavailable(f"the query took longer than {QUERY_SECONDS:.0f} s", 5)
        if isinstance(error, duckdb.OutOfMemoryException):
            return StoreUnavailable("the query needs more memory than it may have", 5)
        return StoreUnavailable(first_line(text), retry_after=5)

    # -- its size ----------------------------------------------------------------------------------

    def is_wasteful(self) -> bool:
        """Tell whether most of the file is free, or taken by rows that are gone."""
        self.checkpoint()
        with self.questions() as cursor:
            rows = number_in(cursor.execute("SELECT count(*) FROM access_logs"))
            [(used, kept)] = cursor.execute(SPACE).fetchall()
            [(_, free)] = cursor.execute(BLOCKS).fetchall()
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
            log.warning("database_not_rewritten", reason=first_line(str(error)))
            copy.unlink(missing_ok=True)
            return None
        finally:
            os.umask(mask)
            source.unlink(missing_ok=True)
            log_of_source.unlink(missing_ok=True)
        return copy

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def checkpoint(self) -> None:
        try:
            self._connection.execute("CHECKPOINT")
        except duckdb.Error as error:  # queries are running; the next checkpoint makes room
            log.info("checkpoint_put_off", error=str(error))


def _copy_database(connection: duckdb.DuckDBPyConnection, copy: Path) -> None:
    [(name,)] = connection.execute("SELECT current_database()").fetchall()
    connection.execute(f"ATTACH {quoted(str(copy))} AS ccproxy_copy")
    connection.execute(f'COPY FROM DATABASE "{name}" TO ccproxy_copy')
    connection.execute("DETACH ccproxy_copy")


def _wastes(connection: duckdb.DuckDBPyConnection) -> bool:
    [(used, free)] = connection.execute(BLOCKS).fetchall()
    return bool(free >= LEAST_FREE and free > used)


def first_line(text: str) -> str:
    """Return the part of a message of DuckDB's that says what is wrong."""
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

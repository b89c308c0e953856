"""One DuckDB file in one process: its connections, their bounds, their locks, and their errors."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import structlog

from ccproxy_flask.errors import StoreUnavailable

from . import schema
from .base import RowsRefused, StoreDamaged, abandoned
from .rewriting import Abandoned, Copy, folder_for, remove_remains
from .statements import BLOCKS, SPACE, number_in, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
# What it says of a log of changes that it cannot read; but for these, which may pass.
_LOG_DAMAGE = "Failure while replaying WAL file"
_PASSING = ("No space left", "Permission denied", "Out of Memory", "Too many open files")
_YOUNG_SECONDS = 0.5
_LOOK_SECONDS = 0.1
_WATCH_SECONDS = 0.25
_LAST_ANSWERS_SECONDS = 2.0
# A question that comes while a smaller file takes the place of the database waits so long.
_SWAP_SECONDS = 5.0
# For so long the swap waits for long questions to end; those that still run then are broken off.
_PATIENCE_SECONDS = 960.0
_SHORT_WAIT_SECONDS = 0.5
_BETWEEN_SECONDS = 2.0
_LITTLE = 8 << 20
"""A copy of so few bytes may always be made: it is what gives a full disk its space back."""
LEAST_FREE = 64 << 20
"""Less free space than this stays in the file for what comes."""


def days_folder(path: Path) -> Path:
    """Return the directory, beside the database at *path*, for its rows in Parquet files."""
    real = path.resolve()
    return real.with_name(real.name + ".days")


class Database:
    """The file at *path*, made where there is none, and migrated.

    Safe to call from several threads: questions run beside each other and beside one transaction.
    No statement opens another file, except those that *allow* gives; it is called when the database
    is this process's. Raises StoreUnavailable (held by another process, no permission, made by a
    newer version…) or StoreDamaged.
    """

    def __init__(self, path: Path, allow: Callable[[], Sequence[str]], keep_free: int = 0) -> None:
        self.path = path
        self._keep_free = keep_free
        """So many bytes of the disk are for others: rewriting the file leaves them."""
        self.usable = True
        """False after an error that only opening the database again can heal…"""
        self.damaged = False
        """…or not even that."""
        self._allow = allow
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        """Held while a question begins, and by who wants none to begin."""
        self._active: dict[duckdb.DuckDBPyConnection, tuple[float, float]] = {}
        """The questions that run: when each began, and how many seconds it may take."""
        self._rewriting = threading.Lock()
        """Held before the others, by who rewrites the file and by who wants nobody to."""
        self._abandoned = threading.Event()
        self._copy: Copy | None = None
        self._allowed: Sequence[str] | None = None
        self._looked_at = 0.0
        self._connection = self._opened()
        self._inode = self.path.stat().st_ino
        remove_remains(path)

    # -- opening -----------------------------------------------------------------------------------

    def _opened(self) -> duckdb.DuckDBPyConnection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mask = os.umask(0o077)
        try:
            connection = duckdb.connect(str(self.path), config=self._config())
        except duckdb.Error as error:
            raise self._translated(error) from error
        finally:
            os.umask(mask)
        try:
            # No statement, whoever wrote it, opens another file or changes these settings.
            self._allowed = self._allow() if self._allowed is None else self._allowed
            connection.execute(f"SET allowed_paths = {_list_of(self._allowed)}")
            folders = [str(folder_for(self.path)), str(days_folder(self.path))]
            connection.execute(f"SET allowed_directories = {_list_of(folders)}")
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

    def is_in_place(self) -> bool:
        """False where the file was removed or replaced under our hands."""
        with self._writing:
            try:
                return self.path.stat().st_ino == self._inode
            except OSError:
                return False

    def has_lost_its_log(self) -> bool:
        """True where the log of changes was removed or replaced under our hands: what is in it is
        not found by who opens the database next, until a :meth:`checkpoint`."""
        if self._looked_at > time.monotonic() - _LOOK_SECONDS * 10:
            return False
        self._looked_at = time.monotonic()
        gone = f"{_log_of(self.path.resolve())} (deleted)"  # as proc(5) says
        for entry in Path("/proc/self/fd").glob("*"):
            with suppress(OSError):
                if str(entry.readlink()) == gone:
                    return True
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
        with self.unrewritten():
            self._break_off()
            with self._writing:
                self._connection.close()

    def _break_off(self) -> None:
        for cursor in list(self._active):
            _interrupt(cursor)

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
        cursor = self._begun(seconds or QUERY_SECONDS)
        over = threading.Event()
        watching = (cursor, seconds or QUERY_SECONDS, abandoned.get(), over)
        watch = threading.Thread(target=_break_off_in_time, args=watching, daemon=True)
        try:
            watch.start()
            yield cursor
        except duckdb.Error as error:
            raise self._translated(error) from error
        finally:
            over.set()
            watch.join()  # it must not interrupt what is closed
            del self._active[cursor]
            cursor.close()

    def _begun(self, seconds: float) -> duckdb.DuckDBPyConnection:
        """Return a cursor that is *active* for so long at most, when a swap of files is over."""
        if not self._asking.acquire(timeout=_SWAP_SECONDS):
            raise StoreUnavailable("the database is being opened again", 5)
        try:
            self._refuse_if_unusable()
            cursor = self._connection.cursor()
            self._active[cursor] = (time.monotonic(), seconds)
        except duckdb.Error as error:
            raise self._translated(error) from error
        finally:
            self._asking.release()
        return cursor

    def _refuse_if_unusable(self) -> None:
        if not self.usable:
            raise StoreUnavailable("the database is being opened again")

    def _translated(self, error: duckdb.Error) -> StoreUnavailable:
        text = str(error)
        if _LOG_DAMAGE in text and not any(sign in text for sign in _PASSING):
            self.usable = False
            return StoreDamaged(first_line(text), log_only=True)
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

    def checkpoint(self) -> None:
        """Write what is in the log of changes into the file, unless somebody is in the way."""
        with self._writing, suppress(duckdb.TransactionException):
            self._refuse_if_unusable()
            self._connection.execute("CHECKPOINT")

    # -- its size ----------------------------------------------------------------------------------

    def is_wasteful(self) -> bool:
        """Tell whether most of the file is free, or taken by rows that are gone."""
        live, wasted = self._space()
        return wasted >= LEAST_FREE and wasted > live

    def _space(self) -> tuple[int, int]:
        """Return how many bytes of the file are of use, and how many are not."""
        with self.questions() as cursor:
            rows = number_in(cursor.execute("SELECT count(*) FROM access_logs"))
            [(used, kept)] = cursor.execute(SPACE).fetchall()
            [(_, free)] = cursor.execute(BLOCKS).fetchall()
        # DuckDB keeps the place of deleted rows for a while.
        gone = int(used * (1 - rows / kept)) if kept else 0
        return used - gone, free + gone

    def shrink(self) -> bool:
        """Give the free space of the file back, where most of it is free; True where that was done.

        Rows are appended and questions answered meanwhile; both wait for a moment at the end. False
        also where close() or :meth:`unrewritten` ended it. Raises StoreUnavailable where there can
        be no copy, for which there must be room: the file stays as it is.
        """
        with self._rewriting:
            self._abandoned.clear()
            if not self.usable or not self.is_wasteful():
                return False
            before = self.path.stat().st_size
            try:
                self._refuse_without_room()
                with Copy(self._connection, self.path, self._abandoned) as self._copy:
                    self._rewrite(self._copy)
            except Abandoned:
                return False
            except OSError as error:
                raise StoreUnavailable(f"{error.strerror}: {error.filename}") from error
            except duckdb.Error as error:
                if self._abandoned.is_set():
                    return False
                if folder_for(self.path).name in str(
                    error
                ):  # what is wrong there is not wrong here
                    raise StoreUnavailable(first_line(str(error))) from error
                raise self._translated(error) from error
        log.info("database_rewritten", before=before, after=self.path.stat().st_size)
        return True

    def _refuse_without_room(self) -> None:
        live, _ = self._space()
        free = self._disk_free()
        needed = live + LEAST_FREE + self._keep_free
        if live > _LITTLE and free < needed:
            raise StoreUnavailable(f"a copy needs {needed} bytes of the disk, {free} are free")

    def _leave_room(self) -> None:
        free = self._disk_free()
        if free < self._keep_free:
            raise StoreUnavailable(f"{free} bytes of the disk are free, which others may need")

    def _disk_free(self) -> int:
        return shutil.disk_usage(folder_for(self.path).parent).free

    def _rewrite(self, copy: Copy) -> None:
        copy.make()
        copy.catch_up(self._leave_room)
        with self._calm(copy), self._writing:
            copy.finish()
            self._connection.close()
            try:
                if self._has_log():  # the old file's; the new one must not read it
                    raise StoreUnavailable("the database could not be closed")
                if self.path.stat().st_ino != self._inode:
                    raise StoreUnavailable("somebody put another database in the place of this one")
                copy.put_in_place()
            finally:
                self._open_again()

    def _has_log(self) -> bool:
        return any(_log_of(each).exists() for each in (self.path, self.path.resolve()))

    def _open_again(self) -> None:
        try:
            self._connection = self._opened()
            self._inode = self.path.stat().st_ino
        except (StoreUnavailable, OSError):
            self.usable = False
            raise

    @contextmanager
    def _calm(self, copy: Copy) -> Iterator[None]:
        """Let no question begin, when those that run have ended; long ones are waited for."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            while self._is_busy() and time.monotonic() < deadline:
                copy.pause(_LOOK_SECONDS)
            copy.catch_up()
            with self._asking:
                if self._has_ended(broken_off=time.monotonic() >= deadline):
                    yield
                    return
            copy.pause(_BETWEEN_SECONDS)

    def _is_busy(self) -> bool:
        """Tell whether a question runs that will take long, or has."""
        now = time.monotonic()
        return any(
            seconds > QUERY_SECONDS or now - began > _YOUNG_SECONDS
            for began, seconds in list(self._active.values())
        )

    def _has_ended(self, *, broken_off: bool) -> bool:
        """Tell whether all questions end within a moment; by force, where they are *broken_off*."""
        wait = _LAST_ANSWERS_SECONDS if broken_off else _SHORT_WAIT_SECONDS
        deadline = time.monotonic() + wait
        while self._active and time.monotonic() < deadline:
            if broken_off:
                self._break_off()
            time.sleep(0.005)
        if self._active and broken_off:
            raise StoreUnavailable("a question does not end")
        return not self._active

    @contextmanager
    def unrewritten(self) -> Iterator[None]:
        """End the shrinking that goes on, and let none begin meanwhile."""
        while not self._rewriting.acquire(timeout=_LOOK_SECONDS):
            self.abandon_rewriting()
        try:
            yield
        finally:
            self._rewriting.release()

    def abandon_rewriting(self) -> None:
        """Let the shrinking that goes on end soon; from another thread."""
        self._abandoned.set()
        if self._copy is not None:
            self._copy.interrupt()


def _break_off_in_time(
    cursor: duckdb.DuckDBPyConnection,
    seconds: float,
    is_abandoned: Callable[[], bool],
    over: threading.Event,
) -> None:
    """Interrupt *cursor* after so many *seconds*, or when nobody waits for its answer any more."""
    deadline = time.monotonic() + seconds
    while not over.wait(min(_WATCH_SECONDS, max(0.001, deadline - time.monotonic()))):
        # Again and again: between two statements there is nothing to interrupt.
        if time.monotonic() >= deadline or is_abandoned():
            _interrupt(cursor)


def _interrupt(cursor: duckdb.DuckDBPyConnection) -> None:
    with suppress(duckdb.ConnectionException):  # it has just ended by itself
        cursor.interrupt()


def _list_of(texts: Sequence[str]) -> str:
    return "[" + ", ".join(quoted(text) for text in texts) + "]"


def first_line(text: str) -> str:
    """Return the part of a message of DuckDB's that says what is wrong."""
    return text.strip().partition("\n")[0]


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def set_aside(path: Path, *, log_only: bool = False) -> Path:
    """Move a damaged database and what belongs to it, or its log of changes alone, out of the way;
    return where it is now."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while target.exists() or _log_of(target).exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    if not log_only:
        path.rename(target)
    if os.path.lexists(_log_of(path)):
        _log_of(path).rename(_log_of(target))
    return _log_of(target) if log_only else target

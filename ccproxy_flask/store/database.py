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
from .statements import BLOCKS, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = structlog.get_logger(__name__)

MEMORY_LIMIT = "256MB"
"""Of DuckDB's buffers; a query that needs more spills to disk."""
THREADS = 1
"""Each statement runs in the thread that asks, with its rank, and inserts cost a third less: two
threads put a batch into the table in pieces, to keep its order."""
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
_LOOK_SECONDS = 0.1
_WATCH_SECONDS = 0.25
# A question that comes while a smaller file takes the place of the database waits so long.
_SWAP_SECONDS = 5.0
# For so long the swap waits for questions to end; it is tried again.
_QUIET_SECONDS = 1.0
_COPY = "copy.duckdb"


def compacting_folder(path: Path) -> Path:
    """Return the directory, beside the database at *path*, where its smaller copy is made."""
    real = path.resolve()
    return real.with_name(real.name + ".compacting")


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
        """So many bytes of the disk are for others: what the store makes leaves them."""
        self.usable = True
        """False after an error that only opening the database again can heal…"""
        self.damaged = False
        """…or not even that."""
        self._allow = allow
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        """Held while a question begins, and by who wants none to begin."""
        self._active: dict[duckdb.DuckDBPyConnection | object, float] = {}
        """The questions that run, and when each began."""
        self._allowed: Sequence[str] | None = None
        self._looked_at = 0.0
        self._connection = self._opened()
        self._inode = self.path.stat().st_ino
        shutil.rmtree(compacting_folder(path), ignore_errors=True)

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
            folders = [str(compacting_folder(self.path)), str(days_folder(self.path))]
            connection.execute(f"SET allowed_directories = {_list_of(folders)}")
            # The footers of our files, which never change.
            connection.execute("SET parquet_metadata_cache = true")
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
            # 16 MB, the default, is a checkpoint for each 30,000 rows of a backlog.
            "checkpoint_threshold": "96MB",
        }

    def close(self) -> None:
        """Break off what runs, write everything into the database file, and let go of it."""
        self.usable = False
        self._break_off()
        with self._writing:
            self._connection.close()

    def _break_off(self) -> None:
        for cursor in list(self._active):
            if isinstance(cursor, duckdb.DuckDBPyConnection):
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
        cursor = self._begun()
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

    def _begun(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor that is *active*, when a swap of files is over."""
        if not self._asking.acquire(timeout=_SWAP_SECONDS):
            raise StoreUnavailable("the database is being opened again", 5)
        try:
            self._refuse_if_unusable()
            cursor = self._connection.cursor()
            self._active[cursor] = time.monotonic()
        except duckdb.Error as error:
            raise self._translated(error) from error
        finally:
            self._asking.release()
        return cursor

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Files that count now stay for the length of the block."""
        token = object()
        self._active[token] = time.monotonic()
        try:
            yield
        finally:
            del self._active[token]

    def oldest_reader(self) -> float:
        """Return when the question began that has run longest; now, where there is none."""
        return min(self._active.values(), default=time.monotonic())

    def is_quiet(self) -> bool:
        """Tell whether no question runs: then a checkpoint gives the space of deleted rows back."""
        return not self._active

    @contextmanager
    def changes(self, seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction beside those of :meth:`transaction`, on other rows, of bounded time."""
        with self.questions(seconds) as cursor:
            cursor.execute("BEGIN TRANSACTION")
            yield cursor
            cursor.execute("COMMIT")

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

    def free_bytes(self) -> tuple[int, int]:
        """Return how many bytes of the file are in use, and how many are not."""
        with self.questions() as cursor:
            [(used, free)] = cursor.execute(BLOCKS).fetchall()
        return used, free

    def disk_free(self) -> int:
        """Return how many bytes of the disk others leave, without those to keep for them."""
        return shutil.disk_usage(self.path.resolve().parent).free - self._keep_free

    def compact(self) -> None:
        """Put a copy without free space in the place of the file, while nobody writes or asks.

        For a file that is mostly free: the copy takes a moment for each 100,000 rows. Raises
        StoreUnavailable where it cannot be made; the file stays as it is.
        """
        before = self.path.stat().st_size
        folder = compacting_folder(self.path)
        try:
            with self._quiesced():
                self._copy_to(folder)
                self._connection.close()
                try:
                    self._put_in_place(folder / _COPY)
                finally:
                    self._open_again()
        except OSError as error:
            raise StoreUnavailable(f"{error.strerror}: {error.filename}") from error
        except duckdb.Error as error:
            if folder.name in str(error):  # what is wrong there is not wrong here
                raise StoreUnavailable(first_line(str(error))) from error
            raise self._translated(error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        log.info("database_compacted", before=before, after=self.path.stat().st_size)

    def _copy_to(self, folder: Path) -> None:
        """Copy everything, as DuckDB's documentation says ("Reclaiming Space")."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        [(name,)] = self._connection.execute("SELECT current_database()").fetchall()
        self._connection.execute(f"ATTACH {quoted(str(folder / _COPY))} AS ccproxy_copy")
        try:
            self._connection.execute(f'COPY FROM DATABASE "{name}" TO ccproxy_copy')
        finally:
            self._connection.execute("DETACH ccproxy_copy")

    def _put_in_place(self, copy: Path) -> None:
        if self._has_log() or [path.name for path in copy.parent.iterdir()] != [copy.name]:
            # A log of changes is the old file's; the new one must not read it.
            raise StoreUnavailable("the database could not be closed")
        if self.path.stat().st_ino != self._inode:
            raise StoreUnavailable("somebody put another database in the place of this one")
        copy.chmod(0o600)
        write_out(copy)
        copy.replace(self.path.resolve())
        write_out(self.path.resolve().parent)

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
    def _quiesced(self) -> Iterator[None]:
        """Let nobody write or ask. Raises StoreUnavailable where a question takes too long."""
        with self._asking:
            deadline = time.monotonic() + _QUIET_SECONDS
            while self._active:
                if time.monotonic() > deadline or not self.usable:
                    raise StoreUnavailable("questions are being answered", 5)
                time.sleep(_LOOK_SECONDS / 10)
            with self._writing:
                self._refuse_if_unusable()
                yield


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


def write_out(path: Path) -> None:
    """Have what is at *path* written to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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

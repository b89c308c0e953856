"""A copy of a database without its free space, made in small steps beside those who write and ask.

DuckDB gives back only what is free at the end of a file, which its own tables keep in use.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import duckdb

from ccproxy_flask.errors import StoreUnavailable

from .statements import TABLES, number_in, quoted

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

STEP_ROWS = 122_880
"""So many rows are copied at a time: one row group of DuckDB, which goes straight to its place."""
FEW_ROWS = 2_000
"""So many are quickly done while nobody may write."""
_MOST_ROUNDS = 20
_TABLE = "access_logs"
_NAME = "ccproxy_copy"


class Abandoned(Exception):
    """Somebody asked to end the copying."""


def folder_for(path: Path) -> Path:
    """Return the directory, beside the database at *path*, for the copy and what belongs to it."""
    real = path.resolve()
    return real.with_name(real.name + ".rewriting")


def remove_remains(path: Path) -> None:
    """Remove what a process that was killed while it copied has left; the database is ours."""
    shutil.rmtree(folder_for(path), ignore_errors=True)


class Copy:
    """A copy of the database at *path*, that *connection* has open. A context manager: what is not
    in its place at the end is removed.

    First :meth:`make` and :meth:`catch_up`, while rows are appended; then, while nobody writes,
    :meth:`finish`; at last, while nobody has the database open, :meth:`put_in_place`. They raise
    duckdb.Error, OSError, StoreUnavailable, or Abandoned once *abandoned* is set.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, abandoned: threading.Event
    ) -> None:
        self._place = path.resolve()
        self._folder = folder_for(path)
        self._file = self._folder / "copy.duckdb"
        self._abandoned = abandoned
        self._cursor = connection.cursor()
        self._guard = connection.cursor()
        self._copied = 0
        """Rows with a smaller number are in the copy."""

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        with suppress(duckdb.Error):  # it may not have been attached, or the database is closed
            self._cursor.execute(f"DETACH {_NAME}")
        self._let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _let_go(self) -> None:
        self._cursor.close()
        self._guard.close()

    def interrupt(self) -> None:
        """Break off the statement that is running, from another thread."""
        with suppress(duckdb.ConnectionException):  # it has just ended by itself
            self._cursor.interrupt()

    def pause(self, seconds: float) -> None:
        """Wait; raises Abandoned at once where that is so."""
        if self._abandoned.wait(seconds):
            raise Abandoned

    # -- while others write ------------------------------------------------------------------------

    def make(self) -> None:
        """Begin the copy, with all tables in it and no row."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        # Rows keep their numbers as long as this transaction may want to see what was deleted.
        self._guard.execute("BEGIN TRANSACTION")
        self._guard.execute(f"SELECT count(*) FROM {_TABLE}").fetchall()  # noqa: S608  our names
        # And as long as another one has ended since that one began (DuckDB 1.5).
        self._end()
        [(name,)] = self._cursor.execute("SELECT current_database()").fetchall()
        self._cursor.execute(f"ATTACH {quoted(str(self._file))} AS {_NAME}")
        self._cursor.execute(f'COPY FROM DATABASE "{name}" TO {_NAME} (SCHEMA)')

    def catch_up(self, before_step: Callable[[], None] = lambda: None) -> None:
        """Copy the rows there are, and those that came meanwhile, until few are left.

        *before_step* is called before each step, and may raise StoreUnavailable.
        """
        for _ in range(_MOST_ROUNDS):
            end = self._end()
            if end - self._copied < FEW_ROWS:
                break
            while self._copied < end:
                before_step()
                began = time.monotonic()
                self._copy_some(end)
                # Half of the time is for the others.
                self.pause(time.monotonic() - began)
        # What is written now need not be written while others wait.
        self._cursor.execute(f"CHECKPOINT {_NAME}")
        with suppress(duckdb.TransactionException):  # somebody writes just now
            self._cursor.execute("CHECKPOINT")

    def _end(self) -> int:
        return number_in(
            self._cursor.execute(f"SELECT coalesce(max(rowid), -1) + 1 FROM {_TABLE}")  # noqa: S608  our names
        )

    def _copy_some(self, end: int) -> None:
        upto = min(end, self._copied + STEP_ROWS)
        self._cursor.execute(
            f"INSERT INTO {_NAME}.{_TABLE} SELECT * FROM {_TABLE} "  # noqa: S608  our names
            f"WHERE rowid >= {self._copied} AND rowid < {upto}"
        )
        self._copied = upto

    # -- while nobody does -------------------------------------------------------------------------

    def finish(self) -> None:
        """Copy the rest, and let go: each file is whole then, and has no log of changes."""
        end = self._end()
        if end < self._copied:
            raise StoreUnavailable("the rows were numbered anew")
        while self._copied < end:
            self._copy_some(end)
        for (name,) in self._cursor.execute(TABLES).fetchall():
            if name != _TABLE:
                self._cursor.execute(f'INSERT INTO {_NAME}."{name}" SELECT * FROM "{name}"')  # noqa: S608  our names
            if self._rows_of(f'"{name}"') != self._rows_of(f'{_NAME}."{name}"'):
                raise StoreUnavailable(f"the copy of {name} is not whole")
        self._cursor.execute(f"DETACH {_NAME}")
        self._empty_log()
        self._let_go()
        if [path.name for path in self._folder.iterdir()] != [self._file.name]:
            raise StoreUnavailable("the copy could not be closed")
        self._file.chmod(0o600)
        _write_out(self._file)

    def _empty_log(self) -> None:
        """Let all that was written be in the database itself; a later one must not find a log."""
        try:
            self._cursor.execute("CHECKPOINT")
        except duckdb.TransactionException:  # thorough, and slow: it would vacuum the old file
            self._guard.execute("ROLLBACK")
            self._cursor.execute("CHECKPOINT")

    def _rows_of(self, table: str) -> int:
        return number_in(self._cursor.execute(f"SELECT count(*) FROM {table}"))  # noqa: S608  our names

    def put_in_place(self) -> None:
        """Let the copy be the database."""
        self._file.replace(self._place)
        _write_out(self._place.parent)


def _write_out(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

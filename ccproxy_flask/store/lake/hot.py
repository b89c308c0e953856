"""Rows that the lake does not have yet: in memory, and in the journal still."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb

from ccproxy_flask.errors import StoreUnavailable

from ..base import RowsRefused
from ..schema import COLUMN_SQL, columns
from ..statements import NAMES, number_in, rows_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..batch import BatchFile
    from ..limit_rows import LimitRow
    from .engine import Cursor, Engine

_UNFIT = (
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.ConstraintException,
    duckdb.OutOfRangeException,
)
_OUTCOME_SECONDS = 10.0


@dataclass(eq=False, slots=True)
class Generation:
    """A table of rows that go to the lake together, where *snapshot* is the first to have them."""

    table: str
    made: float = field(default_factory=time.monotonic)
    rows: int = 0
    bytes: int = 0
    limits: list[LimitRow] = field(default_factory=list)
    """What was said of rate limits; seen when it is in the lake."""
    began: float = 0.0
    """When its first row came."""
    committing: bool = False
    snapshot: int | None = None
    committed: float = 0.0
    readers: int = 0


class HotRows:
    """Generations of rows: the newest takes what comes, until it goes into the lake.

    One that is there stays for those who look at the lake as it was before.
    """

    def __init__(self, engine: Engine, batch: BatchFile) -> None:
        self._engine, self._batch = engine, batch
        self._cursor = engine.cursor()
        self._changed = threading.Condition()
        self._number = 0
        self._lost = False
        self._generations: list[Generation] = []
        self._choosing: dict[object, float] = {}
        """Who is about to choose generations, and since when."""

    # -- what comes in, from one thread, while nothing begins to go --------------------------------

    def take(self, rows: Sequence[bytes], limits: Sequence[LimitRow] = ()) -> None:
        """Keep *rows* and *limits*, all of them or none. Raises RowsRefused."""
        current = self._current()
        if rows:
            self._batch.fill(rows)
            insert = f"INSERT INTO {current.table} ({NAMES}) {rows_in(self._batch.path)}"
            self._insert(insert, len(rows))
        with self._changed:
            current.began = current.began or time.monotonic()
            current.rows += len(rows)
            current.bytes += sum(map(len, rows))
            current.limits += limits

    def _insert(self, insert: str, expected: int) -> None:
        cursor = self._cursor
        try:
            cursor.execute("BEGIN TRANSACTION")
            kept = number_in(cursor.execute(insert))
            cursor.execute("COMMIT" if kept == expected else "ROLLBACK")
        except duckdb.Error as error:
            cursor.execute("ROLLBACK")
            if isinstance(error, _UNFIT):
                raise RowsRefused(str(error)) from error
            raise self._engine.translated(error) from error
        if kept != expected:
            raise RowsRefused(f"{expected} lines are another number of rows")

    def _current(self) -> Generation:
        with self._changed:
            last = self._generations[-1] if self._generations else None
            if last is not None and not last.committing and last.snapshot is None:
                return last
        self._number += 1
        table = f"memory.main.hot_{self._number}"
        with self._engine.translating():
            self._cursor.execute(f"CREATE TABLE {table} ({columns(COLUMN_SQL)})")
        found = Generation(table)
        with self._changed:
            self._generations.append(found)
        return found

    def waiting(self) -> tuple[int, int, float]:
        """Return how many rows and bytes the lake has not, and for how many seconds."""
        with self._changed:
            new = [
                one
                for one in self._generations
                if one.snapshot is None and (one.rows or one.limits)
            ]
            began = min((one.began for one in new), default=None)
        seconds = time.monotonic() - began if began is not None else 0.0
        return sum(one.rows for one in new), sum(one.bytes for one in new), seconds

    # -- what goes to the lake, from one thread ----------------------------------------------------

    def begin_commit(self) -> list[Generation]:
        """Return what is to go into the lake now; what comes from now on is not of it.

        Who asks waits, until :meth:`end_commit`, for how it ends.
        """
        with self._changed:
            found = [
                one
                for one in self._generations
                if one.snapshot is None and (one.rows or one.limits)
            ]
            for one in found:
                one.committing = True
        return found

    def end_commit(self, generations: Sequence[Generation], snapshot: int | None) -> None:
        """Note that *snapshot* of the lake has these first; None: they are still to go."""
        with self._changed:
            for one in generations:
                one.committing, one.snapshot, one.committed = False, snapshot, time.monotonic()
            self._changed.notify_all()

    def lose(self) -> None:
        """Note that nobody knows whether what was to go has gone."""
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def drop_committed(self, cursor: Cursor) -> None:
        """Free the memory of what is in the lake and nobody reads here."""
        with self._changed:
            oldest = min(self._choosing.values(), default=time.monotonic())
            gone = [
                one
                for one in self._generations
                if one.snapshot is not None and not one.readers and one.committed < oldest
            ]
            self._generations = [one for one in self._generations if one not in gone]
        for one in gone:
            cursor.execute(f"DROP TABLE {one.table}")

    # -- who reads ---------------------------------------------------------------------------------

    @contextmanager
    def beside(self, cursor: Cursor, lake: str) -> Iterator[list[str]]:
        """The tables that have, for the length of the block, the rows that are not in the *lake* as
        the transaction of *cursor* sees it."""
        token, began = object(), time.monotonic()
        with self._changed:
            self._choosing[token] = began
        chosen: list[Generation] = []
        try:
            # With this the transaction begins for the lake, too.
            [(snapshot,)] = cursor.execute(f"FROM {lake}.current_snapshot()").fetchall()
            chosen = self._chosen(snapshot, began)
            with self._changed:
                del self._choosing[token]
            yield [one.table for one in chosen]
        finally:
            with self._changed:
                self._choosing.pop(token, None)
                for one in chosen:
                    one.readers -= 1

    def _chosen(self, snapshot: int, began: float) -> list[Generation]:
        with self._changed:
            pending = [one for one in self._generations if one.committing]
            known = self._changed.wait_for(
                lambda: self._lost or not any(one.committing for one in pending), _OUTCOME_SECONDS
            )
            if self._lost or not known:
                raise StoreUnavailable("the lake is slow to take records", 5)
            # A table that was made after the transaction began is not there for it.
            chosen = [
                one
                for one in self._generations
                if one.made < began and (one.snapshot is None or one.snapshot > snapshot)
            ]
            for one in chosen:
                one.readers += 1
        return chosen

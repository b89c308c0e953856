"""Takes records into the database: rows, the journal's offsets and counts in one transaction."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb

from . import statements
from .base import CommittedOffset, RowsRefused
from .limits import insert as insert_limits
from .limits import newest
from .statements import number_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .batch import BatchFile
    from .database import Database
    from .limit_rows import LimitRow
    from .parts import Parts
    from .sums import Sums

_UNFIT = (
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.ConstraintException,
    duckdb.OutOfRangeException,
)


class Intake:
    """Puts what is in *batch* into *database*, beside its *parts*, and into *sums*. *changed* is
    called after."""

    def __init__(
        self,
        database: Database,
        parts: Parts,
        sums: Sums,
        batch: BatchFile,
        changed: Callable[[], None],
    ) -> None:
        self._database, self._parts, self._sums, self._batch = database, parts, sums, batch
        self._changed = changed
        self._insert = statements.insert(batch.path)
        self.last_write: datetime | None = None

    def append(
        self,
        rows: Sequence[bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        limits: Sequence[LimitRow] = (),
    ) -> None:
        """As RecordingStore.append()."""
        with self._adding(len(rows)) as cursor:
            if rows and self._taken(cursor, rows, self._insert, []) != len(rows):
                raise RowsRefused(f"{len(rows)} lines are another number of rows")
            statements.set_marks(cursor, marks)
            statements.add_counts(cursor, counts)
            insert_limits(cursor, limits)
        self._note(len(rows) + len(limits))

    def append_missing(
        self,
        rows: Mapping[str, bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        count: str | None = None,
        limits: Sequence[LimitRow] = (),
    ) -> int:
        """As RecordingStore.append_missing()."""
        kept = 0
        with self._adding(len(rows)) as cursor:
            if rows:
                # Ids sort by time: only what is that old is looked at.
                least, greatest = min(rows), max(rows)
                known = [
                    part
                    for part in self._parts.registered(cursor)
                    if part.least_id <= greatest and part.greatest_id >= least
                ]
                there = self._parts.relation(known, names=["request_id"])
                insert = statements.insert_missing(self._batch.path, there)
                kept = self._taken(cursor, list(rows.values()), insert, [least, greatest])
            statements.set_marks(cursor, marks)
            statements.add_counts(cursor, counts)
            statements.add_counts(cursor, {count: kept} if kept and count else {})
            insert_limits(cursor, limits)
        self._note(kept + len(limits))
        return kept

    @contextmanager
    def _adding(self, count: int) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction that takes about *count* rows; it may add them to the sums, too."""
        with self._sums.adding(count) as is_due, self._database.transaction() as cursor:
            yield cursor
            if is_due:
                self._sums.fold(cursor)

    def _taken(
        self,
        cursor: duckdb.DuckDBPyConnection,
        rows: Sequence[bytes],
        insert: str,
        values: list[str],
    ) -> int:
        self._batch.fill(rows)
        try:
            generation = self._sums.generation(cursor)
            return number_in(cursor.execute(insert, [generation, *values]))
        except _UNFIT as error:
            raise RowsRefused(str(error)) from error

    def _note(self, kept: int) -> None:
        if kept:
            self._changed()
            self.last_write = datetime.now(UTC)

    def newest_limits(self, of_each: int) -> list[LimitRow]:
        """As RecordingStore.newest_limits()."""
        with self._database.questions() as cursor:
            return newest(cursor, of_each)

    def news(self, _position: int | None) -> tuple[int, list[bytes]]:
        """As RecordingStore.news(): there are no other machines."""
        return 0, []

    def settle(self) -> None:
        """As RecordingStore.settle(): each append is a commit."""

    def marks(self) -> dict[str, CommittedOffset]:
        """Return all marks by segment."""
        with self._database.questions() as cursor:
            rows = cursor.execute("SELECT segment, position, closed FROM journal_marks").fetchall()
        return {name: CommittedOffset(name, position, closed) for name, position, closed in rows}

    def forget(self, segments: Sequence[str]) -> None:
        """Delete the marks of *segments*, which are gone."""
        with self._database.transaction() as cursor:
            cursor.execute("DELETE FROM journal_marks WHERE segment IN ?", [list(segments)])

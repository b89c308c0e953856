"""Parts: rows that no longer change, in Parquet files of one UTC day each, and the table of those
that count.

A part is in the table exactly where its rows are in no other place: both are changed in one
transaction of the database. A file is whole, and on the disk, before the table names it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import duckdb

from .database import write_out
from .schema import COLUMN_SQL
from .statements import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

RECENT = "recent_logs"
"""The table of the rows that are in no part."""
SUFFIX = ".parquet"
UNFINISHED = ".unfinished"
_OPTIONS = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 30720"


@dataclass(frozen=True, slots=True)
class Part:
    """One file: its *name*, and what its rows are. Times are UTC without a zone, ends included."""

    name: str
    rows: int
    bytes: int
    first: datetime
    last: datetime
    least_id: str
    greatest_id: str
    columns: tuple[str, ...]
    summed: bool
    """Whether its rows are in the sums."""


class Parts:
    """The files in *folder*. Each call is for a cursor that is in a transaction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Part] = {}
        """What the table said of files, which never change but in being summed."""

    def registered(self, cursor: duckdb.DuckDBPyConnection) -> list[Part]:
        """Return the parts that count, oldest first."""
        rows = cursor.execute("SELECT name, summed FROM parts ORDER BY first, name").fetchall()
        known = self._read
        if not known.keys() >= {name for name, _ in rows}:
            found = cursor.execute("SELECT * FROM parts").fetchall()
            self._read = known = {row[0]: _part(row) for row in found}
        return [
            part if part.summed == bool(summed) else replace(part, summed=bool(summed))
            for part, summed in ((known[name], summed) for name, summed in rows)
        ]

    # Everything in these statements is our own: names of columns, and of files that we made.
    # ruff: noqa: S608  our names
    def relation(
        self, parts: Iterable[Part], recent: str = RECENT, names: Iterable[str] = COLUMN_SQL
    ) -> str:
        """Return the SELECT of all rows of *recent* and of *parts*, with the columns *names*."""
        names = list(names)
        found = [f"SELECT {', '.join(names)} FROM {recent}"] if recent else []
        for columns, group in groupby(sorted(parts, key=_columns), _columns):
            files = ", ".join(quoted(str(self.folder / part.name)) for part in group)
            shown = ", ".join(_shown(name, columns) for name in names)
            found.append(f"SELECT {shown} FROM read_parquet([{files}])")
        return " UNION ALL ".join(found)

    def renew_view(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Let ``access_logs`` be all rows, for whoever opens the database with another program."""
        view = self.relation(self.registered(cursor))
        cursor.execute(f"CREATE OR REPLACE VIEW access_logs AS {view}")

    def are_known(
        self, cursor: duckdb.DuckDBPyConnection, part: Part, others: Sequence[Part]
    ) -> bool:
        """Tell whether all rows of *part* are in *others*, too."""
        others = [one for one in others if _overlap(one, part)]
        if not others:
            return False
        there = self.relation(others, recent="", names=["request_id"])
        ids = self.relation([part], recent="", names=["request_id"])
        found = cursor.execute(
            f"SELECT 1 FROM ({ids}) ANTI JOIN ({there}) USING (request_id) LIMIT 1"
        )
        return not found.fetchall()

    # -- changes -----------------------------------------------------------------------------------

    def write(self, cursor: duckdb.DuckDBPyConnection, name: str, rows: str) -> Part | None:
        """Write the *rows* of a SELECT to a new file, in the order of their times, and return what
        is in it; None where there is no row. It does not count yet."""
        unfinished, path = self.folder / (name + UNFINISHED), self.folder / name
        try:
            cursor.execute(
                f"COPY (SELECT * FROM ({rows}) ORDER BY timestamp, request_id) "
                f"TO {quoted(str(unfinished))} ({_OPTIONS})"
            )
        except duckdb.Error:
            unfinished.unlink(missing_ok=True)
            raise
        part = self.described(cursor, unfinished, name)
        if part is None:
            unfinished.unlink()
            return None
        unfinished.chmod(0o400)
        write_out(unfinished)
        unfinished.rename(path)
        write_out(self.folder)
        return part

    def described(self, cursor: duckdb.DuckDBPyConnection, path: Path, name: str) -> Part | None:
        """Return what is in the file at *path*; None where there is no row in it."""
        file = quoted(str(path))
        [(rows, *bounds)] = cursor.execute(
            "SELECT count(*), min(timestamp), max(timestamp), min(request_id), max(request_id) "
            f"FROM read_parquet({file})"
        ).fetchall()
        if not rows:
            return None
        columns = cursor.execute(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
        size = path.stat().st_size
        return _part((name, rows, size, *bounds, [one for one, *_ in columns], False))

    def register(self, cursor: duckdb.DuckDBPyConnection, part: Part) -> None:
        """Let *part* count."""
        values = [getattr(part, name) for name in Part.__slots__]
        cursor.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def unregister(self, cursor: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> None:
        """Let *parts* count no more. Their files are for the caller to remove, later."""
        names = [part.name for part in parts]
        cursor.execute("DELETE FROM parts WHERE name IN ?", [names])


def _columns(part: Part) -> tuple[str, ...]:
    return part.columns


def _part(row: tuple[Any, ...]) -> Part:
    values = (*row[:-2], tuple(row[-2]), bool(row[-1]))
    return Part(**dict(zip(Part.__slots__, values, strict=True)))


def _overlap(one: Part, other: Part) -> bool:
    return one.least_id <= other.greatest_id and other.least_id <= one.greatest_id


def _shown(name: str, columns: Sequence[str]) -> str:
    """Return the column *name* of a file that has *columns*: it may be older than the column."""
    return name if name in columns else f"NULL::{COLUMN_SQL[name]} AS {name}"

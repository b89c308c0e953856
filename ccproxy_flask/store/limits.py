"""The table ``rate_limits``: rows in, rows out, and what keeps it when the database is lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .base import LimitRow
from .statements import number_in, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    import duckdb

TABLE = "rate_limits"
MOST_ROWS = 1_000_000
"""More than these are not kept: the oldest go."""
_MOST_KNOWN = 20_000
_COPY = "rate-limits.copy"


_NAMES = ", ".join(f'"{name}"' for name in LimitRow._fields)
_TYPES = {
    "timestamp": "TIMESTAMP",
    "reset": "TIMESTAMP",
    "window_seconds": "BIGINT",
} | dict.fromkeys(("used", "limit", "remaining"), "DOUBLE")
_LISTS = ", ".join(f"unnest(?::{_TYPES.get(name, 'VARCHAR')}[])" for name in LimitRow._fields)

# ruff: noqa: S608  our names


def insert(cursor: duckdb.DuckDBPyConnection, rows: Sequence[LimitRow]) -> None:
    """Add *rows*, all with one statement."""
    if rows:
        values = [list(column) for column in zip(*rows, strict=True)]
        cursor.execute(f"INSERT INTO {TABLE} ({_NAMES}) SELECT {_LISTS}", values)


def newest(cursor: duckdb.DuckDBPyConnection, of_each: int) -> list[LimitRow]:
    """Return so many of the newest rows *of_each* window, in the order of their times."""
    found = cursor.execute(
        f"SELECT * FROM (SELECT {_NAMES} FROM {TABLE} QUALIFY row_number() OVER "
        '(PARTITION BY provider, account, "window" ORDER BY timestamp DESC) <= ? '
        "ORDER BY timestamp DESC LIMIT ?) ORDER BY timestamp",
        [of_each, _MOST_KNOWN],
    )
    return [LimitRow(*row) for row in found.fetchall()]


def rows(cursor: duckdb.DuckDBPyConnection, where: str, values: list[Any]) -> list[LimitRow]:
    """Return the rows of *where*, our own text, in the order of their times."""
    found = cursor.execute(
        f"SELECT {_NAMES} FROM {TABLE} WHERE {where} ORDER BY timestamp, request_id", values
    )
    return [LimitRow(*row) for row in found.fetchall()]


def expire(cursor: duckdb.DuckDBPyConnection, oldest: datetime | None) -> int:
    """Delete the rows from before *oldest*, and those that are too many; return how many."""
    gone = 0
    if oldest is not None:
        gone = _deleted(cursor, oldest)
    surplus = number_in(cursor.execute(f"SELECT count(*) FROM {TABLE}")) - MOST_ROWS
    if surplus > 0:
        find = f"SELECT timestamp FROM {TABLE} ORDER BY timestamp LIMIT 1 OFFSET ?"
        [(until,)] = cursor.execute(find, [surplus]).fetchall()
        gone += _deleted(cursor, until)
    return gone


def _deleted(cursor: duckdb.DuckDBPyConnection, before: datetime) -> int:
    found = f"SELECT count(*) FROM {TABLE} WHERE timestamp < ?"
    if not number_in(cursor.execute(found, [before])):
        return 0
    return number_in(cursor.execute(f"DELETE FROM {TABLE} WHERE timestamp < ?", [before]))


class LimitsCopy:
    """A copy of the table beside the parts in *folder*: a database that has to begin anew takes it
    as it takes the parts. It is as old as the last :meth:`write`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _COPY
        self._written: tuple[int, datetime | None] | None = None

    def write(self, cursor: duckdb.DuckDBPyConnection) -> bool:
        """Write the copy anew where the table has changed; return whether it had."""
        [found] = cursor.execute(f"SELECT count(*), max(timestamp) FROM {TABLE}").fetchall()
        state = (int(found[0]), found[1])
        if state in (self._written, (0, None)):
            return False
        unfinished = self._path.with_suffix(".unfinished")
        cursor.execute(
            f"COPY (SELECT {_NAMES} FROM {TABLE} ORDER BY timestamp) "
            f"TO {quoted(str(unfinished))} (FORMAT parquet, COMPRESSION zstd)"
        )
        unfinished.chmod(0o600)
        _sync(unfinished)
        unfinished.replace(self._path)
        self._written = state
        return True

    def read(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """Take the rows of the copy into a table that is empty; return how many."""
        if not self._path.exists():
            return 0
        if number_in(cursor.execute(f"SELECT count(*) FROM {TABLE}")):
            return 0
        file = quoted(str(self._path))
        return number_in(
            cursor.execute(
                f"INSERT INTO {TABLE} ({_NAMES}) SELECT {_NAMES} FROM read_parquet({file})"
            )
        )

    def remove(self) -> None:
        """Delete it."""
        self._path.unlink(missing_ok=True)
        self._written = None


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The table ``rate_limits``: rows in, rows out, and what keeps it when the database is lost."""

from __future__ import annotations

from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from .database import write_out
from .limit_rows import LimitRow
from .quota_periods import is_quota
from .quota_weights import Cell, Uses
from .statements import number_in, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import duckdb

from .limit_rows import LimitsAsked

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
COLUMNS = ", ".join(f'"{name}" {_TYPES.get(name, "VARCHAR")}' for name in LimitRow._fields)
# As one text: of the values of a list, DuckDB looks at each for a type of numpy.
_SHAPE = orjson.dumps([{name: _TYPES.get(name, "VARCHAR") for name in LimitRow._fields}]).decode()

HISTORY = timedelta(days=14)
"""What tokens take of a window is found from so much of its history."""
NEEDED = (
    *("timestamp", "duration_ms", "provider", "account_id", "session_id", "agent_id", "model"),
    *("client", "api_key_id", "cost_usd", "tokens_input", "cache_read_tokens"),
    *("cache_write_tokens", "tokens_output"),
)
"""The columns of requests that are read for it."""
LONGEST = timedelta(hours=6)
"""A request that takes longer is not looked for."""
_USES = (Path(__file__).parent / "queries/uses.sql").read_text(encoding="utf-8")
# ruff: noqa: S608  our names


def insert(cursor: duckdb.DuckDBPyConnection, rows: Sequence[LimitRow], table: str = TABLE) -> None:
    """Add *rows*, all with one statement."""
    if rows:
        text = orjson.dumps([row._asdict() for row in rows]).decode()
        cursor.execute(
            f"INSERT INTO {table} BY NAME SELECT unnest(from_json(?::JSON, ?), recursive := true)",
            [text, _SHAPE],
        )


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


def asked_for(cursor: duckdb.DuckDBPyConnection, asked: LimitsAsked) -> list[LimitRow]:
    """Return the rows of what is *asked*, and as many older ones as the weights are found from."""
    begin = min(utc(asked.start_time), utc(asked.end_time) - HISTORY)
    condition, values = "timestamp >= ? AND timestamp <= ?", [begin, utc(asked.end_time)]
    for name in ("provider", "account"):
        if (value := getattr(asked, name)) is not None:
            condition += f" AND {name} = ?"
            values.append(value)
    found = rows(cursor, condition, values)
    return [row for row in found if asked.window in (None, row.window)]


def moves(rows: Iterable[LimitRow]) -> dict[tuple[str | None, str | None], list[datetime]]:
    """Return, by provider and account, when a window moved of which it can be asked who filled
    it."""
    times: dict[tuple[str | None, str | None], set[datetime]] = {}
    for row in rows:
        if is_quota(row):
            times.setdefault((row.provider, row.account), set()).add(row.timestamp)
    return {account: sorted(found) for account, found in times.items()}


def utc(moment: datetime) -> datetime:
    """Return *moment* in UTC, without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def uses(
    cursor: duckdb.DuckDBPyConnection,
    logs: str,
    provider: str | None,
    account: str | None,
    times: Sequence[datetime],
) -> Uses:
    """Return what the requests of an account used between *times*, from *logs*, a SELECT."""
    moments = ",".join(moment.isoformat() for moment in times)
    values = [moments, len(times), times[0] - LONGEST, times[-1], provider, account]
    found = cursor.execute(_USES.replace("/*logs*/", logs), values).fetchall()
    known = Uses(list(times), [])
    ended: dict[int, datetime] = {}
    for *facts, end, tokens in found:
        cell = Cell(*facts)
        known.cells.append(cell)
        if cell.step not in ended or end > ended[cell.step]:
            ended[cell.step] = end
            known.last[cell.step] = (cell.model, tokens)
    return known


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


def copied(cursor: duckdb.DuckDBPyConnection, path: Path) -> str:
    """Write the table to *path*; return the SELECT of what is there."""
    place = quoted(str(path))
    cursor.execute(f"COPY (SELECT {_NAMES} FROM {TABLE}) TO {place} (FORMAT parquet)")
    return f"SELECT {_NAMES} FROM read_parquet({place})"


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
        copied(cursor, unfinished)
        unfinished.chmod(0o600)
        write_out(unfinished)
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

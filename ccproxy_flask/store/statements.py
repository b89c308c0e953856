"""The statements of the store, made of our own text alone; what comes from outside is a value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.record import COLUMNS
from ccproxy_flask.totals import FAILURE_SQL, STORED
from ccproxy_flask.usage.request_class import GENERATIONS, TURNS

from .schema import COLUMN_SQL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb

    from .base import CommittedOffset, LogFilter

NAMES = ", ".join(COLUMNS)
SHOWN = ", ".join(
    f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ') AS {name}" if kind == "TIMESTAMP" else name
    for name, kind in COLUMN_SQL.items()
)
# Readers of Parquet take a DECIMAL for an object, not for a number.
_PARQUET = ", ".join(
    f"{name}::DOUBLE AS {name}" if kind.startswith("DECIMAL") else name
    for name, kind in COLUMN_SQL.items()
)
_HERE = Path(__file__).parent
TEXTS = """from_json(?, '["VARCHAR"]')"""
"""A list of texts; its value is what :func:`texts` makes of them."""
_LARGEST_ROW = 2 << 20  # DuckDB takes memory for several of these


def _sql(name: str) -> str:
    text = (_HERE / name).read_text(encoding="utf-8")
    figures = ", ".join(f"{sql} AS {figure}" for figure, sql in STORED.items())
    text = text.replace("/*figures*/", figures).replace("/*names*/", ", ".join(STORED))
    return text.replace("/*failure*/", FAILURE_SQL)


def _texts(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


ENTRIES = _sql("queries/entries.sql").replace("/*columns*/", SHOWN)
TOTALS = _sql("queries/totals.sql")
SESSIONS = (
    _sql("queries/sessions.sql")
    .replace("/*turns*/", _texts(TURNS))
    .replace("/*generations*/", _texts(GENERATIONS))
)
GROUPS = _sql("queries/groups.sql")
ANALYTICS = _sql("queries/analytics.sql")
ANALYTICS_OF_MANY = _sql("queries/analytics_of_many.sql")
# A row is of the time at which its request began, and may be stored long after that.
CONTENT_KEPT = (
    "SELECT request_id FROM recent_logs WHERE content = 'kept' "
    "AND epoch(timestamp) + coalesce(duration_seconds, 0) > epoch(now()) - ? "
    "ORDER BY timestamp DESC LIMIT ?"
)
# Ids sort by time: only what is that old is looked at.
CONTENT_DROPPED = (
    "UPDATE recent_logs SET content = 'dropped' WHERE content = 'kept' "  # noqa: S608  our names
    f"AND request_id BETWEEN ? AND ? AND request_id IN (SELECT unnest({TEXTS}))"
)
# New names, old ones; and of which rows.
CONVERSATION_NAMED = (
    "UPDATE recent_logs "  # noqa: S608  our names
    f"SET conversation_id = list_extract({TEXTS}, list_position({TEXTS}, request_id)) "
    "WHERE conversation_id IS NULL AND request_id BETWEEN ? AND ? "
    f"AND request_id IN (SELECT unnest({TEXTS}))"
)
CONVERSATION_RENAMED = (
    "UPDATE recent_logs "  # noqa: S608  our names
    f"SET conversation_id = list_extract({TEXTS}, list_position({TEXTS}, conversation_id)) "
    f"WHERE session_id IS NULL AND conversation_id IN (SELECT unnest({TEXTS})) "
    "AND epoch(timestamp) > epoch(now()) - 172800"
)
# Of this database alone: a copy of it may be attached.
BLOCKS = (
    "SELECT block_size * used_blocks, block_size * free_blocks FROM pragma_database_size() "
    "WHERE database_name = current_database()"
)
# Parquet has types of its own for times and numbers; the others are text.
EXPORTS = {
    "csv": ("FORMAT csv, HEADER", SHOWN),
    "jsonl": ("FORMAT json", SHOWN),
    "parquet": ("FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480", _PARQUET),
}


def groups(logs: str, where: str, by: Sequence[str], *, often: bool) -> str:
    """Return the statement for sums of *logs* where *where*, by columns; *often*: the order."""
    order = ["requests DESC"] if often else ["cost_usd DESC NULLS LAST", "requests DESC"]
    text = GROUPS.replace("/*logs*/", logs).replace("/*where*/", where)
    text = text.replace("/*by*/", "".join(f"{name}, " for name in by))
    text = text.replace("/*order*/", ", ".join([*order, *by]))
    return text.replace("/*known*/", f"{by[0]} IS NOT NULL" if by else "true")


def rows_in(batch: str, more: str = "") -> str:
    """Return the SELECT of all rows of the file *batch*, and *more* columns behind theirs."""
    return (
        f"SELECT {NAMES}{more} FROM "  # noqa: S608  our names
        f"read_json('{batch}', format='newline_delimited', columns={COLUMN_SQL}, "
        f"maximum_object_size={_LARGEST_ROW})"
    )


def insert(batch: str) -> str:
    """Return the statement that takes all rows of the file *batch* in.

    The first of its values is their generation.
    """
    return f"INSERT INTO recent_logs ({NAMES}, generation) {rows_in(batch, ', ?')}"


def insert_missing(batch: str, there: str) -> str:
    """Return the statement that takes those rows in whose request is not *there*, which is a SELECT
    of ids.

    Its values are the generation, and the least and the greatest request id of the rows: ids sort
    by time, and only what is that old is looked at.
    """
    return (
        f"{insert(batch)} AS new WHERE NOT EXISTS "  # noqa: S608  our names
        f"(SELECT 1 FROM ({there}) AS old WHERE old.request_id = new.request_id "
        "AND old.request_id BETWEEN ? AND ?)"
    )


def set_marks(cursor: duckdb.DuckDBPyConnection, marks: Sequence[CommittedOffset]) -> None:
    """Put *marks* in the place of those of the same segments."""
    for mark in marks:
        cursor.execute("DELETE FROM journal_marks WHERE segment = ?", [mark.segment])
        values = [mark.segment, mark.position, mark.closed]
        cursor.execute("INSERT INTO journal_marks VALUES (?, ?, ?)", values)


def add_counts(cursor: duckdb.DuckDBPyConnection, counts: Mapping[str, int]) -> None:
    """Add *counts* to those of the same names."""
    for name, number in counts.items():
        found = cursor.execute("DELETE FROM journal_counts WHERE name = ? RETURNING value", [name])
        # No UPDATE: after one, DuckDB makes no checkpoint while an older transaction is open.
        known = sum(value for (value,) in found.fetchall())
        cursor.execute("INSERT INTO journal_counts VALUES (?, ?)", [name, known + number])


def condition(where: LogFilter) -> tuple[str, list[Any]]:
    """Return the SQL of *where*, made of our own text alone, and the values for its marks."""
    parts, values = ["true"], []
    for each, value in where.asked():
        text, marks = each.sql(value)
        parts.append(text)
        values += marks
    return " AND ".join(parts), values


def texts(values: Iterable[str]) -> str:
    """Return *values* as the one value of ``TEXTS``.

    Of a list DuckDB's Python binding tries to import pandas for each element: 0.1 ms of CPU.
    """
    return orjson.dumps(list(values)).decode()


def number_in(cursor: duckdb.DuckDBPyConnection) -> int:
    """Return the one number that *cursor* was answered with; 0 without a row."""
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def array(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Return the JSON array of rows that begin with their JSON text."""
    return ("[" + ",".join(row[0] for row in rows) + "]").encode()


def quoted(text: str) -> str:
    """Return *text* as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def naming(named: Mapping[str, str], renamed: Mapping[str, str]) -> list[tuple[str, list[object]]]:
    """Return the statements, with their values, that name conversations (as in RecordingStore)."""
    found: list[tuple[str, list[object]]] = []
    if named:
        names, ids = texts(named.values()), texts(named)
        found.append((CONVERSATION_NAMED, [names, ids, min(named), max(named), ids]))
    if renamed:
        old = texts(renamed)
        found.append((CONVERSATION_RENAMED, [texts(renamed.values()), old, old]))
    return found

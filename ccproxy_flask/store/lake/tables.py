"""The lake's tables: made where they are missing, and given the columns that they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import limits
from ..schema import COLUMN_SQL, columns
from .engine import LAKE

if TYPE_CHECKING:
    from .engine import Cursor

LOGS = f"{LAKE}.access_logs"
LIMITS = f"{LAKE}.rate_limits"
_OPTIONS = {"parquet_compression": "zstd", "parquet_row_group_size": "30720"}


def prepare(cursor: Cursor) -> None:
    """Make what is missing; the caller sees to it that nobody else does at the same time."""
    rows = cursor.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = ? AND table_name = ?",
        [LAKE, "access_logs"],
    ).fetchall()
    there = {name for (name,) in rows}
    if not there:
        _make(cursor)
    for name, kind in COLUMN_SQL.items():
        if there and name not in there:
            cursor.execute(f"ALTER TABLE {LOGS} ADD COLUMN {name} {kind}")
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {LIMITS} ({limits.COLUMNS})")
    # The name under which statements of the store know it.
    cursor.execute(f"CREATE VIEW memory.main.{limits.TABLE} AS FROM {LIMITS}")


def _make(cursor: Cursor) -> None:
    cursor.execute("BEGIN TRANSACTION")
    cursor.execute(f"CREATE TABLE {LOGS} ({columns(COLUMN_SQL)})")
    # Whole days go, and a range reads its own days alone.
    cursor.execute(
        f"ALTER TABLE {LOGS} SET PARTITIONED BY (year(timestamp), month(timestamp), day(timestamp))"
    )
    for name, value in _OPTIONS.items():
        cursor.execute(f"CALL {LAKE}.set_option('{name}', '{value}')")
    cursor.execute("COMMIT")

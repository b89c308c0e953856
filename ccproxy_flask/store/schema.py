"""The schema of the database: its tables, its version, and how an older one becomes this one."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import COLUMN_TYPES, COLUMNS

from . import sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

SCHEMA_VERSION = 4
_SQL_TYPES: dict[type, str] = {
    str: "VARCHAR",
    datetime: "TIMESTAMP",
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    Decimal: "DECIMAL(20,10)",
}
COLUMN_SQL: dict[str, str] = {name: _SQL_TYPES[COLUMN_TYPES[name]] for name in COLUMNS}
_NEEDED = ("request_id", "timestamp")
_HERE = Path(__file__).parent


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Make or renew the schema, all of it or nothing; refuse one of a newer version."""
    connection.execute("BEGIN TRANSACTION")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER, migrated_at TIMESTAMP)"
    )
    found = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    version = found[0] if found else None
    if version is not None and version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"the database has schema {version}, this version knows {SCHEMA_VERSION}: upgrade", 60
        )
    for number in range((version or 0) + 1, SCHEMA_VERSION + 1):
        [script] = _HERE.glob(f"migrations/{number:04d}_*.sql")
        connection.execute(_with_columns(script.read_text(encoding="utf-8")))
    if version != SCHEMA_VERSION:
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("INSERT INTO schema_version VALUES (?, ?)", [SCHEMA_VERSION, now])
    _add_missing_columns(connection)
    sums.create(connection)
    connection.execute("COMMIT")


def columns(known: Mapping[str, str]) -> str:
    """Return the columns of a table with those *known* names and types."""
    return ", ".join(
        f"{name} {kind} NOT NULL" if name in _NEEDED else f"{name} {kind}"
        for name, kind in known.items()
    )


def _with_columns(script: str) -> str:
    return script.replace("/*columns*/);", f"{columns(COLUMN_SQL)});")


def _add_missing_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Columns that only came with a newer record need no migration of their own."""
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'recent_logs'"
    ).fetchall()
    there = {name for (name,) in rows}
    for name, kind in COLUMN_SQL.items():
        if name not in there:
            connection.execute(f"ALTER TABLE recent_logs ADD COLUMN {name} {kind}")

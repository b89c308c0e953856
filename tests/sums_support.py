"""What the sums of a store have to be: made again from the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ccproxy_flask.store import sums
from ccproxy_flask.store.database import days_folder
from ccproxy_flask.store.parts import Parts

if TYPE_CHECKING:
    from ccproxy_flask.store.duckdb import DuckDBStore


def check_sums(store: DuckDBStore) -> tuple[int, int]:
    """Assert that the sums are those of the rows that do not wait; return how many rows are in the
    sums and how many wait. Durations have to be such that adding them up is exact."""
    with store.database.questions() as cursor:
        cursor.execute("BEGIN TRANSACTION")
        parts = Parts(days_folder(store.path))
        known = parts.registered(cursor)
        to = sums.Sums().summed_to(cursor)
        rows = parts.relation(
            [part for part in known if part.summed],
            f"(FROM recent_logs WHERE generation <= {to})",
        )
        for (kind, span), table in sums.TABLES.items():
            keys = sums.KEYS[kind]
            kept = f"SELECT unit, {keys}, {sums.SUMMED[kind]} FROM {table} GROUP BY ALL"  # noqa: S608  our names
            cursor.execute(
                f"CREATE OR REPLACE TEMP VIEW logs AS {sums.rows_of(rows, 'true', span)}"
            )
            made = sums.of(kind, "logs", "unit")
            for one, other in ((kept, made), (made, kept)):
                differing = cursor.execute(f"({one}) EXCEPT ALL ({other})").fetchall()
                assert differing == [], f"{table}: {differing[:3]}"
        summed = _number(cursor, f"SELECT count(*) FROM ({rows})")  # noqa: S608  our names
        every = _number(cursor, f"SELECT count(*) FROM ({parts.relation(known)})")  # noqa: S608  our names
    return summed, every - summed


def _number(cursor: Any, text: str) -> int:
    return int(cursor.execute(text).fetchall()[0][0])

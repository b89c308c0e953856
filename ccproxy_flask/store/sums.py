"""Sums over the rows by time, of which analytics are made: kept with the rows, in the database.

There are three kinds. *Cells* have what can be added up, for each group of rows. *Name bins* and
*time bins* have how many values there are of each size, for percentiles: a bin is 3 % wider than
the one before it, so that a percentile is at most 1.5 % off. Each kind is kept for several spans of
time; what there is of a key may be in several rows, which :meth:`Sums.compact` makes one.

A row is in the sums, or it is *waiting*: of a generation that is newer than ``sum_state``, or in a
file that is not ``summed``. Both are changed in the transaction that adds to the sums. So at each
moment sums and waiting rows together are all rows, each once.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ccproxy_flask.totals import FAILURE_SQL

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

MINUTES, HOUR, DAY = 300, 3600, 86_400
"""The spans, in seconds; a unit is so long, and they are counted from 1970 on."""
FOLD_ROWS = 20_000
"""So many rows wait at most, where they come one after the other."""
_MOST_COPIES, _MOST_COPIES_OVER = 16, 2
"""A day is compacted that has more rows for each key than that: today, and any other."""

DIMENSIONS = ("service_type", "model", "provider", "request_class")
_NAMES = ", ".join(DIMENSIONS)
_FIGURES = {
    "requests": ("BIGINT", "count(*)"),
    "duration": ("DOUBLE", "sum(duration_ms)"),
    "durations": ("BIGINT", "count(duration_ms)"),
    "ttft": ("DOUBLE", "sum(ttft_ms)"),
    "ttfts": ("BIGINT", "count(ttft_ms)"),
    "cost": ("DECIMAL(38, 10)", "sum(cost_usd)"),
    "cost_input": ("DECIMAL(38, 10)", "sum(cost_input_usd)"),
    "cost_cache": ("DECIMAL(38, 10)", "sum(cost_cache_usd)"),
    "priced": ("BIGINT", "count(cost_usd)"),
    "input": ("HUGEINT", "sum(tokens_input)"),
    "output": ("HUGEINT", "sum(tokens_output)"),
    "cache_read": ("HUGEINT", "sum(cache_read_tokens)"),
    "cache_write": ("HUGEINT", "sum(cache_write_tokens)"),
    "reasoning": ("HUGEINT", "sum(tokens_reasoning)"),
}
_COLUMNS = (
    "duration_ms, ttft_ms, cost_usd, cost_input_usd, cost_cache_usd, tokens_input, "
    "tokens_output, cache_read_tokens, cache_write_tokens, tokens_reasoning"
)
_ADDED = ", ".join(f"sum({name}) AS {name}" for name in _FIGURES)
_COUNTED = ", ".join(f"{sql} AS {name}" for name, (_, sql) in _FIGURES.items())
_NAMED = " VARCHAR, ".join(DIMENSIONS) + " VARCHAR"
_BIN = "kind UTINYINT NOT NULL, bin SMALLINT NOT NULL, number BIGINT NOT NULL"

KEYS = {
    "cells": f"{_NAMES}, failure",
    "name_bins": f"{_NAMES}, kind, bin",
    "time_bins": "request_class, kind, bin",
}
FIGURES = {"cells": ", ".join(_FIGURES), "name_bins": "number", "time_bins": "number"}
"""What there is for each key."""
_NUMBERS = "sum(number) AS number"
SUMMED = {"cells": _ADDED, "name_bins": _NUMBERS, "time_bins": _NUMBERS}
"""The same, of several rows with the same key."""
_TABLE_COLUMNS = {
    "cells": f"{_NAMED}, failure VARCHAR, "
    + ", ".join(f"{name} {kind}" for name, (kind, _) in _FIGURES.items()),
    "name_bins": f"{_NAMED}, {_BIN}",
    "time_bins": f"request_class VARCHAR, {_BIN}",
}
SPANS = {"cells": (MINUTES, HOUR, DAY), "name_bins": (HOUR, DAY), "time_bins": (MINUTES, HOUR, DAY)}
"""Of many names the bins of five minutes would be as many as the rows."""
TABLES = {(kind, span): f"sums_{span}_{kind}" for kind in SPANS for span in SPANS[kind]}
_DAYS_OF_CELLS = TABLES["cells", DAY]


def _bin(column: str) -> str:
    return f"floor(ln({column} + greatest(0, 0.001 - {column})) / ln(1.03))::SMALLINT"


# Everything in these statements is our own: names of tables and columns, and numbers.
# ruff: noqa: S608  our names
def rows_of(logs: str, where: str, span: int) -> str:
    """Return the SELECT of what sums need of the rows of *logs* where *where*."""
    return (
        f"SELECT {_NAMES}, {_COLUMNS}, {FAILURE_SQL} AS failure, "
        f"epoch_us(timestamp) // {span * 1_000_000} AS unit, "
        f"{_bin('duration_ms')} AS duration_bin, {_bin('ttft_ms')} AS ttft_bin "
        f"FROM ({logs}) AS logs WHERE {where}"
    )


def of(kind: str, rows: str, unit: str, name: str = "unit") -> str:
    """Return the SELECT of the sums over *rows* of :func:`rows_of`; their *unit* as *name*."""
    if kind == "cells":
        return f"SELECT {unit} AS {name}, {KEYS[kind]}, {_COUNTED} FROM {rows} GROUP BY ALL"
    keys = KEYS[kind].removesuffix("kind, bin")
    return " UNION ALL ".join(
        f"SELECT {unit} AS {name}, {keys} {number} AS kind, {what}_bin AS bin, count(*) AS number "
        f"FROM {rows} WHERE {what}_bin IS NOT NULL GROUP BY ALL"
        for number, what in enumerate(("duration", "ttft"))
    )


def create(cursor: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that are not there."""
    for (kind, _), table in TABLES.items():
        columns = f"unit BIGINT NOT NULL, {_TABLE_COLUMNS[kind]}"
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")


class Sums:
    """The sums, and which rows wait. Each call is for a cursor that is in a transaction.

    Who moves rows that wait holds the *lock*, from before the transaction begins to its end.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._generation = 0
        """Of the rows that come; 0 where only the database knows."""
        self._waiting = 0
        """About so many rows wait."""

    def summed_to(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """Return the newest generation that is in the sums."""
        [(generation,)] = cursor.execute("SELECT summed_to FROM sum_state").fetchall()
        return int(generation)

    # -- rows that come ----------------------------------------------------------------------------

    @contextmanager
    def adding(self, count: int) -> Iterator[bool]:
        """Around a transaction that appends *count* rows; gives whether it has to :meth:`fold`."""
        is_due = self._waiting + count >= FOLD_ROWS and self.lock.acquire(blocking=False)
        try:
            yield is_due
        except BaseException:
            self._generation = 0  # what came of the transaction is not known
            raise
        finally:
            if is_due:
                self.lock.release()
        self._waiting = 0 if is_due else self._waiting + count
        self._generation += is_due

    def generation(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """Return the generation of the rows to append."""
        if not self._generation:
            self._generation = self.summed_to(cursor) + 1
            [(self._waiting,)] = cursor.execute(
                "SELECT count(*) FROM recent_logs WHERE generation >= ?", [self._generation]
            ).fetchall()
        return self._generation

    def fold(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Add the rows of the database that wait."""
        generation = self.generation(cursor)
        self.add(cursor, f"FROM recent_logs WHERE generation = {generation}")
        cursor.execute("DELETE FROM sum_state")
        cursor.execute("INSERT INTO sum_state VALUES (?)", [generation])

    # -- rows that move, or go ---------------------------------------------------------------------

    def add(self, cursor: duckdb.DuckDBPyConnection, logs: str) -> None:
        """Add all rows of *logs*."""
        rows = rows_of(logs, "true", MINUTES)
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE to_sum AS {rows}")
        for (kind, span), table in TABLES.items():
            sums = of(kind, "to_sum", f"unit // {span // MINUTES}")
            cursor.execute(f"INSERT INTO {table} {sums}")
        cursor.execute("DROP TABLE to_sum")

    def renew(self, cursor: duckdb.DuckDBPyConnection, first: int, last: int, logs: str) -> None:
        """Let the sums of the days *first* to *last* be those of the rows of *logs* in them."""
        for (_, span), table in TABLES.items():
            units = DAY // span
            cursor.execute(
                f"DELETE FROM {table} WHERE unit >= {first * units} AND unit < {(last + 1) * units}"
            )
        begin, end = (f"make_timestamp({day * DAY * 1_000_000})" for day in (first, last + 1))
        self.add(cursor, f"FROM ({logs}) WHERE timestamp >= {begin} AND timestamp < {end}")

    def clear(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Forget all sums: there is no row that is not waiting."""
        for table in TABLES.values():
            cursor.execute(f"DELETE FROM {table}")

    def scattered(self, cursor: duckdb.DuckDBPyConnection, today: int) -> list[int]:
        """Return the days to :meth:`compact`."""
        found = cursor.execute(
            f"SELECT unit FROM {_DAYS_OF_CELLS} GROUP BY unit HAVING count(*) > "
            f"count(DISTINCT ({KEYS['cells']})) * if(unit >= ?, ?, ?) ORDER BY unit",
            [today, _MOST_COPIES, _MOST_COPIES_OVER],
        )
        return [day for (day,) in found.fetchall()]

    def compact(self, cursor: duckdb.DuckDBPyConnection, day: int) -> None:
        """Let there be one row of each key of a *day*."""
        for (kind, span), table in TABLES.items():
            units = DAY // span
            which = f"unit >= {day * units} AND unit < {(day + 1) * units}"
            cursor.execute(
                f"CREATE OR REPLACE TEMP TABLE one_each AS SELECT unit, {KEYS[kind]}, "
                f"{SUMMED[kind]} FROM {table} WHERE {which} GROUP BY ALL ORDER BY unit"
            )
            cursor.execute(f"DELETE FROM {table} WHERE {which}")
            cursor.execute(f"INSERT INTO {table} FROM one_each")
        cursor.execute("DROP TABLE one_each")

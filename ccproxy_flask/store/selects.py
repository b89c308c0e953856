"""Answers the operator's own SELECTs, within bounds of time and memory."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import orjson

from . import sql
from .base import QueryRefused
from .database import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

SQL_SECONDS = 10.0
"""A query that takes longer is broken off."""
SQL_BYTES = 512 << 20
"""By so much the process may grow meanwhile."""
_WATCH_SECONDS = 0.02
_LONGEST_ANSWER = 32 << 20


def answer(cursor: duckdb.DuckDBPyConnection, text: str, limit: int) -> bytes:
    """Answer the one SELECT in *text* by *limit* rows at most, as Store.sql() tells it.

    The caller sees to SQL_SECONDS. Raises QueryRefused.
    """
    began = time.perf_counter()
    with _bounded(cursor) as bound:
        try:
            names, rows, truncated = _rows(cursor, _checked(cursor, text), limit)
        except duckdb.Error as error:
            raise _refusal(error, bound.is_set()) from error
    facts = {
        "row_count": len(rows),
        "truncated": truncated,
        "duration_ms": round((time.perf_counter() - began) * 1000, 3),
    }
    shown = b'{"columns":' + orjson.dumps(names) + b',"rows":[' + ",".join(rows).encode()
    return shown + b"]," + orjson.dumps(facts)[1:]


def _checked(cursor: duckdb.DuckDBPyConnection, text: str) -> str:
    """Return *text* where it is one SELECT that may be answered, else raise QueryRefused."""
    statements = cursor.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise sql.not_allowed("only one SELECT is answered")
    found = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", [text]).fetchall()
    [(tree,)] = found
    sql.check(orjson.loads(tree))
    # What is run is what was checked, without comments and semicolons.
    [(checked,)] = cursor.execute("SELECT json_deserialize_sql(?::JSON)", [tree]).fetchall()
    return str(checked)


def _rows(
    cursor: duckdb.DuckDBPyConnection, query: str, limit: int
) -> tuple[list[str], list[str], bool]:
    """Return the names, the rows as the texts of JSON arrays, and whether there are more."""
    columns = cursor.execute(f"DESCRIBE SELECT * FROM ({query}) AS page").fetchall()  # noqa: S608  checked
    cells = [sql.cell(number, kind) for number, (_, kind, *_) in enumerate(columns)]
    aliases = ", ".join(f"c{number}" for number in range(len(cells)))
    row = " || ',' || ".join(cells)
    cursor.execute(f"SELECT '[' || {row} || ']' FROM ({query}) AS page({aliases})")  # noqa: S608  checked
    rows: list[str] = []
    size = 0
    while len(rows) <= limit and size < _LONGEST_ANSWER and (found := cursor.fetchmany(100)):
        rows += [text for (text,) in found]
        size += sum(len(text) for (text,) in found)
    truncated = len(rows) > limit or size >= _LONGEST_ANSWER
    return [name for name, *_ in columns], rows[:limit], truncated


@contextmanager
def _bounded(cursor: duckdb.DuckDBPyConnection) -> Iterator[threading.Event]:
    """Break off what *cursor* does where this process grows by SQL_BYTES, and set the event.

    DuckDB's own bound holds for its buffers, not for long texts in the making.
    """
    most = _resident_bytes() + SQL_BYTES
    done, broken_off = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            if _resident_bytes() > most:
                broken_off.set()
                with suppress(duckdb.ConnectionException):  # it has just ended by itself
                    cursor.interrupt()

    watcher = threading.Thread(target=watch, daemon=True, name="sql-memory")
    watcher.start()
    try:
        yield broken_off
    finally:
        done.set()
        watcher.join()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def _refusal(error: duckdb.Error, too_large: bool) -> Exception:
    """Return what to raise where a query of the operator's failed by *error*."""
    if isinstance(error, duckdb.InterruptException) and not too_large:
        return QueryRefused("sql_timeout", f"the query took longer than {SQL_SECONDS:.0f} s")
    if isinstance(error, duckdb.OutOfMemoryException) or too_large:
        return QueryRefused("sql_out_of_memory", "the query needs more memory than it may have")
    if isinstance(error, duckdb.FatalException | duckdb.InternalException | duckdb.IOException):
        return error
    return QueryRefused("sql_invalid", first_line(str(error)))

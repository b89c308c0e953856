"""``python -m ccproxy_flask.store.sql_process``: runs one SQL statement after the other.

A process of its own, so that no statement can take memory, time or secrets from another one. It has
an empty environment, a bound that the operating system keeps on its memory and its CPU time, may
not write to any file, and holds a database in memory with views: records and limits, in Parquet
files in the places that the first message names. On standard input and output each message is its
length in four bytes and JSON; its owner (``adhoc_sql``) ends it where it takes too long.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import duckdb
import orjson

from . import sql_policy
from .base import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY_BYTES = 640 << 20
"""By so much the process may grow, all allocations counted."""
_ENGINE_MEMORY = "384MB"
"""Of DuckDB's own buffers: a query that needs more is told so before the system refuses."""
_CPU_SECONDS = 25
"""Of one statement, on all cores: only for a process whose owner is gone."""
_THREADS = 2
_LONGEST_ANSWER = 32 << 20
_NESTED = re.compile("recursion limit|max(imum)? (expression|recursion) depth", re.IGNORECASE)


class Session:
    """The database in memory, and the one statement that it answers at a time."""

    def __init__(self, places: Sequence[str], setup: Sequence[str]) -> None:
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": _THREADS,
                "memory_limit": _ENGINE_MEMORY,
                "temp_directory": "",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            },
        )
        for statement in setup:  # of the owner's
            self._connection.execute(statement)
        self._connection.execute("SET allowed_directories = ?", [places])
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        self._views: dict[str, str] = {}

    def answer(self, text: str, limit: int, views: dict[str, str]) -> bytes:
        """Answer *text* by *limit* rows at most; *views* are the SELECTs that the tables are.

        Raises QueryRefused.
        """
        began = time.perf_counter()
        try:
            self._look_at(views)
            names, rows, truncated = self._rows(text, limit)
        except (duckdb.Error, MemoryError) as error:
            raise _refusal(error) from error
        facts = {
            "row_count": len(rows),
            "truncated": truncated,
            "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        }
        shown = b'{"columns":' + orjson.dumps(names) + b',"rows":[' + ",".join(rows).encode()
        return shown + b"]," + orjson.dumps(facts)[1:]

    def _look_at(self, views: dict[str, str]) -> None:
        for name in sql_policy.TABLES:
            if views[name] != self._views.get(name):
                self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {views[name]}")
                self._views[name] = views[name]

    def _rows(self, text: str, limit: int) -> tuple[list[str], list[str], bool]:
        """Return the names, the rows as the texts of JSON arrays, and whether there are more."""
        query = self._checked(text)
        # A PIVOT makes a type of the values it finds: nothing of a statement stays.
        self._connection.execute("BEGIN TRANSACTION")
        try:
            self._run(f"SELECT * FROM ({query}\n) AS page LIMIT 0")  # noqa: S608  checked
            columns = self._connection.description or []
            cells = [sql_policy.cell(n, str(kind)) for n, (_, kind, *_) in enumerate(columns)]
            aliases = ", ".join(f"c{number}" for number in range(len(cells)))
            row = " || ',' || ".join(cells)
            self._run(f"SELECT '[' || {row} || ']' FROM ({query}\n) AS page({aliases})")  # noqa: S608  checked
            rows, truncated = self._fetched(limit)
        finally:
            self._connection.execute("ROLLBACK")
        return [name for name, *_ in columns], rows, truncated

    def _checked(self, text: str) -> str:
        """Return *text* where it is one SELECT or PIVOT that may be answered, else raise."""
        statements = self._connection.extract_statements(text)
        if _is_pivot(statements):
            return text.rstrip("; \t\r\n")
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise sql_policy.not_allowed("only one SELECT is answered")
        ask = "SELECT json_serialize_sql(?::VARCHAR)::VARCHAR"
        [(tree,)] = self._connection.execute(ask, [text]).fetchall()
        try:
            sql_policy.check(orjson.loads(tree))
        except orjson.JSONDecodeError as error:
            raise QueryRefused("sql_invalid", "the statement is nested too deeply") from error
        # What is run is what was checked, without comments and semicolons.
        ask = "SELECT json_deserialize_sql(?::JSON)"
        [(checked,)] = self._connection.execute(ask, [tree]).fetchall()
        return str(checked)

    def _run(self, text: str) -> None:
        statements = self._connection.extract_statements(text)
        if len(statements) != 1 and not _is_pivot(statements):
            raise sql_policy.not_allowed("only one SELECT is answered")
        for statement in statements:
            self._connection.execute(statement)

    def _fetched(self, limit: int) -> tuple[list[str], bool]:
        rows: list[str] = []
        size = 0
        while len(rows) <= limit and size < _LONGEST_ANSWER:
            found = self._connection.fetchmany(100)
            if not found:
                break
            rows += [text for (text,) in found]
            size += sum(len(text) for (text,) in found)
        return rows[:limit], len(rows) > limit or size >= _LONGEST_ANSWER


def _is_pivot(statements: list[duckdb.Statement]) -> bool:
    """Tell whether *statements* are what DuckDB makes of a PIVOT over the values that it finds:
    types, which have no text of their own, and a SELECT."""
    types, selects = statements[:-1], statements[-1:]
    return (
        {one.type for one in types} == {duckdb.StatementType.CREATE}
        and not any(one.query for one in types)
        and selects[0].type == duckdb.StatementType.SELECT
    )


def _refusal(error: duckdb.Error | MemoryError) -> QueryRefused:
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError) or "bad_alloc" in text:
        return QueryRefused("sql_out_of_memory", "the query needs more memory than it may have")
    if _NESTED.search(text):
        return QueryRefused("sql_invalid", "the statement is nested too deeply")
    return QueryRefused("sql_invalid", text)


def main() -> int:
    """Answer until standard input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    os.nice(10)
    session = Session(**(_received(source) or {"places": [], "setup": []}))
    _bound_memory()
    while (asked := _received(source)) is not None:
        _bound_cpu()
        try:
            _send(sink, b"+" + session.answer(**asked))
        except QueryRefused as error:
            problem = {"kind": error.kind, "message": str(error)}
            _send(sink, b"-" + orjson.dumps(problem))
    return 0


def _received(source: BinaryIO) -> Any:
    """Return the next message, None at the end."""
    head = source.read(4)
    return orjson.loads(source.read(int.from_bytes(head, "big"))) if len(head) == 4 else None


def _bound_memory() -> None:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    size = int(pages) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bound_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _send(sink: BinaryIO, body: bytes) -> None:
    sink.write(len(body).to_bytes(4, "big") + body)
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())

"""How the store does with many rows: ``python -m benchmarks.storage [--rows 1000000] [--ingest]``.

Fills a new store with rows of 90 days, made inside DuckDB, lets it move them to files, and asks
each question a few times, idle and, with ``--ingest``, while 1,000 rows a second come in. Prints a
table: median, longest, and CPU time of all cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import resource
import shutil
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccproxy_flask.record import RequestRecord, new_request_id, to_json
from ccproxy_flask.store import upkeep
from ccproxy_flask.store.analytics import bucket_for
from ccproxy_flask.store.base import Cursor, LogFilter, Page
from ccproxy_flask.store.database import days_folder
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.parts import Parts
from ccproxy_flask.store.schema import COLUMN_SQL
from ccproxy_flask.store.sessions import SessionPage
from ccproxy_flask.store.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Callable

DAYS = 90
_BATCH = 100
# Rows of a busy proxy: eight models, a long tail of durations, 2 % of errors, ids as UUIDv7; what
# is not named is NULL.
_ROWS = """
SELECT
    printf('%08x-%04x-7%03x-%s', ms >> 16, ms & 65535, (random() * 4095)::BIGINT,
        substr(uuid()::VARCHAR, 20)) AS request_id,
    make_timestamp(us) AS timestamp, 'POST' AS method, '/v1/messages' AS endpoint,
    '/v1/messages' AS path, 'claude-cli/2.' || (i % 7) AS user_agent,
    'proxy_service' AS service_type, 'model-' || (i % 8) AS model,
    'provider-' || (i % 8 % 3) AS provider, true AS streaming,
    CASE WHEN i % 50 = 0 THEN 429 ELSE 200 END AS status_code, d AS duration_ms,
    d / 1000 AS duration_seconds, d / 5 AS ttft_ms, (random() * 2000)::BIGINT AS tokens_input,
    (random() * 900)::BIGINT AS tokens_output, (random() * 90000)::BIGINT AS cache_read_tokens,
    (random() * 0.2)::DECIMAL(20, 10) AS cost_usd, 'prices:1' AS cost_source,
    'session-' || (us // 3600000000) || '-' || (i % 20) AS session_id,
    CASE WHEN i % 50 = 0 THEN 'rate_limit' END AS error_type, 'here' AS node, 40 AS chunks,
    CASE WHEN i % 5 = 0 THEN 'subagent' ELSE 'main' END AS request_class,
    0 AS request_bytes, 0 AS response_bytes, false AS client_disconnected, 'http' AS transport
FROM (
    SELECT i, round(exp(6 + 1.2 * sqrt(-2 * ln(random() + 1e-9)) * cos(6.283 * random())), 3) AS d,
        {begin} + (i * {span}) // {count} AS us, us // 1000 AS ms
    FROM range({count}) r(i)
)
"""


def main() -> int:
    """Measure, print, and return 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.storage", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ingest", action="store_true", help="1,000 rows/s come in meanwhile")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to make the store (and leave it)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ccproxy-storage-"))
    try:
        _measure(folder, options.rows, options.times, options.ingest)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    return 0


def _measure(folder: Path, count: int, times: int, ingest: bool) -> None:
    path = folder / "metrics.duckdb"
    if not path.exists():
        fill(path, count)
    began = time.perf_counter()
    store = DuckDBStore(path)
    print(f"| start | {_ms(time.perf_counter() - began)} |")
    _print_size(store, count)
    stop = threading.Event()
    appended = [0]
    writer = threading.Thread(target=_append, args=(store, stop, appended))
    if ingest:
        writer.start()
    for name, ask in _questions(store).items():
        _print_times(name, ask, times)
    if ingest:
        stop.set()
        writer.join()
        print(f"| rows that came in meanwhile | {appended[0]:,} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"| peak memory of the process | {peak:,} MiB |")
    store.close()


def fill(path: Path, count: int) -> None:
    """Make the rows: files and sums as the store writes them, without the way through its database;
    those of today come in as they do in use."""
    store = DuckDBStore(path)
    parts, sums = Parts(days_folder(path)), Sums()
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    a_day = count // DAYS
    began = time.perf_counter()
    for days in range(DAYS, 0, -1):
        pieces = -(-a_day // upkeep.PART_ROWS)
        for piece in range(pieces):
            begin = today - timedelta(days=days - piece / pieces)
            with store.database.transaction() as cursor:
                rows = _rows(begin, timedelta(days=1 / pieces), a_day // pieces)
                cursor.execute(f"CREATE OR REPLACE TEMP TABLE made AS {rows}")
                name = f"{begin:%Y-%m-%d}-{days:04x}{piece:04x}.parquet"
                if part := parts.write(cursor, name, "FROM made"):
                    sums.add(cursor, "FROM made")
                    parts.register(cursor, dataclasses.replace(part, summed=True))
    with store.database.transaction() as cursor:
        rows = _rows(today, now - today, int(a_day * ((now - today) / timedelta(days=1))))
        generation = sums.generation(cursor)
        cursor.execute(
            f"INSERT INTO recent_logs BY NAME SELECT *, {generation} AS generation FROM ({rows})"  # noqa: S608  our names
        )
        sums.fold(cursor)
        parts.renew_view(cursor)
    while store.maintain():
        pass
    whole = time.perf_counter() - began
    store.close()
    print(f"| {count:,} rows made | {whole:.0f} s |", flush=True)


def _rows(begin: datetime, span: timedelta, count: int) -> str:
    micros = span // timedelta(microseconds=1)
    made = _ROWS.format(begin=int(begin.timestamp() * 1e6), span=micros, count=max(1, count))
    given = set(re.findall(r" AS (\w+)", made))
    columns = ", ".join(
        f"{name if name in given else 'NULL'}::{kind} AS {name}"
        for name, kind in COLUMN_SQL.items()
    )
    return f"SELECT {columns} FROM ({made})"  # noqa: S608  our names


def _print_size(store: DuckDBStore, count: int) -> None:
    files = list(days_folder(store.path).glob("*.parquet"))
    size = store.path.stat().st_size + sum(file.stat().st_size for file in files)
    print(f"| on disk | {size / 1e6:,.0f} MB in {len(files) + 1} files, {size / count:.0f} B/row |")


def _questions(store: DuckDBStore) -> dict[str, Callable[[], Any]]:
    now = datetime.now(UTC)
    middle = now - timedelta(days=DAYS / 2)
    [one] = store.query(LogFilter(end_time=middle), 1).rows
    deep = Cursor(middle, "~")

    def analytics(days: float, **fields: Any) -> Callable[[], Any]:
        start = now - timedelta(days=days)
        size = bucket_for(start.timestamp(), now.timestamp())
        return lambda: store.analytics(LogFilter(start_time=start, **fields), size)

    return {
        "newest 50": lambda: store.entries(LogFilter(), Page()),
        "offset 100,000": lambda: store.entries(LogFilter(), Page(offset=100_000)),
        "cursor in the middle, 1,000 rows": lambda: store.query(LogFilter(), 1000, deep),
        "one row by id": lambda: store.entries(LogFilter(request_id=one["request_id"]), Page(1)),
        "50 by another column": lambda: store.entries(LogFilter(), Page(order_by="duration_ms")),
        "substring in all": lambda: store.query(LogFilter(q="nowhere"), 50),
        "totals, all": lambda: store.totals(LogFilter()),
        "analytics, 24 hours": analytics(1),
        "analytics, 7 days": analytics(7),
        "analytics, 90 days": analytics(DAYS),
        "analytics, 90 days of a session": analytics(DAYS, session_id=one["session_id"]),
        "sessions of 7 days, 50": lambda: store.sessions(
            LogFilter(start_time=now - timedelta(days=7)), SessionPage()
        ),
        "one session with 200 turns": lambda: (
            store.sessions(LogFilter(session_id=one["session_id"]), SessionPage(1)),
            store.entries(
                LogFilter(session_id=one["session_id"]),
                Page(200, 0, "timestamp", order_desc=False),
            ),
        ),
        "SQL: sum by model": lambda: store.sql(
            "SELECT model, sum(cost_usd) FROM access_logs GROUP BY ALL", 100
        ),
    }


def _print_times(name: str, ask: Callable[[], Any], times: int) -> None:
    found, used = [], []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        ask()
        found.append(time.perf_counter() - began)
        used.append(time.process_time() - cpu)
    middle, most, cpu = statistics.median(found), max(found), statistics.median(used)
    print(f"| {name} | {_ms(middle)} | {_ms(most)} | {_ms(cpu)} |", flush=True)


def _append(store: DuckDBStore, stop: threading.Event, appended: list[int]) -> None:
    while not stop.wait(_BATCH / 1000):
        records = [
            RequestRecord(new_request_id(), datetime.now(UTC), model="model-1", status_code=200)
            for _ in range(_BATCH)
        ]
        store.append([to_json(record) for record in records], [], {})
        appended[0] += _BATCH


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


if __name__ == "__main__":
    raise SystemExit(main())

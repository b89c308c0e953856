"""How the store does with many rows: ``python -m benchmarks.storage [--rows 1000000] [--ingest]``.

Fills a new store with rows of 90 days, made inside DuckDB, lets it move them to files, and asks
each question a few times, idle and, with ``--ingest``, while 1,000 rows a second come in. Prints a
table: median, longest, and CPU time of all cores.
"""

from __future__ import annotations

import argparse
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
from ccproxy_flask.store.analytics import bucket_for
from ccproxy_flask.store.base import Cursor, LogFilter, Page
from ccproxy_flask.store.database import days_folder
from ccproxy_flask.store.duckdb import DuckDBStore

if TYPE_CHECKING:
    from collections.abc import Callable

DAYS = 90
_STEP = 500_000
_BATCH = 100
# A row of a busy proxy: eight models, a long tail of durations, 2 % of errors, ids as UUIDv7.
_ROWS = """
INSERT INTO recent_logs (request_id, timestamp, method, endpoint, path, user_agent, service_type,
    model, provider, streaming, status_code, duration_ms, duration_seconds, ttft_ms, tokens_input,
    tokens_output, cache_read_tokens, cost_usd, cost_source, session_id, error_type, node, chunks)
SELECT
    printf('%08x-%04x-7%03x-%s', ms >> 16, ms & 65535, (random() * 4095)::BIGINT,
        substr(uuid()::VARCHAR, 20)),
    make_timestamp(ms * 1000 + (random() * 999)::BIGINT), 'POST', '/v1/messages', '/v1/messages',
    'claude-cli/2.' || (i % 7), 'proxy_service', 'model-' || (i % 8), 'provider-' || (i % 3), true,
    CASE WHEN i % 50 = 0 THEN 429 ELSE 200 END, d, d / 1000, d / 5, (random() * 2000)::BIGINT,
    (random() * 900)::BIGINT, (random() * 90000)::BIGINT, (random() * 0.2)::DECIMAL(20, 10),
    'prices:1', 'session-' || (i // 400), CASE WHEN i % 50 = 0 THEN 'rate_limit' END, 'here', 40
FROM (
    SELECT i, exp(6 + 1.2 * sqrt(-2 * ln(random() + 1e-9)) * cos(6.283 * random())) AS d,
        $begin::BIGINT + (i * $span::BIGINT) // $count::BIGINT AS ms
    FROM range($first, $last) r(i)
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
        _fill(path, count)
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


def _fill(path: Path, count: int) -> None:
    """Make the rows; those of days that are over move to files as they do in use."""
    store = DuckDBStore(path)
    end = datetime.now(UTC).timestamp() * 1000
    span = DAYS * 86_400_000
    began, moving = time.perf_counter(), 0.0
    for first in range(0, count, _STEP):
        values = {"begin": int(end - span), "span": span, "count": count}
        values |= {"first": first, "last": min(count, first + _STEP)}
        with store.database.transaction() as cursor:
            cursor.execute(_ROWS, values)
        moved = time.perf_counter()
        while store.maintain():
            pass
        moving += time.perf_counter() - moved
    whole = time.perf_counter() - began
    store.close()
    print(f"| {count:,} rows: made and moved to files | {whole:.0f} s |")
    print(f"| of that moving | {moving:.0f} s, {moving / count * 1e6:.1f} µs a row |")


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

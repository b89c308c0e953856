"""Analytics, export, SQL and single records, over a real socket."""

from __future__ import annotations

import csv
import dataclasses
import http.client
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from logs_support import ON, Site
from recording_support import (
    BEGAN,
    make_record,
    open_writer,
    recorder_process,
    recording_settings,
    start_in_process,
)
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import COLUMNS, to_json
from ccproxy_flask.store import adhoc_sql, analytics, questions, sql_policy
from ccproxy_flask.store import duckdb as database
from ccproxy_flask.store.base import LogFilter, QueryRefused
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import RemoteStore

START = BEGAN - timedelta(days=365)
RECORDS = [
    *(make_record(number, model="claude-a", ttft_ms=1.0 + number) for number in range(8)),
    make_record(100, status_code=429, error_type="rate_limit", cost_usd=None, tokens_input=None),
    make_record(200, status_code=None, error_type="worker_lost", model=None, duration_ms=None),
    make_record(7200, model="gpt-a", provider="openai", service_type="other", tokens_input=1000),
]
ROWS = [
    dataclasses.replace(record, timestamp=record.timestamp - timedelta(days=365))
    for record in RECORDS
]
DAY = {"start_time": START.isoformat(), "end_time": (START + timedelta(hours=24)).isoformat()}


@pytest.fixture(params=["database", "recorder"], scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site over :data:`ROWS`: on the database itself, and through a real recorder."""
    home = tmp_path_factory.mktemp("questions")
    settings = recording_settings(home, observability=ON)
    if request.param == "database":
        store = DuckDBStore(home / "metrics.duckdb")
        store.append([to_json(record) for record in ROWS], [], {})
        site = Site(settings, store)
        yield site
        site.close()
        store.close()
        return
    writer = open_writer(settings.journal_directory)
    for record in ROWS:
        writer.end(record)
    with recorder_process(home):
        site = Site(settings, RemoteStore(settings.recorder_socket))
        wait_until(lambda: site.ask("/logs/status")[2]["rows"] == len(ROWS))
        yield site
        site.close()
    writer.close()


# -- one record ------------------------------------------------------------------------------------


def test_one_record(site):
    """A record is found by its request id, with all columns."""
    body = site.get(f"/entries/{ROWS[3].request_id}")
    assert list(body) == list(COLUMNS)
    assert body["request_id"] == ROWS[3].request_id


@pytest.mark.parametrize("request_id", ["unknown", "%27%20OR%201=1", "x" * 3000, "%00", "%ff"])
def test_unknown_record(site, request_id):
    """An id that no record has is a 404 that says so, as JSON."""
    status, headers, body = site.ask(f"/logs/entries/{request_id}")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert body["error"]["type"] == "not_found"


# -- analytics -------------------------------------------------------------------------------------


def test_analytics_have_the_published_fields(site):
    """Every published key is there, with the figures of the rows."""
    body = site.get("/analytics", **DAY)
    summary = body["summary"]
    assert summary["total_requests"] == 11
    assert summary["total_successful_requests"] == 9
    assert summary["total_error_requests"] == 2
    assert summary["total_tokens_input"] == 8 * 10 + 10 + 1000
    assert summary["total_tokens_all"] == summary["total_tokens_input"] + 11 * 5
    assert summary["total_cost_usd"] == pytest.approx(10 * 0.0012345678)
    assert summary["priced_requests"] == 10
    assert body["token_analytics"] == {
        "input_tokens": 1090,
        "output_tokens": 55,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "total_tokens": 1145,
    }
    assert body["request_analytics"] == {
        "total_requests": 11,
        "successful_requests": 9,
        "error_requests": 2,
        "success_rate": pytest.approx(100 * 9 / 11, abs=1e-3),
        "error_rate": pytest.approx(100 * 2 / 11, abs=1e-3),
    }
    assert body["query_time"] == pytest.approx(time.time(), abs=10)
    assert body["backend"] == "duckdb"
    assert body["query_params"] == DAY | {"model": None, "service_type": None, "hours": 24}


def test_analytics_by_dimension(site):
    """Each breakdown adds up to the whole; errors have their share."""
    body = site.get("/analytics", **DAY)
    for name in ("service_type_breakdown", "model_breakdown", "provider_breakdown"):
        assert sum(each["request_count"] for each in body[name].values()) == 11
        assert sum(each["total_tokens_all"] for each in body[name].values()) == 1145
    assert list(body["service_type_breakdown"]["other"])[:6] == [
        *("request_count", "successful_requests", "error_requests"),
        *("success_rate", "error_rate", "avg_duration_ms"),
    ]
    assert set(body["model_breakdown"]) == {"claude-a", "claude-test", "gpt-a", "unknown"}
    assert body["model_breakdown"]["claude-a"]["p50_ttft_ms"] == 4.5
    assert body["model_breakdown"]["claude-a"]["p95_duration_ms"] == pytest.approx(19.15)
    assert body["error_breakdown"] == {
        "rate_limit": {"request_count": 1, "share": 50.0},
        "worker_lost": {"request_count": 1, "share": 50.0},
    }
    assert set(body["not_shown"].values()) == {0}


def test_analytics_over_time(site):
    """The time series has every bucket of the range, empty ones too, and adds up to the whole."""
    body = site.get("/analytics", **DAY)
    series = body["timeseries"]
    assert body["bucket_seconds"] == 900
    assert [each["request_count"] for each in series if each["request_count"]] == [10, 1]
    assert series[0]["timestamp"] == "2025-11-21T02:00:00Z"
    empty = next(each for each in series if not each["request_count"])
    assert (empty["total_cost_usd"], empty["p95_duration_ms"], empty["total_tokens_all"]) == (
        *(None, None),
        0,
    )


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"model": "claude-a"}, 8),
        ({"service_type": "!other"}, 10),
        ({"provider": "openai"}, 1),
        ({"status_code_min": 400}, 1),
        ({"error_type": "worker_lost"}, 1),
        ({"min_duration_ms": 100}, 2),
        ({"streaming": "false"}, 0),
        ({"q": "GPT"}, 1),
        ({"request_id": ROWS[0].request_id}, 1),
        ({"end_time": (START + timedelta(seconds=50)).isoformat()}, 8),
    ],
    ids=lambda value: "&".join(value) if isinstance(value, dict) else None,
)
def test_analytics_of_a_filter(site, query, count):
    """Every filter narrows the figures; an empty choice has figures too."""
    body = site.get("/analytics", **DAY | query)
    assert body["summary"]["total_requests"] == count
    assert sum(each["request_count"] for each in body["timeseries"]) == count


def test_analytics_of_the_last_hours(site):
    """Without a start the range is so many hours before the end, or before now."""
    end = START + timedelta(hours=1)
    body = site.get("/analytics", end_time=end.isoformat(), hours=1)
    assert body["summary"]["total_requests"] == 10
    assert body["query_params"]["start_time"] == START.timestamp()
    start = site.get("/analytics")["query_params"]["start_time"]
    assert start == pytest.approx(time.time() - 24 * 3600, abs=10)


def test_buckets_fit_the_range():
    """From a minute up, so that a chart has some two hundred points at most."""
    hour, day = 3600, 86400
    sizes = [
        analytics.bucket_for(0, span) for span in (60, hour, day, 7 * day, 90 * day, 9000 * day)
    ]
    assert sizes == [60, 60, 900, hour, day, 364 * day]


def test_analytics_of_many_rows(tmp_path, monkeypatch):
    """Of many rows all sums are the same as of few, and percentiles are within 1.5 percent."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    records = [
        dataclasses.replace(record, duration_ms=record.duration_ms and 1.7**number)
        for number, record in enumerate(ROWS * 3)
    ]
    store.append([to_json(record) for record in records], [], {})

    def found() -> tuple[Any, Any]:
        where = LogFilter(start_time=START, end_time=START + timedelta(hours=24))
        return json.loads(store.analytics(where, 900)), dataclasses.asdict(store.totals(where))

    exact = found()
    monkeypatch.setattr(questions, "EXACT_ROWS", 0)
    many = found()
    store.close()
    assert _without_percentiles(many) == _without_percentiles(exact)
    # Not between two rows, as the exact ones may be: the durations of rows are far apart here.
    whole = many[0]["summary"]
    durations = sorted(record.duration_ms for record in records if record.duration_ms)
    assert whole["p50_duration_ms"] == pytest.approx(durations[len(durations) // 2 - 1], rel=0.016)
    assert many[1]["p99_duration_ms"] == pytest.approx(durations[-1], rel=0.016)
    assert whole["p95_ttft_ms"] == pytest.approx(8, rel=0.016)


def _without_percentiles(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if name[:2] not in ("p5", "p9")}
        return {name: _without_percentiles(one) for name, one in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_percentiles(one) for one in value]
    return pytest.approx(value) if isinstance(value, float) else value


def test_many_models_are_bounded(tmp_path):
    """A breakdown shows those with the most requests, and how many it does not show."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    records = [make_record(number, model=f"m{number:03}") for number in range(150)]
    store.append([to_json(record) for record in [*records, make_record(0, model="m149")]], [], {})
    body = json.loads(store.analytics(LogFilter(start_time=START), 3600))
    assert len(body["model_breakdown"]) == analytics.MOST_NAMES
    assert next(iter(body["model_breakdown"])) == "m149"
    assert body["not_shown"]["model_breakdown"] == 50
    store.close()


# -- export ----------------------------------------------------------------------------------------


def test_export_as_csv(site):
    """A header of all columns, then every row, as a file to keep."""
    status, headers, body = site.ask("/logs/export")
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert headers["content-disposition"].endswith('.csv"')
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert list(rows[0]) == list(COLUMNS)
    rows.sort(key=lambda row: row["timestamp"])
    assert [row["request_id"] for row in rows] == [record.request_id for record in ROWS]
    assert rows[0]["timestamp"] == "2025-11-21T02:00:00.000000Z"
    assert Decimal(rows[0]["cost_usd"]) == Decimal("0.0012345678")


def test_export_as_jsonl(site):
    """The rows are those of /logs/entries."""
    _, headers, body = site.ask("/logs/export?format=jsonl&model=claude-a")
    assert headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in body.splitlines()]
    rows.sort(key=lambda row: row["timestamp"])
    assert rows == site.get("/entries", model="claude-a", order_desc="false")["entries"]


def test_export_as_parquet(site, tmp_path):
    """Columns keep their types, money is numbers; a filter that looks like SQL is a value."""
    _, _, body = site.ask("/logs/export?format=parquet")
    path = tmp_path / "x.parquet"
    path.write_bytes(body)
    figures_of = (
        "SELECT count(*), sum(cost_usd), min(timestamp), any_value(typeof(cost_sdk_usd)) "
        "FROM read_parquet(?)"
    )
    with duckdb.connect() as connection:
        found = connection.execute(figures_of, [str(path)]).fetchone()
    assert found == (11, pytest.approx(0.012345678), START.replace(tzinfo=None), "DOUBLE")
    assert site.ask("/logs/export?format=jsonl&q=%27)%20TO%20%27/tmp/x%27")[2] == b""


def test_export_of_much_takes_little_memory(tmp_path):
    """Much passes in constant memory, with records stored beside a reader that stalls."""
    settings = recording_settings(tmp_path, observability=ON)
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    line = to_json(make_record(path="/v1/" + "x" * 200))
    for _ in range(8):
        store.append([line] * 25_000, [], {})
    store.close()
    with recorder_process(tmp_path) as recorder:
        remote = RemoteStore(settings.recorder_socket)
        wait_until(lambda: _rows(remote) == 200_000, 20)
        pieces = remote.export(LogFilter(), "jsonl")
        size = len(next(pieces))
        stalled = [remote.export(LogFilter(), "csv")]
        assert next(stalled[0])
        with pytest.raises(StoreUnavailable, match="other exports"):
            next(remote.export(LogFilter(), "csv"))
        writer = open_writer(settings.journal_directory)
        writer.end(make_record())
        wait_until(lambda: _rows(remote) == 200_001)
        stalled[0].close()
        size += sum(len(piece) for piece in pieces)
        wait_until(lambda: _can_export(remote))
        peak = _peak_memory(recorder.process.pid)
        writer.close()
    print(f"{size:,} bytes, the recorder's peak {peak >> 20} MiB")
    assert size > 200_000 * 700
    assert peak < 450 << 20


def _rows(store: RemoteStore) -> int:
    try:
        return store.status().rows
    except StoreUnavailable:
        return -1


def _can_export(store: RemoteStore) -> bool:
    pieces = [store.export(LogFilter(model="none"), "csv") for _ in range(database.MOST_EXPORTS)]
    try:
        return all(next(each) for each in pieces)
    except StoreUnavailable:
        return False
    finally:
        for each in pieces:
            each.close()


def _peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def test_export_that_breaks_off_is_no_whole_file(tmp_path):
    """Where the database goes in the middle, the client's connection is cut, not ended."""
    settings = recording_settings(tmp_path, observability=ON)
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    for _ in range(4):
        store.append([to_json(make_record(path="x" * 200))] * 25_000, [], {})
    site = Site(settings, store)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("GET", "/logs/export?format=jsonl")
    answer = connection.getresponse()
    assert answer.read(1000)
    store.close()
    body = b""
    try:
        body = answer.read()
    except (http.client.HTTPException, OSError):
        body = b""
    assert len(body) < 50_000_000
    connection.close()
    site.close()


# -- SQL -------------------------------------------------------------------------------------------


def test_sql(site):
    """Names, rows as arrays in JSON's types, their number, and whether there are more."""
    status, _, body = site.sql(
        "SELECT model, count(*) AS n, sum(cost_usd) AS cost, min(timestamp) AS first, "
        "sum(tokens_input) AS t FROM access_logs WHERE model LIKE 'claude-a' GROUP BY ALL; -- so"
    )
    assert status == 200, body
    assert body.pop("duration_ms") > 0
    assert body == {
        "columns": ["model", "n", "cost", "first", "t"],
        "rows": [["claude-a", 8, 0.0098765424, "2025-11-21T02:00:00.000000Z", 80]],
        "row_count": 1,
        "truncated": False,
    }


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("WITH t AS (SELECT count(*) AS n FROM access_logs) SELECT n FROM t", [[11]]),
        ("SELECT 1 AS a, 2 AS a", [[1, 2]]),
        ("VALUES (1, NULL), (2, 'x')", [[1, None], [2, "x"]]),
        ("SELECT 'nan'::DOUBLE, ['inf'::DOUBLE]", [[None, "[inf]"]]),
        ("SELECT [1, 2], {'a': 1}", [[[1, 2], {"a": 1}]]),
        ("SELECT sum(n) FROM range(3) AS r(n)", [[3]]),
        ("FROM access_logs SELECT count(*)", [[11]]),
        ("SELECT '2026-01-01'::DATE, 'a\"b', true", [["2026-01-01", 'a"b', True]]),
        ("SELECT TIMESTAMPTZ '2026-01-01 01:00:00+01'", [["2026-01-01T00:00:00.000000Z"]]),
        ("SELECT 1 WHERE false", []),
        ("SELECT n FROM (SELECT 1 AS n) -- a comment", [[1]]),
        ("SELECT ';' /* ; */", [[";"]]),
        ("SELECT x FROM (SELECT unnest([3, 1, 2]) AS x) ORDER BY x", [[1], [2], [3]]),
        ("SELECT repeat('x', 3), lpad('x', 3, 'y'), range(2)", [["xxx", "yyx", [0, 1]]]),
        ("WITH journal_marks AS (SELECT 1 AS n) SELECT n FROM journal_marks", [[1]]),
        ("PIVOT (SELECT provider, tokens_input AS t FROM access_logs) ON provider USING sum(t)",
         [[90, 1000]]),
        ("PIVOT (SELECT provider FROM access_logs) ON provider IN ('openai') USING count(*);",
         [[1]]),
        ("FROM (PIVOT (SELECT provider FROM access_logs) ON provider USING count(*)) -- so",
         [[10, 1]]),
        ("WITH t AS (SELECT provider FROM access_logs) PIVOT t ON provider USING count(*) ;\n",
         [[10, 1]]),
        ("SELECT getvariable('x')", [[None]]),
    ],
)  # fmt: skip
def test_sql_of_many_kinds(site, text, rows):
    """Whatever one SELECT can give is JSON."""
    status, _, body = site.sql(text)
    assert (status, body.get("rows")) == (200, rows), body


def test_sql_gives_as_many_rows_as_asked_for(site):
    """A thousand rows at most by default, ten thousand in all; more are said to be there."""
    _, _, body = site.sql("SELECT * FROM range(100000)")
    assert (body["row_count"], len(body["rows"]), body["truncated"]) == (1000, 1000, True)
    _, _, body = site.sql("SELECT * FROM range(11) ORDER BY 1 DESC", limit=10)
    assert (body["rows"][0], body["row_count"], body["truncated"]) == ([10], 10, True)
    _, _, body = site.sql("SELECT * FROM range(10)", limit=10)
    assert (body["row_count"], body["truncated"]) == (10, False)


ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000) b"
FORBIDDEN = [
    "DELETE FROM access_logs",
    "DROP TABLE access_logs",
    "INSERT INTO access_logs (request_id, timestamp) VALUES ('x', now())",
    "UPDATE access_logs SET model = 'x'",
    "CREATE TABLE t AS SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE access_logs",
    "SELECT 1) AS page; DROP TABLE access_logs; SELECT * FROM (SELECT 1",
    "COPY access_logs TO '/tmp/stolen.csv'",
    "COPY (SELECT 1) TO '/tmp/stolen.csv'",
    "ATTACH '/tmp/other.duckdb'",
    "SET threads = 64",
    "PRAGMA database_list",
    "PRAGMA version",
    "PRAGMA threads = 64",
    "CALL pragma_version()",
    "IMPORT DATABASE '/etc'",
    "EXPORT DATABASE '/tmp/stolen'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CHECKPOINT",
    "BEGIN TRANSACTION",
    "VACUUM",
    "EXPLAIN ANALYZE SELECT 1",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "PREPARE p AS SELECT 1",
    "",
    ";",
    "-- nothing",
    "nonsense",
    "SELECT",
    "SELECT * FROM journal_marks",
    "SELECT * FROM (WITH journal_marks AS (SELECT 1) SELECT 1), journal_marks",
    "SELECT (WITH journal_marks AS (SELECT 1) SELECT 1) FROM journal_marks",
    "PIVOT (SELECT segment FROM journal_marks) ON segment",
    "PIVOT read_text('/etc/passwd') ON filename",
    "PIVOT access_logs ON model; DROP VIEW access_logs",
    "PIVOT access_logs ON model) AS page; SELECT * FROM (SELECT 1",
    "CREATE TYPE t AS ENUM ('a'); SELECT 1",
    "COPY (PIVOT access_logs ON model) TO '/tmp/stolen.csv'",
    "SELECT json_serialize_plan('SELECT * FROM read_csv(''metrics.duckdb.export-0'')') "
    "FROM read_csv('/etc/passwd')",
    "SELECT getenv('HOME')",
    "SELECT * FROM schema_version",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'https://example.org/x.csv'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_secrets",
    "SELECT * FROM duckdb_databases",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_database_list()",
    "SELECT * FROM pragma_table_info('access_logs')",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM pg_class",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM main.sqlite_master",
    "SELECT * FROM query('SELECT * FROM duckdb_settings()')",
    "SELECT * FROM query_table('duckdb_settings')",
    "SELECT * FROM json_execute_serialized_sql('x')",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM force_checkpoint()",
    "SELECT (SELECT max(value) FROM duckdb_settings())",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM duckdb_settings())",
    "SELECT * FROM access_logs UNION ALL SELECT * FROM read_text('/etc/passwd')",
    "WITH t AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM t",
    "SELECT * FROM access_logs JOIN duckdb_settings() ON true",
    "SELECT nextval('s')",
    "SELECT unknown FROM access_logs",
    "SELECT 'x'::INTEGER",
    "SELECT ?",
    "SELECT $1",
    "SELECT * FROM site",
]  # fmt: skip


@pytest.mark.parametrize("text", FORBIDDEN)
def test_sql_that_is_not_answered(site, text):
    """Anything but one SELECT over the records is a 422 that says why, and changes nothing."""
    status, headers, body = site.sql(text)
    assert (status, headers["content-type"]) == (422, "application/json"), body
    [problem] = body["detail"]
    assert (problem["loc"], bool(problem["msg"])) == (["body", "sql"], True)
    assert site.sql("SELECT count(*) FROM access_logs")[2]["rows"] == [[11]]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"", ["body"]),
        (b"{", ["body"]),
        (b"[]", ["body"]),
        (b"null", ["body"]),
        (b"\xff", ["body"]),
        (b"{}", ["body", "sql"]),
        (b'{"sql":1}', ["body", "sql"]),
        (b'{"sql":null}', ["body", "sql"]),
        (b'{"sql":"' + b"x" * 20_001 + b'"}', ["body", "sql"]),
        (b'{"sql":"SELECT 1","limit":0}', ["body", "limit"]),
        (b'{"sql":"SELECT 1","limit":10001}', ["body", "limit"]),
        (b'{"sql":"SELECT 1","limit":1.5}', ["body", "limit"]),
        (b'{"sql":"SELECT 1","limit":"1"}', ["body", "limit"]),
        (b'{"sql":"SELECT 1","limit":true}', ["body", "limit"]),
        (b'{"sql":"SELECT 1","limit":null}', ["body", "limit"]),
        (b'{"sql":"SELECT 1","more":1}', ["body", "more"]),
    ],
)
def test_sql_with_a_bad_body(site, body, loc):
    """What is wrong with the body is named."""
    status, _, found = site.ask("/logs/sql", "POST", body=body)
    assert (status, found["detail"][0]["loc"]) == (422, loc), found
    assert site.ask("/logs/sql", "POST", body=b" " * 300_000)[0] == 413


def test_sql_that_runs_away(tmp_path, monkeypatch):
    """A query that takes too long is broken off; others go on meanwhile, and records are stored."""
    monkeypatch.setattr(adhoc_sql, "SQL_SECONDS", 4.0)
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    site = Site(recording_settings(tmp_path, observability=ON), store)
    answers = []

    def run_away() -> None:
        while (answer := site.sql(ENDLESS))[0] == 503:
            pass  # the question below has its place
        answers.append(answer)

    threads = [threading.Thread(target=run_away) for _ in range(adhoc_sql.MOST_SQL)]
    for thread in threads:
        thread.start()
    wait_until(lambda: site.sql("SELECT 1")[0] == 503)
    store.append([to_json(make_record())], [], {})
    assert site.get("/entries")["total_count"] == 1
    assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    assert [(status, body["detail"][0]["type"]) for status, _, body in answers] == [
        (422, "sql_timeout")
    ] * adhoc_sql.MOST_SQL
    assert site.sql("SELECT 1")[0] == 200
    site.close()
    store.close()


NESTED = [
    "SELECT " + "(" * 300 + "1" + ")" * 300,
    "SELECT " + "abs(" * 200 + "1" + ")" * 200,
    "SELECT " + "-" * 5000 + " 1",
    "SELECT " + "NOT " * 4000 + "true",
    "SELECT " + "[" * 5000 + "]" * 5000,
    "SELECT " + "(SELECT " * 12 + "1" + ")" * 12,
]


@pytest.mark.parametrize("text", NESTED, ids=lambda text: text[7:12])
def test_sql_that_is_deeply_nested(site, text):
    """However deep a statement is nested, it is answered, or it is told what is wrong with it."""
    status, _, body = site.sql(text)
    assert status == 200 or body["detail"][0]["type"] == "sql_invalid", body


BOMBS = [
    "WITH RECURSIVE t AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM t) SELECT len(s) FROM t",
    "SELECT list(a.range) FROM range(100000000) a",
    "SELECT length(replace(replace('" + "a" * 9000 + "', 'a', '" + "b" * 9000 + "'), 'b', '"
    + "c" * 900 + "'))",
    "SELECT length(bitstring('0', 2000000000)::VARCHAR)",
    "SELECT damerau_levenshtein(string_agg(n::VARCHAR, ''), string_agg(n::VARCHAR, 'x')) "
    "FROM range(9000) AS r(n)",
    "SELECT len(list_reduce(range(40)::VARCHAR[], (a, b) -> a || b || a))",
    "SELECT length(url_encode(url_encode(url_encode(repeat('%', 40000000)))))",
    "SELECT length(repeat('x', 1000000000))",
    "SELECT len(range(1000000000))",
    "SELECT length(lpad('x', 2000000000, 'y'))",
    "SELECT length(printf('%1000000000d', 1))",
]  # fmt: skip


def test_sql_that_needs_too_much_memory(tmp_path):
    """A query that needs too much memory fails alone: the recorder does not grow."""
    settings = recording_settings(tmp_path, observability=ON)
    with recorder_process(tmp_path) as recorder:
        site = Site(settings, RemoteStore(settings.recorder_socket))
        wait_until(lambda: site.ask("/logs/status")[2]["status"] == "healthy")
        before = _peak_memory(recorder.process.pid)
        for text in BOMBS:
            status, _, body = site.sql(text)
            # On a slow machine its time is over first.
            assert status == 422, (text, body)
            assert body["detail"][0]["type"] in ("sql_out_of_memory", "sql_timeout"), text
        grown = _peak_memory(recorder.process.pid) - before
        assert site.sql("SELECT count(*) FROM access_logs")[2]["rows"] == [[0]]
        site.close()
    assert grown < 64 << 20


def test_sql_ends_when_its_client_hangs_up(tmp_path, monkeypatch):
    """A statement that nobody waits for any more leaves its place to the next one."""
    monkeypatch.setattr(adhoc_sql, "SQL_SECONDS", 60.0)
    monkeypatch.setattr(adhoc_sql, "MOST_SQL", 1)
    settings = recording_settings(tmp_path, observability=ON)
    recorder = start_in_process(settings)
    site = Site(settings, recorder.store)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", site.port)
        connection.request("POST", "/logs/sql", json.dumps({"sql": ENDLESS}).encode())
        wait_until(_sql_processes)
        assert site.sql("SELECT 1")[0] == 503
        connection.close()
        wait_until(lambda: site.sql("SELECT 1")[0] == 200)
    finally:
        recorder.close()
        site.close()


def _sql_processes() -> list[str]:
    """Return the process ids of this process's children that run SQL."""
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return [pid for pids in children for pid in pids.split() if "sql_process" in _argv(pid)]


def _argv(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_sql_process_is_shut_in(tmp_path):
    """The process of a statement opens no file but records, writes none, and has no environment."""
    outside, days = tmp_path / "outside.txt", tmp_path / "days"
    outside.write_text("secret")
    days.mkdir()
    (days / "inside.txt").write_text("ours")
    before = set(_sql_processes())
    asking = adhoc_sql.AdhocSql([str(days)])

    def read(path: Path) -> bytes:
        view = f"SELECT content FROM read_text('{path}')"  # noqa: S608  our own path
        return asking.answer(
            "FROM access_logs", 1, dict.fromkeys(sql_policy.TABLES, view), lambda: False
        )

    assert b"ours" in read(days / "inside.txt")
    with pytest.raises(QueryRefused, match="Permission"):
        read(outside)
    [child] = set(_sql_processes()) - before
    facts = Path("/proc") / child
    assert re.search(r"Max file size +0 +0", (facts / "limits").read_text())
    assert (facts / "environ").read_bytes().startswith(b"PYTHONPATH=")
    assert (facts / "environ").read_bytes().count(b"\0") <= 2
    asking.close()


def test_sql_needs_the_token_and_our_own_page(tmp_path):
    """Where a token is set it is needed; pages of other sites are refused."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    settings = recording_settings(tmp_path, observability=ON, security={"auth_token": "secret"})
    site = Site(settings, store)
    body = b'{"sql":"SELECT 1"}'
    key = {"authorization": "Bearer secret"}
    assert site.ask("/logs/sql", "POST", body=body)[0] == 401
    foreign = key | {"origin": "https://evil.example"}
    assert site.ask("/logs/sql", "POST", foreign, body)[0] == 403
    assert site.ask("/logs/sql", "POST", key, body)[0] == 200
    assert site.ask("/logs/sql", "GET", key)[0] == 405
    site.close()
    store.close()

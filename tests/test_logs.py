"""The logs API over a real socket: published shapes, and a clear answer to every bad question."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from logs_support import ON, Site
from recording_support import make_record, open_writer, recording_settings, start_in_process
from scripted import wait_until

from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.journal import Feed
from ccproxy_flask.record import COLUMNS, to_json
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import RemoteStore

ROWS = [make_record(number, model=f"model-{number % 3}") for number in range(25)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site over :data:`ROWS`, for those who only ask."""
    home = tmp_path_factory.mktemp("logs")
    store = DuckDBStore(home / "metrics.duckdb")
    store.append([to_json(record) for record in ROWS], [], {"dropped:disk_full": 3})
    settings = recording_settings(home, observability=ON)
    feed = Feed(settings.journal_directory)
    site = Site(settings, store, feed=feed)
    yield site
    site.close()
    feed.close()
    store.close()


# -- good questions --------------------------------------------------------------------------------


def test_entries(site):
    """The published keys, rows with all columns, newest first, fifty at a time."""
    body = site.get("/entries", limit=10, offset=5, service_type="proxy_service")
    entries = body.pop("entries")
    assert body == {
        "total_count": 25,
        "limit": 10,
        "offset": 5,
        "order_by": "timestamp",
        "order_desc": True,
        "service_type": "proxy_service",
        "page": 1,
        "total_pages": 3,
        "backend": "duckdb",
    }
    assert [row["request_id"] for row in entries] == [row.request_id for row in ROWS[19:9:-1]]
    assert list(entries[0]) == list(COLUMNS)
    assert site.get("/entries")["limit"] == 50


def test_entries_in_another_order(site):
    """order_by and order_desc are those of the published API."""
    body = site.get("/entries", order_by="duration_ms", order_desc="false", limit=1)
    assert (body["order_by"], body["order_desc"]) == ("duration_ms", False)
    assert body["entries"][0]["duration_ms"] == 12.5


def test_query(site):
    """The published keys, newest first, a thousand by default; and where the rest is."""
    body = site.get("/query", limit=10, model="model-1", start_time=1795226400)
    results = body.pop("results")
    assert body.pop("timestamp") == pytest.approx(time.time(), abs=10)
    assert body == {
        "count": 8,
        "limit": 10,
        "filters": {
            "start_time": 1795226400.0,
            "end_time": None,
            "model": "model-1",
            "service_type": None,
        },
        "next_cursor": None,
        "has_more": False,
    }
    assert {row["model"] for row in results} == {"model-1"}
    assert site.get("/query")["limit"] == 1000


def test_query_walks_by_cursor(site):
    """next_cursor of a page gives the next page; together they are all rows, once."""
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 10}
    while True:
        body = site.get("/query", **query)
        seen += [row["request_id"] for row in body["results"]]
        if not body["has_more"]:
            break
        query["cursor"] = body["next_cursor"]
    assert seen == [row.request_id for row in reversed(ROWS)]


@pytest.mark.parametrize(
    "start",
    [
        "1795226420",
        "1795226420.0",
        "2026-11-21T02:00:20Z",
        "2026-11-21T02:00:20",
        "2026-11-21T03:00:20%2B01:00",
        "2026-11-21T03:00:20+01:00",
        "2026-11-20T21:00:20-05:00",
        "20261121T020020Z",
        "20261121t030020+01",
        "2026-11-21t02:00:20.000000000z",
    ],
)
def test_times_in_every_form(site, start):
    """Seconds since 1970 or RFC 3339, with an offset or without, quoted or not."""
    status, _, body = site.ask(f"/logs/query?start_time={start}")
    assert (status, body["count"]) == (200, 5)


@pytest.mark.parametrize("endpoint", [*("/entries", "/query", "/analytics", "/export")])
@pytest.mark.parametrize(
    "moment",
    [
        *("2026-11-21", "1970-01-01", "9999-12-31", "0", "253402300799", "1e9", "-0.0", "5e-324"),
        *("1970-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z"),
    ],
)
@pytest.mark.parametrize("name", ["start_time", "end_time"])
def test_far_and_short_times(site, endpoint, moment, name):
    """Any day from 1970 to 9999 is an answerable question, whatever its offset."""
    assert site.ask(f"/logs{endpoint}?{name}={quote(moment)}")[0] == 200


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"service_type": "proxy_service,other"}, 25),
        ({"service_type": "!proxy_service"}, 0),
        ({"service_type": "!a, !b"}, 25),
        ({"provider": "anthropic"}, 25),
        ({"provider": "openai"}, 0),
        ({"status_code_min": 200, "status_code_max": 200}, 25),
        ({"status_code_min": 400}, 0),
        ({"min_duration_ms": 35.5}, 2),
        ({"max_duration_ms": "13.5"}, 2),
        ({"streaming": "true"}, 25),
        ({"streaming": "NO"}, 0),
        ({"session_id": "s"}, 0),
        ({"request_id": ROWS[3].request_id}, 1),
        ({"error_type": "rate_limit"}, 0),
        ({"q": "MODEL-2"}, 8),
        ({"q": "' OR 1=1; DROP TABLE access_logs; --"}, 0),
        ({"model": "model-1' OR '1'='1"}, 0),
    ],
    ids=lambda value: "&".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("endpoint", ["/entries", "/query"])
def test_filters_count_everywhere(site, endpoint, query, count):
    """Every filter works at every endpoint with rows."""
    body = site.get(endpoint, **query)
    assert body.get("count", body.get("total_count")) == count


def test_status(site):
    """The published keys, and the truth beside them."""
    body = site.get("/status")
    assert body["status"] == "healthy"
    assert body["prometheus_enabled"] == "False"
    assert body["observability_system"] == "hybrid_prometheus_structlog"
    assert (body["backend"], body["rows"]) == ("duckdb", 25)
    assert Path(body["path"]).name == "metrics.duckdb"
    assert body["dropped"] == {"disk_full": 3}
    assert (body["backlog_bytes"], body["writer_lag_seconds"], body["reason"]) == (0, 0.0, None)
    assert datetime.fromisoformat(body["last_write"]).tzinfo == UTC
    assert body["version"]


def test_answers_are_not_cached_and_traced_but_not_stored(site):
    """They are JSON, for no cache, with a request id; they count as logs_service, and no row."""
    before = len(site.traced)
    _, headers, _ = site.ask("/logs/entries")
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["x-ccproxy-request-id"]
    wait_until(lambda: len(site.traced) > before)
    assert site.traced[-1].service_type == "logs_service"
    assert site.stored == []


# -- bad questions ---------------------------------------------------------------------------------

SQL = "1; DROP TABLE access_logs; --"
BAD_NUMBERS = [
    *("", "NaN", "nan", "inf", "-inf", "Infinity", "1e30", "-1e30", "1e400", "-1", "abc", "0x10"),
    *(
        "1,5",
        "1 5",
        " 1",
        "1\n",
        "٣",
        "9" * 40,
        "null",
        "true",
        "--",
        SQL,
        "%00",
        "\x00",
        "[1]",
        "1_0",
    ),
]
BAD_INTEGERS = [*BAD_NUMBERS, "1.5", "1e2"]
BAD_TIMES = [
    *(text for text in BAD_NUMBERS if text != "9" * 40),
    *("yesterday", "2026-13-01", "2026-11-21T25:00", "1969-12-31T23:59:59Z", "99999-01-01"),
    *("2026-02-29", "2100-02-29", "2026-11-31", "2026-1-1", "2026-1121", "2026-11-21Z", "24:00"),
    *("2026-11-21T23:59:60Z", "2026-11-21T02:00:20Z\n", " 2026-11-21", "2026-11-21T02:00+25:00"),
    "9" * 40,
]
BAD_TEXTS = ["", "x" * 257]
BAD_CHOICES = [
    "",
    " ",
    "! ",
    "!!a",
    "a, ",
    ",",
    "a,,b",
    "!",
    "a,!",
    "x" * 257,
    ",".join("abcdefghij" * 6),
]
BAD_FLAGS = ["", " true", "maybe", "2", "NaN", "truefalse", SQL]
BAD: dict[str, dict[str, list[str]]] = {
    "any": {
        "start_time": BAD_TIMES,
        "end_time": BAD_TIMES,
        "model": BAD_TEXTS,
        "service_type": BAD_CHOICES,
        "provider": BAD_TEXTS,
        "status_code_min": [*BAD_INTEGERS, "99", "600"],
        "status_code_max": [*BAD_INTEGERS, "99", "600"],
        "min_duration_ms": BAD_NUMBERS,
        "max_duration_ms": BAD_NUMBERS,
        "streaming": BAD_FLAGS,
        "session_id": BAD_TEXTS,
        "request_id": BAD_TEXTS,
        "error_type": ["", "unknown", SQL],
        "q": BAD_TEXTS,
    },
    "/entries": {
        "limit": [*BAD_INTEGERS, "0", "1001"],
        "offset": [*BAD_INTEGERS, "100001"],
        "order_by": ["", "unknown", "timestamp DESC", SQL, "(SELECT 1)", "Timestamp"],
        "order_desc": BAD_FLAGS,
    },
    "/query": {
        "limit": [*BAD_INTEGERS, "0", "10001"],
        "cursor": ["", "x", "1~", "~", "1~a b", "9" * 18 + "~a", "1~a\n", SQL],
    },
    "/analytics": {"hours": [*BAD_INTEGERS, "0", "169"]},
    "/export": {"format": ["", "CSV", "xml", "csv,jsonl", SQL]},
    "/stream": {},
}
ENDPOINTS_WITH_ROWS = [endpoint for endpoint in BAD if endpoint != "any"]
CASES = [
    (endpoint, name, value)
    for endpoint in ENDPOINTS_WITH_ROWS
    for name, values in (BAD["any"] | BAD[endpoint]).items()
    for value in values
]


def assert_refused(answer: tuple[int, dict[str, str], Any], name: str, value: Any) -> None:
    """Fail where *answer* is not a 422 in the published shape about one parameter."""
    status, headers, body = answer
    assert status == 422, body
    assert headers["content-type"] == "application/json"
    assert list(body) == ["detail"]
    [problem] = body["detail"]
    assert list(problem) == ["type", "loc", "msg", "input"]
    assert (problem["loc"], problem["input"]) == (["query", name], value)
    assert problem["type"]
    assert problem["msg"]


@pytest.mark.parametrize(("endpoint", "name", "value"), CASES, ids=repr)
def test_bad_value_is_refused(site, endpoint, name, value):
    """Each parameter of each endpoint is checked: 422 that names it and shows what came."""
    assert_refused(site.ask(f"/logs{endpoint}?{name}={quote(value)}"), name, value)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint in ENDPOINTS_WITH_ROWS for name in BAD["any"] | BAD[endpoint]],
)
def test_repeated_parameter_is_refused(site, endpoint, name):
    """Which of two values is meant is not guessed."""
    answer = site.ask(f"/logs{endpoint}?{name}=1&{name}=2")
    assert_refused(answer, name, ["1", "2"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", endpoint) for endpoint in [*ENDPOINTS_WITH_ROWS, "/status", "/openapi.json"]),
        *(("GET", "/entries/x"), ("POST", "/reset"), ("POST", "/sql")),
    ],
)
@pytest.mark.parametrize("name", ["unknown", "LIMIT", "limit[]", "'", "where"])
def test_unknown_parameter_is_refused(site, method, path, name):
    """A name that is not known may be a slip: it is not passed over."""
    answer = site.ask(f"/logs{path}?{quote(name)}=1", method)
    assert_refused(answer, name, "1")
    assert answer[2]["detail"][0]["type"] == "extra_forbidden"


@pytest.mark.parametrize("endpoint", ENDPOINTS_WITH_ROWS)
@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        ("start_time", "end_time", ("200", "100")),
        ("start_time", "end_time", ("2026-11-21T02:00:00Z", "2026-11-21T01:59:59Z")),
        ("status_code_min", "status_code_max", ("500", "499")),
        ("min_duration_ms", "max_duration_ms", ("1.5", "1.25")),
    ],
)
def test_reversed_range_is_refused(site, endpoint, low, high, values):
    """A range whose end is before its start holds nothing by mistake."""
    query = urlencode({low: values[0], high: values[1]})
    assert_refused(site.ask(f"/logs{endpoint}?{query}"), high, values[1])


def test_everything_wrong_is_said_at_once(site):
    """One answer lists all problems."""
    _, _, body = site.ask("/logs/entries?limit=x&offset=-1&nonsense=1&streaming=2")
    assert {problem["loc"][1] for problem in body["detail"]} == {
        "limit",
        "offset",
        "nonsense",
        "streaming",
    }


def test_messages_are_the_published_ones(site):
    """Codes and messages are those that clients of the published API know."""
    _, _, body = site.ask("/logs/query?limit=10001")
    assert body == {
        "detail": [
            {
                "type": "less_than_equal",
                "loc": ["query", "limit"],
                "msg": "Input should be less than or equal to 10000",
                "input": "10001",
            }
        ]
    }


@pytest.mark.parametrize(
    "query", ["%", "%ff=1", "&&&", "=", "=1", "limit", "limit=%ff", "a" * 5000]
)
@pytest.mark.parametrize("endpoint", ["/entries", "/query", "/status"])
def test_broken_query_string(site, endpoint, query):
    """Whatever stands behind the question mark, the answer is no 5xx."""
    assert site.ask(f"/logs{endpoint}?{query}")[0] in (200, 422)


@pytest.mark.parametrize("error_type", sorted(ERROR_TYPES))
def test_every_error_type_can_be_asked_for(site, error_type):
    """The closed list of error types is the list of what the filter takes."""
    assert site.get("/query", error_type=error_type)["count"] == 0


# -- reset -----------------------------------------------------------------------------------------


@pytest.fixture
def own_home(tmp_path: Path) -> Path:
    """A place for a site of one test alone."""
    return tmp_path


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_reset_by_other_methods(site, method):
    """Only POST deletes."""
    status, headers, _ = site.ask("/logs/reset", method)
    assert status == 405
    assert "POST" in headers["allow"]
    assert site.get("/status")["rows"] == 25


def test_reset(own_home):
    """All rows go; the answer is the published one."""
    store = DuckDBStore(own_home / "metrics.duckdb")
    store.append([to_json(record) for record in ROWS], [], {})
    site = Site(recording_settings(own_home, observability=ON), store)
    status, _, body = site.ask("/logs/reset", "POST")
    assert status == 200
    assert body.pop("timestamp") == pytest.approx(time.time(), abs=10)
    assert body == {
        "status": "success",
        "message": "All logs data has been reset",
        "backend": "duckdb",
    }
    assert site.get("/status")["rows"] == 0
    site.close()
    store.close()


def test_reset_from_a_foreign_page_or_without_the_token(own_home):
    """Cross-site requests and those without the operator's token delete nothing."""
    store = DuckDBStore(own_home / "metrics.duckdb")
    store.append([to_json(ROWS[0])], [], {})
    settings = recording_settings(own_home, observability=ON, security={"auth_token": "secret"})
    site = Site(settings, store)
    key = {"authorization": "Bearer secret"}
    assert site.ask("/logs/reset", "POST")[0] == 401
    assert site.ask("/logs/entries")[0] == 401
    foreign = key | {"origin": "https://evil.example"}
    assert site.ask("/logs/reset", "POST", foreign)[0] == 403
    assert store.status().rows == 1
    assert site.ask("/logs/reset", "POST", key)[0] == 200
    assert store.status().rows == 0
    site.close()
    store.close()


# -- where it is off, or away ----------------------------------------------------------------------

ENDPOINTS = [
    *(("GET", "/entries"), ("GET", "/query"), ("GET", "/analytics"), ("GET", "/export")),
    *(("GET", "/entries/x"), ("POST", "/reset")),
]


@pytest.mark.parametrize(("method", "path"), [*ENDPOINTS, ("GET", "/status")])
def test_switched_off(own_home, method, path):
    """Without the flag there is nothing at these paths."""
    site = Site(recording_settings(own_home), None)
    assert site.ask(f"/logs{path}", method)[0] == 404
    site.close()


def test_collection_off(own_home):
    """Without collection: 503 with the published message and Retry-After; the status says so."""
    settings = recording_settings(
        own_home, observability=ON | {"logs_collection_enabled": False, "dashboard_enabled": False}
    )
    site = Site(settings, None)
    message = "Logs collection is disabled. Enable with logs_collection_enabled=true"
    for method, path in ENDPOINTS:
        status, headers, body = site.ask(f"/logs{path}", method)
        assert status == 503
        assert body["error"]["message"] == message
        assert int(headers["retry-after"]) > 0
    body = site.get("/status")
    assert (body["status"], body["reason"]) == ("unavailable", message)
    site.close()


def test_store_away(own_home):
    """Without a recorder: 503 with the reason and Retry-After; the status counts what waits."""
    settings = recording_settings(own_home, observability=ON)
    writer = open_writer(settings.journal_directory)
    writer.end(make_record())
    site = Site(settings, RemoteStore(settings.recorder_socket), writer)
    for method, path in ENDPOINTS:
        status, headers, body = site.ask(f"/logs{path}", method)
        assert status == 503
        assert body["error"] == {
            "type": "service_unavailable",
            "message": "the recorder is not running",
        }
        assert int(headers["retry-after"]) > 0
    assert site.ask("/logs/entries?limit=x")[0] == 422, "what is wrong is said all the same"
    body = site.get("/status")
    assert (body["status"], body["reason"]) == ("unavailable", "the recorder is not running")
    assert body["backlog_bytes"] > 500
    site.close()


def test_status_is_degraded_where_records_cannot_be_written(own_home):
    """Trouble of the journal shows in the status, with the records that wait."""
    settings = recording_settings(own_home, observability=ON)
    writer = open_writer(settings.journal_directory, min_free_bytes=1 << 60)
    recorder = start_in_process(settings)
    writer.end(make_record())
    site = Site(settings, recorder.store, writer)
    body = site.get("/status")
    assert (body["status"], body["reason"]) == ("degraded", "journal: disk_full")
    assert (body["backlog_lines"], body["dropped"]) == (1, {})
    writer.min_free_bytes = 0
    writer.maintain()
    wait_until(lambda: site.get("/status")["rows"] == 1)
    assert site.get("/status")["status"] == "healthy"
    site.close()
    writer.close()
    recorder.close()

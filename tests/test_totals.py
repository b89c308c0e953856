"""Totals: whoever sums up the same requests says the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from conftest import ROOT
from recording_support import BEGAN, make_record

from ccproxy_flask.cli.show import stats_text
from ccproxy_flask.dashboard.format import failed
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.filters.matching import matches
from ccproxy_flask.journal.follow import as_row
from ccproxy_flask.logs.schemas import schemas
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.record import RequestRecord, to_json
from ccproxy_flask.stats import StatsPrinter
from ccproxy_flask.store import questions
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.sessions import SessionPage
from ccproxy_flask.totals import FIGURES, REPORTED, Totals

OUTCOMES: tuple[tuple[int | None, str | None, bool], ...] = (
    (200, None, True),
    (304, None, True),
    (400, None, False),
    (429, "rate_limit", False),
    (200, "client_disconnected", False),
    (None, None, False),
    (None, "worker_lost", False),
)
NO_TOKENS = {"tokens_input": None, "tokens_output": None, "cost_usd": None}
ROWS: tuple[RequestRecord, ...] = (
    *(
        make_record(number, status_code=status, error_type=kind, cache_read_tokens=7 * number)
        for number, (status, kind, _) in enumerate(OUTCOMES)
    ),
    make_record(7, cache_write_tokens=40, tokens_reasoning=3, ttft_ms=2.0),
    make_record(8, **NO_TOKENS),
    make_record(9, **NO_TOKENS, error_type="overloaded", status_code=529),
)
for row in ROWS:
    row.session_id = "all-of-them"
WHERE = LogFilter(start_time=BEGAN, end_time=BEGAN + timedelta(hours=1))
# Counted by hand.
EXPECTED: dict[str, Any] = {
    "total_requests": 10,
    "total_successful_requests": 4,
    "total_error_requests": 6,
    "success_rate": 40.0,
    "error_rate": 60.0,
    "avg_duration_ms": 17.0,
    "avg_ttft_ms": 2.0,
    "total_tokens_input": 80,
    "total_tokens_output": 40,
    "total_cache_read_tokens": 7 * 21,
    "total_cache_write_tokens": 40,
    "total_tokens_reasoning": 3,
    "total_tokens_all_input": 80 + 147 + 40,
    "total_tokens_all": 80 + 147 + 40 + 40,
    "cache_hit_rate": round(100 * 147 / 267, 4),
    "total_cost_usd": float(8 * Decimal("0.0012345678")),
    "priced_requests": 8,
    "unpriced_requests": 1,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBStore]:
    """A store with the rows."""
    opened = DuckDBStore(tmp_path_factory.mktemp("totals") / "metrics.duckdb")
    opened.append([to_json(row) for row in ROWS], [], {})
    yield opened
    opened.close()


@pytest.fixture(params=["few", "many"], autouse=True)
def exactness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a store sums up."""
    if request.param == "many":
        monkeypatch.setattr(questions, "EXACT_ROWS", 0)


def as_text(figures: dict[str, Any]) -> dict[str, Any]:
    """Return those of *figures* that are expected here, rounded."""
    return {name: pytest.approx(figures[name]) for name in EXPECTED}


def test_totals_are_those_counted_by_hand(store: DuckDBStore) -> None:
    """The store's totals are what the rows sum up to, and each figure has a row of the table."""
    found = store.totals(WHERE)
    assert as_text({name: getattr(found, name) for name in FIGURES}) == EXPECTED
    assert store.totals(LogFilter(model="nobody's")) == Totals()


def test_answers_of_the_logs_api_are_the_totals(store: DuckDBStore) -> None:
    """The summary is the totals; the parts of each breakdown and the buckets sum up to them."""
    found = json.loads(store.analytics(WHERE, 60))
    assert as_text(found["summary"]) == EXPECTED
    assert set(found["summary"]) == set(FIGURES)
    [model] = found["model_breakdown"].values()
    assert model["request_count"] == 10
    assert model["error_requests"] == found["request_analytics"]["error_requests"] == 6
    assert sum(each["request_count"] for each in found["error_breakdown"].values()) == 6
    assert found["error_breakdown"]["unknown"]["request_count"] == 2
    assert sum(each["unpriced_requests"] for each in found["timeseries"]) == 1
    by_model = found["model_timeseries"]
    assert {each["model"] for each in by_model} == set(found["model_breakdown"])
    for name, whole in (("request_count", 10), ("total_cost_usd", EXPECTED["total_cost_usd"])):
        assert sum(each[name] or 0 for each in by_model) == pytest.approx(whole)
    shapes = schemas()
    assert set(shapes["Analytics"]["properties"]["summary"]["properties"]) == set(FIGURES)
    assert set(shapes["Figures"]["properties"]) == set(model)


def test_session_has_the_totals(store: DuckDBStore) -> None:
    """The sums of a session with all the rows are the totals."""
    [found] = json.loads(store.sessions(WHERE, SessionPage()).text)
    names = {
        "requests": "total_requests",
        "errors": "total_error_requests",
        "cost_usd": "total_cost_usd",
        "unpriced_requests": "unpriced_requests",
        "tokens_input": "total_tokens_input",
        "tokens_output": "total_tokens_output",
        "cache_read_tokens": "total_cache_read_tokens",
        "cache_write_tokens": "total_cache_write_tokens",
        "tokens_all": "total_tokens_all",
    }
    for name, figure in names.items():
        assert found[name] == pytest.approx(EXPECTED[figure]), name
    assert round(100 * found["cache_hit"], 4) == EXPECTED["cache_hit_rate"]


def test_success_means_one_thing(store: DuckDBStore) -> None:
    """Record, filter in SQL and in memory, and page agree on which requests succeeded."""
    expected = [fine for _, _, fine in OUTCOMES]
    rows = ROWS[: len(OUTCOMES)]
    assert [row.succeeded for row in rows] == expected
    lines = [as_row(json.loads(to_json(row))) for row in rows]
    assert [not failed(line) for line in lines] == expected
    fine = LogFilter(succeeded=True)
    assert [matches(fine.asked(), line) for line in lines] == expected
    ids = {row["request_id"] for row in store.query(fine, 100).rows}
    assert [row.request_id in ids for row in rows] == expected


def test_metrics_and_printed_figures_are_the_totals(store: DuckDBStore) -> None:
    """What is printed since the last time, from the metrics, is what is printed in all."""
    metrics, printed = PrometheusMetrics(), list[str]()
    for row in ROWS:
        metrics.observe(row)
    StatsPrinter(metrics, store.totals, "json", printed.append).print()
    report = json.loads(printed[0])
    assert set(report["total"]) == set(REPORTED)
    both = [name for name in REPORTED if name in report["interval"]]
    assert len(both) > 5
    for name in both:
        assert report["interval"][name] == pytest.approx(report["total"][name]), name
        assert report["total"][name] == pytest.approx(EXPECTED[REPORTED[name]]), name


def test_command_line_shows_the_totals(store: DuckDBStore) -> None:
    """`logs stats` prints the figures of the answer, and adds up none of its own."""
    text = stats_text(json.loads(store.analytics(WHERE, 60)))
    assert text.startswith("10 requests, 6 with errors · 267 tokens in (147 read from and 40 ")
    assert "(1 request without a price)" in text


def test_success_is_defined_once() -> None:
    """No other file of the package says by itself which status is an error."""
    own = re.compile(r"error_type IS NULL|status_code[\"'\])]* (?:<|>=) ?400")
    package = ROOT / "ccproxy_flask"
    files = [*package.rglob("*.py"), *package.rglob("*.sql")]
    assert [path.name for path in files if own.search(path.read_text())] == ["totals.py"]

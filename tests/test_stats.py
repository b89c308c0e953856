"""Figures of the traffic, printed: since the last print, and in all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import structlog
from conftest import Server
from recording_support import make_record
from scripted import ScriptedUpstream, wait_until
from structlog.testing import capture_logs

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.stats import StatsPrinter
from ccproxy_flask.store.base import LogFilter
from ccproxy_flask.totals import Totals

TOTALS = Totals(
    total_requests=1234,
    total_successful_requests=1200,
    total_error_requests=34,
    avg_duration_ms=812.4,
    p95_duration_ms=2000.0,
    total_cost_usd=12.5,
    total_tokens_input=1_000_000,
    total_tokens_output=2000,
)


@pytest.fixture(autouse=True)
def plain_structlog() -> Iterator[None]:
    """structlog as it is out of the box."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def printer(
    style: str, answer: Callable[[LogFilter], Totals] | None = lambda _where: TOTALS
) -> tuple[PrometheusMetrics, StatsPrinter, list[str]]:
    """Return metrics, what prints them, and the list that it prints to."""
    metrics, printed = PrometheusMetrics(), list[str]()
    return metrics, StatsPrinter(metrics, answer, style, printed.append), printed


def some_traffic(metrics: PrometheusMetrics) -> None:
    """Count three requests, one of them an error, and one of our own pages."""
    for number in range(2):
        metrics.observe(make_record(number, cost_usd=Decimal("0.25"), cache_read_tokens=7))
    metrics.observe(
        make_record(
            model="other-model", error_type="rate_limit", status_code=429, tokens_input=None,
            tokens_output=None, cost_usd=None,
        )
    )  # fmt: skip
    metrics.observe(make_record(service_type="logs_service", endpoint="/logs/query"))


def test_json_is_one_line_with_everything() -> None:
    """Format json: one object, whose interval is what the metrics counted since the last print."""
    metrics, stats, printed = printer("json")
    some_traffic(metrics)
    assert stats.print()

    [line] = printed
    report = json.loads(line)
    assert "\n" not in line
    assert report["event"] == "stats"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["timestamp"])
    assert report["interval"] == {
        "requests": 3,
        "successful_requests": 2,
        "error_requests": 1,
        "active_requests": 0,
        "avg_duration_ms": pytest.approx((12.5 + 13.5 + 12.5) / 3, abs=0.001),
        "tokens_input": 20,
        "tokens_output": 10,
        "tokens_cache_read": 14,
        "tokens_cache_write": 0,
        "cost_usd": 0.5,
        "models": {"claude-test": 2, "other": 1},
    }
    assert report["total"]["requests"] == 1234
    assert report["total"]["cost_usd"] == 12.5


def test_each_print_tells_what_is_new() -> None:
    """A second print counts from the first on; without traffic there is none."""
    metrics, stats, printed = printer("json")
    some_traffic(metrics)
    stats.print()
    stats.print()
    assert len(printed) == 1
    metrics.observe(make_record())
    stats.print()

    assert json.loads(printed[1])["interval"]["requests"] == 1
    assert json.loads(printed[1])["interval"]["models"] == {"claude-test": 1}


def test_console_is_lines_for_people() -> None:
    """Format console: the interval, the models, and the totals, a line each."""
    metrics, stats, printed = printer("console")
    some_traffic(metrics)
    stats.print()

    first, models, total = printed[0].splitlines()
    assert "in the last 0 s: requests 3, errors 1, mean 13 ms, tokens in 20" in first
    assert first.endswith("cost $0.5000, in flight 0")
    assert models == "  models: claude-test 2, other 1"
    assert total.startswith("  in all: requests 1,234, errors 34, mean 812 ms, tokens in 1,000,000")


def test_rich_is_a_table() -> None:
    """Format rich: a table whose rows are all of one width."""
    metrics, stats, printed = printer("rich")
    some_traffic(metrics)
    stats.print()

    _title, *table, models = printed[0].splitlines()
    assert len({len(line) for line in table}) == 1
    assert re.search(r"│ requests +│ +3 │ +1,234 │", printed[0])
    assert models == "models: claude-test 2, other 1"


def test_log_is_a_line_of_the_log() -> None:
    """Format log: the event stats, with the figures as its fields."""
    metrics, stats, printed = printer("log")
    some_traffic(metrics)
    with capture_logs() as lines:
        stats.print()

    assert printed == []
    [line] = lines
    assert (line["event"], line["log_level"]) == ("stats", "info")
    assert line["interval"]["requests"] == 3


@pytest.mark.parametrize("style", ["console", "rich", "json"])
def test_without_the_store_there_are_no_totals(style: str) -> None:
    """Where the store cannot answer, or there is none, the interval is told all the same."""

    def away(_where: LogFilter) -> Totals:
        raise StoreUnavailable("away")

    for answer in (away, None):
        metrics, stats, printed = printer(style, answer)
        some_traffic(metrics)
        stats.print()
        assert "1,234" not in printed[0]
        assert "claude-test" in printed[0]


def test_names_of_upstreams_do_no_harm() -> None:
    """Control characters in the name of a model do not reach the terminal."""
    metrics, stats, printed = printer("console")
    metrics.observe(make_record(model="evil\x1b[2J\nname"))
    stats.print()

    assert "\x1b" not in printed[0]
    assert len(printed[0].splitlines()) == 3


def test_next_process_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    """What came before the first process, or between two, is told once, and nothing twice."""
    metrics, kept = PrometheusMetrics(), tmp_path / "printed.json"
    counts = []
    for _ in range(3):
        some_traffic(metrics)
        printed = list[str]()
        stats = StatsPrinter(metrics, None, "json", printed.append, kept)
        stats.print()
        stats.print()
        counts.append([json.loads(line)["interval"]["tokens_input"] for line in printed])
    assert counts == [[20], [20], [20]]


@pytest.mark.slow
@pytest.mark.parametrize("collection", ["true", "false"])
def test_server_prints_what_all_workers_did(
    start_server: Callable[..., Server], upstream: ScriptedUpstream, collection: str
) -> None:
    """The prints of a server add up to its traffic, and to the rows of its store."""
    upstream.script = lambda talk: talk.answer(
        b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":10,"completion_tokens":5}}'
    )
    server = start_server(
        workers=2,
        OBSERVABILITY__LOGS_COLLECTION_ENABLED=collection,
        OBSERVABILITY__STATS_PRINTING_FORMAT="json",
        SCHEDULER__STATS_PRINTING_ENABLED="true",
        SCHEDULER__STATS_PRINTING_INTERVAL_SECONDS="0.3",
    )
    for _ in range(20):
        server.request("POST", "/v1/chat/completions", b"{}")

    def reports() -> list[dict[str, dict[str, int]]]:
        lines = server.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"event":"stats"')]

    def told() -> bool:
        return sum(report["interval"]["requests"] for report in reports()) == 20

    wait_until(told)
    assert sum(report["interval"]["tokens_input"] for report in reports()) == 200
    if collection == "false":
        assert reports()[-1]["total"] is None
        return
    server.records(20)

    def told_of_all() -> bool:
        # The print after a request can come before its row, so there is always one more.
        server.request("POST", "/v1/chat/completions", b"{}")
        last = reports()[-1]["total"]
        return last is not None and last["requests"] > 20

    wait_until(told_of_all)

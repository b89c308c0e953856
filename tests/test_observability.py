"""The published interface, each name with its documented example."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from conftest import Server
from scripted import Conversation, ScriptedUpstream, wait_until
from structlog.testing import capture_logs

from ccproxy_flask import observability as published
from ccproxy_flask.journal import JournalWriter
from ccproxy_flask.record import RequestRecord


@pytest.fixture(autouse=True)
def plain_structlog() -> Iterator[None]:
    """structlog as it is out of the box."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    published.reset_metrics()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalWriter]:
    """A journal of the test's own."""
    writer = JournalWriter(
        tmp_path,
        max_bytes=1 << 30,
        min_free_bytes=0,
        segment_bytes=1 << 20,
        segment_seconds=60,
        on_drop=pytest.fail,
    )
    yield writer
    writer.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal."""
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.ndjson"))
        for line in path.read_bytes().splitlines()
    ]


def text(metrics: published.PrometheusMetrics) -> str:
    """Return what a scraper would read."""
    return metrics.exposition(None)[0].decode()


def test_every_published_name_is_there() -> None:
    """The names are those of the published system."""
    assert set(published.__all__) >= {
        "RequestContext",
        "request_context",
        "timed_operation",
        "tracked_request_context",
        "ContextTracker",
        "get_context_tracker",
        "PrometheusMetrics",
        "get_metrics",
        "reset_metrics",
        "PushgatewayClient",
        "get_pushgateway_client",
        "reset_pushgateway_client",
    }


def test_context_measures_and_logs() -> None:
    """A context knows its duration, and its log lines name the request and its metadata."""
    with capture_logs() as logged:
        context = published.RequestContext(
            "r-1", time.perf_counter() - 2.0, metadata={"model": "m"}
        )
        context.add_metadata(tokens_input=5, colour="red")
        context.log_event("cache_checked", hit=True)

    assert 2.0 <= context.duration_seconds < 10
    assert context.duration_ms == pytest.approx(context.duration_seconds * 1000, abs=50)
    assert context.metadata == {"model": "m", "tokens_input": 5, "colour": "red"}
    assert (context.record.model, context.record.tokens_input) == ("m", 5)
    assert logged[0]["event"] == "cache_checked"
    assert (logged[0]["request_id"], logged[0]["colour"]) == ("r-1", "red")


def test_request_context_counts_logs_and_stores(journal: JournalWriter, tmp_path: Path) -> None:
    """The documented example: one request, its log lines, its figures, its record."""
    metrics = published.PrometheusMetrics()
    with (
        capture_logs() as logged,
        published.request_context(
            "r-2", storage=journal, metrics=metrics, method="POST", endpoint="/v1/messages"
        ) as context,
    ):
        assert "ccproxy_active_requests 1.0" in text(metrics)
        context.add_metadata(model="claude", tokens_input=9, tokens_output=3, status_code=200)

    assert [line["event"] for line in logged] == ["request_start", "request_success"]
    assert 'ccproxy_tokens_total{model="claude",service_type="proxy_service",type="input"} 9.0' in (
        text(metrics)
    )
    assert "ccproxy_active_requests 0.0" in text(metrics)
    start, end = lines(tmp_path)
    assert (start["event"], end["event"], end["request_id"]) == ("start", "end", "r-2")
    assert (end["model"], end["tokens_output"], end["status_code"]) == ("claude", 3, 200)


def test_request_context_that_fails(journal: JournalWriter, tmp_path: Path) -> None:
    """An exception is logged and recorded as an error, without its secrets, and goes on."""
    with (
        capture_logs() as logged,
        pytest.raises(ValueError, match="boom"),
        published.request_context(storage=journal),
    ):
        raise ValueError("boom with sk-ant-canary123")

    assert logged[-1]["event"] == "request_error"
    assert lines(tmp_path)[-1]["error_type"] == "internal_error"
    assert "canary" not in json.dumps([logged, lines(tmp_path)], default=str)


def test_tracked_context_is_known_while_it_runs() -> None:
    """The tracker knows requests in flight, and lets go of stale ones."""
    tracker = published.get_context_tracker()
    before = tracker.get_active_count()
    with published.tracked_request_context("r-3") as context:
        assert tracker.get_context("r-3") is context
        assert tracker.get_active_count() == before + 1
        assert tracker.get_all_contexts()["r-3"] is context
    assert tracker.get_context("r-3") is None

    own = published.ContextTracker()
    own.add_context(published.RequestContext("old", time.perf_counter() - 400))
    own.add_context(published.RequestContext("new"))
    assert own.cleanup_stale_contexts(max_age_seconds=300) == 1
    assert list(own.get_all_contexts()) == ["new"]
    assert own.remove_context("new") is not None
    assert own.remove_context("new") is None


def test_timed_operation() -> None:
    """A part of a request logs its start, its end, and how long it took."""
    with (
        capture_logs() as logged,
        published.timed_operation("price", "r-4", model="m") as operation,
    ):
        assert operation.keys() == {"operation_id", "logger", "start_time"}
        operation["logger"].info("half_way")
    with (
        capture_logs() as failed,
        pytest.raises(KeyError),
        published.timed_operation("price"),
    ):
        raise KeyError("x")

    assert [line["event"] for line in logged] == [
        "operation_start",
        "half_way",
        "operation_success",
    ]
    assert (logged[2]["request_id"], logged[2]["model"]) == ("r-4", "m")
    assert logged[2]["duration_ms"] >= 0
    assert failed[-1]["event"] == "operation_error"


def test_single_figures() -> None:
    """Each published method adds to the collector of its name."""
    metrics = published.get_metrics()
    metrics.record_request("POST", "/v1/messages", "m", 200, "proxy_service")
    metrics.record_response_time(0.2, "m", "/v1/messages", "proxy_service")
    metrics.record_tokens(7, "cache_read", "m", "proxy_service")
    metrics.record_cost(0.5, "m", "total", "proxy_service")
    metrics.record_error("rate_limit", "/v1/messages", "m", "proxy_service")
    metrics.set_active_requests(3)
    metrics.inc_active_requests()
    metrics.dec_active_requests()
    metrics.update_system_info({"version": "9.9"})

    shown = text(metrics)
    assert 'status="200"} 1.0' in shown
    assert 'ccproxy_tokens_total{model="m",service_type="proxy_service",type="cache_read"} 7.0' in (
        shown
    )
    assert 'cost_type="total",model="m",service_type="proxy_service"} 0.5' in shown
    assert 'ccproxy_errors_total{endpoint="/v1/messages",error_type="rate_limit"' in shown
    assert "ccproxy_response_duration_seconds_count" in shown
    assert "ccproxy_active_requests 3.0" in shown
    assert 'ccproxy_build_info{version="9.9"} 1.0' in shown
    assert metrics.is_enabled()
    assert published.get_metrics() is metrics


def test_without_a_gateway_nothing_is_pushed() -> None:
    """Pushing says so where there is nowhere to push to."""
    metrics = published.PrometheusMetrics()

    assert not metrics.is_pushgateway_enabled()
    assert not metrics.push_to_gateway()
    assert not metrics.push_add_to_gateway()
    assert not metrics.delete_from_gateway()


def test_the_proxy_runs_on_these_objects(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """A proxied request writes the published log events, in their order."""
    go = threading.Event()

    def script(talk: Conversation) -> None:
        go.wait(5)
        talk.answer(b"{}")

    upstream.script = script
    server = start_server(LOGGING__LEVEL="debug", LOGGING__FORMAT="json")
    client = threading.Thread(target=server.request, args=("POST", "/v1/messages", b"{}"))
    client.start()
    go.set()
    client.join()
    server.records(1)

    def events() -> list[str]:
        found = [
            json.loads(line)
            for line in server.log_path.read_text().splitlines()
            if line.startswith("{")
        ]
        mine = [line for line in found if line.get("path") == "/v1/messages"]
        ids = {line["request_id"] for line in mine}
        return [line["event"] for line in found if line.get("request_id") in ids]

    wait_until(lambda: len(events()) >= 3)
    assert events() == ["request_start", "request_success", "access_log"]


def test_record_without_a_proxy() -> None:
    """A record made by hand has every column, and none of them is made up."""
    record = RequestRecord("r", None)  # type: ignore[arg-type]

    assert record.tokens_input is record.cost_usd is record.status_code is None
    assert os.environ.get("PROMETHEUS_MULTIPROC_DIR") is None

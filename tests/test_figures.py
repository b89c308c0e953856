"""One data set, asked in every way there is: the figures are the same everywhere."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from conftest import Server
from scripted import Conversation, ScriptedUpstream
from stream_support import ENDS, Reader
from test_metrics import scrape, total

REQUESTS = 60
ANSWER = (
    b'{"model":"gpt-4o-mini-2024-07-18","choices":[{"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":'
    b'{"cached_tokens":4}}}'
)
SQL = (
    "SELECT count(*), count(*) FILTER (error_type IS NULL AND status_code < 400), "
    "sum(tokens_input), sum(tokens_output), sum(cache_read_tokens), sum(cost_usd) FROM access_logs"
)


def mixed_answers(talk: Conversation) -> None:
    """Answer most requests, and refuse some."""
    if b"refuse" in talk.request.body:
        talk.answer(b'{"error":{"message":"slow down","type":"x"}}', "429 Too Many Requests")
    else:
        talk.answer(ANSWER)


def send_all(server: Server) -> None:
    """Send a mix of requests over several connections."""

    def send(part: int) -> None:
        for number in range(REQUESTS // 4):
            model = b"refuse" if (number + part) % 5 == 0 else b"gpt-4o-mini"
            server.request("POST", "/v1/chat/completions", b'{"model":"' + model + b'"}')

    threads = [threading.Thread(target=send, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def of_rows(rows: list[dict[str, Any]]) -> list[float]:
    """Return the figures of *rows*: requests, successes, tokens in, out, cached, cost."""
    good = [row for row in rows if not row["error_type"] and int(row["status_code"]) < 400]
    names = ("tokens_input", "tokens_output", "cache_read_tokens", "cost_usd")
    sums = [sum(float(row[name] or 0) for row in rows) for name in names]
    return [len(rows), len(good), *sums]


def of_metrics(server: Server) -> list[float]:
    """Return the same figures from /metrics."""
    samples = scrape(server)
    proxied = {"service_type": "proxy_service"}
    kinds = ("input", "output", "cache_read")
    return [
        total(samples, "ccproxy_requests_total", **proxied),
        total(samples, "ccproxy_requests_total", status="200", **proxied),
        *(total(samples, "ccproxy_tokens_total", type=kind, **proxied) for kind in kinds),
        total(samples, "ccproxy_cost_usd_total", cost_type="total", **proxied),
    ]


def of_summary(summary: dict[str, Any]) -> list[float]:
    """Return the same figures from the summary of the analytics."""
    return [
        summary["total_requests"],
        summary["total_successful_requests"],
        summary["total_tokens_input"],
        summary["total_tokens_output"],
        summary["total_cache_read_tokens"],
        summary["total_cost_usd"],
    ]


def of_parts(parts: list[dict[str, Any]]) -> list[float]:
    """Return the same figures, summed up over the *parts* of a breakdown."""
    names = ("request_count", "successful_requests", "total_tokens_input", "total_tokens_output")
    names += ("total_cache_read_tokens", "total_cost_usd")
    return [sum(part[name] or 0 for part in parts) for name in names]


def test_figures_agree_everywhere(
    start_server: Callable[..., Server], upstream: ScriptedUpstream, tmp_path
) -> None:
    """Entries, query, analytics with all its parts, SSE, metrics, exports and SQL say the same."""
    upstream.script = mixed_answers
    server = start_server(workers=2, LOGGING__ACCESS_LOG="false")
    with Reader(server.port) as reader:
        send_all(server)
        rows = server.records(REQUESTS, 20)
        events = []
        while len(events) < REQUESTS:
            if (event := reader.next()).name in ENDS:
                events.append(event.data)
    expected = pytest.approx(of_rows(rows))
    assert of_rows(rows)[1] == REQUESTS * 4 // 5
    assert of_rows(rows)[5] > 0

    assert of_rows(events) == expected
    assert of_rows(server.get_json("/logs/entries", limit=1000)["entries"]) == expected
    analytics = server.get_json("/logs/analytics")
    assert of_summary(analytics["summary"]) == expected
    for name in ("service_type_breakdown", "model_breakdown", "provider_breakdown"):
        assert of_parts(list(analytics[name].values())) == expected
    assert of_parts(analytics["timeseries"]) == expected
    assert analytics["error_breakdown"]["rate_limit"]["request_count"] == REQUESTS // 5
    assert of_metrics(server) == expected
    assert of_export(server, tmp_path) == [expected] * 3
    body = json.dumps({"sql": SQL}).encode()
    _, _, answer = server.request("POST", "/logs/sql", body)
    assert json.loads(answer)["rows"] == [expected]


def of_export(server: Server, tmp_path) -> list[list[float]]:
    """Return the same figures of each format."""
    texts = {
        form: server.request("GET", f"/logs/export?format={form}")[2]
        for form in ("csv", "jsonl", "parquet")
    }
    path = tmp_path / "all.parquet"
    path.write_bytes(texts["parquet"])
    with duckdb.connect() as connection:
        connection.read_parquet(str(path)).create_view("access_logs")
        [parquet] = connection.execute(SQL).fetchall()
    return [
        of_rows(list(csv.DictReader(io.StringIO(texts["csv"].decode())))),
        of_rows([json.loads(line) for line in texts["jsonl"].splitlines()]),
        [float(value) for value in parquet],
    ]

"""The figures that Prometheus scrapes: right across workers, from closed sets of labels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server
from scripted import Conversation, ScriptedUpstream, wait_until
from structlog.testing import capture_logs

from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.record import RequestRecord

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
ANSWER = (
    b'{"model":"gpt-4o-mini-2024-07-18","choices":[{"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":'
    b'{"cached_tokens":4}}}'
)
REQUESTS = 1000


def scrape(server: Server) -> list[tuple[str, dict[str, str], float]]:
    """Return all samples: (name, labels, value)."""
    status, _, text = server.request("GET", "/metrics")
    assert status == 200
    return [
        (name, dict(LABEL.findall(labels)), float(value))
        for name, labels, value in SAMPLE.findall(text.decode())
    ]


def total(samples: list[tuple[str, dict[str, str], float]], name: str, **labels: str) -> float:
    """Return the sum of a metric over all other labels."""
    return sum(
        value
        for found, has, value in samples
        if found == name and all(has.get(key) == wanted for key, wanted in labels.items())
    )


def mixed_answers(talk: Conversation) -> None:
    """Answer most requests, and refuse some."""
    if b"refuse" in talk.request.body:
        talk.answer(b'{"error":{"message":"slow down","type":"x"}}', "429 Too Many Requests")
    else:
        talk.answer(ANSWER)


def test_totals_are_those_of_the_records(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """After 1,000 requests over 4 workers the counters equal the sums over the rows."""
    upstream.script = mixed_answers
    server = start_server(workers=4, LOGGING__ACCESS_LOG="false")

    def send(number: int) -> None:
        for i in range(REQUESTS // 10):
            body = b'{"model":"refuse"}' if (i + number) % 7 == 0 else b'{"model":"gpt-4o-mini"}'
            server.request("POST", "/v1/chat/completions", body)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = server.records(REQUESTS, 20)
    samples = scrape(server)

    proxied = {"service_type": "proxy_service"}
    by_status = Counter(str(row["status_code"]) for row in rows)
    assert by_status.keys() == {"200", "429"}
    for status, count in by_status.items():
        assert total(samples, "ccproxy_requests_total", status=status, **proxied) == count
    for kind, column in (
        ("input", "tokens_input"),
        ("output", "tokens_output"),
        ("cache_read", "cache_read_tokens"),
    ):
        expected = sum(row[column] or 0 for row in rows)
        assert total(samples, "ccproxy_tokens_total", type=kind) == expected > 0
    cost = sum(row["cost_usd"] or 0 for row in rows)
    assert total(samples, "ccproxy_cost_usd_total", cost_type="total") == pytest.approx(cost)
    assert total(samples, "ccproxy_errors_total", error_type="rate_limit") == by_status["429"]
    assert total(samples, "ccproxy_response_duration_seconds_count", **proxied) == REQUESTS
    assert total(samples, "ccproxy_active_requests") == 0
    wait_until(lambda: total(scrape(server), "ccproxy_records_written_total") == REQUESTS)


def test_unknown_names_never_become_labels(server: Server, upstream: ScriptedUpstream) -> None:
    """What a client makes up is ``other``: paths, methods, and models that nobody answered as."""
    upstream.script = lambda talk: talk.answer(b'{"error":{"message":"no"}}', "404 Not Found")
    for word in ("canary-one", "canary-two"):
        body = b'{"model":"' + word.encode() + b'"}'
        server.request("CANARY", f"/v1/{word}?{word}={word}", body, {"user-agent": word})
        server.request("POST", "/v1/chat/completions", body)

    text = server.request("GET", "/metrics")[2].decode()

    assert "canary" not in text.lower()
    assert 'method="other"' in text


def test_open_metrics_when_asked_for(server: Server) -> None:
    """A scraper that prefers OpenMetrics gets it."""
    _, headers, text = server.request(
        "GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
    )

    assert headers["content-type"].startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_active_requests_are_counted(server: Server, upstream: ScriptedUpstream) -> None:
    """The gauge shows what is in flight, and only proxied requests."""
    go = threading.Event()

    def script(talk: Conversation) -> None:
        go.wait(10)
        talk.answer(ANSWER)

    upstream.script = script
    clients = [
        threading.Thread(target=server.request, args=("POST", "/v1/chat/completions", b"{}"))
        for _ in range(3)
    ]
    for client in clients:
        client.start()
    wait_until(lambda: total(scrape(server), "ccproxy_active_requests") == 3)
    go.set()
    for client in clients:
        client.join()

    wait_until(lambda: total(scrape(server), "ccproxy_active_requests") == 0)


def test_model_labels_are_bounded() -> None:
    """Only so many models get a label of their own."""
    metrics = PrometheusMetrics(max_models=2)

    labels = [metrics.model_label(name, answered=True) for name in ("a", "b", "c", "a", None)]

    assert labels == ["a", "b", "other", "a", "unknown"]
    assert metrics.model_label("d") == "other"


def test_a_model_needs_an_answer_to_become_a_label() -> None:
    """A name from a request alone is not a label."""
    metrics = PrometheusMetrics()
    record = RequestRecord("id", None, model="made-up", duration_seconds=0.1)  # type: ignore[arg-type]

    metrics.observe(record)

    assert b"made-up" not in metrics.exposition(None)[0]


TWO_WAYS = """
from ccproxy_flask.app import create_app
from ccproxy_flask.observability import get_metrics, reset_metrics
from ccproxy_flask.settings import load_settings
early = get_metrics()
app = create_app(load_settings({}))
own = app.extensions["ccproxy.metrics"]
for number in range(10):
    get_metrics().record_request("POST", "/mine", "m", 200, "mine")
    own.record_request("POST", "/mine", "m", 200, "mine")
    early.record_request("POST", "/mine", "m", 200, "mine")
    if number == 5:
        reset_metrics()
print([value for name, labels, value in own.samples() if name == "requests_total"])
"""


@pytest.mark.parametrize("shared", [False, True])
def test_published_objects_are_the_application_s(tmp_path: Path, shared: bool) -> None:
    """What get_metrics gives, before and after, counts in the application's figures."""
    env = {**os.environ, **({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if shared else {})}

    told = subprocess.run(
        [sys.executable, "-c", TWO_WAYS],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert told.stdout.splitlines()[-1] == "[30.0]"


def test_two_objects_in_one_process_lose_no_counts(tmp_path: Path) -> None:
    """Objects beside each other, also those made by hand, add to the same figures."""
    program = """
from ccproxy_flask.metrics import PrometheusMetrics
from prometheus_client import CollectorRegistry
both = [PrometheusMetrics(), PrometheusMetrics(registry=CollectorRegistry())]
for number in range(10):
    both[number % 2].record_request("POST", "/mine", "m", 200, "mine")
print([value for name, _, value in both[0].samples() if name == "requests_total"])
"""
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert told.stdout.splitlines()[-1] == "[10.0]"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
def test_what_is_no_amount_is_refused(value: float) -> None:
    """No counter takes what would spoil it: an error from a call, one line for a record."""
    metrics = PrometheusMetrics()
    for count in (metrics.record_tokens, metrics.record_cost):
        with pytest.raises(ValueError, match="must be a number from 0 on"):
            count(value, "input")  # type: ignore[operator]  # both take an amount and a type
    with pytest.raises(ValueError, match="duration_seconds"):
        metrics.record_response_time(value)
    record = RequestRecord("r", None)  # type: ignore[arg-type]
    record.tokens_input, record.cost_usd = value, value  # type: ignore[assignment]

    with capture_logs() as logged:
        metrics.observe(record)

    assert [line["column"] for line in logged] == ["tokens_input", "cost_usd"]
    spoiled = ("tokens_total", "cost_usd_total", "response_duration_seconds_sum")
    assert {value for name, _, value in metrics.samples() if name in spoiled} == {0.0}


def test_an_answer_is_not_kept(server: Server) -> None:
    """Each scrape asks the proxy anew."""
    assert server.request("GET", "/metrics")[1]["cache-control"] == "no-cache"


def test_accept_header_that_makes_no_sense(server: Server) -> None:
    """A version that is none gets the plain text, and no error."""
    accept = {"accept": "application/openmetrics-text; version=x"}
    status, headers, _ = server.request("GET", "/metrics", headers=accept)

    assert (status, headers["content-type"][:10]) == (200, "text/plain")


def test_scrapes_do_not_need_the_recorder(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """Where nothing is recorded, the figures are those of all workers too."""
    server = start_server(
        workers=2,
        OBSERVABILITY__LOGS_COLLECTION_ENABLED="false",
        OBSERVABILITY__LOGS_ENDPOINTS_ENABLED="false",
        OBSERVABILITY__DASHBOARD_ENABLED="false",
    )
    for _ in range(40):
        server.request("POST", "/v1/chat/completions", b"{}")

    wait_until(
        lambda: total(scrape(server), "ccproxy_requests_total", service_type="proxy_service") == 40
    )
    assert server.recorder_pids() == []

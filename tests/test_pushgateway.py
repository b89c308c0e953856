"""Pushing figures: against real gateways, and against such that hang, drip, refuse or redirect."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from conftest import Server, free_port
from debian_support import fetch, fetch_json, needs, pushgateway, victoria_metrics
from scripted import Conversation, ScriptedUpstream, wait_until
from structlog.testing import capture_logs

from ccproxy_flask.export.pushgateway import PushgatewayClient
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.observability import (
    get_metrics,
    get_pushgateway_client,
    reset_metrics,
    reset_pushgateway_client,
)
from ccproxy_flask.settings import Observability

__all__ = ["pushgateway", "victoria_metrics"]


@pytest.fixture(autouse=True)
def plain_structlog() -> Iterator[None]:
    """structlog as it is out of the box."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def client(url: str | None, **options: Any) -> PushgatewayClient:
    """Return a client that pushes to *url* as instance ``one``."""
    job = options.pop("job", "ccproxy")
    settings = Observability(pushgateway_url=url, pushgateway_job=job)
    return PushgatewayClient(settings, **{"instance": "one", "timeout_seconds": 5.0, **options})


def figures(requests: int) -> PrometheusMetrics:
    """Return metrics that counted so many requests."""
    metrics = PrometheusMetrics()
    for _ in range(requests):
        metrics.record_request("POST", "/v1/messages", "m", 200, "proxy_service")
    return metrics


def pushed(url: str, metric: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and values of *metric* at a Pushgateway."""
    return [
        (sample["labels"], float(sample["value"]))
        for group in fetch_json(f"{url}/api/v1/metrics")["data"]
        for sample in group.get(metric, {"metrics": []})["metrics"]
    ]


@pytest.fixture
def silent_gateway() -> Iterator[str]:
    """A gateway that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# -- real gateways ---------------------------------------------------------------------------------


@needs("prometheus-pushgateway")
def test_push_add_and_delete(pushgateway: str) -> None:
    """A push replaces the group of job and instance, an add keeps other names, a delete ends it."""
    gateway = client(pushgateway)
    other = PrometheusMetrics(namespace="other")
    other.inc_active_requests()

    assert gateway.push_metrics(figures(3).registry)
    [(labels, value)] = pushed(pushgateway, "ccproxy_requests_total")
    assert (labels["job"], labels["instance"], labels["model"], value) == (
        *("ccproxy", "one", "m"),
        3,
    )
    assert gateway.push_add_metrics(other.registry)
    assert pushed(pushgateway, "ccproxy_requests_total")
    assert gateway.push_metrics(other.registry)
    assert not pushed(pushgateway, "ccproxy_requests_total")
    assert pushed(pushgateway, "other_active_requests")[0][1] == 1
    assert gateway.delete_metrics()
    assert not pushed(pushgateway, "other_active_requests")


@needs("prometheus-pushgateway")
def test_instances_do_not_replace_each_other(pushgateway: str) -> None:
    """Two instances of one job stand beside each other, whatever characters name them."""
    for number, instance in enumerate(("a/b:8000", "ü [::1]:8000"), 1):
        job = "team/ccproxy"
        assert client(pushgateway, instance=instance, job=job).push_metrics(
            figures(number).registry
        )

    found = pushed(pushgateway, "ccproxy_requests_total")

    assert {(labels["job"], labels["instance"], value) for labels, value in found} == {
        ("team/ccproxy", "a/b:8000", 1),
        ("team/ccproxy", "ü [::1]:8000", 2),
    }


@needs("prometheus-pushgateway")
def test_gateway_that_refuses_says_why(pushgateway: str) -> None:
    """What a gateway does not take is told by False, and its reason is in the log."""
    metrics = figures(1)
    metrics.registry.register(Clash())
    with capture_logs() as lines:
        assert not client(pushgateway).push_metrics(metrics.registry)
    assert lines[0]["event"] == "pushgateway_push_failed"
    assert lines[0]["reason"].startswith("400 Bad Request: ")
    assert not pushed(pushgateway, "ccproxy_requests_total")


class Clash:
    """A collector of figures that another has too."""

    def collect(self) -> Iterator[Any]:
        """Give them."""
        yield from figures(1).registry.collect()


@needs("prometheus-pushgateway")
def test_published_functions_push(pushgateway: str) -> None:
    """PrometheusMetrics pushes, adds and deletes through the client that it is given."""
    metrics = PrometheusMetrics(pushgateway_client=client(pushgateway))
    metrics.record_tokens(7, "input", "m", "proxy_service")

    assert metrics.is_pushgateway_enabled()
    assert metrics.push_to_gateway()
    assert metrics.push_add_to_gateway()
    assert [value for _, value in pushed(pushgateway, "ccproxy_tokens_total")] == [7]
    assert metrics.delete_from_gateway()
    assert not pushed(pushgateway, "ccproxy_tokens_total")


def series(url: str, query: str) -> Any:
    """Return the instant values of *query* at a VictoriaMetrics."""
    fetch(f"{url}/internal/force_flush")
    return fetch_json(f"{url}/api/v1/query", query=query)["data"]["result"]


@needs("victoria-metrics")
@pytest.mark.parametrize("ending", ["/api/v1/import/prometheus", "/api/v1/write"])
def test_victoria_metrics_imports(victoria_metrics: str, ending: str) -> None:
    """At VictoriaMetrics' import and write endpoints its import protocol is spoken."""
    gateway = client(victoria_metrics + ending)

    assert gateway.push_metrics(figures(4).registry)
    assert gateway.push_add_metrics(figures(4).registry)
    found = wait_until(lambda: series(victoria_metrics, "ccproxy_requests_total"))

    [one] = found  # type: ignore[misc]
    assert one["value"][1] == "4"
    assert one["metric"]["job"] == "ccproxy"
    assert one["metric"]["instance"] == "one"
    with capture_logs() as lines:
        assert not gateway.delete_metrics()
    assert lines[0]["event"] == "pushgateway_delete_not_supported"


# -- gateways that do not work ---------------------------------------------------------------------


def test_without_url_nothing_is_pushed() -> None:
    """A client without a URL is not enabled, and every push is False."""
    gateway = client(None)

    assert not gateway.is_enabled()
    assert not gateway.push_metrics(figures(1).registry)
    assert not gateway.push_add_metrics(figures(1).registry)
    assert not gateway.delete_metrics()


def test_unknown_method_is_refused(upstream: ScriptedUpstream) -> None:
    """A method that is none is told by False, and nothing is sent."""
    with capture_logs() as lines:
        assert not client(upstream.url).push_metrics(figures(1).registry, "put")
    assert [line["event"] for line in lines] == ["pushgateway_unknown_method"]
    assert upstream.seen == []


def test_hanging_gateway_is_left_in_time(silent_gateway: str) -> None:
    """A gateway that never answers costs its timeout, and nothing more."""
    began = time.monotonic()
    with capture_logs() as lines:
        assert not client(silent_gateway, timeout_seconds=0.3).push_metrics(figures(1).registry)
    assert time.monotonic() - began < 30
    assert lines[0]["reason"] == "no answer within 0.3 s"


def test_dripping_gateway_is_left_in_time(upstream: ScriptedUpstream) -> None:
    """A gateway that sends a byte now and then does not outlive the timeout."""
    gone = threading.Event()

    def drip(talk: Conversation) -> None:
        talk.close = True
        while not gone.wait(0.05):
            talk.send(b"H")

    upstream.script = drip
    began = time.monotonic()
    with capture_logs() as lines:
        assert not client(upstream.url, timeout_seconds=0.5).push_metrics(figures(1).registry)
    gone.set()
    assert time.monotonic() - began < 30
    assert lines[0]["reason"] == "no answer within 0.5 s"


@pytest.mark.parametrize(
    ("status", "told"),
    [("301 Moved Permanently", "301"), ("401 Unauthorized", "401"), ("503 Busy", "503")],
)
def test_other_answers_are_failures(upstream: ScriptedUpstream, status: str, told: str) -> None:
    """Whatever is no 2xx is a failure; a redirect is not followed."""
    upstream.script = lambda talk: talk.answer(b"no", status, (("location", upstream.url),))
    with capture_logs() as lines:
        assert not client(upstream.url).push_metrics(figures(1).registry)
    assert lines[0]["reason"].startswith(told)
    assert len(upstream.seen) == 1


def test_garbage_is_a_failure(upstream: ScriptedUpstream) -> None:
    """A gateway that speaks something else is told by False."""

    def script(talk: Conversation) -> None:
        talk.send(b"\x00\x01garbage\r\n\r\n")
        talk.close = True

    upstream.script = script
    assert not client(upstream.url).push_metrics(figures(1).registry)


# -- the client of the settings --------------------------------------------------------------------


def test_shared_client_is_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, upstream: ScriptedUpstream
) -> None:
    """get_pushgateway_client reads the settings once, and again after a reset."""
    monkeypatch.setenv("OBSERVABILITY__PUSHGATEWAY_URL", upstream.url)
    monkeypatch.setenv("OBSERVABILITY__PUSHGATEWAY_JOB", "mine")
    monkeypatch.setenv("OBSERVABILITY__NODE", "node-1")
    monkeypatch.setenv("CCPROXY_PORT", "8123")
    reset_pushgateway_client()
    try:
        shared = get_pushgateway_client()
        assert get_pushgateway_client() is shared
        assert get_metrics("pushed", pushgateway_client=shared).push_to_gateway()
        assert upstream.seen[0].line == "PUT /metrics/job/mine/instance/node-1%3A8123 HTTP/1.1"
        reset_pushgateway_client()
        assert get_pushgateway_client() is not shared
    finally:
        reset_pushgateway_client()
        reset_metrics()


# -- the whole -------------------------------------------------------------------------------------


@needs("prometheus-pushgateway")
@pytest.mark.slow
@pytest.mark.parametrize("collection", ["true", "false"])
def test_server_pushes_from_one_place(
    start_server: Callable[..., Server],
    upstream: ScriptedUpstream,
    pushgateway: str,
    collection: str,
) -> None:
    """The figures of all workers are pushed as one group, with and without a recorder."""
    upstream.script = lambda talk: talk.answer(b'{"model":"m","usage":{"prompt_tokens":2}}')
    server = start_server(
        workers=2,
        OBSERVABILITY__LOGS_COLLECTION_ENABLED=collection,
        OBSERVABILITY__PUSHGATEWAY_URL=pushgateway,
        SCHEDULER__PUSHGATEWAY_ENABLED="true",
        SCHEDULER__PUSHGATEWAY_INTERVAL_SECONDS="0.2",
    )
    for _ in range(20):
        assert server.request("POST", "/v1/chat/completions", b"{}")[0] == 200

    def counted() -> float:
        return sum(
            value
            for labels, value in pushed(pushgateway, "ccproxy_requests_total")
            if labels["service_type"] == "proxy_service"
        )

    wait_until(lambda: counted() == 20)
    groups = fetch_json(f"{pushgateway}/api/v1/metrics")["data"]
    assert [group["labels"]["instance"].endswith(f":{server.port}") for group in groups] == [True]


@needs("prometheus-pushgateway")
@pytest.mark.slow
def test_last_figures_are_pushed_at_the_stop(
    start_server: Callable[..., Server], upstream: ScriptedUpstream, pushgateway: str
) -> None:
    """A stop pushes once more, so that nothing since the last push is missing."""
    upstream.script = lambda talk: talk.answer(b"{}")
    server = start_server(
        OBSERVABILITY__PUSHGATEWAY_URL=pushgateway,
        SCHEDULER__PUSHGATEWAY_ENABLED="true",
        SCHEDULER__PUSHGATEWAY_INTERVAL_SECONDS="3600",
    )
    server.request("POST", "/v1/messages", b"{}")
    server.records(1)
    assert not pushed(pushgateway, "ccproxy_requests_total")

    server.stop()

    assert pushed(pushgateway, "ccproxy_records_written_total")[0][1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hanging", "refusing"])
def test_bad_gateway_disturbs_nothing(
    start_server: Callable[..., Server],
    upstream: ScriptedUpstream,
    silent_gateway: str,
    kind: str,
) -> None:
    """With a gateway that hangs or refuses, requests, records, figures and the stop are as ever."""
    upstream.script = lambda talk: talk.answer(b"{}")
    url = silent_gateway if kind == "hanging" else f"http://127.0.0.1:{free_port()}"
    server = start_server(
        OBSERVABILITY__PUSHGATEWAY_URL=url,
        SCHEDULER__PUSHGATEWAY_ENABLED="true",
        SCHEDULER__PUSHGATEWAY_INTERVAL_SECONDS="0.05",
    )
    for number in range(1, 4):
        began = time.monotonic()
        assert server.request("POST", "/v1/messages", b"{}")[0] == 200
        server.records(number)
        assert time.monotonic() - began < 9  # below the gateway's ten seconds
        assert server.request("GET", "/metrics")[0] == 200

    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 9
    if kind == "refusing":
        assert "pushgateway_push_failed" in server.log_path.read_text()

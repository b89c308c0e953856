"""What operators take from deploy/: real Prometheus programs judge it, and our own metrics."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Server
from debian_support import fetch_json, needs, running
from scripted import ScriptedUpstream, wait_until

from ccproxy_flask.metrics import PrometheusMetrics

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "ccproxy.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
METRIC = re.compile(r"\bccproxy_\w+")
LABELS = re.compile(r"(ccproxy_\w+)\{([^}]*)\}")
ANSWER = (
    b'{"model":"gpt-4o-mini-2024-07-18","choices":[{"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":5}}'
)


def promtool(*arguments: str, text: bytes = b"", folder: Path = ROOT) -> str:
    """Return what promtool says; fail where it finds something."""
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, check=False, cwd=folder
    )
    told = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, told
    return told


def known() -> dict[str, set[str]]:
    """Return the labels of each of our series by its name in PromQL."""
    endings = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
    }
    found = {}
    for collector in PrometheusMetrics().registry._collector_to_names:  # noqa: SLF001  it has no list of them
        for ending in endings[collector._type]:  # noqa: SLF001  a collector says it no other way
            labels = {*collector._labelnames, "instance", "job", "le"}  # noqa: SLF001  as above
            found[collector._name + ending] = labels  # noqa: SLF001  as above
    return found


def expressions() -> list[str]:
    """Return the queries of the rules and of the dashboard."""
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"]
             for rule in group["rules"]]  # fmt: skip
    drawn = [query["expr"] for panel in DASHBOARD["panels"] for query in panel.get("targets", [])]
    return rules + drawn


@needs("promtool")
def test_alert_rules_do_what_they_say() -> None:
    """Promtool accepts the rules, and their tests pass."""
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(DEPLOY / "alerts.test.yml"))


def test_every_alert_is_tried() -> None:
    """Each alert rule is named by a test in which it fires, and one in which it does not."""
    rules = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"]
             for rule in group["rules"]}  # fmt: skip
    tried = [
        each
        for test in yaml.safe_load((DEPLOY / "alerts.test.yml").read_text())["tests"]
        for each in test["alert_rule_test"]
    ]
    assert {each["alertname"] for each in tried if each.get("exp_alerts")} == rules
    assert {each["alertname"] for each in tried if not each.get("exp_alerts")} == rules


@needs("promtool")
def test_example_configuration_is_valid() -> None:
    """Promtool accepts the example of a Prometheus configuration."""
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml", folder=DEPLOY)


@pytest.mark.parametrize("query", expressions())
def test_queries_name_what_there_is(query: str) -> None:
    """Each metric of a rule or a panel exists, and has the labels that are asked for."""
    there = known()
    assert set(METRIC.findall(query)) <= there.keys()
    for name, chosen in LABELS.findall(query):
        assert set(re.findall(r"(\w+)\s*(?:=|!)", chosen)) <= there[name]
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
    assert grouped <= set().union(*(there[name] for name in METRIC.findall(query)), set())


def test_every_metric_is_drawn() -> None:
    """The dashboard shows all of our metrics."""
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known()}
    drawn = {re.sub(r"_(bucket|sum|count)$", "", name)
             for panel in DASHBOARD["panels"] for query in panel.get("targets", [])
             for name in METRIC.findall(query["expr"])}  # fmt: skip
    assert families - drawn == set()


def test_panels_stand_beside_each_other() -> None:
    """No two panels of the dashboard overlap, and each has its own id."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    """The unit has what a service needs, and systemd finds nothing to say against it."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "ccproxy.service")
    assert unit["Service"]["KillMode"] == "mixed"
    assert unit["Service"]["ExecStart"].endswith("gunicorn -k gevent wsgi:app")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "ccproxy.service"
    text = (DEPLOY / "ccproxy.service").read_text()
    copy.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "ccproxy" in line] == []


# -- /metrics under real programs ------------------------------------------------------------------


def some_traffic(server: Server, upstream: ScriptedUpstream) -> None:
    """Send ten requests that succeed, and one that does not."""
    upstream.script = lambda talk: talk.answer(ANSWER)
    for _ in range(10):
        server.request("POST", "/v1/chat/completions", b"{}")
    upstream.script = lambda talk: talk.answer(b"{}", "429 Too Many Requests")
    server.request("POST", "/v1/chat/completions", b"{}")
    server.records(11)


@needs("promtool")
def test_promtool_finds_nothing_in_the_metrics(server: Server, upstream: ScriptedUpstream) -> None:
    """Promtool has nothing to say against names, types and texts of /metrics."""
    some_traffic(server, upstream)

    assert promtool("check", "metrics", text=server.request("GET", "/metrics")[2]) == ""


@needs("prometheus")
@pytest.mark.slow
def test_prometheus_scrapes_and_draws(
    server: Server, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A real Prometheus with our example scrapes it, loads the rules, and answers every panel."""
    text = (DEPLOY / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}").replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(text)
    shutil.copy(RULES, tmp_path)
    some_traffic(server, upstream)
    with running(
        tmp_path,
        "/-/ready",
        *("prometheus", "--config.file=prometheus.yml", "--web.listen-address={address}"),
        "--storage.tsdb.path=data",
    ) as url:

        def value(query: str) -> float | None:
            found = fetch_json(f"{url}/api/v1/query", query=query)["data"]["result"]
            return float(found[0]["value"][1]) if found else None

        wait_until(lambda: value('up{job="ccproxy"}') == 1, 20)
        requests = 'sum(ccproxy_requests_total{service_type="proxy_service"})'
        assert wait_until(lambda: value(requests)) >= 11  # type: ignore[operator]
        assert value('sum(ccproxy_errors_total{error_type="rate_limit"})') >= 1  # type: ignore[operator]
        loaded = fetch_json(f"{url}/api/v1/rules")["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}
        for query in expressions():
            drawn = re.sub(r"\$__(range|rate_interval)", "5m", query).replace("$instance", ".*")
            assert fetch_json(f"{url}/api/v1/query", query=drawn)["status"] == "success"

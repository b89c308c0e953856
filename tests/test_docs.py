"""The documentation: every setting, metric, column and error is in it, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.record import COLUMNS
from docs import generate

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")])


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of the tables below *heading*, by the name in their first cell."""
    text = (ROOT / "docs" / page).read_text()
    section = re.split(rf"^## {heading}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


def test_settings_are_documented_as_they_are():
    """docs/configuration.md is what `make docs` writes now."""
    assert generate.PAGE.read_text() == generate.page()


def test_every_metric_is_documented_with_its_labels():
    """docs/metrics.md lists the metrics of the registry, with type and labels."""
    metrics = PrometheusMetrics(registry=CollectorRegistry())
    described = rows("metrics.md", "Published") | rows("metrics.md", "Ours")
    registered = {}
    for collector in metrics.registry._collector_to_names:  # noqa: SLF001  it has no list of them
        kind = collector._type  # noqa: SLF001  a collector has no other way to say it
        name = collector._name + ("_total" if kind == "counter" else "")  # noqa: SLF001  as above
        registered[name] = (kind, list(collector._labelnames))  # noqa: SLF001  as above
    assert {
        name: (cells[0], re.findall(r"`(\w+)`", cells[1])) for name, cells in described.items()
    } == registered


def test_queries_of_the_docs_count_traffic_alone():
    """What is counted of pages of ours too is asked for by its service type, and exists."""
    queries = "".join(
        re.findall(r"```promql\n(.*?)```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL)
    )
    counted = re.findall(r"ccproxy_(?:errors|requests)_total(\{[^}]*\})?", queries)
    assert len(counted) >= 2
    assert all("service_type=" in labels for labels in counted)
    known = rows("metrics.md", "Published") | rows("metrics.md", "Ours")
    used = {re.sub("_bucket$", "", name) for name in re.findall(r"ccproxy_\w+", queries)}
    assert used <= known.keys()


def test_every_error_type_is_documented():
    """docs/metrics.md lists the closed set of error types."""
    assert rows("metrics.md", "Error types").keys() == ERROR_TYPES


def test_every_column_is_documented_in_order():
    """docs/logs-api.md lists the columns of a record."""
    assert tuple(rows("logs-api.md", "Columns")) == COLUMNS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every link into the repository leads to a file, and to a heading where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

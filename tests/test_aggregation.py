"""Figures of several processes, put together as the Prometheus library does it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from ccproxy_flask.metrics import aggregation

COUNTING = """
import os, sys
from prometheus_client import Counter, Gauge, Histogram, Summary
seed = int(sys.argv[1])
counter = Counter("counted", "Counted, \\u00e9", ["one", "other"])
histogram = Histogram("seconds", "Seconds", ["label"], buckets=(0.5, 1, 2.5))
summary = Summary("sizes", "Sizes", ["label"])
for number in range(50):
    counter.labels(f"a{number % seed}", 'quote"d').inc(number / 4)
    histogram.labels(f"{number % 3}").observe(number * seed % 4)
    summary.labels("x").observe(number)
for mode in Gauge._MULTIPROC_MODES:
    gauge = Gauge(f"level_{mode}", mode, ["label"], multiprocess_mode=mode)
    gauge.labels(f"{seed % 2}").set(seed * (-1) ** seed)
Gauge("never_set", "Never set", multiprocess_mode="mostrecent")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of four processes that count with the library's own values."""
    folder = tmp_path_factory.mktemp("figures")
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    started = [
        subprocess.Popen([sys.executable, "-c", COUNTING, str(seed)], env=env)
        for seed in range(1, 5)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    return folder


def ours(folder: Path, **more: object) -> str:
    asked = {"folders": [str(folder)], "figures": [], "accept": None, **more}
    return aggregation.answer(asked)[0].decode()


def theirs(folder: Path) -> str:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))
    return generate_latest(registry).decode()


def test_text_is_the_library_s(folder: Path) -> None:
    """Every line of the library's own collector over the same files, and no other."""
    text = ours(folder)

    assert sorted(text.splitlines()) == sorted(theirs(folder).splitlines())
    assert 'seconds_bucket{label="0",le="+Inf"} 68.0' in text


def test_a_process_of_its_own_gives_the_same(folder: Path) -> None:
    """The program that answers where there is no recorder says what the function says."""
    asked = {"folders": [str(folder)], "figures": [], "accept": "application/openmetrics-text"}
    told = subprocess.run(
        [sys.executable, "-P", aggregation.__file__],
        input=json.dumps(asked).encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )

    content_type, _, text = told.stdout.partition(b"\n")
    assert (text, content_type.decode()) == aggregation.answer(asked)
    assert text.endswith(b"# EOF\n")


def test_figures_without_a_file_are_added(folder: Path) -> None:
    """What a process has no room for counts as if it were in one of the files."""
    key = json.dumps(["counted", "counted_total", {"one": "a0", "other": 'quote"d'}, "Counted, é"])
    name = 'counted_total{one="a0",other="quote\\"d"} '
    [before] = [line for line in ours(folder).splitlines() if line.startswith(name)]

    text = ours(folder, figures=[("counter", "1", key, 1000.0, 0.0)])

    [after] = [line for line in text.splitlines() if line.startswith(name)]
    assert float(after.split()[-1]) == pytest.approx(float(before.split()[-1]) + 1000)


# A whole entry, whose key is not what the library writes.
NO_KEY = struct.pack("=iii20sdd", 48, 0, 20, b"no JSON, as long as ", 1.0, 0.0)


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 3, b"\xff" * 64, b"\x40\0\0\0" + b"\x10" * 90, NO_KEY]
)
def test_a_damaged_file_spoils_no_other(folder: Path, tmp_path: Path, damage: bytes) -> None:
    """A file that cannot be read is left out; the figures of the others are told."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "counter_999999.db").write_bytes(damage)

    assert ours(tmp_path) == ours(folder)


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "text/plain; version=1..", "?", "\udcff"]
)
def test_any_accept_header_is_answered(folder: Path, accept: str) -> None:
    """What a scraper accepts is chosen from; nonsense gets the plain text."""
    assert "counted_total" in ours(folder, accept=accept)

"""Our value in a shared file is the library's in everything but speed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNTING = """
import os, sys, threading
from prometheus_client import values
if sys.argv[1] == "ours":
    from ccproxy_flask.metrics.shared import SharedValue
    values.ValueClass = SharedValue
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import multiprocess

own = CollectorRegistry()
counter = Counter("counted", "Counted", ["label"], registry=own)
gauge = Gauge("level", "Level", registry=own, multiprocess_mode="livesum")
newest = Gauge("newest", "Newest", registry=own, multiprocess_mode="mostrecent")
histogram = Histogram("seconds", "Seconds", ["label"], registry=own, buckets=(1, 2))

def count(times):
    for number in range(times):
        counter.labels("a\\u00e9").inc()
        gauge.inc(2)
        gauge.dec()
        histogram.labels(f"{number % 3}").observe(number % 4)

count(10)
newest.set(1)
child = os.fork()
if not child:
    count(5)
    newest.set(7)
    os._exit(0)
os.waitpid(child, 0)
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=count, args=(20_000,)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
together = CollectorRegistry()
multiprocess.MultiProcessCollector(together)
lines = [counter.labels("a\\u00e9")._value.get(), generate_latest(together).decode()]
multiprocess.mark_process_dead(child)
print(*lines, generate_latest(together).decode(), sep="\\n")
"""


@pytest.fixture
def counted(tmp_path):
    """Count in two processes and five threads with a class of values; return what a scrape says."""

    def run(which: str) -> str:
        directory = tmp_path / which
        directory.mkdir()
        return subprocess.run(
            [sys.executable, "-c", COUNTING, which],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    return run


def test_figures_are_those_of_the_library(counted):
    """Over a fork, from threads, and after a process is gone."""
    ours = counted("ours")
    assert 'counted_total{label="aé"} 80015.0' in ours
    assert "newest 7.0" in ours
    assert sorted(ours.splitlines()) == sorted(counted("library").splitlines())

"""Our value in a shared file is the library's in everything but speed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from disk_support import fill
from scripted import wait_until

COUNTING = """
import os, sys, threading
from prometheus_client import values
if sys.argv[1] == "ours":
    from ccproxy_flask.metrics.multiprocess_values import SharedValue
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


ON_A_FULL_DISK = """
import json, os, sys
from collections import Counter
from pathlib import Path
from ccproxy_flask import metrics_folders
metrics_folders.IN_MEMORY = Path(sys.argv[1])
from ccproxy_flask.metrics import PrometheusMetrics, multiprocess_values
metrics = PrometheusMetrics()

def told():
    metrics.maintain()
    found = Counter()
    for name, _, value in metrics.samples():
        found[name] += value
    wanted = ("requests_total", "metrics_unshared_series", "response_duration_seconds_count")
    told = [multiprocess_values.trouble()] + [found[name] for name in wanted]
    print(json.dumps(told), flush=True)

def count(number):
    metrics.record_request("POST", f"/{number}")
    metrics.record_response_time(0.1, endpoint=f"/{number}")

for line in sys.stdin:
    for number in range(int(line)):
        count(number)
    told()
"""


class Counting:
    """A process that counts in the folder *shared*, with *spare* for what has no room there."""

    def __init__(self, shared: Path, spare: Path, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_FULL_DISK, str(spare)],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )

    def count(self, requests: int) -> list[Any]:
        """Count so many; return trouble, requests in all, series without a file, durations."""
        self.process.stdin.write(f"{requests}\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("["):
            assert line, "the process ended"
        return json.loads(line)

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_full_before_the_start(small_disk: Path) -> None:
    """Without any room figures are counted in memory, and get their files when there is room."""
    fill(small_disk)
    with Counting(small_disk, small_disk / "spare") as one:
        trouble, requests, unshared, durations = one.count(5)
        assert "No space left" in trouble
        assert (requests, durations) == (5, 5)
        assert unshared > 0
        (small_disk / "filling").unlink()
        wait_until(lambda: one.count(0)[0] is None)
        assert one.count(5)[:3] == [None, 10, 0]


def test_full_while_running(small_disk: Path) -> None:
    """A disk that fills up kills nobody: new series wait, and the known ones go on."""
    with Counting(small_disk, small_disk / "spare") as one:
        assert one.count(5)[:3] == [None, 5, 0]
        fill(small_disk)
        trouble, requests, unshared, durations = one.count(200)
        assert "No space left" in trouble
        assert (requests, durations) == (205, 205)
        assert unshared > 0


def test_what_has_no_room_is_shared_in_memory(small_disk: Path, tmp_path: Path) -> None:
    """With a folder in memory beside the full one, all processes still see all figures."""
    fill(small_disk)
    with Counting(small_disk, tmp_path) as one, Counting(small_disk, tmp_path) as other:
        assert one.count(50)[1:3] == [50, 0]
        assert other.count(50)[1:3] == [100, 0]


def test_the_next_process_goes_on_where_a_dead_one_stopped(small_disk: Path) -> None:
    """A process that is killed leaves its files to the next: its counts stay, no room is needed."""
    with Counting(small_disk, small_disk / "spare") as first:
        first.count(7)
        first.process.kill()
        first.process.wait()
    before = sorted(path.stat().st_ino for path in small_disk.iterdir())
    fill(small_disk)
    with Counting(small_disk, small_disk / "spare") as second:
        assert second.count(3)[:3] == [None, 10, 0]
    (small_disk / "filling").unlink()
    assert sorted(path.stat().st_ino for path in small_disk.iterdir()) == before


def test_without_descriptors(tmp_path: Path) -> None:
    """A process without descriptors left counts in memory, and says so in one line."""
    limits = (resource.RLIMIT_NOFILE, (4, 4))
    program = ON_A_FULL_DISK.replace(
        "metrics = Prom",
        f"import resource\nresource.setrlimit({limits[0]}, {limits[1]})\nmetrics = Prom",
    ).replace("metrics.samples()", "()")
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "spare")],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        input="100\n100\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout.count("metrics_folder_refuses") == 1
    assert "Too many open files" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr

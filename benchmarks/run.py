"""Measure, and write the figures as a table: ``python -m benchmarks.run [--quick] [--rounds N]``.

The worker of the proxy (or of nginx) has one core to itself, everything else the other ones.
Targets take turns in each round, so that a disturbance of the machine hits all of them. Each figure
is that of the best round: whatever else the machine does only ever makes it worse. Memory is that
of the worst.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

Figures = dict[str, dict[str, list[float]]]
_STREAMS = 50
_GAP_MS = 50
# What was recorded under full load is on its way to the store for a moment after it; that is work
# of the other cores, but here the clients have no others.
_SETTLE_SECONDS = 1.5
_ROWS = (
    ("requests/s, 32 connections", "rate", "{:,.0f}"),
    ("CPU per request, µs", "cpu_request", "{:.0f}"),
    ("latency p50, 1 connection, µs", "latency_50", "{:.0f}"),
    ("latency p99, 1 connection, µs", "latency_99", "{:.0f}"),
    ("events/s, 50 streams without gaps", "events_1", "{:,.0f}"),
    ("CPU per event without gaps, µs", "cpu_1", "{:.2f}"),
    ("the same, 100 events with each write: events/s", "events_100", "{:,.0f}"),
    ("CPU per event, 100 with each write, µs", "cpu_100", "{:.2f}"),
    ("delay p50, 50 paced streams, µs", "delay_50", "{:.0f}"),
    ("delay p99, 50 paced streams, µs", "delay_99", "{:.0f}"),
    ("CPU per event, 50 paced streams, µs", "cpu_paced", "{:.0f}"),
    ("memory for a stream of 5,000 events, MiB", "memory_stream", "{:.1f}"),
    ("memory for an upload of 32 MiB, MiB", "memory_upload", "{:.1f}"),
)


def main() -> int:
    """Run all measurements and print the table; returns the exit status."""
    options = _options()
    missing = [name for name in ("wrk", "nginx") if not _found(name)]
    if missing:
        print(f"needed and not here: {' '.join(missing)} (Debian: apt install nginx-light wrk)")
        return 2
    cores = sorted(os.sched_getaffinity(0))
    # Children inherit what is set here; the workers are pinned to the first core afterwards.
    os.sched_setaffinity(0, cores[1:] or cores)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with (
        tempfile.TemporaryDirectory(prefix="ccproxy-bench-") as folder,
        _targets(Path(folder), cores[0]) as targets,
    ):
        for number in range(options.rounds):
            for target, worker in targets:
                print(f"round {number + 1}: {target.name}", file=sys.stderr)
                _measure(target, worker, figures[target.name], quick=options.quick)
    _print_table(figures)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, rough figures")
    return parser.parse_args()


def _found(program: str) -> bool:
    return shutil.which(program) is not None or Path("/usr/sbin", program).exists()


@contextlib.contextmanager
def _targets(directory: Path, core: int) -> Iterator[list[tuple[client.Target, int | None]]]:
    with (
        servers.upstreams(directory) as direct,
        servers.nginx_proxy(directory, direct, core) as nginx,
        servers.hello(core) as hello,
        servers.obvious(direct, core) as obvious,
        servers.ccproxy(directory, direct, core) as proxy,
    ):
        yield [(direct, None), nginx, hello, obvious, proxy]


def _measure(
    target: client.Target, worker: int | None, found: dict[str, list[float]], *, quick: bool
) -> None:
    scale = 10 if quick else 1
    client.latencies(target, 50)  # opens what is opened once, fills what is cached
    _requests(target, worker, found, max(1, 5 // scale))
    time.sleep(_SETTLE_SECONDS)
    taken = client.latencies(target, 3000 // scale)
    found["latency_50"].append(_percentile(taken, 50) * 1e6)
    found["latency_99"].append(_percentile(taken, 99) * 1e6)
    if not target.stream_port:
        return
    for at_once in (1, 100):
        _flood(target, worker, found, 10_000 // scale, at_once)
    time.sleep(_SETTLE_SECONDS)
    _paced(target, worker, found, max(20, 120 // scale))
    if worker is not None:
        _memory(target, worker, found)


def _requests(
    target: client.Target, worker: int | None, found: dict[str, list[float]], seconds: int
) -> None:
    before = _used(worker)
    rate = client.requests_per_second(target, seconds)
    found["rate"].append(rate)
    found["cpu_request"].append((_used(worker) - before) / (rate * seconds) * 1e6)


def _flood(
    target: client.Target,
    worker: int | None,
    found: dict[str, list[float]],
    events: int,
    at_once: int,
) -> None:
    before = _used(worker)
    result = client.streams(target, _STREAMS, events, at_once=at_once)
    found[f"events_{at_once}"].append(result.events / result.seconds)
    found[f"cpu_{at_once}"].append((_used(worker) - before) / result.events * 1e6)


def _paced(
    target: client.Target, worker: int | None, found: dict[str, list[float]], events: int
) -> None:
    before = _used(worker)
    result = client.streams(target, _STREAMS, events, gap_ms=_GAP_MS)
    if len(result.delays) != result.events:
        raise RuntimeError(f"{target.name}: {len(result.delays)} events of {result.events}")
    found["delay_50"].append(_percentile(result.delays, 50) * 1e6)
    found["delay_99"].append(_percentile(result.delays, 99) * 1e6)
    found["cpu_paced"].append((_used(worker) - before) / result.events * 1e6)


def _memory(target: client.Target, worker: int, found: dict[str, list[float]]) -> None:
    with servers.MemoryWatch(worker) as watch:
        client.streams(target, 1, 5000)
    found["memory_stream"].append(watch.growth / (1 << 20))
    with servers.MemoryWatch(worker) as watch:
        client.upload(target, 32 << 20)
    found["memory_upload"].append(watch.growth / (1 << 20))


def _used(worker: int | None) -> float:
    return servers.cpu_seconds(worker) if worker is not None else 0.0


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _print_table(figures: Figures) -> None:
    names = list(figures)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"| | {' | '.join(names)} | ccproxy : nginx |")
    print(f"| --- |{' ---: |' * (len(names) + 1)}")
    for title, key, form in _ROWS:
        better = max if "/s" in title or "memory" in title else min
        best = {name: better(figures[name][key], default=0.0) for name in names}
        cells = [form.format(best[name]) if figures[name][key] else "" for name in names]
        ratio = f"{best['ccproxy'] / best['nginx']:.2f}" if best["nginx"] else ""
        print(f"| {title} | {' | '.join(cells)} | {ratio} |")


if __name__ == "__main__":
    sys.exit(main())

"""How long a scrape of ``/metrics`` keeps the other requests of a worker waiting."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from . import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCRAPES = 10
_ENDPOINTS = ("/v1/messages", "/v1/chat/completions", "/v1/responses", "/v1/embeddings")
_LONG_TURN_SECONDS = 0.0005

# Another process of the service: it counts each model and endpoint once, and stays.
_COUNTING = """
import sys
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.record import RequestRecord

metrics = PrometheusMetrics(max_models=1000)
for number in range(int(sys.argv[1])):
    for endpoint in sys.argv[2:]:
        record = RequestRecord("r", None, model=f"model-{number}", endpoint=endpoint, method="POST")
        record.status_code, record.tokens_input, record.tokens_output = 200, 5, 7
        record.duration_seconds, record.ttfb_ms, record.ttft_ms = 0.2, 5.0, 6.0
        record.streaming, record.cost_usd, record.service_type = True, 0.1, "proxy_service"
        metrics.observe(record)
        metrics.observe_gap(record, 0.1)
print(flush=True)
sys.stdin.read()
"""


def main() -> int:
    """Print, for each number of series, how long scrapes and the turns of the worker took."""
    parser = argparse.ArgumentParser(prog="benchmarks.scrape", description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    processes = parser.parse_args().processes
    print("| models x endpoints x processes | text, KiB | scrape p50, ms | longest turn, ms |")
    print("| --- | ---: | ---: | ---: |")
    for models, endpoints in ((20, 3), (100, 4)):
        size, taken, turn = _measured(models, _ENDPOINTS[:endpoints], processes)
        name = f"{models} x {endpoints} x {processes}"
        print(f"| {name} | {size >> 10:,} | {1000 * taken:.0f} | {1000 * turn:.1f} |")
    return 0


def _measured(models: int, endpoints: tuple[str, ...], processes: int) -> tuple[int, float, float]:
    """Return the size of the text, the median duration, and the longest turn. Bytes, seconds."""
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="ccproxy-bench-") as name:
        folder = Path(name)
        (folder / "figures").mkdir()
        environment = {
            **os.environ,
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "figures"),
            "OBSERVABILITY__METRICS_ENDPOINT_ENABLED": "true",
            "OBSERVABILITY__DUCKDB_PATH": str(folder / "metrics.duckdb"),
            "CCPROXY_WORKERS": "1",
            "HUB_WATCH": str(folder / "turns.jsonl"),
            "HUB_WATCH_SECONDS": str(_LONG_TURN_SECONDS),
        }
        config = str(servers.ROOT / "tests" / "watched_gunicorn.py")
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-c", config]
        command += ["-b", f"127.0.0.1:{port}", "wsgi:app"]
        with (
            _counting(environment, models, endpoints, processes),
            servers.started(
                command, port, cwd=servers.ROOT, env=environment, stderr=subprocess.DEVNULL
            ),
        ):
            return _scrapes(f"http://127.0.0.1:{port}/metrics", folder / "turns.jsonl")


@contextlib.contextmanager
def _counting(
    environment: dict[str, str], models: int, endpoints: tuple[str, ...], processes: int
) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            process = subprocess.Popen(
                [sys.executable, "-c", _COUNTING, str(models), *endpoints],
                env=environment,
                cwd=servers.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None  # noqa: S101  it is a pipe
            process.stdout.readline()
        yield


def _scrapes(url: str, turns: Path) -> tuple[int, float, float]:
    for _ in range(2):  # what is made once is made; the recorder is there
        _scrape(url)
        time.sleep(2)
    turns.write_text("")
    found = [_scrape(url) for _ in range(_SCRAPES)]
    longest = (json.loads(line)["seconds"] for line in turns.read_text().splitlines())
    size = max(size for size, _ in found)
    return size, statistics.median(taken for _, taken in found), max(longest, default=0.0)


def _scrape(url: str) -> tuple[int, float]:
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  our own server
        size = len(answer.read())
    return size, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

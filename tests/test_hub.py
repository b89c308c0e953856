"""Nothing keeps a worker computing: what may take long is done elsewhere, or gives others a turn.

The fixture `hub_is_free` looks at all servers of all tests; here are the cases that were the worst.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from conftest import Server
from scripted import ScriptedUpstream, wait_until

COUNTING = """
import sys
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.record import RequestRecord

metrics = PrometheusMetrics(max_models=1000)
for number in range(100):
    for endpoint in ("/v1/messages", "/v1/chat/completions", "/v1/responses", "other"):
        record = RequestRecord("r", None, model=f"model-{number}", endpoint=endpoint)
        record.method, record.status_code, record.tokens_input = "POST", 200, 5
        record.duration_seconds, record.ttfb_ms, record.service_type = 0.2, 5.0, "proxy_service"
        metrics.observe(record)
"""


READING_TO_NOBODY = """
from gevent import monkey
monkey.patch_all()
import gevent
from ccproxy_flask.proxy.body import RequestBody

class Endless:
    def read(self, size):
        return bytes(size)

turns = []

def others():
    while True:
        turns.append(1)
        gevent.sleep(0)

gevent.spawn(others)
body = RequestBody(Endless(), 1 << 30, 1 << 30, lambda piece: None)
body.begin()
body.discard()
print(len(turns))
"""


def test_watch_tells_what_holds_the_hub(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """With a limit that everything is over, the watch has something to tell: it can fail."""
    told = tmp_path / "held.jsonl"
    server = start_server(HUB_WATCH=str(told), HUB_WATCH_SECONDS="0.00001")
    assert server.request("GET", "/dashboard")[0] == 200

    wait_until(told.exists)
    line = json.loads(told.read_text().splitlines()[0])
    assert line["seconds"] > 0
    assert line["pid"] in server.worker_pids()


def test_body_that_nobody_takes_lets_others_run() -> None:
    """A gigabyte that is always there is read in many turns, and others have theirs between."""
    command = [sys.executable, "-c", READING_TO_NOBODY]
    turns = int(subprocess.run(command, capture_output=True, check=True, timeout=100).stdout)

    assert turns > 3


def test_scrape_of_many_series(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """400 series of each histogram and counter in four processes are scraped beside the hub."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    counting = [subprocess.Popen([sys.executable, "-c", COUNTING], env=env) for _ in range(4)]
    assert [process.wait(100) for process in counting] == [0] * 4
    server = start_server(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))

    for _ in range(2):
        status, _, text = server.request("GET", "/metrics", timeout=60)
        assert status == 200

    line = b'ccproxy_requests_total{endpoint="other",method="POST",model="model-99"'
    [found] = [each for each in text.splitlines() if each.startswith(line)]
    assert found.endswith(b" 4.0")


def test_traced_body_of_a_megabyte(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """A request and an answer of a megabyte each are traced beside the hub."""
    text = json.dumps({"content": "word " * 200_000}).encode()
    upstream.script = lambda talk: talk.answer(text)
    server = start_server(TRACING__FILE="true", TRACING__VERBOSE="true")

    assert server.request("POST", "/v1/messages", text)[2] == text

    folder = server.database.parent / "traces"
    wait_until(lambda: list(folder.rglob("*")))

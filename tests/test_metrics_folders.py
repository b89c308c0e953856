"""A folder of the metrics without room: the last thing that may stop a request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server
from disk_support import fill
from scripted import ScriptedUpstream, wait_until
from test_metrics import scrape, total

from ccproxy_flask import metrics_folders


def send(server: Server, count: int, model: str) -> None:
    """Send *count* requests; each must be answered."""
    for _ in range(count):
        body = b'{"model":"%s"}' % model.encode()
        assert server.request("POST", "/v1/chat/completions", body)[0] == 200


def kill_workers(server: Server) -> None:
    """Kill all workers, and wait until others serve in their place."""
    for pid in (old := server.worker_pids()):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(new := server.worker_pids()) == len(old) and not set(new) & set(old), 20)
    wait_until(server._answers, 20)  # noqa: SLF001  what `start` waits for too


@pytest.mark.parametrize("when", ["before the start", "while it runs"])
@pytest.mark.parametrize("folder", ["TMPDIR", "PROMETHEUS_MULTIPROC_DIR"])
def test_full_disk_stops_no_request(
    start_server: Callable[..., Server],
    upstream: ScriptedUpstream,
    small_disk: Path,
    folder: str,
    when: str,
) -> None:
    """With the folder of the metrics full all is passed on and counted, killed workers or not."""
    upstream.script = lambda talk: talk.answer(
        b'{"model":"m%d","usage":{"prompt_tokens":3,"completion_tokens":1}}' % len(upstream.seen)
    )
    if when == "before the start":
        fill(small_disk)
    server = start_server(workers=2, **{folder: str(small_disk)})
    fill(small_disk)
    workers = server.worker_pids()
    send(server, 60, "x")
    assert server.worker_pids() == workers
    # A request is counted after its answer: only then may its worker die.
    wait_until(lambda: total(scrape(server), "ccproxy_tokens_total", type="input") == 180)
    kill_workers(server)
    send(server, 60, "x")

    proxied = {"service_type": "proxy_service"}
    assert total(scrape(server), "ccproxy_requests_total", **proxied) == 120
    wait_until(lambda: total(scrape(server), "ccproxy_tokens_total", type="input") == 360)
    server.records(120)


def test_trouble_is_told_until_it_is_over(
    start_server: Callable[..., Server], upstream: ScriptedUpstream, small_disk: Path
) -> None:
    """One line of the log and `/logs/status` say that the folder has no room, and that it has."""
    fill(small_disk)
    server = start_server(workers=1, PROMETHEUS_MULTIPROC_DIR=str(small_disk))
    send(server, 20, "x")

    assert "No space left" in server.get_json("/logs/status")["metrics_trouble"]
    # By the worker, and by the recorder.
    wait_until(lambda: said(server, "metrics_folder_refuses") == 2)
    (small_disk / "filling").unlink()
    wait_until(lambda: server.get_json("/logs/status")["metrics_trouble"] is None)

    assert total(scrape(server), "ccproxy_metrics_unshared_series") == 0
    wait_until(lambda: scrape(server) and said(server, "metrics_folder_available") == 2)
    assert said(server, "metrics_folder_refuses") == 2


def said(server: Server, event: str) -> int:
    """Return how often the log has *event*."""
    return server.log_path.read_text().count(event)


def test_folder_is_made_where_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    """The default folder is under the temporary one; in memory where that is small or full."""
    program = "from ccproxy_flask import metrics_folders as m; print(m.make_folder())"

    def made(temporary: Path) -> Path:
        told = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(told.stdout.strip())

    in_memory, on_disk = made(small_disk), made(tmp_path)
    assert in_memory.parent == metrics_folders.IN_MEMORY
    assert on_disk.parent == tmp_path
    assert in_memory.stat().st_mode & 0o777 == on_disk.stat().st_mode & 0o777 == 0o700
    made(tmp_path)
    assert not on_disk.exists(), "its process is dead"
    for folder in (in_memory, on_disk):
        metrics_folders.remove_folders(str(folder))
        assert not folder.exists()

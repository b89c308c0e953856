"""Disks that are full, small or read-only: requests are passed on, and every one is accounted for.

Accepted = stored + waiting + dropped, in the status, in the metrics, and after a restart.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from recording_support import mounted
from scripted import ScriptedUpstream, wait_until

from ccproxy_flask.journal.ledger import spare_directory
from ccproxy_flask.journal.segments import list_segments

MESSAGE = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'
REQUESTS = 60
PLACES = ("journal", "database", "metrics", "temporary")


class Disks:
    """A file system for each of some of the places where a server writes."""

    def __init__(self, home: Path, broken: tuple[str, ...], stack: ExitStack) -> None:
        self.broken = broken
        self.paths = {name: home / name for name in PLACES}
        for name, path in self.paths.items():
            if name in broken:
                stack.enter_context(mounted(path, "6m"))
            else:
                path.mkdir()

    @property
    def env(self) -> dict[str, str]:
        """What puts a server's files there."""
        return {
            "JOURNAL__DIRECTORY": str(self.paths["journal"] / "journal"),
            "OBSERVABILITY__DUCKDB_PATH": str(self.paths["database"] / "metrics.duckdb"),
            "PROMETHEUS_MULTIPROC_DIR": str(self.paths["metrics"]),
            "TMPDIR": str(self.paths["temporary"]),
            "JOURNAL__MIN_FREE_BYTES": "0",
        }

    def fill(self) -> None:
        """Leave no byte free."""
        for name in self.broken:
            # Without a buffer: what it holds would be written again at the close.
            with (self.paths[name] / "ballast").open("wb", buffering=0) as file:
                size = 1 << 20
                while size:
                    try:
                        file.write(b"x" * size)
                    except OSError:
                        size //= 2

    def free(self) -> None:
        """Make room again."""
        for name in self.broken:
            (self.paths[name] / "ballast").unlink(missing_ok=True)

    def mount(self, options: str) -> None:
        """Change what may be done there."""
        for name in self.broken:
            place = str(self.paths[name])
            subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is undone at the end, after the servers have stopped."""
    with ExitStack() as stack:
        yield stack


def send(server: Server, count: int = REQUESTS) -> None:
    """Send requests, four at a time; each has to be answered as the upstream did."""

    def one(_number: int) -> int:
        return server.request("POST", "/v1/messages", MESSAGE)[0]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(count))) == {200}


def ledger(server: Server) -> dict[str, Any]:
    """Return rows, what waits, and what was dropped, as one of the workers tells."""
    found: dict[str, Any] = server.get_json("/logs/status")
    return found


def metric(server: Server) -> dict[str, int]:
    """Return what the metrics say was dropped, by reason."""
    text = server.request("GET", "/metrics")[2].decode()
    found = re.findall(r'ccproxy_records_dropped_total\{reason="(\w+)"\} ([0-9.e+]+)', text)
    return {reason: int(float(value)) for reason, value in found}


def is_settled(server: Server, accepted: int) -> bool:
    """Tell whether each request is a row or counted, and none waits."""
    found = ledger(server)
    if found["rows"] is None or found["backlog_bytes"] or found["backlog_lines"]:
        return False
    return found["rows"] + sum(found["dropped"].values()) == accepted


def settled(server: Server, accepted: int) -> dict[str, Any]:
    """Wait until that is so, and return the status."""
    try:
        wait_until(lambda: is_settled(server, accepted), 20)
    except AssertionError:
        pytest.fail(f"{accepted} accepted, {ledger(server)}")
    return ledger(server)


_LONG = pytest.mark.skipif("EVERY_DISK" not in os.environ, reason="a minute more: EVERY_DISK=1")
CASES = [
    pytest.param(broken, marks=() if broken in (("journal",), PLACES) else _LONG)
    for broken in (("journal",), ("database",), ("metrics",), ("temporary",), PLACES)
]


@pytest.mark.parametrize("broken", CASES, ids="+".join)
def test_full_while_it_runs(
    tmp_path: Path,
    stack: ExitStack,
    upstream: ScriptedUpstream,
    start_server: Callable[..., Server],
    broken: tuple[str, ...],
) -> None:
    """Nothing is refused while a disk is full, and a killed worker's requests count for good."""
    disks = Disks(tmp_path, broken, stack)
    server = start_server(workers=2, **disks.env)
    send(server, 20)
    settled(server, 20)
    disks.fill()
    send(server)
    kill_one_worker(server)
    send(server)
    accepted = 20 + 2 * REQUESTS
    disks.free()
    found = settled(server, accepted)
    assert metric(server) == found["dropped"]
    assert_same_after_restart(start_server, disks, server, found)


def kill_one_worker(server: Server) -> None:
    """Kill a worker without a warning, and wait for the next one."""
    before = server.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(set(server.worker_pids()) - {before[0]}) == len(before), 20)


def assert_same_after_restart(
    start_server: Callable[..., Server], disks: Disks, server: Server, before: dict[str, Any]
) -> None:
    """The next server knows the same rows and the same count."""
    server.stop()
    after = settled(
        start_server(workers=1, **disks.env), before["rows"] + sum(before["dropped"].values())
    )
    assert (after["rows"], after["dropped"]) == (before["rows"], before["dropped"])


@pytest.mark.parametrize("broken", CASES, ids="+".join)
def test_read_only_from_the_start(
    tmp_path: Path,
    stack: ExitStack,
    upstream: ScriptedUpstream,
    start_server: Callable[..., Server],
    broken: tuple[str, ...],
) -> None:
    """A server whose disk is read-only passes requests on; what dies unwritten is counted."""
    disks = Disks(tmp_path, broken, stack)
    disks.mount("ro")
    server = start_server(workers=2, **disks.env)
    send(server)
    kill_one_worker(server)
    send(server)
    accepted = 2 * REQUESTS
    if "journal" in broken:
        found = ledger(server)
        assert found["status"] == "unavailable"
        assert found["backlog_lines"] + sum(found["dropped"].values()) == accepted
    server.stop()
    disks.mount("rw")
    server = start_server(workers=2, **disks.env)
    found = settled(server, accepted)
    if "journal" not in broken:
        assert found["dropped"] == {}
    wait_until(lambda: not spare_directory(disks.paths["journal"] / "journal").exists())


def test_small_journal_under_load(
    tmp_path: Path, upstream: ScriptedUpstream, start_server: Callable[..., Server]
) -> None:
    """A journal of a megabyte stays near that size, takes records again, and all is counted."""
    server = start_server(workers=2, JOURNAL__MAX_BYTES=str(1 << 20), LOGGING__ACCESS_LOG="false")
    send(server, 1500)
    found = settled(server, 1500)
    wait_until(lambda: ledger(server)["status"] == "healthy")
    assert metric(server) == found["dropped"]
    segments = list_segments(server.database.parent / "journal")
    assert sum(segment.size for segment in segments) < 2 << 20

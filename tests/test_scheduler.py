"""What is done at intervals, in one place, whatever goes wrong with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Server
from scripted import ScriptedUpstream, wait_until

from ccproxy_flask.errors import SettingsError
from ccproxy_flask.scheduler import Scheduler, Task, pause
from ccproxy_flask.settings import load_settings

MIDDLE = 0.5


def test_pause_doubles_up_to_the_backoff() -> None:
    """Each failure in a row doubles the wait, up to the longest; a success ends it."""
    task = Task("task", lambda: True, 60, 300)

    assert [pause(task, failures, MIDDLE) for failures in range(5)] == [60, 120, 240, 300, 300]
    assert pause(task, 100_000, MIDDLE) == 300


def test_pause_is_never_below_the_interval() -> None:
    """A longest backoff below the interval does not make failures faster."""
    task = Task("task", lambda: True, 600, 300)

    assert [pause(task, failures, MIDDLE) for failures in range(3)] == [600, 600, 600]


def test_pause_is_spread() -> None:
    """Chance makes a wait up to a tenth shorter or longer."""
    task = Task("task", lambda: True, 100, 0)

    assert [pause(task, 0, chance) for chance in (0.0, 0.5, 1.0)] == pytest.approx([90, 100, 110])


def test_tasks_do_not_hold_each_other_up() -> None:
    """A task that hangs leaves the others, and the end, alone."""
    hanging, ran = threading.Event(), threading.Semaphore(0)

    def hang() -> bool:
        return hanging.wait(30)

    def count() -> bool:
        ran.release()
        return True

    scheduler = Scheduler([Task("hangs", hang, 0.01), Task("runs", count, 0.01)])
    scheduler.start()
    assert all(ran.acquire(timeout=5) for _ in range(5))
    began = time.monotonic()
    scheduler.close(0.2)
    assert time.monotonic() - began < 20
    hanging.set()


def test_defect_of_a_task_does_not_end_it() -> None:
    """A task that raises is run again."""
    ran = threading.Semaphore(0)

    def fail() -> bool:
        ran.release()
        raise ZeroDivisionError

    scheduler = Scheduler([Task("fails", fail, 0.01, 0.02)])
    scheduler.start()
    assert all(ran.acquire(timeout=5) for _ in range(3))
    scheduler.close()


def test_tasks_run_once_more_at_the_end() -> None:
    """What came since the last interval is not left out; a task that failed is not tried."""
    ran: list[str] = []
    scheduler = Scheduler([Task("last", lambda: not ran.append("last"), 3600)])
    scheduler.start()
    scheduler.close(5)
    assert ran == ["last"]


def test_push_without_url_is_refused() -> None:
    """Pushes that have nowhere to go stop the start with one line."""
    with pytest.raises(SettingsError, match="needs OBSERVABILITY__PUSHGATEWAY_URL"):
        load_settings({"SCHEDULER__PUSHGATEWAY_ENABLED": "true"}, Path("/nonexistent"))


def start_alone(home: Path, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
    """Start the scheduler as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if "__" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "ccproxy_flask.scheduler", *arguments],
        cwd=home,
        env={**kept, "PYTHONPATH": str(ROOT), **env},
        stderr=subprocess.PIPE,
    )


def pushing(home: Path, url: str) -> dict[str, str]:
    """Return the environment of a process that pushes to *url* often."""
    folder = home / "figures"
    folder.mkdir(exist_ok=True)
    return {
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "OBSERVABILITY__PUSHGATEWAY_URL": url,
        "SCHEDULER__PUSHGATEWAY_ENABLED": "true",
        "SCHEDULER__PUSHGATEWAY_INTERVAL_SECONDS": "0.05",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_of_its_own_ends_by_signal(
    tmp_path: Path, upstream: ScriptedUpstream, number: signal.Signals
) -> None:
    """Where nothing is recorded a process of its own pushes, until it is told to end."""
    process = start_alone(tmp_path, **pushing(tmp_path, upstream.url))
    wait_until(lambda: len(upstream.seen) >= 2)
    process.send_signal(number)

    assert process.communicate(timeout=5)[1] == b""
    assert process.returncode == 0


def test_process_of_its_own_dies_with_its_parent(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """A parent that is gone takes the process with it, also while a push hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = start_alone(tmp_path, "--parent", "1", **pushing(tmp_path, url))
        assert process.wait(10) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_wrong_setting_is_one_line(tmp_path: Path) -> None:
    """A process that cannot start says why in one line."""
    process = start_alone(tmp_path, SCHEDULER__PUSHGATEWAY_ENABLED="maybe")

    told = process.communicate(timeout=10)[1].decode()
    assert process.returncode == 2
    assert told == (
        "ccproxy_flask.scheduler: SCHEDULER__PUSHGATEWAY_ENABLED: must be true or false\n"
    )


def test_figures_of_one_process_alone_are_not_pushed(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """A process that does not share the workers' figures says so, and pushes nothing."""
    env = pushing(tmp_path, upstream.url)
    del env["PROMETHEUS_MULTIPROC_DIR"]
    process = start_alone(tmp_path, **env)
    assert process.stderr is not None
    assert b"scheduler_off" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=5)
    assert upstream.seen == []


@pytest.mark.slow
def test_recorder_that_comes_back_goes_on_pushing(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """After a kill -9 of the process that pushes, another pushes, and there is still one."""
    upstream.script = lambda talk: talk.answer(b"{}")
    options: dict[str, Any] = {
        "OBSERVABILITY__PUSHGATEWAY_URL": f"{upstream.url}",
        "SCHEDULER__PUSHGATEWAY_ENABLED": "true",
        "SCHEDULER__PUSHGATEWAY_INTERVAL_SECONDS": "0.1",
    }
    server = start_server(workers=2, **options)
    wait_until(lambda: upstream.seen)
    [before] = server.recorder_pids()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: server.recorder_pids() not in ([], [before]))
    upstream.reset()

    wait_until(lambda: len(upstream.seen) >= 3)

    assert len(server.recorder_pids()) == 1
    assert {seen.line for seen in upstream.seen} == {upstream.seen[0].line}

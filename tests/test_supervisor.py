"""The supervisor in a process that forks, as gunicorn's arbiter does. More in test_recorder.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

# Prints how often the supervisor came to know of a process that it started.
FORKING = """
import os, signal, sys, time
from ccproxy_flask.recorder.supervisor import Supervisor

def fork():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid

supervisor, known = Supervisor([sys.executable, "-c", "import time; time.sleep(60)"]), 0
supervisor.start()
for _ in range(10):
    children = [fork() for _ in range(4)]
    deadline = time.monotonic() + 5
    while (process := supervisor.pid) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if process is None:
        break
    known += 1
    os.kill(process, signal.SIGKILL)
    while supervisor.pid == process:
        time.sleep(0.001)
supervisor.stop()
print(known)
"""


@pytest.mark.slow
def test_workers_forked_meanwhile_do_not_hold_it_up() -> None:
    """Whatever is forked while it starts its process, it knows at once that the process runs."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("10\n", "")

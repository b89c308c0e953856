"""Flask's own server: it records as gunicorn does, with a recorder of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Server
from scripted import ScriptedUpstream, wait_until

MESSAGE = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'


class FlaskServer(Server):
    """The same application under ``flask run``."""

    def start(self) -> FlaskServer:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", "run", "--port", str(self.port)],
            cwd=self.home,
            env=self.env,
            stdout=self.log,
            stderr=self.log,
        )
        wait_until(self._answers, 20)
        return self


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_flask_run_records(tmp_path: Path, upstream: ScriptedUpstream, number: int) -> None:
    """A request gets its row, the status is healthy, and no process stays behind."""
    server = FlaskServer(tmp_path, upstream.url).start()
    assert server.process is not None
    try:
        server.request("POST", "/v1/messages", MESSAGE)
        server.records(1)
        assert server.get_json("/logs/status")["status"] == "healthy"
        [recorder] = server.recorder_pids()
    finally:
        server.process.send_signal(number)
        server.process.wait(15)
        server.log.close()
    wait_until(lambda: not Path(f"/proc/{recorder}/cmdline").exists() or is_over(recorder), 5)


def is_over(pid: int) -> bool:
    """Tell whether a process has ended, and waits for nobody but its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_other_commands_start_no_recorder(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """``flask routes`` and the like only look at the application."""
    server = FlaskServer(tmp_path, upstream.url)
    server.log.close()
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "routes"],
        cwd=tmp_path,
        env=server.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/logs/status" in done.stdout
    assert not (server.database.parent / "journal" / "recorder.lock").exists()

"""One load of the settings for the whole server: workers, recorder, reloads; and busy ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Server, free_port
from scripted import wait_until

from ccproxy_flask.listening import CannotListen, refuse_taken

BODY = b'{"model":"gpt-4o-mini"}'
TOKEN = "reload-canary-0123456789"  # noqa: S105  of a server that lives for seconds


BASE = f"[proxy]\nmax_body_bytes = 4\n[security]\nauth_token = '{TOKEN}'\n"


@pytest.fixture(scope="module")
def with_file(tmp_path_factory, shared_upstream):
    """A server whose limits come from a file."""
    server = Server(tmp_path_factory.mktemp("edited"), shared_upstream.url, workers=1)
    write(server, BASE)
    yield server.start()
    server.stop()


@pytest.fixture
def edited(with_file) -> Server:
    """The same, its file as at the start; a test may edit it."""
    write(with_file, BASE)
    return with_file


def write(server: Server, text: str) -> None:
    (server.home / "ccproxy.toml").write_text(text)


def status_of(server: Server) -> int:
    return server.request("POST", "/v1/chat/completions", BODY)[0]


def kill_all(server: Server) -> None:
    """Kill worker and recorder, and wait for those that come in their place."""
    before = server.worker_pids() + server.recorder_pids()
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(server.worker_pids()) - set(before))
    wait_until(lambda: set(server.recorder_pids()) - set(before))


def said(server: Server, text: str) -> list[str]:
    return [line for line in server.log_path.read_text().splitlines() if text in line]


def test_edited_file_counts_for_nobody_until_a_reload(edited):
    """Processes that crash come back with the settings of the start; a wrong file is no matter."""
    assert status_of(edited) == 413
    write(
        edited, "[observability]\nduckdb_path = '/nowhere/x.duckdb'\n[proxy]\nmax_body_bytes = 'x'"
    )
    kill_all(edited)
    wait_until(lambda: status_of(edited) == 413)
    assert edited.process.poll() is None
    token = {"authorization": f"Bearer {TOKEN}"}
    wait_until(lambda: edited.request("GET", "/logs/query", headers=token)[0] == 200)
    told = json.loads(edited.request("GET", "/logs/status", headers=token)[2])
    assert told["path"] == str(edited.database)


def test_settings_are_handed_on_in_private(edited):
    """Neither command line nor environment of the recorder has what the file says in secret."""
    wait_until(edited.recorder_pids)
    for pid in edited.recorder_pids():
        for name in ("cmdline", "environ"):
            assert TOKEN.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_reload_loads_anew_or_goes_on(edited):
    """SIGHUP refuses a wrong file in one line; a right one counts for all processes."""
    process = edited.process
    for text, told in (
        ("[proxy]\nmax_body_bytes = 'x'\n", "PROXY__MAX_BODY_BYTES (in ccproxy.toml): must be a"),
        ("[journal]\ndirectory = '/elsewhere'\n", "JOURNAL__DIRECTORY cannot change while"),
    ):
        write(edited, text)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda told=told: said(edited, told))
        [line] = said(edited, told)
        assert line.startswith("ccproxy_flask: not reloaded, the settings stay as they were: ")
        assert status_of(edited) == 413

    recorder = edited.recorder_pids()
    write(edited, "[proxy]\nmax_body_bytes = 400\n")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: status_of(edited) == 200)
    wait_until(lambda: edited.recorder_pids() and edited.recorder_pids() != recorder)
    write(edited, "no TOML")
    kill_all(edited)
    wait_until(lambda: status_of(edited) == 200)
    assert process.poll() is None
    assert said(edited, "Traceback") == []
    write(edited, BASE)
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: status_of(edited) == 413)


# -- busy ports --------------------------------------------------------------------------------


def test_busy_port_is_one_line(tmp_path):
    """A port that is taken ends the start at once: who has it, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "ccproxy_flask.cli", "serve", "--port", str(port)],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"ccproxy_flask: cannot listen on 127.0.0.1:{port}: the port is in use")
    assert f"(process {os.getpid()})" in line
    assert "ccproxy-flask serve --port " in line


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (("192.0.2.1", 8000), "this machine has no such address. Check CCPROXY_HOST"),
        (("no.such.host.invalid", 8000), "Check CCPROXY_HOST and CCPROXY_PORT"),
    ],
)
def test_address_that_cannot_be_had_is_told(address, told):
    """Every reason not to listen names the address and the setting to look at."""
    with pytest.raises(CannotListen) as refused:
        refuse_taken([address])
    assert str(refused.value).startswith(f"cannot listen on {address[0]}:8000: ")
    assert told in str(refused.value)


def test_free_addresses_and_other_listeners_are_no_matter():
    """A free port, a unix socket and an inherited descriptor are not refused."""
    refuse_taken([("127.0.0.1", free_port()), ("::1", free_port(), 0, 0), "/tmp/x.sock", 3])  # noqa: S108  not made

"""What is kept is for its user alone: the modes of all files and folders, whatever the umask."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server
from scripted import ScriptedUpstream, wait_until
from test_flask_run import FlaskServer

MESSAGE = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'
# Where a ledger goes that has no room, and the sockets whose path would be too long.
SPARE = (Path("/dev/shm"), Path("/tmp"))  # noqa: S108


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Let who starts the server hide nothing from others."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("kind", [Server, FlaskServer], ids=["gunicorn", "flask run"])
@pytest.mark.usefixtures("no_umask")
def test_others_can_read_nothing(
    tmp_path: Path, upstream: ScriptedUpstream, kind: type[Server]
) -> None:
    """Each file and folder that a server makes is 0600 or 0700, also with a umask of 0."""
    server = kind(tmp_path, upstream.url, 1, **homes(tmp_path), TRACING__FILE="true")
    before = set(tmp_path.rglob("*")) | set(elsewhere())
    server.start()
    try:
        server.request("POST", "/v1/messages", MESSAGE)
        server.records(1, content="kept")
        for path in ("/metrics", "/logs/export?format=parquet", "/logs/export?format=csv"):
            assert server.request("GET", path)[0] == 200
        wait_until(lambda: list(tmp_path.rglob("*.sqlite-shm")), 10)
        made = [path for path in (*tmp_path.rglob("*"), *elsewhere()) if path not in before]
        open_to_others = [f"{path} {mode:o}" for path in made if (mode := shared(path))]
    finally:
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        server.process.wait(15)
        server.log.close()
    assert open_to_others == []
    kinds = {path.suffix for path in made}
    assert {".sqlite", ".sqlite-wal", ".ndjson", ".ledger", ".duckdb", ".sock", ".http"} <= kinds


def elsewhere() -> list[Path]:
    """Return what servers made outside of their own folders."""
    found: list[Path] = []
    for folder in SPARE:
        for place in folder.glob("ccproxy*"):
            if place.name.startswith("ccproxy-test-"):  # of tests that run beside this one
                continue
            with contextlib.suppress(OSError):  # no folder, or gone meanwhile
                found += place.iterdir()
    return found


def homes(home: Path) -> dict[str, str]:
    """Return the settings of folders of which none is there yet."""
    (home / "tmp").mkdir()
    data = home / "new" / "folder"
    return {"OBSERVABILITY__DUCKDB_PATH": str(data / "m.duckdb"), "TMPDIR": str(home / "tmp")}


def shared(path: Path) -> int:
    """Return the mode of *path* where others may use it, else 0."""
    try:
        mode = stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:  # temporary
        return 0
    return mode if mode & 0o077 else 0

"""A PostgreSQL of Debian's for the tests of a lake, and the settings of nodes that share one."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import free_port
from recording_support import recording_settings
from scripted import wait_until

from ccproxy_flask.settings import Settings

USER = "ccproxy"


class Cluster:
    """A running PostgreSQL in *home*, of this test process alone; anybody local may connect."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self._bin = newest_postgres()
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
            self._as_user = ["setpriv", f"--reuid={nobody.pw_uid}", "--clear-groups"]
        self._run(
            "initdb", "-D", "data", "-U", USER, "-A", "trust", "-N", "--no-locale", "-E", "UTF8"
        )
        self.process = self.start()

    def _command(self, program: str, *argv: str) -> list[str]:
        return [*self._as_user, str(self._bin / program), *argv]

    def _run(self, program: str, *argv: str) -> None:
        done = subprocess.run(
            self._command(program, *argv), cwd=self.home, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it answers."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        with (self.home / "log").open("ab") as output:
            self.process = subprocess.Popen(
                self._command("postgres", "-D", "data", *given),
                cwd=self.home,
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, 30)
        return self.process

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            psycopg.connect(self.address("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it at once, as if its machine had lost its power."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """It takes connections and answers nothing, for the length of the block."""
        found = self._processes()
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in found:
                os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def address(self, database: str) -> str:
        """Return the connection string of a database."""
        return f"host=127.0.0.1 port={self.port} user={USER} dbname={database}"

    def new_database(self) -> str:
        """Return the connection string of a new, empty database."""
        name = f"lake_{secrets.token_hex(4)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)


def newest_postgres() -> Path:
    """Return where Debian keeps the server's programs, of the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.environ.get("CI") != "true":
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    assert found, "PostgreSQL is not installed (Debian's package postgresql)"
    return found[-1].parent


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One PostgreSQL for all tests of this process."""
    home = Path("/tmp") / f"ccproxy-test-{secrets.token_hex(4)}"  # noqa: S108  pytest's are root's alone
    home.mkdir(mode=0o700)
    try:
        found = Cluster(home)
        yield found
        found.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def lake_sections(catalog: str, data: Path | str, node: str, **more: str) -> dict[str, Any]:
    """Return the settings of a node's records in the lake with this catalogue and data."""
    return {
        "log_storage_backend": "ducklake",
        "node": node,
        "lake": {"catalog": catalog, "data": str(data), **more},
    }


def lake_settings(
    home: Path, catalog: str, data: Path | str, node: str = "one", **more: str
) -> Settings:
    """Return the settings of a node with everything else under *home*."""
    settings = recording_settings(home, observability=lake_sections(catalog, data, node, **more))
    settings.journal_directory.mkdir(parents=True, exist_ok=True)
    return settings

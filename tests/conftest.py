"""Shared fixtures: a scripted upstream, and the real server in front of it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import launcher
import pytest
from scripted import ScriptedUpstream, wait_until

pytest_plugins = ["disk_support"]

ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = ROOT.parent / "shared" / "recordings" / "exchanges"


def free_port() -> int:
    """Return a port nobody listens on, of those that the system gives to nobody by itself.

    So it stays free until a server takes it, also where tests run beside each other.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_000)  # not seeded, as `random` is by some tests
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


# What takes longest, first: else one process would still be at it when the others have ended.
LONG = (
    *("openapi", "recordings_replay", "dashboard_browser", "recorder", "survival", "disk_full"),
    *("stream", "proxy", "parts", "logs_questions", "cli", "canary", "behind_proxies", "ingest"),
    *("store", "wire", "dashboard", "dashboard_sessions", "pushgateway", "metrics_folders"),
    *("exchange_capture", "content_wire", "hub", "serving", "cross_site", "tree", "upstream"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of LONG first."""
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case with long bytes by its argument: compressed bytes hold the time, for one.

    Tests that run beside each other must have the same names in each process (pytest-xdist).
    """
    return argname if isinstance(val, bytes) and len(val) > 20 else None


@functools.cache
def hub_watch() -> Path:
    """Return the file in which servers under test say that their hub was held."""
    return Path(tempfile.mkdtemp(prefix="hub-watch-"), "held.jsonl")


@pytest.fixture(autouse=True)
def hub_is_free() -> Iterator[None]:
    """No worker computes for over 60 ms without giving others their turn, in any test."""
    seen = hub_watch().stat().st_size if hub_watch().exists() else 0
    yield
    if hub_watch().exists() and hub_watch().stat().st_size > seen:
        with hub_watch().open("rb") as file:
            file.seek(seen)
            pytest.fail(f"the hub was held:\n{file.read().decode()}")


class Server:
    """A gunicorn process with everything switched on, and questions to ask of it."""

    def __init__(self, home: Path, upstream_url: str, workers: int = 2, **env: str) -> None:
        self.home, self.port = home, free_port()
        self.log_path = home / "server.log"
        self.database = home / "data" / "metrics.duckdb"
        settings = {
            "CCPROXY_PORT": str(self.port),
            "CCPROXY_WORKERS": str(workers),
            "OBSERVABILITY__DUCKDB_PATH": str(self.database),
            "CAPTURE__CONTENT": "on",
            **{
                f"OBSERVABILITY__{name}": "true"
                for name in (
                    "METRICS_ENDPOINT_ENABLED",
                    "LOGS_ENDPOINTS_ENABLED",
                    "LOGS_COLLECTION_ENABLED",
                    "DASHBOARD_ENABLED",
                )
            },
            **{
                f"PROVIDERS__{name}__BASE_URL": upstream_url
                for name in ("ANTHROPIC", "OPENAI", "GEMINI", "OLLAMA", "OPENROUTER")
            },
            **env,
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if "__" not in name and not name.startswith(("CCPROXY_", "PROMETHEUS_"))
        }
        watched = {"HUB_WATCH": str(hub_watch())}
        self.env = {**watched, **inherited, **settings, "PYTHONPATH": str(ROOT)}
        self.log = self.log_path.open("ab")
        self.process: launcher.Program | None = None

    def start(self) -> Server:
        """Start it in a folder without settings files, and wait until it answers."""
        self.process = launcher.start(
            *("gunicorn", "-k", "gevent"),
            *("-c", str(ROOT / "tests" / "watched_gunicorn.py"), "wsgi:app"),
            cwd=self.home,
            env=self.env,
            stdout=self.log,
            stderr=self.log,
        )
        wait_until(self._answers, 60)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.log_path.read_text()[-3000:]}")
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False

    def stop(self, seconds: float = 15) -> int:
        """Stop it the friendly way, and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
                raise
        self.log.close()
        return self.process.returncode

    def stop_soon(self) -> None:
        """Ask it to stop, and let it do so beside the next tests; `servers_stop` waits for it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            _STOPPING.append(self)
        self.log.close()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a connection of its own: (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            connection.close()

    def get_json(self, path: str, **query: Any) -> Any:
        """Return the JSON at one of our own pages."""
        status, _, body = self.request("GET", f"{path}?{urlencode(query)}" if query else path)
        assert status == 200, (status, body[:500])
        return json.loads(body)

    def records(self, count: int = 1, seconds: float = 30, **query: Any) -> list[dict[str, Any]]:
        """Wait for *count* records and return them, oldest first."""

        def found() -> list[dict[str, Any]] | None:
            if self.request("GET", "/logs/query?limit=1")[0] == 503:
                return None  # the recorder is still starting
            rows = self.get_json("/logs/query", limit=10000, **query)["results"]
            return rows if len(rows) >= count else None

        try:
            rows = wait_until(found, seconds)
        except AssertionError:
            rows = self.get_json("/logs/query", limit=10000, **query)["results"]
        assert isinstance(rows, list)
        assert len(rows) == count, [row["request_id"] for row in rows]
        return rows[::-1]

    def pids(self, is_meant: Callable[[str], bool]) -> list[int]:
        """Return the ids of the server's living children whose command line is meant."""
        assert self.process is not None
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has just ended
                continue
            if int(parent) == self.process.pid and state != "Z" and is_meant(line):
                found.append(int(folder.name))
        return sorted(found)

    def worker_pids(self) -> list[int]:
        """Return the ids of the workers: they are forked, and have the server's command line."""
        assert self.process is not None
        own = Path(f"/proc/{self.process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return self.pids(lambda line: line == own)

    def recorder_pids(self) -> list[int]:
        """Return the id of the recorder."""
        return self.pids(lambda line: "-m ccproxy_flask.recorder " in line)


_STOPPING: list[Server] = []


@pytest.fixture(scope="session", autouse=True)
def servers_stop() -> Iterator[None]:
    """Each server that was asked to stop has ended after the tests."""
    yield
    for server in _STOPPING:
        server.stop(60)
    launcher.close()


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[ScriptedUpstream]:
    """One scripted upstream for all tests."""
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[Server]:
    """One server with two workers for all tests that do not hurt it."""
    server = Server(tmp_path_factory.mktemp("server"), shared_upstream.url).start()
    yield server
    server.stop()


@pytest.fixture
def upstream(shared_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """The shared upstream, with a clean memory."""
    shared_upstream.reset()
    return shared_upstream


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The shared server, without records."""
    deadline = time.monotonic() + 5
    while True:
        status, _, body = shared_server.request("POST", "/logs/reset")
        if status == 200:
            return shared_server
        assert time.monotonic() < deadline, body


@pytest.fixture
def start_server(tmp_path: Path, upstream: ScriptedUpstream) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server of the test's own: ``start_server(workers=1, …)``."""
    started: list[Server] = []

    def start(workers: int = 1, upstream_url: str | None = None, **env: str) -> Server:
        home = tmp_path / f"server-{len(started)}"
        home.mkdir()
        server = Server(home, upstream_url or upstream.url, workers, **env)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop_soon()

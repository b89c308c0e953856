"""The programs that are measured: started, pinned to their core, watched, stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .client import Target, latencies
from .upstream import JSON

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
_START_SECONDS = 120
_TICKS = os.sysconf("SC_CLK_TCK")
_PATH = "/v1/chat/completions"
GUNICORN = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1"]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(command: list[str], port: int, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* until the end of the block, once it listens on *port*."""
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]  # what Popen takes
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def upstreams(directory: Path) -> Iterator[Target]:
    """Run both upstreams; the target is the way to reach them directly."""
    json_port, stream_port = free_port(), free_port()
    conf = _rendered("nginx-upstream.conf", directory, json_port=json_port, answer=JSON.decode())
    command = [sys.executable, "-m", "benchmarks.upstream", str(stream_port)]
    with (
        started(_nginx(conf, directory), json_port),
        started(command, stream_port, cwd=ROOT),
    ):
        yield Target("direct", json_port, stream_port, _PATH, _PATH)


@contextlib.contextmanager
def nginx_proxy(directory: Path, direct: Target, core: int) -> Iterator[tuple[Target, int]]:
    """Run nginx as a proxy on *core*; gives the target and the pid of its worker."""
    port = free_port()
    conf = _rendered(
        "nginx-proxy.conf",
        directory,
        json_port=direct.json_port,
        stream_port=direct.stream_port,
        proxy_port=port,
    )
    with started(_nginx(conf, directory), port) as nginx:
        [worker] = children(nginx.pid)
        pin(worker, core)
        yield Target("nginx", port, port, f"/json{_PATH}", f"/stream{_PATH}"), worker


@contextlib.contextmanager
def hello(core: int) -> Iterator[tuple[Target, int]]:
    """Run a Flask application that does nothing, on *core*; there are no streams of it."""
    port = free_port()
    command = [*GUNICORN, "-b", f"127.0.0.1:{port}", "-c", os.devnull, "benchmarks.hello:app"]
    with started(command, port, cwd=ROOT, stderr=subprocess.DEVNULL) as arbiter:
        [worker] = children(arbiter.pid)
        pin(worker, core)
        yield Target("Flask, hello", port, 0, "/", ""), worker


@contextlib.contextmanager
def obvious(direct: Target, core: int) -> Iterator[tuple[Target, int]]:
    """Run the proxy of ``benchmarks.obvious`` on *core*."""
    port = free_port()
    ports = {"json": str(direct.json_port), "stream": str(direct.stream_port)}
    command = [*GUNICORN, "-b", f"127.0.0.1:{port}", "-c", os.devnull, "benchmarks.obvious:app"]
    with started(
        command, port, cwd=ROOT, env=os.environ | ports, stderr=subprocess.DEVNULL
    ) as arbiter:
        [worker] = children(arbiter.pid)
        pin(worker, core)
        target = Target("obvious proxy", port, port, f"/json{_PATH}", f"/stream{_PATH}")
        yield target, worker


@contextlib.contextmanager
def ccproxy(directory: Path, direct: Target, core: int) -> Iterator[tuple[Target, int]]:
    """Run the proxy, recording everything, its worker on *core*; gives target and worker's pid."""
    with ccproxy_with(GUNICORN, directory, direct, ROOT) as (target, worker):
        pin(worker, core)
        yield target, worker


@contextlib.contextmanager
def ccproxy_with(
    gunicorn: list[str], directory: Path, direct: Target, checkout: Path, **settings: str
) -> Iterator[tuple[Target, int]]:
    """Run the proxy of *checkout* by the command *gunicorn*; gives target and worker's pid.

    *settings* are more of its environment.
    """
    port = free_port()
    with (directory / "ccproxy.log").open("wb") as log:
        environment = os.environ | _settings(directory, direct, checkout) | settings
        bound = [*gunicorn, "-b", f"127.0.0.1:{port}", "wsgi:app"]
        with started(bound, port, cwd=checkout, env=environment, stdout=log, stderr=log) as arbiter:
            target = Target("ccproxy", port, port, f"/json{_PATH}", f"/stream{_PATH}")
            latencies(target, 1)  # by then all processes are what they will be
            worker = next(pid for pid in children(arbiter.pid) if not _is_recorder(pid))
            yield target, worker


def _settings(directory: Path, direct: Target, checkout: Path) -> dict[str, str]:
    settings = {
        "CONFIG_FILE": str(checkout / "ccproxy.toml"),
        "CCPROXY_WORKERS": "1",
        "LOGGING__FORMAT": "json",
        "OBSERVABILITY__DUCKDB_PATH": str(directory / "metrics.duckdb"),
    }
    for name, port in (("JSON", direct.json_port), ("STREAM", direct.stream_port)):
        settings[f"PROVIDERS__{name}__BASE_URL"] = f"http://127.0.0.1:{port}"
        settings[f"PROVIDERS__{name}__API"] = "openai"
    return settings


def _nginx(conf: Path, directory: Path) -> list[str]:
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    return [nginx, "-e", "stderr", "-p", str(directory), "-c", str(conf)]


def _rendered(name: str, directory: Path, **values: object) -> Path:
    text = Path(__file__).with_name(name).read_text()
    for key, value in {"directory": directory, **values}.items():
        text = text.replace(f"{{{key}}}", str(value))
    path = directory / name
    path.write_text(text)
    return path


def children(pid: int) -> list[int]:
    """Return the processes that *pid* started, once it has some."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 10
    while not path.read_text().split() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def recorders(worker: int) -> list[int]:
    """Return the processes that record for a *worker*."""
    parent = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]
    return [pid for pid in children(int(parent)) if _is_recorder(pid)]


def _is_recorder(pid: int) -> bool:
    return b"ccproxy_flask.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()


def pin(pid: int, core: int) -> None:
    """Keep all threads of *pid* on *core*."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def cpu_seconds(pid: int) -> float:
    """Return the processor time that *pid* has used, its own and the system's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Return how much memory of *pid* is resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """The largest resident memory of a process during the block, against that at its start."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.peak = resident_bytes(pid)

    @property
    def growth(self) -> int:
        """Bytes by which the memory grew at its highest."""
        return self.peak - self.before

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.peak = max(self.peak, resident_bytes(self._pid))

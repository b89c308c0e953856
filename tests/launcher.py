"""Starts programs of ours in processes of their own, without the time that their imports take.

A launcher has imported what a program needs, and forks for each start. What runs then is the
program itself, with its own process id, environment, folder, pipes and signals. Starts from nothing
are what the tests of `flask run`, of the wheel, of `run` and of stops while workers start have.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.metadata
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]

# What does not look at environment, arguments or folder as it is imported. So nothing of gunicorn.
IMPORTS = {
    "gunicorn": (
        *("ccproxy_flask.banner", "ccproxy_flask.recorder.supervisor", "ccproxy_flask.settings"),
        *("ccproxy_flask.filters", "gevent.monkey", "gevent.events", "gevent.pywsgi"),
        *("flask", "genai_prices"),
    ),
    "ccproxy_flask.cli": ("ccproxy_flask.cli",),
}
# These are read by an import, or by the interpreter itself.
_READ_EARLY = ("PROMETHEUS_", "GEVENT", "PYTHON")


class Program:
    """A program that was started, with what of `subprocess.Popen` tests use of one."""

    def __init__(self, status: int, pipes: dict[str, IO[Any]]) -> None:
        self._status = os.fdopen(status, "rb", buffering=0)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = (
            pipes.get(name) for name in ("stdin", "stdout", "stderr")
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in filter(None, (self.stdin, self.stdout, self.stderr)):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.wait()

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a program", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, text: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send it *text*, and return all that it writes. Raises subprocess.TimeoutExpired."""
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.stdin as pipe:
                pipe.write(text or "")
        told: dict[str, Any] = {}

        def read(name: str) -> None:
            if (pipe := getattr(self, name)) is not None and not pipe.closed:
                with pipe:
                    told[name] = pipe.read()

        readers = [threading.Thread(target=read, args=(one,)) for one in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        until = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.join(None if until is None else max(0.0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("a program", timeout or 0)
        self.wait(None if until is None else max(0.0, until - time.monotonic()))
        return told.get("stdout"), told.get("stderr")


class Launcher:
    """A process with the imports of *module*, which starts it as often as asked."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {k: v for k, v in os.environ.items() if "__" not in k and k[:8] != "CCPROXY_"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), module, *IMPORTS[module]],
                env={**kept, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._channel, self._module = ours, module

    def start(
        self, args: tuple[str, ...], env: dict[str, str], cwd: str | Path, **files: Any
    ) -> Program:
        """Start the program; *files* as `subprocess.Popen` takes them, all of them given."""
        os.umask(mask := os.umask(0o077))
        order = json.dumps({"args": args, "env": env, "cwd": str(cwd), "mask": mask}).encode()
        passed, pipes = [], {}
        is_text = files.pop("text", False)
        for name in ("stdin", "stdout", "stderr"):
            asked = files[name]
            if asked == subprocess.PIPE:
                ends = os.pipe()
                theirs, ours = ends if name == "stdin" else ends[::-1]
                mode = "w" if name == "stdin" else "r"
                pipes[name] = os.fdopen(ours, mode if is_text else f"{mode}b")
            elif asked == subprocess.DEVNULL:
                theirs = os.open(os.devnull, os.O_RDWR)
            else:
                theirs = os.dup(asked.fileno())
            passed.append(theirs)
        status, told = os.pipe()
        passed.append(told)
        socket.send_fds(self._channel, [order], passed)
        for fd in passed:
            os.close(fd)
        return Program(status, pipes)

    def close(self) -> None:
        """End it; what it started goes on."""
        self._channel.close()
        self._process.wait(10)


_launchers: dict[str, Launcher] = {}


def close() -> None:
    """End all launchers."""
    while _launchers:
        _launchers.popitem()[1].close()


def start(module: str, *args: str, env: dict[str, str], cwd: str | Path, **files: Any) -> Any:
    """Start ``python -m module args``; *files* are what `subprocess.Popen` takes for them."""
    files = {"stdin": subprocess.DEVNULL, **files}
    early = [
        name
        for name, value in env.items()
        if name.startswith(_READ_EARLY) and value not in (os.environ.get(name), str(ROOT))
    ]
    has_own = Path(cwd, "ccproxy_flask").exists()  # a copy of the package, which comes first
    if early or has_own or env.get("PYTHONPATH") != str(ROOT):
        return subprocess.Popen([sys.executable, "-m", module, *args], env=env, cwd=cwd, **files)
    if module not in _launchers:
        _launchers[module] = Launcher(module)
    return _launchers[module].start(args, env, cwd, **files)


def run(
    module: str, *args: str, env: dict[str, str], cwd: str | Path, text: str | None, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module args`` to its end, as `subprocess.run` does with text."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    source = subprocess.DEVNULL if text is None else subprocess.PIPE
    with start(module, *args, env=env, cwd=cwd, stdin=source, text=True, **pipes) as program:
        try:
            told, complained = program.communicate(text, timeout=seconds)
        except BaseException:
            program.kill()
            raise
    return subprocess.CompletedProcess([module, *args], program.returncode, told, complained)


# -- in the launcher ---------------------------------------------------------------------------


def _next(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for an order, and return it in the process that is to carry it out."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            channel.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            pid = os.fork()  # once more, so that somebody waits for it
            if pid == 0:
                os.close(fds.pop())
                return json.loads(message), fds
            _tell_the_end(pid, fds)
        for fd in fds:
            os.close(fd)


def _tell_the_end(pid: int, fds: list[int]) -> None:
    """Wait for a program, say how it ended, and end."""
    status = fds.pop()
    for fd in fds:
        os.close(fd)
    os.write(status, b"%d\n" % pid)
    os.write(status, b"%d\n" % os.waitpid(pid, 0)[1])
    os._exit(0)


def _collect(*_: object) -> None:
    """Let go of those that have told an end."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(order: dict[str, Any], fds: list[int]) -> None:
    """Take the place that a new process would have."""
    for at, fd in enumerate(fds):
        os.dup2(fd, at)
        os.close(fd)
    os.chdir(order["cwd"])
    os.umask(order["mask"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    tempfile.tempdir = None
    sys.path[0] = order["cwd"]


def main() -> None:
    """Import, and start programs until nobody can ask for any more."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    module = sys.argv[2]
    # What is installed stays, but gevent looks through all of it 25 times as it patches a worker.
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    for name in sys.argv[3:]:
        importlib.import_module(name)
    sys.modules.pop(f"{module}.__main__", None)  # that is yet to be run
    signal.signal(signal.SIGCHLD, _collect)
    order, fds = _next(channel)
    _become(order, fds)
    sys.argv = [module, *order["args"]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if module != "gunicorn" or not isinstance(end.code, int | None):
            raise
        # What was imported before gevent's patches goes in another order than it would, noisily.
        atexit._run_exitfuncs()  # noqa: SLF001  there is no other way to them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


if __name__ == "__main__":
    main()

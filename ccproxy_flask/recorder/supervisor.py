"""Keeps the recorder process running; gunicorn's arbiter has one of these."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORT_LIFE_SECONDS = 1.0
_LONG_LIFE_SECONDS = 60.0
# Kept short: whoever kills it again and again still finds it back within a second.
_LONGEST_PAUSE = 0.8
_LONGEST_PAUSE_AFTER_FAILURE = 30.0
_STOP_SECONDS = 20.0
# What somebody else ends a process with. Any other signal is a failure of its own.
_ENDED_BY_OTHERS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)

# `Popen` returns when the last copy of a pipe is closed that it makes before it starts the process.
# A worker that the arbiter forks in that moment would have such a copy for as long as it lives.
_starting = threading.Lock()
os.register_at_fork(
    before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release
)


class Supervisor:
    """Starts *argv* ``--parent <pid>``, and starts it again whenever it ends, until :meth:`stop`.

    It finds *stdin* on its standard input, each time.

    At once where somebody else ended it. Where it fails again and again, with a pause that grows to
    30 s: it says itself why it does. The arbiter's own ``waitpid(-1)`` may collect the child before
    us; ``Popen.wait`` takes that for an end too.
    """

    def __init__(self, argv: Sequence[str], stdin: bytes = b"") -> None:
        self._argv, self._stdin = list(argv), stdin
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._owner = 0

    @property
    def pid(self) -> int | None:
        """The process id of the recorder that runs, None where none does."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start the process, and a thread that watches it."""
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._run, daemon=True, name="recorder-supervisor")
        self._thread.start()

    def stop(self) -> None:
        """Let the process store what is there, and wait for its end. Does nothing in a fork."""
        if self._thread is None or self._owner != os.getpid():
            return
        self._stopping.set()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            # Again and again: the thread may just be starting the next one.
            process = self._process
            if process is not None and process.returncode is None:
                process.terminate()
            self._thread.join(timeout=0.2)
        process = self._process
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join(timeout=1)

    def restart(self, stdin: bytes) -> None:
        """Let the process end, having stored what is there, and the next one begin with *stdin*."""
        self._stdin = stdin
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()

    def _run(self) -> None:
        argv = [*self._argv, "--parent", str(self._owner)]
        failures = short_lives = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            with _starting:
                self._process = subprocess.Popen(argv, stdin=subprocess.PIPE)  # noqa: S603  ours
            with contextlib.suppress(OSError):  # it ended already
                self._process.communicate(self._stdin)
            status = self._process.wait()
            lived = time.monotonic() - began
            has_failed = status != 0 and status not in _ENDED_BY_OTHERS
            failures = failures + 1 if has_failed and lived < _LONG_LIFE_SECONDS else 0
            short_lives = short_lives + 1 if lived < _SHORT_LIFE_SECONDS else 0
            if failures:
                self._stopping.wait(min(_LONGEST_PAUSE_AFTER_FAILURE, 0.2 * 2 ** min(failures, 8)))
            elif short_lives > 1:
                self._stopping.wait(min(_LONGEST_PAUSE, 0.1 * 2 ** min(short_lives, 4)))

"""The proxy that `run` starts where none runs, shared by all `run` commands at one address.

Two files beside the database say who is there, by locks that end with their holders: each command
holds ``run-….users`` shared, and the proxy itself holds ``run-….proxy``, which has its process id.
The last command that ends stops the proxy; one that was started by other means is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import click

from ..folders import make_private
from .remote import CommandError, Remote
from .serve import server_command, server_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ccproxy_flask.settings import Settings

_START_SECONDS = 30.0
# Longer than gunicorn waits for requests in flight, and the recorder for the disk.
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.05
_LAST_WORDS = 2000


@contextlib.contextmanager
def running_proxy(configured: Settings, proxy: Remote) -> Iterator[None]:
    """See to it that *proxy*, that of the settings, answers as long as the context lasts.

    Raises CommandError where it cannot be started.
    """
    started = _SharedProxy(configured, proxy)
    with started.lock("users") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        started.start()
        try:
            yield
        finally:
            started.stop_if_last(users)


class _SharedProxy:
    def __init__(self, configured: Settings, proxy: Remote) -> None:
        self._settings, self._proxy = configured, proxy
        self._directory = configured.duckdb_path.parent
        host = re.sub(r"[^A-Za-z0-9.-]", "_", configured.host)
        self._name = f"run-{host}-{configured.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def path(self, suffix: str) -> Path:
        return self._directory / f"{self._name}.{suffix}"

    @contextlib.contextmanager
    def lock(self, suffix: str) -> Iterator[int]:
        """Open a lock's file; closing it gives the lock back."""
        path = self.path(suffix)
        try:
            make_private(self._directory)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CommandError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def start(self) -> None:
        """Return when a proxy answers; start one where nobody else does."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._proxy.is_up():
            if self._process is not None and self._process.poll() is not None:
                raise CommandError(f"the proxy did not start: {self._last_words()}")
            if time.monotonic() > deadline:
                raise CommandError(f"the proxy does not answer; see {self.path('log')}")
            with self.lock("proxy") as own:
                if self._process is None and _locked(own):
                    self._spawn(own)
            time.sleep(_LOOK_SECONDS)

    def _spawn(self, lock: int) -> None:
        os.truncate(lock, 0)
        log = os.open(self.path("log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                server_command(),
                env=server_environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # what the terminal sends is for the client
            )
        finally:
            os.close(log)
        os.pwrite(lock, str(self._process.pid).encode(), 0)
        click.echo(f"ccproxy: started at {self._proxy.url}, log: {self.path('log')}", err=True)

    def _last_words(self) -> str:
        text = self.path("log").read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:]
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else f"see {self.path('log')}"

    def stop_if_last(self, users: int) -> None:
        """Stop the proxy where a `run` started it and no other one uses it."""
        if not _locked(users):  # the shared lock becomes the only one, or others have it too
            return
        with self.lock("proxy") as own:
            if _locked(own):  # nobody holds it: there is none, or it is not ours
                return
            pid = int(os.pread(own, 20, 0) or 0)
            if pid <= 1:  # whoever started it died before it could say so
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while not _locked(own) and time.monotonic() < deadline:
                if self._process is not None:
                    self._process.poll()
                time.sleep(_LOOK_SECONDS)


def _locked(descriptor: int) -> bool:
    """Take the lock for us alone, and tell whether that worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Records, journals and recorder processes for tests of the way from a request to its row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccproxy_flask.journal import JournalWriter
from ccproxy_flask.journal.segments import list_segments
from ccproxy_flask.record import RequestRecord, new_request_id
from ccproxy_flask.recorder.ingest import Observer
from ccproxy_flask.recorder.recorder import Recorder
from ccproxy_flask.settings import Settings, load_settings
from ccproxy_flask.store.base import Store
from ccproxy_flask.store.remote import RemoteStore

ROOT = Path(__file__).resolve().parents[1]
BEGAN = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)


def make_record(number: int = 0, **fields: Any) -> RequestRecord:
    """Return a finished record, *number* seconds after :data:`BEGAN`."""
    values: dict[str, Any] = {
        "method": "POST",
        "endpoint": "/v1/messages",
        "path": "/v1/messages",
        "model": "claude-test",
        "provider": "anthropic",
        "streaming": True,
        "status_code": 200,
        "duration_ms": 12.5 + number,
        "duration_seconds": (12.5 + number) / 1000,
        "tokens_input": 10,
        "tokens_output": 5,
        "cost_usd": Decimal("0.0012345678"),
    }
    moment = BEGAN + timedelta(seconds=number, microseconds=number)
    return RequestRecord(new_request_id(), moment, **{**values, **fields})


def open_writer(directory: Path, dropped: list[str] | None = None, **options: Any) -> JournalWriter:
    """Return a writer into *directory* with ample bounds."""
    bounds: dict[str, Any] = {
        "max_bytes": 1 << 30,
        "min_free_bytes": 0,
        "segment_bytes": 8 << 20,
        "segment_seconds": 3600.0,
    }
    on_drop = (lambda _reason: None) if dropped is None else dropped.append
    return JournalWriter(directory, **{**bounds, **options}, on_drop=on_drop)


def lines_in(directory: Path) -> list[bytes]:
    """Return all whole lines of a journal, in the order of their segments."""
    return [
        line
        for segment in list_segments(directory)
        for line in (directory / segment.name).read_bytes().split(b"\n")
        if line
    ]


def recording_settings(home: Path, **sections: Any) -> Settings:
    """Return settings with everything under *home*."""
    kept = {"logs_collection_enabled": True, "duckdb_path": str(home / "metrics.duckdb")}
    kept |= sections.pop("observability", {})
    return load_settings({}, home, observability=kept, **sections)


class RecorderProcess:
    """A real recorder over the database and the journal in *home*."""

    def __init__(self, home: Path, *argv: str, **env: str) -> None:
        self.home, self.log = home, home / "recorder.log"
        kept = {
            name: value
            for name, value in os.environ.items()
            if "__" not in name and not name.startswith("CCPROXY_")
        }
        kept |= {
            "PYTHONPATH": str(ROOT),
            "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "true",
            "OBSERVABILITY__DUCKDB_PATH": str(home / "metrics.duckdb"),
            "JOURNAL__MIN_FREE_BYTES": "0",
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ccproxy_flask.recorder", *argv],
                cwd=home,
                env=kept | env,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """End it without a chance to do anything."""
        self.process.kill()
        self.process.wait(5)

    def stop(self) -> int:
        """End it the friendly way and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@contextmanager
def recorder_process(home: Path, *argv: str, **env: str) -> Iterator[RecorderProcess]:
    """A recorder for the length of a block."""
    recorder = RecorderProcess(home, *argv, **env)
    try:
        yield recorder
    finally:
        recorder.stop()


class InProcess:
    """A recorder in a thread of this process. ``store`` answers; :meth:`close` stores the rest."""

    def __init__(self, settings: Settings, observer: Observer | None = None) -> None:
        self._recorder = Recorder(settings, observer)
        self.store: Store = RemoteStore(settings.recorder_socket)
        self._thread = threading.Thread(target=self._recorder.run, daemon=True, name="recorder")
        self._thread.start()

    def close(self) -> None:
        """Store what the journal has, and end the thread."""
        self._recorder.stop()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Wait until questions can be asked, at most *seconds*; tell whether they can."""
        return self._recorder.ready.wait(seconds)


def start_in_process(settings: Settings, observer: Observer | None = None) -> InProcess:
    """Record in this process, in threads; it serves the same socket as the recorder process."""
    recorder = InProcess(settings, observer)
    recorder.wait(2.0)
    return recorder


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory of a *size* (``4m``) for the length of a block; skips without the
    right to mount one."""
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A child process that does *work* and then waits to be killed; killed with the block."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            work()
            os.write(done, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    try:
        assert os.read(ready, 1) == b"."
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

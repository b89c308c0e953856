"""The recorder: takes its turn, opens the store, moves the journal into it, and answers."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import select
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from ccproxy_flask import __version__
from ccproxy_flask.caching.prices import InputPricing
from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.folders import make_private
from ccproxy_flask.journal.failure import clear_failure
from ccproxy_flask.journal.segments import private_directory
from ccproxy_flask.store.base import StoreDamaged
from ccproxy_flask.store.factory import open_store, set_aside

from .content import ContentKeeping
from .ingest import Ingest, Limits, NullObserver
from .maintenance import Maintenance
from .others import Others
from .server import LaneServers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ccproxy_flask.settings import Settings
    from ccproxy_flask.store.base import (
        Cursor,
        EntriesPage,
        Grouping,
        Page,
        QueryPage,
        RecordingStore,
        StoreStatus,
    )
    from ccproxy_flask.store.limit_rows import LimitsAsked
    from ccproxy_flask.store.sessions import SessionPage, SessionsPage
    from ccproxy_flask.totals import Totals

    from .ingest import Observer

log = structlog.get_logger(__name__)

_STEP_SECONDS = 0.12
"""Between two steps that find all there is: fewer, larger ones cost less."""
_IDLE_SECONDS = 0.5
_IDLE_AFTER_SECONDS = 5.0
"""When nothing came for so long, it is looked less often."""
_FAILED_SECONDS = 0.1
_TURN_SECONDS = 0.1
_DRAIN_SECONDS = 10.0
# The rest stays in the journal, for the recorder of the next parent.
_ORPHAN_SECONDS = 0.3
_LONGEST_PAUSE = 2.0
_REMIND_SECONDS = 30.0
_STARTING = "the recorder is starting"


class Recorder:
    """One recorder for the journal of *settings*; :meth:`run` returns after :meth:`stop`.

    There is one at a time for each journal: a second one waits for its turn. Also a Store: the one
    it has open, or StoreUnavailable with the reason why there is none.
    """

    def __init__(self, settings: Settings, observer: Observer | None = None) -> None:
        self._settings = settings
        self._observer: Observer = observer or NullObserver()
        self._directory = settings.journal_directory
        self._store: RecordingStore | None = None
        self._ingest: Ingest | None = None
        self._last_ingest: Ingest | None = None
        """The same; it is still known while a new one is being made."""
        self._content: ContentKeeping | None = None
        self._ingesting = threading.Lock()
        self._maintenance: Maintenance | None = None
        self._others: Others | None = None
        self._stopping = threading.Event()
        self._drain_seconds = _DRAIN_SECONDS
        self._reason: str | None = _STARTING
        self._reminded_at = float("-inf")
        self._failures = 0
        self._moved_at = time.monotonic()
        self.ready = threading.Event()
        """Set when it has the store open for the first time, or another recorder has its turn."""

    def stop(self, seconds: float = _DRAIN_SECONDS) -> None:
        """Ask :meth:`run` to store what is there, for so long at most, and to return."""
        self._drain_seconds = seconds
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """True after :meth:`stop`."""
        return self._stopping.is_set()

    def run(self) -> None:
        """Record until :meth:`stop`. Raises OSError where the journal's directory cannot be had."""
        while not self._stopping.is_set():
            make_private(self._directory)
            path = self._directory / "recorder.lock"
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                if self._wait_for_turn(lock):
                    self._record(lock)
            finally:
                self._close_store()
                os.close(lock)

    def _wait_for_turn(self, lock: int) -> bool:
        waits = False
        while not self._stopping.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waits:
                    waits = True
                    self._reason = "another recorder has its turn"
                    log.info("recorder_stands_by", journal=str(self._directory))
                    self.ready.set()
                self._stopping.wait(_TURN_SECONDS)
            else:
                return True
        return False

    def _record(self, lock: int) -> None:
        socket = self._settings.recorder_socket
        if socket.parent != self._directory:
            private_directory(socket.parent)
        self._content = ContentKeeping(
            self._settings, self._observer.content_dropped, self._kept_elsewhere
        )
        providers = self._settings.providers.items()
        pricing = InputPricing({name: one.base_url for name, one in providers})
        server = LaneServers(socket, self, self._content, pricing)
        clear_failure(self._directory)
        log.info("recorder_started", pid=os.getpid(), version=__version__)
        try:
            while not self._stopping.is_set() and self._is_in_place(lock):
                if self._turn():
                    self._moved_at = time.monotonic()
                if not self._is_behind():
                    self._stopping.wait(self._pause())
            self._drain()
        finally:
            server.close()
            self._content.close()
            log.info("recorder_stopped", pid=os.getpid())

    def _is_in_place(self, lock: int) -> bool:
        """False where somebody removed the journal, or the socket, under our hands."""
        try:
            there = (self._directory / "recorder.lock").stat()
            in_place = self._settings.recorder_socket.exists()
        except OSError:
            in_place = False
        if in_place and there.st_ino == os.fstat(lock).st_ino:
            return True
        log.warning("journal_removed", journal=str(self._directory))
        return False

    def _drain(self) -> None:
        if self._maintenance is not None:
            self._maintenance.stop()
        deadline = time.monotonic() + self._drain_seconds
        while self._turn() and time.monotonic() < deadline:
            pass

    def _pause(self) -> float:
        if self._failures:
            return float(min(_LONGEST_PAUSE, _FAILED_SECONDS * 2 ** min(self._failures, 10)))
        is_idle = time.monotonic() - self._moved_at > _IDLE_AFTER_SECONDS
        return _IDLE_SECONDS if is_idle else _STEP_SECONDS

    def _is_behind(self) -> bool:
        return self._ingest is not None and self._ingest.is_behind

    # -- moving the journal into the store ---------------------------------------------------------

    def _turn(self) -> bool:
        """Store what is new; return True where there may be more."""
        with self._ingesting:
            try:
                ingest = self._opened()
                moved = ingest.step()
                ingest.rename_conversations()
                self._check_content(ingest)
            except StoreDamaged as error:
                self._in_trouble(error)
                self._set_aside(log_only=error.log_only)
                return False
            except (StoreUnavailable, OSError) as error:
                self._in_trouble(error)
                return False
            except Exception as error:  # a defect here must not end all recording
                log.exception("recorder_failed")
                self._in_trouble(error)
                return False
            self._out_of_trouble()
            return moved

    def _check_content(self, ingest: Ingest) -> None:
        """Let rows tell the truth about content that did not arrive."""
        claimed, ingest.kept_content = ingest.kept_content, []
        if self._content is not None and self._store is not None:
            self._content.rows.claim(claimed)
            self._content.check_rows(self._store)

    def _opened(self) -> Ingest:
        if self._store is not None and not self._store.usable:
            damaged = self._store.damaged
            self._close_store()
            if damaged:
                raise StoreDamaged(f"{self._settings.duckdb_path} is damaged")
        if self._store is not None and not self._store.is_in_place():
            log.error("database_removed", path=str(self._settings.duckdb_path))
            self._close_store()
        if self._store is not None and self._store.has_lost_its_log():
            log.error("database_log_removed", path=str(self._settings.duckdb_path))
            self._store.checkpoint()
        if self._store is None:
            self._store = open_store(self._settings)
            self._maintenance = Maintenance(self._store)
            if self._settings.observability.log_storage_backend == "ducklake":
                self._others = Others(self._store, self._directory)
            if self._content is not None:
                self._content.rows.begin(self._store)
            self.ready.set()
        if self._ingest is None:
            journal = self._settings.journal
            limits = Limits(journal.max_bytes, journal.min_free_bytes)
            self._ingest = Ingest(self._store, self._directory, limits, self._observer)
            self._last_ingest = self._ingest
        return self._ingest

    def _in_trouble(self, error: Exception) -> None:
        """Begin anew from what the store says: a commit that failed may have taken place."""
        self._ingest = None
        self._failures += 1
        self._observer.store_health(False)
        self._reason = str(error)
        if self._store is not None and self._failures > 1:
            self._close_store()
        now = time.monotonic()
        if now - self._reminded_at >= _REMIND_SECONDS:
            self._reminded_at = now
            log.error("store_unavailable", reason=self._reason)

    def _out_of_trouble(self) -> None:
        if self._failures:
            log.info("store_available", failures=self._failures)
        self._failures = 0
        self._reason = None
        self._observer.store_health(True)
        self._reminded_at = float("-inf")

    def _set_aside(self, *, log_only: bool) -> None:
        """Keep what is damaged under another name; the next turn does without it."""
        self._close_store()
        try:
            kept = set_aside(self._settings, log_only=log_only)
        except OSError as error:
            log.error("damaged_database_not_moved", reason=error.strerror)  # noqa: TRY400  a fact
            return
        event = "database_log_damaged" if log_only else "database_damaged"
        log.error(event, reason=self._reason, kept_as=str(kept))

    def _close_store(self) -> None:
        store, self._store, self._ingest = self._store, None, None
        if self._maintenance is not None:
            self._maintenance.stop()
        if self._others is not None:
            self._others.close()
        if store is not None:
            store.close()
        if self._others is not None:
            self._others.join()
            self._others = None
        if self._maintenance is not None:
            self._maintenance.join()

    def _kept_elsewhere(self, request_id: str) -> str | None:
        """Return the other machine that keeps what was said in a request; None: none does."""
        if self._settings.observability.log_storage_backend != "ducklake":
            return None
        where = LogFilter(request_id=request_id, content="kept")
        rows = self._current().query(where, 1).rows
        node = rows[0]["node"] if rows else None
        return node if node != self._settings.node else None

    # -- the store that it is ----------------------------------------------------------------------

    def _current(self) -> RecordingStore:
        store = self._store
        if store is None:
            raise StoreUnavailable(self._reason or _STARTING)
        return store

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """Return one page of rows, and how many there are in all."""
        return self._current().entries(where, page)

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """Return up to *limit* rows, newest first, from after *cursor* on."""
        return self._current().query(where, limit, cursor)

    def sessions(self, where: LogFilter, page: SessionPage) -> SessionsPage:
        """Return one page of the sessions that rows of *where* belong to, with sums over these."""
        return self._current().sessions(where, page)

    def totals(self, where: LogFilter) -> Totals:
        """Return the sums over all rows of *where*."""
        return self._current().totals(where)

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """Return the figures of ``/logs/analytics`` as the text of a JSON object."""
        return self._current().analytics(where, bucket_seconds)

    def groups(self, where: LogFilter, grouping: Grouping) -> bytes:
        """Return sums of the rows of *where* as the text of a JSON array."""
        return self._current().groups(where, grouping)

    def limits(self, asked: LimitsAsked) -> bytes:
        """Return how full each window is and who filled it, as the text of a JSON array."""
        return self._current().limits(asked)

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """Give all rows as ``csv``, ``jsonl`` or ``parquet``."""
        return self._current().export(where, form)

    def sql(self, text: str, limit: int) -> bytes:
        """Answer one SELECT, with *limit* rows at most. Raises QueryRefused."""
        return self._current().sql(text, limit)

    def status(self) -> StoreStatus:
        """Return the state of the store and of the way to it."""
        store, ingest = self._current(), self._last_ingest
        waiting, lag = ingest.backlog() if ingest else (0, 0.0)
        while True:
            folds = ingest.folds if ingest else 0
            dropped = ingest.dropped() if ingest else {}
            known = store.status()
            if ingest is None or folds == ingest.folds:
                break  # else what one worker dropped is in both, or in neither
        counts = Counter(known.counts)
        counts.update({f"dropped:{reason}": count for reason, count in dropped.items()})
        return dataclasses.replace(
            known,
            backlog_bytes=waiting + known.backlog_bytes,
            writer_lag_seconds=max(lag, known.writer_lag_seconds),
            counts=counts,
            content=self._content.status() if self._content is not None else {},
            version=__version__,
            reason=self._reason or known.reason,
        )

    def reset(self) -> int:
        """Store what has ended, then delete all rows and return how many there were."""
        with self._ingesting:
            deadline = time.monotonic() + _DRAIN_SECONDS
            store, ingest = self._current(), self._ingest
            while ingest is not None and ingest.step() and time.monotonic() < deadline:
                pass
            if self._content is not None:
                self._content.reset()
            deleted = store.reset()
            if ingest is not None:
                ingest.forget_limits()
            return deleted


def watch_parent(parent: int, recorder: Recorder, interval: float = 0.2) -> None:
    """Stop *recorder* within a second of the death of the process *parent*."""

    def watch() -> None:
        if not _waited_for(parent):
            while os.getppid() == parent and not recorder.stopping:
                time.sleep(interval)
        if not recorder.stopping:
            recorder.stop(_ORPHAN_SECONDS)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _waited_for(parent: int) -> bool:
    """Return once the process *parent*, which is ours, has ended; False where that is not possible.

    Nothing is done meanwhile.
    """
    try:
        fd = os.pidfd_open(parent)
    except (AttributeError, OSError):
        return os.getppid() != parent
    try:
        if os.getppid() == parent:  # else the number may be another's by now
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll()
    finally:
        os.close(fd)
    return True


def on_signal(recorder: Recorder) -> Callable[[int, object], None]:
    """Return what a signal to end calls."""

    def stop(_number: int, _frame: object) -> None:
        recorder.stop()

    return stop

"""Takes records, and puts them into the lake about once a second, in a thread of its own.

Each commit has some rows, and the node's state, which says how far its journal is stored. The state
is the snapshot's own message, so both are there or neither is.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import structlog

from ccproxy_flask.errors import StoreUnavailable

from ..limits import insert as insert_limits
from ..statements import NAMES
from .catalogue import keep_state
from .engine import LAKE
from .tables import LIMITS, LOGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..base import CommittedOffset
    from ..limit_rows import LimitRow
    from .catalogue import Catalogue
    from .engine import Cursor, Engine
    from .hot import Generation, HotRows
    from .state import NodeState

log = structlog.get_logger(__name__)

COMMIT_SECONDS = 0.8
"""Between two commits: the catalogue takes some 47 a second from all nodes."""
HOT_ROWS = 100_000
"""With so many rows in memory nothing is taken until some are in the lake."""
HOT_BYTES = 48 << 20
LATE_SECONDS = 15.0
"""Rows that wait longer wait in the journal alone."""
_PAUSES = (0.2, 0.5, 1.0, 2.0)
_CLOSE_SECONDS = 5.0
# What DuckLake says of a commit that did not take place, as another one deleted rows meanwhile.
_CONFLICT = "Transaction conflict"

_unfinished: dict[str, threading.Thread] = {}
"""Of each node the thread that was left while it waited for the catalogue: as long as it may write,
nobody else does."""


class LakeWriter:
    """The one who writes for a node. *load* tells its state, once nobody else writes for it."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, hot: HotRows, load: Callable[[], NodeState]
    ) -> None:
        left = _unfinished.get(catalogue.node_id)
        if left is not None and left.is_alive():
            raise StoreUnavailable("the lake's catalogue still has not answered", 5)
        self._engine, self._catalogue, self._hot = engine, catalogue, hot
        self._state = load()
        self.usable = True
        self.trouble: str | None = None
        self.last_write: datetime | None = None
        self.last_commit: datetime | None = None
        self._taking = threading.Lock()
        """Held while rows and marks are taken, and while it is decided what goes."""
        self._moved = threading.Condition()
        self._taken = self._stored = 0
        """How many calls were taken, and how many of them are in the lake."""
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="lake-writer")
        self._thread.start()

    # -- what comes in -----------------------------------------------------------------------------

    def append(
        self,
        rows: Sequence[bytes],
        marks: Sequence[CommittedOffset] = (),
        counts: Mapping[str, int] | None = None,
        limits: Sequence[LimitRow] = (),
    ) -> None:
        """Take *rows* with the *marks*, *counts* and *limits* that go with them. Raises
        RowsRefused, or StoreUnavailable where too much waits already."""
        self._wait_for_room()
        with self._taking:
            if rows or limits:
                self._hot.take(rows, limits)
                self.last_write = datetime.now(UTC)
            state = self._state.with_marks({mark.segment: mark for mark in marks})
            self._state = state.with_counts(dict(counts or {}))
            self._taken += 1

    def _wait_for_room(self) -> None:
        deadline = time.monotonic() + LATE_SECONDS
        while True:
            rows, size, seconds = self._hot.waiting()
            if not self.usable or seconds > LATE_SECONDS:
                raise StoreUnavailable(self.trouble or "the lake is slow to take records", 5)
            if rows < HOT_ROWS and size < HOT_BYTES:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(self.trouble or "the lake is slow to take records", 5)
            self._wake.set()
            with self._moved:
                self._moved.wait(0.1)

    @property
    def taken(self) -> int:
        """Return how many calls were taken."""
        return self._taken

    @property
    def state(self) -> NodeState:
        """The state with all that was taken."""
        return self._state

    def forget(self, segments: Sequence[str]) -> None:
        """Let the state go on without the marks of *segments*."""
        with self._taking:
            self._state = self._state.without_marks(set(segments))

    def settle(self, seconds: float = LATE_SECONDS) -> None:
        """Return when all that was taken is in the lake. Raises StoreUnavailable."""
        with self._taking:
            wanted = self._taken
        deadline = time.monotonic() + seconds
        with self._moved:
            while self._stored < wanted:
                self._wake.set()
                if not self.usable or time.monotonic() > deadline:
                    raise StoreUnavailable(self.trouble or "the lake is slow to take records", 5)
                self._moved.wait(0.1)

    # -- what goes to the lake ---------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        cursor = self._engine.cursor()
        while self.usable and not (self._stopping.is_set() and self._stored == self._taken):
            pause = _PAUSES[min(failures, len(_PAUSES)) - 1] if failures else COMMIT_SECONDS
            self._wake.wait(0 if self._stopping.is_set() and not failures else pause)
            self._wake.clear()
            try:
                self._step(cursor)
                failures = 0
            except StoreUnavailable as error:
                self.trouble = str(error)
                failures += 1
                if failures == 1:
                    log.warning("lake_not_written", reason=self.trouble)
                if self._stopping.is_set():
                    break
            with self._moved:
                self._moved.notify_all()

    def _step(self, cursor: Cursor) -> None:
        with self._taking:
            taken = self._taken
            if taken == self._stored:
                return
            generations = self._hot.begin_commit()
            self._state = state = self._state.numbered(self._state.number + 1)
        if generations:
            self._commit(cursor, generations, state)
        else:
            with self._catalogue.session("state") as connection:
                keep_state(connection, self._catalogue.node_id, state)
        self.trouble = None
        self._stored = taken
        with self._engine.translating():
            self._hot.drop_committed(cursor)

    def _commit(self, cursor: Cursor, generations: list[Generation], state: NodeState) -> None:
        try:
            cursor.execute("BEGIN TRANSACTION")
            for one in generations:
                rows = f"SELECT {NAMES} FROM {one.table} ORDER BY timestamp"  # noqa: S608  our names
                cursor.execute(f"INSERT INTO {LOGS} ({NAMES}) {rows}")
                insert_limits(cursor, one.limits, LIMITS)
            cursor.execute(
                f"CALL {LAKE}.set_commit_message(?, 'records', extra_info => ?)",
                [self._catalogue.node_id, state.to_text()],
            )
        except duckdb.Error as error:
            self._give_up(cursor, generations)
            raise self._engine.translated(error) from error
        try:
            cursor.execute("COMMIT")
            [(snapshot,)] = cursor.execute(f"FROM {LAKE}.last_committed_snapshot()").fetchall()
        except duckdb.Error as error:
            if _CONFLICT in str(error):
                self._give_up(cursor, generations)
            else:
                # It may be there all the same: only who begins anew from the lake can tell.
                self.usable = False
                self._hot.lose()
            raise self._engine.translated(error) from error
        self._hot.end_commit(generations, snapshot)
        self.last_commit = datetime.now(UTC)

    def _give_up(self, cursor: Cursor, generations: list[Generation]) -> None:
        try:
            cursor.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # it had not begun
        except duckdb.Error:
            self.usable = False
            self._hot.lose()
            return
        self._hot.end_commit(generations, None)

    def close(self) -> None:
        """Put what was taken into the lake, where that does not take long, and end."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)
        self.usable = False

    def note_unfinished(self) -> None:
        """Let nobody write for this node while this one may still do."""
        if self._thread.is_alive():
            _unfinished[self._catalogue.node_id] = self._thread

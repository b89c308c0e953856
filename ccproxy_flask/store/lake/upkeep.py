"""What one node at a time does for all: old rows go, small files become large ones, files that
nobody needs any more are removed. All of it beside those who write and ask."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import structlog

from ..statements import number_in
from .catalogue import keep_state
from .engine import LAKE
from .snapshots import newest_states
from .tables import LIMITS, LOGS

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .engine import Cursor, Engine

log = structlog.get_logger(__name__)

TIERS = ((1 << 20, 12), (16 << 20, 8), (128 << 20, 4))
"""So many files of a day that are smaller than so many bytes become one."""
SNAPSHOT_SECONDS = 600
"""For so long a reader may go on with the lake as it was."""
FILE_SECONDS = 1200
"""So long after that no snapshot has a file any more it is removed: exports may read it."""
_TIDY_SECONDS = 60.0
_ORPHANS_SECONDS = 86_400.0
_STEP_SECONDS = 600.0


class Upkeep:
    """Looks after the lake of *engine*. Rows older than *days* go; over *max_bytes* the oldest
    days do; None: no bound."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, days: float | None, max_bytes: int | None
    ) -> None:
        self._engine, self._catalogue = engine, catalogue
        self._days, self._max_bytes = days, max_bytes
        self._tidy_at = 0.0
        self._orphans_at = time.monotonic() + _ORPHANS_SECONDS

    def step(self) -> bool:
        """Do one part of what there is to do, where it is this node's turn; return True where there
        may be more. Raises StoreUnavailable, also where another node was in the way."""
        with self._catalogue.turn() as mine:
            if not mine:
                return False
            done = self._expire() or self._merge()
            if time.monotonic() >= self._tidy_at:
                self._tidy()
                self._tidy_at = time.monotonic() + _TIDY_SECONDS
            return done

    def _expire(self) -> bool:
        """Let the days go that are over for longer than rows are kept, or that are too many."""
        end = self._engine.ask(self._first_kept)
        if end is None:
            return False

        def delete(cursor: Cursor) -> int:
            # Whole days are whole files, which go without being read.
            sql = f"DELETE FROM {LOGS} WHERE timestamp < ?"  # noqa: S608  our names
            deleted = number_in(cursor.execute(sql, [end]))
            cursor.execute(f"DELETE FROM {LIMITS} WHERE timestamp < ?", [end])  # noqa: S608  our names
            cursor.execute("COMMIT")
            return deleted

        deleted = self._engine.ask(delete, _STEP_SECONDS)
        if deleted:
            log.info("records_expired", count=deleted, before=str(end))
        return deleted > 0

    def _first_kept(self, cursor: Cursor) -> datetime | None:
        """Return the day before which no row is to stay, None where there is none before it."""
        logs = LOGS
        if self._days is not None:
            day = _midnight(datetime.now(UTC) - timedelta(days=self._days))
            sql = f"SELECT count(*) FROM (FROM {logs} WHERE timestamp < ? LIMIT 1)"  # noqa: S608  our names
            if number_in(cursor.execute(sql, [day])):
                return day
        if self._max_bytes is not None:
            sizes = f"SELECT coalesce(sum(file_size_bytes), 0) FROM ducklake_table_info('{LAKE}')"  # noqa: S608  our names
            if number_in(cursor.execute(sizes)) > self._max_bytes:
                row = cursor.execute(f"SELECT min(timestamp) FROM {logs}").fetchone()  # noqa: S608  our names
                return _midnight(row[0]) + timedelta(days=1) if row and row[0] else None
        return None

    def _merge(self) -> bool:
        """Let the small files of one size become larger ones, where a day has many."""
        sizes = self._engine.ask(_file_sizes)
        for largest, many in TIERS:
            small = Counter(folder for folder, size in sizes if size < largest)
            if max(small.values(), default=0) >= many:
                found = self._engine.ask(lambda cursor: _merged(cursor, largest), _STEP_SECONDS)  # noqa: B023  called at once
                log.debug("lake_merged", files=found, smaller_than=largest)
                return found > 0
        return False

    def _tidy(self) -> None:
        """Forget old snapshots, and remove the files that only they have."""

        def tidy(cursor: Cursor) -> None:
            cursor.execute(
                f"CALL ducklake_expire_snapshots('{LAKE}', older_than => "
                f"now() - INTERVAL '{SNAPSHOT_SECONDS} seconds')"
            )
            cursor.execute(
                f"CALL ducklake_cleanup_old_files('{LAKE}', older_than => "
                f"now() - INTERVAL '{FILE_SECONDS} seconds')"
            )
            if time.monotonic() >= self._orphans_at:
                # Of commits that were broken off; a commit that runs is younger than that.
                cursor.execute(
                    f"CALL ducklake_delete_orphaned_files('{LAKE}', older_than => "
                    "now() - INTERVAL '1 day')"
                )
                self._orphans_at = time.monotonic() + _ORPHANS_SECONDS

        self._keep_states()
        self._engine.ask(tidy, _STEP_SECONDS, in_transaction=False)

    def _keep_states(self) -> None:
        """Write down what the snapshots say of the nodes, before some of them go."""

        def look(cursor: Cursor) -> None:
            cursor.execute(f"FROM {LAKE}.current_snapshot()")
            known = self._catalogue.stored_states()
            found = newest_states(cursor, known)
            with self._catalogue.session("upkeep-states") as connection:
                for node_id, state in found.items():
                    keep_state(connection, node_id, state)

        self._engine.ask(look)

    def reset(self) -> int:
        """Delete all rows and return how many there were."""

        def delete(cursor: Cursor) -> int:
            deleted = number_in(cursor.execute(f"DELETE FROM {LOGS}"))  # noqa: S608  our names
            cursor.execute(f"DELETE FROM {LIMITS}")  # noqa: S608  our names
            cursor.execute("COMMIT")
            return deleted

        return self._engine.ask(delete, _STEP_SECONDS)


def _file_sizes(cursor: Cursor) -> list[tuple[str, int]]:
    """Return the folder, which is a day's, and the size of each file."""
    rows = cursor.execute(
        f"SELECT data_file, data_file_size_bytes FROM ducklake_list_files('{LAKE}', 'access_logs')"  # noqa: S608  our names
    ).fetchall()
    return [(str(PurePosixPath(path).parent), size) for path, size in rows]


def _merged(cursor: Cursor, largest: int) -> int:
    rows = cursor.execute(
        f"CALL ducklake_merge_adjacent_files('{LAKE}', 'access_logs', max_file_size => {largest})"
    ).fetchall()
    cursor.execute("COMMIT")
    return sum(row[2] for row in rows)


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)

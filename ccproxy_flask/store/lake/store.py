"""The store on a lake that several machines share. In the recorder's process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from ccproxy_flask.errors import StoreUnavailable

from .. import statements
from ..adhoc_sql import AdhocSql
from ..base import StoreStatus, abandoned
from ..batch import BatchFile
from ..duckdb import MOST_EXPORTS
from ..limits import copied, newest
from ..pipes import Pipes
from ..snapshots import Snapshots, beside
from ..statements import number_in
from . import tables
from .catalogue import Catalogue
from .engine import LAKE, Engine
from .files import SqlFiles
from .hot import HotRows
from .nodes import Heart, Report, node_id
from .questions import Questions, relation
from .snapshots import newest_states
from .state import NodeState
from .tables import LOGS
from .upkeep import Upkeep
from .writer import LakeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ccproxy_flask.settings import Settings

    from ..base import CommittedOffset
    from ..limit_rows import LimitRow
    from .engine import Cursor

log = structlog.get_logger(__name__)
_OPENING_SECONDS = 30.0


class LakeStore(Questions):
    """All rows of all machines: a RecordingStore that takes those of this one.

    What is taken is in memory at first, and in the lake about a second later. The journal keeps it
    until then: see :meth:`settle`. Raises StoreUnavailable.
    """

    backend = "ducklake"
    damaged = False

    def __init__(self, settings: Settings) -> None:
        lake = settings.observability.lake
        self._name = name = settings.node
        self._folder = settings.duckdb_path.parent
        catalog = lake.catalog.get_secret_value() if lake.catalog is not None else ""
        self._catalogue = Catalogue(catalog, node_id(settings.journal_directory))
        self._batch = BatchFile()
        self._pipes: Pipes | None = None
        try:
            with self._catalogue.preparing(name):
                self._engine = Engine(lake, self._catalogue, self._folder / "lake.tmp")
                self._open(lake_files=SqlFiles(lake, self._engine))
        except BaseException:
            self._close_files()
            raise
        kept = settings.observability
        self._upkeep = Upkeep(
            self._engine, self._catalogue, kept.retention_days, kept.retention_max_bytes
        )
        self._heart = Heart(self._catalogue, self._report)

    def _open(self, lake_files: SqlFiles) -> None:
        try:
            self._engine.ask(tables.prepare, _OPENING_SECONDS, in_transaction=False)
            hot = HotRows(self._engine, self._batch)
            self._make_pipes()
            Questions.__init__(self, self._engine, hot, self._pipes)
            self._writer = LakeWriter(self._engine, self._catalogue, hot, self._state)
        except BaseException:
            self._engine.close()
            raise
        self._sql_files = lake_files
        folder = self._folder / "lake.sql"
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.glob("recent-*"):
            left.unlink()
        places = [f"{folder}{os.sep}", self._engine.data]
        self._adhoc_sql = AdhocSql(places, lake_files.setup)
        self._snapshots = Snapshots(folder, self._copy_hot, self._version)

    def _state(self) -> NodeState:
        return self._states().get(self._catalogue.node_id, NodeState())

    def _states(self) -> dict[str, NodeState]:
        def look(cursor: Cursor) -> dict[str, NodeState]:
            cursor.execute(f"FROM {LAKE}.current_snapshot()")
            return newest_states(cursor, self._catalogue.stored_states())

        return self._engine.ask(look)

    def _make_pipes(self) -> None:
        folder = self._folder.resolve()
        try:
            self._pipes = Pipes([folder / f"lake.export-{n}" for n in range(MOST_EXPORTS)])
        except OSError as error:
            log.warning("exports_not_possible", reason=error.strerror)

    # -- what comes in -----------------------------------------------------------------------------

    def append(
        self,
        rows: Sequence[bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        limits: Sequence[LimitRow] = (),
    ) -> None:
        """As RecordingStore.append(); it is in the lake after :meth:`settle`."""
        self._writer.append(rows, marks, counts, limits)

    def append_missing(
        self,
        rows: Mapping[str, bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        count: str | None = None,
        limits: Sequence[LimitRow] = (),
    ) -> int:
        """As RecordingStore.append_missing()."""
        there = self.known(rows.keys())
        missing = [line for request_id, line in rows.items() if request_id not in there]
        more = {count: len(missing)} if count and missing else {}
        self._writer.append(missing, marks, {**counts, **more}, limits)
        return len(missing)

    def newest_limits(self, of_each: int) -> list[LimitRow]:
        """As RecordingStore.newest_limits(), of all machines."""
        return self._engine.ask(lambda cursor: newest(cursor, of_each))

    def marks(self) -> dict[str, CommittedOffset]:
        """Return all marks of this node by segment."""
        return dict(self._writer.state.marks)

    def forget(self, segments: Sequence[str]) -> None:
        """Delete the marks of *segments*, which are gone."""
        self._writer.forget(segments)

    def news(self, position: int | None) -> tuple[int, list[bytes]]:
        """As RecordingStore.news()."""
        return self._rows_since(position, self._name)

    def settle(self) -> None:
        """As RecordingStore.settle()."""
        self._writer.settle()

    def content_kept_since(self, seconds: float, limit: int) -> list[str]:
        """As RecordingStore.content_kept_since(); of this machine alone."""
        sql = statements.CONTENT_KEPT.replace("recent_logs", "logs").replace(
            "WHERE", "WHERE node = ? AND"
        )

        def work(cursor: Cursor, sources: Sequence[str]) -> list[str]:
            return [
                row[0]
                for row in cursor.execute(
                    f"WITH logs AS ({relation(sources)}) {sql}", [self._name, seconds, limit]
                ).fetchall()
            ]

        return self._asked(work)

    def content_dropped(self, request_ids: Sequence[str]) -> int | None:
        """As RecordingStore.content_dropped(): None where another node is in the way."""
        self.settle()
        values = [min(request_ids), max(request_ids), statements.texts(request_ids)]
        sql = statements.CONTENT_DROPPED.replace("recent_logs", LOGS)

        def work(cursor: Cursor) -> int:
            changed = number_in(cursor.execute(sql, values))
            cursor.execute("COMMIT")
            return changed

        try:
            changed = self._engine.ask(work)
        except StoreUnavailable as error:
            log.debug("content_not_dropped", reason=str(error))
            return None
        if changed:
            self._writer.append([], (), {"content_dropped": changed})
        return changed

    def name_conversations(
        self, named: Mapping[str, str], renamed: Mapping[str, str]
    ) -> int | None:
        """As RecordingStore.name_conversations(): None where another node is in the way."""
        self.settle()

        def work(cursor: Cursor) -> int:
            changed = 0
            for sql, values in statements.naming(named, renamed):
                asked = sql.replace("recent_logs", LOGS)
                changed += number_in(cursor.execute(asked, values))
            cursor.execute("COMMIT")
            return changed

        try:
            return self._engine.ask(work)
        except StoreUnavailable as error:
            log.debug("conversations_not_named", reason=str(error))
            return None

    # -- its state ---------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """False after a commit of which nobody knows whether it took place."""
        return self._writer.usable

    def is_in_place(self) -> bool:
        """True: there is no file to lose."""
        return True

    def has_lost_its_log(self) -> bool:
        """False: it has none."""
        return False

    def checkpoint(self) -> None:
        """Do nothing: what is committed is there."""

    def _report(self) -> Report:
        _, size, seconds = self._hot.waiting()
        return size, seconds, self._writer.trouble, self._writer.last_commit

    def status(self) -> StoreStatus:
        """Return the state of the lake, and how far this node is behind."""

        def work(cursor: Cursor, sources: Sequence[str]) -> int:
            return number_in(cursor.execute(f"SELECT count(*) FROM ({relation(sources)})"))  # noqa: S608  our names

        rows = self._asked(work)
        _, size, seconds = self._hot.waiting()
        return StoreStatus(
            self.backend,
            self._engine.data,
            rows,
            self._writer.last_write,
            backlog_bytes=size,
            writer_lag_seconds=seconds if self._writer.trouble else 0.0,
            counts=self._writer.state.counts,
            reason=self._writer.trouble,
            nodes=self._heart.nodes(),
        )

    def reset(self) -> int:
        """Delete all rows of all machines and return how many there were."""
        self.settle()
        return self._upkeep.reset()

    def maintain(self) -> bool:
        """Do a small part of what keeps the lake small and quick, where it is this node's turn."""
        self._adhoc_sql.maintain()
        return self._upkeep.step()

    def sql(self, text: str, limit: int) -> bytes:
        """Answer one SELECT of the operator's; *limit* rows at most. Raises QueryRefused."""
        with self._snapshots.lease() as views:
            return self._adhoc_sql.answer(text, limit, views, abandoned.get())

    def _version(self) -> int:
        """Return another number after each change of the rows."""
        look = f"FROM {LAKE}.current_snapshot()"
        snapshot = self._engine.ask(lambda cursor: number_in(cursor.execute(look)))
        return snapshot << 40 | self._writer.taken

    def _copy_hot(self, path: Path) -> dict[str, str]:
        """Write the rows that are not in the lake to *path*; return the SELECTs of all rows of each
        table, from files alone."""
        place = statements.quoted(str(path))

        def work(cursor: Cursor, sources: Sequence[str]) -> dict[str, str]:
            hot = relation(sources[1:]) or f"{relation(sources[:1])} LIMIT 0"
            cursor.execute(f"COPY ({hot}) TO {place} (FORMAT parquet, COMPRESSION lz4_raw)")
            return {
                "access_logs": self._sql_files.relation(cursor, f"read_parquet({place})"),
                "rate_limits": copied(cursor, beside(path)),
            }

        return self._asked(work)

    def close(self) -> None:
        """Put what was taken into the lake where it can be had, and let go of it."""
        self._heart.close()
        self._writer.close()
        self._adhoc_sql.close()
        self._snapshots.close()
        self._engine.close()
        self._writer.note_unfinished()
        self._close_files()

    def _close_files(self) -> None:
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None
        self._batch.close()

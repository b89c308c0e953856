"""Answers questions from the lake, and from the rows that it does not have yet."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import orjson

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.totals import Totals, complete

from .. import analytics, figures, limits, quota, statements
from ..base import Cursor, EntriesPage, Page, QueryPage
from ..questions import EXACT_ROWS, EXPORT_SECONDS
from ..quota_shares import Meter
from ..sessions import SessionsPage
from ..statements import number_in
from .engine import LAKE
from .tables import LOGS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeVar

    from ..analytics import Row
    from ..base import Grouping
    from ..limit_rows import LimitRow, LimitsAsked
    from ..pipes import Pipes
    from ..sessions import SessionPage
    from .engine import Cursor as Connection
    from .engine import Engine
    from .hot import HotRows

    T = TypeVar("T")

# A page of the newest rows is looked for in so much time before its end, and then in more.
_SPANS = (timedelta(hours=1), timedelta(days=1), timedelta(days=10))
_RECENT = timedelta(days=2)
_JUST_NOW_SECONDS = 60
_MOST_NEWS = 5_000
_LONG_BUCKET = 1000 * 86_400
Key = tuple[Any, ...]


# Everything in these statements is our own: names of columns, and of tables that we made.
# ruff: noqa: S608  our names
class Questions:
    """Answers about the rows in *engine*'s lake and in *hot*; exports go through *pipes*."""

    def __init__(self, engine: Engine, hot: HotRows, pipes: Pipes | None) -> None:
        self._engine, self._hot, self._pipes = engine, hot, pipes
        self._meter = Meter()

    def _asked(
        self, work: Callable[[Connection, Sequence[str]], T], seconds: float | None = None
    ) -> T:
        """Return what *work* does with a connection that sees one moment, and with the tables that
        have the rows of that moment."""

        def look(cursor: Connection) -> T:
            with self._hot.beside(cursor, LAKE) as tables:
                return work(cursor, [LOGS, *tables])

        return self._engine.ask(look) if seconds is None else self._engine.ask(look, seconds)

    # -- rows --------------------------------------------------------------------------------------

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """As Store.entries()."""
        condition, values = statements.condition(where)

        def work(cursor: Connection, tables: Sequence[str]) -> EntriesPage:
            count = f"SELECT count(*) FROM ({relation(tables)}) AS logs WHERE {condition}"
            total = number_in(cursor.execute(count, values))
            keys = _keys(cursor, tables, where, page)
            return EntriesPage(statements.array(_rows(cursor, tables, keys, page)), total)

        return self._asked(work)

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """As Store.query()."""
        page = Page(limit=limit + 1)

        def work(asking: Connection, tables: Sequence[str]) -> QueryPage:
            keys = _keys(asking, tables, where, page, cursor)
            has_more, keys = len(keys) > limit, keys[:limit]
            rows = _rows(asking, tables, keys, page)
            last = Cursor(keys[-1][0].replace(tzinfo=UTC), keys[-1][1]) if has_more else None
            return QueryPage(statements.array(rows), len(rows), str(last) if last else None)

        return self._asked(work)

    def sessions(self, where: LogFilter, page: SessionPage) -> SessionsPage:
        """As Store.sessions()."""
        condition, values = statements.condition(where)
        direction = "DESC" if page.order_desc else "ASC"
        order = f"page.{page.order_by} {direction} NULLS LAST, page.session_id {direction}"

        def work(cursor: Connection, tables: Sequence[str]) -> SessionsPage:
            sql = statements.SESSIONS.replace("/*logs*/", relation(tables))
            sql = sql.replace("/*where*/", condition).replace("/*order*/", order)
            rows = cursor.execute(sql, [*values, page.limit, page.offset]).fetchall()
            total = rows[0][2] if rows else 0
            return SessionsPage(statements.array(rows), total, tuple(row[1] for row in rows))

        return self._asked(work)

    def conversations(self, message_ids: Collection[str]) -> dict[str, str]:
        """As RecordingStore.conversations()."""
        since = datetime.now(UTC).replace(tzinfo=None) - _RECENT

        def work(cursor: Connection, tables: Sequence[str]) -> dict[str, str]:
            rows = cursor.execute(
                f"SELECT message_id, conversation_id FROM ({relation(tables)}) "
                f"WHERE timestamp > ? AND message_id IN (SELECT unnest({statements.TEXTS})) "
                "AND conversation_id IS NOT NULL",
                [since, statements.texts(message_ids)],
            ).fetchall()
            return dict(rows)

        return self._asked(work)

    def _rows_since(self, position: int | None, node: str) -> tuple[int, list[bytes]]:
        """Return the newest snapshot, and the rows that came after that of *position* but from
        *node*, of requests that ended just now."""

        def work(cursor: Connection) -> tuple[int, list[bytes]]:
            snapshot = number_in(cursor.execute(f"FROM {LAKE}.current_snapshot()"))
            if position is None or position >= snapshot:
                return snapshot, []
            came = (
                f"SELECT * FROM ducklake_table_insertions('{LAKE}', 'main', 'access_logs', "
                f"{position + 1}, {snapshot})"
            )
            rows = cursor.execute(
                f"SELECT to_json(page)::VARCHAR FROM (SELECT {statements.SHOWN} FROM ({came}) "
                "WHERE node IS DISTINCT FROM ? AND epoch(timestamp) + "
                "coalesce(duration_seconds, 0) > epoch(now()) - ? "
                "ORDER BY request_id LIMIT ?) AS page",
                [node, _JUST_NOW_SECONDS, _MOST_NEWS],
            ).fetchall()
            return snapshot, [text.encode() for (text,) in rows]

        return self._engine.ask(work)

    def known(self, request_ids: Collection[str]) -> set[str]:
        """Return those of *request_ids* that there is a row of."""
        if not request_ids:
            return set()
        # Ids sort by time: only what is that old is looked at.
        values = [min(request_ids), max(request_ids), statements.texts(request_ids)]

        def work(cursor: Connection, tables: Sequence[str]) -> set[str]:
            rows = cursor.execute(
                f"SELECT request_id FROM ({relation(tables)}) WHERE "
                "request_id BETWEEN ? AND ? "
                f"AND request_id IN (SELECT unnest({statements.TEXTS}))",
                values,
            ).fetchall()
            return {request_id for (request_id,) in rows}

        return self._asked(work)

    # -- figures -----------------------------------------------------------------------------------

    def totals(self, where: LogFilter) -> Totals:
        """As Store.totals()."""
        condition, values = statements.condition(where)

        def work(cursor: Connection, tables: Sequence[str]) -> Totals:
            if not _are_few(cursor, tables, where):
                rows = _figures_of_many(cursor, tables, where, _LONG_BUCKET)
                return Totals(**analytics.totals(rows))
            sql = statements.TOTALS.replace("/*logs*/", relation(tables))
            row = cursor.execute(sql.replace("/*where*/", condition), values).fetchone()
            return Totals(**complete(row)) if row else Totals()

        return self._asked(work)

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """As Store.analytics()."""
        if where.start_time is None:
            raise ValueError("analytics need a start")
        condition, values = statements.condition(where)

        def work(cursor: Connection, tables: Sequence[str]) -> list[Row]:
            if not _are_few(cursor, tables, where):
                return _figures_of_many(cursor, tables, where, bucket_seconds)
            sql = statements.ANALYTICS.replace("/*logs*/", relation(tables))
            sql = sql.replace("/*where*/", condition)
            return cursor.execute(sql, [bucket_seconds, *values]).fetchall()

        rows = self._asked(work)
        now = datetime.now(UTC)
        end = min(where.end_time or now, now)
        return orjson.dumps(analytics.analytics(rows, bucket_seconds, where.start_time, end))

    def groups(self, where: LogFilter, grouping: Grouping) -> bytes:
        """As Store.groups()."""

        condition, values = statements.condition(where)
        marks = [*values, grouping.limit]

        def work(cursor: Connection, tables: Sequence[str]) -> bytes:
            logs = relation(tables)
            sql = statements.groups(logs, condition, grouping.by, often=grouping.often)
            return statements.array(cursor.execute(sql, marks).fetchall())

        return self._asked(work)

    def limits(self, asked: LimitsAsked) -> bytes:
        """As Store.limits()."""
        start, end = limits.utc(asked.start_time), limits.utc(asked.end_time)

        def work(
            cursor: Connection, tables: Sequence[str]
        ) -> tuple[list[LimitRow], dict[Any, Any]]:
            rows = limits.asked_for(cursor, asked)
            logs = relation(tables)
            moves = limits.moves(rows).items()
            return rows, {one: limits.uses(cursor, logs, *one, times) for one, times in moves}

        rows, uses = self._asked(work)
        now = min(datetime.now(UTC).replace(tzinfo=None), end)
        return orjson.dumps(quota.answered(rows, uses, now, start, self._meter))

    # -- files -------------------------------------------------------------------------------------

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """As Store.export()."""
        if self._pipes is None:
            raise StoreUnavailable("the folder can hold no pipe for exports", 60)
        form_options, names = statements.EXPORTS[form]
        condition, values = statements.condition(where)
        asking: list[Connection] = []

        def write(path: Path) -> None:
            options = f"{form_options}, USE_TMP_FILE false, PRESERVE_ORDER false"

            def work(cursor: Connection, tables: Sequence[str]) -> None:
                asking.append(cursor)
                rows = f"SELECT {names} FROM ({relation(tables)}) AS logs WHERE {condition}"
                target = statements.quoted(str(path))
                cursor.execute(f"COPY ({rows}) TO {target} ({options})", values)

            self._asked(work, EXPORT_SECONDS)

        def cancel() -> None:
            for cursor in asking:
                with suppress(duckdb.ConnectionException):  # it has just ended by itself
                    cursor.interrupt()

        return self._pipes.transfer(write, cancel)


def relation(tables: Iterable[str]) -> str:
    """Return the SELECT of all rows of *tables*."""
    return " UNION ALL ".join(f"SELECT {statements.NAMES} FROM {table}" for table in tables)


def _keys(
    cursor: Connection,
    tables: Sequence[str],
    where: LogFilter,
    page: Page,
    seen: Cursor | None = None,
) -> list[Key]:
    """Return time and id of the rows of *page* behind *seen*."""
    condition, values = statements.condition(where)
    end = where.end_time or datetime.now(UTC)
    if seen is not None:
        moment = seen.timestamp.replace(tzinfo=None)
        condition += " AND timestamp <= ? AND (timestamp < ? OR request_id < ?)"
        values += [moment, moment, seen.request_id]
        end = min(end, seen.timestamp)
    chosen = ", ".join(dict.fromkeys(["timestamp", "request_id", page.order_by]))
    is_newest_first = page.order_by == "timestamp" and page.order_desc
    found: list[Key] = []
    for span in (*_SPANS, None) if is_newest_first else (None,):
        within, since = condition, list(values)
        if span is not None:
            within += " AND timestamp >= ?"
            since.append(end.astimezone(UTC).replace(tzinfo=None) - span)
        found = cursor.execute(
            f"SELECT {chosen} FROM ({relation(tables)}) AS logs WHERE {within} "
            f"ORDER BY {_order(page)} LIMIT ? OFFSET ?",
            [*since, page.limit, page.offset],
        ).fetchall()
        if len(found) == page.limit:
            break
    return found


def _rows(
    cursor: Connection, tables: Sequence[str], keys: Sequence[Key], page: Page
) -> list[tuple[Any, ...]]:
    """Return the rows with these *keys* as texts of JSON, in the order of *page*."""
    if not keys:
        return []
    times = [key[0] for key in keys]
    within = f"request_id IN (SELECT unnest({statements.TEXTS}))"
    condition = f"logs.timestamp BETWEEN ? AND ? AND {within}"
    values = [min(times), max(times), statements.texts(key[1] for key in keys)]
    sql = statements.ENTRIES.replace("/*logs*/", relation(tables))
    sql = sql.replace("/*where*/", condition).replace("/*order*/", _order(page))
    return cursor.execute(sql, [*values, len(keys)]).fetchall()


def _order(page: Page) -> str:
    direction = "DESC" if page.order_desc else "ASC"
    return f"logs.{page.order_by} {direction} NULLS LAST, request_id {direction}"


def _are_few(cursor: Connection, tables: Sequence[str], where: LogFilter) -> bool:
    """Tell whether percentiles of these rows can be exact."""
    times: Mapping[str, Any] = {"start_time": where.start_time, "end_time": where.end_time}
    condition, values = statements.condition(LogFilter(**times))
    count = f"SELECT count(*) FROM ({relation(tables)}) WHERE {condition}"
    return number_in(cursor.execute(count, values)) <= EXACT_ROWS


def _figures_of_many(
    cursor: Connection, tables: Sequence[str], where: LogFilter, bucket_seconds: int
) -> list[Row]:
    sql = figures.statement(relation(tables), where, bucket_seconds, None)
    return cursor.execute(*sql).fetchall()

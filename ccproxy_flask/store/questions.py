"""Answers questions from the database and its parts: only from those that can have an answer."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import orjson

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.totals import Totals, complete

from . import analytics, figures, limits, quota, statements
from .base import Cursor, EntriesPage, Grouping, Page, QueryPage
from .parts import RECENT
from .quota_shares import Meter
from .sessions import SessionsPage
from .statements import number_in

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from pathlib import Path

    from .analytics import Row
    from .database import Database
    from .figures import Hours
    from .limit_rows import LimitsAsked
    from .parts import Part, Parts
    from .pipes import Pipes
    from .sessions import SessionPage
    from .sums import Sums

EXPORT_SECONDS = 900.0
"""The longest export, the time its reader takes included."""
EXACT_ROWS = 50_000
"""Of so many rows percentiles are exact; of more they are within 1.5 %."""
_FEW_KEYS = 1000
_LONG_BUCKET = 1000 * 86_400
_NOTHING = LogFilter()
Key = tuple[Any, ...]


class Questions:
    """Answers about the rows of *database* and *parts*, and their *sums*; exports go through
    *pipes*."""

    def __init__(self, database: Database, parts: Parts, sums: Sums, pipes: Pipes | None) -> None:
        self._database, self._parts, self._sums, self._pipes = database, parts, sums, pipes
        self._meter = Meter()

    # -- rows --------------------------------------------------------------------------------------

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """As Store.entries()."""
        condition, values = statements.condition(where)
        with self._moment() as cursor:
            parts = self._overlapping(cursor, where)
            if page.order_by == "timestamp":
                keys = self._keys_by_time(cursor, parts, condition, values, page)
            else:
                keys = self._keys(cursor, parts, condition, values, page)
            rows = self._rows(cursor, parts, keys, page, (condition, values))
            is_all = where.request_id is not None or len(keys) < page.limit
            is_all = is_all and not page.offset
            total = len(keys) if is_all else self._count(cursor, where, parts)
        return EntriesPage(statements.array(rows), total)

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """As Store.query()."""
        condition, values = statements.condition(where)
        seen = None if cursor is None else cursor.timestamp.replace(tzinfo=None)
        if cursor is not None:
            condition += " AND timestamp <= ? AND (timestamp < ? OR request_id < ?)"
            values += [seen, seen, cursor.request_id]
        page = Page(limit=limit + 1)
        with self._moment() as asking:
            parts = self._overlapping(asking, where)
            parts = [part for part in parts if seen is None or part.first <= seen]
            keys = self._keys_by_time(asking, parts, condition, values, page)
            has_more, keys = len(keys) > limit, keys[:limit]
            rows = self._rows(asking, parts, keys, page, (condition, values))
        last = Cursor(keys[-1][0].replace(tzinfo=UTC), keys[-1][1]) if has_more else None
        return QueryPage(statements.array(rows), len(rows), str(last) if last else None)

    def _keys_by_time(
        self,
        cursor: duckdb.DuckDBPyConnection,
        parts: Sequence[Part],
        condition: str,
        values: list[Any],
        page: Page,
    ) -> list[Key]:
        """Return time and id of the rows of *page*: from the database and the newest (or oldest)
        parts on, as many as are needed."""
        ordered = sorted(parts, key=lambda part: part.last, reverse=True)
        if not page.order_desc:
            ordered = sorted(parts, key=lambda part: part.first)
        first = Page(page.offset + page.limit, 0, page.order_by, page.order_desc)
        found: list[Key] = []
        many = 0
        while True:
            found = self._keys(cursor, ordered[:many], condition, values, first)
            if many >= len(ordered) or _is_settled(found, ordered[many], first):
                return found[page.offset :]
            many = many * 4 or 1

    def _keys(
        self,
        cursor: duckdb.DuckDBPyConnection,
        parts: Sequence[Part],
        condition: str,
        values: list[Any],
        page: Page,
    ) -> list[Key]:
        names = dict.fromkeys(["timestamp", "request_id", page.order_by])
        logs = self._parts.relation(parts)
        return cursor.execute(
            f"SELECT {', '.join(names)} FROM ({logs}) AS logs WHERE {condition} "  # noqa: S608  our names
            f"ORDER BY {_order(page)} LIMIT ? OFFSET ?",
            [*values, page.limit, page.offset],
        ).fetchall()

    def _rows(
        self,
        cursor: duckdb.DuckDBPyConnection,
        parts: Sequence[Part],
        keys: Sequence[Key],
        page: Page,
        where: tuple[str, list[Any]],
    ) -> list[tuple[Any, ...]]:
        """Return the rows with these *keys* as texts of JSON, in the order of *page*; they are the
        result of *where*, a condition and its values."""
        if not keys:
            return []
        times = [key[0] for key in keys]
        least, greatest = min(times), max(times)
        parts = [part for part in parts if part.first <= greatest and part.last >= least]
        if page.order_by == "timestamp":
            condition, values = _between(keys, where)
        else:
            within = f"request_id IN (SELECT unnest({statements.TEXTS}))"
            condition = f"timestamp BETWEEN ? AND ? AND {within}"
            values = [least, greatest, statements.texts(key[1] for key in keys)]
            if len(keys) <= _FEW_KEYS:
                # They may be far apart: each time says which groups of rows need not be read.
                condition += f" AND timestamp IN ({', '.join(map(_literal, times))})"
        rows = f"SELECT * FROM ({self._parts.relation(parts)}) WHERE {condition}"  # noqa: S608  our names
        sql = statements.ENTRIES.replace("/*logs*/", rows).replace("/*where*/", "true")
        sql = sql.replace("/*order*/", _order(page))
        return cursor.execute(sql, [*values, len(keys)]).fetchall()

    def sessions(self, where: LogFilter, page: SessionPage) -> SessionsPage:
        """As Store.sessions()."""
        condition, values = statements.condition(where)
        direction = "DESC" if page.order_desc else "ASC"
        order = f"page.{page.order_by} {direction} NULLS LAST, page.session_id {direction}"
        with self._moment() as cursor:
            logs = self._parts.relation(self._overlapping(cursor, where))
            sql = statements.SESSIONS.replace("/*logs*/", logs).replace("/*where*/", condition)
            sql = sql.replace("/*order*/", order)
            rows = cursor.execute(sql, [*values, page.limit, page.offset]).fetchall()
        total = rows[0][2] if rows else 0
        return SessionsPage(statements.array(rows), total, tuple(row[1] for row in rows))

    def conversations(self, message_ids: Collection[str]) -> dict[str, str]:
        """As RecordingStore.conversations()."""
        with self._moment() as cursor:
            rows = cursor.execute(
                "SELECT message_id, conversation_id FROM recent_logs "  # noqa: S608  our names
                f"WHERE message_id IN (SELECT unnest({statements.TEXTS})) "
                "AND conversation_id IS NOT NULL",
                [statements.texts(message_ids)],
            ).fetchall()
        return dict(rows)

    # -- figures -----------------------------------------------------------------------------------

    def totals(self, where: LogFilter) -> Totals:
        """As Store.totals()."""
        condition, values = statements.condition(where)
        with self._moment() as cursor:
            parts, few = self._asked_of(cursor, where)
            if not few:
                rows = self._figures_of_many(cursor, where, parts, _LONG_BUCKET)
                return Totals(**analytics.totals(rows))
            sql = statements.TOTALS.replace("/*logs*/", self._parts.relation(parts))
            row = cursor.execute(sql.replace("/*where*/", condition), values).fetchone()
        return Totals(**complete(row)) if row else Totals()

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """As Store.analytics()."""
        if where.start_time is None:
            raise ValueError("analytics need a start")
        condition, values = statements.condition(where)
        with self._moment() as cursor:
            parts, few = self._asked_of(cursor, where)
            if few:
                sql = statements.ANALYTICS.replace("/*logs*/", self._parts.relation(parts))
                sql = sql.replace("/*where*/", condition)
                rows = cursor.execute(sql, [bucket_seconds, *values]).fetchall()
            else:
                rows = self._figures_of_many(cursor, where, parts, bucket_seconds)
        now = datetime.now(UTC)
        end = min(where.end_time or now, now)
        return orjson.dumps(analytics.analytics(rows, bucket_seconds, where.start_time, end))

    def groups(self, where: LogFilter, grouping: Grouping) -> bytes:
        """As Store.groups()."""
        condition, values = statements.condition(where)
        with self._moment() as cursor:
            logs = self._parts.relation(self._overlapping(cursor, where))
            sql = statements.groups(logs, condition, grouping.by, often=grouping.often)
            rows = cursor.execute(sql, [*values, grouping.limit]).fetchall()
        return statements.array(rows)

    def _asked_of(
        self, cursor: duckdb.DuckDBPyConnection, where: LogFilter
    ) -> tuple[list[Part], bool]:
        """Return the parts to ask, and whether there are few rows in all."""
        parts = self._overlapping(cursor, where)
        [(recent,)] = cursor.execute("SELECT count(*) FROM recent_logs").fetchall()
        return parts, recent + sum(part.rows for part in parts) <= EXACT_ROWS

    def _figures_of_many(
        self,
        cursor: duckdb.DuckDBPyConnection,
        where: LogFilter,
        parts: Sequence[Part],
        bucket_seconds: int,
    ) -> list[Row]:
        """Return the rows of analytics: of whole hours from the sums."""
        hours = figures.whole_hours(where, self._newest_time(cursor))
        hours = figures.fitting(bucket_seconds, where, hours)
        rows = self._parts.relation(parts) if hours is None else self._rest(cursor, parts, hours)
        return cursor.execute(*figures.statement(rows, where, bucket_seconds, hours)).fetchall()

    def _rest(self, cursor: duckdb.DuckDBPyConnection, parts: Sequence[Part], hours: Hours) -> str:
        """Return the SELECT of the rows that are in no sum of *hours*."""
        begin, end = hours.bounds()
        outside = f"timestamp < {_literal(begin)}"
        waiting = f"generation IS NULL OR generation > {self._sums.summed_to(cursor)}"
        edges = [(outside, [part for part in parts if part.summed and part.first < begin])]
        if end is not None:
            later = f"timestamp >= {_literal(end)}"
            edges.append((later, [part for part in parts if part.summed and part.last >= end]))
            outside += f" OR {later}"
        recent = f"(FROM {RECENT} WHERE {waiting} OR {outside})"
        found = [self._parts.relation([part for part in parts if not part.summed], recent)]
        for condition, known in edges:
            if known:
                rows = self._parts.relation(known, recent="")
                found.append(f"SELECT * FROM ({rows}) WHERE {condition}")  # noqa: S608  our names
        return " UNION ALL ".join(found)

    def _newest_time(self, cursor: duckdb.DuckDBPyConnection) -> datetime | None:
        [(recent,)] = cursor.execute(f"SELECT max(timestamp) FROM {RECENT}").fetchall()  # noqa: S608  our names
        times = [part.last for part in self._parts.registered(cursor)]
        return max([*times, recent] if recent else times, default=None)

    def limits(self, asked: LimitsAsked) -> bytes:
        """As Store.limits()."""
        start, end = limits.utc(asked.start_time), limits.utc(asked.end_time)
        with self._moment() as cursor:
            rows = limits.asked_for(cursor, asked)
            uses = {}
            moves = limits.moves(rows) if asked.shares else {}
            for account, times in moves.items():
                where = LogFilter(start_time=times[0] - limits.LONGEST, end_time=times[-1])
                logs = self._parts.relation(self._overlapping(cursor, where), names=limits.NEEDED)
                uses[account] = limits.uses(cursor, logs, *account, times)
        now = min(datetime.now(UTC).replace(tzinfo=None), end)
        return orjson.dumps(quota.answered(rows, uses, now, start, self._meter))

    # -- files -------------------------------------------------------------------------------------

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """As Store.export()."""
        if self._pipes is None:
            raise StoreUnavailable("the database's folder can hold no pipe for exports", 60)
        form_options, names = statements.EXPORTS[form]
        condition, values = statements.condition(where)
        asking: list[duckdb.DuckDBPyConnection] = []

        def write(path: Path) -> None:
            options = f"{form_options}, USE_TMP_FILE false, PRESERVE_ORDER false"
            with self._moment(EXPORT_SECONDS) as cursor:
                asking.append(cursor)
                logs = self._parts.relation(self._overlapping(cursor, where))
                rows = f"SELECT {names} FROM ({logs}) AS logs WHERE {condition}"  # noqa: S608  our names
                cursor.execute(
                    f"COPY ({rows}) TO {statements.quoted(str(path))} ({options})", values
                )

        def cancel() -> None:
            for cursor in asking:
                with suppress(duckdb.ConnectionException):  # it has just ended by itself
                    cursor.interrupt()

        return self._pipes.transfer(write, cancel)

    # -- which rows --------------------------------------------------------------------------------

    @contextmanager
    def _moment(self, seconds: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor that sees the rows of one moment, all of them once."""
        with self._database.questions(seconds) as cursor:
            cursor.execute("BEGIN TRANSACTION")
            yield cursor

    def _overlapping(self, cursor: duckdb.DuckDBPyConnection, where: LogFilter) -> list[Part]:
        start, end = _naive(where.start_time), _naive(where.end_time)
        return [
            part
            for part in self._parts.registered(cursor)
            if (start is None or part.last >= start)
            and (end is None or part.first <= end)
            and (where.request_id is None or part.least_id <= where.request_id <= part.greatest_id)
        ]

    def _count(
        self, cursor: duckdb.DuckDBPyConnection, where: LogFilter, parts: Sequence[Part]
    ) -> int:
        whole = _whole(parts, where)
        hours = None if whole else figures.whole_hours(where, self._newest_time(cursor))
        if hours is not None:
            return number_in(
                cursor.execute(*figures.count(self._rest(cursor, parts, hours), where, hours))
            )
        known = sum(part.rows for part in whole)
        parts = [part for part in parts if part not in whole]
        condition, values = statements.condition(where)
        logs = self._parts.relation(parts)
        count = f"SELECT count(*) FROM ({logs}) AS logs WHERE {condition}"  # noqa: S608  our names
        return known + number_in(cursor.execute(count, values))


def _between(keys: Sequence[Key], where: tuple[str, list[Any]]) -> tuple[str, list[Any]]:
    """Return the condition, with its values, that rows from the first to the last of *keys* meet.

    Much quicker than to look for each id, of which the engine knows no place.
    """
    condition, values = where
    least, greatest = sorted((keys[0], keys[-1]))
    within = "timestamp BETWEEN ? AND ? AND (timestamp > ? OR request_id >= ?)"
    within += " AND (timestamp < ? OR request_id <= ?)"
    bounds = [least[0], greatest[0], *least[:2], *greatest[:2]]
    return f"{condition} AND {within}", [*values, *bounds]


def _whole(parts: Sequence[Part], where: LogFilter) -> list[Part]:
    """Return those of *parts* of which *where* means every row."""
    if where.model_copy(update={"start_time": None, "end_time": None}) != _NOTHING:
        return []
    start, end = _naive(where.start_time), _naive(where.end_time)
    return [
        part
        for part in parts
        if (start is None or part.first >= start) and (end is None or part.last <= end)
    ]


def _literal(moment: datetime) -> str:
    return f"TIMESTAMP '{moment}'"


def _order(page: Page) -> str:
    # With its table, a name is the column and not the text that is shown of it: much faster.
    direction = "DESC" if page.order_desc else "ASC"
    return f"logs.{page.order_by} {direction} NULLS LAST, request_id {direction}"


def _is_settled(found: Sequence[Key], following: Part, page: Page) -> bool:
    """Tell whether no row of the *following* part, or of those behind it, comes before the last of
    *found*."""
    if len(found) < page.limit:
        return False
    last = found[-1][0]
    return bool(last > following.last if page.order_desc else last < following.first)


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)

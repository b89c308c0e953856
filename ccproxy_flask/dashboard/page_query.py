"""What the address of a page asks for: a range of time, filters, an order, columns. Pure.

``range=1h|6h|24h|7d|30d|from..to`` and one parameter for each filter, the same on every page, so
that whatever a person sees can be sent as a link. Without ``class`` it is generations that are
meant: counts of tokens, lists, probes and strangers are shown where they are asked for. What cannot
be read is left out, and said in ``problems``: a page is shown in any case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ccproxy_flask.record import COLUMNS
from ccproxy_flask.store.base import Cursor, LogFilter

from .page_filters import FILTERS, Unreadable

if TYPE_CHECKING:
    from collections.abc import Collection

    from werkzeug.datastructures import MultiDict

RANGES = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
DEFAULT_RANGE = "24h"
COLUMN_NAMES = {
    "time": "Time",
    "status": "Status",
    "model": "Model",
    "request": "Request",
    "client": "Client",
    "session": "Session",
    "duration": "Duration",
    "waterfall": "Timing",
    "first": "First token",
    "input": "Input",
    "cached": "Cached",
    "written": "Written",
    "cache": "Cache",
    "output": "Output",
    "sent": "Sent",
    "received": "Received",
    "finish": "Finish",
    "node": "Node",
    "cost": "Cost",
}
"""The columns of the table of requests, in their order."""
DEFAULT_COLUMNS = (
    *("time", "status", "model", "request", "duration", "waterfall"),
    *("first", "input", "cache", "output", "cost"),
)
NUMERIC = frozenset({"duration", "first", "input", "cached", "written", "output", "cost"}) | {
    *("sent", "received"),
}
SORT_COLUMNS = {
    "time": "timestamp",
    "status": "status_code",
    "model": "model",
    "request": "path",
    "client": "user_agent",
    "session": "session_id",
    "duration": "duration_ms",
    "first": "ttft_ms",
    "input": "tokens_input",
    "cached": "cache_read_tokens",
    "written": "cache_write_tokens",
    "output": "tokens_output",
    "sent": "request_bytes",
    "received": "response_bytes",
    "finish": "finish_reason",
    "node": "node",
    "cost": "cost_usd",
}
assert set(SORT_COLUMNS.values()) <= set(COLUMNS)  # noqa: S101  of our own tables
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class PageQuery:
    """What the address of a page asks for. *filters* are as written, in the order of FILTERS."""

    range: str
    start: datetime
    end: datetime
    live: bool
    """The range ends now, and goes on."""
    filters: dict[str, str] = field(default_factory=dict)
    where: LogFilter = field(default_factory=LogFilter)
    sort: str = "-time"
    columns: tuple[str, ...] = DEFAULT_COLUMNS
    cursor: Cursor | None = None
    page: int = 1
    problems: tuple[str, ...] = ()

    @property
    def before(self) -> LogFilter:
        """The same filters in the period before, which is as long."""
        return self._within(self.start - (self.end - self.start), self.start)

    @property
    def order(self) -> tuple[str, bool]:
        """The column of the store to order by, and whether the largest come first."""
        return SORT_COLUMNS[self.sort.removeprefix("-")], self.sort.startswith("-")

    @property
    def is_newest_first(self) -> bool:
        """True where rows are in the order in which they come in."""
        return self.sort == "-time"

    def _within(self, start: datetime, end: datetime | None) -> LogFilter:
        return self.where.model_copy(update={"start_time": start, "end_time": end})

    def parameters(self, **changes: str | None) -> dict[str, str]:
        """Return the parameters of a link to what is shown, with *changes*; None takes one out."""
        found: dict[str, str | None] = {}
        if self.range != DEFAULT_RANGE:
            found["range"] = self.range
        if self.sort != "-time":
            found["sort"] = self.sort
        if self.columns != DEFAULT_COLUMNS:
            found["cols"] = ",".join(self.columns)
        found |= self.filters | changes
        return {name: value for name, value in found.items() if value is not None}

    def link(self, path: str, **changes: str | None) -> str:
        """Return *path* with the parameters of what is shown, with *changes*."""
        found = urlencode(self.parameters(**changes), safe="/:,.<>=~")
        return f"{path}?{found}" if found else path

    def api_parameters(self) -> dict[str, str]:
        """Return the same filter as parameters of ``/logs``."""
        return {name: _parameter(value) for name, value in self.where.to_wire().items()}

    def shifted(self, direction: int) -> str:
        """Return the range one period earlier (-1) or later (1); one that ends now stays live."""
        length = self.end - self.start
        end = self.end + direction * length
        if end >= datetime.now(UTC) - timedelta(seconds=1):
            return next((name for name, span in RANGES.items() if span == length), DEFAULT_RANGE)
        return f"{_stamp(end - length)}..{_stamp(end)}"


def _parameter(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):  # names to include, and to exclude
        without = (f"!{name}" for name in value.get("exclude", ()))
        return ",".join([*value.get("include", ()), *without])
    return str(value)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(
    args: MultiDict[str, str],
    now: datetime | None = None,
    sorts: Collection[str] = SORT_COLUMNS,
) -> PageQuery:
    """Return what the parameters *args* ask for; *sorts*: what it can sort by.

    Never raises.
    """
    problems: list[str] = []
    chosen, start, end = _range(
        args.get("range", DEFAULT_RANGE), now or datetime.now(UTC), problems
    )
    fields: dict[str, Any] = {}
    filters: dict[str, str] = {}
    for name, (_, parse) in FILTERS.items():
        value = args.get(name, "").strip()
        if not value:
            continue
        try:
            fields |= parse(value)
        except Unreadable as error:
            problems.append(f"{name}:{value[:60]} is left out: {name} {error}.")
        else:
            filters[name] = value
    if "class" not in filters:
        fields["generation"] = True
    live = ".." not in chosen
    where = LogFilter(start_time=start, end_time=None if live else end, **fields)
    return PageQuery(
        range=chosen,
        start=start,
        end=end,
        live=live,
        filters=filters,
        where=where,
        sort=_sort(args.get("sort"), sorts, problems),
        columns=_columns(args.getlist("cols"), problems),
        cursor=_cursor(args.get("cursor"), problems),
        page=_page(args.get("page"), problems),
        problems=tuple(problems),
    )


def _range(text: str, now: datetime, problems: list[str]) -> tuple[str, datetime, datetime]:
    if text in RANGES:
        return text, now - RANGES[text], now
    start_text, found, end_text = text.partition("..")
    start, end = _moment(start_text), _moment(end_text, last=True) if end_text else now
    if found and start is not None and end is not None and start < end:
        return text, start, end
    known = ", ".join(RANGES)
    problems.append(
        f"range={text[:60]} is left out: it is {known}, or two times such as "
        "2026-11-20..2026-11-21T06:00Z."
    )
    return DEFAULT_RANGE, now - RANGES[DEFAULT_RANGE], now


def _moment(text: str, last: bool = False) -> datetime | None:
    """Return a time; *last*: a day alone means its end."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    if last and _DAY.fullmatch(text):
        found += timedelta(days=1)
    try:
        return found.astimezone(UTC)
    except OverflowError:
        return None


def _sort(text: str | None, sorts: Collection[str], problems: list[str]) -> str:
    if not text:
        return "-time"
    if text.removeprefix("-") in sorts:
        return text
    problems.append(f"sort={text[:60]} is left out: there is no such column.")
    return "-time"


def _columns(texts: list[str], problems: list[str]) -> tuple[str, ...]:
    wanted = [name for text in texts for name in text.split(",") if name]
    unknown = [name for name in wanted if name not in COLUMN_NAMES]
    if unknown:
        problems.append(f"cols={unknown[0][:60]} is left out: there is no such column.")
    found = tuple(name for name in COLUMN_NAMES if name in wanted)
    return found or DEFAULT_COLUMNS


def _cursor(text: str | None, problems: list[str]) -> Cursor | None:
    if not text:
        return None
    try:
        return Cursor.parse(text)
    except ValueError:
        problems.append("cursor is left out: it is none of ours.")
        return None


def _page(text: str | None, problems: list[str]) -> int:
    if not text:
        return 1
    if re.fullmatch(r"[1-9]\d{0,5}", text):
        return int(text)
    problems.append(f"page={text[:60]} is left out: it is no number.")
    return 1

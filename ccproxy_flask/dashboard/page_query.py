"""What the address of a page asks for: a range of time, filters, an order, columns. Pure.

``range=1h|6h|24h|7d|30d|from..to`` and one parameter for each filter, the same on every page, so
that whatever a person sees can be sent as a link. What cannot be read is left out, and said in
``problems``: a page is shown in any case.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.record import COLUMNS
from ccproxy_flask.store.base import Cursor, LogFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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
_LONGEST = 256
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Unreadable(ValueError):
    """A value means nothing; the message says what would."""


def _text(value: str) -> str:
    if not 1 <= len(value) <= _LONGEST:
        raise Unreadable(f"takes 1 to {_LONGEST} characters")
    return value


def _status(value: str) -> dict[str, Any]:
    low: int | None
    high: int | None
    if match := re.fullmatch(r"([1-5])xx", value.lower()):
        low, high = int(match[1]) * 100, int(match[1]) * 100 + 99
    elif match := re.fullmatch(r"(>=|<=|>|<)?([1-5]\d\d)", value):
        bound = int(match[2])
        low, high = {
            ">=": (bound, None),
            ">": (bound + 1, None),
            "<=": (None, bound),
            "<": (None, bound - 1),
            None: (bound, bound),
        }[match[1]]
    elif match := re.fullmatch(r"([1-5]\d\d)\.\.([1-5]\d\d)", value):
        low, high = sorted((int(match[1]), int(match[2])))
    else:
        raise Unreadable("is a status such as 429, 5xx, >=400 or 400..499")
    return _within_statuses(low, high)


def _duration(value: str) -> dict[str, Any]:
    match = re.fullmatch(r"(>=|<=|>|<)?(\d{1,9}(?:\.\d{1,6})?)(ms|s|m)?", value)
    if match is None:
        raise Unreadable("is a time such as >5s, <200ms or >=1m")
    bound = float(match[2]) * {"ms": 1, "s": 1000, "m": 60_000, None: 1}[match[3]]
    if match[1] in ("<", "<="):
        return {"max_duration_ms": bound}
    return {"min_duration_ms": bound}


def _within_statuses(low: int | None, high: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if low is not None:
        found["status_code_min"] = min(max(low, 100), 599)
    if high is not None:
        found["status_code_max"] = min(max(high, 100), 599)
    return found


def _error(value: str) -> dict[str, Any]:
    if value in ("any", "none"):
        return {"succeeded": value == "none"}
    if value not in ERROR_TYPES:
        raise Unreadable("is any, none, or a type of error such as rate_limit")
    return {"error_type": value}


def _model(value: str) -> dict[str, Any]:
    if value.startswith("="):
        return {"model": _text(value[1:])}
    return {"model_contains": _text(value)}


def _flag(name: str) -> Callable[[str], dict[str, Any]]:
    def parse(value: str) -> dict[str, Any]:
        if value not in ("yes", "no"):
            raise Unreadable("is yes or no")
        return {name: value == "yes"}

    return parse


FILTERS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "provider": ("A provider's name", lambda value: {"provider": _text(value)}),
    "model": ("A part of its name, or =name", _model),
    "status": ("429, 5xx, >=400, 400..499", _status),
    "error": ("any, none, or a type of error", _error),
    "duration": (">5s, <200ms", _duration),
    "session": ("A session's id", lambda value: {"session_id": _text(value)}),
    "user": ("A user, as the client names them", lambda value: {"user_id": _text(value)}),
    "key": ("A key, by its hash", lambda value: {"api_key_id": _text(value)}),
    "stream": ("yes or no", _flag("streaming")),
    "generation": ("yes: what a model answers; no: the rest", _flag("generation")),
    "q": ("A text in path, model, client or error", lambda value: {"q": _text(value)}),
}
"""The filters of a page: what they take, and the fields of a LogFilter that they become."""


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
        found = self.where.to_wire()
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in found.items()
        }

    def shifted(self, direction: int) -> str:
        """Return the range one period earlier (-1) or later (1); one that ends now stays live."""
        length = self.end - self.start
        end = self.end + direction * length
        if end >= datetime.now(UTC) - timedelta(seconds=1):
            return next((name for name, span in RANGES.items() if span == length), DEFAULT_RANGE)
        return f"{_stamp(end - length)}..{_stamp(end)}"


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


def typed(text: str) -> dict[str, str]:
    """Return the filters that a person typed: ``model:opus status:>=400 some text``.

    What is no filter is searched for as a text.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    for word in _split(text):
        name, colon, value = word.partition(":")
        if colon and value and name.lower() in FILTERS:
            found[name.lower()] = value
        else:
            rest.append(word)
    if rest:
        found["q"] = " ".join(rest)
    return found


def _split(text: str) -> list[str]:
    """Return the words of *text*; what is between quotation marks is one."""
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark that is not closed
        return text.split()

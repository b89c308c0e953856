"""Query parameters → typed values. Each one is checked, and all that is wrong is said at once.

The codes and messages are those of pydantic's errors, which clients of the published API know.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.errors import ERROR_TYPES, CcproxyError, InvalidParameter
from ccproxy_flask.record import COLUMNS
from ccproxy_flask.store.base import MOST_ROWS, Choice, Cursor, LogFilter, Page

from . import forms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from werkzeug.datastructures import MultiDict

FILTERS = frozenset(
    {
        "start_time",
        "end_time",
        "model",
        "service_type",
        "provider",
        "status_code_min",
        "status_code_max",
        "min_duration_ms",
        "max_duration_ms",
        "streaming",
        "session_id",
        "request_id",
        "error_type",
        "q",
    }
)
"""The parameters that every endpoint with rows takes."""

LARGEST_OFFSET = 1_000_000_000
FORMATS = ("csv", "jsonl", "parquet")
LONGEST_SQL = 20_000
MOST_ENTRIES = 1000
MOST_HOURS = 168
_SQL_ROWS = 1000
LONGEST_TEXT = 256
LONGEST_DURATION_MS = 1e12
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True} | {
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


class InvalidParameters(CcproxyError):
    """*problems* are all that is wrong with the parameters of a request."""

    def __init__(self, problems: Iterable[InvalidParameter]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{one.name}: {one}" for one in self.problems))


class Parameters:
    """The query parameters of one request. Read each, then call :meth:`check`."""

    def __init__(self, args: MultiDict[str, str], allowed: frozenset[str]) -> None:
        self._args = args
        self._problems: list[InvalidParameter] = []
        for name, values in args.lists():
            if name not in allowed:
                self._wrong(name, values[0], "Extra inputs are not permitted", "extra_forbidden")
            elif len(values) > 1:
                self._wrong(name, values, "Input should be given once", "multiple_values")

    def check(self) -> None:
        """Raise InvalidParameters where anything was wrong."""
        if self._problems:
            raise InvalidParameters(self._problems)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number between *low* and *high*; None where it is absent or wrong."""
        text = self._text_of(name)
        if text is None:
            return None
        if not forms.INTEGER.fullmatch(text):
            message = "Input should be a valid integer, unable to parse string as an integer"
            self._wrong(name, text, message, "int_parsing")
            return None
        value = int(text)
        return value if self._is_between(name, text, value, low, high) else None

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a finite number between *low* and *high*; None where it is absent or wrong."""
        text = self._text_of(name)
        if text is None:
            return None
        if not forms.NUMBER.fullmatch(text):
            message = "Input should be a valid number, unable to parse string as a number"
            self._wrong(name, text, message, "float_parsing")
            return None
        value = float(text)
        if not math.isfinite(value):
            self._wrong(name, text, "Input should be a finite number", "finite_number")
            return None
        return value if self._is_between(name, text, value, low, high) else None

    def boolean(self, name: str) -> bool | None:
        """Return a truth value; None where it is absent or wrong."""
        text = self._text_of(name)
        if text is None:
            return None
        value = _BOOLEANS.get(text.lower())
        if value is None:
            message = "Input should be a valid boolean, unable to interpret input"
            self._wrong(name, text, message, "bool_parsing")
            return None
        return value

    def moment(self, name: str) -> datetime | None:
        """Return a time, given as seconds since 1970 or as in RFC 3339 (UTC without an offset)."""
        text = self._text_of(name)
        if text is None:
            return None
        if forms.NUMBER.fullmatch(text):
            seconds = self.number(name, 0, forms.LAST_SECOND)
            return None if seconds is None else forms.EPOCH + timedelta(seconds=seconds)
        value = forms.moment(text)
        if value is None:
            message = "Input should be seconds since 1970 or a time as in RFC 3339, from 1970 on"
            self._wrong(name, text, message, "datetime_parsing")
        return value

    def text(self, name: str) -> str | None:
        """Return a text of reasonable length; None where it is absent or wrong."""
        text = self._text_of(name)
        if text is None:
            return None
        if not text:
            message = "String should have at least 1 character"
            self._wrong(name, text, message, "string_too_short")
            return None
        if len(text) > LONGEST_TEXT:
            message = f"String should have at most {LONGEST_TEXT} characters"
            self._wrong(name, text, message, "string_too_long")
            return None
        return text

    def one_of(self, name: str, values: Iterable[str]) -> str | None:
        """Return one of *values*; None where it is absent or wrong."""
        text = self._text_of(name)
        if text is None:
            return None
        known = list(values)
        if text not in known:
            shown = ", ".join(f"'{value}'" for value in known[:-1]) + f" or '{known[-1]}'"
            self._wrong(name, text, f"Input should be {shown}", "literal_error")
            return None
        return text

    def choice(self, name: str) -> Choice:
        """Return what ``a,b`` (any of these) and ``!a,!b`` (none of these) mean."""
        text = self.text(name)
        if text is None:
            return Choice()
        if not forms.CHOICES.fullmatch(text):
            message = "Value error, Input should be names between commas, each with ! or without"
            self._wrong(name, text, message)
            return Choice()
        parts = [part.strip(" ") for part in text.split(",")]
        return Choice(
            include=tuple(part for part in parts if not part.startswith("!")),
            exclude=tuple(part[1:].strip(" ") for part in parts if part.startswith("!")),
        )

    def cursor(self, name: str) -> Cursor | None:
        """Return where a page ended; None where it is absent or wrong."""
        text = self._text_of(name)
        if text is None:
            return None
        if not forms.CURSOR.fullmatch(text):
            self._wrong(name, text, "Value error, not a cursor that this API gave")
            return None
        return Cursor.parse(text)

    def ordered(self, low_name: str, low: Any, high_name: str, high: Any) -> None:
        """Note it where *low* is over *high*."""
        if low is not None and high is not None and low > high:
            message = f"Value error, {high_name} must not be less than {low_name}"
            self._wrong(high_name, self._args[high_name], message)

    def _text_of(self, name: str) -> str | None:
        values = self._args.getlist(name)
        return values[0] if len(values) == 1 else None

    def _is_between(self, name: str, text: str, value: float, low: float, high: float) -> bool:
        if value < low:
            message = f"Input should be greater than or equal to {low:g}"
            self._wrong(name, text, message, "greater_than_equal")
        elif value > high:
            message = f"Input should be less than or equal to {high:.15g}"
            self._wrong(name, text, message, "less_than_equal")
        else:
            return True
        return False

    def _wrong(self, name: str, value: Any, message: str, kind: str = "value_error") -> None:
        self._problems.append(InvalidParameter(name, value, message, kind))


def log_filter(found: Parameters) -> LogFilter:
    """Return the filter that *found* describes; what is wrong with it is noted there."""
    where = LogFilter(
        start_time=found.moment("start_time"),
        end_time=found.moment("end_time"),
        model=found.text("model"),
        service_type=found.choice("service_type"),
        provider=found.text("provider"),
        status_code_min=found.integer("status_code_min", 100, 599),
        status_code_max=found.integer("status_code_max", 100, 599),
        min_duration_ms=found.number("min_duration_ms", 0, LONGEST_DURATION_MS),
        max_duration_ms=found.number("max_duration_ms", 0, LONGEST_DURATION_MS),
        streaming=found.boolean("streaming"),
        session_id=found.text("session_id"),
        request_id=found.text("request_id"),
        error_type=found.one_of("error_type", sorted(ERROR_TYPES)),
        q=found.text("q"),
    )
    found.ordered("start_time", where.start_time, "end_time", where.end_time)
    found.ordered(
        "status_code_min", where.status_code_min, "status_code_max", where.status_code_max
    )
    found.ordered(
        "min_duration_ms", where.min_duration_ms, "max_duration_ms", where.max_duration_ms
    )
    return where


def entries_parameters(args: MultiDict[str, str]) -> tuple[LogFilter, Page]:
    """Return what ``/logs/entries`` is asked for. Raises InvalidParameters."""
    found = Parameters(args, FILTERS | {"limit", "offset", "order_by", "order_desc"})
    where = log_filter(found)
    limit = found.integer("limit", 1, MOST_ENTRIES)
    offset = found.integer("offset", 0, LARGEST_OFFSET)
    order_by = found.one_of("order_by", COLUMNS)
    order_desc = found.boolean("order_desc")
    found.check()
    descending = True if order_desc is None else order_desc
    return where, Page(limit or 50, offset or 0, order_by or "timestamp", descending)


def query_parameters(args: MultiDict[str, str]) -> tuple[LogFilter, int, Cursor | None]:
    """Return what ``/logs/query`` is asked for. Raises InvalidParameters."""
    found = Parameters(args, FILTERS | {"limit", "cursor"})
    where = log_filter(found)
    limit = found.integer("limit", 1, MOST_ROWS)
    cursor = found.cursor("cursor")
    found.check()
    return where, limit or 1000, cursor


def analytics_parameters(args: MultiDict[str, str]) -> tuple[LogFilter, int]:
    """Return what ``/logs/analytics`` is asked for: a filter with a start, and the hours.

    Raises InvalidParameters.
    """
    found = Parameters(args, FILTERS | {"hours"})
    where = log_filter(found)
    hours = found.integer("hours", 1, MOST_HOURS) or 24
    found.check()
    if where.start_time is None:
        end = where.end_time or datetime.now(UTC)
        start = max(forms.EPOCH, end - timedelta(hours=hours))
        where = dataclasses.replace(where, start_time=start)
    return where, hours


def export_parameters(args: MultiDict[str, str]) -> tuple[LogFilter, str]:
    """Return what ``/logs/export`` is asked for. Raises InvalidParameters."""
    found = Parameters(args, FILTERS | {"format"})
    where = log_filter(found)
    form = found.one_of("format", FORMATS)
    found.check()
    return where, form or FORMATS[0]


def sql_parameters(body: bytes) -> tuple[str, int]:
    """Return the statement and the most rows that the *body* of ``/logs/sql`` asks for.

    Raises InvalidParameters.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _in_body("", None, "Input should be JSON", "json_invalid") from None
    if not isinstance(fields, dict):
        raise _in_body("", fields, "Input should be an object", "dict_type")
    for name in fields.keys() - {"sql", "limit"}:
        raise _in_body(name, fields[name], "Extra inputs are not permitted", "extra_forbidden")
    text, limit = fields.get("sql"), fields.get("limit", _SQL_ROWS)
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)  # to JSON Schema, 10.0 is a whole number too
    if not isinstance(text, str) or not 1 <= len(text) <= LONGEST_SQL:
        message = f"Input should be a text of 1 to {LONGEST_SQL} characters"
        raise _in_body("sql", text if not isinstance(text, str) else None, message, "string_type")
    if type(limit) is not int or not 1 <= limit <= MOST_ROWS:
        message = f"Input should be a whole number from 1 to {MOST_ROWS}"
        raise _in_body("limit", limit, message, "int_type")
    return text, limit


def _in_body(name: str, value: Any, message: str, kind: str) -> InvalidParameters:
    return InvalidParameters([InvalidParameter(name, value, message, kind, where="body")])


def no_parameters(args: MultiDict[str, str]) -> None:
    """Raise InvalidParameters where there is any."""
    Parameters(args, frozenset()).check()

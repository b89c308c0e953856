"""Analytics of many rows as one statement: whole hours from the sums, the rest from rows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ccproxy_flask.filters import LogFilter

from . import statements, sums
from .sums import DAY, HOUR, MINUTES

_BY_TIME = {"start_time": None, "end_time": None}
_BY_DIMENSION = {"model": None, "provider": None, "service_type": LogFilter().service_type}
_BY_CLASS = {"request_class": LogFilter().request_class, "generation": None}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  as rows have it
_FOR_EVER = 1 << 27
"""Hours: a time that no row has."""
_HOURS = DAY // HOUR
_KEYS = {
    "cells": "bucket, service_type, model, provider, failure",
    "name_bins": "service_type, model, provider, kind, bin",
    "time_bins": "bucket, kind, bin",
}
"""What analytics ask each kind for."""


@dataclass(frozen=True, slots=True)
class Hours:
    """The hours from *begin* to before *end*, since 1970, all of whose rows a filter means, as far
    as its other conditions go; *end* is None where there is no later row that it does not mean."""

    begin: int
    end: int | None

    def bounds(self) -> tuple[datetime, datetime | None]:
        """Return when they begin, and when they are over; UTC without a zone."""
        begin = _EPOCH + timedelta(hours=self.begin)
        return begin, None if self.end is None else _EPOCH + timedelta(hours=self.end)


def whole_hours(where: LogFilter, newest: datetime | None) -> Hours | None:
    """Return the hours that sums can be asked for; None where rows have to be.

    *newest* is the time of the newest row, UTC without a zone, as *where* has it with one.
    """
    others = _BY_TIME | _BY_DIMENSION | _BY_CLASS
    if where.model_copy(update=others) != LogFilter():
        return None
    begin, end = 0, None
    if where.start_time is not None:
        begin = -int(-where.start_time.timestamp() // HOUR)
    if where.end_time and newest and newest.replace(tzinfo=UTC) > where.end_time:
        end = int((where.end_time + datetime.resolution).timestamp() // HOUR)
    return Hours(begin, end) if end is None or end > begin else None


def has_dimensions(where: LogFilter) -> bool:
    """Tell whether *where* asks for more than time bins know."""
    return where.model_copy(update=_BY_DIMENSION) != where


def fitting(bucket: int, where: LogFilter, hours: Hours | None) -> Hours | None:
    """Return *hours*, None where there are no sums for buckets of so many seconds."""
    span = HOUR if has_dimensions(where) else MINUTES
    return hours if not bucket % span else None


def statement(
    rows: str, where: LogFilter, bucket: int, hours: Hours | None
) -> tuple[str, list[Any]]:
    """Return the statement and its values: the sums of *hours*, and those of *rows* where *where*.

    *rows* are all rows that are in no sum of *hours*. The buckets are of so many seconds.
    """
    condition, values = statements.condition(where)
    known, known_values = statements.condition(where.model_copy(update=_BY_TIME))
    text = f"WITH logs AS MATERIALIZED ({sums.rows_of(rows, condition, bucket)})"
    for kind, keys in _KEYS.items():
        selects = [f"SELECT {keys}, {sums.FIGURES[kind]} FROM ({_of_rows(kind)})"]  # noqa: S608  our names
        source = "name_bins" if kind == "time_bins" and has_dimensions(where) else kind
        for span, begin, end in _spans(hours, DAY if kind == "name_bins" else bucket):
            table = sums.TABLES[source, span]
            columns = keys.replace("bucket", f"unit * {span} // {bucket} AS bucket")
            selects.append(
                f"SELECT {columns}, {sums.SUMMED[kind]} FROM {table} "  # noqa: S608  our names
                f"WHERE unit >= {begin} AND unit < {end} AND {known} GROUP BY ALL"
            )
            values += known_values
        text += f", {kind} AS MATERIALIZED ({' UNION ALL '.join(selects)})"
    return text + statements.ANALYTICS_OF_MANY, values


def count(rows: str, where: LogFilter, hours: Hours) -> tuple[str, list[Any]]:
    """Return the statement, with its values, that counts what :func:`statement` sums up."""
    condition, values = statements.condition(where)
    known, known_values = statements.condition(where.model_copy(update=_BY_TIME))
    selects = [f"SELECT count(*) AS number FROM ({rows}) WHERE {condition}"]  # noqa: S608  our names
    for span, begin, end in _spans(hours, DAY):
        table = sums.TABLES["cells", span]
        selects.append(
            f"SELECT sum(requests) FROM {table} WHERE unit >= {begin} AND unit < {end} AND {known}"  # noqa: S608  our names
        )
        values += known_values
    return f"SELECT coalesce(sum(number), 0) FROM ({' UNION ALL '.join(selects)})", values  # noqa: S608  our names


def _of_rows(kind: str) -> str:
    return sums.of(kind, "logs", "NULL::BIGINT" if kind == "name_bins" else "unit", "bucket")


def _spans(hours: Hours | None, bucket: int) -> list[tuple[int, int, int]]:
    """Return which units (span, first, one behind the last) *hours* are, as long ones as can be
    for a *bucket*."""
    if hours is None:
        return []
    begin, end = hours.begin, _FOR_EVER if hours.end is None else hours.end
    if bucket % HOUR:
        many = HOUR // MINUTES
        return [(MINUTES, begin * many, end * many)]
    first, last = -(-begin // _HOURS), end // _HOURS
    if bucket % DAY or first >= last:
        return [(HOUR, begin, end)]
    found = [(HOUR, begin, first * _HOURS), (DAY, first, last), (HOUR, last * _HOURS, end)]
    return [each for each in found if each[1] < each[2]]

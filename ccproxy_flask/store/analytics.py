"""The shape of ``/logs/analytics``, made of the rows of ``queries/analytics.sql``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ccproxy_flask.totals import STORED, UNKNOWN, Totals, complete, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_NAMES = 100
"""Of each breakdown that many are shown, those with the most requests."""
_MOST_BUCKETS = 200
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_BUCKETS = (
    *(_MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR),
    *(_DAY, 7 * _DAY, 28 * _DAY, 364 * _DAY),
)
# Which dimension a row is about: the bit that GROUPING() has not set.
_WHOLE, _SERVICE_TYPE, _MODEL, _PROVIDER, _FAILURE, _BUCKET = 31, 15, 23, 27, 29, 30
_MODEL_BUCKET = 22
_BREAKDOWNS = {
    "service_type_breakdown": _SERVICE_TYPE,
    "model_breakdown": _MODEL,
    "provider_breakdown": _PROVIDER,
}
_NOTHING = tuple(getattr(Totals(), name) for name in STORED)
# What a request count is called but in the summary.
NAMES = {
    "total_requests": "request_count",
    "total_successful_requests": "successful_requests",
    "total_error_requests": "error_requests",
}

Row = tuple[Any, ...]


def bucket_for(start: float, end: float) -> int:
    """Return the seconds of a bucket, so that *start* to *end* are at most some 200 of them."""
    seconds = end - start
    return next((size for size in _BUCKETS if seconds <= size * _MOST_BUCKETS), _BUCKETS[-1])


def analytics(rows: Iterable[Row], bucket: int, start: datetime, end: datetime) -> dict[str, Any]:
    """Return all figures; the time series has every bucket of *bucket* seconds there is."""
    levels: dict[int, list[Row]] = {}
    for row in rows:
        levels.setdefault(row[0], []).append(row)
    summary = totals(levels.get(_WHOLE, ()))
    whole = _renamed(summary)
    found: dict[str, Any] = {
        "summary": summary,
        "token_analytics": _token_analytics(summary),
        "request_analytics": {
            "total_requests": whole["request_count"],
            **{
                name: whole[name]
                for name in ("successful_requests", "error_requests", "success_rate", "error_rate")
            },
        },
    }
    for name, level in _BREAKDOWNS.items():
        shown = _largest(levels.get(level, []))
        found[name] = {row[1] or UNKNOWN: _figures(row[3:]) for row in shown}
    found["error_breakdown"] = _errors(levels.get(_FAILURE, []), whole["error_requests"])
    found["not_shown"] = {
        name: max(0, len(levels.get(level, [])) - MOST_NAMES) for name, level in _BREAKDOWNS.items()
    }
    found["timeseries"] = list(_timeseries(levels.get(_BUCKET, []), bucket, start, end))
    found["model_timeseries"] = _by_model(levels, bucket)
    found["bucket_seconds"] = bucket
    return found


def totals(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the fields of ``Totals`` from the row about the whole."""
    return complete(next((row[3:] for row in rows if row[0] == _WHOLE), _NOTHING))


def _figures(row: Row) -> dict[str, Any]:
    return _renamed(complete(row))


def _renamed(figures: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(name, name): value for name, value in figures.items()}


def _token_analytics(whole: dict[str, Any]) -> dict[str, int]:
    return {
        "input_tokens": whole["total_tokens_input"],
        "output_tokens": whole["total_tokens_output"],
        "cache_read_tokens": whole["total_cache_read_tokens"],
        "cache_write_tokens": whole["total_cache_write_tokens"],
        "total_tokens": whole["total_tokens_all"],
    }


def _errors(rows: list[Row], errors: int) -> dict[str, Any]:
    """Return how often each error was, and its part of all errors in percent."""
    return {
        row[1]: {"request_count": row[3], "share": percent(row[3], errors)}
        for row in _largest([row for row in rows if row[1] is not None])
    }


def _largest(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row[3], row[1] or ""))[:MOST_NAMES]


def _by_model(levels: dict[int, list[Row]], bucket: int) -> list[dict[str, Any]]:
    """Return, for the models that are shown, what they did in the buckets in which they were."""
    shown = {row[1] for row in _largest(levels.get(_MODEL, []))}
    rows = sorted(levels.get(_MODEL_BUCKET, []), key=lambda row: (row[2], row[1] or ""))
    return [
        {
            "timestamp": _stamp(row[2] * bucket),
            "model": row[1] or UNKNOWN,
            **{name: figures[name] for name in ("request_count", "total_cost_usd")},
        }
        for row in rows
        if row[1] in shown
        for figures in (_figures(row[3:]),)
    ]


def _stamp(seconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat().replace("+00:00", "Z")


def _timeseries(
    rows: list[Row], bucket: int, start: datetime, end: datetime
) -> Iterable[dict[str, Any]]:
    known = {row[2]: row[3:] for row in rows}
    first = int(start.timestamp() // bucket)
    last = max(int(end.timestamp() // bucket), *known, first)
    # A clock that was years ahead once must not make millions of buckets.
    for number in range(first, min(last, first + 2 * _MOST_BUCKETS) + 1):
        yield {"timestamp": _stamp(number * bucket), **_figures(known.get(number, _NOTHING))}

"""A filter's word on one row: the same as the database's. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccproxy_flask.store.base import LogFilter

_SEARCHED = ("path", "model", "model_requested", "user_agent", "error_type", "error_message")
_SEARCHED_AT_START = ("path", "user_agent")
_EQUAL = ("model", "provider", "streaming", "session_id", "request_id", "error_type")
_KNOWN_AT_START = frozenset({"start_time", "end_time", "service_type", "provider", "request_id"})
"""What a filter asks of a row that is final when its request begins. The model that answers and
whether it streams, the session (it may stand at the end of a long body), status, duration and error
are not."""


def fits(where: LogFilter, row: Mapping[str, Any]) -> bool:
    """Tell whether *where* wants the *row* of a request that is over."""
    return all(
        value is None or row.get(name) == value
        for name, value in ((name, getattr(where, name)) for name in _EQUAL)
    ) and (
        _fits_choice(where, row)
        and _is_between(row.get("status_code"), where.status_code_min, where.status_code_max)
        and _is_between(row.get("duration_ms"), where.min_duration_ms, where.max_duration_ms)
        and _is_between(_moment(where, row), where.start_time, where.end_time)
        and (where.q is None or _contains(row, _SEARCHED, where.q))
    )


def fits_start(where: LogFilter, row: Mapping[str, Any]) -> bool | None:
    """Tell whether *where* wants a request whose start has this *row*; None: its end will tell."""
    known = (
        (where.provider is None or row.get("provider") == where.provider)
        and (where.request_id is None or row.get("request_id") == where.request_id)
        and _fits_choice(where, row)
        and _is_between(_moment(where, row), where.start_time, where.end_time)
    )
    if not known:
        return False
    if where.q is not None and not _contains(row, _SEARCHED_AT_START, where.q):
        return None
    return None if _asks_for_more(where) else True


@lru_cache(maxsize=64)
def _asks_for_more(where: LogFilter) -> bool:
    return bool(where.to_wire().keys() - _KNOWN_AT_START - {"q"})


def _fits_choice(where: LogFilter, row: Mapping[str, Any]) -> bool:
    choice, value = where.service_type, row.get("service_type")
    if not isinstance(value, str):
        return not (choice.include or choice.exclude)
    return (not choice.include or value in choice.include) and value not in choice.exclude


def _is_between(value: Any, low: Any, high: Any) -> bool:
    if low is None and high is None:
        return True
    if not isinstance(value, int | float | datetime) or isinstance(value, bool):
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def _moment(where: LogFilter, row: Mapping[str, Any]) -> datetime | None:
    """Return when the request came in, where *where* asks for that."""
    if where.start_time is None and where.end_time is None:
        return None
    try:
        return datetime.fromisoformat(row["timestamp"]).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):  # of a damaged line that is JSON all the same
        return None


def _contains(row: Mapping[str, Any], names: tuple[str, ...], text: str) -> bool:
    wanted = text.lower()
    return any(wanted in value.lower() for name in names if isinstance(value := row.get(name), str))

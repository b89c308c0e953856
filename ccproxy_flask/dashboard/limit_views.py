"""Rate limits as the pages show them: made of the recorder's answer, for the templates."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.store.limit_rows import LimitsAsked

from . import format as texts
from .session_views import session_link

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ccproxy_flask.store.base import Store

    from .page_query import PageQuery

STRIP = 4
_WARN, _FULL = 0.75, 0.95
_NAMED = 8
_HOUR, _DAY = 3600, 86_400
_REASONS = {
    "full": "It is full.",
    "resets_first": "It resets before it is full.",
    "no_use": "Nothing used it lately.",
    "too_little_known": "Too little is known to tell when it will be full.",
    "refills": "It fills again all the time.",
    "was_reset": "It was reset since, and nothing is known of it yet.",
    "not_stated": "",
}
BY = {
    "session": "Sessions",
    "agent": "Agents",
    "model": "Models",
    "client": "Clients",
    "key": "Keys",
}
_LINKED = {"model": "model", "client": "client", "key": "key"}


def limits(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return the windows of the page. Raises StoreUnavailable."""
    asked = LimitsAsked(query.start, query.end, query.filters.get("provider"))
    return {"windows": [_window(one, query) for one in orjson.loads(store.limits(asked))]}


def strip(store: Store, query: PageQuery) -> list[dict[str, Any]]:
    """Return the fullest windows, for the overview. Raises StoreUnavailable."""
    asked = LimitsAsked(query.start, query.end, query.filters.get("provider"), shares=False)
    found = orjson.loads(store.limits(asked))
    return [_window(one, query) for one in found if one["is_quota"] and one["used"] is not None][
        :STRIP
    ]


def _window(one: Mapping[str, Any], query: PageQuery) -> dict[str, Any]:
    used, told = one["used"], one["used_by"] or one["used_by_range"]
    return {
        "id": f"{one['window']}-{(one['account'] or 'none')[:8]}-{one['provider'] or ''}",
        "name": name_of(one),
        "provider": one["provider"] or texts.UNKNOWN,
        "account": (one["account"] or "")[:8],
        "used": texts.UNKNOWN if used is None else texts.percent(used, 1),
        "share": 0 if used is None else round(100 * used, 1),
        "kind": "bad" if (used or 0) >= _FULL else "warn" if (used or 0) >= _WARN else "",
        "status": texts.words(one["status"]),
        "note": texts.words(one["note"]),
        "amount": _amount(one),
        "reset": one["reset"],
        "reset_text": texts.utc(one["reset"]),
        "is_current": one["is_current"],
        "full_at": one["full_at"],
        "full_text": texts.utc(one["full_at"]),
        "reason": _REASONS.get(one["full_reason"] or "", ""),
        "stated": one["stated_at"],
        "stated_text": texts.utc(one["stated_at"]),
        "request": query.link(f"/dashboard/requests/{one['request_id']}"),
        "chart": _chart(one, query),
        "told": None if told is None else _told(told, query, now=one["used_by"] is not None),
        "meter": _meter(one["meter"]),
    }


def name_of(one: Mapping[str, Any]) -> str:
    """Return what a window is called: its length where that is known, and its name."""
    seconds, name = one["window_seconds"], one["window"]
    if name == "unified":
        return "All windows"
    if seconds is None or seconds < _HOUR:
        return str(name)
    length = f"{seconds // _DAY} days" if seconds % _DAY == 0 else f"{seconds // _HOUR} hours"
    suffix = name.partition("_")[2]
    if name in ("primary", "secondary"):
        return f"{length} ({name})"
    return f"{length}, {suffix}" if suffix else length


def _amount(one: Mapping[str, Any]) -> str:
    if one["remaining"] is None:
        return ""
    left = texts.short_count(one["remaining"])
    return f"{left} of {texts.short_count(one['limit'])} left" if one["limit"] else f"{left} left"


def _chart(one: Mapping[str, Any], query: PageQuery) -> dict[str, list[Any]]:
    """Return the history as two columns, over the whole of the range."""
    times = [datetime.fromisoformat(at).timestamp() for at, _ in one["history"]]
    used = [used for _, used in one["history"]]
    if not times:
        return {"time": [], "used": []}
    start, end = query.start.timestamp(), query.end.timestamp()
    return {"time": [start, *times, max(end, times[-1])], "used": [None, *used, one["used"]]}


def _told(told: Mapping[str, Any], query: PageQuery, *, now: bool) -> dict[str, Any]:
    elsewhere = told["unexplained"] / told["moved"] if told["moved"] else 0
    return {
        "now": now,
        "elsewhere": texts.percent(elsewhere, 1) if elsewhere > 0 else "",
        "elsewhere_share": round(100 * elsewhere, 1),
        "lists": list(_lists(told, query)),
    }


def _lists(told: Mapping[str, Any], query: PageQuery) -> Iterator[dict[str, Any]]:
    for kind, label in BY.items():
        named = [each for each in told["by"][kind] if each["share"]]
        if kind != "session" and not [each for each in named if each["name"] is not None]:
            continue
        rows = [_share(kind, each, query) for each in named[:_NAMED]]
        yield {"kind": kind, "label": label, "rows": rows, "more": len(named) - len(rows)}


def _share(kind: str, each: Mapping[str, Any], query: PageQuery) -> dict[str, Any]:
    name = each["name"]
    link = None
    if name is not None and kind == "session":
        link = session_link(query, name, sort=None)
    elif name is not None and kind in _LINKED:
        value = f"={name}" if kind == "model" else name
        link = query.link("/dashboard/requests", **{_LINKED[kind]: value})
    return {
        "name": name
        or {"session": "No session", "agent": "Main conversation"}.get(kind, "Unknown"),
        "link": link,
        "share": texts.percent(each["share"], 1),
        "width": round(100 * each["share"], 1),
        "requests": texts.count(each["requests"]),
    }


def _meter(meter: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return how it was found out what a token takes, with the weights that are known."""
    if meter is None:
        return None
    ways = {
        "fitted": f"found from {meter['blocks']} stretches of its own history",
        "scaled": f"found from the history of {meter['of']}",
        "by_price": "by price, as its history is still short",
    }
    weights = [
        {
            "model": each["model"],
            "kind": texts.words(each["kind"]),
            "value": f"{100 * each['per_million']:.3g}%",
            "between": f"{100 * each['low']:.3g} to {100 * each['high']:.3g}%",
        }
        for each in meter["weights"]
        if each["is_known"]
    ]
    return {"way": ways.get(meter["method"] or "", "not known yet"), "weights": weights}

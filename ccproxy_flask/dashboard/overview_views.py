"""The overview, as texts and numbers: made of the store's answers, for the template."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.store.analytics import bucket_for
from ccproxy_flask.store.base import Grouping, Page
from ccproxy_flask.totals import UNKNOWN

from . import format as texts
from .advice import ADVICE
from .limit_views import strip
from .panel_sql import panel_sql
from .session_views import session_link
from .tiles import tiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ccproxy_flask.store.base import Store

    from .page_query import PageQuery

NEWEST = 12
_MOST_MODELS = 7
_MOST_NAMES = 8
# Of so many requests everything is counted before the page is sent.
_FEW = 50_000
SPENDERS = {
    "model": ("model", "Model"),
    "session": ("session_id", "Session"),
    "user": ("user_id", "User"),
    "key": ("api_key_id", "Key"),
    "client": ("client", "Client"),
    "provider": ("provider", "Provider"),
}
"""Who can be asked what they spent: the filter, its column, and how it is called."""


def overview(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return the figures, charts and lists of the first page. Raises StoreUnavailable."""
    bucket = _bucket(query)
    found = orjson.loads(store.analytics(query.where, bucket))
    now = found["summary"]
    total = now["total_requests"]
    now["saved_usd"] = saved(found["model_breakdown"].values())
    view = {"tiles": tiles(now, store.totals(query.before), query), "total": total, "rows": []}
    view["limits"] = strip(store, query)
    if not total:
        return view
    return view | {
        "chart": _chart(found["timeseries"]) | _cost_by_model(found),
        "cards": _cards(store, query, found) if total <= _FEW else None,
        "later": query.link("/dashboard/cards"),
        "tokens": _tokens(now),
        "rows": newest(store, query, NEWEST),
        "sql": panel_sql(query, bucket),
    }


def cards(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return what is below the first screen: of many requests the page asks for it by itself."""
    return _cards(store, query, orjson.loads(store.analytics(query.where, _bucket(query))))


def _cards(store: Store, query: PageQuery, found: Mapping[str, Any]) -> dict[str, Any]:
    slowest = store.entries(query.where, Page(5, 0, "duration_ms")).rows
    return {
        "spenders": list(_spenders(store, query, found)),
        "errors": _errors(store, query),
        "slowest": [texts.row(row) for row in slowest],
        "sql": panel_sql(query, _bucket(query)),
    }


def _bucket(query: PageQuery) -> int:
    return bucket_for(query.start.timestamp(), query.end.timestamp())


def names(store: Store, query: PageQuery) -> dict[str, list[str]]:
    """Return what there is to filter by in the range: what cost most first. Nothing where the
    store does not answer."""
    try:
        found = orjson.loads(store.analytics(query.where, 86_400))
        clients = _groups(store, query, "client")
    except StoreUnavailable:
        return {"model": [], "provider": []}
    return {
        "model": list(found["model_breakdown"]),
        "provider": list(found["provider_breakdown"]),
        "client": [sums["client"] for sums in clients],
    }


def newest(store: Store, query: PageQuery, limit: int) -> list[dict[str, Any]]:
    """Return the newest rows of *query*, for the table."""
    return [texts.row(row) for row in store.query(query.where, limit).rows]


def _groups(store: Store, query: PageQuery, *by: str, often: bool = False) -> list[dict[str, Any]]:
    grouping = Grouping(by=by, limit=_MOST_NAMES, often=often)
    found: list[dict[str, Any]] = orjson.loads(store.groups(query.where, grouping))
    return found


def _who(store: Store, query: PageQuery, column: str) -> list[dict[str, Any]]:
    kinds = ("tokens_input", "tokens_output", "cache_read_tokens", "cache_write_tokens")
    return [
        {**sums, "name": sums[column], "tokens": sum(sums[kind] for kind in kinds)}
        for sums in _groups(store, query, column)
    ]


def saved(by_model: Iterable[Mapping[str, Any]]) -> float | None:
    """Return what the cache saved, in USD: what its tokens would have cost as uncached input of
    their model, less what they cost. None where no model has a price and cached tokens."""
    found = None
    for sums in by_model:
        cached = sums["total_cache_read_tokens"] + sums["total_cache_write_tokens"]
        if cached and sums["total_tokens_input"] and sums["total_cost_input_usd"]:
            price = sums["total_cost_input_usd"] / sums["total_tokens_input"]
            found = (found or 0.0) + cached * price - (sums["total_cost_cache_usd"] or 0)
    return found


_SERIES = {
    "requests": "request_count",
    "errors": "error_requests",
    "cost": "total_cost_usd",
    "p50": "p50_duration_ms",
    "p95": "p95_duration_ms",
    "ttft50": "p50_ttft_ms",
    "ttft": "p95_ttft_ms",
    "uncached": "total_tokens_input",
    "cached": "total_cache_read_tokens",
    "written": "total_cache_write_tokens",
    "output": "total_tokens_output",
}


def _chart(series: list[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "time": [int(datetime.fromisoformat(each["timestamp"]).timestamp()) for each in series]
    }
    return found | {name: [each[column] for each in series] for name, column in _SERIES.items()}


def _cost_by_model(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cost over time of the models that cost most, and of all others together."""
    costs = {name: it["total_cost_usd"] for name, it in found["model_breakdown"].items()}
    names = sorted((name for name in costs if costs[name]), key=lambda name: -costs[name])
    at = {each["timestamp"]: index for index, each in enumerate(found["timeseries"])}
    lines = {name: [0.0] * len(at) for name in names if name != UNKNOWN}
    lines = dict(list(lines.items())[:_MOST_MODELS])
    rest = [0.0] * len(at)
    for cell in found["model_timeseries"]:
        if cell["timestamp"] in at:
            line = lines.get(cell["model"], rest)
            line[at[cell["timestamp"]]] += cell["total_cost_usd"] or 0
    models = [{"name": name, "filter": f"={name}", "cost": line} for name, line in lines.items()]
    if any(rest):
        models.append({"name": "others", "filter": "", "cost": rest})
    return {"models": models}


def _spenders(store: Store, query: PageQuery, found: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Give, for each of SPENDERS, those who cost most, then those who asked most."""
    for name, (column, label) in SPENDERS.items():
        known = found.get(f"{name}_breakdown")
        rows = _who(store, query, column) if known is None else _largest(known)
        if rows:
            shown = _spend(rows, name, query)
            yield {"name": name, "column": column, "label": label, "rows": shown}


def _largest(breakdown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the names of a breakdown that cost most, as the store says sums of others."""
    ordered = sorted(
        ((name, it) for name, it in breakdown.items() if name != UNKNOWN),
        key=lambda pair: (-(pair[1]["total_cost_usd"] or 0), -pair[1]["request_count"], pair[0]),
    )
    return [
        {
            "name": name,
            "requests": it["request_count"],
            "errors": it["error_requests"],
            "cost_usd": it["total_cost_usd"],
            "tokens": it["total_tokens_all"],
        }
        for name, it in ordered[:_MOST_NAMES]
    ]


def _spend(rows: Sequence[Mapping[str, Any]], name: str, query: PageQuery) -> list[dict[str, Any]]:
    largest = max(it["cost_usd"] or 0 for it in rows)
    return [
        {
            "name": it["name"],
            "link": _link(query, name, it["name"]),
            "requests": texts.count(it["requests"]),
            "cost": texts.cost_total(it["cost_usd"]),
            "tokens": texts.short_count(it["tokens"]),
            "errors": texts.percent(it["errors"], it["requests"]),
            "share": round(100 * (it["cost_usd"] or 0) / largest, 1) if largest else 0,
        }
        for it in rows
    ]


def _link(query: PageQuery, name: str, value: str) -> str:
    if name == "session":
        return session_link(query, value)
    exactly = "=" if name == "model" else ""
    return query.link("/dashboard/requests", **{name: exactly + value})


def _errors(store: Store, query: PageQuery) -> list[dict[str, Any]]:
    """Return what went wrong, by type and message: how often, first and last."""
    rows = _groups(store, query, "failure", "error_message", often=True)
    return [
        {
            "name": texts.words(it["failure"]),
            "message": it["error_message"] or "",
            "link": query.link("/dashboard/requests", **_same_error(it)),
            "count": texts.count(it["requests"]),
            "first": it["first_at"],
            "last": it["last_at"],
            "advice": ADVICE.get(it["failure"], ""),
        }
        for it in rows
    ]


def _same_error(found: Mapping[str, Any]) -> dict[str, str]:
    kind, message = found["failure"], found["error_message"]
    asked = {"error": kind if kind in ADVICE else "any"}
    if message:
        # A filter takes no longer one, and each word of a message is found.
        asked["q"] = message[:200]
    return asked


def _tokens(now: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = (
        ("Uncached input", "uncached", now["total_tokens_input"]),
        ("Read from the cache", "cached", now["total_cache_read_tokens"]),
        ("Written to the cache", "written", now["total_cache_write_tokens"]),
        ("Output", "output", now["total_tokens_output"]),
    )
    whole = sum(tokens for _, _, tokens in kinds)
    return [
        {
            "label": label,
            "kind": kind,
            "count": texts.count(tokens),
            "percent": texts.percent(tokens, whole),
            "share": round(100 * tokens / whole, 1) if whole else 0,
        }
        for label, kind, tokens in kinds
    ]

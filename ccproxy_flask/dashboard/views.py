"""What the pages show, as texts and numbers: made of the store's answers, for the templates."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.store.analytics import bucket_for
from ccproxy_flask.store.base import LogFilter, Page, QueryRefused
from ccproxy_flask.totals import UNKNOWN

from . import format as texts
from .advice import ADVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ccproxy_flask.settings import Settings
    from ccproxy_flask.store.base import Store
    from ccproxy_flask.totals import Totals

    from .page_query import PageQuery

ROWS = 50
OVERVIEW_ROWS = 12
_MOST_NAMES = 8
_NEIGHBOURS = timedelta(days=1)
_SQL_ROWS = 1000
_HIDDEN = "***"
# A user and a password in an address.
_PASSWORD = re.compile(r"(?<=//)[^/@\s]+(?=@)")


def overview(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return the figures, charts and lists of the first page. Raises StoreUnavailable."""
    bucket = bucket_for(query.start.timestamp(), query.end.timestamp())
    found = orjson.loads(store.analytics(query.where, bucket))
    slowest = store.entries(query.where, Page(5, 0, "duration_ms", True)).rows
    return {
        "tiles": _tiles(found["summary"], store.totals(query.before), query),
        "chart": _chart(found["timeseries"]),
        "models": _spend(found["model_breakdown"], "model", query),
        "providers": _spend(found["provider_breakdown"], "provider", query),
        "errors": _errors(found["error_breakdown"], query),
        "tokens": _tokens(found["summary"]),
        "slowest": [texts.row(row) for row in slowest],
        "rows": newest(store, query, OVERVIEW_ROWS),
        "total": found["summary"]["total_requests"],
    }


def newest(store: Store, query: PageQuery, limit: int) -> list[dict[str, Any]]:
    """Return the newest rows of *query*, for the table."""
    return [texts.row(row) for row in store.query(query.where, limit).rows]


def _tiles(now: Mapping[str, Any], before: Totals, query: PageQuery) -> list[dict[str, Any]]:
    """Return the figures on top: what they are, and how they changed against the time before."""
    changes = {
        "cost": texts.change(now["total_cost_usd"], before.total_cost_usd),
        "requests": texts.change(now["total_requests"], before.total_requests),
        "errors": texts.change(now["total_error_requests"], before.total_error_requests),
        "duration": texts.change(now["p95_duration_ms"], before.p95_duration_ms),
    }
    return [
        {"name": name, "change": changes.get(name, ""), **tile}
        for name, tile in {**_counts(now, query), **_times(now), **_token_tiles(now)}.items()
    ]


def _counts(now: Mapping[str, Any], query: PageQuery) -> dict[str, dict[str, Any]]:
    requests, errors = now["total_requests"], now["total_error_requests"]
    unpriced = now["unpriced_requests"]
    return {
        "cost": {
            "label": "Cost",
            "figure": texts.cost_total(now["total_cost_usd"]),
            "note": f"{texts.short_count(unpriced)} without a price" if unpriced else "",
        },
        "requests": {"label": "Requests", "figure": texts.count(requests), "note": ""},
        "errors": {
            "label": "Errors",
            "figure": texts.percent(errors, requests),
            "note": f"{texts.count(errors)} failed",
            "kind": "bad" if errors else "",
            "link": query.link("/dashboard/requests", error="any") if errors else "",
        },
    }


def _times(now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "duration": {
            "label": "Time p50 · p95",
            "figure": texts.duration(now["p50_duration_ms"]),
            "second": texts.duration(now["p95_duration_ms"]),
            "note": "to the last byte",
        },
        "first": {
            "label": "First token p95",
            "figure": texts.duration(now["p95_ttft_ms"]),
            "note": f"p50 {texts.duration(now['p50_ttft_ms'])}",
        },
    }


def _token_tiles(now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    read, written = now["total_cache_read_tokens"], now["total_cache_write_tokens"]
    whole_input = now["total_tokens_all_input"]
    return {
        "cache": {
            "label": "Cache hit",
            "figure": texts.percent(read, whole_input),
            "note": f"{texts.short_count(read)} read, {texts.short_count(written)} written",
        },
        "tokens": {
            "label": "Tokens in · out",
            "figure": texts.short_count(whole_input),
            "second": texts.short_count(now["total_tokens_output"]),
            "note": f"{texts.short_count(now['total_tokens_input'])} uncached",
        },
    }


_SERIES = {
    "requests": "request_count",
    "errors": "error_requests",
    "cost": "total_cost_usd",
    "p50": "p50_duration_ms",
    "p95": "p95_duration_ms",
    "ttft": "p95_ttft_ms",
    "uncached": "total_tokens_input",
    "cached": "total_cache_read_tokens",
    "written": "total_cache_write_tokens",
    "output": "total_tokens_output",
}


def _chart(series: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {
        "time": [int(datetime.fromisoformat(each["timestamp"]).timestamp()) for each in series]
    }
    return found | {name: [each[column] for each in series] for name, column in _SERIES.items()}


def _spend(breakdown: Mapping[str, Any], name: str, query: PageQuery) -> list[dict[str, Any]]:
    """Return who cost most, then who asked most."""
    ordered = sorted(
        breakdown.items(),
        key=lambda pair: (-(pair[1]["total_cost_usd"] or 0), -pair[1]["request_count"], pair[0]),
    )
    exactly = "=" if name == "model" else ""
    largest = max((it["total_cost_usd"] or 0 for _, it in ordered), default=0)
    return [
        {
            "name": key,
            "link": query.link("/dashboard/requests", **{name: exactly + key})
            if key != UNKNOWN
            else "",
            "requests": texts.count(it["request_count"]),
            "cost": texts.cost_total(it["total_cost_usd"]),
            "tokens": texts.short_count(it["total_tokens_all"]),
            "errors": texts.percent(it["error_requests"], it["request_count"]),
            "p95": texts.duration(it["p95_duration_ms"]),
            "share": round(100 * (it["total_cost_usd"] or 0) / largest, 1) if largest else 0,
        }
        for key, it in ordered[:_MOST_NAMES]
    ]


def _errors(breakdown: Mapping[str, Any], query: PageQuery) -> list[dict[str, Any]]:
    return [
        {
            "name": texts.words(kind),
            "link": query.link("/dashboard/requests", error=kind) if kind in ADVICE else "",
            "count": texts.count(it["request_count"]),
            "share": it["share"],
            "advice": ADVICE.get(kind, ""),
        }
        for kind, it in list(breakdown.items())[:_MOST_NAMES]
    ]


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


# -- requests --------------------------------------------------------------------------------------


def requests(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return one page of the table, and what there is in all. Raises StoreUnavailable."""
    totals = store.totals(query.where)
    if query.is_newest_first:
        found = store.query(query.where, ROWS, query.cursor)
        older = {"cursor": found.next_cursor, "page": None} if found.next_cursor else None
        rows = found.rows
    else:
        column, descending = query.order
        offset = (query.page - 1) * ROWS
        rows = store.entries(query.where, Page(ROWS, offset, column, descending)).rows
        more = offset + len(rows) < totals.total_requests
        older = {"cursor": None, "page": str(query.page + 1)} if more else None
    return {
        "rows": [texts.row(row) for row in rows],
        "older": older and query.link("/dashboard/requests", **older),
        "total": totals.total_requests,
        "summary": _summary(totals),
        "exports": _exports(query),
    }


def _summary(totals: Totals) -> str:
    if not totals.total_requests:
        return ""
    parts = [
        f"{texts.count(totals.total_requests)} requests",
        texts.cost_total(totals.total_cost_usd) if totals.total_cost_usd is not None else "",
        f"{texts.count(totals.total_error_requests)} failed" if totals.total_error_requests else "",
    ]
    return " · ".join(part for part in parts if part)


def _exports(query: PageQuery) -> list[dict[str, Any]]:
    return [
        {"name": name, "parameters": query.api_parameters() | {"format": form}}
        for form, name in (("csv", "CSV"), ("jsonl", "JSON lines"), ("parquet", "Parquet"))
    ]


# -- one request -----------------------------------------------------------------------------------


def request(store: Store, request_id: str, query: PageQuery) -> dict[str, Any] | None:
    """Return all that is known of one request; None where it is not stored."""
    found = store.entries(LogFilter(request_id=request_id), Page(limit=1)).rows
    if not found:
        return None
    record = found[0]
    kind = record.get("error_type")
    return {
        "row": texts.row(record),
        "stages": _stages(record),
        "costs": _costs(record),
        "unpriced": _unpriced(record),
        "facts": _facts(record),
        "error": texts.error_text(record) if texts.failed(record) else "",
        "advice": ADVICE.get(kind or "", ""),
        "curl": _curl(record),
        "content": record.get("content"),
        "neighbours": _neighbours(store, record, query),
        "record": record,
    }


def _stages(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where the time went, each stage with its part in percent."""
    whole = texts.number(record.get("duration_ms"))
    if not whole:
        return []
    stages = (
        ("Waiting for the provider", "wait", "ttfb_ms"),
        ("To the first token", "first", "ttft_ms"),
        ("The rest of the answer", "stream", "duration_ms"),
    )
    found, at = [], 0.0
    for label, kind, column in stages:
        end = texts.number(record.get(column))
        if end is None or end < at:
            continue
        end = min(end, whole)
        found.append(
            {
                "label": label,
                "kind": kind,
                "text": texts.duration(end - at),
                "start": round(100 * at / whole, 2),
                "width": round(100 * (end - at) / whole, 2),
            }
        )
        at = end
    return found


def _costs(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the lines of the bill: tokens, price, cost, as far as they are known."""
    read, written = (
        texts.number(record.get(name)) or 0 for name in ("cache_read_tokens", "cache_write_tokens")
    )
    lines = (
        ("Uncached input", record.get("tokens_input"), record.get("cost_input_usd")),
        ("Cache, read and written", read + written, record.get("cost_cache_usd")),
        ("Output", record.get("tokens_output"), record.get("cost_output_usd")),
    )
    found = []
    for label, tokens, amount in lines:
        known_tokens, known = texts.number(tokens), texts.number(amount)
        if known_tokens is None and known is None:
            continue
        each = 1e6 * known / known_tokens if known is not None and known_tokens else None
        found.append(
            {
                "label": label,
                "tokens": texts.count(tokens),
                "price": "" if each is None else f"{texts.price(each)} a million",
                "cost": texts.cost(amount),
            }
        )
    return found


def _unpriced(record: Mapping[str, Any]) -> str:
    if record.get("cost_usd") is not None:
        return ""
    if record.get("tokens_input") is None and record.get("tokens_output") is None:
        return "Unpriced, because the answer says nothing of tokens."
    if texts.failed(record):
        return "Unpriced, because the request failed."
    return "Unpriced, because the price book does not know this model of this provider."


def _facts(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    def plain(*names: str) -> list[tuple[str, str]]:
        found = ((texts.words(name), record.get(name)) for name in names)
        return [(name, _setting(value)) for name, value in found if value not in (None, "")]

    session = "session_id" if record.get("session_id") else "conversation_id"
    sizes = [
        ("request body", texts.size(record.get("request_bytes"))),
        ("answer body", texts.size(record.get("response_bytes"))),
        ("pieces", texts.count(record.get("chunks"))),
    ]
    return [
        ("Request", plain("method", "path", "query", "endpoint", "service_type", "streaming")),
        ("Model", plain("provider", "model", "model_requested", "finish_reason", "cost_source")),
        (
            "Who",
            plain("client_ip", "user_agent", session, "agent_id", "user_id", "api_key_id"),
        ),
        ("Ids", plain("request_id", "client_request_id", "upstream_request_id", "node")),
        ("Size", [*sizes, *plain("retry_count")]),
    ]


def _curl(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of a command that asks the same again; the page knows our address."""
    path = record.get("path") or "/"
    if record.get("query"):
        path += f"?{record['query']}"
    model = orjson.dumps({"model": record.get("model_requested") or record.get("model") or ""})
    return {"method": record.get("method") or "GET", "path": path, "body": model.decode()}


def _neighbours(store: Store, record: Mapping[str, Any], query: PageQuery) -> dict[str, str]:
    """Return links to the requests just before and after, in the same session where it has one."""
    moment = datetime.fromisoformat(record["timestamp"])
    session = record.get("session_id")
    found = {}
    for name, bounds, descending in (
        ("previous", (moment - _NEIGHBOURS, moment), True),
        ("next", (moment, moment + _NEIGHBOURS), False),
    ):
        where = LogFilter(start_time=bounds[0], end_time=bounds[1], session_id=session)
        rows = store.entries(where, Page(3, 0, "timestamp", descending)).rows
        other = next((row for row in rows if row["request_id"] != record["request_id"]), None)
        if other is not None:
            found[name] = query.link(f"/dashboard/requests/{other['request_id']}")
    return found


# -- SQL -------------------------------------------------------------------------------------------


def sql(store: Store, text: str) -> dict[str, Any]:
    """Return the answer to one SELECT, or why there is none. Raises StoreUnavailable."""
    try:
        found = orjson.loads(store.sql(text, _SQL_ROWS))
    except QueryRefused as error:
        return {"problem": str(error)}
    names, rows = found["columns"], found["rows"]
    are_numbers = [
        bool(rows) and all(isinstance(row[at], int | float | None) for row in rows)
        for at in range(len(names))
    ]
    return {
        "columns": list(zip(names, are_numbers, strict=True)),
        "rows": [[_cell(value) for value in row] for row in rows],
        "count": found["row_count"],
        "truncated": found["truncated"],
        "took": texts.duration(found["duration_ms"]),
    }


def _cell(value: Any) -> str:
    if value is None:
        return texts.UNKNOWN
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# -- status ----------------------------------------------------------------------------------------


def settings_shown(settings: Settings) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the settings by section, secrets hidden."""
    found = settings.model_dump()
    top = [(name, _setting(value)) for name, value in found.items() if not isinstance(value, dict)]
    sections = [
        (name, list(_flat(value)))
        for name, value in found.items()
        if isinstance(value, dict) and value
    ]
    return [("server", top), *sections]


def _flat(section: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield path + name, _setting(value)


def _setting(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _PASSWORD.sub(_HIDDEN, value)
    if isinstance(value, tuple | list):
        return ", ".join(_setting(each) for each in value) or "none"
    # A secret is no text of its own accord.
    return str(value) if isinstance(value, os.PathLike) else _HIDDEN

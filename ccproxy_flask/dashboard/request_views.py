"""The table of requests, and one of them, as the pages show them: made of the store's answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.store.base import Grouping, LogFilter, Page
from ccproxy_flask.usage.request_class import GENERATIONS

from . import format as texts
from .advice import ADVICE
from .session_views import session_link
from .status_views import setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccproxy_flask.store.base import Store

    from .page_query import PageQuery

ROWS = 50
_NEIGHBOURS = timedelta(days=1)


def requests(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return one page of the table, and what there is in all. Raises StoreUnavailable."""
    [sums] = orjson.loads(store.groups(query.where, Grouping(by=())))
    if query.is_newest_first:
        found = store.query(query.where, ROWS, query.cursor)
        older = {"cursor": found.next_cursor, "page": None} if found.next_cursor else None
        rows = found.rows
    else:
        column, descending = query.order
        offset = (query.page - 1) * ROWS
        rows = store.entries(query.where, Page(ROWS, offset, column, descending)).rows
        more = offset + len(rows) < sums["requests"]
        older = {"cursor": None, "page": str(query.page + 1)} if more else None
    return {
        "rows": [texts.row(row) for row in rows],
        "older": older and query.link("/dashboard/requests", **older),
        "total": sums["requests"],
        "summary": _summary(sums),
        "exports": _exports(query),
    }


def _summary(sums: Mapping[str, Any]) -> str:
    requests, errors = sums["requests"], sums["errors"]
    if not requests:
        return ""
    parts = [
        f"{texts.count(requests)} requests",
        texts.cost_total(sums["cost_usd"]) if sums["cost_usd"] is not None else "",
        f"{texts.count(errors)} failed" if errors else "",
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
        "stages": stages(record),
        "outside": _outside(record),
        "costs": bill(record),
        "unpriced": _unpriced(record),
        "facts": _facts(record, query),
        "error": texts.error_text(record) if texts.failed(record) else "",
        "advice": ADVICE.get(kind or "", ""),
        "curl": _curl(record),
        "content": record.get("content"),
        "neighbours": _neighbours(store, record, query),
        "record": record,
    }


_STAGES = (
    ("Waiting for the provider", "wait", "ttfb_ms"),
    ("To the first token", "first", "ttft_ms"),
    ("The rest of the answer", "stream", "duration_ms"),
)


def stages(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where the time went, each stage with its part in percent."""
    whole = texts.number(record.get("duration_ms"))
    if not whole:
        return []
    found, at = [], 0.0
    for label, kind, column in _STAGES:
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


def _outside(record: Mapping[str, Any]) -> str:
    """Return how much of the time was not the provider's."""
    whole, upstream = (texts.number(record.get(name)) for name in ("duration_ms", "upstream_ms"))
    if whole is None or upstream is None or whole < upstream:
        return ""
    rest = texts.duration(whole - upstream)
    return f"{rest} of it outside the provider: our own work, and waits for the client."


def bill(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the lines of the bill: tokens, price, cost, as far as they are known."""
    read, written = (
        texts.number(record.get(name)) or 0 for name in ("cache_read_tokens", "cache_write_tokens")
    )
    cached = f"{texts.short_count(read)} read, {texts.short_count(written)} written"
    lines = (
        ("Uncached input", record.get("tokens_input"), record.get("cost_input_usd")),
        ("Cache", read + written or None, record.get("cost_cache_usd")),
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
                "note": cached if label == "Cache" else "",
                "tokens": texts.count(tokens),
                "price": "" if each is None else f"{texts.price(each)} a million",
                "cost": texts.cost(amount),
            }
        )
    return found


def _unpriced(record: Mapping[str, Any]) -> str:
    if record.get("cost_usd") is not None:
        return ""
    if texts.failed(record):
        return "Unpriced, because the request failed."
    if record.get("request_class") not in (None, *GENERATIONS):
        return "Unpriced, because no model answers such a request."
    if record.get("tokens_input") is None and record.get("tokens_output") is None:
        return "Unpriced, because the answer says nothing of tokens."
    return "Unpriced, because the price book does not know this model of this provider."


_FACTS = {
    "Request": "method path query endpoint service_type request_class streaming transport",
    "Model": "provider model model_requested finish_reason cost_source",
    "Who": "client client_version user_agent client_ip session_id conversation_id agent_id "
    "parent_agent_id user_id api_key_id",
    "Ids": "request_id client_request_id upstream_request_id message_id previous_message_id node",
}
_FILTER_OF = {
    "provider": "provider",
    "client": "client",
    "user_id": "user",
    "api_key_id": "key",
    "request_class": "class",
}

Fact = tuple[str, str, str]


def _facts(record: Mapping[str, Any], query: PageQuery) -> list[tuple[str, list[Fact]]]:
    """Return what else is known, by group: name, value, and a link to the requests like it."""
    found = [
        (title, [_fact(record, name, query) for name in names.split() if _is_known(record, name)])
        for title, names in _FACTS.items()
    ]
    sizes = [
        ("request body", texts.size(record.get("request_bytes")), ""),
        ("answer body", texts.size(record.get("response_bytes")), ""),
        ("pieces", texts.count(record.get("chunks")), ""),
    ]
    more = ("retry_count", "tools_ms")
    sizes += [_fact(record, name, query) for name in more if _is_known(record, name)]
    return [*found, ("Size", sizes)]


def _is_known(record: Mapping[str, Any], name: str) -> bool:
    # A conversation of a session is shown by the session.
    of_session = name == "conversation_id" and record.get("session_id")
    return record.get(name) not in (None, "") and not of_session


def _fact(record: Mapping[str, Any], name: str, query: PageQuery) -> Fact:
    value = record[name]
    link = ""
    if name in ("session_id", "conversation_id"):
        link = session_link(query, value)
    elif name in ("model", "model_requested"):
        asked = f"={value}" if name == "model" else value
        link = query.link("/dashboard/requests", model=asked)
    elif name in _FILTER_OF:
        link = query.link("/dashboard/requests", **{_FILTER_OF[name]: value})
    return texts.words(name), setting(value), link


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
    conversation = None if session else record.get("conversation_id")
    found = {}
    for name, bounds, descending in (
        ("previous", (moment - _NEIGHBOURS, moment), True),
        ("next", (moment, moment + _NEIGHBOURS), False),
    ):
        where = LogFilter(
            start_time=bounds[0],
            end_time=bounds[1],
            session_id=session,
            conversation_id=conversation,
            generation=query.where.generation,
        )
        rows = store.entries(where, Page(3, 0, "timestamp", descending)).rows
        other = next((row for row in rows if row["request_id"] != record["request_id"]), None)
        if other is not None:
            found[name] = query.link(f"/dashboard/requests/{other['request_id']}")
            found[f"{name}_id"] = other["request_id"]
    return found

"""Two requests side by side: made of the store's answers, for the template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ccproxy_flask.record import COLUMNS
from ccproxy_flask.store.base import LogFilter, Page

from . import format as texts
from .request_views import bill, stages
from .status_views import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ccproxy_flask.store.base import Store

    from .page_query import PageQuery

Record = dict[str, Any]

_TIMES = (
    ("To the first byte", "ttfb_ms"),
    ("To the first token", "ttft_ms"),
    ("Whole", "duration_ms"),
    ("At the provider", "upstream_ms"),
    ("Tools, as the client says", "tools_ms"),
)
_TOKENS = (
    ("Uncached input", "tokens_input"),
    ("Read from the cache", "cache_read_tokens"),
    ("Written to the cache", "cache_write_tokens"),
    ("Output", "tokens_output"),
    ("Of it reasoning", "tokens_reasoning"),
)
_SIZES = (("Request body", "request_bytes"), ("Answer body", "response_bytes"))
# What is shown as a figure above, differs always, or is said by another one.
_NO_FACTS = frozenset(column for _, column in (*_TIMES, *_TOKENS, *_SIZES)) | {
    *("request_id", "timestamp", "duration_seconds", "message_id", "upstream_request_id"),
    *("client_request_id", "chunks"),
    *("cost_usd", "cost_sdk_usd", "cost_input_usd", "cost_output_usd", "cost_cache_usd"),
}


def compare(store: Store, ids: Sequence[str], query: PageQuery) -> dict[str, Any]:
    """Return what two requests have in common and what not. Raises StoreUnavailable.

    ``missing``: the ids that are not stored; then there is nothing else.
    """
    found = [_record(store, request_id) for request_id in ids]
    missing = [each for each, record in zip(ids, found, strict=True) if record is None]
    a, b = found
    if a is None or b is None:
        return {"missing": missing}
    longest = max(texts.number(each.get("duration_ms")) or 0 for each in (a, b))
    facts = [(texts.words(name), *_pair(a, b, name)) for name in COLUMNS if name not in _NO_FACTS]
    facts = [fact for fact in facts if any(fact[1:])]
    return {
        "sides": [_side(each, longest, query) for each in (a, b)],
        "times": _figures(a, b, _TIMES, texts.duration),
        "tokens": _figures(a, b, _TOKENS, texts.count),
        "sizes": _figures(a, b, _SIZES, texts.size),
        "costs": _costs(a, b),
        "different": [fact for fact in facts if fact[1] != fact[2]],
        "same": [fact[:2] for fact in facts if fact[1] == fact[2]],
        "swap": query.link("/dashboard/compare", a=b["request_id"], b=a["request_id"]),
        "has_words": a.get("content") == b.get("content") == "kept",
    }


def _record(store: Store, request_id: str) -> Record | None:
    rows = store.entries(LogFilter(request_id=request_id), Page(limit=1)).rows
    return rows[0] if rows else None


def _side(record: Record, longest: float, query: PageQuery) -> dict[str, Any]:
    """Return the head of one side; its bar is measured by the longer one of the two."""
    share = (texts.number(record.get("duration_ms")) or 0) / longest if longest else 0
    return {
        "row": texts.row(record),
        "link": query.link(f"/dashboard/requests/{record['request_id']}"),
        "stages": [
            {**stage, "start": stage["start"] * share, "width": stage["width"] * share}
            for stage in stages(record)
        ],
    }


def _figures(
    a: Record, b: Record, wanted: Sequence[tuple[str, str]], form: Callable[[object], str]
) -> list[dict[str, str]]:
    """Return figures that either has: both, and how much more the second one is."""
    found = []
    for label, name in wanted:
        one, other = texts.number(a.get(name)), texts.number(b.get(name))
        if one or other:
            found.append(_line(label, form(one), form(other), one, other))
    return found


def _line(
    label: str, a: str, b: str, one: float | None, other: float | None
) -> dict[str, str]:  # fmt: skip
    return {"label": label, "a": a, "b": b, "change": texts.change(other, one)}


def _costs(a: Record, b: Record) -> list[dict[str, str]]:
    """Return the lines of both bills, and the sums."""
    bills = [{line["label"]: line for line in bill(each)} for each in (a, b)]
    labels = dict.fromkeys(label for each in bills for label in each)
    lines = [
        {"label": label, "a": _cost(bills[0], label), "b": _cost(bills[1], label)}
        for label in labels
    ]
    one, other = texts.number(a.get("cost_usd")), texts.number(b.get("cost_usd"))
    return [*lines, _line("In all", texts.cost(one), texts.cost(other), one, other)]


def _cost(lines: Mapping[str, Mapping[str, str]], label: str) -> str:
    return lines[label]["cost"] if label in lines else texts.UNKNOWN


def _pair(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> tuple[str, str]:
    one, other = (
        "" if each.get(name) in (None, "") else setting(each[name]) for each in (a, b)
    )  # fmt: skip
    return one, other

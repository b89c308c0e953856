"""The figures on top of the overview: each with what it means beside it, and how it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import format as texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccproxy_flask.totals import Totals

    from .page_query import PageQuery


def tiles(now: Mapping[str, Any], before: Totals, query: PageQuery) -> list[dict[str, Any]]:
    """Return the tiles. *now*: the totals of the range, and ``saved_usd`` by the cache; *before*:
    those of the period before."""
    changes = {
        "cost": texts.change(now["total_cost_usd"], before.total_cost_usd),
        "requests": texts.change(now["total_requests"], before.total_requests),
        "errors": texts.change(now["error_rate"], before.error_rate),
        "duration": texts.change(now["p95_duration_ms"], before.p95_duration_ms),
        "first": texts.change(now["p95_ttft_ms"], before.p95_ttft_ms),
        "cache": texts.change(now["cache_hit_rate"], before.cache_hit_rate),
        "tokens": texts.change(now["total_tokens_all"], before.total_tokens_all),
    }
    found = {**_counts(now, query), **_times(now, query), **_token_tiles(now)}
    return [{"name": name, "change": changes.get(name, ""), **tile} for name, tile in found.items()]


def _counts(now: Mapping[str, Any], query: PageQuery) -> dict[str, dict[str, Any]]:
    requests, errors = now["total_requests"], now["total_error_requests"]
    unpriced = now["unpriced_requests"]
    return {
        "cost": {
            "label": "Cost",
            "figure": texts.cost_total(now["total_cost_usd"]),
            "note": f"{texts.short_count(unpriced)} unpriced" if unpriced else "all priced",
            "link": query.link("/dashboard/requests", unpriced="yes") if unpriced else "",
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


def _times(now: Mapping[str, Any], query: PageQuery) -> dict[str, dict[str, Any]]:
    slowest = {"link": query.link("/dashboard/requests", sort="-duration")}
    first = {"link": query.link("/dashboard/requests", sort="-first")}
    return {
        "duration": {
            "label": "Time p50 · p95",
            "figure": texts.duration(now["p50_duration_ms"]),
            "second": texts.duration(now["p95_duration_ms"]),
            "note": "slowest first",
            **(slowest if now["p95_duration_ms"] is not None else {}),
        },
        "first": {
            "label": "First token p95",
            "figure": texts.duration(now["p95_ttft_ms"]),
            "note": f"p50 {texts.duration(now['p50_ttft_ms'])}",
            **(first if now["p95_ttft_ms"] is not None else {}),
        },
    }


def _token_tiles(now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    read, saved = now["total_cache_read_tokens"], now["saved_usd"]
    whole_input = now["total_tokens_all_input"]
    return {
        "cache": {
            "label": "Cache hit",
            "figure": texts.percent(read, whole_input),
            "note": f"{texts.short_count(read)} read" if saved is None else _saved(saved),
            "title": "what the cached tokens would have cost as uncached input, less what reading "
            "and writing them cost, at the prices of this range",
        },
        "tokens": {
            "label": "Tokens in · out",
            "figure": texts.short_count(whole_input),
            "second": texts.short_count(now["total_tokens_output"]),
            "note": f"{texts.short_count(now['total_tokens_input'])} uncached",
        },
    }


def _saved(dollars: float) -> str:
    word = "saved" if dollars >= 0 else "lost by writing"
    return f"{texts.cost_total(abs(dollars))} {word}"

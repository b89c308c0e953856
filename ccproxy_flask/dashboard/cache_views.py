"""Why caches missed, and what contexts cost, as the pages show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.caching.causes import in_words, place_of

from . import format as texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccproxy_flask.store.base import ContentSource

    from .page_query import PageQuery

_LISTED = 10
_WITHOUT_PLACE = ("ttl", "provider")
_OF_TOOLS = ("tools", "tool_results")


def of_request(
    content: ContentSource | None, request_id: str, query: PageQuery
) -> dict[str, Any] | None:
    """Return the verdict on one request; None where there is none. Raises StoreUnavailable."""
    text = None if content is None else content.cache(request_id)
    verdict = None if text is None else orjson.loads(text)["cache_verdict"]
    if verdict is None:
        return None
    before = verdict["previous_request_id"]
    return {
        "title": title(verdict),
        "is_miss": verdict["is_miss"],
        "facts": [(name, value) for name, value in _facts(verdict) if value],
        "before": before and query.link(f"/dashboard/requests/{before}"),
    }


def title(verdict: Mapping[str, Any]) -> str:
    """Return a *verdict* in a few words."""
    if verdict["is_miss"]:
        return f"Missed: {_why(verdict)}"
    if verdict["cause"] is None:
        return "All that was kept was read"
    return f"Nothing could be read: {_why(verdict)}"


def _why(verdict: Mapping[str, Any]) -> str:
    cause = verdict["cause"]
    place = "" if cause in _WITHOUT_PLACE else place_of(verdict["changed"])
    return in_words(cause) + (f" ({place})" if place and place != cause else "")


def _facts(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    idle, lives = verdict["idle_seconds"], verdict["ttl_seconds"]
    missed = texts.count(verdict["tokens_missed"]) if verdict["is_miss"] else ""
    by_usage = verdict["evidence"] == "usage" and verdict["previous_request_id"]
    return [
        ("it cost", texts.cost(verdict["cost_usd"]) if verdict["is_miss"] else ""),
        ("tokens missed", missed and f"{missed} of {texts.count(verdict['tokens_expected'])}"),
        ("the provider says", told(verdict)),
        ("not read for", "" if idle is None else texts.duration(idle * 1000)),
        ("lives for", "" if lives is None else texts.duration(lives * 1000)),
        ("judged by", "tokens and time alone" if by_usage else ""),
    ]


def told(verdict: Mapping[str, Any]) -> str:
    """Return what the provider says itself."""
    if (found := verdict["provider"]) is None:
        return ""
    missed = found["tokens_missed"]
    tokens = "" if missed is None else f", {texts.count(missed)} tokens"
    return (texts.words(found["reason"]) or "nothing was missed") + tokens


def mark(verdict: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return what marks a turn that missed; None: it did not."""
    if verdict is None or not verdict["is_miss"]:
        return None
    said = [title(verdict), f"{texts.count(verdict['tokens_missed'])} tokens"]
    if says := told(verdict):
        said.append(f"the provider says: {says}")
    if verdict["cost_usd"] is not None:
        said.append(texts.cost(verdict["cost_usd"]))
    cost = "" if verdict["cost_usd"] is None else texts.cost_total(verdict["cost_usd"])
    return {"cause": texts.words(verdict["cause"]), "cost": cost, "title": " · ".join(said)}


def of_session(found: Mapping[str, Any], query: PageQuery) -> dict[str, Any]:
    """Return the misses of a session, and the rent of its contexts."""
    misses, rent = found["cache_misses"], found["rent"]
    return {
        "misses": _counted(sum(misses.values()), "miss", "misses") if misses else "",
        "miss_cost": texts.cost_total(found["cache_miss_cost_usd"]) if misses else "",
        "causes": ", ".join(f"{in_words(cause)}: {count}" for cause, count in misses.items()),
        "rent": _rent(rent),
        "results": [_result(each, query) for each in rent["results"][:_LISTED]],
        "input": texts.cost_total(rent["input_cost_usd"]),
    }


def _rent(rent: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rents of servers, each with its tools below it, the dearest first."""
    rows = []
    for server in rent["servers"]:
        tools = [tool for tool in rent["tools"] if tool["server"] == server["server"]]
        name = server["server"] or "built in"
        rows.append(
            _rented(f"{name} · {_counted(server['tools'], 'tool', 'tools')}", server, "server")
        )
        rows += [_rented(tool["name"], tool, "inner") for tool in tools]
    rest = {name: usd for name, usd in rent["parts"].items() if name not in _OF_TOOLS}
    rest["turns without content"] = rent["unattributed_usd"]
    others = [_rented(texts.words(name), {"cost_usd": usd}, "server") for name, usd in rest.items()]
    return [*rows[: 3 * _LISTED], *(each for each in others if each["cost"])]


def _rented(name: str, amounts: Mapping[str, Any], kind: str) -> dict[str, str]:
    figures = {
        each: texts.cost(amount) if (amount := amounts.get(f"{each}_usd")) else ""
        for each in ("definition", "results", "cost")
    }
    return {"name": name, "kind": kind, **figures}


def _result(result: Mapping[str, Any], query: PageQuery) -> dict[str, str]:
    return {
        "name": result["name"] or "a tool",
        "tokens": texts.count(result["tokens"]),
        "turns": _counted(result["turns"], "turn", "turns"),
        "cost": texts.cost(result["cost_usd"]),
        "link": query.link(f"/dashboard/requests/{result['request_id']}"),
    }


def _counted(count: int, one: str, many: str) -> str:
    return f"{texts.count(count)} {one if count == 1 else many}"

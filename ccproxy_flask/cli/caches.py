"""Verdicts on caches, and rents, as text for a terminal."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ccproxy_flask.caching.causes import in_words, place_of

from .show import money, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST = 10


def verdict_lines(verdict: Mapping[str, Any] | None) -> Iterator[str]:
    """Give the lines that say why the cache missed in a request; none where it did not."""
    if verdict is None:
        return
    if verdict["is_miss"]:
        place = place_of(verdict["changed"]) if verdict["cause"] not in ("ttl", "provider") else ""
        cost = f", {_usd(verdict['cost_usd'])}" if verdict["cost_usd"] is not None else ""
        why = in_words(verdict["cause"]) + (f" ({place})" if place else "")
        yield printable(f"cache missed: {why}, {verdict['tokens_missed']:,} tokens{cost}")
    if (told := verdict["provider"]) is not None:
        missed = told["tokens_missed"]
        tokens = "" if missed is None else f", {missed:,} tokens"
        yield printable(f"the provider says: {told['reason'] or 'nothing was missed'}{tokens}")


def caches_text(session: Mapping[str, Any], width: int | None) -> str:
    """Return what the misses of a *session* came to, and what its context cost by tool."""
    misses, rent = session["cache_misses"], session["rent"]
    found = []
    if misses:
        counts = ", ".join(f"{cause} {count:,}" for cause, count in misses.items())
        cost = _usd(session["cache_miss_cost_usd"])
        found.append(f"cache misses: {counts}; they cost {cost}\n")
    if rent["tools"]:
        parts = sorted(rent["parts"].items(), key=lambda part: -part[1])
        shown = ", ".join(f"{name.replace('_', ' ')} {_usd(usd)}" for name, usd in parts if usd)
        found.append(f"rent of {_usd(rent['input_cost_usd'])} for all input: {shown}\n")
        names = ("server or tool", "definition USD", "results USD", "USD")
        rows = [(each["server"] or "built in", each) for each in rent["servers"]]
        rows += [(f"  {each['name']}", each) for each in rent["tools"]]
        amounts = ("definition_usd", "results_usd", "cost_usd")
        cells = [(name, *(Decimal(str(each[amount])) for amount in amounts)) for name, each in rows]
        found.append(table(names, cells[:_MOST], width, names[1:3]))
    return ("\n" + "".join(map(_lines, found))) if found else ""


def _lines(text: str) -> str:
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def _usd(amount: Any) -> str:
    return money(Decimal(str(amount)))

"""What each part of a context costs while it stays in it: its rent. Pure.

The input of a turn is billed in the order of its prompt: first what was read from the cache, then
what was written to it, then the rest. A part has as many of the provider's tokens as it has of the
prompt's bytes, and pays for them at the price of the place where they stand. So the rents of all
parts of a turn are its input bill, and those of a session are the session's.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ccproxy_flask.content.context import server_of

from .causes import KINDS
from .changes import same_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ccproxy_flask.content.cache_parts import PromptPart

    from .prices import InputPrices
    from .turns import Turn

Json = dict[str, Any]
_MOST_LISTED = 50
_DIGITS = 10
_ZERO = Decimal(0)


@dataclass(slots=True)
class _Tenant:
    """One part, from the turn on in which it came."""

    part: PromptPart
    request_id: str
    since: int
    tokens: int
    own: Decimal = _ZERO
    """What it paid by itself."""
    shared: Decimal = _ZERO
    """USD a byte that it and all before it paid, and that nobody has collected yet."""


@dataclass(slots=True)
class _Chain:
    """The parts of a conversation's last turn, and the bytes before the end of each."""

    tenants: list[_Tenant] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    turns: int = 0

    @property
    def parts(self) -> list[PromptPart]:
        """The parts, in order."""
        return [tenant.part for tenant in self.tenants]


@dataclass(slots=True)
class _Result:
    """What one result of a tool has cost."""

    part: PromptPart
    request_id: str
    tokens: int
    turns: int
    cost: Decimal


class Rents:
    """Adds up turns, each conversation in its order; :meth:`as_json` is what they come to."""

    def __init__(self) -> None:
        self._chains: dict[str, _Chain] = {}
        self._kinds = dict.fromkeys(KINDS, _ZERO)
        self._tools: dict[tuple[str, str], list[Any]] = {}
        """By kind and name: cost, and how many parts."""
        self._results: list[_Result] = []
        self._bill = self._nobodys = _ZERO

    def add(self, turn: Turn, prices: InputPrices | None) -> None:
        """Add a turn; one without a price is left out."""
        if prices is None:
            return
        self._bill += prices.bill
        name = str(turn.row["conversation_id"] or turn.row["request_id"])
        chain = self._chains.setdefault(name, _Chain())
        parts = _whole(chain.parts, turn)
        if not sum(part.size for part in parts) or not turn.whole:
            self._nobodys += prices.bill
            return
        self._collect(chain, same_parts(chain.parts, parts))
        _move_in(chain, parts, turn)
        _charge(chain, turn, prices)
        chain.turns += 1

    def _collect(self, chain: _Chain, stay: int) -> None:
        """Settle with all parts of *chain* but the first that *stay*."""
        shared = _ZERO
        while len(chain.tenants) > stay:
            tenant = chain.tenants.pop()
            chain.ends.pop()
            shared += tenant.shared
            self._settle(tenant, tenant.own + tenant.part.size * shared, chain.turns - tenant.since)
        if chain.tenants:
            chain.tenants[-1].shared += shared

    def _settle(self, tenant: _Tenant, cost: Decimal, turns: int) -> None:
        part = tenant.part
        self._kinds[part.kind] += cost
        if part.kind in ("tools", "tool_results"):
            sums = self._tools.setdefault((part.kind, part.name), [_ZERO, 0])
            sums[0] += cost
            sums[1] += 1
        if part.kind == "tool_results":
            self._results.append(_Result(part, tenant.request_id, tenant.tokens, turns, cost))

    def as_json(self) -> Json:
        """Return the sums (docs/logs-api.md). Nothing can be added afterwards."""
        for chain in self._chains.values():
            self._collect(chain, 0)
        shares = _rounded([*self._kinds.items(), ("unattributed", self._nobodys)])
        tools = self._by_tool()
        largest = sorted(self._results, key=lambda result: -result.cost)[:_MOST_LISTED]
        return {
            "input_cost_usd": float(round(self._bill, _DIGITS)),
            "unattributed_usd": shares.pop("unattributed"),
            "parts": shares,
            "servers": _by_server(tools),
            "tools": [_as_floats(tool) for tool in tools[:_MOST_LISTED]],
            "results": [_result(each) for each in largest],
        }

    def _by_tool(self) -> list[Json]:
        found = []
        for name in {name for _, name in self._tools}:
            definition, _ = self._tools.get(("tools", name), (_ZERO, 0))
            results, count = self._tools.get(("tool_results", name), (_ZERO, 0))
            found.append(
                {
                    "name": name,
                    "server": server_of(name),
                    "definition_usd": definition,
                    "results_usd": results,
                    "cost_usd": definition + results,
                    "results": count,
                }
            )
        return sorted(found, key=lambda tool: (-tool["cost_usd"], tool["name"]))


def _whole(before: Sequence[PromptPart], turn: Turn) -> Sequence[PromptPart]:
    """Return all parts of what the model saw: what *turn* does not send again is there still."""
    sent = [] if turn.prompt is None else turn.prompt.parts
    if not turn.goes_on:
        return sent
    found: list[PromptPart] = []
    for section in ("tools", "system"):
        now = [part for part in sent if part.section == section]
        found += now or [part for part in before if part.section == section]
    found += [part for part in before if part.section == "messages"]
    return found + [part for part in sent if part.section == "messages"]


def _move_in(chain: _Chain, parts: Sequence[PromptPart], turn: Turn) -> None:
    scale = Decimal(turn.whole) / sum(part.size for part in parts)
    for part in parts[len(chain.tenants) :]:
        end = chain.ends[-1] if chain.ends else 0
        chain.ends.append(end + part.size)
        tokens = round(part.size * scale)
        chain.tenants.append(_Tenant(part, turn.row["request_id"], chain.turns, tokens))


def _charge(chain: _Chain, turn: Turn, prices: InputPrices) -> None:
    """Let the parts of *chain* pay the input of *turn*."""
    scale = Decimal(turn.whole) / chain.ends[-1]
    costs = _Costs(turn, prices)
    # All that was read pays the same for a byte: it is noted once, at its end.
    cached = bisect_right(chain.ends, turn.read / scale)
    if cached:
        chain.tenants[cached - 1].shared += costs.read * scale
    upto = costs.upto(chain.ends[cached - 1] * scale) if cached else _ZERO
    for tenant, end in zip(chain.tenants[cached:], chain.ends[cached:], strict=True):
        before, upto = upto, costs.upto(end * scale)
        tenant.own += upto - before


class _Costs:
    """What the first tokens of a turn's input cost; all of them: its bill."""

    def __init__(self, turn: Turn, prices: InputPrices) -> None:
        uncached = turn.row["tokens_input"] or 0
        estimate = turn.read * prices.read + turn.written * prices.written
        estimate += uncached * prices.uncached
        factor = prices.bill / estimate if estimate else _ZERO
        self.read = prices.read * factor
        self._written, self._uncached = prices.written * factor, prices.uncached * factor
        self._marks = Decimal(turn.read), Decimal(turn.read + turn.written)

    def upto(self, tokens: Decimal) -> Decimal:
        """Return what the first *tokens* cost."""
        read, written = self._marks
        cost = min(tokens, read) * self.read
        cost += max(_ZERO, min(tokens, written) - read) * self._written
        return cost + max(_ZERO, tokens - written) * self._uncached


def _by_server(tools: Iterable[Json]) -> list[Json]:
    found: dict[str, Json] = {}
    for tool in tools:
        sums = found.setdefault(tool["server"], {"server": tool["server"], "tools": 0})
        sums["tools"] += 1
        for name in ("definition_usd", "results_usd", "cost_usd"):
            sums[name] = sums.get(name, _ZERO) + tool[name]
    ordered = sorted(found.values(), key=lambda sums: -sums["cost_usd"])
    return [_as_floats(sums) for sums in ordered[:_MOST_LISTED]]


def _result(result: _Result) -> Json:
    return {
        "name": result.part.name,
        "server": server_of(result.part.name),
        "bytes": result.part.size,
        "tokens": result.tokens,
        "turns": result.turns,
        "cost_usd": float(round(result.cost, _DIGITS)),
        "request_id": result.request_id,
    }


def _as_floats(found: Mapping[str, Any]) -> Json:
    return {
        name: float(round(value, _DIGITS)) if isinstance(value, Decimal) else value
        for name, value in found.items()
    }


def _rounded(amounts: Iterable[tuple[str, Decimal]]) -> dict[str, float]:
    """Return *amounts* rounded so that they still add up."""
    found, whole, spent = {}, _ZERO, _ZERO
    for name, amount in amounts:
        whole += amount
        share = round(whole, _DIGITS) - spent
        found[name], spent = float(share), spent + share
    return found

"""Why a turn read less from its provider's cache than it could have: our verdict. Pure.

A miss is what the provider says, never what we expect of it: the turn read fewer tokens than were
in the cache after the turn that it goes on from. Then the cause is looked for, in the order in
which it would take effect. Nobody is blamed where a conversation begins, or was summarised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .changes import first_change, same_parts
from .turns import turn_before

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from .causes import Cause
    from .changes import Change
    from .prices import InputPrices
    from .turns import Turn

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of what was in the cache when *turn* was sent, and why."""

    turn: Turn
    before: Turn | None = None
    cause: Cause | None = None
    """Of a miss; else why nothing could have been read, or None."""
    expected: int = 0
    """Tokens that could have been read."""
    missed: int = 0
    """How many of them were not; 0: no miss."""
    change: Change | None = None

    def cost(self, prices: InputPrices | None) -> Decimal | None:
        """Return what the missed tokens cost more than if they had been read, in USD."""
        if prices is None:
            return None
        # What is not read is written first, and then simply read as input.
        written = min(self.missed, self.turn.written)
        paid = written * prices.written + (self.missed - written) * prices.uncached
        return paid - self.missed * prices.read

    def as_json(self, prices: InputPrices | None) -> Json:
        """Return it as it is answered (docs/logs-api.md)."""
        before, cost = self.before, self.cost(prices) if self.missed else None
        has_content = self.turn.prompt is not None and (before is None or before.prompt is not None)
        told = self.turn.told.get("diagnostics", False)
        return {
            "is_miss": self.missed > 0,
            "cause": self.cause,
            "evidence": "content" if has_content else "usage",
            "previous_request_id": before and before.row["request_id"],
            "changed": self.change and self.change.as_json(),
            "idle_seconds": before and round(max(0.0, _idle(before, self.turn)), 3),
            "ttl_seconds": before and max(_lifetimes(before)),
            "tokens_expected": self.expected,
            "tokens_read": self.turn.read,
            "tokens_missed": self.missed,
            "cost_usd": None if cost is None else float(round(cost, 10)),
            "provider": None if told is False else told or {"reason": None, "tokens_missed": None},
        }


def verdict_on(turn: Turn, earlier: Sequence[Turn]) -> Verdict | None:
    """Return the verdict on *turn*, after the *earlier* ones of its conversation, the oldest first.

    None where its answer does not say what it used.
    """
    if not turn.is_whole:
        return None
    if _is_compaction(turn, earlier):
        return Verdict(turn, cause="compaction")
    before = turn_before(turn, earlier)
    if before is None:
        return Verdict(turn, cause=_beginning(turn, earlier))
    change = first_change(before, turn)
    if turn.whole * 2 < before.whole and not turn.goes_on:
        return Verdict(turn, before, "compaction", change=change)
    expected = _could_be_read(before, turn)
    missed = expected - turn.read
    if missed <= turn.rules.step + turn.rules.slack * before.kept:
        return Verdict(turn, before, _nothing_kept(turn), expected, change=change)
    return Verdict(turn, before, _cause(before, turn, change), expected, missed, change)


def _could_be_read(before: Turn, turn: Turn) -> int:
    """Return how many tokens of *turn* were in the cache: what is not said any more is not."""
    found = min(before.kept, turn.whole)
    if turn.whole >= before.whole or before.prompt is None or turn.prompt is None:
        return found
    kept = {part.hash for part in before.prompt.parts}
    size = sum(part.size for part in turn.prompt.parts)
    same = sum(part.size for part in turn.prompt.parts if part.hash in kept)
    return min(found, turn.whole * same // size) if size and not turn.goes_on else found


def _is_compaction(turn: Turn, earlier: Sequence[Turn]) -> bool:
    """Tell whether *turn* summarises its conversation, or is the first one with the summary."""
    last = next((each for each in reversed(earlier) if each.is_whole), None)
    classes = (turn.row["request_class"], last and last.row["request_class"])
    return "compaction" in classes


def _beginning(turn: Turn, earlier: Sequence[Turn]) -> Cause:
    """Return why *turn* goes on with none of the *earlier* ones."""
    largest = max((each.whole for each in earlier if each.model == turn.model), default=0)
    return "compaction" if turn.whole * 2 < largest else "first_turn"


def _nothing_kept(turn: Turn) -> Cause | None:
    """Return why *turn* neither read nor wrote anything, where that is plain."""
    if turn.read or turn.written:
        return None
    if turn.whole < turn.rules.minimum(turn.model):
        return "below_minimum"
    return "no_breakpoint" if _lacks_breakpoint(turn) else None


def _cause(before: Turn, turn: Turn, change: Change | None) -> Cause:
    idle, lifetimes = _idle(before, turn), _lifetimes(before)
    if idle > max(lifetimes):
        return "ttl"
    if change is not None:
        return change.cause
    if turn.told.get("context_edited"):
        return "context_edited"
    if turn.whole < turn.rules.minimum(turn.model):
        return "below_minimum"
    if _lacks_breakpoint(turn):
        return "no_breakpoint"
    if idle > min(lifetimes):
        return "ttl"
    if before.prompt is None or turn.prompt is None:
        return "unknown"
    return "beyond_look_back" if _is_beyond_look_back(before, turn) else "provider"


def _idle(before: Turn, turn: Turn) -> float:
    """Return for how many seconds nobody used what was kept."""
    return turn.began - before.answered


def _lifetimes(turn: Turn) -> list[int]:
    """Return how long what *turn* left in the cache lives, by its breakpoints."""
    ttls = {str(ttl) for _, ttl in turn.prompt.marks} if turn.prompt is not None else set()
    if turn.prompt is None and (long := turn.row["cache_write_1h_tokens"]):
        ttls = {"1h"} if long >= turn.written else {"", "1h"}
    return [turn.rules.seconds(ttl, turn.settings, turn.model) for ttl in ttls or {""}]


def _lacks_breakpoint(turn: Turn) -> bool:
    if turn.rules.breakpoints is None or turn.prompt is None or turn.goes_on:
        return False
    return not turn.prompt.marks


def _is_beyond_look_back(before: Turn, turn: Turn) -> bool:
    """Tell whether the last breakpoint of *before* is too far before every one of *turn*."""
    old, new, blocks = before.prompt, turn.prompt, turn.rules.look_back
    if blocks is None or old is None or new is None or not old.marks or turn.goes_on:
        return False
    last = max(index for index, _ in old.marks)
    is_there = last < same_parts(old.parts, new.parts)
    return is_there and all(not index - blocks < last <= index for index, _ in new.marks)

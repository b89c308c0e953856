"""Turns of a conversation: what one read, wrote and was made of, and which one it goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ccproxy_flask.content.cache_parts import begins_with

from .rules import Rules, rules_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ccproxy_flask.content.cache_parts import Prompt

Json = dict[str, Any]
_FURTHEST_BACK = 8
"""So many turns are looked at for the one before: others may have come in between."""


@dataclass(frozen=True)
class Turn:
    """A *row*, and where its content is kept the *facts* of that and its *prompt*."""

    row: Mapping[str, Any]
    facts: Json = field(default_factory=dict)
    prompt: Prompt | None = None

    @property
    def told(self) -> Json:
        """What the answer said of the cache (:mod:`ccproxy_flask.content.cache_diagnostics`)."""
        told: Json = self.facts.get("cache") or {}
        return told

    @cached_property
    def rules(self) -> Rules:
        """How its provider caches."""
        row = self.row
        return rules_for(self.facts.get("api"), row["provider"], row["endpoint"])

    @property
    def model(self) -> str:
        """The model that answered."""
        return str(self.row["model"] or self.row["model_requested"] or "")

    @property
    def settings(self) -> Json:
        """What of its request decides on the cache besides its parts."""
        given = {} if self.prompt is None else self.prompt.settings
        return given | {"model": self.row["model_requested"] or self.row["model"]}

    @property
    def read(self) -> int:
        """The tokens that were read from the cache."""
        return self.row["cache_read_tokens"] or 0

    @property
    def written(self) -> int:
        """The tokens that were written to it, as far as the answer says it."""
        return self.row["cache_write_tokens"] or 0

    @property
    def whole(self) -> int:
        """All tokens of the input."""
        return self.read + self.written + (self.row["tokens_input"] or 0)

    @property
    def is_whole(self) -> bool:
        """The client got an answer that says what it used."""
        status = self.row["status_code"] or 0
        return 200 <= status < 300 and self.row["tokens_input"] is not None

    @property
    def goes_on(self) -> bool:
        """It names an answer in place of what was said before."""
        return self.row["previous_message_id"] is not None

    @cached_property
    def began(self) -> float:
        """When it was sent, in seconds since 1970."""
        return datetime.fromisoformat(self.row["timestamp"]).timestamp()

    @property
    def answered(self) -> float:
        """When its answer began: only then others can read what it wrote."""
        return self.began + (self.row["ttfb_ms"] or self.row["duration_ms"] or 0) / 1000

    @property
    def kept(self) -> int:
        """How many tokens were in the cache after it, as far as that is certain."""
        if self.rules.states_writes(self.model):
            return self.read + self.written
        if self.rules.puts == "read" or self.whole < self.rules.minimum(self.model):
            return self.read
        return self.whole - self.whole % self.rules.step


def turn_before(turn: Turn, earlier: Sequence[Turn]) -> Turn | None:
    """Return the turn of *earlier* (of the same conversation, the oldest first) that *turn* goes on
    from; None: it begins something new."""
    there = [each for each in earlier if each.is_whole and each.answered <= turn.began]
    if turn.goes_on:
        named = [e for e in there if e.row["message_id"] == turn.row["previous_message_id"]]
        return _last(named or there)
    there = there[-_FURTHEST_BACK:]
    if turn.prompt is None or not turn.prompt.parts:
        same = [each for each in there if each.model == turn.model]
        alike = [each for each in there if each.whole <= 2 * turn.whole <= 4 * each.whole]
        return _last(same or alike)
    last = there[-1].prompt if there else None
    if last is not None and last.parts and begins_with(turn.prompt.parts, last.parts):
        return there[-1]
    fitting = [(_shared(each, turn), each) for each in there]
    best = max((share for share, _ in fitting), default=0.0)
    found = next((each for share, each in reversed(fitting) if share == best), None)
    return found if found is not None and _goes_on_with(turn, found) else None


def _last(turns: Sequence[Turn]) -> Turn | None:
    return turns[-1] if turns else None


def _shared(before: Turn, turn: Turn) -> float:
    """Return how much of what *before* said is in *turn*, too."""
    if before.prompt is None or not before.prompt.parts or turn.prompt is None:
        return 0.0 if before.model != turn.model else 0.5
    now = {part.hash for part in turn.prompt.parts}
    sizes = [(part.size + 1, part.hash in now) for part in before.prompt.parts]
    return sum(size for size, is_in in sizes if is_in) / sum(size for size, _ in sizes)


def _goes_on_with(turn: Turn, before: Turn) -> bool:
    """Tell whether *turn* goes on with what *before* said: a message is the same, or there are more
    of them behind the same tools and system."""
    if before.prompt is None or not before.prompt.parts or turn.prompt is None:
        return True
    old, new = _halves(before.prompt), _halves(turn.prompt)
    grew = len(new[1]) > len(old[1]) and (bool(old[0] & new[0]) or not old[0] | new[0])
    return bool(old[1] & new[1]) or grew


def _halves(prompt: Prompt) -> tuple[set[bytes], set[bytes]]:
    """Return the hashes of tools and system, and those of messages."""
    found: tuple[set[bytes], set[bytes]] = (set(), set())
    for part in prompt.parts:
        found[part.section == "messages"].add(part.hash)
    return found

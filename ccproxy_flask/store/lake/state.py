"""How far the journal of a node is stored: goes with each commit, whole. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import orjson

from ..base import CommittedOffset

_MOST_LEDGERS = 1000
"""Of dead workers' ledgers, which stay in the state for ever, the newest so many do."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """After so many commits (*number*), the marks by segment and the counts of one node."""

    number: int = 0
    marks: dict[str, CommittedOffset] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return it as JSON."""
        marks = [[mark.segment, mark.position, mark.closed] for mark in self.marks.values()]
        shown = {"number": self.number, "marks": marks, "counts": self.counts}
        return orjson.dumps(shown).decode()

    @classmethod
    def from_text(cls, text: str) -> NodeState:
        """Return the state that *text* is of."""
        found = orjson.loads(text)
        marks = {mark[0]: CommittedOffset(*mark) for mark in found["marks"]}
        return cls(found["number"], marks, found["counts"])

    def numbered(self, number: int) -> NodeState:
        """Return it as that of the commit *number*."""
        return dataclasses.replace(self, number=number)

    def with_marks(self, marks: dict[str, CommittedOffset]) -> NodeState:
        """Return it with these marks, too."""
        found = self.marks | marks
        ledgers = sorted(name for name in found if name.endswith(".ledger"))
        for name in ledgers[:-_MOST_LEDGERS]:
            del found[name]
        return dataclasses.replace(self, marks=found)

    def without_marks(self, segments: set[str]) -> NodeState:
        """Return it without the marks of *segments*."""
        kept = {name: mark for name, mark in self.marks.items() if name not in segments}
        return dataclasses.replace(self, marks=kept)

    def with_counts(self, counts: dict[str, int]) -> NodeState:
        """Return it with *counts* added to those of the same names."""
        found = dict(self.counts)
        for name, number in counts.items():
            found[name] = found.get(name, 0) + number
        return dataclasses.replace(self, counts=found)

"""Keeps the parts of prompts in a day's file, each once; a prompt is a list of their numbers.

A conversation is sent again with every turn, so the list of a turn is mostly that of the one
before: runs of numbers that follow each other.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import orjson

from .cache_parts import PromptPart

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

SCHEMA = """
CREATE TABLE IF NOT EXISTS prompt_part (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, facts TEXT NOT NULL);
"""
_AT_ONCE = 500  # values of one question


class PromptTable:
    """The table in *db*. Every method raises sqlite3.Error where the file cannot be used."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, parts: Sequence[PromptPart]) -> list[int]:
        """Keep *parts*, and return the runs of their numbers."""
        return [number for run in _runs(map(self._id_of, parts)) for number in run]

    def _id_of(self, part: PromptPart) -> int:
        asked = "SELECT id FROM prompt_part WHERE hash = ?"
        found = self._db.execute(asked, (part.hash,)).fetchone()
        if found is None:
            found = self._db.execute(
                "INSERT INTO prompt_part (hash, facts) VALUES (?, ?) RETURNING id",
                (part.hash, orjson.dumps(part[1:]).decode()),
            ).fetchone()
        return int(found[0])

    def read(self, runs: Iterable[Sequence[int]]) -> list[list[PromptPart]]:
        """Return the parts that each of *runs* stands for.

        Raises ValueError, LookupError or TypeError where what is there is no such thing.
        """
        lists = [list(_numbers(each)) for each in runs]
        known = self._parts(sorted({number for numbers in lists for number in numbers}))
        return [[known[number] for number in numbers] for numbers in lists]

    def _parts(self, numbers: Sequence[int]) -> dict[int, PromptPart]:
        found: dict[int, PromptPart] = {}
        for begin in range(0, len(numbers), _AT_ONCE):
            some = numbers[begin : begin + _AT_ONCE]
            marks = ",".join("?" * len(some))
            asked = f"SELECT id, hash, facts FROM prompt_part WHERE id IN ({marks})"  # noqa: S608  ours
            for number, digest, facts in self._db.execute(asked, some):
                found[number] = PromptPart(digest, *orjson.loads(facts))
        return found


def _runs(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Give *ids* as runs: the step from the end of the run before to the first, and how many."""
    last = 0
    for _, group in itertools.groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield run[0] - last, len(run)
        last = run[-1]


def _numbers(runs: Sequence[int]) -> Iterator[int]:
    last = 0
    for step, count in zip(runs[::2], runs[1::2], strict=True):
        yield from range(last + step, last + step + count)
        last += step + count - 1

"""Conversations of answers that name each other: each row gets the name of its chain.

A request that goes on from an answer names that answer alone. Who follows the rows, which come in
about the order of their time, knows what that one belonged to.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.journal.lines import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_MOST = 100_000
# Nothing that a client says can look like this: quotes in JSON's texts are escaped.
_NAMELESS = b'"conversation_id":null'
_GOES_ON = b'"previous_message_id":"'
_NAMED = b'"conversation_id":"'
_ANSWERED = b'"message_id":"'
_NO_SESSION = b'"session_id":null'


class Chains:
    """Knows of the newest answers to which chain they belong; *look_up* knows of some others."""

    def __init__(self, look_up: Callable[[Collection[str]], Mapping[str, str]]) -> None:
        self._look_up = look_up
        self._known: OrderedDict[str, str] = OrderedDict()
        self._guessed: OrderedDict[str, None] = OrderedDict()
        """Answers that gave chains their names, since nobody knew to which chain they belong."""
        self.renamed: dict[str, str] = {}
        """Old names of chains and new ones: what was guessed has turned out to be wrong. Who tells
        the rows takes them out."""

    def named(self, rows: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Return *rows*, (request id, line), with the names of chains where they go on with one.

        Raises StoreUnavailable.
        """
        # A look at all of them together is quick, and says of most batches that there is no chain.
        text = b"".join(line for _, line in rows)
        if _GOES_ON not in text and (_NO_SESSION not in text or _ANSWERED not in text):
            return rows
        goes_on: dict[str, tuple[str, object]] = {}
        for request_id, line in rows:
            if _NAMELESS in line and _GOES_ON in line:
                fields = parse(line) or {}
                if isinstance(before := fields.get("previous_message_id"), str):
                    goes_on[request_id] = before, fields.get("message_id")
            elif _NO_SESSION in line and _NAMED in line and _ANSWERED in line:
                fields = parse(line) or {}
                self._learn(fields.get("message_id"), fields.get("conversation_id"))
        if not goes_on:
            return rows
        names = self._names_of(goes_on)
        return [(request_id, _with(line, names.get(request_id))) for request_id, line in rows]

    def _names_of(self, goes_on: Mapping[str, tuple[str, object]]) -> dict[str, str]:
        answers = {answer for _, answer in goes_on.values()}
        missing = {before for before, _ in goes_on.values()} - self._known.keys() - answers
        for message_id, name in (self._look_up(missing) if missing else {}).items():
            self._learn(message_id, name)
        came_from = {answer: before for before, answer in goes_on.values()}
        names = {}
        for request_id, (before, answer) in goes_on.items():
            names[request_id] = self._root_of(before, came_from)
            self._learn(answer, names[request_id])
        return names

    def _root_of(self, message_id: str, came_from: Mapping[object, str]) -> str:
        """Return the chain of an answer, also where what it goes on from comes with it."""
        seen: set[str] = set()
        while message_id not in self._known and message_id in came_from and message_id not in seen:
            seen.add(message_id)
            message_id = came_from[message_id]
        if message_id not in self._known:
            self._guessed[message_id] = None
            _shorten(self._guessed)
        return self._known.get(message_id, message_id)

    def _learn(self, message_id: object, name: object) -> None:
        if isinstance(message_id, str) and isinstance(name, str):
            self._known[message_id] = name
            _shorten(self._known)
            if message_id in self._guessed:
                del self._guessed[message_id]
                self._rename(message_id, name)

    def _rename(self, old: str, name: str) -> None:
        """Let what was named by an answer have the name of the chain that the answer belongs to."""
        if old != name:
            self.renamed[old] = name
            _shorten(self.renamed)
            for message_id in [each for each, known in self._known.items() if known == old]:
                self._known[message_id] = name


def _shorten(found: dict[str, Any]) -> None:
    while len(found) > _MOST:
        del found[next(iter(found))]


def _with(line: bytes, name: str | None) -> bytes:
    if name is None:
        return line
    return line.replace(_NAMELESS, b'"conversation_id":' + orjson.dumps(name), 1)

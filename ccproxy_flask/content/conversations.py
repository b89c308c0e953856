"""Conversations by what was said: which request each one goes on from.

What a client says comes first: the answer or the stored conversation that its request names, and
its session. Where it says nothing, a request belongs to the conversation whose messages it begins
with. Two that begin alike are two: a prefix counts only where it is all that was asked in a
request, or that and its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ccproxy_flask.usage.request_class import TURNS

from .context import context_of
from .conversation import parsed_request
from .places import (
    ANSWERED,
    ASKED,
    NAMED,
    PASSED,
    STORED,
    Place,
    key_of_answer,
    key_of_conversation,
    keys_of,
    last_of,
)
from .whole_prompts import WholePrompts, earlier_of, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ccproxy_flask.dialects.said import Earlier

    from .day_file import Exchange
    from .store import ContentStore

Json = dict[str, Any]
OnNamed = Callable[[Mapping[str, str], Mapping[str, str]], None]
"""Is told the conversations of requests, by their ids, and which ones have another name now."""


class Conversations:
    """Follows the conversations of exchanges that are kept in *store*. For one thread.

    *on_named* is told what the client does not tell. Raises sqlite3.Error and OSError where the
    store cannot be read.
    """

    def __init__(
        self,
        store: ContentStore,
        on_named: OnNamed,
    ) -> None:
        self._store, self._on_named = store, on_named
        self._prompts = WholePrompts(self._find, self._load)
        self._new: dict[str, Exchange] = {}
        self._places: dict[Place, list[str]] = {}
        """Of exchanges that are not in the store yet."""

    def stored(self) -> None:
        """Note that all exchanges so far are in the store, or never will be."""
        self._new.clear()
        self._places.clear()

    def follow(self, exchange: Exchange) -> None:
        """Note in *exchange* what it goes on from, its conversation, and the size of its context
        where it does not have all of that itself."""
        end = exchange.facts["end"]
        if end.get("request_class", "main") not in TURNS or exchange.conversation is None:
            return
        earlier = earlier_of(exchange)
        asked, shared = exchange.conversation, 0
        before: str | None = None
        if earlier is not None:
            before = self._find(exchange.request_id, *place_of(earlier))
            exchange.facts["chain"] = {"continues": before}
            turn = self._prompts.turn(exchange)
            asked = parsed_request(exchange.facts.get("api", "other"), turn.document)
            exchange.facts["context"] = context_of(asked)
            shared = sum(each["messages"] for each in turn.sources[:-1])
        keys, count = (
            keys_of(_scope(exchange), asked["messages"], exchange.answer),
            len(asked["messages"]),
        )
        if earlier is None:
            before, shared = self._longest(exchange, keys[:count])
        exchange.facts.setdefault("chain", {}).update({"previous": before, "shared": shared})
        exchange.places = _places(exchange, keys, count, shared, earlier)
        self._name(exchange, earlier, before, self._after(exchange, keys, count))
        self._new[exchange.request_id] = exchange
        for place in exchange.places:
            self._places.setdefault(place, []).append(exchange.request_id)

    # -- what it goes on from ----------------------------------------------------------------------

    def _longest(self, exchange: Exchange, keys: Sequence[int]) -> tuple[str | None, int]:
        """Return the exchange at the longest of the prefixes, and how many messages that has."""
        found = self._placed(exchange.request_id, keys, (ASKED, ANSWERED))
        for count in range(len(keys), 0, -1):
            for kind in (ANSWERED, ASKED):
                others = found.get(Place(keys[count - 1], kind))
                if not others or (
                    kind == ASKED
                    and count == len(keys)
                    and not self._is_again(exchange, others[-1])
                ):
                    continue
                return others[-1], count
        return None, 0

    def _is_again(self, exchange: Exchange, request_id: str) -> bool:
        """Tell whether *exchange*, which asks the same as another one, is that again: a retry, or
        another answer in a conversation that had begun. Others begin alike by chance."""
        before = self._load(request_id)
        if before is None:
            return False
        is_retry = bool(exchange.facts["end"].get("retry_count"))
        if is_retry or exchange.session_id or _has_failed(before) or _has_failed(exchange):
            return True
        return before.facts.get("chain", {}).get("previous") is not None

    def _after(self, exchange: Exchange, keys: Sequence[int], count: int) -> list[str]:
        """Return those that go on from *exchange*, and were kept before it."""
        if len(keys) == count:
            return []
        found = self._placed(exchange.request_id, keys[-1:], (PASSED,))
        return found.get(Place(keys[-1], PASSED), [])

    def _placed(
        self, request_id: str, keys: Sequence[int], kinds: Sequence[int]
    ) -> dict[Place, list[str]]:
        found = self._store.placed(request_id, keys, kinds)
        for place in (Place(key, kind) for key in keys for kind in kinds):
            if place in self._places:
                found[place] = [*found.get(place, ()), *self._places[place]]
        return found

    def _find(self, request_id: str, key: int, kind: int) -> str | None:
        found = self._placed(request_id, [key], [kind]).get(Place(key, kind), [])
        return last_of(found, request_id, kind)

    def _load(self, request_id: str) -> Exchange | None:
        return self._new.get(request_id) or self._store.exchange(request_id)

    # -- names -------------------------------------------------------------------------------------

    def _name(
        self,
        exchange: Exchange,
        earlier: Earlier | None,
        before: str | None,
        after: Sequence[str],
    ) -> None:
        """Give *exchange* the name of its conversation, and those the same that belong to it."""
        if exchange.session_id:
            return
        named: dict[str, str] = {}
        renamed: dict[str, str] = {}
        others = ([] if before is None else [before]) + [*after]
        known = {each: self._session_of(each) for each in others}
        end = exchange.facts["end"]
        name = end.get("conversation_id") or next(filter(None, known.values()), None)
        if earlier is not None and name is None:
            name = earlier.message_id or earlier.conversation_id
        if name is None:
            name = others[0] if others else None
        if name is None:
            return  # alone so far: no conversation yet
        exchange.session_id = name
        if end.get("conversation_id") is None and earlier is None:
            named[exchange.request_id] = name
        for each, old in known.items():
            if old is None:
                named[each] = name
                self._belongs(each, name)
            elif old != name:
                renamed[old] = name
                self._are_one(old, name)
        if named or renamed:
            self._on_named(named, renamed)

    def _session_of(self, request_id: str) -> str | None:
        found = self._load(request_id)
        return found.session_id if found is not None else None

    def _belongs(self, request_id: str, name: str) -> None:
        if request_id in self._new:
            self._new[request_id].session_id = name
        else:
            self._store.name_session(request_id, name)

    def _are_one(self, old: str, name: str) -> None:
        for each in self._new.values():
            each.session_id = name if each.session_id == old else each.session_id
        self._store.rename_session(old, name)


def _scope(exchange: Exchange) -> str:
    """Return in what the conversation of an exchange can be: its session, or all of a person."""
    if exchange.session_id:
        return f"session:{exchange.session_id}"
    return f"user:{exchange.facts['end'].get('user_id')}"


def _places(
    exchange: Exchange, keys: Sequence[int], count: int, shared: int, earlier: Earlier | None
) -> list[Place]:
    if not count:
        return []
    found = [Place(keys[count - 1], ASKED), *(Place(key, ANSWERED) for key in keys[count:])]
    found += [Place(key, PASSED) for key in keys[shared : count - 1]]
    answer = exchange.answer
    if answer is not None and isinstance(answer.get("id"), str):
        found.append(Place(key_of_answer(answer["id"]), NAMED))
    if earlier is not None and earlier.conversation_id is not None:
        found.append(Place(key_of_conversation(earlier.conversation_id), STORED))
    return found


def _has_failed(exchange: Exchange) -> bool:
    facts = exchange.facts
    end = facts["end"]
    return (facts.get("status") or 502) >= 400 or bool(end.get("error") or end.get("error_type"))

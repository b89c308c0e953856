"""Whole prompts, also where a client sends only what is new and the provider remembers the rest.

Each turn names the answer, or the stored conversation, that it goes on from; what was kept of the
turns before is put in front of it, as the provider does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from . import view
from .assembly import answer_document, as_json
from .conversation import parsed_request, said_in
from .places import NAMED, STORED, key_of_answer, key_of_conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ccproxy_flask.dialects.said import Earlier

    from .day_file import Exchange

Json = dict[str, Any]
_MOST_TURNS = 2_000
_KEPT_BYTES = 8 << 20  # of bodies, as they are on the wire


class Turn(NamedTuple):
    """A turn of which all is known that it goes on from, as far as that was kept."""

    request_id: str
    document: Json
    """Its request, whole."""
    answer: Json | None
    sources: tuple[Json, ...]
    """Whose messages these are, in order: ``{"request_id", "from": request or answer,
    "messages": how many}``."""
    missing: Json | None
    """What it goes on from that was not kept: ``{"message_id"}`` or ``{"conversation_id"}``."""
    size: int


class WholePrompts:
    """Makes prompts whole with what *find* and *load* have.

    *find* returns the request id of the newest exchange at a place (:mod:`.places`) before the
    request with an id; *load* returns an exchange by its id. They may raise sqlite3.Error.
    """

    def __init__(
        self,
        find: Callable[[str, int, int], str | None],
        load: Callable[[str], Exchange | None],
    ) -> None:
        self._find, self._load = find, load
        self._known: OrderedDict[str, Turn] = OrderedDict()
        self._size = 0
        self._changing = threading.Lock()

    def turn(self, exchange: Exchange) -> Turn:
        """Return *exchange* as a turn, with all that it goes on from."""
        waiting: list[Exchange] = []
        seen: set[str] = set()
        turn, each = None, exchange
        while turn is None:
            turn = self._recall(each.request_id)
            if turn is None:
                waiting.append(each)
                seen.add(each.request_id)
                before = self._before(each)
                if before is None or before.request_id in seen or len(seen) >= _MOST_TURNS:
                    break
                each = before
        while waiting:
            turn = self.remember(_turn(waiting.pop(), turn))
        assert turn is not None  # noqa: S101  at least *exchange* is one
        return turn

    def remember(self, turn: Turn) -> Turn:
        """Note a turn, which others may go on from."""
        with self._changing:
            self._forget(turn.request_id)
            self._known[turn.request_id] = turn
            self._size += turn.size
            while self._size > _KEPT_BYTES and len(self._known) > 1:
                self._forget(next(iter(self._known)))
        return turn

    def _forget(self, request_id: str) -> None:
        known = self._known.pop(request_id, None)
        self._size -= known.size if known is not None else 0

    def _recall(self, request_id: str) -> Turn | None:
        with self._changing:
            known = self._known.get(request_id)
            if known is not None and known.missing is not None:
                return None  # it may have come since
            if known is not None:
                self._known.move_to_end(request_id)
            return known

    def _before(self, exchange: Exchange) -> Exchange | None:
        """Return the exchange that another one goes on from, None where that was not kept."""
        earlier = earlier_of(exchange)
        if earlier is None:
            return None
        known = exchange.facts.get("chain", {}).get("continues")
        found = known or self._find(exchange.request_id, *place_of(earlier))
        return self._load(found) if found is not None and found != exchange.request_id else None


def earlier_of(exchange: Exchange) -> Earlier | None:
    """Return what the provider remembers and a request goes on from, None where it is whole."""
    return said_in(_api(exchange)).earlier(_document(exchange))


def place_of(earlier: Earlier) -> tuple[int, int]:
    """Return (key, kind) of where the turn is that another one goes on from."""
    if earlier.message_id is not None:
        return key_of_answer(earlier.message_id), NAMED
    return key_of_conversation(earlier.conversation_id or ""), STORED


def _turn(exchange: Exchange, before: Turn | None) -> Turn:
    api, own = _api(exchange), _document(exchange)
    said = said_in(api)
    answer = answer_document(
        api, view.said(exchange, "response"), exchange.facts["response"]["streams"]
    )
    has_answer = said.answer(answer) is not None if answer is not None else False
    facts = exchange.facts
    size = int(facts["request"]["bytes"]) + int(facts["response"]["bytes"])
    earlier = said.earlier(own)
    if earlier is None or before is None:
        missing = None if earlier is None else {k: v for k, v in earlier._asdict().items() if v}
        messages = parsed_request(api, own)["messages"]
        sources = _source(exchange.request_id, "request", len(messages))
        return Turn(
            exchange.request_id, own, answer if has_answer else None, sources, missing, size
        )
    whole = said.whole(before.document, before.answer, own)
    answered = _source(before.request_id, "answer", 1) if before.answer is not None else ()
    new = _source(exchange.request_id, "request", _count_of_new(api, own))
    return Turn(
        exchange.request_id,
        whole,
        answer if has_answer else None,
        (*before.sources, *answered, *new),
        before.missing,
        size + before.size,
    )


def _source(request_id: str, part: str, messages: int) -> tuple[Json, ...]:
    return ({"request_id": request_id, "from": part, "messages": messages},) if messages else ()


def _count_of_new(api: str, own: Json) -> int:
    """Return how many messages a request adds to those before it."""
    said = said_in(api)
    one: Json = {said.messages: [{"role": "user", "content": "x"}]}
    return len(parsed_request(api, said.whole(one, None, own))["messages"]) - 1


def _api(exchange: Exchange) -> str:
    return str(exchange.facts.get("api", "other"))


def _document(exchange: Exchange) -> Json:
    found = as_json(view.said(exchange, "request"))
    return found if isinstance(found, dict) else {}


def origin_of(turn: Turn) -> Mapping[str, Any]:
    """Return what is said of where a prompt comes from (docs/logs-api.md)."""
    return {"sources": list(turn.sources), "missing": turn.missing}

"""What can be asked of content, answered in the storage plane: parsing takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.errors import ContentNotKept

from . import view
from .places import Place, last_of
from .whole_prompts import WholePrompts, origin_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .cache_parts import Prompt
    from .day_file import Exchange
    from .store import ContentStore

_MOST_FIRST_WORDS = 10_000
RAW = ("request", "response", "events")
"""What of an exchange can be had besides the whole, parsed."""


class ContentQuestions:
    """Answers by the text of a JSON object, but for raw bodies. Raises ContentNotKept, and
    sqlite3.Error where a file cannot be read."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store
        self._prompts = WholePrompts(self._find, store.exchange)
        self._first_words: dict[str, str | None] = {}

    def content(self, request_id: str, raw: str | None = None) -> bytes:
        """Return an exchange parsed, or one of :data:`RAW` of it."""
        exchange = self._exchange(request_id)
        if raw == "events":
            return orjson.dumps(view.events(exchange))
        if raw is not None:
            return view.said(exchange, "request" if raw == "request" else "response")
        turn = self._prompts.turn(exchange)
        chain = exchange.facts.get("chain") or {}
        known = {"previous": chain.get("previous"), "shared": chain.get("shared", 0)}
        found = view.content(exchange, turn.document, {**origin_of(turn), **known})
        return orjson.dumps(found | {"verified": view.verified(exchange)})

    def diff(self, request_id: str, other: str = "previous") -> bytes:
        """Return how a request differs from *other*: an id, or ``previous`` in its session."""
        exchange = self._exchange(request_id)
        before = self._previous(exchange) if other == "previous" else self._exchange(other)
        one, two = (self._prompts.turn(each) for each in (before, exchange))
        api = exchange.facts.get("api", "other")
        found = view.compared(api, (one.request_id, one.document), (two.request_id, two.document))
        return orjson.dumps(found)

    def prompts(self, request_ids: Iterable[str]) -> dict[str, tuple[dict[str, Any], Prompt]]:
        """Return the facts of requests, and what a cache looks at in them, by request id."""
        return self._store.prompts(request_ids)

    def first_words(self, request_id: str) -> str | None:
        """Return how the person began the conversation that a request carries; None: not kept."""
        if request_id not in self._first_words:
            exchange = self._store.exchange(request_id)
            if exchange is None:
                return None
            if len(self._first_words) >= _MOST_FIRST_WORDS:
                self._first_words.clear()
            api = exchange.facts.get("api", "other")
            document = self._prompts.turn(exchange).document
            self._first_words[request_id] = view.first_words(api, document)
        return self._first_words[request_id]

    def search(self, question: str, limit: int) -> bytes:
        """Return where all words of *question* were said, newest first: ``{"results": [...]}``."""
        found = [
            {
                "request_id": hit.request_id,
                "at": hit.at,
                "part": hit.part,
                "session_id": hit.session_id,
                **_who(hit.facts),
                "text": view.excerpt(hit, question),
            }
            for hit in self._store.search(question, limit)
        ]
        return orjson.dumps({"results": found, "count": len(found), "limit": limit})

    def _find(self, request_id: str, key: int, kind: int) -> str | None:
        found = self._store.placed(request_id, [key], [kind]).get(Place(key, kind), [])
        return last_of(found, request_id, kind)

    def _exchange(self, request_id: str) -> Exchange:
        found = self._store.exchange(request_id)
        if found is None:
            raise ContentNotKept(request_id)
        return found

    def _previous(self, exchange: Exchange) -> Exchange:
        """Return what *exchange* goes on from: where it begins anew, the last one before it of the
        same agent of its session."""
        known = exchange.facts.get("chain", {}).get("previous")
        if known is not None and (found := self._store.exchange(known)) is not None:
            return found
        ids = self._store.session(exchange.session_id) if exchange.session_id else []
        for request_id in reversed([each for each in ids if each < exchange.request_id]):
            before = self._store.exchange(request_id)
            if before is not None and _place(before) == _place(exchange):
                return before
        raise ContentNotKept("previous")


def _who(facts: Mapping[str, Any]) -> dict[str, str | None]:
    end = facts.get("end") or {}
    return {name: end.get(name) for name in ("client", "model")}


def _place(exchange: Exchange) -> tuple[Any, ...]:
    facts = exchange.facts
    path = str(facts.get("target", "")).partition("?")[0]
    return path, facts.get("api"), facts["end"].get("agent_id")

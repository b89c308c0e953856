"""What a search in what was said found, as the page shows it: a row for each request."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ccproxy_flask.filters.values import LONGEST_TEXT

from .session_views import session_link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccproxy_flask.store.base import ContentSource

    from .page_query import PageQuery

LIMITS = (20, 50, 100, 200)
"""How many texts are shown at once; ``/logs/search`` gives no more."""
_WHO = {
    "answer": "Answer",
    "assistant": "Assistant",
    "model": "Assistant",
    "system": "System",
    "developer": "System",
    "tool": "Tool result",
    "function": "Tool result",
    "tools": "Tools",
    "user": "User",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORD = re.compile(r"[^\W_]+")
# The same as in static/dashboard/content.js.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


class Piece(NamedTuple):
    """A part of an excerpt; *is_hit*: a word that was asked for."""

    text: str
    is_hit: bool


def search(
    content: ContentSource, question: str, limit: int, query: PageQuery
) -> dict[str, Any] | None:
    """Return where all words of *question* were said; None where it has none.

    Raises StoreUnavailable.
    """
    question = question[:LONGEST_TEXT]
    if not _WORD.search(question):
        return None
    found = orjson.loads(content.content("/search", question=question, limit=limit))
    is_full = found["count"] >= limit
    more = next((each for each in LIMITS if each > limit), None) if is_full else None
    return {
        "rows": _rows(found["results"], question, query),
        "count": found["count"],
        "is_full": is_full,
        "more": more,
    }


def limit_of(text: str | None) -> int:
    """Return which of :data:`LIMITS` the address asks for: the least without, or with another."""
    return next((each for each in LIMITS if str(each) == text), LIMITS[0])


def _rows(hits: list[dict[str, Any]], question: str, query: PageQuery) -> list[dict[str, Any]]:
    """Return the *hits* by request, each with all that was found in it."""
    rows: dict[str, dict[str, Any]] = {}
    for hit in hits:
        request_id = hit["request_id"]
        row = rows.get(request_id) or rows.setdefault(request_id, _row(hit, query))
        who = _WHO.get(hit["part"], hit["part"])
        row["said"].append((who, pieces(hit["text"], question)))
    return list(rows.values())


def _row(hit: Mapping[str, Any], query: PageQuery) -> dict[str, Any]:
    session = hit["session_id"]
    at = _EPOCH + timedelta(microseconds=hit["at"])
    return {
        "id": hit["request_id"],
        "at": at,
        "client": hit["client"] or "",
        "model": hit["model"] or "",
        "session": session or "",
        "session_link": session_link(query, session) if session else "",
        "link": query.link(f"/dashboard/requests/{hit['request_id']}") + "#said",
        "said": [],
    }


def pieces(text: str, question: str) -> list[Piece]:
    """Return *text* cut where a word of *question* begins or ends: whole words, as the index has
    them, and of the last word the beginning. What is invisible is named."""
    *whole, last = [_plain(word) for word in _WORD.findall(question)] or [""]
    found, at = [], 0
    for word in _WORD.finditer(text) if last else ():
        plain = _plain(word[0])
        if plain in whole or plain.startswith(last):
            found += [Piece(text[at : word.start()], False), Piece(word[0], True)]
            at = word.end()
    found.append(Piece(text[at:], False))
    return [Piece(_INVISIBLE.sub(_named, each.text), each.is_hit) for each in found if each.text]


def _plain(word: str) -> str:
    """Return *word* as the index compares it: without case and accents."""
    parts = unicodedata.normalize("NFKD", word.casefold())
    return "".join(each for each in parts if not unicodedata.combining(each))


def _named(match: re.Match[str]) -> str:
    return f"\u27e8U+{ord(match[0]):04X}\u27e9"

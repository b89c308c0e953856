"""Sessions as they are shown: put together of rows, and of what is kept of what was said."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.content.context import shared_out
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.store.base import Page
from ccproxy_flask.store.sessions import TURN_COLUMNS, SessionPage, SessionsPage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ccproxy_flask.caching.turns import Turn
    from ccproxy_flask.store.base import Store

    from .caching import Caching
    from .content import ContentKeeping

Json = dict[str, Any]
_MOST_JUDGED = 2_000
"""So many requests of a session are looked at to say what they come to."""
_BEFORE = 200
"""And so many before a page, where there are more."""
_INPUT = ("tokens_input", "cache_read_tokens", "cache_write_tokens")


class Sessions:
    """Answers about the sessions in *store*, with what *content* has of them."""

    def __init__(self, store: Store, content: ContentKeeping | None, caching: Caching) -> None:
        self._store, self._content, self._caching = store, content, caching

    def page(self, where: LogFilter, page: SessionPage) -> SessionsPage:
        """Return some sessions, with their first words."""
        found = self._store.sessions(where, page)
        if self._content is None or not any(found.first_kept):
            return found
        sessions = orjson.loads(found.text)
        for session, request_id in zip(sessions, found.first_kept, strict=True):
            session["first_words"] = self._content.first_words(request_id)
        return SessionsPage(orjson.dumps(sessions), found.total_count)

    def session(self, session_id: str, limit: int, offset: int) -> bytes | None:
        """Return a session and *limit* of its turns, oldest first; None where there is none."""
        for where in (LogFilter(session_id=session_id), LogFilter(conversation_id=session_id)):
            found = self.page(where, SessionPage(limit=1))
            if found.total_count:
                break
        else:
            return None
        session: Json = orjson.loads(found.text)[0]
        return orjson.dumps(
            session
            | {"session_id": session_id}
            | self._turns(_within(where, session), limit, offset)
            | {"limit": limit, "offset": offset}
        )

    def _turns(self, where: LogFilter, limit: int, offset: int) -> Json:
        """Return the turns of a page as a tree, and what is said of all that were looked at."""
        first = 0 if offset + limit <= _MOST_JUDGED else offset - _BEFORE
        found = self._store.entries(where, Page(_MOST_JUDGED, first, "timestamp", order_desc=False))
        turns = self._caching.turns(found.rows)
        verdicts, sums = self._caching.of_session(turns)
        shown = turns[offset - first : offset - first + limit]
        judged = {"judged_requests": len(turns), "total_count": found.total_count}
        return {"tree": tree_of(shown, verdicts)} | sums | judged


def _within(where: LogFilter, session: Json) -> LogFilter:
    """Return *where* for the days of a *session*: others need not be looked through for turns."""
    began, latest = (
        datetime.fromisoformat(session[name]) for name in ("started_at", "last_request_at")
    )
    return where.model_copy(update={"start_time": began, "end_time": latest})


def tree_of(turns: Sequence[Turn], verdicts: Mapping[str, Json | None]) -> list[Json]:
    """Return the agents of *turns* as a tree: each has its turns, and the agents that it started.

    An agent whose parent is not known stands at the top, beside the main conversation.
    """
    agents: dict[str | None, Json] = {}
    for turn in turns:
        agent_id = turn.row["agent_id"]
        agent = agents.setdefault(agent_id, _agent(agent_id, turn.row["parent_agent_id"]))
        agent["turns"].append(_turn(turn, verdicts.get(turn.row["request_id"])))
    top = []
    for agent_id, agent in agents.items():
        parent = agents.get(agent["parent_agent_id"])
        is_above = parent is not None and not _is_below(agent["parent_agent_id"], agent_id, agents)
        if agent_id is not None and parent is not None and is_above:
            parent["agents"].append(agent)
        else:
            top.append(agent)
    return top


def _is_below(agent_id: str | None, other: str | None, agents: Mapping[str | None, Json]) -> bool:
    """Tell whether *agent_id* was, as clients say, started by *other* or one below it."""
    seen = set()
    while agent_id is not None and agent_id in agents and agent_id not in seen:
        if agent_id == other:
            return True
        seen.add(agent_id)
        agent_id = agents[agent_id]["parent_agent_id"]
    return agent_id is not None and agent_id == other


def _agent(agent_id: str | None, parent: str | None) -> Json:
    return {"agent_id": agent_id, "parent_agent_id": parent, "turns": [], "agents": []}


def _turn(turn: Turn, verdict: Json | None) -> Json:
    row = turn.row
    known = [row[name] for name in _INPUT if row[name] is not None]
    size = sum(known) if known else None
    return {
        **{name: row[name] for name in TURN_COLUMNS},
        "context_tokens": size,
        "context": shared_out(size, turn.facts.get("context")),
        "cache_verdict": verdict,
    }

"""Sessions as the pages show them: made of the recorder's answers, for the templates.

Rows are made while they are rendered: who renders gives others their turn in between.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson

from ccproxy_flask.store.base import LogFilter
from ccproxy_flask.store.sessions import SessionOrder, SessionPage
from ccproxy_flask.usage.request_class import TURNS

from . import cache_views, session_charts
from . import format as texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ccproxy_flask.store.base import ContentSource, Store

    from .page_query import PageQuery

SESSIONS = 50
SESSION_TURNS = 200
SORTS: dict[str, SessionOrder] = {
    "time": "started_at",
    "duration": "duration_ms",
    "turns": "turns",
    "agents": "agents",
    "errors": "errors",
    "tokens": "tokens_all",
    "hit": "cache_hit",
    "cost": "cost_usd",
}
"""What the list can be sorted by."""
PARTS = {
    "system": "System",
    "tools": "Tools",
    "messages": "Messages",
    "tool_results": "Tool results",
    "thinking": "Thinking",
    "media": "Media",
}
"""What a context is made of, in the order of the bars."""
_DEEPEST = 3


def session_link(query: PageQuery, session_id: str, **changes: str | None) -> str:
    """Return a link to a session's page. An id that would not stay what it is in a path is a
    parameter: browsers and servers shorten paths with empty or dotted parts."""
    if {"", ".", ".."} & set(session_id.split("/")):
        return query.link("/dashboard/sessions/", id=session_id, **changes)
    return query.link(f"/dashboard/sessions/{quote(session_id, safe='/')}", **changes)


def sessions(store: Store, query: PageQuery) -> dict[str, Any]:
    """Return one page of the list, and how many there are. Raises StoreUnavailable."""
    offset = (query.page - 1) * SESSIONS
    order = SORTS[query.sort.removeprefix("-")]
    page = SessionPage(SESSIONS, offset, order, query.sort.startswith("-"))
    found = store.sessions(query.where, page)
    upto = offset + SESSIONS
    more = {"page": str(query.page + 1)} if found.total_count > upto else None
    return {
        "rows": (_listed(one, query) for one in orjson.loads(found.text)),
        "total": found.total_count,
        "older": more and query.link("/dashboard/sessions", **more),
    }


def _listed(found: Mapping[str, Any], query: PageQuery) -> dict[str, str]:
    return {
        "id": found["session_id"],
        "link": session_link(query, found["session_id"], sort=None),
        **_figures(found),
    }


def _figures(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what is said of a session in the list and on its page."""
    unpriced, hit = found["unpriced_requests"], found["cache_hit"]
    client = (found["client"], found["client_version"])
    return {
        "time": found["started_at"],
        "utc": texts.utc(found["started_at"]),
        "client": " ".join(part for part in client if part) or texts.UNKNOWN,
        "words": found["first_words"] or "",
        "duration": texts.duration(found["duration_ms"]),
        "turns": texts.count(found["turns"]),
        "requests": texts.count(found["requests"]),
        "agents": texts.count(found["agents"]) if found["agents"] else "",
        "errors": texts.count(found["errors"]) if found["errors"] else "",
        "tokens": texts.short_count(found["tokens_all"]),
        "hit": texts.UNKNOWN if hit is None else texts.percent(hit, 1),
        "cost": texts.cost_total(found["cost_usd"]),
        "unpriced": f"{texts.short_count(unpriced)} unpriced" if unpriced else "",
    }


# -- one session -----------------------------------------------------------------------------------


def session(
    store: Store, content: ContentSource, session_id: str, query: PageQuery
) -> dict[str, Any] | None:
    """Return a session and a page of its turns by agent; None where there is none.

    Raises StoreUnavailable.
    """
    offset = (query.page - 1) * SESSION_TURNS
    text = content.session(session_id, SESSION_TURNS, offset)
    if text is None:
        return None
    found = orjson.loads(text)
    lanes = list(_lanes(found["tree"]))
    turns = sorted(
        (turn for lane in lanes for turn in lane["turns"]),
        key=lambda turn: (turn["timestamp"], turn["request_id"]),
    )
    spent = _spent_before(store, session_id, turns[0]["timestamp"]) if turns and offset else 0.0
    _number(turns, offset, spent)
    for lane in lanes:
        for turn in lane["turns"]:
            turn["lane"] = lane["agent_id"]
            turn["sizes"] = _sizes(turn["context"]) if turn["context"] else None
    scales = _scales(turns)
    return {
        "figures": _figures(found),
        "models": ", ".join(found["models"]),
        "user": found["user_id"] or "",
        "lanes": [_lane(lane, scales, query) for lane in lanes],
        "context": _last_context(turns),
        "cache": cache_views.of_session(found, query),
        "growth": session_charts.growth(turns, list(PARTS)),
        "times": session_charts.times(turns),
        "requests": query.link(
            "/dashboard/requests",
            session=session_id, range=f"{found['started_at'][:19]}Z..",
        ),
        **_pages(found, offset, len(turns), query),
    }  # fmt: skip


def _lanes(agents: Sequence[dict[str, Any]], depth: int = 0) -> Iterator[dict[str, Any]]:
    """Give the agents of a tree from the top down."""
    for agent in agents:
        yield {**agent, "depth": min(depth, _DEEPEST)}
        yield from _lanes(agent["agents"], depth + 1)


def _spent_before(store: Store, session_id: str, timestamp: str) -> float:
    """Return what the turns on the pages before have cost."""
    end = datetime.fromisoformat(timestamp) - timedelta(microseconds=1)
    for where in (LogFilter(session_id=session_id), LogFilter(conversation_id=session_id)):
        totals = store.totals(where.model_copy(update={"end_time": end}))
        if totals.total_requests:
            return float(totals.total_cost_usd or 0)
    return 0.0


def _number(turns: Sequence[dict[str, Any]], offset: int, spent: float) -> None:
    """Say of each turn which one it is in the session, the cost up to it, and when it was."""
    for number, turn in enumerate(turns, offset + 1):
        spent += turn["cost_usd"] or 0
        start = datetime.fromisoformat(turn["timestamp"]).timestamp()
        turn["number"], turn["spent"] = number, spent
        turn["span"] = (start, start + (turn["duration_ms"] or 0) / 1000)


class _Scales(NamedTuple):
    """What bars are measured by: the time that the page shows, in seconds, and a context."""

    began: float
    seconds: float
    largest_context: int


def _scales(turns: Sequence[Mapping[str, Any]]) -> _Scales:
    began = min((turn["span"][0] for turn in turns), default=0.0)
    ended = max((turn["span"][1] for turn in turns), default=0.0)
    largest = max((turn["context_tokens"] or 0 for turn in turns), default=0)
    return _Scales(began, ended - began, largest)


def _lane(lane: Mapping[str, Any], scales: _Scales, query: PageQuery) -> dict[str, Any]:
    own = lane["turns"]
    costs = [turn["cost_usd"] for turn in own if turn["cost_usd"] is not None]
    return {
        "name": lane["agent_id"] or "Main conversation",
        "depth": lane["depth"],
        "count": f"{len(own)} request{'s' if len(own) != 1 else ''}",
        "cost": texts.cost_total(sum(costs)) if costs else texts.UNKNOWN,
        "marks": (_mark(turn["span"], scales) for turn in own),
        "turns": (_turn(turn, scales, query) for turn in own),
    }


def _mark(span: tuple[float, float], scales: _Scales) -> dict[str, float]:
    """Return when a turn was, in percent of the time that the page shows."""
    share = 100 / scales.seconds if scales.seconds else 0.0
    width = max(0.4, round((span[1] - span[0]) * share, 2))
    return {"x": min(100 - width, round((span[0] - scales.began) * share, 2)), "width": width}


def _turn(turn: Mapping[str, Any], scales: _Scales, query: PageQuery) -> dict[str, Any]:
    kind = turn["request_class"]
    return {
        **texts.row(turn),
        "number": turn["number"],
        "class": "" if kind in (None, "main", "subagent") else texts.words(kind),
        "aside": kind is not None and kind not in TURNS,
        "spent": texts.cost_total(turn["spent"]),
        "context": texts.short_count(turn["context_tokens"]),
        "parts": _parts(turn, scales.largest_context),
        "made_of": _made_of(turn["context"]),
        "miss": cache_views.mark(turn["cache_verdict"]),
        "link": query.link(f"/dashboard/requests/{turn['request_id']}"),
    }


def _sizes(context: Mapping[str, Any]) -> dict[str, int]:
    return {
        name: sum(context["tools"].values()) if name == "tools" else context[name]
        for name in PARTS
    }  # fmt: skip


def _parts(turn: Mapping[str, Any], largest: int) -> list[dict[str, Any]]:
    """Return the widths of a context's parts, in percent of the *largest* context."""
    if turn["context"] is None or not largest:
        return []
    found, at = [], 0.0
    for name, size in _sizes(turn["context"]).items():
        width = 100 * size / largest
        if size:
            found.append({"name": name, "x": round(at, 2), "width": round(width, 2)})
        at += width
    return found


def _made_of(context: Mapping[str, Any] | None) -> str:
    if context is None:
        return ""
    return " · ".join(
        f"{PARTS[name]} {texts.count(size)}" for name, size in _sizes(context).items() if size
    )


def _last_context(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the context of the main conversation's last turn was made of, by part."""
    known = [turn for turn in turns if turn["context"] and turn["request_class"] in TURNS]
    if not known:
        return []
    main = [turn for turn in known if turn["request_class"] == "main"] or known
    context, whole = main[-1]["context"], main[-1]["context_tokens"]
    servers = sorted(context["tools"].items(), key=lambda pair: -pair[1])
    return [
        {
            "name": name,
            "label": PARTS[name],
            "tokens": texts.count(size),
            "percent": texts.percent(size, whole),
            "share": round(100 * size / whole, 1),
            "servers": ", ".join(
                f"{server or 'built in'} {texts.count(each)}" for server, each in servers if each
            )
            if name == "tools"
            else "",
        }
        for name, size in _sizes(context).items()
        if size
    ]


def _pages(
    found: Mapping[str, Any], offset: int, shown: int, query: PageQuery
) -> dict[str, str | None]:
    """Return which turns of how many are shown, and links to those before and after."""
    session_id, total = found["session_id"], found["total_count"]
    is_part = offset or shown < total
    count = texts.count
    return {
        "scope": f"{count(offset + 1)} to {count(offset + shown)} of {count(total)}"
        if is_part
        else "",
        "earlier": session_link(query, session_id, page=str(query.page - 1)) if offset else None,
        "later": session_link(query, session_id, page=str(query.page + 1))
        if offset + shown < total
        else None,
    }

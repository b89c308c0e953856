"""The endpoints about sessions: which there are, and one with its turns (docs/logs-api.md)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from flask import request

from ccproxy_flask.access import error_response
from ccproxy_flask.filters.values import LONGEST_TEXT

from .parameters import Session, Sessions, read
from .routes import blueprint, content_source, current_store, json_response, rows_response

if TYPE_CHECKING:
    from flask import Response


@blueprint.get("/sessions")
def sessions() -> Response:
    """Sessions with their totals."""
    store = current_store()
    where, page, after = (taken := read(Sessions, request.args)).meant()
    found = store.sessions(where, page)
    upto = page.offset + page.limit
    following = dataclasses.replace(after, offset=upto) if found.total_count > upto else None
    facts = {
        "total_count": found.total_count,
        "limit": page.limit,
        "order_by": page.order_by,
        "order_desc": page.order_desc,
        "hours": taken.hours,
        "next_cursor": None if following is None else str(following),
        "has_more": following is not None,
    }
    return rows_response("sessions", found.text, facts)


@blueprint.get("/sessions/<path:session_id>")
def session(session_id: str) -> Response:
    """One session: its turns as a tree of agents."""
    source = content_source()
    asked = read(Session, request.args)
    is_id = len(session_id) <= LONGEST_TEXT
    found = source.session(session_id, asked.limit, asked.offset) if is_id else None
    if found is None:
        return error_response(404, "not_found", "There is no session with this id.")
    return json_response(found)

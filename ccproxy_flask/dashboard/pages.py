"""The pages that show the store: they read the address, ask, and render."""

from __future__ import annotations

import time
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
from flask import Blueprint, Response, current_app, redirect, request

from ccproxy_flask.access import auth_token, comes_from_own_page, relative_url
from ccproxy_flask.errors import ERROR_TYPES, StoreUnavailable
from ccproxy_flask.filters.values import LONGEST_TEXT
from ccproxy_flask.record import COLUMN_TYPES, COLUMNS
from ccproxy_flask.server.sockets import take_turns
from ccproxy_flask.usage.request_class import REQUEST_CLASSES

from . import (
    cache_views,
    compare_views,
    limit_views,
    overview_views,
    request_views,
    search_views,
    session_views,
    sql_views,
    status_views,
)
from . import format as texts
from .page_filters import FILTERS, typed
from .page_query import COLUMN_NAMES, NUMERIC, RANGES, SORT_COLUMNS, PageQuery, read
from .sql_examples import sql_examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.wrappers import Response as AnyResponse

    from ccproxy_flask.settings import Settings
    from ccproxy_flask.store.base import ContentSource, Store

pages = Blueprint("pages", __name__)
"""Part of the dashboard's blueprint, which guards and traces it."""

_LONGEST_SQL = 20_000
_SQL_TYPES: dict[type, str] = {
    str: "VARCHAR",
    int: "BIGINT",
    float: "DOUBLE",
    bool: "BOOLEAN",
    Decimal: "DECIMAL",
    datetime: "TIMESTAMP",
}
_EMPTY_ROW = texts.row({"request_id": "", "timestamp": ""}, in_flight=True)


@pages.before_request
def _as_link() -> AnyResponse | None:
    """Turn what a person typed or ticked into the address that says it."""
    changes: dict[str, str | None] = {}
    if "f" in request.args:
        changes = dict.fromkeys(FILTERS) | typed(request.args["f"])
    elif len(request.args.getlist("cols")) < 2:
        return None
    path = quote(request.path, safe="/")
    return redirect(relative_url(_query().link(path, **changes)), 303)


@pages.get("", strict_slashes=False)
def overview() -> str:
    """Figures, charts, and the newest requests."""
    return _page("overview", lambda store, query: {"view": overview_views.overview(store, query)})


@pages.get("/cards")
def cards() -> str:
    """What the overview asks for by itself where there is much to count."""
    return _page("cards", lambda store, query: {"view": overview_views.cards(store, query)})


@pages.get("/requests")
def requests() -> str:
    """The table of requests."""
    return _page("requests", lambda store, query: {"view": request_views.requests(store, query)})


@pages.get("/requests/<request_id>")
def one_request(request_id: str) -> tuple[str, int]:
    """All that is known of one request; 404 where it is not stored, or not yet."""
    found: dict[str, Any] = {}

    def ask(store: Store, query: PageQuery) -> dict[str, Any]:
        found["view"] = request_views.request(store, request_id, query)
        content: ContentSource | None = current_app.extensions.get("ccproxy.content")
        cache = found["view"] and cache_views.of_request(content, request_id, query)
        return {"view": found["view"], "request_id": request_id, "cache": cache}

    text = _page("request", ask)
    return text, 404 if found.get("view", "") is None else 200


@pages.get("/compare")
def compare() -> str:
    """Two requests side by side."""
    ids = [request.args.get(name, "").strip()[:LONGEST_TEXT] for name in ("a", "b")]

    def ask(store: Store, query: PageQuery) -> dict[str, Any]:
        return {"view": compare_views.compare(store, ids, query) if all(ids) else None}

    return _page("compare", ask)


@pages.get("/sessions")
def sessions() -> str:
    """The table of sessions."""
    return _page(
        "sessions",
        lambda store, query: {"view": session_views.sessions(store, query)},
        sorts=session_views.SORTS,
    )


@pages.get("/sessions/")
@pages.get("/sessions/<path:session_id>")
def one_session(session_id: str | None = None) -> tuple[str, int]:
    """One session with its turns by agent; 404 where there is none, or not yet."""
    session_id = request.args.get("id", "") if session_id is None else session_id
    found: dict[str, Any] = {}
    content: ContentSource | None = current_app.extensions.get("ccproxy.content")

    def ask(store: Store, query: PageQuery) -> dict[str, Any]:
        is_id = len(session_id) <= LONGEST_TEXT
        if content is not None:
            ask_for = session_views.session
            found["view"] = ask_for(store, content, session_id, query) if is_id else None
        return found

    text = _page("session", ask, session_id=session_id, parts=session_views.PARTS)
    return text, 404 if found.get("view", "") is None else 200


@pages.get("/limits")
def limits() -> str:
    """Rate limits: how full, until when, and who filled them."""
    return _page("limits", lambda store, query: {"view": limit_views.limits(store, query)})


@pages.get("/search")
def search() -> str:
    """Where some words were said."""
    text = request.args.get("q", "").strip()[:LONGEST_TEXT]
    limit = search_views.limit_of(request.args.get("limit"))
    content: ContentSource | None = current_app.extensions.get("ccproxy.content")

    def ask(_store: Store, query: PageQuery) -> dict[str, Any]:
        if content is None:
            return {}
        return {"view": search_views.search(content, text, limit, query)}

    return _page("search", ask, text=text, keeps=_settings().capturing)


@pages.get("/sql")
def sql() -> str:
    """One SELECT of the operator's, and its answer."""
    text = request.args.get("q", "").strip()[:_LONGEST_SQL]
    # A link on a page of somebody else's does not make the recorder work.
    is_ours = comes_from_own_page(request.environ)

    def ask(store: Store, _query: PageQuery) -> dict[str, Any]:
        return {"view": sql_views.sql(store, text) if text and is_ours else None}

    more = {
        "text": text,
        "schema": [(name, _SQL_TYPES[COLUMN_TYPES[name]]) for name in COLUMNS],
    }
    return _page("sql", ask, **more)


@pages.get("/status")
def status() -> str:
    """The recorder, what waits, what was dropped, and the settings."""
    shown = status_views.settings_shown(_settings())
    about = status_views.about(_settings())
    return _page("status", lambda _store, _query: {}, settings=shown, about=about)


@pages.get("/suggestions")
def suggestions() -> Response:
    """What the field for filters can complete: values by filter."""
    query = read(request.args)
    found: dict[str, list[str]] = {
        "status": [">=400", "4xx", "5xx", "200", "429", "529"],
        "error": ["any", "none", *sorted(ERROR_TYPES)],
        "duration": [">1s", ">10s", ">1m"],
        "stream": ["yes", "no"],
        "unpriced": ["yes", "no"],
        "class": ["all", "others", *REQUEST_CLASSES],
    }
    store = current_app.extensions.get("ccproxy.store")
    if store is not None:
        found |= overview_views.names(store, query)
    order = [name for name in FILTERS if name != "q"]
    answer = {"names": {name: FILTERS[name][0] for name in order}, "values": found}
    return Response(orjson.dumps(answer), mimetype="application/json")


def _page(name: str, ask: Callable[[Store, PageQuery], dict[str, Any]], **more: Any) -> str:
    """Render a page; where the store does not answer, with the reason in place of its part."""
    query = _query()
    values: dict[str, Any] = {"view": None}
    away = None
    store: Store | None = current_app.extensions.get("ccproxy.store")
    try:
        if store is not None:
            values |= ask(store, query)
    except StoreUnavailable as error:
        away = str(error)
    return _rendered(
        f"dashboard/{name}.html",
        page=name,
        query=query,
        away=away,
        collects=_settings().recording,
        can_sign_out=auth_token() is not None,
        ranges=RANGES,
        names=COLUMN_NAMES,
        numeric=NUMERIC,
        sortable=SORT_COLUMNS,
        session_link=session_views.session_link,
        empty_row=_EMPTY_ROW,
        examples=sql_examples,
        charts=current_app.extensions["ccproxy.dashboard_charts"],
        **more,
        **values,
    )


def _rendered(name: str, **values: Any) -> str:
    """Render a template; a long page gives others their turn in between."""
    current_app.update_template_context(values)
    pieces, began = [], time.monotonic()
    for piece in current_app.jinja_env.get_template(name).generate(values):
        pieces.append(piece)
        began = take_turns(began)
    return "".join(pieces)


def _query() -> PageQuery:
    """Return what the address asks for, as this page understands it."""
    page = (request.endpoint or "").rpartition(".")[2]
    if page == "sessions":
        return read(request.args, sorts=session_views.SORTS)
    if page not in ("search", "sql"):
        return read(request.args)
    found = request.args.copy()
    found.poplist("q")  # the words, or the statement
    return read(found)


def _settings() -> Settings:
    settings: Settings = current_app.extensions["ccproxy.settings"]
    return settings

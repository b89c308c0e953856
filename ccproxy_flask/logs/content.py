"""The endpoints about what was said: content, what changed, caches, search (docs/logs-api.md).

The recorder reads, parses and searches; this passes its answers on.
"""

from __future__ import annotations

from flask import Response, request

from ccproxy_flask.access import error_response
from ccproxy_flask.errors import ContentNotKept
from ccproxy_flask.filters.values import LONGEST_TEXT

from .parameters import Content, Diff, Search, no_parameters, read
from .routes import blueprint, content_source, json_response

NOT_KEPT = (
    "What was said in this request is not kept: CAPTURE__CONTENT was off, it was not chosen or "
    "could not be kept (its row says which), or it is deleted already."
)


@blueprint.errorhandler(ContentNotKept)
def _not_kept(error: ContentNotKept) -> Response:
    if str(error) == "previous":
        text = "There is no request before this one in its session whose content is kept."
        return error_response(404, "not_found", text)
    if error.node is not None:
        text = f"What was said in this request is kept on the machine {error.node!r}: ask there."
        return error_response(404, "not_found", text)
    return error_response(404, "not_found", NOT_KEPT)


@blueprint.get("/entries/<request_id>/content")
def content(request_id: str) -> Response:
    """What was said in one request: parsed, or one of its bodies, or its events with times."""
    asked = read(Content, request.args)
    found = content_source().content("", request_id=request_id, raw=asked.raw)
    is_body = asked.raw in ("request", "response")
    kind = "application/octet-stream" if is_body else "application/json"
    return Response(found, mimetype=kind)


@blueprint.get("/entries/<request_id>/diff")
def diff(request_id: str) -> Response:
    """What changed from another request to this one, in the order in which providers cache."""
    asked = read(Diff, request.args)
    found = content_source().content("/diff", request_id=request_id, other=asked.other)
    return Response(found, mimetype="application/json")


@blueprint.get("/entries/<request_id>/cache")
def cache(request_id: str) -> Response:
    """Why the cache missed in one request, and what that cost."""
    no_parameters(request.args)
    found = content_source().cache(request_id) if len(request_id) <= LONGEST_TEXT else None
    if found is None:
        return error_response(404, "not_found", "There is no request with this id.")
    return json_response(found)


@blueprint.get("/search")
def search() -> Response:
    """Where all of some words were said, newest first."""
    asked = read(Search, request.args)
    found = content_source().content("/search", question=asked.q, limit=asked.limit)
    return Response(found, mimetype="application/json")

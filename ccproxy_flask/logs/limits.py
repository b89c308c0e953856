"""The endpoint about rate limits: how full, until when, and who filled them (docs/limits.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from flask import request

from .parameters import RateLimits, read
from .routes import blueprint, current_store, rows_response

if TYPE_CHECKING:
    from flask import Response


@blueprint.get("/limits")
def limits() -> Response:
    """Each window now, its history, and who used it."""
    store = current_store()
    asked = read(RateLimits, request.args).meant()
    found = store.limits(asked)
    times = (asked.start_time, asked.end_time)
    start, end = (moment.isoformat().replace("+00:00", "Z") for moment in times)
    facts = {"count": len(orjson.loads(found)), "start_time": start, "end_time": end}
    return rows_response("windows", found, facts)

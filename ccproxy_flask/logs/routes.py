"""The endpoints under ``/logs``: they read the parameters, ask the store, and answer."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
from flask import Blueprint, Response, abort, current_app, request
from pydantic import ValidationError

from ccproxy_flask import __version__, request_context
from ccproxy_flask.access import auth_token, error_response, guard
from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import LogFilter, query_formats
from ccproxy_flask.journal.failure import recorder_failure
from ccproxy_flask.journal.ledger import read_ledgers
from ccproxy_flask.journal.segments import list_segments
from ccproxy_flask.metrics import multiprocess_values
from ccproxy_flask.server import sockets
from ccproxy_flask.store.analytics import bucket_for
from ccproxy_flask.store.base import Page, QueryRefused, abandoned

from .openapi import document
from .parameters import (
    Analytics,
    Entries,
    Export,
    InvalidParameters,
    Query,
    no_parameters,
    read,
    read_sql,
)

if TYPE_CHECKING:
    from flask.blueprints import BlueprintSetupState

    from ccproxy_flask.journal.ledger import FoundLedger
    from ccproxy_flask.settings import Settings
    from ccproxy_flask.store.base import ContentSource, Store, StoreStatus

COLLECTION_OFF = "Logs collection is disabled. Enable with logs_collection_enabled=true"
_DISABLED_RETRY_SECONDS = 60
_LATE_SECONDS = 5.0
# The longest statement, each character written as two escapes (`\ud83d\ude00`), and some space.
_LONGEST_BODY = 256 << 10
_EXPORT_TYPES = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}

blueprint = Blueprint("logs", __name__, url_prefix="/logs")
request_context.trace(blueprint, "logs_service")
guard(blueprint)


@blueprint.record_once
def _prepare(state: BlueprintSetupState) -> None:
    settings: Settings = state.app.extensions["ccproxy.settings"]
    document(settings.security.auth_token is not None)  # now, while nobody waits


@blueprint.before_request
def _refuse_where_off() -> None:
    if not _settings().observability.logs_endpoints_enabled:
        abort(404)


@blueprint.before_request
def _notice_hangups() -> None:
    """Let a question end whose client left, instead of being answered to nobody."""
    sock = sockets.client_socket(request.environ)
    abandoned.set(lambda: sock is not None and sockets.has_left(sock))


@blueprint.after_request
def _forbid_caching(response: Response) -> Response:
    response.headers.setdefault("cache-control", "no-store")
    return response


@blueprint.errorhandler(InvalidParameters)
def _unprocessable(error: InvalidParameters) -> Response:
    detail = [
        {
            "type": one.kind,
            "loc": [one.where, one.name] if one.name else [one.where],
            "msg": str(one),
            "input": one.value,
        }
        for one in error.problems
    ]
    return json_response(orjson.dumps({"detail": detail}), 422)


@blueprint.errorhandler(QueryRefused)
def _refused(error: QueryRefused) -> Response:
    detail = [{"type": error.kind, "loc": ["body", "sql"], "msg": str(error), "input": None}]
    return json_response(orjson.dumps({"detail": detail}), 422)


@blueprint.errorhandler(StoreUnavailable)
def _unavailable(error: StoreUnavailable) -> Response:
    response = error_response(503, "service_unavailable", _reason(error))
    response.headers["retry-after"] = str(max(1, error.retry_after))
    return response


def _reason(error: StoreUnavailable) -> str:
    """Return why there is no store; of a recorder that cannot start, what it says itself."""
    failure = recorder_failure(_settings().journal_directory)
    return f"{error}: {failure}" if failure is not None else str(error)


@blueprint.get("/entries")
def entries() -> Response:
    """One page of rows in any order (SPEC §5)."""
    store = current_store()
    asked = read(Entries, request.args)
    page = asked.page()
    found = store.entries(asked.where(), page)
    facts = {
        "total_count": found.total_count,
        "limit": page.limit,
        "offset": page.offset,
        "order_by": page.order_by,
        "order_desc": page.order_desc,
        "service_type": request.args.get("service_type"),
        "page": page.offset // page.limit + 1,
        "total_pages": -(-found.total_count // page.limit),
        "backend": _settings().observability.log_storage_backend,
    }
    return rows_response("entries", found.text, facts)


@blueprint.get("/entries/<request_id>")
def entry(request_id: str) -> Response:
    """One row."""
    store = current_store()
    no_parameters(request.args)
    try:
        found = store.entries(LogFilter(request_id=request_id), Page(limit=1))
    except ValidationError:  # longer than any id
        found = None
    if found is None or not found.total_count:
        return error_response(404, "not_found", "There is no record with this request id.")
    return json_response(found.text[1:-1])


@blueprint.get("/analytics")
def analytics() -> Response:
    """Figures over a time, from one scan of the table (SPEC §5)."""
    store = current_store()
    asked = read(Analytics, request.args)
    where = asked.where()
    now = time.time()
    start = where.start_time.timestamp() if where.start_time else 0.0
    end = where.end_time.timestamp() if where.end_time else now
    size = bucket_for(start, min(end, now))
    found = store.analytics(where, size)
    facts = {
        "query_time": now,
        "backend": _settings().observability.log_storage_backend,
        "query_params": {
            "start_time": _as_given(request.args.get("start_time")) or start,
            "end_time": _as_given(request.args.get("end_time")) or end,
            "model": where.model,
            "service_type": request.args.get("service_type"),
            "hours": asked.hours,
        },
    }
    return json_response(found[:-1] + b"," + orjson.dumps(facts)[1:])


@blueprint.get("/export")
def export() -> Response:
    """All rows as a file (SPEC §5), passed on as the recorder makes it."""
    store = current_store()
    asked = read(Export, request.args)
    form = asked.format
    pieces = store.export(asked.where(), form)
    first = next(pieces, b"")  # what is wrong is known now, while there still is a status to send
    name = f"ccproxy-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.{form}"
    response = Response(itertools.chain([first], pieces), mimetype=_EXPORT_TYPES[form])
    response.call_on_close(pieces.close)
    response.headers["content-disposition"] = f'attachment; filename="{name}"'
    return response


@blueprint.post("/sql")
def sql() -> Response:
    """The answer to one SELECT of the operator's (SPEC §5)."""
    store = current_store()
    no_parameters(request.args)
    if (request.content_length or 0) > _LONGEST_BODY:
        return error_response(413, "too_large", f"At most {_LONGEST_BODY} bytes.")
    asked = read_sql(request.stream.read(_LONGEST_BODY))
    return json_response(store.sql(asked.sql, asked.limit))


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description of this API for programs (OpenAPI 3.1)."""
    no_parameters(request.args)
    return json_response(document(auth_token() is not None))


@blueprint.get("/query")
def query() -> Response:
    """The newest rows, and from there on back (SPEC §5)."""
    store = current_store()
    asked = read(Query, request.args)
    found = store.query(asked.where(), asked.limit, asked.after())
    facts = {
        "count": found.count,
        "limit": asked.limit,
        "filters": {
            "start_time": _as_given(request.args.get("start_time")),
            "end_time": _as_given(request.args.get("end_time")),
            "model": asked.model,
            "service_type": request.args.get("service_type"),
        },
        "timestamp": time.time(),
        "next_cursor": found.next_cursor,
        "has_more": found.next_cursor is not None,
    }
    return rows_response("results", found.text, facts)


@blueprint.post("/reset")
def reset() -> Response:
    """Delete all rows (SPEC §5)."""
    store = current_store()
    no_parameters(request.args)
    store.reset()
    answer = {
        "status": "success",
        "message": "All logs data has been reset",
        "timestamp": time.time(),
        "backend": _settings().observability.log_storage_backend,
    }
    return json_response(orjson.dumps(answer))


@blueprint.get("/status")
def status() -> Response:
    """Whether records are kept, and where (SPEC §5). Answers also where nothing else does."""
    no_parameters(request.args)
    settings = _settings()
    collecting = current_app.extensions["ccproxy.journal"] is not None
    ledgers = read_ledgers(settings.journal_directory) if collecting else []
    try:
        found = _facts_of(current_store().status(), ledgers)
    except StoreUnavailable as error:
        found = _facts_without_store(settings, _reason(error), ledgers)
    shown = {
        "prometheus_enabled": str(settings.observability.metrics_endpoint_enabled),
        "observability_system": "hybrid_prometheus_structlog",
        "backend": settings.observability.log_storage_backend,
        "path": settings.records_place,
        "backlog_lines": sum(one.account.waiting for one in ledgers if one.alive),
        "metrics_trouble": multiprocess_values.trouble(),
        "version": __version__,
    }
    return json_response(orjson.dumps(found | shown))


def _facts_of(known: StoreStatus, ledgers: list[FoundLedger]) -> dict[str, Any]:
    counts = dict(known.counts)
    dropped = {
        name.removeprefix("dropped:"): counts.pop(name)
        for name in known.counts
        if name.startswith("dropped:")
    }
    troubles = [one.account.trouble for one in ledgers if one.alive and one.account.in_trouble]
    reason = known.reason or (f"journal: {troubles[0]}" if troubles else None)
    if not reason and known.writer_lag_seconds > _LATE_SECONDS:
        reason = "records wait in the journal"
    return {
        "status": "degraded" if reason else "healthy",
        "reason": reason,
        "rows": known.rows,
        "last_write": known.last_write and known.last_write.isoformat().replace("+00:00", "Z"),
        "backlog_bytes": known.backlog_bytes,
        "writer_lag_seconds": round(known.writer_lag_seconds, 3),
        "damaged_lines": counts.get("damaged_lines", 0),
        "worker_lost": counts.get("worker_lost", 0),
        "record_lost": counts.get("record_lost", 0),
        "dropped": dropped,
        "content_bytes": known.content.get("bytes"),
        "nodes": list(known.nodes),
        "content_waiting_bytes": known.content.get("waiting_bytes"),
        "content_dropped": counts.get("content_dropped", 0),
        "limits_ignored": counts.get("limits_ignored", 0),
    }


def _facts_without_store(
    settings: Settings, reason: str, ledgers: list[FoundLedger]
) -> dict[str, Any]:
    collecting = current_app.extensions["ccproxy.journal"] is not None
    try:
        waiting = sum(segment.size for segment in list_segments(settings.journal_directory))
    except OSError:
        waiting = 0
    return {
        "status": "unavailable",
        "reason": reason,
        "rows": None,
        "last_write": None,
        "backlog_bytes": waiting if collecting else 0,
        "writer_lag_seconds": None,
        "damaged_lines": None,
        "worker_lost": None,
        "record_lost": None,
        "content_bytes": None,
        "content_waiting_bytes": None,
        "nodes": [],
        "content_dropped": None,
        "limits_ignored": None,
        "dropped": sum((Counter(one.dropped) for one in ledgers), Counter[str]()),
    }


def _as_given(text: str | None) -> float | str | None:
    return float(text) if text is not None and query_formats.NUMBER.fullmatch(text) else text


def rows_response(name: str, rows: bytes, facts: dict[str, Any]) -> Response:
    """Answer with *rows*, the text of a JSON array, under *name*, and *facts* beside it."""
    return json_response(b'{"' + name.encode() + b'":' + rows + b"," + orjson.dumps(facts)[1:])


def json_response(body: bytes, code: int = 200) -> Response:
    """Answer with *body*, which is JSON."""
    return Response(body, code, mimetype="application/json")


def _settings() -> Settings:
    settings: Settings = current_app.extensions["ccproxy.settings"]
    return settings


def current_store() -> Store:
    """Return where to ask for records. Raises StoreUnavailable."""
    store: Store | None = current_app.extensions["ccproxy.store"]
    if store is None:
        raise StoreUnavailable(COLLECTION_OFF, _DISABLED_RETRY_SECONDS)
    return store


def content_source() -> ContentSource:
    """Return where to ask for what was said. Raises StoreUnavailable."""
    source: ContentSource | None = current_app.extensions["ccproxy.content"]
    if source is None:
        raise StoreUnavailable(COLLECTION_OFF, _DISABLED_RETRY_SECONDS)
    return source

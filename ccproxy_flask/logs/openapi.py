"""``/logs/openapi.json``: the description of this API for programs (OpenAPI 3.1).

Parameters are made of the types that check them (``parameters``, ``filters``): what the
description allows is answered, what it forbids is refused. Two things it cannot say: that the begin
of a range is not behind its end, and what SQL is. Both are answered by 422.
"""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import orjson
from pydantic import TypeAdapter

from ccproxy_flask import __version__
from ccproxy_flask.access import COOKIE
from ccproxy_flask.filters import Filter, LogFilter
from ccproxy_flask.filters.values import Text

from .parameters import (
    Analytics,
    Content,
    Diff,
    Entries,
    Export,
    Query,
    RateLimits,
    Search,
    Session,
    Sessions,
    Sql,
)
from .schemas import Schema, reference, schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

_TAKES: dict[str, type[LogFilter]] = {
    "entries": Entries,
    "query": Query,
    "analytics": Analytics,
    "export": Export,
    "sessions": Sessions,
    "stream": LogFilter,
}
_STATEMENTS = {
    "models": "SELECT model, sum(cost_usd) AS usd FROM access_logs GROUP BY ALL ORDER BY 2 DESC",
    "columns": "DESCRIBE access_logs",
}
_ERRORS = {
    "401": "The token is needed, or the session of one who signed in with it",
    "403": "A foreign host or page",
    "404": "There is no such thing, or it is switched off",
    "405": "Another method",
    "413": "Too large",
    "429": "Too many wrong tokens, or too many viewers at once",
    "503": "Recording is off, or the store is unavailable",
}
_ERROR_HEADERS: dict[str, dict[str, Schema]] = {
    "401": {"WWW-Authenticate": {"type": "string", "pattern": "^Bearer "}},
    "405": {"Allow": {"type": "string"}},
    "429": {"Retry-After": {"type": "integer", "minimum": 1}},
    "503": {"Retry-After": {"type": "integer", "minimum": 1}},
}
_HEADERS: dict[str, Schema] = {
    "x-ccproxy-request-id": {"type": "string", "format": "uuid"},
    "Cache-Control": {"const": "no-store"},
}
# Those that no view has seen: they are answered by the router.
_UNTRACED = ("404", "405")
_LINKS: dict[str, dict[str, Any]] = {
    "entries_one": {
        "operationId": "entry",
        "parameters": {"request_id": "$response.body#/entries/0/request_id"},
    },
    "sessions_one": {
        "operationId": "session",
        "parameters": {"session_id": "$response.body#/sessions/0/session_id"},
    },
    "sessions_next": {
        "operationId": "sessions",
        "parameters": {"cursor": "$response.body#/next_cursor"},
        "description": "Where there are more",
    },
    "query_one": {
        "operationId": "entry",
        "parameters": {"request_id": "$response.body#/results/0/request_id"},
    },
    "query_next": {
        "operationId": "query",
        "parameters": {"cursor": "$response.body#/next_cursor"},
        "description": "Where there are more",
    },
}


@cache
def document(needs_token: bool) -> bytes:
    """Return :func:`description` as JSON; made once, since that takes a while."""
    return orjson.dumps(description(needs_token))


def description(needs_token: bool) -> dict[str, Any]:
    """Return the whole document, of a server that *needs_token* or does not."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ccproxy-flask logs", "version": __version__},
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {"schemas": schemas(), "securitySchemes": _security_schemes()},
        "security": [{"token": []}, {"session": []}] if needs_token else [],
    }


def _paths() -> dict[str, Any]:
    plain: Schema = {"type": "object"}
    return {
        "/logs/entries": {"get": _rows("entries", "One page of records", "Entries")},
        "/logs/entries/{request_id}": {"get": _one_entry()},
        "/logs/entries/{request_id}/content": {"get": _of_entry("content", Content, "Content")},
        "/logs/entries/{request_id}/diff": {"get": _of_entry("diff", Diff, "Difference")},
        "/logs/entries/{request_id}/cache": {"get": _cache()},
        "/logs/search": {"get": _search()},
        "/logs/query": {"get": _rows("query", "Records, newest first, page after page", "Query")},
        "/logs/analytics": {"get": _rows("analytics", "Figures over a time", "Analytics")},
        "/logs/sessions": {"get": _rows("sessions", "Sessions with their totals", "Sessions")},
        "/logs/sessions/{session_id}": {"get": _one_session()},
        "/logs/limits": {"get": _limits()},
        "/logs/export": {"get": _export()},
        "/logs/stream": {"get": _stream()},
        "/logs/status": {"get": _operation("status", "How recording does", reference("Status"))},
        "/logs/reset": {"post": _operation("reset", "Delete all records", reference("Reset"))},
        "/logs/sql": {"post": _sql()},
        "/logs/openapi.json": {"get": _operation("openapi", "This document", plain)},
    }


def _operation(name: str, summary: str, shape: Schema) -> dict[str, Any]:
    """Return an operation that answers with JSON of this *shape*."""
    problems = _answer("A parameter is wrong", _json(reference("Problems")))
    answers = {"200": _answer("The answer", _json(shape)), "422": problems}
    for status, text in _ERRORS.items():
        if status != "413":
            answers[status] = _error(status, text)
    return {"operationId": name, "summary": summary, "responses": answers}


def _rows(name: str, summary: str, shape: str) -> dict[str, Any]:
    """Return an operation that takes the filters, and what its endpoint adds."""
    operation = _operation(name, summary, reference(shape))
    operation["parameters"] = _parameters(_TAKES[name])
    links = {link: target for link, target in _LINKS.items() if link.startswith(name)}
    if links:
        operation["responses"]["200"]["links"] = links
    return operation


def _parameter(name: str, field: FieldInfo) -> dict[str, Any]:
    asked = next((each for each in field.metadata if isinstance(each, Filter)), None)
    text, values = (asked.text, asked.examples) if asked else (field.description, ())
    found = {
        "name": name,
        "in": "query",
        "required": field.is_required(),
        "schema": _schema(field),
        "description": text,
    }
    examples = {str(each): {"value": each} for each in values}
    return found | {"examples": examples} if examples else found


def _schema(field: FieldInfo) -> Schema:
    """Return the schema of a value that is given: that it may be absent is said elsewhere."""
    given = [part for part in get_args(field.annotation) if part is not NoneType]
    is_optional = NoneType in get_args(field.annotation)
    kind = given[0] if is_optional else field.rebuild_annotation()
    return TypeAdapter(kind).json_schema()


def _answer(text: str, content: Schema, headers: Iterable[str] = _HEADERS) -> dict[str, Any]:
    shown = {name: {"required": True, "schema": _HEADERS[name]} for name in headers}
    return {"description": text, "headers": shown, "content": content}


def _error(status: str, text: str) -> dict[str, Any]:
    answer = _answer(text, _json(reference("Error")), () if status in _UNTRACED else _HEADERS)
    for name, schema in _ERROR_HEADERS.get(status, {}).items():
        answer["headers"][name] = {"required": True, "schema": schema}
    return answer


def _one_entry() -> dict[str, Any]:
    parameter = {"name": "request_id", "in": "path", "required": True}
    parameter["schema"] = TypeAdapter(Text).json_schema()
    operation = _operation("entry", "One record", reference("Row"))
    return operation | {"parameters": [parameter]}


def _cache() -> dict[str, Any]:
    operation = _operation("cache", "Why the cache missed, and what it cost", reference("Cache"))
    return operation | {"parameters": _one_entry()["parameters"]}


def _limits() -> dict[str, Any]:
    operation = _operation("limits", "Rate limits, and who used them", reference("RateLimits"))
    return operation | {"parameters": _parameters(RateLimits)}


def _one_session() -> dict[str, Any]:
    parameter = {"name": "session_id", "in": "path", "required": True}
    parameter["schema"] = TypeAdapter(Text).json_schema()
    operation = _operation("session", "One session and its turns", reference("SessionTurns"))
    return operation | {"parameters": [parameter, *_parameters(Session)]}


def _of_entry(name: str, takes: type[BaseModel], shape: str) -> dict[str, Any]:
    """Return an operation on what was said in one request."""
    summary = {"content": "What was said in it", "diff": "What changed since another"}[name]
    operation = _operation(name, summary, reference(shape))
    operation["parameters"] = [*_one_entry()["parameters"], *_parameters(takes)]
    if name == "content":  # the body itself is asked for by `raw`
        operation["responses"]["200"]["content"]["application/octet-stream"] = {}
    return operation


def _search() -> dict[str, Any]:
    operation = _operation("search", "Where some words were said", reference("Found"))
    return operation | {"parameters": _parameters(Search)}


def _parameters(takes: type[BaseModel]) -> list[dict[str, Any]]:
    fields = takes.model_fields
    return [_parameter(field.alias or name, field) for name, field in fields.items()]


def _export() -> dict[str, Any]:
    operation = _rows("export", "All records as a file", "Row")
    answer = operation["responses"]["200"]
    answer["headers"]["Content-Disposition"] = {
        "required": True,
        "schema": {"type": "string", "pattern": "^attachment; filename="},
    }
    text: Schema = {"schema": {"type": "string"}}
    # Each line of the second is a Row; the third is binary.
    answer["content"] = {
        "text/csv": text,
        "application/x-ndjson": text,
        "application/vnd.apache.parquet": {},
    }
    return operation


def _stream() -> dict[str, Any]:
    operation = _rows("stream", "Requests as they happen", "StreamEvent")
    operation["responses"]["200"]["content"] = {
        "text/event-stream": {"schema": reference("StreamEvent")}  # of each event
    }
    resume = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "The last `id` that was read: the stream goes on behind it",
    }
    operation["parameters"].append(resume)
    return operation


def _sql() -> dict[str, Any]:
    asked = Sql.model_json_schema()
    examples = {name: {"value": {"sql": text}} for name, text in _STATEMENTS.items()}
    operation = _operation("sql", "The answer to one SELECT", reference("SqlAnswer"))
    operation["responses"]["413"] = _error("413", _ERRORS["413"])
    body = {"application/json": {"schema": asked, "examples": examples}}
    return operation | {"requestBody": {"required": True, "content": body}}


def _security_schemes() -> dict[str, Any]:
    return {
        "token": {"type": "http", "scheme": "bearer", "description": "SECURITY__AUTH_TOKEN"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": "Of one who signed in at `/dashboard/sign-in`",
        },
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}

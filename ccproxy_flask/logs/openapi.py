"""``/logs/openapi.json``: the description of this API for programs (OpenAPI 3.1).

Names, bounds, patterns and choices are those that ``filters`` checks: what the description allows
is answered, what it forbids is refused. Two things it cannot say: that the begin of a range is not
behind its end, and what SQL is. Both are answered by 422.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ccproxy_flask import __version__
from ccproxy_flask.access import COOKIE
from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.record import COLUMNS
from ccproxy_flask.store.base import MOST_ROWS

from . import forms
from .filters import (
    FILTERS,
    FORMATS,
    LARGEST_OFFSET,
    LONGEST_DURATION_MS,
    LONGEST_SQL,
    LONGEST_TEXT,
    MOST_ENTRIES,
    MOST_HOURS,
)
from .schemas import Schema, reference, schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": forms.LAST_SECOND},
        *({"type": "string", "pattern": form.pattern} for form in forms.MOMENTS),
    ]
}
_NAMES: Schema = {
    "type": "string",
    "maxLength": LONGEST_TEXT,
    "pattern": forms.CHOICES.pattern,
}
_CURSOR: Schema = {"type": "string", "pattern": forms.CURSOR.pattern}
_DURATION: Schema = {"type": "number", "minimum": 0, "maximum": LONGEST_DURATION_MS}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_STATUS: Schema = {"type": "integer", "minimum": 100, "maximum": 599}
_FILTER_PARAMETERS: dict[str, tuple[Schema, str]] = {
    "start_time": (_TIME, "From this time on: RFC 3339, or seconds since 1970"),
    "end_time": (_TIME, "Up to this time, which is not before `start_time`"),
    "model": (_TEXT, "One model, as the answer named it"),
    "service_type": (_NAMES, "`a,b`: one of these; `!a,!b`: none of these"),
    "provider": (_TEXT, "One provider"),
    "status_code_min": (_STATUS, "HTTP statuses from this one on"),
    "status_code_max": (_STATUS, "HTTP statuses up to this one, not less than `status_code_min`"),
    "min_duration_ms": (_DURATION, "Durations from this one on"),
    "max_duration_ms": (_DURATION, "Durations up to this one, not less than `min_duration_ms`"),
    "streaming": (_FLAG, "Streams, or what is none"),
    "session_id": (_TEXT, "One session"),
    "request_id": (_TEXT, "One request"),
    "error_type": ({"type": "string", "enum": sorted(ERROR_TYPES)}, "One kind of error"),
    "q": (_TEXT, "A text anywhere in path, model, user agent or error"),
}
_OWN_PARAMETERS: dict[str, dict[str, tuple[Schema, str]]] = {
    "entries": {
        "limit": (_COUNT | {"maximum": MOST_ENTRIES}, "Rows"),
        "offset": ({"type": "integer", "minimum": 0, "maximum": LARGEST_OFFSET}, "Rows to skip"),
        "order_by": ({"type": "string", "enum": list(COLUMNS)}, "A column"),
        "order_desc": (_FLAG, "Largest first"),
    },
    "query": {
        "limit": (_COUNT | {"maximum": MOST_ROWS}, "Rows"),
        "cursor": (_CURSOR, "`next_cursor` of the page before"),
    },
    "analytics": {"hours": (_COUNT | {"maximum": MOST_HOURS}, "The last hours")},
    "export": {"format": ({"type": "string", "enum": list(FORMATS)}, "Of the file")},
    "stream": {},
}
_EXAMPLES: dict[str, tuple[Any, ...]] = {
    "start_time": (1795226400, "2026-11-21T02:00:00Z", "2026-11-21T03:00:00+01:00"),
    "end_time": ("2026-11-22", "20261122T020000Z"),
    "service_type": ("proxy_service,other", "!other"),
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
    "503": "Nothing is recorded, or the store is away",
}
_ERROR_HEADERS: dict[str, dict[str, Schema]] = {
    "401": {"WWW-Authenticate": {"type": "string", "pattern": "^Bearer "}},
    "405": {"Allow": {"type": "string"}},
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
        "/logs/query": {"get": _rows("query", "Records, newest first, page after page", "Query")},
        "/logs/analytics": {"get": _rows("analytics", "Figures over a time", "Analytics")},
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
    """Return an operation that takes the filters, and what :data:`_OWN_PARAMETERS` adds."""
    table = {each: _FILTER_PARAMETERS[each] for each in sorted(FILTERS)} | _OWN_PARAMETERS[name]
    operation = _operation(name, summary, reference(shape))
    operation["parameters"] = [_parameter(each, *told) for each, told in table.items()]
    links = {link: target for link, target in _LINKS.items() if link.startswith(name)}
    if links:
        operation["responses"]["200"]["links"] = links
    return operation


def _parameter(name: str, schema: Schema, text: str) -> dict[str, Any]:
    found = {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
    examples = {str(each): {"value": each} for each in _EXAMPLES.get(name, ())}
    return found | {"examples": examples} if examples else found


def _answer(text: str, content: Schema, headers: Iterable[str] = _HEADERS) -> dict[str, Any]:
    shown = {name: {"required": True, "schema": _HEADERS[name]} for name in headers}
    return {"description": text, "headers": shown, "content": content}


def _error(status: str, text: str) -> dict[str, Any]:
    answer = _answer(text, _json(reference("Error")), () if status in _UNTRACED else _HEADERS)
    for name, schema in _ERROR_HEADERS.get(status, {}).items():
        answer["headers"][name] = {"required": True, "schema": schema}
    return answer


def _one_entry() -> dict[str, Any]:
    parameter = {"name": "request_id", "in": "path", "required": True, "schema": _TEXT}
    operation = _operation("entry", "One record", reference("Row"))
    return operation | {"parameters": [parameter]}


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
    asked = {
        "type": "object",
        "required": ["sql"],
        "additionalProperties": False,
        "properties": {
            "sql": {"type": "string", "minLength": 1, "maxLength": LONGEST_SQL},
            "limit": {"type": "integer", "minimum": 1, "maximum": MOST_ROWS, "default": 1000},
        },
    }
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

"""``/logs/openapi.json``: the description of this API for programs (OpenAPI 3.1).

Names, bounds and choices are those that ``filters`` checks, and columns those of the record.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from ccproxy_flask import __version__
from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.record import COLUMN_TYPES, COLUMNS
from ccproxy_flask.store.base import MOST_ROWS

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

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_DURATION: Schema = {"type": "number", "minimum": 0, "maximum": LONGEST_DURATION_MS}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_STATUS: Schema = {"type": "integer", "minimum": 100, "maximum": 599}
_KINDS: dict[type, Schema] = {
    str: {"type": "string"},
    datetime: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Decimal: {"type": "number"},
}
_FILTER_SCHEMAS: dict[str, tuple[Schema, str]] = {
    "start_time": (_TIME, "From this time on: RFC 3339, or seconds since 1970"),
    "end_time": (_TIME, "Up to this time"),
    "model": (_TEXT, "One model, as the answer named it"),
    "service_type": (_TEXT, "`a,b`: one of these; `!a,!b`: none of these"),
    "provider": (_TEXT, "One provider"),
    "status_code_min": (_STATUS, "HTTP statuses from this one on"),
    "status_code_max": (_STATUS, "HTTP statuses up to this one"),
    "min_duration_ms": (_DURATION, "Durations from this one on"),
    "max_duration_ms": (_DURATION, "Durations up to this one"),
    "streaming": (_FLAG, "Streams, or what is none"),
    "session_id": (_TEXT, "One session"),
    "request_id": (_TEXT, "One request"),
    "error_type": ({"type": "string", "enum": sorted(ERROR_TYPES)}, "One kind of error"),
    "q": (_TEXT, "A text anywhere in path, model, user agent or error"),
}
_OWN_SCHEMAS: dict[str, dict[str, tuple[Schema, str]]] = {
    "/logs/entries": {
        "limit": (_COUNT | {"maximum": MOST_ENTRIES}, "Rows"),
        "offset": ({"type": "integer", "minimum": 0, "maximum": LARGEST_OFFSET}, "Rows to skip"),
        "order_by": ({"type": "string", "enum": list(COLUMNS)}, "A column"),
        "order_desc": (_FLAG, "Largest first"),
    },
    "/logs/query": {
        "limit": (_COUNT | {"maximum": MOST_ROWS}, "Rows"),
        "cursor": (_TEXT, "`next_cursor` of the page before"),
    },
    "/logs/analytics": {"hours": (_COUNT | {"maximum": MOST_HOURS}, "The last hours")},
    "/logs/export": {"format": ({"type": "string", "enum": list(FORMATS)}, "Of the file")},
    "/logs/stream": {},
}
_SUMMARIES = {
    "/logs/entries": "One page of records",
    "/logs/query": "Records, newest first, page after page",
    "/logs/analytics": "Figures over a time",
    "/logs/export": "All records as a file",
    "/logs/stream": "Requests as they happen",
}


def description() -> dict[str, Any]:
    """Return the whole document."""
    paths: dict[str, Any] = {
        path: {"get": _operation(_SUMMARIES[path], _answer(path), _parameters(path))}
        for path in _OWN_SCHEMAS
    }
    paths["/logs/entries/{request_id}"] = {"get": _one_entry()}
    paths["/logs/status"] = {"get": _operation("How recording does", _json({"type": "object"}))}
    paths["/logs/openapi.json"] = {"get": _operation("This document", _json({"type": "object"}))}
    paths["/logs/reset"] = {"post": _operation("Delete all records", _json({"type": "object"}))}
    paths["/logs/sql"] = {"post": _sql()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ccproxy-flask logs", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Row": _row(), "Error": _error(), "Problems": _problems()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _parameters(path: str) -> list[Schema]:
    table = {name: _FILTER_SCHEMAS[name] for name in sorted(FILTERS)} | _OWN_SCHEMAS[path]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for name, (schema, text) in table.items()
    ]


def _operation(
    summary: str, content: Schema, parameters: list[Schema] | None = None
) -> dict[str, Any]:
    answers = {
        "200": {"description": "The answer", "content": content},
        "422": {"description": "A parameter is wrong", "content": _json(_reference("Problems"))},
    }
    for status, text in (
        ("401", "A token is needed"),
        ("403", "A foreign host or page"),
        ("404", "There is no such thing"),
        ("405", "Another method"),
        ("413", "Too large"),
        ("503", "Nothing is recorded, or the store is away"),
    ):
        answers[status] = {"description": text, "content": _json(_reference("Error"))}
    return {"summary": summary, "parameters": parameters or [], "responses": answers}


def _one_entry() -> dict[str, Any]:
    parameter = {"name": "request_id", "in": "path", "required": True, "schema": _TEXT}
    return _operation("One record", _json(_reference("Row")), [parameter])


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
    names = ("columns", "rows", "row_count", "truncated", "duration_ms")
    found = {"type": "object", "required": list(names)}
    operation = _operation("The answer to one SELECT", _json(found))
    return operation | {"requestBody": {"required": True, "content": _json(asked)}}


def _answer(path: str) -> Schema:
    rows = {"type": "array", "items": _reference("Row")}
    if path == "/logs/export":
        types = ("text/csv", "application/x-ndjson", "application/vnd.apache.parquet")
        return {name: {"schema": {}} for name in types}
    if path == "/logs/stream":
        return {"text/event-stream": {"schema": {"type": "string"}}}
    shapes: dict[str, Schema] = {
        "/logs/entries": {"required": ["entries"], "properties": {"entries": rows}},
        "/logs/query": {"required": ["results"], "properties": {"results": rows}},
        "/logs/analytics": {"required": ["summary", "timeseries"]},
    }
    return _json({"type": "object", **shapes[path]})


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _row() -> Schema:
    properties = {name: {"type": [_KINDS[COLUMN_TYPES[name]]["type"], "null"]} for name in COLUMNS}
    return {"type": "object", "required": list(COLUMNS), "properties": properties}


def _error() -> Schema:
    inner = {
        "type": "object",
        "required": ["type", "message"],
        "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


def _problems() -> Schema:
    problem = {"type": "object", "required": ["type", "loc", "msg", "input"]}
    return {
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"type": "array", "items": problem, "minItems": 1}},
    }

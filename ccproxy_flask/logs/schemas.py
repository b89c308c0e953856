"""The shapes of what the logs API answers (JSON Schema 2020-12); columns are the record's."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, get_args

from ccproxy_flask.caching.causes import CAUSES, KINDS, SECTIONS
from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.record import COLUMN_TYPES, COLUMNS
from ccproxy_flask.store.analytics import NAMES
from ccproxy_flask.store.sessions import TURN_COLUMNS, SessionOrder
from ccproxy_flask.totals import FIGURES, Figure, Totals

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_FLAG: Schema = {"type": "boolean"}
_INTEGER: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_AMOUNT: Schema = {"type": "number", "minimum": 0}
_AMOUNT_OR_NULL: Schema = {"type": ["number", "null"], "minimum": 0}
_PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
_TIME: Schema = {"type": "string", "format": "date-time", "pattern": "Z$"}
_TIME_OR_NULL: Schema = _TIME | {"type": ["string", "null"]}
_SECONDS: Schema = _AMOUNT | {"description": "Seconds since 1970"}
_GIVEN_TIME: Schema = {"type": ["number", "string", "null"], "description": "As it was given"}
_KINDS: dict[type, Schema] = {
    str: _TEXT,
    datetime: _TIME,
    bool: _FLAG,
    int: _INTEGER,
    float: {"type": "number"},
    Decimal: {"type": "number"},
}
_NEVER_NULL = ("request_id", "timestamp")
_REQUESTS = ("successful_requests", "error_requests")
_BREAKDOWNS = ("service_type_breakdown", "model_breakdown", "provider_breakdown")


def schemas() -> dict[str, Schema]:
    """Return all shapes by name."""
    return {
        "Row": _row(),
        "Entries": _entries(),
        "Query": _query(),
        "Figures": _object(_figures()),
        "Analytics": _analytics(),
        "Status": _status(),
        "Reset": _reset(),
        "SqlAnswer": _sql_answer(),
        "StreamEvent": _stream_event(),
        "Event": _event(),
        "Session": _object(_session()),
        "Sessions": _sessions(),
        "SessionTurns": _session_turns(),
        "Agent": _agent(),
        "Context": _context(),
        "Content": _content(),
        "Difference": _difference(),
        "Cache": _cache(),
        "CacheVerdict": _cache_verdict(),
        "Rent": _rent(),
        "Found": _found(),
        "RateLimits": _rate_limits(),
        "Share": _object(_fields(_TEXT_OR_NULL, "name") | _shares()),
        "UsedBy": _used_by(),
        "Error": _object({"error": _object(_fields(_TEXT, "type", "message"))}),
        "Problems": _problems(),
    }


def _shares() -> dict[str, Schema]:
    return {"used": _AMOUNT, "share": _AMOUNT_OR_NULL, "requests": _COUNT}


def _rate_limits() -> Schema:
    weight = _fields(_TEXT, "model", "kind") | {"is_known": _FLAG}
    meter = _fields(_TEXT_OR_NULL, "method", "reason", "of") | _fields(_COUNT, "blocks", "left_out")
    meter |= {"elsewhere_per_hour": _AMOUNT, "per_usd": _AMOUNT_OR_NULL}
    weights = _object(weight | _fields(_AMOUNT, "per_million", "low", "high"))
    shared: Schema = {"anyOf": [reference("UsedBy"), {"type": "null"}]}
    window = {
        "window": _TEXT,
        **_fields(_TEXT_OR_NULL, "provider", "account", "status", "note", "request_id"),
        **_fields(_AMOUNT_OR_NULL, "used", "limit", "remaining", "pace_per_hour"),
        **_fields(_TIME_OR_NULL, "reset", "full_at"),
        "window_seconds": _COUNT_OR_NULL,
        "stated_at": _TIME,
        **_fields(_FLAG, "is_current", "is_quota"),
        "full_reason": _TEXT_OR_NULL,
        "history": _list({"type": "array", "prefixItems": [_TIME, _AMOUNT]}),
        "meter": {"anyOf": [_object(meter | {"weights": _list(weights)}), {"type": "null"}]},
        **_fields(shared, "used_by", "used_by_range"),
    }
    facts = {"windows": _list(_object(window)), "count": _COUNT}
    return _object(facts | _fields(_TIME, "start_time", "end_time"))


def _used_by() -> Schema:
    by = _fields(_list(reference("Share")), "session", "agent", "model", "client", "key")
    figures = _fields(_AMOUNT, "moved", "explained", "unexplained")
    return _object(_fields(_TIME, "from", "to") | figures | {"by": _object(by)})


def _content() -> Schema:
    """What was said; with ``raw=events`` the pieces and events in its place."""
    any_value: Schema = {}
    block: Schema = {
        "type": "object",
        "required": ["type"],
        "properties": _fields(_TEXT_OR_NULL, "type", "text", "name", "media_type")
        | {"id": any_value, "input": any_value, "is_error": _FLAG, "bytes": _COUNT_OR_NULL},
    }
    message = _object({"role": _TEXT, "blocks": _list(block)})
    tool = _object(_fields(_TEXT, "name", "description") | {"bytes": _COUNT})
    event = _object({"offset": _COUNT, "micros": _COUNT_OR_NULL, "data": {"type": "object"}})
    source = _object(_fields(_TEXT, "request_id", "from") | {"messages": _COUNT})
    prompt = _object(
        {
            "sources": _list(source),
            "missing": {"type": ["object", "null"], "additionalProperties": _TEXT},
            "previous": _TEXT_OR_NULL,
            "shared": _COUNT,
        }
    )
    parts: dict[str, Schema] = {
        "request_id": _TEXT,
        "prompt": prompt,
        "at": _INTEGER | {"description": "Microseconds since 1970"},
        "system": _list(block),
        "tools": _list(tool),
        "messages": _list(message),
        "answer": {
            "type": ["object", "null"],
            "properties": message["properties"]
            | {"stop": any_value, "model": any_value, "id": any_value},
        },
        "error": any_value,
        "verified": _named(_TEXT),
        **_fields(_TEXT_OR_NULL, "method", "target", "api", "provider"),
        "status": {"type": ["integer", "null"]},
        **_fields(_list(_list(_TEXT)), "request_headers", "response_headers"),
        **_fields({"type": "object"}, "request", "response", "end"),
        "chunks": _list(_list(_COUNT)),
        "events": _list(event),
    }
    return {"type": "object", "properties": parts}


def _difference() -> Schema:
    part = _object(
        _fields(_TEXT, "section", "change", "name")
        | {"index": _COUNT}
        | _fields(_TEXT_OR_NULL, "before", "after")
    )
    return _object(
        _fields(_TEXT, "before", "after")
        | {"same_prefix": _FLAG, "first": part | {"type": ["object", "null"]}}
        | {"parts": _list(part), "settings": _named({"type": "array"})}
    )


def _cache() -> Schema:
    row = _row()["properties"]
    names = ("request_id", "conversation_id", "timestamp", "model", "provider")
    return _object({name: row[name] for name in names} | {"cache_verdict": _verdict_or_null()})


def _verdict_or_null() -> Schema:
    return {"anyOf": [reference("CacheVerdict"), {"type": "null"}]}


def _cache_verdict() -> Schema:
    place = {"section": _TEXT | {"enum": list(SECTIONS)}, "index": _COUNT_OR_NULL, "name": _TEXT}
    told = {"reason": _TEXT_OR_NULL, "tokens_missed": _COUNT_OR_NULL}
    return _object(
        {
            "is_miss": _FLAG,
            "cause": _TEXT_OR_NULL | {"enum": [*CAUSES, None]},
            "evidence": _TEXT | {"enum": ["content", "usage"]},
            "previous_request_id": _TEXT_OR_NULL,
            "changed": _or_null(_object(place | {"change": _TEXT_OR_NULL})),
            **_fields(_AMOUNT_OR_NULL, "idle_seconds", "ttl_seconds"),
            **_fields(_COUNT, "tokens_expected", "tokens_read", "tokens_missed"),
            "cost_usd": {"type": ["number", "null"]},
            "provider": _or_null(_object(told)),
        }
    )


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _rent() -> Schema:
    """What parts of the contexts of a session cost; amounts are USD."""
    amount: Schema = {"type": "number"}
    shares = _fields(amount, "definition_usd", "results_usd", "cost_usd")
    counts = _fields(_COUNT, "bytes", "tokens", "turns")
    tool = _fields(_TEXT, "name", "server")
    result = tool | counts | {"cost_usd": amount, "request_id": _TEXT}
    return _object(
        _fields(amount, "input_cost_usd", "unattributed_usd")
        | {"parts": _object(_fields(amount, *KINDS))}
        | {"servers": _list(_object({"server": _TEXT, "tools": _COUNT} | shares))}
        | {"tools": _list(_object(tool | shares | {"results": _COUNT}))}
        | {"results": _list(_object(result))}
    )


def _found() -> Schema:
    who = _fields(_TEXT_OR_NULL, "session_id", "client", "model")
    result = _object(_fields(_TEXT, "request_id", "part", "text") | {"at": _INTEGER} | who)
    return _object({"results": _list(result), "count": _COUNT, "limit": _COUNT})


def reference(name: str) -> Schema:
    """Return what stands for the shape *name* elsewhere in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _fields(schema: Schema, *names: str) -> dict[str, Schema]:
    return dict.fromkeys(names, schema)


def _named(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _row() -> Schema:
    properties: dict[str, Schema] = {}
    for name in COLUMNS:
        schema = _KINDS[COLUMN_TYPES[name]]
        may_be_null = name not in _NEVER_NULL
        properties[name] = schema | {"type": [schema["type"], "null"]} if may_be_null else schema
    properties["error_type"] = _TEXT_OR_NULL | {"enum": [*sorted(ERROR_TYPES), None]}
    return _object(properties)


def _entries() -> Schema:
    return _object(
        {
            "entries": _list(reference("Row")),
            **_fields(_COUNT, "total_count", "limit", "offset"),
            "order_by": {"type": "string", "enum": list(COLUMNS)},
            "order_desc": _FLAG,
            "service_type": _TEXT_OR_NULL,
            **_fields(_COUNT, "page", "total_pages"),
            "backend": _TEXT,
        }
    )


def _query() -> Schema:
    filters = _fields(_GIVEN_TIME, "start_time", "end_time")
    return _object(
        {
            "results": _list(reference("Row")),
            **_fields(_COUNT, "count", "limit"),
            "filters": _object(filters | _fields(_TEXT_OR_NULL, "model", "service_type")),
            "timestamp": _SECONDS,
            "next_cursor": _TEXT_OR_NULL,
            "has_more": _FLAG,
        }
    )


def _figure(figure: Figure, null: bool) -> Schema:
    """Return the shape of *figure*; *null*: it may not be known."""
    if figure.unit in ("requests", "tokens"):
        return _COUNT if figure.unit == "requests" else _INTEGER
    if figure.unit == "percent":
        return _PERCENT
    shape = _AMOUNT if figure.unit == "ms" else {"type": "number"}
    return shape | {"type": ["number", "null"]} if null else shape


def _session() -> dict[str, Schema]:
    tokens = ("tokens_input", "tokens_output", "cache_read_tokens", "cache_write_tokens")
    return {
        "session_id": _TEXT,
        **_fields(_TEXT_OR_NULL, "client", "client_version", "user_id"),
        **_fields(_list(_TEXT), "providers", "models"),
        **_fields(_TIME, "started_at", "last_request_at"),
        "duration_ms": {"type": "number"},
        **_fields(_COUNT, "requests", "turns", "agents", "errors"),
        "cost_usd": {"type": ["number", "null"]},
        "unpriced_requests": _COUNT,
        **_fields(_INTEGER, *tokens, "tokens_all"),
        "cache_hit": {"type": ["number", "null"]},
        "first_words": _TEXT_OR_NULL,
    }


def _sessions() -> Schema:
    return _object(
        {
            "sessions": _list(reference("Session")),
            **_fields(_COUNT, "total_count", "limit", "hours"),
            "order_by": {"type": "string", "enum": list(get_args(SessionOrder))},
            "order_desc": _FLAG,
            "next_cursor": _TEXT_OR_NULL,
            "has_more": _FLAG,
        }
    )


def _session_turns() -> Schema:
    counts = _fields(_COUNT, "total_count", "limit", "offset", "judged_requests")
    sums = {"cache_misses": _named(_COUNT), "cache_miss_cost_usd": {"type": "number"}}
    tree = {"tree": _list(reference("Agent")), "rent": reference("Rent")}
    return _object(_session() | tree | sums | counts)


def _agent() -> Schema:
    row = _row()["properties"]
    turn = {name: row[name] for name in TURN_COLUMNS}
    turn |= {"context_tokens": _INTEGER | {"type": ["integer", "null"]}}
    turn |= {"context": {"anyOf": [reference("Context"), {"type": "null"}]}}
    turn |= {"cache_verdict": _verdict_or_null()}
    return _object(
        _fields(_TEXT_OR_NULL, "agent_id", "parent_agent_id")
        | {"turns": _list(_object(turn)), "agents": _list(reference("Agent"))}
    )


def _context() -> Schema:
    parts = ("system", "messages", "tool_results", "thinking", "media")
    return _object(_fields(_INTEGER, *parts) | {"tools": _named(_INTEGER)})


def _summary() -> dict[str, Schema]:
    nothing = Totals()
    return {name: _figure(each, getattr(nothing, name) is None) for name, each in FIGURES.items()}


def _figures() -> dict[str, Schema]:
    return {NAMES.get(name, name): schema for name, schema in _summary().items()}


def _analytics() -> Schema:
    tokens = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    asked = _fields(_GIVEN_TIME, "start_time", "end_time")
    rates = _fields(_PERCENT, "success_rate", "error_rate")
    return _object(
        {
            "summary": _object(_summary()),
            "token_analytics": _object(_fields(_INTEGER, *tokens, "total_tokens")),
            "request_analytics": _object(_fields(_COUNT, "total_requests", *_REQUESTS) | rates),
            **_fields(_named(reference("Figures")), *_BREAKDOWNS),
            "error_breakdown": _named(_object({"request_count": _COUNT, "share": _PERCENT})),
            "not_shown": _object(_fields(_COUNT, *_BREAKDOWNS)),
            "timeseries": _list(_object({"timestamp": _TIME} | _figures())),
            "model_timeseries": _list(
                _object(
                    {"timestamp": _TIME, "model": _TEXT}
                    | {"request_count": _COUNT, "total_cost_usd": {"type": ["number", "null"]}}
                )
            ),
            "bucket_seconds": _COUNT,
            "query_time": _SECONDS,
            "backend": _TEXT,
            "query_params": _object(
                asked | _fields(_TEXT_OR_NULL, "model", "service_type") | {"hours": _COUNT}
            ),
        }
    )


def _status() -> Schema:
    return _object(
        {
            "status": {"type": "string", "enum": ["healthy", "degraded", "unavailable"]},
            "reason": _TEXT_OR_NULL,
            "rows": _COUNT_OR_NULL,
            "last_write": _TIME_OR_NULL,
            **_fields(_COUNT, "backlog_bytes", "backlog_lines"),
            "writer_lag_seconds": _AMOUNT_OR_NULL,
            **_fields(_COUNT_OR_NULL, "damaged_lines", "worker_lost", "record_lost"),
            **_fields(_COUNT_OR_NULL, "content_bytes", "content_waiting_bytes", "content_dropped"),
            **_fields(_COUNT_OR_NULL, "limits_ignored"),
            **_fields(_TEXT, "prometheus_enabled", "observability_system", "backend", "path"),
            "dropped": _named(_COUNT),
            "metrics_trouble": _TEXT_OR_NULL,
            "version": _TEXT,
            "nodes": _list(
                _object(
                    {
                        "node": _TEXT,
                        "seen_seconds_ago": _AMOUNT,
                        "last_commit": _TIME_OR_NULL,
                        "backlog_bytes": _COUNT,
                        "writer_lag_seconds": _AMOUNT,
                        "reason": _TEXT_OR_NULL,
                    }
                )
            ),
        }
    )


def _reset() -> Schema:
    shown = _fields(_TEXT, "status", "message") | {"timestamp": _SECONDS, "backend": _TEXT}
    return _object(shown)


def _sql_answer() -> Schema:
    return _object(
        {
            "columns": _list(_TEXT),
            "rows": _list({"type": "array"}),
            "row_count": _COUNT,
            "truncated": _FLAG,
            "duration_ms": _AMOUNT,
        }
    )


def _stream_event() -> Schema:
    """Return one event of the stream, as OpenAPI 3.1 describes it: by its lines."""
    kinds = [kind for kinds, _ in _events() for kind in kinds]
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": reference("Event"),
    }
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": kinds},
            "id": _TEXT,
            "retry": _COUNT,
            "data": data,
        },
    }


def _event() -> Schema:
    return {
        "oneOf": [
            _object(
                {"type": {"type": "string", "enum": list(kinds)}, "data": data, "timestamp": _TIME}
            )
            for kinds, data in _events()
        ]
    }


def _events() -> list[tuple[tuple[str, ...], Schema]]:
    """Return what happens, and the data it comes with."""
    return [
        (("connection",), _object({"connection_id": _TEXT})),
        (("request_start", "request_complete", "request_error"), reference("Row")),
        (("overflow",), _object({"missed": _COUNT_OR_NULL})),
        (("disconnect",), _object(_fields(_TEXT, "connection_id", "reason"))),
    ]


def _problems() -> Schema:
    problem = {
        "type": _TEXT,
        "loc": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2},
        "msg": _TEXT,
        "input": {},
    }
    return _object({"detail": _list(_object(problem)) | {"minItems": 1}})

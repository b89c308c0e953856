"""What schemathesis has to be told of the logs API beyond its description."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path
from typing import Any

import schemathesis
from pydantic import ValidationError

from ccproxy_flask.filters import LogFilter

RANGES = (
    ("start_time", "end_time"),
    ("status_code_min", "status_code_max"),
    ("min_duration_ms", "max_duration_ms"),
)
# The id of a record, as made-up ones have none: who starts schemathesis writes it there.
NEWEST = Path(os.environ.get("NEWEST_RECORD", "newest"))
STATEMENTS = (
    "SELECT * FROM access_logs ORDER BY timestamp DESC",
    "SELECT model, count(*), sum(cost_usd) FROM access_logs GROUP BY ALL",
    "WITH late AS (SELECT * FROM access_logs WHERE duration_ms > 5) SELECT count(*) FROM late",
    "SELECT 'nothing'[1:3], NULL, 1.5, true, [1, 2], {'a': 1}, now() WHERE false",
    "SELECT * FROM range(20000)",
    "DESCRIBE access_logs",
)
# Of what is meant to be right, a third is made up all the same: it must not harm.
REAL_ID, REAL_SQL = itertools.cycle((True, True, False)), itertools.cycle((True, True, False))


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Take every object of the answers to be described in full, so that no key goes unnoticed."""
    close(raw_schema["components"]["schemas"])


def close(schema: Any) -> None:
    """Forbid what *schema*'s objects do not name."""
    if isinstance(schema, list):
        for each in schema:
            close(each)
    if isinstance(schema, dict):
        if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
            schema.setdefault("additionalProperties", False)
        for each in list(schema.values()):
            close(each)


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Make right what is meant to be right, where JSON Schema cannot say what that is."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    if case.query:
        order_ranges(case.query)
    is_entry = case.path.startswith("/logs/entries/{request_id}")
    if is_entry and next(REAL_ID) and NEWEST.exists():
        case.path_parameters["request_id"] = NEWEST.read_text()
        if "with" in (case.query or {}):
            case.query["with"] = "previous"
    if case.path == "/logs/sql" and next(REAL_SQL):
        case.body = {**case.body, "sql": random.choice(STATEMENTS)}
    return case


def order_ranges(query: dict[str, Any]) -> None:
    """Put the ends of each range in order.

    JSON Schema cannot compare two values, and a range that is the wrong way round is refused
    (test_logs.py sends such ones).
    """
    for low, high in RANGES:
        if low in query and high in query and is_reversed(query, low, high):
            query[low], query[high] = query[high], query[low]


def is_reversed(query: dict[str, Any], low: str, high: str) -> bool:
    """Tell whether *low* is over *high* in *query*."""
    try:
        LogFilter.model_validate({name: str(query[name]) for name in (low, high)})
    except ValidationError as error:
        return "must not be less than" in str(error)
    return False


@schemathesis.check
def refused_statement_is_told(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Where a request to `/logs/sql` is right, nothing but a made-up statement can be refused."""
    is_right = case.meta is not None and case.meta.generation.mode.is_positive
    if case.path != "/logs/sql" or not is_right or response.status_code != 422:
        return
    [problem] = response.json()["detail"]
    assert problem["type"].startswith("sql_"), problem
    assert problem["loc"] == ["body", "sql"], problem
    assert case.body["sql"] not in STATEMENTS, problem


@schemathesis.deserializer("text/csv", "application/x-ndjson")
def text_of(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """Return an exported file as the text that it is."""
    return response.content.decode()

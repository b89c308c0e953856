"""The record: its columns, its JSON, its ids."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import orjson
import pytest

from ccproxy_flask.record import (
    COLUMN_TYPES,
    COLUMNS,
    PUBLISHED_COLUMNS,
    RequestRecord,
    new_request_id,
    to_json,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PUBLISHED = (
    "request_id, timestamp, method, endpoint, path, query, client_ip, user_agent, service_type, "
    "model, streaming, status_code, duration_ms, duration_seconds, tokens_input, tokens_output, "
    "cache_read_tokens, cache_write_tokens, cost_usd, cost_sdk_usd"
)


def test_published_columns_come_first_in_their_order():
    """The twenty published columns never change and never move."""
    assert ", ".join(PUBLISHED_COLUMNS) == PUBLISHED
    assert COLUMNS[:20] == PUBLISHED_COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_every_column_has_a_type_a_store_can_hold():
    """Columns are texts, whole numbers, numbers, flags, money or times, and nothing else."""
    assert tuple(COLUMN_TYPES) == COLUMNS
    assert set(COLUMN_TYPES.values()) == {str, int, float, bool, Decimal, datetime}
    assert {name for name, kind in COLUMN_TYPES.items() if kind is Decimal} == {
        name for name in COLUMNS if name.startswith("cost_") and name != "cost_source"
    }


def test_unknown_figures_are_none():
    """What is not known yet is None, never 0."""
    record = RequestRecord("id", NOON)
    figures = [name for name in COLUMNS if name.startswith(("tokens_", "cache_", "cost_"))]
    assert {getattr(record, name) for name in figures} == {None}
    assert tuple(record.as_dict()) == COLUMNS


@pytest.mark.parametrize(
    ("status", "error_type", "succeeded"),
    [
        (200, None, True),
        (302, None, True),
        (400, None, False),
        (529, "overloaded", False),
        (200, "stream_error", False),
        (200, "client_disconnected", False),
        (None, None, False),
    ],
)
def test_success_is_a_whole_answer_without_an_error(status, error_type, succeeded):
    """A request succeeded where the client got the whole of an answer that is no error."""
    record = RequestRecord("id", NOON, status_code=status, error_type=error_type)
    assert record.succeeded is succeeded


def test_json_of_a_record_is_exact():
    """Times are RFC 3339 with Z, money is a decimal text, missing values are null."""
    record = RequestRecord("id", NOON.replace(microsecond=120), cost_usd=Decimal("1E-10"))
    parsed = orjson.loads(to_json(record.as_dict()))
    assert parsed["timestamp"] == "2026-11-21T12:00:00.000120Z"
    assert parsed["cost_usd"] == "0.0000000001"
    assert parsed["model"] is None
    assert tuple(parsed) == COLUMNS


def test_json_of_times_names_their_offset():
    """A time without a zone is taken as UTC; one of another zone keeps its offset."""
    assert to_json(NOON.replace(tzinfo=None)) == b'"2026-11-21T12:00:00Z"'
    eastern = NOON.astimezone(timezone(timedelta(hours=2)))
    assert to_json(eastern) == b'"2026-11-21T14:00:00+02:00"'


def test_json_is_one_line():
    """No value makes the line of a journal two lines."""
    assert b"\n" not in to_json({"path": "/a\nb\r", "query": "\u2028"})


def test_json_refuses_what_has_no_form():
    """A value without a JSON form is an error, not a text like <object …>."""
    with pytest.raises(TypeError, match="JSON"):
        to_json({"x": object()})


def test_request_ids_are_uuids_of_version_7():
    """An id is a UUIDv7 of the present moment."""
    before = time.time_ns() // 1_000_000
    parsed = uuid.UUID(new_request_id())
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= time.time_ns() // 1_000_000


def test_request_ids_sort_by_time_and_differ():
    """Ids of one millisecond differ; a later millisecond sorts later."""
    first = {new_request_id() for _ in range(1000)}
    assert len(first) == 1000
    newest = max(first)
    while time.time_ns() // 1_000_000 <= uuid.UUID(newest).int >> 80:
        pass
    assert new_request_id() > newest

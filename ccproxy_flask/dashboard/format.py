"""The JSON messages that the page gets over its WebSocket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ccproxy_flask.record import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROW_FIELDS: tuple[str, ...] = (
    "request_id",
    "timestamp",
    "method",
    "endpoint",
    "path",
    "provider",
    "model",
    "model_requested",
    "service_type",
    "streaming",
    "status_code",
    "duration_ms",
    "ttft_ms",
    "tokens_input",
    "tokens_output",
    "tokens_reasoning",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost_usd",
    "cost_source",
    "finish_reason",
    "error_type",
    "error_message",
    "client_disconnected",
    "client_ip",
    "user_agent",
    "node",
)
"""The columns of a record that the page shows; the others stay on the server."""


def row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return of *record* what the page shows."""
    return {name: record.get(name) for name in ROW_FIELDS}


def message(kind: str, data: object, timestamp: str | None = None) -> str:
    """Return one message: ``{"type", "data", "timestamp"}``; *timestamp* is now by default."""
    stamp = timestamp or datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return to_json({"type": kind, "data": data, "timestamp": stamp}).decode()


def event(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of the journal's feed with no more than the page shows."""
    kind = found["type"]
    data = row(found["data"]) if kind.startswith("request_") else found["data"]
    return {"type": kind, "data": data, "timestamp": found.get("timestamp")}


def batch(found: Iterable[Mapping[str, Any]]) -> str:
    """Return many events as one message: ``{"type": "batch", "data": [event, …], "timestamp"}``.

    A start whose end is in the same batch is left out: the end says all of it.
    """
    events = [event(one) for one in found]
    ended = {
        one["data"]["request_id"]
        for one in events
        if one["type"] in ("request_complete", "request_error")
    }
    kept = [
        one
        for one in events
        if one["type"] != "request_start" or one["data"]["request_id"] not in ended
    ]
    return message("batch", kept)

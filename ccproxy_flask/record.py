"""The record of one proxied request: field = column = JSON key = template variable.

Everything that stores, shows or filters records derives its list of columns from here.
"""

from __future__ import annotations

import dataclasses
import os
import time
from datetime import datetime  # noqa: TC003  get_type_hints below reads it
from decimal import Decimal
from typing import Any, get_type_hints

import orjson

from .totals import failure


@dataclasses.dataclass
class RequestRecord:
    """One row of ``access_logs`` (SPEC of the columns: docs/logs-api.md).

    Token columns never overlap: input + cache read + cache write is all input; output includes
    reasoning. None means "not known", never 0. Durations are milliseconds unless the name says
    seconds, money is USD, times are UTC.
    """

    request_id: str
    timestamp: datetime
    method: str = ""
    endpoint: str = "other"
    path: str = ""
    query: str | None = None
    client_ip: str | None = None
    user_agent: str | None = None
    service_type: str = "proxy_service"
    model: str | None = None
    streaming: bool = False
    status_code: int | None = None
    duration_ms: float | None = None
    duration_seconds: float | None = None
    tokens_input: int | None = None
    tokens_output: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost_usd: Decimal | None = None
    cost_sdk_usd: Decimal | None = None
    # The columns above are the published ones, in their order; those below are ours.
    provider: str | None = None
    model_requested: str | None = None
    client_request_id: str | None = None
    upstream_request_id: str | None = None
    ttfb_ms: float | None = None
    ttft_ms: float | None = None
    upstream_ms: float | None = None
    chunks: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    tokens_reasoning: int | None = None
    cache_write_1h_tokens: int | None = None
    cost_input_usd: Decimal | None = None
    cost_output_usd: Decimal | None = None
    cost_cache_usd: Decimal | None = None
    cost_source: str | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    client_disconnected: bool = False
    retry_count: int | None = None
    session_id: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    api_key_id: str | None = None
    node: str | None = None
    content: str | None = None
    client: str | None = None
    client_version: str | None = None
    parent_agent_id: str | None = None
    request_class: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    previous_message_id: str | None = None
    transport: str | None = "http"
    tools_ms: float | None = None
    account_id: str | None = None
    # Not a column: the recorder makes rows of the table rate_limits of it (usage.limits.kept).
    stated_limits: dict[str, Any] | None = dataclasses.field(
        default=None, metadata={"column": False}
    )

    @classmethod
    def begun(cls, request_id: str, timestamp: datetime, **known: Any) -> RequestRecord:
        """Return the record of a request that begins; *known* are further fields.

        Quicker than the constructor. Fields that nothing is known of stay the class's own, and so
        stay out of the journal's lines.
        """
        record = cls.__new__(cls)
        fields = record.__dict__ = _AT_FIRST.copy()
        fields["request_id"], fields["timestamp"] = request_id, timestamp
        fields.update(known)
        return record

    @property
    def succeeded(self) -> bool:
        """True where the client got the whole of an answer that is no error."""
        return failure(self.error_type, self.status_code) is None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, in column order."""
        return {name: getattr(self, name) for name in COLUMNS}


_AT_FIRST: dict[str, Any] = {"request_id": "", "timestamp": None} | {
    field.name: field.default
    for field in dataclasses.fields(RequestRecord)
    if field.default is not None and field.default is not dataclasses.MISSING
}
COLUMNS: tuple[str, ...] = tuple(
    field.name for field in dataclasses.fields(RequestRecord) if field.metadata.get("column", True)
)
COLUMN_TYPES: dict[str, type] = {
    name: next(kind for kind in getattr(hint, "__args__", (hint,)) if kind is not type(None))
    for name, hint in get_type_hints(RequestRecord).items()
    if name in COLUMNS
}
"""The Python type of each column; every column but the first two may be None in the store."""

_OURS = frozenset(
    {"request_id", "method", "endpoint", "client_ip", "service_type", "provider"}
    | {"cost_source", "error_type", "api_key_id", "node", "request_class", "transport"}
    | {"account_id"}
)
TEXT_COLUMNS: tuple[str, ...] = tuple(
    name for name, kind in COLUMN_TYPES.items() if kind is str and name not in _OURS
)
"""The columns with words of clients and upstreams."""

DURATIONS = tuple(name for name in COLUMNS if name.endswith("_ms"))
"""The columns that are milliseconds."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods of HTTP that are in use."""

PUBLISHED_COLUMNS: tuple[str, ...] = COLUMNS[:20]


def to_json(value: object) -> bytes:
    """Return *value* as JSON: times as RFC 3339 with Z, money as a decimal string."""
    return orjson.dumps(
        value, default=_json_default, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
    )


def _json_default(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def new_request_id() -> str:
    """Return a UUIDv7 (RFC 9562 §5.7): unique, and sorting by time of creation."""
    stamp = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10), "big")
    high, low = tail >> 68, tail & ((1 << 62) - 1)
    digits = f"{stamp << 16 | 0x7000 | high & 0x0FFF:016x}{0x8 << 60 | low:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

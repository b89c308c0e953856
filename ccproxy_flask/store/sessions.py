"""Which sessions are meant, in which order; their totals. The words of the API. Pure."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

SessionOrder = Literal[
    "last_request_at", "started_at", "duration_ms", "requests", "turns", "agents", "errors",
    "cost_usd", "tokens_all", "cache_hit",
]  # fmt: skip
"""What sessions can be sorted by: members of what is answered."""
TURN_COLUMNS = (
    "request_id", "timestamp", "request_class", "conversation_id", "model", "status_code",
    "error_type", "finish_reason", "duration_ms", "upstream_ms", "ttft_ms", "tools_ms",
    "tokens_input", "tokens_output", "cache_read_tokens", "cache_write_tokens", "tokens_reasoning",
    "cost_usd", "message_id", "previous_message_id", "transport", "content",
)  # fmt: skip
"""What is shown of a row that is a turn of a session."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CURSOR = re.compile(r"^[0-9]{1,16}~[0-9]{1,9}$")
"""Microseconds since 1970, and how many sessions came before."""


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Which sessions of all: *limit* of them after the first *offset*."""

    limit: int = 50
    offset: int = 0
    order_by: SessionOrder = "last_request_at"
    order_desc: bool = True


@dataclass(frozen=True, slots=True)
class SessionCursor:
    """Goes on with a page: *offset* sessions of those that were there at a *moment*."""

    moment: datetime
    offset: int

    def __str__(self) -> str:
        return f"{(self.moment - _EPOCH) // timedelta(microseconds=1)}~{self.offset}"

    @classmethod
    def now(cls) -> SessionCursor:
        """Return where the first page begins."""
        return cls(_EPOCH + timedelta(microseconds=time.time_ns() // 1000), 0)

    @classmethod
    def parse(cls, text: str) -> SessionCursor:
        """Return the cursor with this *text*; raises ValueError where it is none."""
        if not CURSOR.fullmatch(text):
            raise ValueError("not a cursor that this API gave")
        micros, _, offset = text.partition("~")
        return cls(_EPOCH + timedelta(microseconds=int(micros)), int(offset))


@dataclass(frozen=True, slots=True)
class SessionsPage:
    """Some sessions, as the *text* of a JSON array, and how many there are in all."""

    text: bytes
    total_count: int
    first_kept: tuple[str | None, ...] = ()
    """Of each of them the first turn whose content is kept, where the store is asked itself."""

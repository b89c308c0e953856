"""Rows of the table ``rate_limits``, and what can be asked about them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class LimitsAsked:
    """Which limits are meant, and from when to when; None means any. Times are UTC."""

    start_time: datetime
    end_time: datetime
    provider: str | None = None
    account: str | None = None
    window: str | None = None
    shares: bool = True
    """Also who used them, which takes longer."""

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> LimitsAsked:
        """Return what *fields*, the JSON of one, say."""
        times = {name: datetime.fromisoformat(fields[name]) for name in ("start_time", "end_time")}
        return cls(**{**fields, **times})


class LimitRow(NamedTuple):
    """One row: what an answer of *provider* said of a *window* of *account*, a keyed hash. Times
    are UTC without a zone. Docs: docs/limits.md."""

    timestamp: datetime
    provider: str | None
    account: str | None
    window: str
    used: float | None
    limit: float | None
    remaining: float | None
    reset: datetime | None
    status: str | None
    request_id: str | None
    window_seconds: int | None
    note: str | None

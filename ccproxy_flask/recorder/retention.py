"""Old records go: a few at a time, between two looks at the journal."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 60.0
"""Between two looks, where the one before found nothing more to do."""


class Shrinking(Protocol):
    """The store, as far as it is needed here."""

    def retain(self, oldest: datetime | None, max_bytes: int | None) -> int:
        """Delete some rows; return how many."""

    def is_wasteful(self) -> bool:
        """Tell whether the file has much space to give back."""


class Retention:
    """Keeps records for *days*, and as many as fit into *max_bytes*; None: no bound."""

    def __init__(
        self,
        days: float | None,
        max_bytes: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._days, self._max_bytes, self._clock = days, max_bytes, clock
        self._next_at = clock()
        self._deleted = 0

    def step(self, store: Shrinking) -> bool:
        """Do one small part of what there is to do; return True where the store had better shrink
        its file now. Raises StoreUnavailable."""
        if (self._days is None and self._max_bytes is None) or self._clock() < self._next_at:
            return False
        oldest = datetime.now(UTC) - timedelta(days=self._days) if self._days is not None else None
        deleted = store.retain(oldest, self._max_bytes)
        self._deleted += deleted
        if deleted:
            return False
        expired, self._deleted = self._deleted, 0
        self._next_at = self._clock() + INTERVAL_SECONDS
        if not expired:
            return False
        log.info("records_expired", count=expired)
        return store.is_wasteful()

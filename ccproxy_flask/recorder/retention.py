"""Old records go: a few at a time, between two looks at the journal. Their space follows."""

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
AGAIN_SECONDS = 3600.0
"""From a shrinking that failed to the next one."""


class Retaining(Protocol):
    """The store, as far as it is needed here."""

    def retain(self, oldest: datetime | None, max_bytes: int | None) -> int:
        """Delete some rows; return how many."""


class Retention:
    """Keeps records for *days*, and as many as fit into *max_bytes*; None: no bound.

    All but :meth:`put_off` and :meth:`look_again` is for one thread.
    """

    def __init__(
        self,
        days: float | None,
        max_bytes: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._days, self._max_bytes, self._clock = days, max_bytes, clock
        self._next_at = clock()
        self._deleted = 0
        self._shrink_from = clock()
        self._emptier = True
        """The file may have space to give back; at first because of who had it open before."""

    def step(self, store: Retaining) -> bool:
        """Do one small part of what there is to do; return True where the store had better shrink
        its file now. Raises StoreUnavailable."""
        if self._clock() < self._next_at:
            return False
        deleted = self._retain(store)
        self._deleted += deleted
        if deleted:
            return False
        expired, self._deleted = self._deleted, 0
        self._next_at = self._clock() + INTERVAL_SECONDS
        if expired:
            log.info("records_expired", count=expired)
            self._emptier = True
        if not self._emptier or self._clock() < self._shrink_from:
            return False
        self._emptier = False
        return True

    def _retain(self, store: Retaining) -> int:
        if self._days is None and self._max_bytes is None:
            return 0
        oldest = datetime.now(UTC) - timedelta(days=self._days) if self._days is not None else None
        return store.retain(oldest, self._max_bytes)

    def look_again(self) -> None:
        """Let the next step be at once, and the file shrink: it is another one, or was emptied."""
        self._emptier = True
        self._next_at = self._shrink_from = self._clock()

    @property
    def overdue(self) -> bool:
        """True where the next step cannot wait for a quiet moment any longer."""
        return self._clock() >= self._next_at + INTERVAL_SECONDS

    def put_off(self) -> None:
        """Let the file be as it is for a while: it could not shrink."""
        self._emptier = True
        self._shrink_from = self._clock() + AGAIN_SECONDS

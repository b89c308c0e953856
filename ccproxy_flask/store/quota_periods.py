"""The periods of a window: from one reset to the next. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from .limit_rows import LimitRow

SAME_RESET = timedelta(seconds=90)
_LEAST_WINDOW = 3600
_EARLY_RESET = 0.05


@dataclass(slots=True)
class Period:
    """The rows of a window from one reset to the next; *used* never falls."""

    rows: list[LimitRow] = field(default_factory=list)
    followed: bool = True
    """It was seen to begin: the period before it is known."""

    def add(self, row: LimitRow) -> None:
        """Take *row* in, unless it says less than is known: answers come out of order."""
        if not self.rows or (row.used or 0.0) > (self.rows[-1].used or 0.0):
            self.rows.append(row)


def periods_of(rows: Iterable[LimitRow]) -> list[Period]:
    """Return the periods of one window, oldest first."""
    found: list[Period] = []
    reset: datetime | None = None
    for row in rows:
        if row.used is None:
            continue
        if not found or _begins(found[-1], reset, row):
            found.append(Period(followed=bool(found)))
        reset = row.reset or reset
        found[-1].add(row)
    return found


def _begins(period: Period, reset: datetime | None, row: LimitRow) -> bool:
    known, now = period.rows[-1].used or 0.0, row.used or 0.0
    if reset is not None and row.reset is not None:
        moved = row.reset - reset
        if moved > SAME_RESET:
            return now < known or row.timestamp >= reset - SAME_RESET
        if moved < -SAME_RESET:
            return False
    return now < known - _EARLY_RESET


def is_quota(row: LimitRow) -> bool:
    """Tell whether *row* is of a window that fills over hours: who filled it can be asked."""
    is_short = row.window_seconds is not None and row.window_seconds < _LEAST_WINDOW
    return row.used is not None and row.limit is None and not is_short

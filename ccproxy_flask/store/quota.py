"""How full each window is, when it will be full, and who filled it. Pure.

Rows of the table ``rate_limits`` and sums over requests go in, the answer of ``/logs/limits`` comes
out (docs/limits.md).
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from .quota_periods import is_quota, periods_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .limit_rows import LimitRow
    from .quota_shares import Meter, Shared
    from .quota_weights import Uses

Json = dict[str, Any]
MOST_POINTS = 500
_LEAST_HORIZON = timedelta(minutes=30)
_HORIZON_SHARE = 10
_FRESH = timedelta(hours=1)


def answered(
    rows: Sequence[LimitRow],
    uses: dict[tuple[str | None, str | None], Uses],
    now: datetime,
    start: datetime,
    meter: Meter,
) -> list[Json]:
    """Return the windows that *rows*, in the order of their times, tell of; the fullest first.

    *uses* are the sums over the requests of each provider and account. *now* and *start*: UTC
    without a zone.
    """
    by_window: dict[tuple[str | None, str | None, str], list[LimitRow]] = defaultdict(list)
    for row in rows:
        by_window[row.provider, row.account, row.window].append(row)
    found = []
    shorter: dict[tuple[str | None, str | None], Shared] = {}
    for (provider, account, _), own in sorted(by_window.items(), key=_by_length):
        window = _window(own, now)
        window["history"] = _history([row for row in own if row.timestamp >= start])
        window |= {"meter": None, "used_by": None, "used_by_range": None}
        if is_quota(own[-1]) and (use := uses.get((provider, account))) is not None:
            shared = meter.shared(own[-1], periods_of(own), use, shorter.get((provider, account)))
            if shared.weights is not None and shared.weights.method == "fitted":
                shorter.setdefault((provider, account), shared)
            window |= shared.told(start, is_current=window["is_current"])
        found.append(window)
    return sorted(found, key=lambda one: -(one["used"] if one["used"] is not None else -1))


def _by_length(item: tuple[Any, list[LimitRow]]) -> tuple[str, str, int, str]:
    (provider, account, window), rows = item
    return (provider or "", account or "", rows[-1].window_seconds or 0, window)


def _window(rows: Sequence[LimitRow], now: datetime) -> Json:
    last = rows[-1]
    is_current = last.reset > now if last.reset is not None else now - last.timestamp < _FRESH
    used = last.used
    if used is not None and last.reset is not None and not is_current:
        used = 0.0
    pace, full_at, reason = _outlook(rows, now) if is_current else (None, None, "was_reset")
    return {
        "provider": last.provider,
        "account": last.account,
        "window": last.window,
        "window_seconds": last.window_seconds,
        "used": used,
        "limit": last.limit,
        "remaining": last.remaining,
        "reset": stamp(last.reset),
        "status": last.status,
        "note": last.note,
        "stated_at": stamp(last.timestamp),
        "request_id": last.request_id,
        "is_current": is_current,
        "is_quota": is_quota(last),
        "pace_per_hour": pace,
        "full_at": stamp(full_at),
        "full_reason": reason,
    }


def _outlook(
    rows: Sequence[LimitRow], now: datetime
) -> tuple[float | None, datetime | None, str | None]:
    """Return the pace (share per hour), when the window is full at it, or why that is not said.

    The pace is that of the last tenth of the window's length, of half an hour at least.
    """
    last = rows[-1]
    if last.used is None:
        return None, None, "not_stated"
    if not is_quota(last):
        return None, None, "refills"
    period = periods_of(rows)[-1].rows
    if last.used >= 1:
        return None, next(row.timestamp for row in period if (row.used or 0) >= 1), "full"
    length = timedelta(seconds=last.window_seconds or 0)
    begin = now - max(length / _HORIZON_SHARE, _LEAST_HORIZON)
    if last.reset is not None and length:
        begin = max(begin, last.reset - length)
    before = [row for row in period if row.timestamp <= begin]
    first = before[-1] if before else None
    if first is None and (len(period) < 2 or now - period[0].timestamp < _LEAST_HORIZON / 6):
        return None, None, "too_little_known"
    origin = begin if first is not None else period[0].timestamp
    level = (first or period[0]).used or 0.0
    hours = (now - origin) / timedelta(hours=1)
    pace = (last.used - level) / hours
    if pace <= 0:
        return 0.0, None, "no_use"
    full = now + timedelta(hours=min((1 - last.used) / pace, 1e5))
    if last.reset is not None and full >= last.reset:
        return pace, None, "resets_first"
    return pace, full, None


def _history(rows: Sequence[LimitRow]) -> list[list[Any]]:
    """Return (time, used) of *rows*, with a fall to 0 where a reset lay between two of them; at
    most so many points."""
    points: list[tuple[datetime, float]] = []
    before: LimitRow | None = None
    for row in rows:
        if row.used is None:
            continue
        if before is not None and before.reset is not None and row.timestamp > before.reset:
            points += [(before.reset, before.used or 0.0), (before.reset, 0.0)]
        points.append((row.timestamp, row.used))
        before = row
    keep = -(-len(points) // MOST_POINTS) or 1
    return [[stamp(at), used] for at, used in points[::-1][::keep][::-1]]


def stamp(moment: datetime | None) -> str | None:
    """Return *moment*, UTC without a zone, in RFC 3339."""
    return None if moment is None else moment.isoformat(timespec="seconds") + "Z"

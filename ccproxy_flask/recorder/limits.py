"""What the journal's lines say of rate limits, as rows: one where something changed."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ccproxy_flask.journal.lines import parse
from ccproxy_flask.store.limit_rows import LimitRow
from ccproxy_flask.usage.limits import Window, windows

if TYPE_CHECKING:
    from collections.abc import Iterable

KNOWN_OF_EACH = 64
"""So many rows of each window are kept in mind: answers come out of order."""
_MOST_WINDOWS = 4096
_LEAST_MOVE = 0.01
_SAME_RESET = timedelta(seconds=90)
# Nothing that anybody says can look like this: quotes in JSON's texts are escaped.
_STATES = b'"stated_limits":{'
_Key = tuple[str | None, str | None, str]


class Limits:
    """Knows the last rows of each window; the *known* ones are those of the store."""

    def __init__(self, known: Iterable[LimitRow]) -> None:
        self._known: OrderedDict[_Key, list[LimitRow]] = OrderedDict()
        for row in known:
            self._remember(row)

    def changes(self, lines: Iterable[tuple[str, bytes]]) -> tuple[list[LimitRow], int]:
        """Return the rows for what is new in *lines* (request id, line), and how many headers could
        not be understood."""
        found: list[LimitRow] = []
        ignored = 0
        for request_id, line in lines:
            if _STATES in line:
                fields = parse(line) or {}
                rows, wrong = _rows(request_id, fields)
                found += rows
                ignored += wrong
        found.sort(key=lambda row: row.timestamp)
        return [row for row in found if self._is_new(row)], ignored

    def _is_new(self, row: LimitRow) -> bool:
        known = self._known.get(_key(row), [])
        at = bisect_right(known, row.timestamp, key=lambda one: one.timestamp)
        if not at and len(known) >= KNOWN_OF_EACH:
            return False  # older than what is known of it
        if at and not has_moved(known[at - 1], row):
            return False
        self._remember(row)
        return True

    def _remember(self, row: LimitRow) -> None:
        key = _key(row)
        known = self._known.setdefault(key, [])
        insort(known, row, key=lambda one: one.timestamp)
        del known[:-KNOWN_OF_EACH]
        self._known.move_to_end(key)
        if len(self._known) > _MOST_WINDOWS:
            self._known.popitem(last=False)


def has_moved(before: LimitRow, now: LimitRow) -> bool:
    """Tell whether *now* says anything new.

    What a provider counts itself (*used* without a limit) counts to the last digit. What is left of
    a budget that fills again all the time moves with each answer: there a hundredth counts.
    """
    facts = ("status", "limit", "note", "window_seconds")
    if any(getattr(before, name) != getattr(now, name) for name in facts):
        return True
    if now.limit is not None and now.used is not None and before.used is not None:
        return abs(now.used - before.used) >= _LEAST_MOVE
    return (
        before.used != now.used
        or before.remaining != now.remaining
        or not _is_same(before.reset, now.reset)
    )


def _is_same(before: datetime | None, now: datetime | None) -> bool:
    if before is None or now is None:
        return before is now
    return abs(now - before) <= _SAME_RESET


def _key(row: LimitRow) -> _Key:
    return row.provider, row.account, row.window


def _rows(request_id: str, fields: dict[str, Any]) -> tuple[list[LimitRow], int]:
    """Return what the line with these *fields* says, at the time when the head of the answer came;
    nothing of a line that is not as ours are."""
    try:
        begun = datetime.fromisoformat(fields["timestamp"]).astimezone(UTC)
        at = begun + timedelta(milliseconds=float(fields.get("ttfb_ms") or 0))
        found, ignored = windows(fields["stated_limits"], at)
    except (KeyError, TypeError, ValueError, OverflowError):
        return [], 1
    names = [fields.get(name) for name in ("provider", "account_id")]
    provider, account = (name if isinstance(name, str) else None for name in names)
    return [_row(one, _naive(at), provider, account, request_id) for one in found], ignored


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _row(
    one: Window, at: datetime, provider: str | None, account: str | None, request_id: str
) -> LimitRow:
    return LimitRow(
        timestamp=at,
        provider=provider,
        account=account,
        window=one.window,
        used=one.used,
        limit=one.limit,
        remaining=one.remaining,
        reset=None if one.reset is None else _naive(one.reset).replace(microsecond=0),
        status=one.status,
        request_id=request_id,
        window_seconds=one.window_seconds,
        note=one.note,
    )

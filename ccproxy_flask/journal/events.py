"""The live feed: what all workers write into the journal, as events.

It needs no recorder and no store.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import structlog

from ccproxy_flask.record import COLUMN_TYPES, COLUMNS

from .lines import parse
from .reader import read_lines
from .segments import Segment, by_worker, is_alive, list_segments, segment_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.05
_LIVENESS_SECONDS = 1.0
_READ_BYTES = 256 << 10
_MOST_IN_FLIGHT = 10_000
_MONEY = tuple(name for name, kind in COLUMN_TYPES.items() if kind is Decimal)
_STORED_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"


class Subscription:
    """The events for one watcher: iterate, or :meth:`get`; then :meth:`close`.

    At most *limit* events wait; over that the oldest go, and the watcher gets an event
    ``{"type": "overflow", "data": {"missed": n}}`` in their place.
    """

    def __init__(self, feed: Feed, limit: int) -> None:
        self._feed = feed
        self._limit = limit
        self._events: deque[dict[str, Any]] = deque()
        self._missed = 0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def closed(self) -> bool:
        """True when there will be no further event."""
        return self._closed

    def get(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Return the next event; None after *timeout* seconds without one, or when closed."""
        with self._changed:
            self._changed.wait_for(self._has_news, timeout)
            if self._missed:
                missed, self._missed = self._missed, 0
                return _event("overflow", {"missed": missed}, None)
            return self._events.popleft() if self._events else None

    def _has_news(self) -> bool:
        return bool(self._missed or self._events or self._closed)

    def put(self, events: list[dict[str, Any]]) -> None:
        """Take *events*; the feed calls this."""
        with self._changed:
            if self._closed:
                return
            self._events.extend(events)
            while len(self._events) > self._limit:
                self._events.popleft()
                self._missed += 1
            self._changed.notify()

    def close(self) -> None:
        """Take no further event. Calling it again does nothing."""
        self._feed.leave(self)
        self.end()

    def end(self) -> None:
        """Wake the watcher for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (event := self.get()) is not None:
            yield event

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Feed:
    """Follows all segments of a journal while somebody watches.

    An event is ``{"type", "data", "timestamp", "id"}``: type ``request_start``,
    ``request_complete``, or ``request_error`` (an error type, or a status of 400 and more); *data*
    is a row; *id* is ``<segment>:<offset>``, the same in every process. A worker that dies ends its
    requests as ``request_error`` with the error type ``worker_lost``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._watchers: list[Subscription] = []
        self._follower: _Follower | None = None
        self._closed = False

    def subscribe(self, limit: int = 1000) -> Subscription:
        """Return a subscription to what happens from now on; after :meth:`close` a closed one."""
        subscription = Subscription(self, limit)
        with self._lock:
            if self._closed:
                subscription.end()
                return subscription
            if self._follower is None:
                follower = self._follower = _Follower(self._directory)
                threading.Thread(
                    target=self._run, args=(follower,), daemon=True, name="journal-feed"
                ).start()
            self._watchers.append(subscription)
            follower = self._follower
        # What is in flight is known, and nothing is missed, from here on.
        follower.ready.wait(timeout=5)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Forget *subscription*; the last one stops the following."""
        with self._lock:
            if subscription in self._watchers:
                self._watchers.remove(subscription)
            self._stop_if_alone()

    def in_flight(self) -> list[dict[str, Any]]:
        """Return the rows of the requests that have begun and not ended, as far as is known."""
        with self._lock:
            follower = self._follower
        return [] if follower is None else follower.rows()

    def close(self) -> None:
        """End all subscriptions."""
        with self._lock:
            self._closed = True
            watchers, self._watchers = self._watchers, []
            self._stop_if_alone()
        for subscription in watchers:
            subscription.end()

    def _stop_if_alone(self) -> None:
        if not self._watchers and self._follower is not None:
            self._follower.stopped.set()
            self._follower = None

    def _run(self, follower: _Follower) -> None:
        while not follower.stopped.is_set():
            try:
                events = follower.poll()
            except OSError as error:
                log.warning("feed_cannot_read", error=str(error))
                events = []
            follower.ready.set()
            if events:
                with self._lock:
                    watchers = list(self._watchers) if self._follower is follower else []
                for subscription in watchers:
                    subscription.put(events)
            follower.stopped.wait(0.001 if follower.behind else _POLL_SECONDS)


class _Follower:
    """How far the segments were read, and what is in flight."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[str, int] = {}
        self._in_flight: dict[str, dict[str, dict[str, Any]]] = {}
        """Worker → request id → row."""
        self._began = False
        self._checked_at = 0.0
        self.behind = False
        self.ready = threading.Event()
        self.stopped = threading.Event()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows in flight, oldest first."""
        found = [row for rows in list(self._in_flight.values()) for row in list(rows.values())]
        return sorted(found, key=lambda row: str(row["request_id"]))

    def poll(self) -> list[dict[str, Any]]:
        """Read what is new and return its events. Raises OSError."""
        segments = list_segments(self._directory)
        if not self._began:
            self._begin(segments)
            self._began = True
            return []
        self.behind = False
        events = [event for segment in segments for event in self._news(segment)]
        names = {segment.name for segment in segments}
        self._offsets = {name: at for name, at in self._offsets.items() if name in names}
        now = time.monotonic()
        if now - self._checked_at >= _LIVENESS_SECONDS:
            self._checked_at = now
            events += self._lost(segments)
        return events

    def _begin(self, segments: list[Segment]) -> None:
        """Pass over what is there; what is in flight is in the newest segments of live workers."""
        for group in by_worker(segments).values():
            *older, newest = group
            self._offsets.update((segment.name, segment.size) for segment in older)
            if not is_alive(self._directory, newest):
                self._offsets[newest.name] = newest.size
                continue
            while self._offsets.get(newest.name, 0) < newest.size:
                before = self._offsets.get(newest.name, 0)
                self._news(newest)
                if self._offsets[newest.name] == before:
                    break
                time.sleep(0)  # lets other greenlets have their turn

    def _news(self, segment: Segment) -> list[dict[str, Any]]:
        offset = self._offsets.setdefault(segment.name, 0)
        if segment.size <= offset:
            return []
        try:
            lines, end = read_lines(self._directory / segment.name, offset, _READ_BYTES)
        except FileNotFoundError:
            return []
        self._offsets[segment.name] = end
        self.behind = self.behind or (end > offset and end < segment.size)
        events = []
        for line in lines:
            fields = parse(line)
            event = fields and self._event_of(segment, fields, offset)
            if event:
                events.append(event)
            offset += len(line) + 1
        return events

    def _event_of(
        self, segment: Segment, fields: dict[str, Any], offset: int
    ) -> dict[str, Any] | None:
        kind, request_id = fields.pop("event"), fields.get("request_id")
        if kind not in ("start", "end", "lost") or not isinstance(request_id, str):
            return None
        rows = self._in_flight.setdefault(segment.worker, {})
        row = as_row(fields)
        where = f"{segment.name.removesuffix('.ndjson')}:{offset}"
        if kind == "start":
            known = request_id in rows
            if len(rows) < _MOST_IN_FLIGHT:
                rows[request_id] = row
            return None if known else _event("request_start", row, where)
        rows.pop(request_id, None)
        if kind == "lost":
            row["error_type"] = "record_lost"
        return _event(_kind_of_end(row), row, where)

    def _lost(self, segments: list[Segment]) -> list[dict[str, Any]]:
        """Return the ends of requests whose worker died."""
        newest = {segment.worker: segment for segment in segments}
        events = []
        for worker in list(self._in_flight):
            last = newest.get(worker)
            if last is not None and (
                self._offsets.get(last.name, 0) < last.size or is_alive(self._directory, last)
            ):
                continue
            for row in self._in_flight.pop(worker).values():
                row["error_type"] = "worker_lost"
                where = last.name if last else segment_name(worker, 0)
                where = f"{where.removesuffix('.ndjson')}:{row['request_id']}"
                events.append(_event("request_error", row, where))
        return events


def as_row(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the *fields* of a line as a row of the logs API: all columns, money as numbers."""
    row = {name: fields.get(name) for name in COLUMNS}
    for name in _MONEY:
        row[name] = _as_number(row[name])
    stamp = row["timestamp"]
    if isinstance(stamp, str) and "." not in stamp:
        row["timestamp"] = stamp.removesuffix("Z") + ".000000Z"
    return row


def _as_number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):  # a damaged line that is JSON all the same
        return None


def _kind_of_end(row: dict[str, Any]) -> str:
    status = row["status_code"]
    failed = row["error_type"] is not None or (isinstance(status, int) and status >= 400)
    return "request_error" if failed else "request_complete"


def _event(kind: str, data: dict[str, Any], where: str | None) -> dict[str, Any]:
    stamp = datetime.now(UTC).strftime(_STORED_STAMP)
    return {"type": kind, "data": data, "timestamp": stamp, "id": where}

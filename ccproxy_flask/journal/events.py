"""The live feed: what all workers write into the journal, as events.

It needs no recorder and no store.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from ccproxy_flask.errors import StoreUnavailable

from .follow import Event, Follower, as_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Event", "Feed", "Subscription", "as_row"]

log = structlog.get_logger(__name__)

MOST_WATCHERS = 256
"""Of one feed, which is one process: each takes memory, and a share of each event's time."""
_RETRY_SECONDS = 10
_POLL_SECONDS = 0.05
_CATCH_UP_SECONDS = 0.005


class TooManyWatchers(StoreUnavailable):
    """So many watch this process's feed that no more may."""

    def __init__(self) -> None:
        super().__init__(f"{MOST_WATCHERS} viewers watch this process already", _RETRY_SECONDS)


class Subscription:
    """The events for one watcher: iterate, or :meth:`get` or :meth:`take`; then :meth:`close`.

    At most *limit* events wait; over that the oldest go, and the watcher gets an event
    ``{"type": "overflow", "data": {"missed": n}}`` in their place. *select* says what an event is
    to this watcher: any number of anything, in its place.
    """

    def __init__(
        self,
        feed: Feed,
        limit: int,
        select: Callable[[Event], Sequence[Any]] | None = None,
        after: str | None = None,
    ) -> None:
        self._feed = feed
        self._limit = limit
        self._select = select
        self._events: deque[Any] = deque()
        self._replayed: deque[Any] = deque()
        self._replay: Iterator[list[Event]] = iter(())
        """Reads what was missed; what happens meanwhile waits in *_events*."""
        self.after = after
        self.begun = False
        """True once what happens is put here."""
        self._missed = 0
        self._changed = threading.Condition()
        self._closed = False
        self._position = "0"
        self.on_end: Callable[[], None] | None = None
        """Called once there is no further event."""

    @property
    def closed(self) -> bool:
        """True when there will be no further event."""
        return self._closed

    def get(self, timeout: float | None = None) -> Any:
        """Return the next event; None after *timeout* seconds without one, or when closed."""
        found = self.take(timeout, most=1)[0]
        return found[0] if found else None

    def take(self, timeout: float | None = None, most: int = 256) -> tuple[list[Any], str]:
        """Return the next events, and the position (:class:`Follower`) behind them.

        None of them after *timeout* seconds without one, or when closed; else up to *most*. Where
        further ones wait, the position is behind those too.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.after is not None and not self._closed:
            if found := self._next_replayed(most):
                return found, self.after
            if deadline is not None and time.monotonic() >= deadline:
                return [], self.after
        left = None if deadline is None else deadline - time.monotonic()
        with self._changed:
            if left is None or left > 0:
                self._changed.wait_for(self._has_news, left)
            found = []
            if self._missed:
                missed, self._missed = self._missed, 0
                found.append(Event("overflow", {"missed": missed}))
            while self._events and len(found) < most:
                found.append(self._events.popleft())
            return found, self._position

    def _next_replayed(self, most: int) -> list[Any]:
        """Return the next of what was missed; at the end, that is over."""
        if not self._replayed:
            part = next(self._replay, None)
            if part is None:
                self.after = None
                return []
            self._replayed.extend(self._selected(part))
            time.sleep(0)  # lets other greenlets have their turn
        return [self._replayed.popleft() for _ in range(min(most, len(self._replayed)))]

    def _has_news(self) -> bool:
        return bool(self._missed or self._events or self._closed)

    def _selected(self, events: Sequence[Event]) -> list[Any]:
        if self._select is None:
            return list(events)
        return [item for event in events for item in self._select(event)]

    def begin(self, live: Follower) -> None:
        """Take what *live* reads from here on, and before it what was missed; for the feed."""
        if self.after is not None:
            self._replay = live.missed_since(self.after)
        self._position, self.begun = live.position(), True

    def put(self, events: Sequence[Any], position: str = "0") -> None:
        """Take *events* and the *position* behind them; the feed calls this."""
        with self._changed:
            if self._closed:
                return
            self._position = position
            selected = self._selected(events)
            if not selected:
                return
            self._events.extend(selected)
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
            already, self._closed = self._closed, True
            self._changed.notify_all()
        if self.on_end is not None and not already:
            self.on_end()

    def __iter__(self) -> Iterator[Any]:
        while (event := self.get()) is not None:
            yield event

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Following:
    """A follower at work for all watchers, in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.follower = Follower(directory)
        self.lock = threading.Lock()
        """Held from the reading of events until all watchers have them."""
        self.ready = threading.Event()
        self.stopped = threading.Event()


class Feed:
    """Follows all segments of a journal while somebody watches.

    An event is ``{"type", "data", "timestamp", "id"}``: type ``request_start``,
    ``request_complete``, or ``request_error`` (an error type, or a status of 400 and more); *data*
    is a row; *id* is ``<segment>:<offset>``, the same in every process. A worker that dies ends its
    requests as ``request_error`` with the error type ``worker_lost``. Where a part of the journal
    went before it was read, an event ``overflow`` says that *missed* (how many: None) were.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._watchers: list[Subscription] = []
        self._following: _Following | None = None
        self._closed = False

    def subscribe(
        self,
        limit: int = 1000,
        after: str | None = None,
        select: Callable[[Event], Sequence[Any]] | None = None,
    ) -> Subscription:
        """Return a subscription to what happens from now on; after :meth:`close` a closed one.

        With *after*, the :attr:`Event.position` of an event (or what :meth:`Subscription.take`
        gave), to what happened from there on, each event at least once, as long as the segments are
        there; else it begins with an ``overflow`` of unknown size. Raises TooManyWatchers.
        """
        subscription = Subscription(self, limit, select, after)
        with self._lock:
            if self._closed:
                subscription.end()
                return subscription
            if len(self._watchers) >= MOST_WATCHERS:
                raise TooManyWatchers
            if self._following is None:
                following = self._following = _Following(self._directory)
                threading.Thread(
                    target=self._run, args=(following,), daemon=True, name="journal-feed"
                ).start()
            following = self._following
            self._watchers.append(subscription)
        # What is in flight is known, and nothing is missed, from here on.
        following.ready.wait(timeout=5)
        with following.lock:
            self._step(following)  # so that little is told twice to one who was further
            subscription.begin(following.follower)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Forget *subscription*; the last one stops the following."""
        with self._lock:
            if subscription in self._watchers:
                self._watchers.remove(subscription)
            self._stop_if_alone()

    @property
    def watchers(self) -> int:
        """How many subscriptions there are."""
        return len(self._watchers)

    def in_flight(self) -> list[dict[str, Any]]:
        """Return the rows of the requests that have begun and not ended, as far as is known."""
        with self._lock:
            following = self._following
        return [] if following is None else following.follower.rows()

    def close(self) -> None:
        """End all subscriptions."""
        with self._lock:
            self._closed = True
            watchers, self._watchers = self._watchers, []
            self._stop_if_alone()
        for subscription in watchers:
            subscription.end()

    def _stop_if_alone(self) -> None:
        if not self._watchers and self._following is not None:
            self._following.stopped.set()
            self._following = None

    def _run(self, following: _Following) -> None:
        while not following.stopped.is_set():
            with following.lock:
                self._step(following)
            following.ready.set()
            following.stopped.wait(0.001 if following.follower.behind else _POLL_SECONDS)

    def _step(self, following: _Following) -> None:
        """Read what is new, and hand it to all who watch."""
        events = self._read(following.follower.poll)
        with self._lock:
            watchers = list(self._watchers) if self._following is following else []
        position = following.follower.position()
        for subscription in watchers:
            if subscription.begun:
                subscription.put(events, position)

    def _read(self, read: Callable[[], list[Event]]) -> list[Event]:
        try:
            return read()
        except OSError as error:
            log.warning("feed_cannot_read", error=str(error))
            return []

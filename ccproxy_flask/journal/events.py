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
        replay: Follower | None = None,
    ) -> None:
        self._feed = feed
        self._limit = limit
        self._select = select
        self.replay = replay
        """Reads what was missed, until it has caught up."""
        self._events: deque[Any] = deque()
        self._missed = 0
        self._changed = threading.Condition()
        self._closed = False
        self._position = "0" if replay is None else replay.position()
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
        while self.replay is not None and not self._has_news():
            self._feed.catch_up(self)
            if deadline is not None and time.monotonic() >= deadline:
                break
        left = None if deadline is None else deadline - time.monotonic()
        with self._changed:
            if left is None or left > 0:
                self._changed.wait_for(self._has_news, left)
            found: list[Any] = []
            if self._missed:
                missed, self._missed = self._missed, 0
                found.append(Event("overflow", {"missed": missed}))
            while self._events and len(found) < most:
                found.append(self._events.popleft())
            return found, self._position

    def _has_news(self) -> bool:
        return bool(self._missed or self._events or self._closed)

    def _selected(self, events: Sequence[Event]) -> list[Any]:
        if self._select is None:
            return list(events)
        return [item for event in events for item in self._select(event)]

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
            while len(self._events) > self._limit and self.replay is None:
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
        gave), to what happened from there on: without gap or repeat, as long as the segments are
        there; else it begins with an ``overflow`` of unknown size. Raises TooManyWatchers.
        """
        replay = None if after is None else Follower(self._directory, after)
        subscription = Subscription(self, limit, select, replay)
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
        if replay is None:
            with following.lock:
                subscription.put([], following.follower.position())
        return subscription

    def catch_up(self, subscription: Subscription) -> None:
        """Give a subscription some of what it has missed so far; at the end it has caught up."""
        replay, following = subscription.replay, self._following
        if replay is None or following is None:
            time.sleep(_CATCH_UP_SECONDS)  # it is being closed
            return
        with following.lock:
            targets = following.follower.reached()
        events = self._read(lambda: replay.poll_up_to(targets))
        subscription.put(events, replay.position())
        if not events and not self._meet(subscription, replay, following):
            time.sleep(_CATCH_UP_SECONDS)
        time.sleep(0)  # lets other greenlets have their turn

    def _meet(self, subscription: Subscription, replay: Follower, following: _Following) -> bool:
        with following.lock:
            if not replay.meets(following.follower):
                return False
            events = replay.told_beside(following.follower)
            subscription.replay = None
            subscription.put(events, following.follower.position())
        return True

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
        follower = following.follower
        while not following.stopped.is_set():
            with following.lock:
                events = self._read(follower.poll)
                with self._lock:
                    watchers = list(self._watchers) if self._following is following else []
                if following.ready.is_set():
                    position = follower.position()
                    for subscription in watchers:
                        if subscription.replay is None:
                            subscription.put(events, position)
            following.ready.set()
            following.stopped.wait(0.001 if follower.behind else _POLL_SECONDS)

    def _read(self, read: Callable[[], list[Event]]) -> list[Event]:
        try:
            return read()
        except OSError as error:
            log.warning("feed_cannot_read", error=str(error))
            return []

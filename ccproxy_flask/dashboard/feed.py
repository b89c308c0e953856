"""The live feed of a page: a snapshot, then what happens, until one side goes.

Over a WebSocket, as Server-Sent Events, or the snapshot alone for those who ask again and again.

Messages are JSON texts, all ``{"type", "data", "timestamp"}``:

* ``snapshot`` — ``{"entries", "in_flight", "store"}``: the newest rows that the page's address asks
  for, those in flight, and whether the store is there. Without the store ``entries`` is null and
  ``store.reason`` says why. Sent at first and after an overflow, each time again shortly after
  (what ended just before is stored by then); else every 30 s.
* ``request_start``, ``request_complete``, ``request_error`` — one row.
* ``request_gone`` — ``{"id"}``: one that had begun is, at its end, none that the page shows.
* ``batch`` — a list of such events, when they come faster than is worth a message each.
* ``overflow`` — ``{"missed"}``: this viewer was too slow; a snapshot follows.
* ``heartbeat`` — nothing happened; the line is alive.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import OrderedDict
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from flask import current_app, request
from simple_websocket import ConnectionClosed

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import matching
from ccproxy_flask.journal import TooManyWatchers

from . import format as texts
from . import page_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simple_websocket import Server
    from werkzeug.datastructures import MultiDict

    from ccproxy_flask.journal.events import Feed, Subscription
    from ccproxy_flask.store.base import Store

ENTRIES = 50
SNAPSHOT_SECONDS = 30.0
SECOND_SNAPSHOT_SECONDS = 2.0
SNAPSHOT_AGE = 2.0
AGE_PER_VIEWER = 0.02
_MOST_ADDRESSES = 32
HEARTBEAT_SECONDS = 10.0
SEND_SECONDS = 20.0
SOCKET_OPTIONS = {"ping_interval": 15, "max_message_size": 4096}
"""For simple_websocket: a viewer that leaves two pings unanswered is gone."""
# At most so many messages a second to one viewer; what comes in between is sent together.
PACE_SECONDS = 0.05
_FEW = 4
_MANY = 500
_MOST_BEGUN = 1000
_KNOWN_AT_END = frozenset({"status_code", "error_type", "duration_ms", "cost_usd"})

GOING_AWAY = 1001
TRY_AGAIN_LATER = 1013
COLLECTION_OFF = 4503
COLLECTION_OFF_REASON = "Logs collection is disabled"


def follow(ws: Server) -> None:
    """Serve one viewer until it leaves, stops reading, or the feed is closed."""
    line = LockedSocket(ws.sock)
    ws.sock = line
    feed = current_app.extensions.get("ccproxy.feed")
    try:
        if feed is None:
            ws.close(COLLECTION_OFF, COLLECTION_OFF_REASON)
        else:
            with closing(feed.subscribe()) as subscription:
                for text in _viewer(feed, subscription).messages():
                    _drop_input(ws)
                    if text is not None:
                        ws.send(text)
            ws.close(GOING_AWAY, "The server is going away")
    except TooManyWatchers as error:
        ws.close(TRY_AGAIN_LATER, str(error))
    except (ConnectionClosed, OSError):
        ws.connected = False
    finally:
        line.end(ws.thread)


def _drop_input(ws: Server) -> None:
    """Forget what the page sent (nothing is expected); raise ConnectionClosed if it left."""
    while ws.receive(timeout=0) is not None:
        pass


def events() -> Iterator[str]:
    """Give the same messages as Server-Sent Events. Raises StoreUnavailable with nothing kept."""
    feed = _feed()
    subscription = feed.subscribe()
    viewer = _viewer(feed, subscription)

    def frames() -> Iterator[str]:
        with closing(subscription):
            for text in viewer.messages():
                if text is not None:
                    yield f"data: {text}\n\n"

    return frames()


def snapshot() -> str:
    """Return a message ``snapshot`` for a page that cannot keep a line open.

    Raises StoreUnavailable with nothing kept.
    """
    feed = _feed()
    # Who is in flight is known to a feed that somebody watches.
    with closing(feed.subscribe(limit=1)) as subscription:
        return _viewer(feed, subscription).snapshot()


def _feed() -> Feed:
    feed: Feed | None = current_app.extensions.get("ccproxy.feed")
    if feed is None:
        raise StoreUnavailable(COLLECTION_OFF_REASON)
    return feed


def _viewer(feed: Feed, subscription: Subscription) -> Viewer:
    """Return a viewer of what the address in hand asks for."""
    extensions = current_app.extensions
    shared = extensions.setdefault("ccproxy.dashboard.snapshots", SharedSnapshots())
    return Viewer(feed, subscription, extensions.get("ccproxy.store"), shared, request.args)


class SharedSnapshots:
    """The last message ``snapshot`` of each address, for all its viewers in this process.

    The more viewers there are, the older it may be: so many of them ask no more of the store than
    a few. Bounded: the address that was asked for longest ago goes first.
    """

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._made: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def text(self, address: str, watchers: int, make: Callable[[], str]) -> str:
        """Return that of *address*; made anew where it is too old for so many *watchers*."""
        asked_at = time.monotonic()
        with self._making:
            made_at, text = self._made.pop(address, (float("-inf"), ""))
            if asked_at - made_at > min(SNAPSHOT_AGE, AGE_PER_VIEWER * watchers):
                made_at, text = time.monotonic(), make()
            self._made[address] = made_at, text
            while len(self._made) > _MOST_ADDRESSES:
                self._made.popitem(last=False)
        return text


class Viewer:
    """One open page, whose address has the parameters *args*."""

    def __init__(
        self,
        feed: Feed,
        subscription: Subscription,
        store: Store | None,
        shared: SharedSnapshots,
        args: MultiDict[str, str],
    ) -> None:
        self._feed, self._subscription, self._store = feed, subscription, store
        self._shared, self._args = shared, args.copy()
        self._asked = page_query.read(args).where.asked()
        self._begun: OrderedDict[str, None] = OrderedDict()
        """The ids of what was told to have begun; bounded as they may never end."""
        self._snapshot_at = 0.0
        self._snapshot_again = True

    def messages(self) -> Iterator[str | None]:
        """Give what to send; None after a second without anything. Ends with the feed."""
        yield self._next_snapshot()
        said_at = time.monotonic()
        while not self._subscription.closed:
            found = self._collect()
            for text in self._told(found):
                said_at = time.monotonic()
                yield text
            if found:
                time.sleep(PACE_SECONDS)
            now = time.monotonic()
            if now >= self._snapshot_at:
                said_at = now
                yield self._next_snapshot()
            elif now >= said_at + HEARTBEAT_SECONDS:
                said_at = now
                yield texts.message("heartbeat", {})
            else:
                yield None

    def _collect(self) -> list[dict[str, Any]]:
        """Return the next events: none after a second of silence."""
        first = self._subscription.get(timeout=1.0)
        found = [first] if first is not None else []
        while found and len(found) < _MANY:
            further = self._subscription.get(timeout=0)
            if further is None:
                break
            found.append(further)
        return found

    def _told(self, found: list[dict[str, Any]]) -> Iterator[str]:
        if any(one["type"] == "overflow" for one in found):
            # Not at once each time: a viewer that cannot keep up is not helped by more to read.
            self._snapshot_at = min(self._snapshot_at, time.monotonic() + PACE_SECONDS * _FEW)
            self._snapshot_again = True
        wanted = [told for one in found if (told := self._as_told(one)) is not None]
        if len(wanted) > _FEW:
            yield texts.batch(wanted)
            return
        for one in wanted:
            event = texts.event(one)
            yield texts.message(event["type"], event["data"], event["timestamp"])

    def _as_told(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the page is told of an *event*; None: nothing."""
        if event["type"] == "overflow":
            return event
        request_id = event["data"]["request_id"]
        if event["type"] == "request_start":
            if not self._has_begun(event["data"]):
                return None
            self._begun[request_id] = None
            while len(self._begun) > _MOST_BEGUN:
                self._begun.popitem(last=False)
            return event
        was_told = request_id in self._begun
        self._begun.pop(request_id, None)
        if matching.matches(self._asked, event["data"]):
            return event
        return {"type": "request_gone", "data": {"id": request_id}} if was_told else None

    def _has_begun(self, row: dict[str, Any]) -> bool:
        """Tell whether a request that begins is one that the page shows, as far as is known: its
        model may turn out another, and it may turn out to be none of the page's."""
        return all(
            each.matches_start(value, row) is True
            or (_KNOWN_AT_END.isdisjoint(each.column.split()) and each.matches(value, row))
            for each, value in self._asked
        )

    def _next_snapshot(self) -> str:
        wait = SECOND_SNAPSHOT_SECONDS if self._snapshot_again else SNAPSHOT_SECONDS
        self._snapshot_at, self._snapshot_again = time.monotonic() + wait, False
        return self.snapshot()

    def snapshot(self) -> str:
        """Return a message ``snapshot``."""
        address = urlencode(sorted(self._args.items(multi=True)))
        return self._shared.text(
            address, self._feed.watchers, lambda: texts.message("snapshot", self._snapshot())
        )

    def _snapshot(self) -> dict[str, Any]:
        entries: list[dict[str, Any]] | None = None
        reason: str | None = "no store is configured"
        try:
            if self._store is not None:
                rows = self._store.query(page_query.read(self._args).where, ENTRIES).rows
                entries, reason = [texts.row(one) for one in rows], None
        except StoreUnavailable as error:
            reason = str(error)
        return {
            "entries": entries,
            "in_flight": [
                texts.row(row, in_flight=True)
                for row in self._feed.in_flight()
                if self._has_begun(row)
            ],
            "store": {"available": entries is not None, "reason": reason},
        }


class LockedSocket:
    """The socket of a WebSocket, made fit for two writers and for long messages.

    simple_websocket calls ``send`` and ignores how much of a frame went out; on gevent's sockets
    that can be a part of it. Its own thread writes pings and pongs beside us.
    """

    def __init__(self, sock: socket.socket, seconds: float = SEND_SECONDS) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.settimeout(seconds)

    def send(self, data: bytes) -> int:
        """Send all of *data*; raise TimeoutError where the peer takes nothing for too long."""
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Return what arrives, however long it takes: the time limit is for sending."""
        while True:
            try:
                return self._sock.recv(size)
            except TimeoutError:
                continue

    def end(self, thread: threading.Thread) -> None:
        """Give the peer a moment to confirm the close, then end the reading *thread*.

        Nothing can be written behind the last frame then: some servers would send an answer.
        """
        thread.join(timeout=0.3)
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already
        thread.join(timeout=1.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

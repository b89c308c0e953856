"""The WebSocket of the page: a snapshot, then what happens, until one side goes.

Messages are JSON texts, all ``{"type", "data", "timestamp"}``:

* ``snapshot`` — ``{"totals", "since", "entries", "in_flight", "store"}``: the figures since *since*
  (24 hours ago), the newest rows, those in flight, and whether the store is there. Without the
  store ``totals`` and ``entries`` are null and ``store.reason`` says why. Sent at first and after
  an overflow, each time again shortly after (what ended just before is stored by then); else every
  30 s.
* ``request_start``, ``request_complete``, ``request_error`` — one row.
* ``batch`` — a list of such events, when they come faster than is worth a message each.
* ``overflow`` — ``{"missed"}``: this viewer was too slow; a snapshot follows.
* ``heartbeat`` — nothing happened; the line is alive.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flask import current_app
from simple_websocket import ConnectionClosed

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.journal import TooManyWatchers
from ccproxy_flask.store.base import LogFilter

from . import format as texts

if TYPE_CHECKING:
    from simple_websocket import Server

    from ccproxy_flask.journal.events import Feed, Subscription
    from ccproxy_flask.store.base import Store

ENTRIES = 100
SPAN = timedelta(hours=24)
SNAPSHOT_SECONDS = 30.0
SECOND_SNAPSHOT_SECONDS = 2.0
SNAPSHOT_AGE = 2.0
AGE_PER_VIEWER = 0.02
HEARTBEAT_SECONDS = 10.0
SEND_SECONDS = 20.0
SOCKET_OPTIONS = {"ping_interval": 15, "max_message_size": 4096}
"""For simple_websocket: a viewer that leaves two pings unanswered is gone."""
# At most so many messages a second to one viewer; what comes in between is sent together.
PACE_SECONDS = 0.05
_FEW = 4
_MANY = 500
_TRIES = 3

GOING_AWAY = 1001
TRY_AGAIN_LATER = 1013
COLLECTION_OFF = 4503
COLLECTION_OFF_REASON = "Logs collection is disabled"


def follow(ws: Server) -> None:
    """Serve one viewer until it leaves, stops reading, or the feed is closed."""
    line = Line(ws.sock)
    ws.sock = line
    feed = current_app.extensions.get("ccproxy.feed")
    try:
        if feed is None:
            ws.close(COLLECTION_OFF, COLLECTION_OFF_REASON)
        else:
            with closing(feed.subscribe()) as subscription:
                _Viewer(ws, feed, subscription, current_app.extensions.get("ccproxy.store")).serve()
            ws.close(GOING_AWAY, "The server is going away")
    except TooManyWatchers as error:
        ws.close(TRY_AGAIN_LATER, str(error))
    except (ConnectionClosed, OSError):
        ws.connected = False
    finally:
        line.end(ws.thread)


def snapshot() -> str:
    """Return a message ``snapshot`` for a page that cannot keep a line open."""
    feed: Feed | None = current_app.extensions.get("ccproxy.feed")
    store: Store | None = current_app.extensions.get("ccproxy.store")
    if feed is None:
        raise StoreUnavailable(COLLECTION_OFF_REASON)
    # Who is in flight is known to a feed that somebody watches.
    with closing(feed.subscribe(limit=1)):
        return _shared_snapshot().text(feed, store)


class SharedSnapshot:
    """The last message ``snapshot``, for all viewers of this process. The more they are, the older
    it may be: so many of them ask no more of the store than a few."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._text = ""
        self._made_at = float("-inf")

    def text(self, feed: Feed, store: Store | None) -> str:
        """Return it; made anew where it is too old for so many viewers."""
        asked_at = time.monotonic()
        with self._making:
            if asked_at - self._made_at > min(SNAPSHOT_AGE, AGE_PER_VIEWER * feed.watchers):
                self._made_at = time.monotonic()
                self._text = texts.message("snapshot", snapshot_data(feed, store))
            return self._text


def _shared_snapshot() -> SharedSnapshot:
    shared: SharedSnapshot = current_app.extensions.setdefault(
        "ccproxy.dashboard.snapshot", SharedSnapshot()
    )
    return shared


def snapshot_data(feed: Feed, store: Store | None) -> dict[str, Any]:
    """Return the data of a message ``snapshot``."""
    since = datetime.now(UTC) - SPAN
    data: dict[str, Any] = {"since": since, "totals": None, "entries": None}
    try:
        data |= _stored(store, since)
        data["store"] = {"available": True, "reason": None}
    except StoreUnavailable as error:
        data["store"] = {"available": False, "reason": str(error)}
    data["in_flight"] = [texts.row(one) for one in feed.in_flight()]
    return data


def _stored(store: Store | None, since: datetime) -> dict[str, Any]:
    if store is None:
        raise StoreUnavailable("no store is configured")
    totals = store.totals(LogFilter(start_time=since))
    for _ in range(_TRIES):
        rows = store.query(LogFilter(), ENTRIES).rows
        before, totals = totals, store.totals(LogFilter(start_time=since))
        if totals.total_requests == before.total_requests:
            break  # else more came in between: the figures are not of these rows
    return {"totals": totals, "entries": [texts.row(one) for one in rows]}


class _Viewer:
    """One open page."""

    def __init__(
        self, ws: Server, feed: Feed, subscription: Subscription, store: Store | None
    ) -> None:
        self._ws, self._feed, self._subscription, self._store = ws, feed, subscription, store
        self._snapshot = _shared_snapshot()
        self._heartbeat_at = 0.0
        self._snapshot_at = 0.0
        self._snapshot_again = True

    def serve(self) -> None:
        """Return when the feed is closed; raise ConnectionClosed or OSError if the viewer goes."""
        self._send_snapshot()
        while not self._subscription.closed:
            found = self._collect()
            self._drop_input()
            self._send_events(found)
            now = time.monotonic()
            if now >= self._snapshot_at:
                self._send_snapshot()
            elif now >= self._heartbeat_at:
                self._send(texts.message("heartbeat", {}))

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

    def _drop_input(self) -> None:
        """Forget what the page sent (nothing is expected); raise ConnectionClosed if it left."""
        while self._ws.receive(timeout=0) is not None:
            pass

    def _send_events(self, found: list[dict[str, Any]]) -> None:
        if not found:
            return
        if any(one["type"] == "overflow" for one in found):
            # Not at once each time: a viewer that cannot keep up is not helped by more to read.
            self._snapshot_at = min(self._snapshot_at, time.monotonic() + PACE_SECONDS * _FEW)
            self._snapshot_again = True
        if len(found) > _FEW:
            self._send(texts.batch(found))
        else:
            for one in found:
                event = texts.event(one)
                self._send(texts.message(event["type"], event["data"], event["timestamp"]))
        time.sleep(PACE_SECONDS)

    def _send_snapshot(self) -> None:
        wait = SECOND_SNAPSHOT_SECONDS if self._snapshot_again else SNAPSHOT_SECONDS
        self._snapshot_at, self._snapshot_again = time.monotonic() + wait, False
        self._send(self._snapshot.text(self._feed, self._store))

    def _send(self, text: str) -> None:
        self._ws.send(text)
        self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS


class Line:
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
        """Give the peer a moment to confirm the close, then end the reading *thread*."""
        thread.join(timeout=0.3)
        if thread.is_alive():
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already
            thread.join(timeout=1.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

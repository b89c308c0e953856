"""``/logs/stream``: what happens, as Server-Sent Events (HTML standard §9.2), from all workers.

Every event is ``data: {"type","data","timestamp"}`` with ``event:`` and ``id:`` lines:

* ``connection`` — ``{"connection_id"}``, at first.
* ``request_start``, ``request_complete``, ``request_error`` — one row. Where it depends on how a
  request ends whether the filter wants it, its start is held back until then; start and end come
  both or not at all.
* ``overflow`` — ``{"missed"}``: so many events are not here, because this reader was too slow; null
  where they are too old to be known.
* ``disconnect`` — ``{"connection_id", "reason"}``: the server stops.
"""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from flask import Response, current_app, request

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.filters.matching import matches, matches_start
from ccproxy_flask.journal.events import Event, as_row
from ccproxy_flask.journal.lines import parse
from ccproxy_flask.server import sockets

from .parameters import read
from .routes import COLLECTION_OFF, blueprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ccproxy_flask.journal import Feed, Subscription

HEARTBEAT_SECONDS = 15.0
WAITING_EVENTS = 10_000
"""So many may wait for a slow reader: ten seconds of 500 requests a second."""
_RETRY_MS = 1000
_LOOK_SECONDS = 1.0
_MOST_AT_ONCE = 64
# At a stop, how long a reader may take to read what was sent.
_LAST_SECONDS = 1.0
_COLLECTION_RETRY_SECONDS = 60


@blueprint.get("/stream")
def stream() -> Response:
    """All workers' events as they happen (SPEC §5)."""
    feed: Feed | None = current_app.extensions["ccproxy.feed"]
    if feed is None:
        raise StoreUnavailable(COLLECTION_OFF, _COLLECTION_RETRY_SECONDS)
    where = read(LogFilter, request.args)
    after = request.headers.get("Last-Event-ID") or None
    subscription = feed.subscribe(WAITING_EVENTS, after, Selection(where))
    sock = sockets.client_socket(request.environ)
    answer = Response(EventStreamBody(subscription, sock), mimetype="text/event-stream")
    answer.headers["x-accel-buffering"] = "no"  # nginx passes each event on at once
    answer.call_on_close(subscription.close)
    _end_in_time(subscription, sock, answer)
    return answer


def _end_in_time(subscription: Subscription, sock: Any, answer: Response) -> None:
    """At a stop, do not wait for a reader that does not read."""
    if sock is None:
        return
    timer = threading.Timer(_LAST_SECONDS, sockets.hang_up, (sock,))
    timer.daemon = True
    closed = threading.Event()

    def begin() -> None:
        if not closed.is_set():
            timer.start()

    def end() -> None:
        closed.set()
        timer.cancel()

    answer.call_on_close(end)
    subscription.on_end = begin


class Selection:
    """What of the feed a reader with the filter *where* gets, as frames."""

    def __init__(self, where: LogFilter) -> None:
        self._asked = where.asked()

    def __call__(self, event: Event) -> Sequence[bytes]:
        """Return the frames for *event*: none, one, or with a start that was held back, two."""
        asked, row = self._asked, event["data"]
        if not asked or event["type"] == "overflow":
            return (frame_of(event),)
        if event["type"] == "request_start":
            return (frame_of(event),) if matches_start(asked, row) else ()
        start = event.start and as_row(parse(event.start) or {})
        verdict = matches_start(asked, start) if start else None
        if verdict is not None:
            return (frame_of(event),) if verdict else ()
        if not matches(asked, row):
            return ()
        if not start:
            return (frame_of(event),)
        return (frame("request_start", start, start["timestamp"], None), frame_of(event))


class EventStreamBody:
    """The body of the answer: ends with its *subscription*, or when the client of *sock* left."""

    def __init__(
        self, subscription: Subscription, sock: Any, heartbeat: float = HEARTBEAT_SECONDS
    ) -> None:
        self._subscription, self._sock = subscription, sock
        self._heartbeat = heartbeat
        self._connection_id = str(uuid.uuid4())

    def __iter__(self) -> Iterator[bytes]:
        found, position = self._subscription.take(0)
        # What waits already comes behind this, and stands before the position. A feed that is
        # closed has none: the reader keeps its own, and goes on from there at the next server.
        where = None if found or self._subscription.closed else position
        yield b"retry: %d\n" % _RETRY_MS + self._own("connection", {}, where) + _text(found)
        beat_at = time.monotonic() + self._heartbeat
        while not self._subscription.closed:
            found, position = self._subscription.take(
                max(0.0, min(_LOOK_SECONDS, beat_at - time.monotonic())), _MOST_AT_ONCE
            )
            text = _text(found)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + self._heartbeat
                # An id without data: the reader remembers it, and gets no event.
                text += b": heartbeat\n" + (b"\n" if found else b"id: %b\n\n" % position.encode())
            if text:
                yield text
            elif self._sock is not None and sockets.has_left(self._sock):
                return
        yield self._own("disconnect", {"reason": "the server is going away"}, None)

    def _own(self, kind: str, data: dict[str, Any], where: str | None) -> bytes:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return frame(kind, {"connection_id": self._connection_id, **data}, moment, where)


def _text(found: Sequence[bytes | Event]) -> bytes:
    return b"".join(one if isinstance(one, bytes) else frame_of(one) for one in found)


def frame_of(event: Event) -> bytes:
    """Return *event* as it is sent; made once for all readers."""
    if event.frame is None:
        where = event.position if event["id"] else None
        event.frame = frame(event["type"], event["data"], event["timestamp"], where)
    return event.frame


def frame(kind: str, data: dict[str, Any], moment: str, where: str | None) -> bytes:
    """Return one event of a stream."""
    body = orjson.dumps({"type": kind, "data": data, "timestamp": moment})
    head = f"event: {kind}\n" + (f"id: {where}\n" if where else "")
    return b"%bdata: %b\n\n" % (head.encode(), body)

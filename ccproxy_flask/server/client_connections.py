"""The clients' connections of this process, and what happens where there are too many."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import structlog

from .sockets import end_reading

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


class ClientConnections:
    """The clients' connections of this process, in the order in which they fell silent.

    A stop need not wait for those that ask nothing, and over *room* connections each new one ends
    one of them: else so many silent ones would keep all others out until their time is over.
    """

    def __init__(self, room: int = sys.maxsize) -> None:
        self.room = room
        self._idle: OrderedDict[Any, None] = OrderedDict()
        self._silent: OrderedDict[Any, float] = OrderedDict()
        self._open = 0
        self._stopping = False

    def watched(self, serve: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
        """Return *serve*, gunicorn's function for one connection, so that we know of it."""

        def serve_watched(listener: Any, sock: Any, address: Any) -> None:
            if self._open >= self.room:
                self._make_way()
            self._open += 1
            self._silent[sock] = time.monotonic()
            try:
                serve(listener, sock, address)
            finally:
                self._open -= 1
                self._silent.pop(sock, None)
                self._idle.pop(sock, None)

        return serve_watched

    def _make_way(self) -> None:
        waiting = self._silent or self._idle
        if waiting:
            end_reading(waiting.popitem(last=False)[0])

    def begin(self, sock: Any) -> None:
        """A request came in on *sock*."""
        self._silent.pop(sock, None)
        self._idle.pop(sock, None)

    def end(self, sock: Any) -> None:
        """The request on *sock* is answered; the connection may be used again, or be closed."""
        if self._stopping:
            end_reading(sock)
            return
        self._idle[sock] = None

    def stop(self) -> None:
        """Let idle connections end, and busy ones after the answer they wait for."""
        self._stopping = True
        while self._idle:
            end_reading(self._idle.popitem()[0])

    def end_silent(self, seconds: float) -> None:
        """End the connections on which no request has come for so long since they were opened."""
        before = time.monotonic() - seconds
        while self._silent:
            sock = next(iter(self._silent))
            if self._silent[sock] > before:
                return
            del self._silent[sock]
            end_reading(sock)


class AcceptErrors:
    """Takes the place of ``handle_error`` of gevent's hub, as its documentation allows.

    Where the process may open no more files, gevent tries again by itself: one line from time to
    time is enough, instead of a traceback for each try.
    """

    def __init__(self, handle_error: Callable[..., None]) -> None:
        self._handle_error = handle_error
        self._told_at = -math.inf

    def __call__(self, context: Any, kind: Any, value: Any, traceback: Any) -> None:
        """Tell of an error in *context*."""
        if getattr(value, "errno", None) not in (errno.EMFILE, errno.ENFILE):
            self._handle_error(context, kind, value, traceback)
        elif time.monotonic() - self._told_at > _TELL_SECONDS:
            self._told_at = time.monotonic()
            log.error("no_descriptors_left", reason=os.strerror(value.errno))


_TELL_SECONDS = 10.0
connections = ClientConnections()

"""Notices clients that hang up while nothing is being sent to them, and those that fall silent.

One greenlet looks at the sockets of all requests in flight a few times a second; a request that
is over before the next look costs nothing.
"""

from __future__ import annotations

import fcntl
import select
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Any

from gevent import monkey

from ..server.sockets import end_reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from .body import RequestBody

# gevent's poll knows no RDHUP, and this one never waits.
_poll = monkey.get_original("select", "poll")
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
_INTERVAL_SECONDS = 0.25


class Watched:
    """One client's socket, and whom to call when its peer is gone.

    It is the socket that is remembered, not its number: the system gives the number of a closed
    socket to a stranger.
    """

    __slots__ = ("on_hangup", "sock")

    def __init__(self, sock: Any, on_hangup: Callable[[], None]) -> None:
        self.sock, self.on_hangup = sock, on_hangup


class WatchedUpload:
    """The body of one request, read from *sock*; *on_slow* is called where that takes long."""

    __slots__ = ("body", "on_slow", "sock")

    def __init__(self, sock: Any, body: RequestBody, on_slow: Callable[[], None]) -> None:
        self.sock, self.body, self.on_slow = sock, body, on_slow


class HangupWatch:
    """Calls back once for each watched socket whose peer went away; within half a second.

    A client that is silent for *timeout* seconds in the middle of its body is read no further.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._uploads: dict[WatchedUpload, None] = {}
        self._watched: dict[Watched, None] = {}
        self._running = False

    def watch(self, sock: Any, on_hangup: Callable[[], None]) -> Watched:
        """Watch *sock* until :meth:`unwatch`, or until it is closed."""
        watched = Watched(sock, on_hangup)
        self._watched[watched] = None
        self._start()
        return watched

    def unwatch(self, watched: Watched) -> None:
        """Stop watching; whoever hangs up from now is not told of."""
        self._watched.pop(watched, None)

    def watch_upload(
        self, sock: Any, body: RequestBody, on_slow: Callable[[], None]
    ) -> WatchedUpload:
        """Watch the reading of *body* until :meth:`unwatch_upload`."""
        upload = WatchedUpload(sock, body, on_slow)
        self._uploads[upload] = None
        self._start()
        return upload

    def unwatch_upload(self, upload: WatchedUpload) -> None:
        """Stop watching: the body is read, or nobody reads it any more."""
        self._uploads.pop(upload, None)

    def _start(self) -> None:
        if not self._running:
            self._running = True
            threading.Thread(target=self._run, daemon=True, name="hangup-watch").start()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_SECONDS)
            if self._uploads:
                self._look_at_uploads()
            if self._watched:
                self._look()

    def _look_at_uploads(self) -> None:
        now = time.monotonic()
        for upload in tuple(self._uploads):
            if upload.body.slow:
                upload.on_slow()
            if upload.body.silent_for(now) > self._timeout:
                self.unwatch_upload(upload)
                upload.body.give_up()
                end_reading(upload.sock)

    def _look(self) -> None:
        poll, by_number = _poll(), {}
        for watched in tuple(self._watched):
            number = watched.sock.fileno()
            if number < 0:  # closed on our side: nobody is there to hang up
                self.unwatch(watched)
                continue
            by_number[number] = watched
            poll.register(number, select.POLLIN | _GONE)
        for number, events in poll.poll(0):
            watched = by_number[number]
            if (events & _GONE or _at_end(number)) and watched in self._watched:
                self.unwatch(watched)
                watched.on_hangup()


def _at_end(fd: int) -> bool:
    """True where a readable socket has nothing to read: the peer has closed it."""
    try:
        (waiting,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))
    except OSError:
        return True
    return bool(waiting == 0)

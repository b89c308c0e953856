"""Notices clients that hang up while nothing is being sent to them.

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
from typing import TYPE_CHECKING

from gevent import monkey

if TYPE_CHECKING:
    from collections.abc import Callable

# gevent's poll knows no RDHUP, and this one never waits.
_poll = monkey.get_original("select", "poll")
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
_INTERVAL_SECONDS = 0.25


class HangupWatch:
    """Calls back once for each watched socket whose peer went away; within half a second."""

    def __init__(self) -> None:
        self._watched: dict[int, Callable[[], None]] = {}
        self._running = False

    def watch(self, fd: int, on_hangup: Callable[[], None]) -> None:
        """Watch the socket *fd* until :meth:`unwatch`."""
        self._watched[fd] = on_hangup
        if not self._running:
            self._running = True
            threading.Thread(target=self._run, daemon=True, name="hangup-watch").start()

    def unwatch(self, fd: int) -> None:
        """Stop watching *fd*; before it is closed."""
        self._watched.pop(fd, None)

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_SECONDS)
            if self._watched:
                self._look()

    def _look(self) -> None:
        poll = _poll()
        for fd in tuple(self._watched):
            poll.register(fd, select.POLLIN | _GONE)
        for fd, events in poll.poll(0):
            if events & _GONE or _at_end(fd):
                on_hangup = self._watched.pop(fd, None)
                if on_hangup is not None:
                    on_hangup()


def _at_end(fd: int) -> bool:
    """True where a readable socket has nothing to read: the peer has closed it."""
    try:
        (waiting,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))
    except OSError:
        return True
    return bool(waiting == 0)

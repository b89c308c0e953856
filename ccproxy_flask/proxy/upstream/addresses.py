"""The addresses of upstreams: looked up beside the requests, and raced where there are several."""

from __future__ import annotations

import _socket
import errno
import itertools
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import UpstreamTimeout, UpstreamUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .call import CancelToken

Address = tuple[int, Any]
"""Address family, and what ``connect()`` takes."""
Host = tuple[str, int]

# How long an answer serves on while it cannot be looked up anew: a name server may be away for a
# while, but an address that nobody confirms for so long may be a stranger's by now.
_STALE_SECONDS = 300.0
# "Connection Attempt Delay" (RFC 8305 §5).
_ATTEMPT_SECONDS = 0.25
# How often whoever waits for a name server looks whether its client is still there.
_LOOK_SECONDS = 0.25


class _Known(NamedTuple):
    addresses: list[Address]
    fresh_until: float
    usable_until: float


class Addresses:
    """Looked-up addresses; used for *seconds*, then looked up again in the background.

    While that fails, an answer is used for *stale_seconds* more, and not longer.
    """

    def __init__(
        self,
        seconds: float,
        stale_seconds: float = _STALE_SECONDS,
        resolve: Callable[..., list[Any]] = socket.getaddrinfo,
    ) -> None:
        self._seconds, self._stale_seconds = seconds, stale_seconds
        self._resolve = resolve
        self._known: dict[Host, _Known] = {}
        self._running: dict[Host, _Lookup] = {}

    def of(self, host: str, port: int, timeout: float, token: CancelToken) -> list[Address]:
        """Return the addresses in the order to try.

        Raises UpstreamUnreachable, UpstreamTimeout, or ClientDisconnected.
        """
        key = (host, port)
        known = self._known.get(key)
        now = time.monotonic()
        if known is not None and now < known.usable_until:
            if now > known.fresh_until:
                self._lookup(key)  # beside
            return known.addresses
        return self._wait(self._lookup(key), timeout, token)

    def prefer(self, host: str, port: int, address: Address) -> None:
        """Try *address*, which has just answered, first from now on."""
        known = self._known.get((host, port))
        if known is not None and address in known.addresses:
            others = [other for other in known.addresses if other != address]
            self._known[host, port] = known._replace(addresses=[address, *others])

    def _lookup(self, key: Host) -> _Lookup:
        """Return the one lookup of *key* that runs; a name that hangs takes one thread."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Lookup(key, self._resolve, self._learn)
            running.start()
        return running

    def _learn(self, lookup: _Lookup) -> None:
        key, now = lookup.key, time.monotonic()
        known = self._known.get(key)
        if lookup.addresses:
            fresh = now + self._seconds
            self._known[key] = _Known(lookup.addresses, fresh, fresh + self._stale_seconds)
        elif known is not None:  # not asked again before its time
            self._known[key] = known._replace(fresh_until=now + self._seconds)
        self._running.pop(key, None)

    def _wait(self, lookup: _Lookup, timeout: float, token: CancelToken) -> list[Address]:
        deadline = time.monotonic() + timeout
        while not lookup.over.wait(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise UpstreamTimeout(f"no address of {lookup.key[0]} after {timeout:g} s")
            token.check()
        if not lookup.addresses:
            raise UpstreamUnreachable(
                f"cannot reach the upstream: {lookup.key[0]}: {lookup.error or 'no address'}"
            )
        return lookup.addresses


class _Lookup(threading.Thread):
    """Asks for the addresses of one host, beside all that wait for them."""

    def __init__(
        self, key: Host, resolve: Callable[..., list[Any]], learn: Callable[[_Lookup], None]
    ) -> None:
        super().__init__(daemon=True, name="lookup")
        self.key = key
        self.over = threading.Event()
        self.addresses: list[Address] = []
        self.error: Exception | None = None
        self._resolve, self._learn = resolve, learn

    def run(self) -> None:
        """Ask, and keep what was found or what went wrong."""
        try:
            found = self._resolve(*self.key, type=socket.SOCK_STREAM)
            self.addresses = interleaved([(family, address) for family, *_, address in found])
        except (OSError, UnicodeError) as error:
            self.error = error
        finally:
            self._learn(self)
            self.over.set()


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """Return *addresses* with the families in turns, the first one's first (RFC 8305 §4)."""
    if not addresses:
        return []
    first = [pair for pair in addresses if pair[0] == addresses[0][0]]
    others = [pair for pair in addresses if pair[0] != addresses[0][0]]
    turns = itertools.zip_longest(first, others)
    return [pair for turn in turns for pair in turn if pair is not None]


def connect(
    addresses: Sequence[Address], timeout: float, token: CancelToken
) -> tuple[socket.socket, Address]:
    """Connect to the first of *addresses* that answers, and return socket and address.

    Attempts are begun one after the other, a quarter of a second apart or when one fails
    (RFC 8305). Raises TimeoutError, the OSError of the last attempt, or ClientDisconnected.
    """
    race = _Race(addresses, time.monotonic() + timeout)
    try:
        return race.run(token)
    except BaseException:
        token.release()
        raise
    finally:
        race.close()


class _Race:
    """Attempts to connect, side by side."""

    def __init__(self, addresses: Sequence[Address], deadline: float) -> None:
        self._left = list(addresses)
        self._deadline = deadline
        self._next_at = 0.0
        self._open: dict[int, tuple[socket.socket, Address]] = {}
        self._over: list[socket.socket] = []
        self._problem: OSError = OSError("no address")

    def run(self, token: CancelToken) -> tuple[socket.socket, Address]:
        """Return the winner; it is the caller's."""
        while True:
            while self._left and (not self._open or time.monotonic() >= self._next_at):
                self._begin()
            if not self._open:
                raise self._problem
            token.hold(*(sock for sock, _ in self._open.values()))
            self._close_over()
            for number in self._wait():
                token.check()
                sock, address = self._open[number]
                problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not problem:
                    token.hold(sock)
                    del self._open[number]
                    return sock, address
                self._fail(number, problem)

    def _begin(self) -> None:
        self._next_at = time.monotonic() + _ATTEMPT_SECONDS
        address = self._left.pop(0)
        try:
            sock, problem = _begun(address)
        except OSError as error:
            self._problem = error
            return
        self._open[sock.fileno()] = sock, address
        if problem not in (0, errno.EINPROGRESS):
            self._fail(sock.fileno(), problem)

    def _wait(self) -> list[int]:
        """Return the sockets on which something happened; none where the next is to begin."""
        until = min(self._deadline, self._next_at) if self._left else self._deadline
        poll = select.poll()
        for number in self._open:
            poll.register(number, select.POLLOUT)
        found = poll.poll(max(0, round((until - time.monotonic()) * 1000)) + 1)
        if not found and time.monotonic() >= self._deadline:
            raise TimeoutError
        return [number for number, _ in found]

    def _fail(self, number: int, problem: int) -> None:
        self._problem = OSError(problem, os.strerror(problem))
        self._over.append(self._open.pop(number)[0])
        self._next_at = 0.0

    def _close_over(self) -> None:
        while self._over:
            self._over.pop().close()

    def close(self) -> None:
        """Give up the attempts that still run."""
        self._over += [sock for sock, _ in self._open.values()]
        self._open.clear()
        self._close_over()


def _begun(address: Address) -> tuple[socket.socket, int]:
    """Return a socket that connects to *address*, and what the system said to that."""
    # One of the system's: gevent's own may wait for the threads that look up names.
    plain = _socket.socket(address[0], socket.SOCK_STREAM)
    try:
        plain.setblocking(False)
        problem = plain.connect_ex(address[1])
        return socket.socket(fileno=plain.detach()), problem
    finally:
        plain.close()

"""Connections to the upstreams: opened, kept while idle, closed when their time is over."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import certifi
from gevent import monkey

from ...errors import NoDescriptors, UpstreamTimeout, UpstreamUnreachable
from . import addresses

if TYPE_CHECKING:
    from ...settings import Proxy
    from .call import CancelToken

# gevent's poll makes a watcher for each descriptor; this one never waits.
_poll = monkey.get_original("select", "poll")
_UPKEEP_SECONDS = 1.0
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Origin(NamedTuple):
    """Where connections go."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str


def origin_of(base_url: str) -> Origin:
    """Return where the requests below *base_url* go."""
    parts = urlsplit(base_url)
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    return Origin(tls, parts.hostname or "", port, parts.netloc, parts.path)


class Connection:
    """One connection to an upstream; has one owner: a call, or the pool."""

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self.sock = sock
        self.origin = origin
        self._until = 0.0

    def keep(self, seconds: float) -> None:
        """Remember how long the connection may be idle."""
        self._until = time.monotonic() + seconds

    def expired(self) -> bool:
        """True where the connection was idle for too long."""
        return time.monotonic() > self._until

    def usable(self) -> bool:
        """True where the idle connection is not too old, and the upstream has not closed it."""
        if self.expired():
            return False
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False  # closed by the upstream, or it said something nobody asked for

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


class Connections:
    """Opens connections, and keeps idle ones; one for an application.

    Once a second those are closed that their upstream closed, or whose time is over.
    """

    def __init__(self, options: Proxy) -> None:
        self._options = options
        self._addresses = addresses.Addresses(options.dns_cache_seconds)
        self._idle: dict[Origin, deque[Connection]] = {}
        # Now, not with the first request: reading the certificates holds up a worker for 20 ms.
        bundle = options.ca_bundle or certifi.where()
        self._tls = ssl.create_default_context(cafile=str(bundle))
        self._tls.set_alpn_protocols(["http/1.1"])
        self._closed = threading.Event()
        self._upkeep: threading.Thread | None = None

    def take(self, origin: Origin, timeout: float, token: CancelToken) -> Connection:
        """Return an idle connection or a new one; *token* holds it.

        Raises UpstreamUnreachable, UpstreamTimeout, or ClientDisconnected.
        """
        token.check()  # while nothing is held that would have to be closed
        idle = self._idle.get(origin)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.usable():
                token.hold(connection.sock)
                return connection
            connection.close()
        try:
            return self._opened_at_last(origin, timeout, token)
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"no connection to the upstream in time: {origin.authority} after {timeout:g} s"
            ) from error
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise NoDescriptors(
                    "the proxy has no file descriptors left for a connection to the upstream: "
                    "try again soon; its operator can allow more (ulimit -n, LimitNOFILE)"
                ) from error
            reason = str(error) if isinstance(error, ssl.SSLError) else error.strerror or error
            raise UpstreamUnreachable(
                f"cannot reach the upstream: {origin.authority}: {reason}"
            ) from error

    def give_back(self, connection: Connection, seconds: float) -> None:
        """Keep *connection*, which nobody owns any more, for at most *seconds*."""
        idle = self._idle.setdefault(connection.origin, deque())
        if len(idle) >= self._options.max_idle_connections:
            connection.close()
            return
        connection.keep(min(self._options.idle_connection_seconds, seconds))
        idle.append(connection)
        if self._upkeep is None:
            self._upkeep = threading.Thread(target=self._run, daemon=True, name="idle-upkeep")
            self._upkeep.start()

    def close(self) -> None:
        """Close all idle connections, and look after them no longer."""
        self._closed.set()
        self._close_idle()

    def _close_idle(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _run(self) -> None:
        while not self._closed.wait(_UPKEEP_SECONDS):
            for idle in tuple(self._idle.values()):
                _close_useless(idle)

    def _opened_at_last(self, origin: Origin, timeout: float, token: CancelToken) -> Connection:
        """Open a connection; where no descriptor is left, with one of those that idle."""
        try:
            return self._opened(origin, timeout, token)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            self._close_idle()
            return self._opened(origin, timeout, token)

    def _opened(self, origin: Origin, timeout: float, token: CancelToken) -> Connection:
        deadline = time.monotonic() + timeout
        known = self._addresses.of(origin.host, origin.port, timeout, token)
        sock, address = addresses.connect(known, max(0.0, deadline - time.monotonic()), token)
        try:
            if address != known[0]:
                self._addresses.prefer(origin.host, origin.port, address)
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return Connection(self._secured(sock, origin, token) if origin.tls else sock, origin)
        except BaseException:
            token.release()
            sock.close()
            raise

    def _secured(self, sock: socket.socket, origin: Origin, token: CancelToken) -> socket.socket:
        secured = self._tls.wrap_socket(
            sock, server_hostname=origin.host, do_handshake_on_connect=False
        )
        try:
            token.hold(secured)  # before the handshake: it may be what never ends
            secured.do_handshake()
        except BaseException:
            token.release()
            secured.close()
            raise
        return secured


def _close_useless(idle: deque[Connection]) -> None:
    """Close what of *idle* is too old, or was closed by the upstream."""
    kept, poll = [], _poll()
    while idle:
        try:
            kept.append(idle.popleft())  # nobody can take it meanwhile
        except IndexError:
            break
    for connection in kept:
        poll.register(connection.sock, select.POLLIN)
    said = {number for number, _ in poll.poll(0)}
    for connection in reversed(kept):
        spoke = connection.sock.fileno() in said
        if connection.expired() or (spoke and not connection.usable()):
            connection.close()
        else:
            idle.appendleft(connection)

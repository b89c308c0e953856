"""One call to an upstream: what it asks, who owns its connection, and how it is cancelled."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gevent import monkey

from ...errors import ClientDisconnected
from ...server.sockets import hang_up
from ..headers import first_values

if TYPE_CHECKING:
    import socket
    import threading

    from ..body import RequestBody
    from ..headers import Headers

READ_SIZE = 64 << 10
# The system's own: it is held for moments, and never while somebody waits.
_lock = monkey.get_original("_thread", "allocate_lock")


class UpstreamRequest(NamedTuple):
    """One request to an upstream: everything but the body as it goes on the wire."""

    base_url: str
    method: str
    target: str
    """Raw path and query below the base URL."""
    headers: Headers
    body: RequestBody | None
    connect_timeout: float
    read_timeout: float


class CancelToken:
    """Cancels a call from another greenlet or thread, wherever the call waits.

    It can only reach the sockets that the call holds: after *release()* cancelling does nothing,
    whoever uses the connection then. The lock is held for one system call that never waits.
    """

    __slots__ = ("_lock", "_sockets", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = _lock()
        self._sockets: tuple[socket.socket, ...] = ()

    def hold(self, *sockets: socket.socket) -> None:
        """Own *sockets* from now, and no others. Raises ClientDisconnected after *cancel()*."""
        with self._lock:
            self._sockets = sockets
        self.check()

    def release(self) -> None:
        """Own nothing from now; before a connection is given back or closed."""
        with self._lock:
            self._sockets = ()

    def cancel(self) -> None:
        """End the call: whoever waits in it gets ClientDisconnected."""
        with self._lock:
            self.cancelled = True
            for sock in self._sockets:
                hang_up(sock)

    def check(self) -> None:
        """Raise ClientDisconnected after *cancel()*."""
        if self.cancelled:
            raise ClientDisconnected("the client went away")


class UpstreamCall(abc.ABC):
    """One call: owns its connection until release, its cancellation, and its upload.

    *send()* is called once, then *read()* until it returns ``b""``, then *close()*, which may be
    called at any time and more than once. *cancel()* may come from anywhere, at any time.
    """

    upload: threading.Thread | None = None
    """Who sends the rest of a long body, beside the reader of the answer."""

    def __init__(self, request: UpstreamRequest) -> None:
        self.request = request
        self.token = CancelToken()

    def cancel(self) -> None:
        """End the call because its client went away; nothing where it has ended already."""
        self.token.cancel()

    @abc.abstractmethod
    def send(self) -> UpstreamResponse:
        """Send the request and return the answer once its head is there.

        Raises UpstreamUnreachable, UpstreamBroken, UpstreamTimeout, BodyTooLarge, or
        ClientDisconnected after *cancel()*.
        """

    @property
    @abc.abstractmethod
    def ready(self) -> bool:
        """True where *read()* returns at once."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """Return what is there of the body, at least one byte, not decoded; ``b""`` at the end.

        Raises UpstreamBroken, UpstreamTimeout, or ClientDisconnected after *cancel()*.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection, unless the body was read to its end and it was released."""


class UpstreamResponse:
    """An upstream's answer: its head, and its body as it arrives (see :class:`UpstreamCall`)."""

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        call: UpstreamCall,
        named: dict[str, str] | None = None,
    ) -> None:
        self.status, self.reason, self.headers = status, reason, headers
        self.named = first_values(headers) if named is None else named
        """The first value of each header, by lower-case name."""
        self._call = call
        self.read = call.read
        self.close = call.close

    @property
    def ready(self) -> bool:
        """True where *read()* returns at once."""
        return self._call.ready


class Transport(Protocol):
    """A way to the upstreams."""

    def call(self, request: UpstreamRequest) -> UpstreamCall:
        """Return a call that is not sent yet."""

    def close(self) -> None:
        """Close all idle connections."""

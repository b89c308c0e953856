"""One call to an upstream, how it is cut short, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, NamedTuple

import requests
import urllib3.exceptions
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException

from ...errors import (
    ClientDisconnected,
    ProxyError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    import threading

    from ..body import RequestBody
    from ..headers import Headers


class BrokenAnswer(NoConnection):
    """The connection was there, but no whole HTTP answer came over it."""


class Call(NamedTuple):
    """One request to an upstream: everything but the body as it goes on the wire."""

    base_url: str
    method: str
    target: str
    """Raw path and query below the base URL."""
    headers: Headers
    body: RequestBody | None
    connect_timeout: float
    read_timeout: float


class PreparedCall(requests.PreparedRequest):
    """A prepared request that nothing has normalised."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.method = call.method
        self.url = call.base_url + call.target


class Lifeline:
    """Lets another greenlet cut a call short, wherever it waits."""

    def __init__(self) -> None:
        self.cut = False
        self.upload: threading.Thread | None = None
        """Who sends the rest of a long body, beside the reader of the answer."""
        self._sock: socket.socket | None = None

    def attach(self, sock: socket.socket | None) -> None:
        """Remember the socket the call waits on from now."""
        self._sock = sock
        self.check()

    def abort(self) -> None:
        """End the call: whoever waits on it gets ClientDisconnected."""
        self.cut = True
        if self._sock is not None:
            shut_down(self._sock)

    def check(self) -> None:
        """Raise ClientDisconnected after *abort()*."""
        if self.cut:
            raise ClientDisconnected("the client went away")


def shut_down(sock: socket.socket) -> None:
    """End *sock* for whoever waits on it; over a copy, since TLS sockets forget theirs."""
    with contextlib.suppress(OSError):
        copy = socket.socket(fileno=socket.dup(sock.fileno()))
        with copy:
            copy.shutdown(socket.SHUT_RDWR)


FOREIGN_ERRORS = (RequestException, urllib3.exceptions.HTTPError, OSError)


def translated(error: Exception) -> ProxyError:
    """Return our error for one of ``requests``, ``urllib3`` or the operating system."""
    if isinstance(error, ConnectTimeout):
        return UpstreamTimeout(f"no connection to the upstream in time: {error}")
    if isinstance(error, ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return UpstreamTimeout("the upstream was silent for too long")
    if isinstance(error, NoConnection) and not isinstance(error, BrokenAnswer):
        return UpstreamUnreachable(f"cannot reach the upstream: {error}")
    return UpstreamBroken(f"the upstream broke off or sent no valid HTTP: {error}")

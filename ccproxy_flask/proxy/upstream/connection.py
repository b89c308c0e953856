"""Connections to the upstreams, and the addresses they go to."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from requests.exceptions import ConnectionError as NoConnection

from ...errors import ClientDisconnected, ProxyError
from .. import http1
from .calls import shut_down

if TYPE_CHECKING:
    from ..body import RequestBody

READ_SIZE = 64 << 10
_COOPERATIVE = socket.socket.__module__.startswith("gevent")


class Origin(NamedTuple):
    """Where connections go."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str


class Connection:
    """One connection to an upstream, and what was read from it too early."""

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self.sock = sock
        self.origin = origin
        self._until = 0.0
        self._upload: Upload | None = None

    def keep(self, seconds: float) -> None:
        """Remember how long the connection may be idle."""
        self._until = time.monotonic() + seconds

    def usable(self) -> bool:
        """True where the idle connection is not too old, and the upstream has not closed it."""
        if time.monotonic() > self._until:
            return False
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False  # closed by the upstream, or it said something nobody asked for

    def upload(self, head: bytes, body: RequestBody) -> Upload:
        """Send a long request while the answer may already come."""
        upload = self._upload = Upload(self.sock, head, body)
        if isinstance(self.sock, ssl.SSLSocket) and not _COOPERATIVE:
            upload.run()  # OpenSSL allows no second thread on a connection
        else:
            upload.start()
        return upload

    def raise_upload_error(self) -> None:
        """Raise what ended the upload, where that was not the upstream."""
        if self._upload is not None and self._upload.error is not None:
            raise self._upload.error

    def read_head(self) -> tuple[http1.Head, bytes]:
        """Return the final head, and what came with it of the body."""
        held = b""
        interim = 0
        while True:
            data = self.sock.recv(READ_SIZE)
            if not data:
                raise http1.NotHttp("the upstream closed the connection without an answer")
            held += data
            while (end := held.find(b"\r\n\r\n")) >= 0:
                head, held = http1.parse_head(held[:end]), held[end + 4 :]
                if head.status >= 200:
                    return head, held
                interim += end
                if head.status == 101:
                    raise http1.NotHttp("the upstream changed to a protocol nobody asked for")
            if interim + len(held) > http1.LONGEST_HEAD:
                raise http1.NotHttp("the head of the answer does not end")

    @property
    def busy(self) -> bool:
        """True while the request is still being sent."""
        return self._upload is not None and self._upload.is_alive()

    def close(self) -> None:
        """Close the connection, and end an upload that still runs."""
        if self._upload is not None and self._upload.is_alive():
            shut_down(self.sock)
        self._upload = None
        self.sock.close()


class Upload(threading.Thread):
    """Sends a long body; beside the reader, since an upstream may answer before the end of it."""

    def __init__(self, sock: socket.socket, head: bytes, body: RequestBody) -> None:
        super().__init__(daemon=True, name="upload")
        self._sock, self._head, self._body = sock, head, body
        self.error: Exception | None = None

    def run(self) -> None:
        """Send head and body; what goes wrong is kept for the reader of the answer."""
        try:
            self._sock.sendall(self._head)
            for piece in self._body.wire_pieces():
                self._sock.sendall(piece)
        except (ClientDisconnected, ProxyError) as error:
            self.error = error
            shut_down(self._sock)
        except (OSError, ValueError):
            # The upstream reads no more. Its answer, or the lack of one, says why.
            self._body.discard()


class Addresses:
    """Looked-up addresses, kept for a while and looked up again in the background."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[tuple[str, int], tuple[float, list[tuple[int, Any]]]] = {}
        self._asking: set[tuple[str, int]] = set()

    def of(self, host: str, port: int) -> list[tuple[int, Any]]:
        """Return (family, address) pairs in the order to try. Raises requests' ConnectionError."""
        key = (host, port)
        known = self._known.get(key)
        if known is None:
            return self._ask(key)
        if time.monotonic() > known[0] and key not in self._asking:
            self._asking.add(key)
            threading.Thread(target=self._refresh, args=(key,), daemon=True).start()
        return known[1]

    def _refresh(self, key: tuple[str, int]) -> None:
        try:
            self._ask(key)
        except NoConnection:  # the old answer serves on
            self._known[key] = (time.monotonic() + self._seconds, self._known[key][1])
        finally:
            self._asking.discard(key)

    def _ask(self, key: tuple[str, int]) -> list[tuple[int, Any]]:
        try:
            answers = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NoConnection(f"{key[0]}: {error}") from error
        found: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in answers]
        self._known[key] = (time.monotonic() + self._seconds, found)
        return found

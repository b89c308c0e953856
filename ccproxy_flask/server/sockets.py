"""Sockets of clients, as the system has them: closing them without losing what is on its way."""

from __future__ import annotations

import _socket
import contextlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def client_socket(environ: Mapping[str, Any]) -> Any:
    """Return the socket of the client's connection; None where the server does not tell."""
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")


def has_left(sock: Any) -> bool:
    """True where the peer of *sock* closed the connection, as far as can be told at once."""
    try:
        with system_socket(sock) as plain:
            return plain.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        return True


def hang_up(sock: Any) -> None:
    """End the connection of *sock* in both directions; who waits to write to it is woken."""
    with contextlib.suppress(OSError, ValueError), system_socket(sock) as plain:
        plain.shutdown(_socket.SHUT_RDWR)


@contextlib.contextmanager
def system_socket(sock: Any) -> Iterator[_socket.socket]:
    """The socket of the system under *sock*, which may be one of gevent's, or of TLS.

    Takes no descriptor of its own: it must work where there are none left. Raises OSError or
    ValueError where *sock* is closed.
    """
    plain = _socket.socket(fileno=sock.fileno())
    try:
        yield plain
    finally:
        plain.detach()


def end_reading(sock: Any) -> None:
    """Let the reader of *sock* find its end, behind what has come in already."""
    # Past gevent's own shutdown(): that throws an error at the greenlet that waits for data, and
    # gunicorn would log it with its traceback.
    with contextlib.suppress(OSError, ValueError), system_socket(sock) as plain:
        plain.shutdown(_socket.SHUT_RD)


def send_all(sock: Any, data: bytes) -> None:
    """Send *data*; in one call to the system where the socket takes it whole."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def let_go(sock: Any, reading: Callable[[float], None] | None = None) -> None:
    """End *sock* for writing, and read what still comes; *reading* waits for who does that."""
    with contextlib.suppress(OSError):
        sock.shutdown(_socket.SHUT_WR)
        if reading is not None:
            reading(_LINGER_SECONDS)
            return
        left, deadline, turn = _LINGER_BYTES, time.monotonic() + _LINGER_SECONDS, 0.0
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            turn = take_turns(turn)
            sock.settimeout(seconds)
            data = sock.recv(_LINGER_PIECE)
            if not data:
                return
            left -= len(data)


def take_turns(began: float) -> float:
    """Let others run where this turn, which *began* then, is over; return when the turn began.

    For loops over data that may always be there: nothing in them would ever wait.
    """
    if time.monotonic() - began < _TURN_SECONDS:
        return began
    time.sleep(0)
    return time.monotonic()


_TURN_SECONDS = 0.002
_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64 << 20
_LINGER_PIECE = 64 << 10

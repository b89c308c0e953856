"""Whether the addresses to listen on can be had, told before the server tries. Pure sockets."""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CcproxyError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LISTENS = "0A"  # of /proc/net/tcp: proc(5)
_PORTS_TO_TRY = 20


class CannotListen(CcproxyError):
    """An address cannot be had; the message says why, and what to do about it."""


def refuse_taken(addresses: Iterable[object]) -> None:
    """Raise CannotListen where a TCP server could not listen on one of *addresses*.

    Pairs of host and port are tried; unix sockets and descriptors are not.
    """
    for address in addresses:
        if isinstance(address, tuple):
            _try(*address[:2])


def _try(host: str, port: int) -> None:
    try:
        _bind(host, port)
    except OSError as error:
        raise CannotListen(_told(host, port, error)) from None


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _told(host: str, port: int, error: OSError) -> str:
    where = f"cannot listen on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        holder = _holder(port)
        by = f" by {holder}" if holder else ""
        return f"{where}: the port is in use{by}. Stop that, or {_elsewhere(host, port)}"
    if error.errno == errno.EACCES:
        return f"{where}: that needs more rights. Use one, or {_elsewhere(host, max(port, 7999))}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no such address. Check CCPROXY_HOST"
    return f"{where}: {error.strerror or error}. Check CCPROXY_HOST and CCPROXY_PORT"


def _elsewhere(host: str, port: int) -> str:
    free = next((each for each in range(port + 1, port + _PORTS_TO_TRY) if _is_free(host, each)), 0)
    return (
        f"choose another port: ccproxy-flask serve --port {free or 'N'}, or CCPROXY_PORT="
        f"{free or 'N'}"
    )


def _is_free(host: str, port: int) -> bool:
    try:
        _bind(host, port)
    except (OSError, OverflowError):
        return False
    return True


def _holder(port: int) -> str:
    """Return the program that listens on *port*, empty where the system does not tell us."""
    inodes = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listeners(name, port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = {str(each.readlink()) for each in (process / "fd").iterdir()}
            if links & inodes:
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{re.sub(r'[^ -~]', '?', name)} (process {process.name})"
        except OSError:  # it ended, or is somebody else's
            continue
    return ""


def _listeners(name: str, port: int) -> list[str]:
    try:
        lines = Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    wanted = f":{port:04X}"
    return [row[9] for row in rows if row[1].endswith(wanted) and row[3] == _LISTENS]

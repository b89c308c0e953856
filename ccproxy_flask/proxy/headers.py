"""Which headers are passed on. Pure.

Hop-by-hop headers belong to one connection (RFC 9110 §7.6.1) and are dropped, with those that
``Connection`` names: an offer of HTTP/2, too, which nobody has to take (§7.8). Every other header
is passed on as it came, repeated ones too.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from .. import http1
from ..dialects import KEY_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping

Headers = list[tuple[str, str]]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_REWRITTEN = HOP_BY_HOP | {"host"}
# How long a body is, is not for `Connection` to hide: the next reader would take the body for a
# request, or for an answer, of its own.
_NEVER_HIDDEN = frozenset({"content-length"})


def to_upstream(headers: Headers, named: Mapping[str, str]) -> Headers:
    """Return the end-to-end request *headers* (lower-case names), without ``host``.

    *named* has the same by name.
    """
    dropped = _REWRITTEN
    if "connection" in named:
        dropped |= named_by_connection(headers, named)
    return [pair for pair in headers if pair[0] not in dropped]


def to_client(headers: Headers, named: Mapping[str, str]) -> Headers:
    """Return the end-to-end answer *headers*, their names as the upstream wrote them.

    *named* has the same by lower-case name.
    """
    if HOP_BY_HOP.isdisjoint(named):
        return headers
    dropped = HOP_BY_HOP | named_by_connection(headers, named)
    return [pair for pair in headers if pair[0].lower() not in dropped]


def named_by_connection(headers: Headers, named: Mapping[str, str]) -> frozenset[str]:
    """Return the lower-case names of the headers that ``Connection`` declares hop-by-hop.

    *named* has the first value of each by lower-case name.
    """
    value = ",".join(http1.values_of("connection", headers, named))
    return _names_in(value) if len(value) <= _LONGEST_REMEMBERED else _names_in.__wrapped__(value)


_LONGEST_REMEMBERED = 256


@lru_cache(maxsize=128)
def _names_in(value: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in value.split(",")) - _NEVER_HIDDEN


def first_values(headers: Headers) -> dict[str, str]:
    """Return the first value of each header by lower-case name."""
    # The last pair of a name wins in a dict, so the first one has to come last.
    return {name.lower(): value for name, value in reversed(headers)}


def drop(headers: Headers, name: str) -> None:
    """Take all headers of the lower-case *name* out of *headers*."""
    headers[:] = [pair for pair in headers if pair[0].lower() != name]


def size_of(headers: Headers) -> int:
    """Return the bytes *headers* take on the wire."""
    return 4 * len(headers) + sum(map(len, chain.from_iterable(headers)))


def client_key(headers: Mapping[str, str], query: str) -> str | None:
    """Return the API key the client sent, None where it sent none."""
    for name in KEY_HEADERS:
        if value := headers.get(name):
            return value.removeprefix("Bearer ").strip()
    if "key=" in query:
        for pair in query.split("&"):
            if pair.startswith("key="):
                return pair.removeprefix("key=")
    return None


def wants_websocket(headers: Mapping[str, str]) -> bool:
    """Tell whether a request is the opening of a WebSocket (RFC 6455 §4.1)."""
    return (
        "websocket" in headers.get("upgrade", "").lower()
        and "upgrade" in headers.get("connection", "").lower()
    )

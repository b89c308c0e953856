"""What of headers, queries and texts may be kept: lists of what is allowed, not of what is not."""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode

from .key_shapes import ANY_KEY, IDENTIFIER

if TYPE_CHECKING:
    from collections.abc import Iterable

# Headers whose values say nothing about a secret, by lower-case name.
KEPT_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "anthropic-beta",
        "anthropic-version",
        "cache-control",
        "cf-ray",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "openai-beta",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "server",
        "transfer-encoding",
        "user-agent",
        "vary",
        "x-app",
        "x-client-request-id",
        "x-envoy-upstream-service-time",
        "x-goog-api-client",
        "x-request-id",
        "x-should-retry",
    }
)
_IDENTIFIERS = frozenset(
    {"cf-ray", "request-id", "x-ccproxy-request-id", "x-client-request-id", "x-request-id"}
)
_KEPT_HEADER_PREFIXES = ("x-stainless-", "x-ratelimit-", "anthropic-ratelimit-", "x-ccproxy-")

# Query parameters of the providers' APIs that carry no secret (their API references, 2026-11).
_KEPT_QUERY = frozenset(
    {
        "after",
        "after_id",
        "alt",
        "api-version",
        "before",
        "before_id",
        "beta",
        "client_version",
        "filter",
        "include",
        "include[]",
        "limit",
        "order",
        "pagesize",
        "purpose",
        "starting_after",
        "stream",
        "uploadtype",
    }
)
REDACTED = "***"
_LONGEST_QUERY = 1024

# What a key looks like wherever it stands in a text: the shapes of the table, what follows
# `Bearer`, `key=…`-like pairs, passwords in URLs, and what an API shows of a key with stars in it.
# No part may try one stretch of text twice: a header of 64 KiB has to pass in no time.
_SECRET = re.compile(
    ANY_KEY
    + r"""|(?i:(?:key|token|secret|passw(?:or)?d|authorization|credentials?)[\\"']*\s*[=:]"""
    r"""\s*[\\"']*(?:(?:bearer|basic)\s+)?)[^\s"',;&}\\]{4,}"""
    r"""|(?i:\b(?:bearer|basic)\s+)(?=[^\s"',;}\\]{0,32}[0-9=+/]|[^\s"',;}\\]{20})"""
    r"""[^\s"',;}\\]{4,}"""
    r"""|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"""
    r"""|(?<![\w*\-])[\w\-]{1,64}\*{3,}[\w*\-]{0,64}"""
)
_TOKEN = re.compile(r"[^\s\"'<>&;,=?/]+")
_MOST_QUOTED = 3  # times
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-\[\]]{0,31}")


def kept_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return *headers* with the value of every one that is not known to be harmless hidden."""
    return [(_kept_name(name), _kept_value(name.lower(), value)) for name, value in headers]


def _kept_value(name: str, value: str) -> str:
    if name in _IDENTIFIERS:
        return scrub(value)
    if name in KEPT_HEADERS or name.startswith(_KEPT_HEADER_PREFIXES):
        return _without_random(scrub(value))
    return REDACTED


def kept_query(query: str) -> str | None:
    """Return a raw *query* string with all values hidden but those known to be harmless."""
    if not query:
        return None
    pairs = parse_qsl(query[:_LONGEST_QUERY], keep_blank_values=True)
    shown = [
        (name, _kept_part(value))
        if keeps_parameter(name)
        # A name that has no value is one itself.
        else (_kept_name(name) if value else REDACTED, REDACTED)
        for name, value in pairs
    ]
    return urlencode(shown, safe="*[]", errors="replace") or None


def keeps_parameter(name: str) -> bool:
    """True where the value of the query parameter *name* may be kept."""
    return name.lower() in _KEPT_QUERY


@lru_cache(maxsize=512)
def kept_path(path: str, limit: int = 1024) -> str:
    """Return a raw *path* with each part hidden that is, or may be, a key: also a quoted one.

    Identifiers of the providers' APIs, UUIDs and numbers are kept.
    """
    parts = path[: limit + 512].split("/")
    return shortened("/".join(map(_kept_part, parts)), limit) or ""


@lru_cache(maxsize=512)
def kept_agent(agent: str | None, limit: int = 256) -> str | None:
    """Return the user agent *agent* without what may be a key."""
    if agent is None:
        return None
    return shortened(_without_random(agent[: limit + 512]), limit)


def _without_random(text: str) -> str:
    return _RUN.sub(lambda run: REDACTED if looks_random(run[0]) else run[0], text)


def kept_method(method: str) -> str:
    """Return a *method*: any of HTTP's and its extensions is a word in capitals."""
    return method if _METHOD.fullmatch(method) else REDACTED


@lru_cache(maxsize=2048)
def plain_name(text: str) -> str:
    """Return *text* where it can be the name of a model or of a reason, else that it is hidden.

    A name is at most 200 characters long, without control characters. It has no key of a known
    shape, and nothing that looks random: parts of a name are words, versions and dates.
    """
    if len(text) > _LONGEST_NAME:
        text = text[: _LONGEST_NAME - 1] + "…"
    decoded = unquoted(text)
    is_name = decoded.isprintable() and scrub(decoded) == decoded and not looks_random(decoded)
    return text if is_name else REDACTED


def looks_random(text: str) -> bool:
    """True where *text* has a stretch of letters and digits like that of a key without a shape.

    That is one of over 24 characters, a UUID, or 16 and more in which capitals, small letters and
    digits change places as they do in no word and no version.
    """
    if len(text) < _SHORTEST_RANDOM:
        return False
    if _TOO_LONG.search(text) or _UUID.search(text):
        return True
    if any(_is_mixed(word, _FEWEST_CHANGES) for word in _WORD.findall(text)):
        return True
    # There are keys with dashes; but also `Qwen3-30B-A3B`.
    return any(_is_mixed(run, 2 * _FEWEST_CHANGES) for run in _RUN.findall(text))


def _is_mixed(word: str, fewest: int) -> bool:
    changes = len(_CHANGE.findall(word))
    return changes >= fewest and changes >= _SHARE_OF_CHANGES * len(word)


_LONGEST_NAME = 200
_SHORTEST_RANDOM = 16
_FEWEST_CHANGES = 4
_SHARE_OF_CHANGES = 0.3
_METHOD = re.compile(r"[A-Z][A-Z-]{0,15}")
_WORD = re.compile(r"[A-Za-z0-9]{16,}")
_RUN = re.compile(r"[A-Za-z0-9_\-]{16,}")
_TOO_LONG = re.compile(r"[A-Za-z0-9]{25}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# From a small letter to a capital, between letters and digits; not after the first of a word.
_CHANGE = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")


def _kept_part(text: str) -> str:
    """Return *text*, of a path or a harmless parameter, without what is, or may be, a key."""
    decoded = unquoted(text)
    if IDENTIFIER.fullmatch(decoded):
        return text
    if scrub(decoded) == decoded and not looks_random(decoded):
        return text
    return scrub(text) if decoded == text and not looks_random(text) else REDACTED


def unquoted(text: str) -> str:
    """Return *text* without percent-encoding, also where it was encoded several times."""
    for _ in range(_MOST_QUOTED):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _kept_name(name: str) -> str:
    """Return *name* where it is a name and not, by a client's mistake, a value."""
    is_name = _PLAIN_NAME.fullmatch(name) and not looks_random(name)
    return scrub(name) if is_name else REDACTED


def scrub(text: str) -> str:
    """Return *text* with everything that looks like a key hidden; also what is percent-encoded."""
    shown = _SECRET.sub(REDACTED, text)
    return _TOKEN.sub(_scrub_quoted, shown) if "%" in shown else shown


def _scrub_quoted(token: re.Match[str]) -> str:
    return REDACTED if _is_quoted_key(token[0]) else token[0]


def _is_quoted_key(token: str) -> bool:
    return "%" in token and _SECRET.search(unquoted(token)) is not None


def key_spans(text: str) -> list[tuple[int, int]]:
    """Return where in *text* something looks like a key: (begin, end)."""
    found = [match.span() for match in _SECRET.finditer(text)]
    if "%" in text:
        found += [token.span() for token in _TOKEN.finditer(text) if _is_quoted_key(token[0])]
    return found


@lru_cache(maxsize=512)
def shortened(text: str | None, limit: int) -> str | None:
    """Return *text* without control characters, scrubbed, and at most *limit* characters long."""
    if text is None:
        return None
    # Cut twice: the first bounds the work, and leaves no key cut in half at the second.
    clean = scrub(_CONTROL.sub(" ", text[: limit + 512]))
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@lru_cache(maxsize=256)
def key_id(secret: bytes, key: str) -> str:
    """Return a keyed hash of an API *key*: tells keys apart, says nothing about them."""
    return hmac.new(secret, key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]

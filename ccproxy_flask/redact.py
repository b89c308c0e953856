"""What of headers, queries and texts may be kept: lists of what is allowed, not of what is not."""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

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

# What a key looks like wherever it stands in a text: the providers' prefixes, access keys of
# clouds, JSON web tokens, what follows `Bearer`, `key=…`-like pairs, and passwords in URLs.
# No part may try one stretch of text twice: a header of 64 KiB has to pass in no time.
_SECRET = re.compile(
    r"""
      (?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|pplx|csk|hf|fw|r8|sess|nvapi|glpat|gh[opsu]|github_pat
        |xox[abeprs])[-_][A-Za-z0-9_\-*.]{4,}
    | (?<![A-Za-z0-9])key[-_](?=[A-Za-z_\-*.]{0,24}[0-9])[A-Za-z0-9_\-*.]{4,}
    | (?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{8,}
    | (?<![A-Za-z0-9])AIza[A-Za-z0-9_\-*]{4,}
    | (?<![A-Za-z0-9])ya29\.[A-Za-z0-9_\-.]+
    | (?<![A-Za-z0-9])eyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-.]+)?
    | (?i:(?:key|token|secret|passw(?:or)?d|authorization|credentials?)[\\"']*\s*[=:]\s*[\\"']*
        (?:(?:bearer|basic)\s+)?)[^\s"',;&}\\]{4,}
    | (?i:\b(?:bearer|basic)\s+)(?=[^\s"',;}\\]{0,32}[0-9=+/]|[^\s"',;}\\]{20})[^\s"',;}\\]{4,}
    | (?<=://)[^\s/@:]*:[^\s/@]+(?=@)
    """,
    re.VERBOSE,
)
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-\[\]]{0,31}")


def kept_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return *headers* with the value of every one that is not known to be harmless hidden."""
    return [
        (_kept_name(name), scrub(value) if _keeps(name) else REDACTED) for name, value in headers
    ]


def _keeps(name: str) -> bool:
    lowered = name.lower()
    return lowered in KEPT_HEADERS or lowered.startswith(_KEPT_HEADER_PREFIXES)


def kept_query(query: str) -> str | None:
    """Return a raw *query* string with all values hidden but those known to be harmless."""
    if not query:
        return None
    pairs = parse_qsl(query[:_LONGEST_QUERY], keep_blank_values=True)
    shown = [
        (name, scrub(value)) if keeps_parameter(name) else (_kept_name(name), REDACTED)
        for name, value in pairs
    ]
    return urlencode(shown, safe="*[]", errors="replace") or None


def keeps_parameter(name: str) -> bool:
    """True where the value of the query parameter *name* may be kept."""
    return name.lower() in _KEPT_QUERY


def _kept_name(name: str) -> str:
    """Return *name* where it is a name and not, by a client's mistake, a value."""
    return scrub(name) if _PLAIN_NAME.fullmatch(name) else REDACTED


def scrub(text: str) -> str:
    """Return *text* with everything that looks like a key hidden."""
    return _SECRET.sub(REDACTED, text)


def key_spans(text: str) -> list[tuple[int, int]]:
    """Return where in *text* something looks like a key: (begin, end), in order."""
    return [match.span() for match in _SECRET.finditer(text)]


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

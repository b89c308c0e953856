"""Which provider a request is for, and which of its APIs answers. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Dialect, UnknownRoute
from ..redact import kept_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..settings import Provider, Settings
    from ..usage import WireApi


class Route(NamedTuple):
    """Where a request goes."""

    provider: str
    upstream: Provider
    path: str
    """The raw path at the provider, below its base URL; begins with a slash."""
    endpoint: str
    """The API route as a label, one of a closed set."""
    api: WireApi
    """How the answer is read."""


OTHER = "other"

# What the end of a path means: (pattern, method or None for any, endpoint, wire format).
# The first that fits counts. Lookups of stored answers (GET) are no generations.
_TABLE: tuple[tuple[str, str | None, str, WireApi], ...] = (
    (r"/messages/count_tokens$", None, "/v1/messages/count_tokens", "other"),
    (r"/messages/batches(/.*)?$", None, "/v1/messages/batches", "other"),
    (r"/messages$", "POST", "/v1/messages", "anthropic_messages"),
    (r"/v1/complete$", None, "/v1/complete", "other"),
    (r"/chat/completions$", "POST", "/v1/chat/completions", "openai_chat"),
    (r"/chat/completions(/.*)?$", None, "/v1/chat/completions", "other"),
    (r"/responses/input_tokens$", None, "/v1/responses/input_tokens", "other"),
    (r"/responses(/compact)?$", "POST", "/v1/responses", "openai_responses"),
    (r"/responses(/.*)?$", None, "/v1/responses", "other"),
    (r"/completions$", "POST", "/v1/completions", "openai_completions"),
    (r"/embeddings$", "POST", "/v1/embeddings", "openai_embeddings"),
    (r":generateContent$", "POST", "/v1beta/models:generateContent", "gemini"),
    (r":streamGenerateContent$", "POST", "/v1beta/models:streamGenerateContent", "gemini"),
    (r":countTokens$", None, "/v1beta/models:countTokens", "other"),
    (r":(batchE|e)mbedContents?$", None, "/v1beta/models:embedContent", "other"),
    (r"/api/chat$", "POST", "/api/chat", "ollama"),
    (r"/api/generate$", "POST", "/api/generate", "ollama"),
    (r"/moderations$", None, "/v1/moderations", "other"),
    (r"/audio/(speech|transcriptions|translations)$", None, "/v1/audio", "other"),
    (r"/images(/.*)?$", None, "/v1/images", "other"),
    (r"/files(/.*)?$", None, "/v1/files", "other"),
    (r"/batches(/.*)?$", None, "/v1/batches", "other"),
    (r"/v1beta/models(/[^/:]*)?$", None, "/v1beta/models", "other"),
    (r"/models(/.*)?$", None, "/v1/models", "other"),
)
_ENDPOINTS = tuple(
    (re.compile(pattern), method, endpoint, api) for pattern, method, endpoint, api in _TABLE
)
ENDPOINTS: frozenset[str] = frozenset(row[2] for row in _TABLE) | {OTHER}
"""Every value the column and label ``endpoint`` can have for proxied requests."""

_FALLBACK_API: dict[str, WireApi] = {
    "anthropic_messages": "anthropic_messages",
    "openai": "openai_chat",
    "gemini": "gemini",
    "ollama": "ollama",
}
_ANTHROPIC_PATHS = re.compile(r"/v1/(messages(/.*)?|complete)$")
_SHARED_PATHS = re.compile(r"/v1/(models|files)(/.*)?$")
_GEMINI_CALL = re.compile(r":(generate|streamGenerate|embed|batchEmbed)Contents?$|:countTokens$")
_GOOGLE_HEADERS = frozenset({"x-goog-api-key", "x-goog-api-client"})
_GEMINI_ROOTS = ("/v1beta/", "/v1alpha/", "/upload/")


class Providers:
    """The configured providers, and the table of routes (SPEC §1)."""

    def __init__(self, settings: Settings) -> None:
        self._rows = settings.providers

    def resolve(self, method: str, path: str, headers: Mapping[str, str]) -> Route:
        """Return where a request to the raw *path* goes.

        Raises UnknownRoute where no provider is meant.
        """
        if path.startswith("/api/"):
            path = path.removeprefix("/api")
        name, rest = self._split(path, headers)
        upstream = self._rows[name]
        endpoint, api = classify(method, rest, upstream.api)
        return Route(name, upstream, rest, endpoint, api)

    def _split(self, path: str, headers: Mapping[str, str]) -> tuple[str, str]:
        if path.startswith("/v1/"):
            return self._by_v1_path(path, headers), path
        if path.startswith(_GEMINI_ROOTS):
            return "gemini", path
        first, slash, rest = path[1:].partition("/")
        if first.lower() in self._rows and slash:
            return first.lower(), slash + rest
        names = ", ".join(sorted(self._rows))
        raise UnknownRoute(
            f"no provider is configured for the path {kept_path(path, 200)!r}. Use /v1/…, "
            f"/v1beta/…, or /<provider>/… with one of: {names}"
        )

    def _by_v1_path(self, path: str, headers: Mapping[str, str]) -> str:
        if _ANTHROPIC_PATHS.match(path):
            return "anthropic"
        if not headers.keys().isdisjoint(_GOOGLE_HEADERS) or _GEMINI_CALL.search(path):
            return "gemini"  # google-genai calls /v1/ where its base URL was changed
        shared = _SHARED_PATHS.match(path)
        return "anthropic" if shared and "anthropic-version" in headers else "openai"


@lru_cache(maxsize=1024)
def classify(method: str, path: str, configured: str = "auto") -> tuple[str, WireApi]:
    """Return the endpoint label and the wire format of a provider's *path*."""
    for pattern, wanted, endpoint, api in _ENDPOINTS:
        if (wanted is None or wanted == method) and pattern.search(path):
            return endpoint, api
    if method == "POST" and configured in _FALLBACK_API:
        return OTHER, _FALLBACK_API[configured]
    return OTHER, "other"


def dialect_of(path: str, headers: Mapping[str, str]) -> Dialect:
    """Return whose error shape the client of a request to *path* understands."""
    if "anthropic-version" in headers or "/messages" in path:
        return "anthropic"
    google = not headers.keys().isdisjoint(_GOOGLE_HEADERS) or _GEMINI_CALL.search(path)
    if google or any(root in f"{path}/" for root in _GEMINI_ROOTS):
        return "openai" if "/openai/" in path else "gemini"
    return "openai"

"""The wire formats, one file each with everything that is known of it. Pure.

A new one is one file with one :class:`Dialect`, and one line in :data:`DIALECTS` (CONTRIBUTING.md
goes through it).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from . import (
    anthropic,
    gemini,
    ollama,
    openai,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)
from .base import Dialect, Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..usage.request_class import RequestClass

__all__ = [
    "BY_NAME",
    "BY_SETTING",
    "CLASSES",
    "DIALECTS",
    "ENDPOINTS",
    "KEY_HEADERS",
    "OTHER",
    "Dialect",
    "Endpoint",
    "Meaning",
    "claimed_by",
    "meaning_of",
]

DIALECTS: tuple[Dialect, ...] = (
    anthropic.DIALECT,
    gemini.DIALECT,
    ollama.DIALECT,
    openai_chat.DIALECT,
    openai_responses.DIALECT,
    openai_completions.DIALECT,
    openai_embeddings.DIALECT,
    openai.DIALECT,  # the last one: what is nobody else's
)
_LAST = DIALECTS[-1]

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
BY_SETTING = {dialect.setting: dialect for dialect in DIALECTS if dialect.setting}
"""By what ``PROVIDERS__<NAME>__API`` can say, beside ``auto``."""

OTHER = "other"
ENDPOINTS: frozenset[str] = frozenset(
    {endpoint.name for dialect in DIALECTS for endpoint in dialect.endpoints} | {OTHER}
)
"""Every value the column and label ``endpoint`` can have for proxied requests."""

CLASSES: dict[str, RequestClass] = {
    endpoint.name: endpoint.of
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
    if endpoint.of is not None
}
"""What requests to an endpoint are for, by its label, where that is always the same."""

KEY_HEADERS = tuple(
    dict.fromkeys(
        ["authorization", *(name for dialect in DIALECTS for name in dialect.key_headers)]
    )
)
"""Where clients put their keys; the first one that is there counts."""

_TABLE = tuple(
    (re.compile(endpoint.pattern + "$"), endpoint, dialect)
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
)
_SPEAKING = tuple(each for each in DIALECTS if each.speaks is not _LAST.speaks)
_CLAIMING = tuple(dialect for dialect in DIALECTS if dialect.provider)


class Meaning(NamedTuple):
    """What a request means: in which wire format it is, at which endpoint."""

    dialect: Dialect
    endpoint: str
    """The label, one of :data:`ENDPOINTS`."""
    generates: bool
    """A model answers."""


def meaning_of(
    method: str, path: str, headers: Mapping[str, str], setting: str = "auto"
) -> Meaning:
    """Return what a request to the raw *path* means.

    *setting* is how the provider was configured: it counts where the path says nothing.
    """
    found = _matched(method, path)
    configured = BY_SETTING.get(setting)
    if found is not None and found.generates:
        return found
    endpoint = OTHER if found is None else found.endpoint
    if found is None and method == "POST" and configured is not None:
        return Meaning(configured, endpoint, True)
    for dialect in _SPEAKING:
        if dialect.speaks(path, headers):
            return Meaning(dialect, endpoint, False)
    if found is not None and found.dialect is not _LAST:
        return found
    return Meaning(configured or _LAST, endpoint, False)


@lru_cache(maxsize=1024)
def _matched(method: str, path: str) -> Meaning | None:
    for pattern, endpoint, dialect in _TABLE:
        if endpoint.method in (None, method) and pattern.search(path):
            return Meaning(dialect, endpoint.name, endpoint.generates)
    return None


def claimed_by(path: str, headers: Mapping[str, str]) -> str | None:
    """Return the provider that a request is meant for which names none; None for none."""
    for dialect in _CLAIMING:
        if dialect.claims(path, headers):
            return dialect.provider
    return None

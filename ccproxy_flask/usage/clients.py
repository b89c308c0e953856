"""Which program sent a request, by what it says of itself. Pure.

Seen on the wire, and in the sources of the clients (2026-11). A client that is not in the table has
the name that its user agent begins with (RFC 9110 §10.1.5).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..redact import plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION = r"[/ ]v?(?P<version>\d[\w.+\-]{0,31})?"


class Client(NamedTuple):
    """A program and its version, None where it does not say."""

    name: str | None = None
    version: str | None = None


# What the user agent of a client begins with; the first line that fits counts. `{word}` in a name
# is what the pattern found under it.
_AGENTS: tuple[tuple[str, str], ...] = (
    (r"claude-cli" + _VERSION, "claude-code"),
    (r"codex[\w\-]*" + _VERSION, "codex"),  # codex_cli_rs, codex_exec, codex_vscode, codex-tui
    (r"opencode" + _VERSION, "opencode"),
    (r"GeminiCLI[\w\-]*" + _VERSION, "gemini-cli"),
    (r"aider(?:-chat)?" + _VERSION, "aider"),
    (r"google-genai-sdk" + _VERSION, "google-genai"),
    (
        r"(?:Async)?(?:Azure)?(?P<vendor>OpenAI|Anthropic)(?:Bedrock|Vertex|Foundry)?"
        r"/(?P<language>[A-Za-z]{1,16})" + _VERSION,
        "{vendor}-sdk-{language}",
    ),
    (r"Mozilla/", "browser"),
)
_LANGUAGES = {"js": "typescript"}
# Headers that only one client sends, where the user agent does not name it: libraries and
# settings can replace that. Name, what its value begins with, client.
_HEADERS: tuple[tuple[str, str, str], ...] = (
    ("x-claude-code-session-id", "", "claude-code"),
    ("originator", "codex", "codex"),
    ("x-title", "Aider", "aider"),
    ("http-referer", "https://aider.chat", "aider"),
)
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), name) for pattern, name in _AGENTS)
_PRODUCT = re.compile(r"([!#$%&'*+\-.^_`|~\w]{1,64})(?:" + _VERSION + r")?", re.ASCII)


def client_of(headers: Mapping[str, str]) -> Client:
    """Return who sent a request with these *headers* (by lower-case name)."""
    agent = headers.get("user-agent", "")[:512]
    named = _by_agent(agent)
    if named is not None:
        return named
    for header, beginning, name in _HEADERS:
        value = headers.get(header)
        if value is not None and value.startswith(beginning):
            return Client(name)
    return _by_product(agent)


@lru_cache(maxsize=512)
def _by_agent(agent: str) -> Client | None:
    for pattern, name in _PATTERNS:
        if found := pattern.match(agent):
            words = {key: (value or "").lower() for key, value in found.groupdict().items()}
            words["language"] = _LANGUAGES.get(words.get("language", ""), words.get("language", ""))
            return Client(name.format(**words), _kept(found.groupdict().get("version")))
    return None


@lru_cache(maxsize=512)
def _by_product(agent: str) -> Client:
    found = _PRODUCT.match(agent)
    if found is None:
        return Client()
    return Client(plain_name(found[1]), _kept(found["version"]))


def _kept(version: str | None) -> str | None:
    return plain_name(version) if version else None

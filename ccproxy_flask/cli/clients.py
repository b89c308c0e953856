"""What a client is started with, so that it uses the proxy, and does all it does without. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ccproxy_flask.banner import CLAUDE_CODE, Variable
from ccproxy_flask.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# What the clients' SDKs read (their READMEs, 2026-11); `{url}` is the proxy.
_BASE_URLS = (
    Variable(
        "ANTHROPIC_BASE_URL",
        "{url}",
        "Claude Code and Anthropic's SDKs send their requests to the proxy.",
        "https://code.claude.com/docs/en/llm-gateway",
    ),
    Variable(
        "OPENAI_BASE_URL",
        "{url}/v1",
        "OpenAI's SDKs send their requests to the proxy.",
        "https://github.com/openai/openai-python",
    ),
    Variable(
        "GOOGLE_GEMINI_BASE_URL",
        "{url}",
        "Google's SDKs and Gemini CLI send their requests to the proxy.",
        "https://github.com/googleapis/python-genai",
    ),
)
_CODEX = "https://developers.openai.com/codex/config-reference"


class Client:
    """*command*, to be started from *environ*, with the proxy at *url*.

    *plain*: nothing but where the proxy is.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], url: str, *, plain: bool = False
    ) -> None:
        self._command, self._environ, self._url = command, environ, url
        self._further = () if plain else CLAUDE_CODE

    def argv(self) -> list[str]:
        """Return the command as it has to be to use the proxy."""
        program, *rest = self._command
        if self._is_codex():  # takes it from its configuration alone
            return [program, "-c", f'openai_base_url="{self._url}/v1"', *rest]
        return [program, *rest]

    def environment(self) -> dict[str, str]:
        """Return the environment; what is set already stays, but for the base URLs."""
        found = {each.name: each.value for each in self._further} | dict(self._environ)
        found |= {each.name: each.value.format(url=self._url) for each in _BASE_URLS}
        host = urlsplit(self._url).hostname or ""
        if is_loopback(host):
            # A client that goes out through a proxy of its own must not look for ours there.
            for name in ("NO_PROXY", "no_proxy"):
                direct = [*filter(None, self._environ.get(name, "").split(",")), host]
                found[name] = ",".join(dict.fromkeys(direct))
        return found

    def explained(self) -> str:
        """Return what is set, why, and by which documentation, for people."""
        return "".join(f"{line}\n" for line in self._explanations())

    def _explanations(self) -> Iterator[str]:
        found = self.environment()
        for each in (*_BASE_URLS, *self._further):
            is_kept = each in self._further and each.name in self._environ
            value = shlex.quote(found[each.name])
            yield f"{each.name}={value}" + (" (yours, left as it is)" if is_kept else "")
            yield f"    {each.why}"
            yield f"    {each.source}"
        if "NO_PROXY" in found and is_loopback(urlsplit(self._url).hostname or ""):
            yield f"NO_PROXY={shlex.quote(found['NO_PROXY'])}"
            yield "    A proxy that the client goes out through is not asked for this machine."
        if self._is_codex():
            yield shlex.join(self.argv())
            yield "    Codex takes its base URL from its configuration, not from the environment."
            yield f"    {_CODEX}"

    def _is_codex(self) -> bool:
        return Path(self._command[0]).name == "codex"

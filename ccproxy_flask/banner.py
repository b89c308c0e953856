"""What is said when the server is up: where it is, and the one line each client needs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .settings import Settings

# The client, and what it is told; `{url}` is the address of the proxy
# (Claude Code "LLM gateways", Codex "config.toml", the SDKs' READMEs; 2026-11).
CLIENTS: tuple[tuple[str, str], ...] = (
    ("Claude Code", "ANTHROPIC_BASE_URL={url} claude"),
    ("Codex", """codex -c 'openai_base_url="{url}/v1"'"""),
    ("OpenAI SDK", 'OpenAI(base_url="{url}/v1")'),
    ("Anthropic SDK", 'Anthropic(base_url="{url}")'),
    ("Gemini SDK", 'genai.Client(http_options={{"base_url": "{url}"}})'),
    ("curl", 'curl {url}/v1/models -H "Authorization: Bearer $OPENAI_API_KEY"'),
)
_ANY_ADDRESS = {"http://0.0.0.0:": "http://127.0.0.1:", "http://[::]:": "http://[::1]:"}


def banner(settings: Settings, addresses: Sequence[str]) -> str:
    """Return the lines to print once the server listens on *addresses*.

    *addresses* are URLs (``http://127.0.0.1:8000``) or ``unix:`` paths, the first of which the
    clients are told. Nothing secret is in the text.
    """
    url = reachable(addresses[0])
    widest = max(len(client) for client, _ in CLIENTS)
    lines = [
        f"ccproxy listens on {', '.join(addresses)}",
        "",
        *(f"  {client:<{widest}}  {line.format(url=url)}" for client, line in CLIENTS),
        f"  {'others':<{widest}}  {url}/<provider>/...  with {_listed(settings)}",
        "",
        *(f"  {name:<{widest}}  {where}" for name, where in _pages(settings, url)),
    ]
    return "\n".join(lines) + "\n"


def reachable(address: str) -> str:
    """Return the URL at which clients of this machine find what listens on *address*."""
    for any_address, own in _ANY_ADDRESS.items():
        if address.startswith(any_address):
            return own + address.removeprefix(any_address)
    return address


def _listed(settings: Settings) -> str:
    return " ".join(sorted(settings.providers))


def _pages(settings: Settings, url: str) -> Iterator[tuple[str, str]]:
    shown = settings.observability
    if shown.dashboard_enabled:
        yield "Dashboard", f"{url}/dashboard"
    if shown.logs_endpoints_enabled:
        yield "Requests", f"{url}/logs/entries"
    if shown.metrics_endpoint_enabled:
        yield "Metrics", f"{url}/metrics"
    yield "Records", str(settings.duckdb_path) if settings.recording else "are not kept"

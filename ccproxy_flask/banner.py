"""What is said when the server is up: where it is, and the one line each client needs. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .settings import Settings


class Variable(NamedTuple):
    """A variable that a client is given, why, and where its documentation says so."""

    name: str
    value: str
    why: str
    source: str


_VARIABLES = "https://code.claude.com/docs/en/env-vars"
# What Claude Code does by default, but not where its base URL is not Anthropic's, because a gateway
# could stumble over it. Ours passes everything on (Claude Code 2.1.273; 2026-11).
CLAUDE_CODE = (
    Variable(
        "ENABLE_TOOL_SEARCH",
        "true",
        "Load the definitions of MCP tools when they are needed, instead of all with each request.",
        _VARIABLES,
    ),
    Variable(
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS",
        "1",
        "Say what each request is for: the main loop, a subagent, a compaction, something else.",
        "https://code.claude.com/docs/en/llm-gateway-protocol",
    ),
    Variable(
        "CLAUDE_CODE_PROPAGATE_TRACEPARENT",
        "1",
        "Send the trace that a request belongs to, where tracing is on.",
        "https://code.claude.com/docs/en/monitoring-usage",
    ),
    Variable(
        "CLAUDE_CODE_ENABLE_FINE_GRAINED_TOOL_STREAMING",
        "1",
        "Stream the input of tools as it is made, instead of waiting for all of it.",
        _VARIABLES,
    ),
)
# The client, and what it is told; `{url}` is the address of the proxy
# (Claude Code "LLM gateways", Codex "config.toml", the SDKs' READMEs; 2026-11).
CLIENTS: tuple[tuple[str, str], ...] = (
    (
        "Claude Code",
        " ".join(
            ["ANTHROPIC_BASE_URL={url}", *(f"{each.name}={each.value}" for each in CLAUDE_CODE)]
        )
        + " claude",
    ),
    ("Codex", """codex -c 'openai_base_url="{url}/v1"'"""),
    ("OpenAI SDK", 'OpenAI(base_url="{url}/v1")'),
    ("Anthropic SDK", 'Anthropic(base_url="{url}")'),
    ("Gemini SDK", 'genai.Client(http_options={{"base_url": "{url}"}})'),
    ("curl", 'curl {url}/v1/models -H "Authorization: Bearer $OPENAI_API_KEY"'),
)
_WIDTH = 100
_NOT_KEPT = "are not kept: OBSERVABILITY__LOGS_COLLECTION_ENABLED is off"
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
        *(
            f"  {client:<{widest}}  {_wrapped(line.format(url=url), widest + 4)}"
            for client, line in CLIENTS
        ),
        f"  {'others':<{widest}}  {url}/<provider>/...  where <provider> is one of",
        textwrap.fill(
            " ".join(sorted(settings.providers)),
            _WIDTH,
            initial_indent=" " * (widest + 4),
            subsequent_indent=" " * (widest + 4),
        ),
        "",
        *(f"  {name:<{widest}}  {where}" for name, where in _pages(settings, url)),
    ]
    return "\n".join(lines) + "\n"


def _wrapped(command: str, indent: int) -> str:
    """Return *command* in lines that fit a window, and still are one command for a shell."""
    lines = [""]
    for word in command.split(" ") if len(command) + indent > _WIDTH else [command]:
        if lines[-1] and len(lines[-1]) + len(word) + indent + 3 > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return f" \\\n{' ' * indent}".join(lines)


def reachable(address: str) -> str:
    """Return the URL at which clients of this machine find what listens on *address*."""
    for any_address, own in _ANY_ADDRESS.items():
        if address.startswith(any_address):
            return own + address.removeprefix(any_address)
    return address


def _pages(settings: Settings, url: str) -> Iterator[tuple[str, str]]:
    shown = settings.observability
    if shown.dashboard_enabled:
        yield "Dashboard", f"{url}/dashboard"
    if shown.logs_endpoints_enabled:
        yield "Requests", f"{url}/logs/entries"
    if shown.metrics_endpoint_enabled:
        yield "Metrics", f"{url}/metrics"
    yield "Records", settings.records_place if settings.recording else _NOT_KEPT
    if settings.capturing:
        days = f"{settings.capture.retention_days:g} days"
        yield "Content", f"{settings.content_directory} ({days}; off: CAPTURE__CONTENT=off)"

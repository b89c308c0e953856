"""What a context is made of, and how a session began. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]
BUILT_IN = ""
"""In the place of an MCP server: tools that are of none."""
# A picture takes tokens by its size in pixels, at most some 1,600 (Anthropic "Vision", OpenAI
# "Images and vision"; 2026-11), whatever its bytes: so much text takes as many.
_MEDIA_BYTES = 6000
_FIRST_WORDS = 160
# What clients put before the words of the person: reminders, instructions, the environment
# (Claude Code 2.1, Codex 0.144; 2026-11).
_NOT_SAID = ("<", "# AGENTS.md", "Caveat: The messages below")
_KINDS = {"thinking": "thinking", "tool_result": "tool_results"}
MEDIA = "media"
_MEDIA_TYPES = ("image", "document")


def context_of(conversation: Json) -> Json:
    """Return the bytes of each part of a *conversation*: ``{"system", "messages", "tool_results",
    "thinking", "media", "tools": {<MCP server>: bytes}}``.

    The tools of a server are those that are called ``mcp__<server>__<tool>``.
    """
    found: Json = dict.fromkeys(("system", "messages", "tool_results", "thinking", "media"), 0)
    tools: dict[str, int] = {}
    for tool in conversation["tools"]:
        server = server_of(tool["name"])
        tools[server] = tools.get(server, 0) + tool["bytes"]
    found["system"] = sum(map(size_of, conversation["system"]))
    for message in conversation["messages"]:
        for block in message["blocks"]:
            found[kind_of(block)] += size_of(block)
    return found | {"tools": tools}


def server_of(tool: str) -> str:
    """Return the MCP server of a *tool*."""
    head, _, rest = tool.partition("__")
    server, mark, _ = rest.partition("__")
    return server[:64] if head == "mcp" and mark else BUILT_IN


def kind_of(block: Json) -> str:
    """Return which part of a context a *block* of a message counts for."""
    return MEDIA if block["type"] in _MEDIA_TYPES else _KINDS.get(block["type"], "messages")


def size_of(block: Json) -> int:
    """Return the bytes that a *block* counts for."""
    if block["type"] in _MEDIA_TYPES:
        return min(block.get("bytes") or _MEDIA_BYTES, _MEDIA_BYTES)
    given = block.get("input")
    size = len(orjson.dumps(given)) if given is not None else 0
    return size + len((block.get("text") or "").encode("utf-8", "replace"))


def shared_out(tokens: int | None, context: Mapping[str, Any] | None) -> Json | None:
    """Return a *context* in tokens: the provider's own count, shared out by bytes.

    Whole numbers that add up to *tokens*; None where one of both is not known.
    """
    if tokens is None or context is None:
        return None
    tools = {f"tools:{server}": size for server, size in context["tools"].items()}
    sizes = {name: size for name, size in context.items() if name != "tools"} | tools
    whole = sum(sizes.values())
    shares, spent, seen = {}, 0, 0
    for name, size in sizes.items():
        seen += size
        upto = tokens * seen // whole if whole else 0
        shares[name], spent = upto - spent, upto
    return {
        **{name: share for name, share in shares.items() if not name.startswith("tools:")},
        "tools": {
            name.removeprefix("tools:"): share
            for name, share in shares.items()
            if name.startswith("tools:")
        },
    }


def first_words(conversation: Json) -> str | None:
    """Return how the person began a *conversation*, without what the client put before it."""
    for message in conversation["messages"]:
        if message["role"] == "user":
            for block in message["blocks"]:
                text = (block.get("text") or "").strip()
                if block["type"] == "text" and text and not text.startswith(_NOT_SAID):
                    shown = " ".join(text[: 4 * _FIRST_WORDS].split())
                    return shown if len(shown) <= _FIRST_WORDS else shown[: _FIRST_WORDS - 1] + "…"
    return None

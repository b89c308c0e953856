"""The words of verdicts and rents, each of a closed list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Section = Literal["tools", "system", "messages"]
SECTIONS: tuple[Section, ...] = get_args(Section)
"""What a prompt is made of, in the order in which it is cached."""
KINDS = ("tools", "system", "messages", "tool_results", "thinking", "media")
"""What rents are summed up by."""
SettingCause = Literal[
    "model", "beta_headers", "effort", "speed", "search", "citations", "tool_choice", "thinking",
    "images", "service_tier", "cache_key", "response_format", "cached_content",
]  # fmt: skip
"""A setting changed."""
PartCause = Literal["tools", "system", "messages"]
"""A part of the prompt changed."""
OtherCause = Literal[
    "ttl",  # its time to live had passed
    "below_minimum",  # the prompt is too short to be cached
    "no_breakpoint",  # nothing is marked to be cached
    "beyond_look_back",  # what was kept is too many blocks before the breakpoint
    "context_edited",  # the provider took something out, as the client asked it to
    "provider",  # the prompt begins as the one before, in time: the provider's side
    "unknown",  # without content nobody can tell
]
Excuse = Literal[
    "first_turn",  # there was nothing before
    "compaction",  # the conversation was summarised, or cut to less than half
]
"""Nothing could have been read: no miss."""
Cause = Literal[PartCause, SettingCause, OtherCause, Excuse]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Why less was read from a cache than could have been, or why nothing could."""
_WORDS: dict[Cause, str] = {
    "ttl": "time to live passed",
    "below_minimum": "prompt too short",
    "no_breakpoint": "no breakpoint",
    "beyond_look_back": "beyond the look-back",
    "provider": "the provider's side",
    "unknown": "unknown without content",
}


def in_words(cause: Cause) -> str:
    """Return a *cause* as people say it."""
    return _WORDS.get(cause, cause.replace("_", " "))


def place_of(changed: Mapping[str, Any] | None) -> str:
    """Return what *changed*, the member of a verdict, as people say it; "" for nothing."""
    if changed is None:
        return ""
    if changed["index"] is None:
        return str(changed["name"])
    number = changed["index"] + 1
    places = {"tools": changed["name"], "system": f"block {number}"}
    return f"{places.get(changed['section'], f'message {number}')} {changed['change']}"

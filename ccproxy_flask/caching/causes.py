"""The words of verdicts and rents, each of a closed list."""

from __future__ import annotations

from typing import Literal, get_args

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

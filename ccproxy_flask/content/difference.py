"""What changed from one request to the next, in the order in which providers cache. Pure.

Providers render tools, then system, then messages, and reuse the longest prefix that is the same
(Anthropic's documentation of prompt caching, 2026-11). So the first part that differs is what
ends the reuse; what was only appended does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from .conversation import as_request_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

# Markers of caching and of billing move from turn to turn, and are no part of what is cached.
_MOVING_MEMBERS = frozenset({"cache_control", "prompt_cache_breakpoint"})
_MOVING_BLOCK = "x-anthropic-billing-header"
_LONGEST_SHOWN = 2_000
_SETTINGS_LEFT_OUT = frozenset(
    {"metadata", "stream", "stream_options", "user", "safety_identifier"}
)


def difference(api: str, before: object, after: object) -> Json:
    """Return how the request *after* differs from *before*; both are documents of JSON.

    ``same_prefix`` (bool), ``first`` (PART or None), ``parts``, ``settings`` ({NAME: [old, new]}).
    A PART has ``section`` (tools, system, messages), ``index``, ``change`` (added, removed,
    changed, appended), ``name``, and ``before`` and ``after``: the beginning of each as JSON.
    ``first`` is the first one that is not an append: what ended the common prefix.
    """
    old, new = as_request_parts(api, before), as_request_parts(api, after)
    parts = [
        part
        for section in ("tools", "system", "messages")
        for part in _section(section, old[section], new[section])
    ]
    first = next((part for part in parts if part["change"] != "appended"), None)
    return {
        "same_prefix": first is None,
        "first": first,
        "parts": parts,
        "settings": _settings(old["settings"], new["settings"]),
    }


def _section(section: str, before: Sequence[Any], after: Sequence[Any]) -> list[Json]:
    """Return the parts of a *section* that differ, by their places."""
    old, new = _canonical(before), _canonical(after)
    if section == "tools":
        return _named(before, after, old, new)
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    if same is None:
        same = min(len(old), len(new))
    found = []
    for index in range(same, max(len(old), len(new))):
        was = old[index] if index < len(old) else None
        now = new[index] if index < len(new) else None
        if was == now:
            continue
        is_append = was is None and same == len(old) and section == "messages"
        change = "appended" if is_append else _change(was, now)
        found.append(_part(section, index, change, _role(after, before, index), was, now))
    return found


def _named(
    before: Sequence[Any], after: Sequence[Any], old: Sequence[bytes], new: Sequence[bytes]
) -> list[Json]:
    """Return the tools that differ, by name; one that only moved is ``moved``."""
    was = {name_of_tool(tool, index): (index, old[index]) for index, tool in enumerate(before)}
    now = {name_of_tool(tool, index): (index, new[index]) for index, tool in enumerate(after)}
    found = []
    for name, (index, text) in now.items():
        if name not in was:
            found.append(_part("tools", index, "added", name, None, text))
        elif was[name][1] != text:
            found.append(_part("tools", index, "changed", name, was[name][1], text))
    for name, (index, text) in was.items():
        if name not in now:
            found.append(_part("tools", index, "removed", name, text, None))
    order = [name for name in was if name in now]
    if not found and order != [name for name in now if name in was]:
        moved = next(a for a, b in zip(order, now, strict=False) if a != b)
        found.append(_part("tools", was[moved][0], "moved", moved, None, None))
    return sorted(found, key=lambda part: part["index"])


def _settings(before: Json, after: Json) -> dict[str, list[Any]]:
    names = sorted((before.keys() | after.keys()) - _SETTINGS_LEFT_OUT)
    return {
        name: [before.get(name), after.get(name)]
        for name in names
        if before.get(name) != after.get(name)
    }


def _change(was: bytes | None, now: bytes | None) -> str:
    if was is None:
        return "added"
    return "removed" if now is None else "changed"


def _part(
    section: str, index: int, change: str, name: str, was: bytes | None, now: bytes | None
) -> Json:
    at = _first_difference(was or b"", now or b"")
    return {
        "section": section,
        "index": index,
        "change": change,
        "name": name,
        "before": _shown(was, at),
        "after": _shown(now, at),
    }


def _shown(text: bytes | None, at: int) -> str | None:
    """Return *text* from a little before the place *at* on."""
    if text is None:
        return None
    begin = max(0, at - 80)
    shown = text[begin : begin + _LONGEST_SHOWN].decode("utf-8", "replace")
    return ("…" if begin else "") + shown + ("…" if begin + _LONGEST_SHOWN < len(text) else "")


def _first_difference(was: bytes, now: bytes) -> int:
    low, high = 0, min(len(was), len(now))
    while low < high:
        middle = (low + high + 1) // 2
        if was[:middle] == now[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _canonical(parts: Sequence[Any]) -> list[bytes]:
    return [
        orjson.dumps(without_marks(part), option=orjson.OPT_SORT_KEYS)
        for part in parts
        if not is_moving(part)
    ]


def is_moving(part: Any) -> bool:
    """Tell whether *part* is a block that moves from turn to turn, and is not cached."""
    text = part.get("text") if isinstance(part, dict) else None
    return isinstance(text, str) and text.startswith(_MOVING_BLOCK)


def without_marks(value: Any) -> Any:
    """Return *value* without the marks of caching, which move from turn to turn."""
    if isinstance(value, dict):
        return {
            name: without_marks(each) for name, each in value.items() if name not in _MOVING_MEMBERS
        }
    return [without_marks(each) for each in value] if isinstance(value, list) else value


def name_of_tool(tool: Any, index: int) -> str:
    """Return what a *tool* is called; its place, where it has no name."""
    tool = tool if isinstance(tool, dict) else {}
    inner = tool.get("function") if isinstance(tool.get("function"), dict) else tool
    return str(inner.get("name") or tool.get("type") or index)


def _role(after: Sequence[Any], before: Sequence[Any], index: int) -> str:
    part = after[index] if index < len(after) else before[index]
    return str(part.get("role") or part.get("type") or "") if isinstance(part, dict) else ""

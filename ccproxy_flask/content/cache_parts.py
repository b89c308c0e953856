"""What of a request a provider's cache looks at: its parts, in the order in which they are cached.

Providers reuse the longest beginning that is the same: tools, then system, then messages. A part
is a tool, a block of the system prompt or of a message, or a message where its blocks belong
together. Equal parts are the same for a cache: marks of caching may move. Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ccproxy_flask.dialects.said import SYSTEM_ROLES

from .context import MEDIA, kind_of, size_of
from .conversation import as_request_parts, parsed_request, said_in
from .difference import is_moving, name_of_tool, without_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Json = dict[str, Any]
# Tools that are switches: they change the system prompt (Anthropic, "Prompt caching", What
# invalidates the cache, 2026-11).
_SWITCH = "web_search_"
_LONGEST_VALUE = 64
_LEFT_OUT = frozenset(
    {"metadata", "stream", "stream_options", "user", "safety_identifier", "diagnostics"}
)
_MARKS = ("cache_control", "prompt_cache_breakpoint")


class PromptPart(NamedTuple):
    """One part. Equal *hash*: the same for a cache."""

    hash: bytes
    section: str
    """``tools``, ``system`` or ``messages``."""
    kind: str
    """What :mod:`.context` counts it as; ``tools`` for all of them."""
    name: str
    """Of the tool that it defines or is a result of; of other parts their role."""
    size: int
    """Bytes, as :mod:`.context` counts them."""
    begins: bool
    """A tool, a block of system, or a message begins with it."""


@dataclass(slots=True)
class Prompt:
    """The *parts* of a request, and what else decides on its cache.

    *settings* are the members of the request that are no parts, one level deep, long values as a
    hash; and ``beta_headers``, ``web_search``, ``citations``, ``media``. *marks* are the
    breakpoints: [index of the part, time to live or ``""``].
    """

    parts: Sequence[PromptPart] = ()
    settings: Json = field(default_factory=dict)
    marks: Sequence[Sequence[Any]] = ()


def prompt_of(api: str, document: object, headers: Iterable[Sequence[str]] = ()) -> Prompt:
    """Return what a cache looks at in the request *document* of the wire format *api*."""
    sent = as_request_parts(api, document)
    found = [*_tools(sent["tools"]), *_system(api, sent["system"])]
    found += _messages(api, sent["messages"])
    marks = [[index, ttl] for index, (_, ttl) in enumerate(found) if ttl is not None]
    if found and (ttl := _mark(sent["settings"])) is not None:  # on the last part
        marks.append([len(found) - 1, ttl])
    parts = [part for part, _ in found]
    settings = _flat(sent["settings"]) | _switches(sent, parts, headers)
    return Prompt(parts, settings, marks)


def member_of(parts: Sequence[PromptPart], index: int) -> int:
    """Return which tool, block of system or message of a request the part at *index* belongs to."""
    section = parts[index].section
    return sum(part.begins for part in parts[: index + 1] if part.section == section) - 1


def begins_with(new: Sequence[PromptPart], old: Sequence[PromptPart]) -> bool:
    """Tell whether *new* begins with all of *old*. Mostly they share objects: fast."""
    return list(new[: len(old)]) == list(old)


def hash_of(value: object) -> bytes:
    """Return the hash by which parts are compared."""
    return hashlib.blake2b(orjson.dumps(value), digest_size=12).digest()


# -- parts -----------------------------------------------------------------------------------------

_Marked = tuple[PromptPart, "str | None"]


def _tools(tools: Sequence[Any]) -> Iterator[_Marked]:
    for index, tool in enumerate(_declared(tools)):
        # A tool that is found by search comes later, and then among the messages.
        if not tool.get("defer_loading") and not _is_switch(tool):
            size = len(orjson.dumps(without_marks(tool)))
            yield _part("tools", "tools", name_of_tool(tool, index), size, True, tool)


def _declared(tools: Sequence[Any]) -> Iterator[Json]:
    for tool in tools:
        if isinstance(tool, dict):
            group = tool.get("functionDeclarations") or tool.get("function_declarations")
            yield from (each for each in group or [tool] if isinstance(each, dict))


def _system(api: str, system: Sequence[Any]) -> Iterator[_Marked]:
    inner = said_in(api).blocks
    found = (one.get(inner, one) if isinstance(one, dict) else one for one in system)
    blocks = [raw for one in found for raw in _as_blocks(one)]
    for raw in blocks:
        if not is_moving(raw):
            size = sum(map(size_of, _parsed({"messages": [{"role": "user", "content": [raw]}]})))
            yield _part("system", "system", "system", size, True, raw)


def _messages(api: str, messages: Sequence[Any]) -> Iterator[_Marked]:
    names: Json = {}
    is_system = True
    for message in messages:
        role = str(message.get("role") or "user") if isinstance(message, dict) else "user"
        is_system = is_system and role in SYSTEM_ROLES
        for number, (raw, alone) in enumerate(_members(api, role, message)):
            blocks = _parsed(alone, api)
            names |= {str(b["id"]): b["name"] for b in blocks if b["type"] == "tool_use"}
            largest = max(blocks, key=size_of, default={"type": "text"})
            kind = "system" if is_system else kind_of(largest)
            tool = str(largest.get("id") or "")
            name = names.get(tool, tool) if kind == "tool_results" else role
            section = "system" if is_system else "messages"
            yield _part(section, kind, name, sum(map(size_of, blocks)), number == 0, raw, role)


def _members(api: str, role: str, message: Any) -> Iterator[tuple[Any, Json]]:
    """Give the parts of a message, each also as the only one of a request."""
    said = said_in(api)
    if said.blocks is None or not isinstance(message, dict):
        alone = message if isinstance(message, str) else [message]
        yield _as_message(message), {said.messages: alone}
        return
    for raw in _as_blocks(message.get(said.blocks)):
        yield raw, {said.messages: [{"role": role, said.blocks: [raw]}]}


def _part(
    section: str, kind: str, name: str, size: int, begins: bool, raw: Any, role: str = ""
) -> _Marked:
    same = without_marks(raw)
    if isinstance(same, dict):  # the order of its own members is the client's, and is not rendered
        same = dict(sorted(same.items()))
    digest = hash_of([section, role, begins, same])
    return PromptPart(digest, section, kind, name[:64], size, begins), _mark(raw)


def _parsed(document: Json, api: str = "anthropic_messages") -> list[Json]:
    found = parsed_request(api, document)
    blocks: list[Json] = [*found["system"]]
    return blocks + [block for message in found["messages"] for block in message["blocks"]]


def _as_blocks(content: Any) -> list[Any]:
    """Return a *content* as the list that a text stands for."""
    if content is None or content == "":
        return []
    return [_as_block(each) for each in (content if isinstance(content, list) else [content])]


def _as_block(raw: Any) -> Any:
    if isinstance(raw, dict) and raw.get("type") == "tool_result":
        return {**raw, "content": _as_blocks(raw.get("content"))}
    return {"type": "text", "text": raw} if isinstance(raw, str) else raw


def _as_message(message: Any) -> Any:
    if isinstance(message, dict) and isinstance(message.get("content"), str):
        return {**message, "content": _as_blocks(message["content"])}
    return message


def _mark(raw: Any) -> str | None:
    """Return how long what is marked here is to live (``""``: as usual); None: no mark."""
    for name in _MARKS if isinstance(raw, dict) else ():
        if isinstance(mark := raw.get(name), dict):
            return str(mark.get("ttl") or "")
    content = raw.get("content") if isinstance(raw, dict) else None
    inner = (_mark(each) for each in content) if isinstance(content, list) else ()
    return next((ttl for ttl in inner if ttl is not None), None)


# -- settings --------------------------------------------------------------------------------------


def _flat(settings: Json) -> Json:
    found: Json = {}
    for name, value in settings.items():
        if name not in _LEFT_OUT and name not in _MARKS:
            inner = value.items() if isinstance(value, dict) else [("", value)]
            found |= {f"{name}.{key}".rstrip("."): _short(each) for key, each in inner}
    return found


def _short(value: object) -> object:
    is_long = len(orjson.dumps(value)) > _LONGEST_VALUE
    return f"#{hash_of(value).hex()}" if is_long else value


def _switches(sent: Json, parts: Sequence[PromptPart], headers: Iterable[Sequence[str]]) -> Json:
    betas = {
        word.strip()
        for name, value in headers
        if name.lower() == "anthropic-beta"
        for word in value.split(",")
        if word.strip()
    }
    search = [without_marks(tool) for tool in _declared(sent["tools"]) if _is_switch(tool)]
    return {
        "beta_headers": sorted(betas),
        "web_search": _short(search),
        "citations": b'"citations":{"enabled":true}' in orjson.dumps(sent["messages"]),
        "media": any(part.kind == MEDIA for part in parts),
    }


def _is_switch(tool: Json) -> bool:
    return str(tool.get("type", "")).startswith(_SWITCH)

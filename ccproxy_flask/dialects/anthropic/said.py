"""What is said in the Messages API: requests, answers, and threads that send only what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...usage.parser import as_object, as_objects
from .. import said

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]


def _media(part: Json) -> Json:
    source = as_object(part.get("source"))
    return said.media(source.get("media_type"), source.get("data")) | {"type": part["type"]}


def _tool_use(part: Json) -> Json:
    return said.tool_use(part.get("name"), part.get("id"), part.get("input"))


def _tool_result(part: Json) -> Json:
    content = part.get("content")
    found = said.blocks(content, BLOCKS)
    return said.tool_result(part.get("tool_use_id"), found, content, part.get("is_error"))


BLOCKS: said.Blocks = {
    "text": lambda part: said.text_block(part.get("text")),
    "thinking": lambda part: said.text_block(part.get("thinking"), "thinking"),
    "redacted_thinking": lambda _part: said.text_block("", "thinking"),
    **dict.fromkeys(("tool_use", "server_tool_use"), _tool_use),
    "tool_result": _tool_result,
    **dict.fromkeys(("image", "document"), _media),
}


def _request(document: Json) -> Json:
    return {
        "system": said.blocks(document.get("system"), BLOCKS),
        "tools": said.tools(document.get("tools")),
        "messages": [
            said.message(each.get("role"), said.blocks(each.get("content"), BLOCKS))
            for each in as_objects(document.get("messages"))
        ],
    }


def _answer(document: Json) -> Json | None:
    content, stop = document.get("content"), document.get("stop_reason")
    if not isinstance(content, list):
        return None
    found = said.blocks(content, BLOCKS)
    return said.answer(found, stop, document.get("model"), document.get("id"))


def _put_together(events: Iterable[Json]) -> Json | None:
    head: Json = {}
    stop, blocks = None, list[Json]()
    parts: list[list[tuple[str, str]]] = []
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            head = as_object(event.get("message"))
        elif kind == "content_block_start":
            blocks.append(dict(as_object(event.get("content_block"))))
            parts.append([])
        elif kind == "content_block_delta" and blocks:
            at = event.get("index")
            at = at if isinstance(at, int) and 0 <= at < len(blocks) else len(blocks) - 1
            parts[at] += _texts_of(as_object(event.get("delta")))
        elif kind == "message_delta":
            stop = as_object(event.get("delta")).get("stop_reason") or stop
    if not head and not blocks:
        return None
    whole = [_filled(block, part) for block, part in zip(blocks, parts, strict=True)]
    return head | {"content": whole, "stop_reason": stop}


def _texts_of(delta: Json) -> list[tuple[str, str]]:
    names = ("text", "thinking", "partial_json")
    return [(name, delta[name]) for name in names if isinstance(delta.get(name), str)]


def _filled(block: Json, parts: list[tuple[str, str]]) -> Json:
    for name in ("text", "thinking"):
        if any(each == name for each, _ in parts):
            first = block.get(name)
            block[name] = (first if isinstance(first, str) else "") + "".join(
                text for each, text in parts if each == name
            )
    given = "".join(text for each, text in parts if each == "partial_json")
    return block | {"input": said.parsed(given)} if given else block


def _earlier(document: Json) -> said.Earlier | None:
    before = as_object(document.get("thread")).get("previous_message_id")
    return said.Earlier(message_id=before) if isinstance(before, str) else None


def _whole(before: Json, answer: Json | None, document: Json) -> Json:
    """Put the messages of a thread before those of a request that goes on with it.

    It keeps the instructions and tools that it was made with ("Message threads", 2026-11).
    """
    kept = {name: before[name] for name in ("system", "tools") if name in before}
    messages = said.listed(before.get("messages"))
    if answer is not None:
        messages = [*messages, {"role": "assistant", "content": answer.get("content")}]
    return kept | document | {"messages": messages + said.listed(document.get("messages"))}


SAID = said.Said(_request, _answer, _put_together, blocks="content", earlier=_earlier, whole=_whole)

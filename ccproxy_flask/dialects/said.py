"""What was said, in one shape for all wire formats; each of them makes it of its own. Pure.

A conversation is ``{"system": [BLOCK], "tools": [TOOL], "messages": [{"role", "blocks"}]}``, an
answer ``{"role", "blocks", "stop", "model", "id"}``. A block has a ``type`` (text, thinking,
tool_use, tool_result, image, document, other) and what belongs to it: ``text``, ``name``, ``id``,
``input``, ``is_error``, ``media_type``, ``bytes``. A tool has ``name``, ``description``, ``bytes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..usage.parser import as_object, as_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Json = dict[str, Any]
Blocks = dict[Any, "Callable[[Json], Json]"]
"""What makes a block of a part, by the part's ``type``."""
SYSTEM_ROLES = ("system", "developer")


class Earlier(NamedTuple):
    """What the provider remembers, and a request goes on from: it sends only what is new."""

    message_id: str | None = None
    """The answer that it goes on from."""
    conversation_id: str | None = None
    """Or the conversation, with all that is in it so far."""


def _none(_found: object) -> None:
    return None


def _as_sent(_before: Json, _answer: Json | None, document: Json) -> Json:
    return document


class Said(NamedTuple):
    """How a wire format says things. What is not as it should be raises nothing."""

    request: Callable[[Json], Json]
    """A request's document -> its conversation."""
    answer: Callable[[Json], Json | None] = _none
    """An answer's document -> the answer; None where there is none in it."""
    put_together: Callable[[Iterable[Json]], Json | None] = _none
    """The events of a stream -> the document that the answer is without streaming."""
    messages: str = "messages"
    """The member that has the messages."""
    system: str = "system"
    """The member that has the instructions."""
    blocks: str | None = None
    """The member of a message that has its blocks, where clients add some to one they sent."""
    earlier: Callable[[Json], Earlier | None] = _none
    """A request's document -> what it goes on from; None where it has everything itself."""
    whole: Callable[[Json, Json | None, Json], Json] = _as_sent
    """(the whole document before, its answer's document, a request's document that goes on from
    there) -> that request's document as if it had everything itself."""


# -- blocks ----------------------------------------------------------------------------------------


def text_block(text: object, kind: str = "text") -> Json:
    """Return a block of words."""
    return {"type": kind, "text": as_text(text)}


def tool_use(name: object, number: object, given: object) -> Json:
    """Return the call of a tool; what is *given* may be JSON, or the text of it."""
    if isinstance(given, str):
        given = parsed(given)
    return {"type": "tool_use", "name": str(name or ""), "id": number, "input": given}


def tool_result(number: object, found: list[Json], content: object, is_error: object) -> Json:
    """Return what a tool gave back: the blocks *found* in its *content*."""
    text = (
        "\n".join(block.get("text") or f"[{block['type']}]" for block in found)
        if found
        else as_text(content)
    )
    return {"type": "tool_result", "id": number, "text": text, "is_error": bool(is_error)}


def media(media_type: object, data: object) -> Json:
    """Return a picture or a document; *data* is Base64."""
    kind = str(media_type or "")
    return {
        "type": "image" if kind.startswith("image") or not kind else "document",
        "media_type": kind,
        "bytes": len(data) * 3 // 4 if isinstance(data, str) else None,
    }


def blocks(
    content: object, known: Blocks, other: Callable[[Json], Json] | None = None
) -> list[Json]:
    """Return the blocks of a *content*: a text, or a list of parts.

    *other* makes one of a part without a type that is *known*, and without a text.
    """
    if isinstance(content, str):
        return [text_block(content)] if content else []
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return []
    return [_block(part, known, other or other_block) for part in content]


def _block(part: object, known: Blocks, other: Callable[[Json], Json]) -> Json:
    if isinstance(part, str):
        return text_block(part)
    part = as_object(part)
    kind = part.get("type")
    if isinstance(kind, str) and kind in known:
        return known[kind](part)
    if isinstance(part.get("text"), str):
        return text_block(part["text"], "thinking" if part.get("thought") is True else "text")
    return other(part)


def other_block(part: Json) -> Json:
    """Return a block of a part that nobody here knows."""
    return {"type": "other", "name": str(part.get("type", ""))[:64], "input": part}


# -- the shape of requests and answers -------------------------------------------------------------


def message(role: object, of: list[Json]) -> Json:
    """Return a message."""
    return {"role": str(role or "user"), "blocks": of}


def answer(of: list[Json], stop: object, model: object, number: object) -> Json:
    """Return an answer."""
    return {"role": "assistant", "blocks": of, "stop": stop, "model": model, "id": number}


def tools(declared: object) -> list[Json]:
    """Return the tools that a request declares."""
    found = []
    for tool in as_objects(declared):
        inner = as_object(tool.get("function")) or tool
        found.append(
            {
                "name": str(inner.get("name") or tool.get("type") or "tool"),
                "description": as_text(inner.get("description")),
                "bytes": len(orjson.dumps(tool)),
            }
        )
    return found


def plain_request(document: Json) -> Json:
    """Return what the older and smaller APIs have: a prompt or an input."""
    said = document.get("prompt", document.get("input"))
    said = "\n".join(map(as_text, said)) if isinstance(said, list) else said
    return {
        "system": blocks(document.get("system"), {}),
        "messages": [message("user", blocks(said, {}))] if said else [],
    }


def listed(value: object) -> list[Any]:
    """Return *value* as a list: a text alone is one part."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def as_text(value: object) -> str:
    """Return a text, or the JSON of something else."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def parsed(text: str) -> object:
    """Return what the JSON *text* stands for, or itself where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def text_of(value: Mapping[str, Any], *names: str) -> str | None:
    """Return the first member of *names* that is a text with something in it."""
    found = (value.get(name) for name in names)
    return next((text for text in found if isinstance(text, str) and text), None)

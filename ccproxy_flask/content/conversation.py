"""What was said in an exchange, in one shape for all wire formats. Pure.

A conversation is ``{"system": [BLOCK], "tools": [TOOL], "messages": [{"role", "blocks"}]}``, an
answer ``{"role", "blocks", "stop", "model", "id"}``. A block has a ``type`` (text, thinking,
tool_use, tool_result, image, document, other) and what belongs to it: ``text``, ``name``, ``id``,
``input``, ``is_error``, ``media_type``, ``bytes``. A tool has ``name``, ``description``, ``bytes``.
Formats: the providers' API references (2026-11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Json = dict[str, Any]
_SYSTEM_ROLES = ("system", "developer")


def parsed_request(api: str, document: object) -> Json:
    """Return the conversation that a request in the wire format *api* carries."""
    document = _object(document)
    reader = _REQUESTS.get(api, _other_request)
    found: Json = {"system": [], "tools": [], "messages": []}
    return found | reader(document)


def parsed_answer(api: str, document: object) -> Json | None:
    """Return the answer in the JSON *document*, None where it carries none."""
    return _ANSWERS[api](_object(document)) if api in _ANSWERS else None


def assembled_answer(api: str, events: Iterable[Json]) -> Json | None:
    """Return the answer that the JSON *events* of a stream make up, None where they do not."""
    return _STREAMS[api](events) if api in _STREAMS else None


def texts_of(conversation: Json, answer: Json | None) -> list[tuple[str, str]]:
    """Return (part, text) of all words in there; parts are system, tools, a role, or answer."""
    found = [("system", _words(conversation["system"]))]
    found += [("tools", f"{tool['name']} {tool['description']}") for tool in conversation["tools"]]
    found += [(each["role"], _words(each["blocks"])) for each in conversation["messages"]]
    if answer is not None:
        found.append(("answer", _words(answer["blocks"])))
    return [(part, text) for part, text in found if text.strip()]


def _words(blocks: Sequence[Json]) -> str:
    return "\n".join(
        part
        for block in blocks
        for part in (block.get("name"), block.get("text"), _as_text(block.get("input")))
        if part
    )


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# -- blocks ----------------------------------------------------------------------------------------


def text_block(text: object, kind: str = "text") -> Json:
    """Return a block of words."""
    return {"type": kind, "text": _as_text(text)}


def _blocks(content: object) -> list[Json]:
    """Return the blocks of a *content*: a text, or a list of parts of any wire format."""
    if isinstance(content, str):
        return [text_block(content)] if content else []
    if isinstance(content, dict):
        content = [content]
    return [_block(part) for part in content] if isinstance(content, list) else []


def _block(part: object) -> Json:
    if isinstance(part, str):
        return text_block(part)
    part = _object(part)
    kind = part.get("type")
    if kind in _BLOCKS:
        return _BLOCKS[kind](part)
    if isinstance(part.get("text"), str):
        return text_block(part["text"], "thinking" if part.get("thought") is True else "text")
    return _gemini_part(part)


def _gemini_part(part: Json) -> Json:
    if call := _object(part.get("functionCall")):
        return _tool_use(call.get("name"), call.get("id"), call.get("args"))
    if result := _object(part.get("functionResponse")):
        return _tool_result(result.get("id") or result.get("name"), result.get("response"), False)
    if data := _object(part.get("inlineData") or part.get("inline_data")):
        return _media(data.get("mimeType") or data.get("mime_type"), data.get("data"))
    if file := _object(part.get("fileData") or part.get("file_data")):
        return _media(file.get("mimeType"), None)
    return {"type": "other", "name": str(part.get("type", ""))[:64], "input": part}


def _tool_use(name: object, number: object, given: object) -> Json:
    if isinstance(given, str):
        given = _parsed(given)
    return {"type": "tool_use", "name": str(name or ""), "id": number, "input": given}


def _tool_result(number: object, content: object, is_error: object) -> Json:
    blocks = _blocks(content)
    text = (
        "\n".join(block.get("text") or f"[{block['type']}]" for block in blocks)
        if blocks
        else _as_text(content)
    )
    return {"type": "tool_result", "id": number, "text": text, "is_error": bool(is_error)}


def _media(media_type: object, data: object) -> Json:
    kind = str(media_type or "")
    return {
        "type": "image" if kind.startswith("image") or not kind else "document",
        "media_type": kind,
        "bytes": len(data) * 3 // 4 if isinstance(data, str) else None,
    }


def _anthropic_media(part: Json) -> Json:
    source = _object(part.get("source"))
    return _media(source.get("media_type"), source.get("data")) | {"type": part["type"]}


def _image_url(part: Json) -> Json:
    url = part.get("image_url")
    url = _as_text(_object(url).get("url") if isinstance(url, dict) else url)
    head, _, data = url.partition(",")
    is_data = head.startswith("data:")
    return _media(head[5:].partition(";")[0] if is_data else "image", data if is_data else None)


_BLOCKS: dict[Any, Callable[[Json], Json]] = {
    "text": lambda part: text_block(part.get("text")),
    "input_text": lambda part: text_block(part.get("text")),
    "output_text": lambda part: text_block(part.get("text")),
    "summary_text": lambda part: text_block(part.get("text"), "thinking"),
    "reasoning_text": lambda part: text_block(part.get("text"), "thinking"),
    "refusal": lambda part: text_block(part.get("refusal")),
    "thinking": lambda part: text_block(part.get("thinking"), "thinking"),
    "redacted_thinking": lambda _part: text_block("", "thinking"),
    "tool_use": lambda part: _tool_use(part.get("name"), part.get("id"), part.get("input")),
    "server_tool_use": lambda part: _tool_use(part.get("name"), part.get("id"), part.get("input")),
    "tool_result": lambda part: _tool_result(
        part.get("tool_use_id"), part.get("content"), part.get("is_error")
    ),
    "image": _anthropic_media,
    "document": _anthropic_media,
    "image_url": _image_url,
    "input_image": _image_url,
    "function_call": lambda part: _tool_use(
        part.get("name"), part.get("call_id"), part.get("arguments")
    ),
    "custom_tool_call": lambda part: _tool_use(
        part.get("name"), part.get("call_id"), part.get("input")
    ),
    "local_shell_call": lambda part: _tool_use(
        "local_shell", part.get("call_id"), part.get("action")
    ),
    "function_call_output": lambda part: _tool_result(
        part.get("call_id"), part.get("output"), False
    ),
    "custom_tool_call_output": lambda part: _tool_result(
        part.get("call_id"), part.get("output"), False
    ),
    "reasoning": lambda part: text_block(
        "\n".join(
            block.get("text", "")
            for block in [*_blocks(part.get("summary")), *_blocks(part.get("content"))]
        ),
        "thinking",
    ),
}


# -- requests --------------------------------------------------------------------------------------


def _anthropic_request(document: Json) -> Json:
    return {
        "system": _blocks(document.get("system")),
        "tools": _tools(document.get("tools")),
        "messages": [
            _message(each.get("role"), _blocks(each.get("content")))
            for each in _objects(document.get("messages"))
        ],
    }


def _chat_request(document: Json) -> Json:
    system, messages = list[Json](), list[Json]()
    for each in _objects(document.get("messages")):
        blocks = _chat_blocks(each)
        if each.get("role") in _SYSTEM_ROLES and not messages:
            system += blocks
        else:
            messages.append(_message(each.get("role"), blocks))
    return {"system": system, "tools": _tools(document.get("tools")), "messages": messages}


def _chat_blocks(message: Json) -> list[Json]:
    if message.get("role") == "tool":
        return [_tool_result(message.get("tool_call_id"), message.get("content"), False)]
    thinking = (
        message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    )
    blocks = [text_block(thinking, "thinking")] if isinstance(thinking, str) else []
    blocks += _blocks(message.get("content"))
    for call in _objects(message.get("tool_calls")):
        function = _object(call.get("function")) or _object(call.get("custom"))
        given = function.get("arguments", function.get("input"))
        blocks.append(_tool_use(function.get("name"), call.get("id"), given))
    return blocks


def _responses_request(document: Json) -> Json:
    system = _blocks(document.get("instructions"))
    messages: list[Json] = []
    given = document.get("input")
    if isinstance(given, str):
        messages.append(_message("user", _blocks(given)))
    for item in _objects(given):
        role, blocks = _item(item)
        if role in _SYSTEM_ROLES and not messages:
            system += blocks
        elif messages and role == messages[-1]["role"] == "assistant":
            messages[-1]["blocks"] += blocks
        else:
            messages.append(_message(role, blocks))
    return {"system": system, "tools": _tools(document.get("tools")), "messages": messages}


def _item(item: Json) -> tuple[str, list[Json]]:
    kind = str(item.get("type") or "message")
    if kind == "message":
        return str(item.get("role") or "assistant"), _blocks(item.get("content"))
    return ("tool" if kind.endswith("_output") else "assistant"), [_block(item)]


def _gemini_request(document: Json) -> Json:
    system = _object(document.get("systemInstruction") or document.get("system_instruction"))
    declared = [
        tool
        for group in _objects(document.get("tools"))
        for tool in group.get("functionDeclarations")
        or group.get("function_declarations")
        or [group]
    ]
    return {
        "system": _blocks(system.get("parts")),
        "tools": _tools(declared),
        "messages": [
            _message(each.get("role") or "user", _blocks(each.get("parts")))
            for each in _objects(document.get("contents"))
        ],
    }


def _other_request(document: Json) -> Json:
    """Return what the older and smaller APIs have: a prompt, an input, messages."""
    if isinstance(document.get("messages"), list):
        return _chat_request(document)
    said = document.get("prompt", document.get("input"))
    said = "\n".join(map(_as_text, said)) if isinstance(said, list) else said
    return {
        "system": _blocks(document.get("system")),
        "messages": [_message("user", _blocks(said))] if said else [],
    }


def _tools(tools: object) -> list[Json]:
    found = []
    for tool in _objects(tools):
        inner = _object(tool.get("function")) or tool
        found.append(
            {
                "name": str(inner.get("name") or tool.get("type") or "tool"),
                "description": _as_text(inner.get("description")),
                "bytes": len(orjson.dumps(tool)),
            }
        )
    return found


# -- answers ---------------------------------------------------------------------------------------


def _anthropic_answer(document: Json) -> Json | None:
    if not isinstance(document.get("content"), list):
        return None
    return _answer(
        _blocks(document["content"]),
        document.get("stop_reason"),
        document.get("model"),
        document.get("id"),
    )


def _chat_answer(document: Json) -> Json | None:
    choice = next(iter(_objects(document.get("choices"))), None)
    if choice is None:
        return None
    blocks = _chat_blocks(_object(choice.get("message")))
    blocks = blocks or _blocks(choice.get("text"))
    return _answer(blocks, choice.get("finish_reason"), document.get("model"), document.get("id"))


def _responses_answer(document: Json) -> Json | None:
    if not isinstance(document.get("output"), list):
        return None
    blocks = [block for item in _objects(document["output"]) for block in _item(item)[1]]
    return _answer(blocks, document.get("status"), document.get("model"), document.get("id"))


def _gemini_answer(document: Json) -> Json | None:
    candidate = next(iter(_objects(document.get("candidates"))), None)
    if candidate is None:
        return None
    blocks = _blocks(_object(candidate.get("content")).get("parts"))
    reason, model = candidate.get("finishReason"), document.get("modelVersion")
    return _answer(blocks, reason, model, document.get("responseId"))


def _ollama_answer(document: Json) -> Json | None:
    message = _object(document.get("message"))
    blocks = _chat_blocks(message) or _blocks(document.get("response"))
    return _answer(blocks, document.get("done_reason"), document.get("model"), None)


def _anthropic_stream(events: Iterable[Json]) -> Json | None:
    head: Json = {}
    stop, blocks = None, list[Json]()
    parts: list[list[tuple[str, str]]] = []
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            head = _object(event.get("message"))
        elif kind == "content_block_start":
            blocks.append(dict(_object(event.get("content_block"))))
            parts.append([])
        elif kind == "content_block_delta" and blocks:
            delta, at = _object(event.get("delta")), event.get("index")
            at = at if isinstance(at, int) and 0 <= at < len(blocks) else len(blocks) - 1
            parts[at] += [
                (name, delta[name])
                for name in ("text", "thinking", "partial_json")
                if isinstance(delta.get(name), str)
            ]
        elif kind == "message_delta":
            stop = _object(event.get("delta")).get("stop_reason") or stop
    if not head and not blocks:
        return None
    whole = [_filled(block, part) for block, part in zip(blocks, parts, strict=True)]
    return _answer(_blocks(whole), stop, head.get("model"), head.get("id"))


def _filled(block: Json, parts: Sequence[tuple[str, str]]) -> Json:
    for name in ("text", "thinking"):
        if any(each == name for each, _ in parts):
            first = block.get(name)
            block[name] = (first if isinstance(first, str) else "") + "".join(
                text for each, text in parts if each == name
            )
    given = "".join(text for each, text in parts if each == "partial_json")
    return block | {"input": _parsed(given)} if given else block


def _chat_stream(events: Iterable[Json]) -> Json | None:
    text, thinking = list[str](), list[str]()
    calls: dict[object, Json] = {}
    stop = model = number = None
    seen = False
    for event in events:
        model, number = event.get("model") or model, event.get("id") or number
        for choice in _objects(event.get("choices"))[:1]:
            seen = True
            stop = choice.get("finish_reason") or stop
            delta = _object(choice.get("delta")) or {"content": choice.get("text")}
            text.append(_as_text(delta.get("content")))
            thinking.append(_as_text(delta.get("reasoning_content") or delta.get("reasoning")))
            for call in _objects(delta.get("tool_calls")):
                _add_call(calls, call)
    if not seen:
        return None
    blocks = [text_block("".join(thinking), "thinking")] if any(thinking) else []
    blocks += [text_block("".join(text))] if any(text) else []
    blocks += [_tool_use(call["name"], call["id"], call["arguments"]) for call in calls.values()]
    return _answer(blocks, stop, model, number)


def _add_call(calls: dict[object, Json], call: Json) -> None:
    function = _object(call.get("function"))
    one = calls.setdefault(call.get("index", 0), {"name": "", "id": None, "arguments": ""})
    one["name"] = one["name"] or _as_text(function.get("name"))
    one["id"] = one["id"] or call.get("id")
    one["arguments"] += _as_text(function.get("arguments"))


def _responses_stream(events: Iterable[Json]) -> Json | None:
    items: list[Json] = []
    head: Json = {}
    text: list[str] = []
    for event in events:
        kind = str(event.get("type", ""))
        if isinstance(event.get("response"), dict):
            head = head | event["response"]
        if kind == "response.output_item.done":
            items.append(_object(event.get("item")))
            text = []
        elif kind == "response.output_text.delta":
            text.append(_as_text(event.get("delta")))
    if not head:
        return None
    output = head.get("output") or items
    found = _responses_answer(head | {"output": output})
    if found is not None and not output and text:  # broken off in the middle
        found["blocks"] = [text_block("".join(text))]
    return found


def _gemini_stream(events: Iterable[Json]) -> Json | None:
    whole: Json | None = None
    for event in events:
        part = _gemini_answer(event)
        if part is None:
            continue
        if whole is None:
            whole = part
            continue
        whole["blocks"] += part["blocks"]
        whole["stop"] = part["stop"] or whole["stop"]
    if whole is not None:
        whole["blocks"] = _joined(whole["blocks"])
    return whole


def _ollama_stream(events: Iterable[Json]) -> Json | None:
    whole: Json | None = None
    for event in events:
        part = _ollama_answer(event)
        if part is None:
            continue
        if whole is None:
            whole = part
        else:
            whole["blocks"] += part["blocks"]
            whole["stop"] = part["stop"] or whole["stop"]
    if whole is not None:
        whole["blocks"] = _joined(whole["blocks"])
    return whole


def _joined(blocks: Sequence[Json]) -> list[Json]:
    """Return *blocks* with neighbours of the same kind of words made one."""
    joined: list[Json] = []
    for block in blocks:
        if joined and block["type"] == joined[-1]["type"] in ("text", "thinking"):
            joined[-1] = text_block(joined[-1]["text"] + block["text"], block["type"])
        else:
            joined.append(block)
    return joined


def _answer(blocks: list[Json], stop: object, model: object, number: object) -> Json:
    return {"role": "assistant", "blocks": blocks, "stop": stop, "model": model, "id": number}


def _message(role: object, blocks: list[Json]) -> Json:
    return {"role": str(role or "user"), "blocks": blocks}


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _parsed(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


_REQUESTS: dict[str, Callable[[Json], Json]] = {
    "anthropic_messages": _anthropic_request,
    "openai_chat": _chat_request,
    "openai_responses": _responses_request,
    "gemini": _gemini_request,
}
_ANSWERS: dict[str, Callable[[Json], Json | None]] = {
    "anthropic_messages": _anthropic_answer,
    "openai_chat": _chat_answer,
    "openai_completions": _chat_answer,
    "openai_responses": _responses_answer,
    "gemini": _gemini_answer,
    "ollama": _ollama_answer,
}
_STREAMS: dict[str, Callable[[Iterable[Json]], Json | None]] = {
    "anthropic_messages": _anthropic_stream,
    "openai_chat": _chat_stream,
    "openai_completions": _chat_stream,
    "openai_responses": _responses_stream,
    "gemini": _gemini_stream,
    "ollama": _ollama_stream,
}


# -- parts, as they are sent -----------------------------------------------------------------------

_PARTS = {
    "gemini": ("contents", "systemInstruction"),
    "openai_responses": ("input", "instructions"),
}


def as_request_parts(api: str, document: object) -> Json:
    """Return the ``tools``, ``system`` and ``messages`` of a request as it has them, in lists, and
    all its other members as ``settings``."""
    document = _object(document)
    messages, system = _PARTS.get(api, ("messages", "system"))
    named = {"tools", messages, system}
    return {
        "tools": _listed(document.get("tools")),
        "system": _listed(document.get(system)),
        "messages": _listed(document.get(messages)),
        "settings": {name: value for name, value in document.items() if name not in named},
    }


def _listed(value: object) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]

"""Turns of conversations as providers get and answer them, for tests of verdicts and rents."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from recording_support import make_record

from ccproxy_flask.caching.turns import Turn
from ccproxy_flask.content.cache_parts import prompt_of
from ccproxy_flask.record import to_json

Json = dict[str, Any]
LONG = "what a tool or a person says at length. " * 20


class Api(NamedTuple):
    """A wire format as its own provider speaks it."""

    api: str
    provider: str
    endpoint: str
    model: str


ANTHROPIC = Api("anthropic_messages", "anthropic", "/v1/messages", "claude-opus-4-5")
CHAT = Api("openai_chat", "openai", "/v1/chat/completions", "gpt-5")
RESPONSES = Api("openai_responses", "openai", "/v1/responses", "gpt-5.6")
GEMINI = Api("gemini", "gemini", "/v1beta/models:generateContent", "gemini-2.5-pro")
APIS = (ANTHROPIC, CHAT, RESPONSES, GEMINI)


def names(apis: Api) -> str:
    """Return what a case is called."""
    return apis.api


def request(api: Api, turns: int) -> Json:
    """Return the body of the turn after so many *turns*: each calls a tool and gets its result."""
    tools = [tool("Bash"), tool("mcp__files__read")]
    if api is ANTHROPIC:
        messages = [{"role": "user", "content": "mend the gate"}]
        for number in range(turns):
            call = {"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {"a": number}}
            result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": said(number)}
            messages.append({"role": "assistant", "content": [call]})
            messages.append({"role": "user", "content": [result]})
        body = {"tools": tools, "system": [{"type": "text", "text": "be brief"}]}
        return marked({"model": api.model, **body, "messages": messages, "max_tokens": 9})
    if api is GEMINI:
        contents = [{"role": "user", "parts": [{"text": "mend the gate"}]}]
        for number in range(turns):
            call = {"functionCall": {"name": "Bash", "args": {"a": number}}}
            answer = {"functionResponse": {"name": "Bash", "response": {"out": said(number)}}}
            contents.append({"role": "model", "parts": [call]})
            contents.append({"role": "user", "parts": [answer]})
        system = {"parts": [{"text": "be brief"}]}
        declared = [{"functionDeclarations": tools}]
        return {"systemInstruction": system, "tools": declared, "contents": contents}
    return _openai(api, tools, turns)


def _openai(api: Api, tools: list[Json], turns: int) -> Json:
    given: list[Json] = [{"role": "user", "content": "mend the gate"}]
    for number in range(turns):
        call = {"name": "Bash", "arguments": json.dumps({"a": number})}
        if api is CHAT:
            calls = [{"id": f"t{number}", "type": "function", "function": call}]
            given.append({"role": "assistant", "content": None, "tool_calls": calls})
            result = {"role": "tool", "tool_call_id": f"t{number}", "content": said(number)}
        else:
            given.append({"type": "function_call", "call_id": f"t{number}", **call})
            result = {"type": "function_call_output", "call_id": f"t{number}"}
            result |= {"output": said(number)}
        given.append(result)
    if api is CHAT:
        wrapped = [{"type": "function", "function": each} for each in tools]
        system = {"role": "system", "content": "be brief"}
        return {"model": api.model, "tools": wrapped, "messages": [system, *given]}
    flat = [{"type": "function", **each} for each in tools]
    return {"model": api.model, "tools": flat, "instructions": "be brief", "input": given}


def tool(name: str) -> Json:
    """Return the definition of a tool."""
    return {"name": name, "description": LONG, "input_schema": {"type": "object"}}


def said(number: int) -> str:
    """Return what a tool answered."""
    return f"result {number}: {LONG * 3}"


def marked(body: Json, **mark: str) -> Json:
    """Return a Messages *body* with breakpoints where Claude Code has them: on the system prompt
    and on the last message."""
    body = copy.deepcopy(body)
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else []:
            block.pop("cache_control", None)
    control = {"cache_control": {"type": "ephemeral", **mark}}
    body["system"] = [{**block, **control} for block in body["system"]]
    last = body["messages"][-1]
    if isinstance(last["content"], str):
        last["content"] = [{"type": "text", "text": last["content"]}]
    last["content"][-1] |= control
    return body


def turn_of(
    api: Api,
    body: Json | None,
    at: float,
    usage: tuple[int, int, int],
    headers: Mapping[str, str] | None = None,
    **row: Any,
) -> Turn:
    """Return a turn sent *at* so many seconds, answered with *usage*: uncached, read, written."""
    uncached, read, written = usage
    model = row.pop("model", (body or {}).get("model") or api.model)
    fields = {
        "provider": api.provider, "endpoint": api.endpoint, "path": api.endpoint, "model": model,
        "model_requested": model, "ttfb_ms": 100.0, "tokens_input": uncached,
        "cache_read_tokens": read, "cache_write_tokens": written, "conversation_id": "c",
        "request_class": "main", **row,
    }  # fmt: skip
    record = make_record(round(at), **fields)
    found = orjson.loads(to_json(record.as_dict()))
    if body is None:
        return Turn(found)
    sent = [(name, value) for name, value in (headers or {}).items()]
    return Turn(found, {"api": api.api}, prompt_of(api.api, body, sent))

"""What was said, in one shape for all wire formats: written down here, and over recordings."""

import base64
import json

import orjson
import pytest
from conftest import RECORDINGS

from ccproxy_flask.content.assembly import answer_of
from ccproxy_flask.content.conversation import parsed_request, texts_of


def sse(*events):
    """Return *events* as a stream."""
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


def shape(blocks):
    """Return the types and words of *blocks*."""
    return [(block["type"], block.get("text") or block.get("name")) for block in blocks]


def test_anthropic_request():
    """System, tools, messages, tool results and images of the Messages API."""
    found = parsed_request(
        "anthropic_messages",
        {
            "system": [{"type": "text", "text": "be brief"}],
            "tools": [{"name": "read", "description": "reads", "input_schema": {}}],
            "messages": [
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "x"},
                        {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t1",
                            "content": [{"type": "text", "text": "no such file"}],
                            "is_error": True,
                        },
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                        },
                    ],
                },
            ],
        },
    )
    assert shape(found["system"]) == [("text", "be brief")]
    assert found["tools"][0]["name"] == "read"
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]
    assert shape(found["messages"][1]["blocks"]) == [("thinking", "hm"), ("tool_use", "read")]
    result, image = found["messages"][2]["blocks"]
    assert (result["id"], result["text"], result["is_error"]) == ("t1", "no such file", True)
    assert (image["media_type"], image["bytes"]) == ("image/png", 3)


def test_anthropic_stream():
    """Text, thinking and the input of a tool are put together from their deltas."""
    body = sse(
        {"type": "message_start", "message": {"id": "m1", "model": "claude", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "He"}},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": "ls", "input": {}},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "y"}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": '{"a":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": " 1}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
    )
    found = answer_of("anthropic_messages", body, True)
    assert (found["id"], found["model"], found["stop"]) == ("m1", "claude", "tool_use")
    assert shape(found["blocks"]) == [("text", "Hey"), ("tool_use", "ls")]
    assert found["blocks"][1]["input"] == {"a": 1}


def test_openai_chat():
    """Messages, calls and their results of Chat Completions; a stream put together."""
    found = parsed_request(
        "openai_chat",
        {
            "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}],
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"x":1}'}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": "42"},
            ],
        },
    )
    assert shape(found["system"]) == [("text", "s")]
    assert found["messages"][1]["blocks"][0]["input"] == {"x": 1}
    assert found["messages"][2]["blocks"][0]["text"] == "42"
    delta = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}
    more = {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}
    body = sse(
        {"id": "1", "model": "m", "choices": [{"delta": {"content": "a"}}]},
        {"choices": [{"delta": delta}]},
        {"choices": [{"delta": more, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {}},
    )
    answer = answer_of("openai_chat", body, True)
    assert shape(answer["blocks"]) == [("text", "a"), ("tool_use", "f")]
    assert answer["blocks"][1]["input"] == {}
    assert (answer["model"], answer["id"]) == ("m", "1")  # later events do not say it again


def test_openai_responses():
    """Items of the Responses API become messages; calls and outputs are blocks of them."""
    found = parsed_request(
        "openai_responses",
        {
            "instructions": "s",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "function_call", "call_id": "c", "name": "sh", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "ok"},
            ],
        },
    )
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "tool"]
    assert shape(found["messages"][1]["blocks"]) == [("thinking", "hm"), ("tool_use", "sh")]
    item = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "y"}],
    }
    body = sse(
        {"type": "response.created", "response": {"id": "r", "model": "m", "output": []}},
        {"type": "response.output_text.delta", "delta": "y"},
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": {"status": "completed", "output": [item]}},
    )
    whole = answer_of("openai_responses", body, True)
    assert (whole["id"], shape(whole["blocks"])) == ("r", [("text", "y")])
    cut = answer_of("openai_responses", body[: body.index(b"data", 150)], True)
    assert shape(cut["blocks"]) == [("text", "y")]


def test_gemini():
    """Contents and parts of Gemini; neighbouring texts of a stream are one."""
    found = parsed_request(
        "gemini",
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "tools": [{"functionDeclarations": [{"name": "f"}, {"name": "g"}]}],
            "contents": [{"role": "user", "parts": [{"text": "u"}, {"inlineData": {}}]}],
        },
    )
    assert [tool["name"] for tool in found["tools"]] == ["f", "g"]
    parts = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in ("a", "b")]
    call = {"functionCall": {"name": "f", "args": {"x": 1}}}
    parts.append({"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]})
    for body, streams in ((sse(*parts), True), (json.dumps(parts).encode(), False)):
        answer = answer_of("gemini", body, streams)
        assert shape(answer["blocks"]) == [("text", "ab"), ("tool_use", "f")]
        assert answer["stop"] == "STOP"


def test_ollama_and_older_apis():
    """Lines of Ollama, and prompts of completions, have words, too."""
    lines = [{"message": {"role": "assistant", "content": word}, "done": False} for word in "ab"]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    assert shape(answer_of("ollama", body, True)["blocks"]) == [("text", "ab")]
    assert parsed_request("openai_completions", {"prompt": ["p", "q"]})["messages"]


def test_what_a_tool_answered_is_not_said_by_the_user():
    """Also where the answers of tools come in messages of the user, beside what that one says."""
    result = {"type": "tool_result", "tool_use_id": "1", "content": "eleven oysters"}
    blocks = [result, {"type": "text", "text": "how many?"}]
    found = parsed_request(
        "anthropic_messages", {"messages": [{"role": "user", "content": blocks}]}
    )
    assert texts_of(found, None) == [("tool", "eleven oysters"), ("user", "how many?")]


@pytest.mark.parametrize("api", ["anthropic_messages", "openai_chat", "openai_responses", "gemini"])
@pytest.mark.parametrize("junk", [None, [], 7, "x", {"messages": 5, "input": {}, "contents": [1]}])
def test_junk_is_an_empty_conversation(api, junk):
    """What is no request of an API has no words, and raises nothing."""
    found = parsed_request(api, junk)
    assert texts_of(found, answer_of(api, orjson.dumps(junk), False)) == []


@pytest.mark.recordings
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not here")
def test_recorded_answers_have_words():
    """Each recorded answer with visible output has blocks."""
    silent = []
    for path in RECORDINGS.glob("*.json"):
        exchange = json.loads(path.read_bytes())
        expected = exchange["expected"]
        body = base64.b64decode(exchange["response_body_base64"])
        answer = answer_of(exchange["api"], body, exchange["streaming"])
        generates = exchange["api"] not in ("other", "openai_embeddings")
        spoke = expected["tokens_output"] > expected["reasoning_tokens"]
        if generates and exchange["status"] < 400 and spoke and not (answer and answer["blocks"]):
            silent.append(exchange["id"])
    # Nothing but a reason to stop: what was made is hidden, or empty.
    assert set(silent) <= {"openai-openai-chat-json-8736dd6e15"}

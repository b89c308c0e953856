"""The official SDKs with only their base URL changed."""

from __future__ import annotations

import asyncio
import importlib
import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Server
from scripted import Conversation, ScriptedUpstream

if TYPE_CHECKING:
    import anthropic
    import openai
    from google import genai


class Sdk:
    """A module that is imported at its first use: whoever only collects tests need not wait.

    Who collects asks everything in a module for names with underscores.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what an SDK says of itself while it is imported
            return getattr(importlib.import_module(self._name), attribute)


if not TYPE_CHECKING:
    anthropic, openai, genai = Sdk("anthropic"), Sdk("openai"), Sdk("google.genai")
genai_errors, genai_types = Sdk("google.genai.errors"), Sdk("google.genai.types")

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
CLAUDE = "claude-opus-4-8"
GPT = "gpt-4o-mini"
GEMINI = "gemini-2.5-flash"


def sse(*events: dict[str, Any], named: bool = False, done: bool = False) -> bytes:
    """Return events as a stream."""
    lines = [
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n"
        for event in events
    ]
    return "".join(lines + (["data: [DONE]\n\n"] if done else [])).encode()


ANTHROPIC_STREAM = sse(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 12, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 5},
    },
    {"type": "message_stop"},
    named=True,
)
ANTHROPIC_TOOL = {
    "id": "msg_2",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"usage": {"x": 1}}}
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 400, "output_tokens": 33, "cache_read_input_tokens": 100},
}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hi"},
        }
    ],
    "usage": {
        "prompt_tokens": 20,
        "completion_tokens": 3,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 8},
    },
}


def chat_chunk(**more: Any) -> dict[str, Any]:
    """Return one chunk of a chat stream."""
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [],
        **more,
    }


CHAT_STREAM = sse(
    chat_chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]),
    chat_chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    chat_chunk(usage={"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}),
    done=True,
)
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "status": "completed",
    "output": [
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 30,
        "output_tokens": 4,
        "total_tokens": 34,
        "input_tokens_details": {"cached_tokens": 10},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
}
GEMINI_ANSWER = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "Hi"}]},
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 7,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 3,
        "totalTokenCount": 12,
    },
    "modelVersion": "gemini-2.5-flash",
}


def stream(body: bytes) -> Any:
    """Return a script that answers with a stream."""

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(body)
        talk.end_stream()

    return script


def answer(body: dict[str, Any], status: str = "200 OK") -> Any:
    """Return a script that answers with JSON."""
    return lambda talk: talk.answer(json.dumps(body).encode(), status)


@pytest.fixture
def claude(server: Server) -> anthropic.Anthropic:
    """The Anthropic SDK."""
    return anthropic.Anthropic(base_url=server.url, api_key="sk-ant-test", max_retries=0)


@pytest.fixture
def gpt(server: Server) -> openai.OpenAI:
    """The OpenAI SDK."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0)


def figures(server: Server) -> tuple[Any, ...]:
    """Return the token columns of the one record."""
    [row] = server.records(1)
    return tuple(
        row[name]
        for name in ("tokens_input", "cache_read_tokens", "tokens_output", "tokens_reasoning")
    )


def test_anthropic_stream(
    server: Server, upstream: ScriptedUpstream, claude: anthropic.Anthropic
) -> None:
    """A stream is text for the SDK, and tokens for the record."""
    upstream.script = stream(ANTHROPIC_STREAM)

    with claude.messages.stream(model=CLAUDE, max_tokens=9, messages=MESSAGES) as reply:
        assert reply.get_final_text() == "Hi"

    assert figures(server) == (12, 0, 5, 0)


def test_anthropic_tool_use(
    server: Server, upstream: ScriptedUpstream, claude: anthropic.Anthropic
) -> None:
    """A tool's input that speaks of usage is not the usage."""
    upstream.script = answer(ANTHROPIC_TOOL)

    reply = claude.messages.create(model=CLAUDE, max_tokens=9, messages=MESSAGES)

    assert reply.content[0].type == "tool_use"
    assert figures(server) == (400, 100, 33, 0)


def test_anthropic_async(server: Server, upstream: ScriptedUpstream) -> None:
    """Many requests side by side each leave their record."""
    upstream.script = stream(ANTHROPIC_STREAM)

    async def run() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k") as client:

            async def one() -> str:
                async with client.messages.stream(
                    model=CLAUDE, max_tokens=9, messages=MESSAGES
                ) as reply:
                    return await reply.get_final_text()

            return await asyncio.gather(*(one() for _ in range(25)))

    assert asyncio.run(run()) == ["Hi"] * 25
    assert len(server.records(25)) == 25


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        ("401 X", "authentication_error", "AuthenticationError"),
        ("429 X", "rate_limit_error", "RateLimitError"),
        ("529 X", "overloaded_error", "InternalServerError"),
    ],
)
def test_anthropic_errors(
    server: Server,
    upstream: ScriptedUpstream,
    claude: anthropic.Anthropic,
    status: str,
    kind: str,
    error: str,
) -> None:
    """A provider's error is the SDK's exception, and an error in the record."""
    upstream.script = answer({"type": "error", "error": {"type": kind, "message": "no"}}, status)

    with pytest.raises(getattr(anthropic, error)):
        claude.messages.create(model=CLAUDE, max_tokens=9, messages=MESSAGES)

    [row] = server.records(1)
    assert (row["status_code"], row["error_type"]) == (
        int(status[:3]),
        kind.removesuffix("_error"),
    )


def test_anthropic_error_of_ours(claude: anthropic.Anthropic, upstream: ScriptedUpstream) -> None:
    """An error of the proxy itself is the SDK's exception too, with the request's id."""
    upstream.script = lambda talk: talk.cut()

    with pytest.raises(anthropic.InternalServerError) as caught:
        claude.messages.create(model=CLAUDE, max_tokens=9, messages=MESSAGES)

    assert caught.value.status_code == 502
    assert "upstream" in str(caught.value)


def test_openai_chat(server: Server, upstream: ScriptedUpstream, gpt: openai.OpenAI) -> None:
    """A chat answer is recorded with its cached tokens apart."""
    upstream.script = answer(CHAT)

    reply = gpt.chat.completions.create(model=GPT, messages=MESSAGES)

    assert reply.choices[0].message.content == "Hi"
    assert figures(server) == (12, 8, 3, 0)


def test_openai_chat_stream(server: Server, upstream: ScriptedUpstream, gpt: openai.OpenAI) -> None:
    """A chat stream's last chunk has the usage."""
    upstream.script = stream(CHAT_STREAM)

    chunks = list(
        gpt.chat.completions.create(
            model=GPT, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )

    assert chunks[0].choices[0].delta.content == "Hi"
    assert figures(server) == (20, 0, 3, 0)


def test_openai_responses(server: Server, upstream: ScriptedUpstream, gpt: openai.OpenAI) -> None:
    """A response is recorded with its reasoning."""
    upstream.script = answer(RESPONSE)

    assert gpt.responses.create(model=GPT, input="Hello").output_text == "Hi"
    assert figures(server) == (20, 10, 4, 2)


def test_openai_responses_stream(
    server: Server, upstream: ScriptedUpstream, gpt: openai.OpenAI
) -> None:
    """A stream of response events ends with the usage."""
    upstream.script = stream(
        sse(
            {
                "type": "response.output_text.delta",
                "sequence_number": 1,
                "item_id": "m",
                "output_index": 0,
                "content_index": 0,
                "delta": "Hi",
                "logprobs": [],
            },
            {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
            named=True,
        )
    )

    events = list(gpt.responses.create(model=GPT, input="Hello", stream=True))

    assert [event.type for event in events] == ["response.output_text.delta", "response.completed"]
    assert figures(server) == (20, 10, 4, 2)


def test_openai_async_and_errors(server: Server, upstream: ScriptedUpstream) -> None:
    """The asynchronous client raises the right exception for a provider's error."""
    upstream.script = answer({"error": {"message": "slow", "type": "requests"}}, "429 X")

    async def run() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="k", max_retries=0
        ) as client:
            await client.chat.completions.create(model=GPT, messages=MESSAGES)

    with pytest.raises(openai.RateLimitError):
        asyncio.run(run())
    assert server.records(1)[0]["error_type"] == "rate_limit"


def test_openai_error_of_ours(gpt: openai.OpenAI, upstream: ScriptedUpstream) -> None:
    """An error of the proxy itself is the SDK's exception."""
    upstream.script = lambda talk: talk.cut()

    with pytest.raises(openai.InternalServerError) as caught:
        gpt.chat.completions.create(model=GPT, messages=MESSAGES)

    assert caught.value.code == "upstream_broken"


@pytest.fixture
def gemini(server: Server) -> genai.Client:
    """The Gemini SDK."""
    return genai.Client(
        api_key="AIzatest", http_options=genai_types.HttpOptions(base_url=server.url)
    )


def test_gemini(server: Server, upstream: ScriptedUpstream, gemini: genai.Client) -> None:
    """An answer is recorded with its thoughts as output."""
    upstream.script = answer(GEMINI_ANSWER)

    reply = gemini.models.generate_content(model=GEMINI, contents="Hello")

    assert reply.text == "Hi"
    assert figures(server) == (7, 0, 5, 3)


def test_gemini_stream(server: Server, upstream: ScriptedUpstream, gemini: genai.Client) -> None:
    """A stream's last usage counts."""
    upstream.script = stream(sse(GEMINI_ANSWER, GEMINI_ANSWER))

    chunks = list(gemini.models.generate_content_stream(model=GEMINI, contents="Hello"))

    assert "".join(chunk.text or "" for chunk in chunks) == "HiHi"
    assert figures(server) == (7, 0, 5, 3)


def test_gemini_error_of_ours(gemini: genai.Client, upstream: ScriptedUpstream) -> None:
    """An error of the proxy itself is the SDK's exception."""
    upstream.script = lambda talk: talk.cut()

    with pytest.raises(genai_errors.ServerError) as caught:
        gemini.models.generate_content(model=GEMINI, contents="Hello")

    assert caught.value.status == "UNAVAILABLE"

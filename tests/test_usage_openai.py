"""OpenAI's APIs and their dialects, by our own small examples."""

from __future__ import annotations

from decimal import Decimal

import orjson
import pytest
from usage_support import (
    JSON,
    answer_reader,
    events,
    figures,
    first_content,
    read,
    read_in_every_way,
)


def chunk(**more):
    """Return a chunk of a chat stream as OpenAI sends it."""
    delta = more.pop("delta", {"content": " hé"})
    choices = [{"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}]
    return {"id": "c", "model": "gpt-test", "choices": choices, "usage": None} | more


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 12, "audio_tokens": 2, "image_tokens": 1},
}
FINISH = chunk(delta={}, finish_reason="stop")
LAST = chunk(choices=[], usage=USAGE, service_tier="flex")


def test_chat_stream_with_usage_in_a_chunk_without_choices():
    """The usage comes last, with no choices; what is cached is part of the prompt."""
    answer = read_in_every_way(
        "openai_chat", events(chunk(delta={"role": "assistant"}), chunk(), FINISH, LAST, "[DONE]")
    )
    assert figures(answer) == (30, 20, 60, 10)
    assert answer.usage.tokens_reasoning == 12
    assert (answer.usage.audio_input_tokens, answer.usage.audio_output_tokens) == (3, 2)
    assert (answer.usage.image_output_tokens, answer.usage.service_tier) == (1, "flex")
    assert (answer.model, answer.finish_reason) == ("gpt-test", "stop")
    assert (answer.streaming, answer.complete) == (True, True)


def test_chat_stream_without_usage():
    """Who did not ask for usage gets none: that is not zero."""
    answer = read_in_every_way("openai_chat", events(chunk(), chunk(), FINISH, "[DONE]"))
    assert (answer.usage, answer.finish_reason, answer.complete) == (None, "stop", True)


def test_spacing_may_change_inside_a_stream():
    """Azure's last chunk is spaced in another way than those before it."""
    spaced = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}\n\n'
    odd = b'data: {"choices" : [],  "usage" :\t{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    assert figures(read("openai_chat", events(chunk(), chunk()) + spaced)) == (5, 6, 0, 0)
    assert figures(read_in_every_way("openai_chat", odd + spaced)) == (5, 6, 0, 0)


def test_first_chunk_of_azure_names_no_model():
    """An empty model is no model."""
    first = {"choices": [], "model": "", "prompt_filter_results": []}
    assert read("openai_chat", events(first, chunk(), FINISH)).model == "gpt-test"


def test_usage_in_every_chunk_is_not_summed():
    """Perplexity and DeepSeek-style servers repeat it: the last one counts."""
    body = events(*(chunk(usage={"prompt_tokens": 9, "completion_tokens": n}) for n in range(5)))
    assert figures(read_in_every_way("openai_chat", body)) == (9, 4, 0, 0)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 50, "completion_tokens": 5, "prompt_cache_hit_tokens": 20},
            (30, 5, 20, 0),
        ),
        ({"prompt_tokens": 50, "completion_tokens": 5, "cached_tokens": 10}, (40, 5, 10, 0)),
        # xAI leaves reasoning out of completion_tokens, Gemini's compatible endpoint thinking.
        ({"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 241}, (12, 229, 0, 0)),
        # Mistral's Voxtral leaves audio out of prompt_tokens.
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 115,
                "prompt_tokens_details": {"audio_tokens": 100},
            },
            (110, 5, 0, 0),
        ),
        # Azure's Grok: nobody can tell what is meant, but nothing is negative.
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 161},
            },
            (0, 5, 161, 0),
        ),
        ({"prompt_tokens": 8}, (8, 0, 0, 0)),
        ({"prompt_tokens": 1.5, "completion_tokens": True}, None),
        ({"prompt_tokens": "8", "completion_tokens": None}, None),
        (
            {"prompt_tokens": 1 << 60, "completion_tokens": 2},
            None,
        ),  # nobody has so many: believed in nothing
        ({"prompt_tokens": -3, "completion_tokens": 2}, (0, 2, 0, 0)),
        ({}, None),
        ("much", None),
    ],
)
def test_dialects_of_usage(usage, expected):
    """Each dialect's figures come out disjoint; nonsense comes out as nothing."""
    body = orjson.dumps({"model": "m", "choices": [], "usage": usage})
    assert figures(read_in_every_way("openai_chat", body, JSON)) == expected


def test_groq_and_moonshot_put_usage_elsewhere():
    """``x_groq.usage`` and ``choices[0].usage`` count like ``usage``."""
    groq = chunk(delta={}, finish_reason="stop", x_groq={"usage": USAGE})
    moon = chunk()
    moon["choices"][0]["usage"] = USAGE
    for last in (groq, moon):
        assert figures(read_in_every_way("openai_chat", events(chunk(), last))) == (30, 20, 60, 10)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.00012}, Decimal("0.00012")),
        ({"cost": 0}, Decimal(0)),
        ({"cost": {"total_cost": 0.00504, "request_cost": 0.005}}, Decimal("0.00504")),
        ({"cost_in_usd_ticks": 1_176_500}, Decimal("0.00011765")),
        ({"cost_in_usd_ticks": 0}, None),
        ({"cost": -1}, None),
        ({"cost": "free"}, None),
        ({}, None),
    ],
)
def test_cost_as_the_provider_says(usage, cost):
    """OpenRouter, Perplexity and xAI say what they charge, each in its own way."""
    counts = {"prompt_tokens": 1, "completion_tokens": 1}
    body = orjson.dumps({"choices": [], "usage": counts | usage})
    assert read_in_every_way("openai_chat", body, JSON).usage.provider_cost_usd == cost


def test_error_object_inside_a_stream():
    """An error in the middle of a 200 is recorded, with what was used."""
    error = {"error": {"message": "Tool choice", "type": "invalid_request_error", "code": 400}}
    answer = read_in_every_way("openai_chat", events(chunk(), error, LAST))
    assert (answer.error_type, answer.error_message) == ("stream_error", "Tool choice")
    assert figures(answer) == (30, 20, 60, 10)
    limited = {"error": {"message": "Slow down", "code": 429}}
    assert read("openai_chat", events(chunk(), limited)).error_type == "rate_limit"


def test_first_choice_speaks():
    """Of several choices the reason of the first one is recorded."""
    first, second = chunk(delta={}, finish_reason="stop"), chunk(delta={}, finish_reason="length")
    second["choices"][0]["index"] = 1
    for pair in ((first, second), (second, first)):
        assert read_in_every_way("openai_chat", events(chunk(), *pair)).finish_reason == "stop"


def test_comments_do_no_harm():
    """OpenRouter keeps the connection open with comment lines."""
    comment = b": OPENROUTER PROCESSING\n\n"
    body = comment * 3 + events(chunk()) + comment + events(FINISH, LAST, "[DONE]")
    assert figures(read_in_every_way("openai_chat", body)) == (30, 20, 60, 10)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0}]},
    ],
)
def test_content_is_seen_with_the_chunk_that_brings_it(delta):
    """Text, reasoning and tool calls are content; a role is not."""
    items = [
        events(item)
        for item in (chunk(choices=[]), chunk(delta={"role": "assistant", "content": ""}))
    ]
    reader = answer_reader("openai_chat", 200, "text/event-stream", None)
    assert first_content(reader, [*items, events(chunk(delta=delta)), events(FINISH)]) == 2


def test_legacy_completions():
    """A legacy completion streams texts, and names its model in another way than asked."""
    part = {"model": "davinci:2023-07-21-v2", "choices": [{"text": " if", "finish_reason": None}]}
    last = {**part, "choices": [{"text": "", "finish_reason": "length"}]}
    answer = read_in_every_way("openai_completions", events(part, last, "[DONE]"))
    assert (answer.model, answer.finish_reason) == ("davinci:2023-07-21-v2", "length")


def test_embeddings_have_input_only():
    """An answer full of numbers is read for its usage alone."""
    vectors = [{"index": n, "embedding": [0.25] * 3000} for n in range(8)]
    usage = {"prompt_tokens": 11, "total_tokens": 11}
    body = orjson.dumps({"data": vectors, "model": "embed-1", "usage": usage})
    assert len(body) > 64 << 10
    for size in (1000, 1 << 20):
        answer = read("openai_embeddings", body, JSON, size=size)
        assert (figures(answer), answer.model, answer.complete) == ((11, 0, 0, 0), "embed-1", True)


RESPONSE = {
    "id": "resp_1",
    "model": "gpt-test-5",
    "status": "in_progress",
    "error": None,
    "usage": None,
    "service_tier": "auto",
}
RESPONSE_USAGE = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 15},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 49,
}
CREATED = {"type": "response.created", "response": RESPONSE}
TEXT = {"type": "response.output_text.delta", "delta": 'a "response.completed" b'}


def terminal(status, **more):
    """Return the event that ends a response."""
    response = {**RESPONSE, "status": status, "service_tier": "default", **more}
    return {"type": f"response.{status}", "response": response}


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_responses_stream(status):
    """Usage is in the event that ends the response, and nowhere else."""
    body = events(CREATED, TEXT, TEXT, terminal(status, usage=RESPONSE_USAGE))
    answer = read_in_every_way("openai_responses", body)
    assert (figures(answer), answer.usage.tokens_reasoning) == ((25, 9, 15, 0), 4)
    assert (answer.model, answer.finish_reason) == ("gpt-test-5", status)
    assert (answer.usage.service_tier, answer.complete) == ("default", True)


def test_failed_response_has_an_error_and_perhaps_no_usage():
    """The first error counts; a failed response may have used nothing."""
    error = {"type": "error", "error": {"type": "insufficient_quota", "message": "No credit"}}
    failed = terminal("failed", error={"code": "insufficient_quota", "message": "Later"})
    answer = read_in_every_way("openai_responses", events(CREATED, error, failed))
    assert (answer.error_type, answer.error_message) == ("stream_error", "No credit")
    assert (answer.usage, answer.finish_reason, answer.complete) == (None, "failed", True)


def test_response_that_breaks_off_has_its_model():
    """response.created names the model; without an end there is no usage."""
    answer = read("openai_responses", events(CREATED, TEXT))
    assert (answer.model, answer.usage, answer.complete) == ("gpt-test-5", None, False)


def test_whole_response_with_misleading_output():
    """Only the response's own members count, whatever its output has inside."""
    output = [{"type": "function_call", "usage": {"input_tokens": 1}, "model": "x", "status": "y"}]
    document = {"output": output, **terminal("completed", usage=RESPONSE_USAGE)["response"]}
    answer = read_in_every_way("openai_responses", orjson.dumps(document), JSON)
    assert (figures(answer), answer.model) == ((25, 9, 15, 0), "gpt-test-5")
    assert (answer.finish_reason, answer.streaming) == ("completed", False)


def test_last_event_of_a_response_can_be_large():
    """A final event with all of the output is read without being kept."""
    output = [{"type": "message", "content": [{"text": 'long "usage" \\ ' * 20_000}]}]
    body = events(CREATED, TEXT, terminal("completed", output=output, usage=RESPONSE_USAGE))
    for size in (1000, 4096, 1 << 20):
        assert figures(read("openai_responses", body, size=size)) == (25, 9, 15, 0)


def test_content_of_a_response():
    """Deltas and tool calls are content; what only opens an item is not."""
    silent = {"type": "response.output_item.added", "item": {"type": "message"}}
    call = {"type": "response.output_item.added", "item": {"type": "local_shell_call"}}
    for first in (TEXT, call):
        reader = answer_reader("openai_responses", 200, "text/event-stream", None)
        assert first_content(reader, [events(item) for item in (CREATED, silent, first)]) == 2

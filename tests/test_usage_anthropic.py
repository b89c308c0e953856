"""The Messages API, by our own small examples."""

from __future__ import annotations

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

from ccproxy_flask.usage import Usage

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "model": "claude-test-1",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 25,
            "cache_read_input_tokens": 7,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": 'Hé "usage": {"input_tokens": 9} \n'},
}
STOP = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 15, "input_tokens": None},
}
END = {"type": "message_stop"}


def test_stream_merges_start_and_delta():
    """Usage of message_delta replaces that of message_start field by field; null keeps."""
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    answer = read_in_every_way(
        "anthropic_messages", events(START, block, {"type": "ping"}, DELTA, DELTA, STOP, END)
    )
    assert figures(answer) == (25, 15, 7, 30)
    assert answer.usage.cache_write_1h_tokens == 10
    assert (answer.model, answer.finish_reason) == ("claude-test-1", "end_turn")
    assert (answer.streaming, answer.complete, answer.error_type) == (True, True, None)


def test_delta_can_raise_the_input():
    """Where server tools ran the delta's input is the one that is billed."""
    stop = {**STOP, "usage": {"input_tokens": 404_500, "output_tokens": 3}}
    assert figures(read("anthropic_messages", events(START, stop, END))) == (404_500, 3, 7, 30)


def test_cache_writes_beyond_the_split_count_as_5_minutes():
    """The split comes at the start only and may cover less than the delta's sum."""
    stop = {**STOP, "usage": {"output_tokens": 3, "cache_creation_input_tokens": 45}}
    used = read("anthropic_messages", events(START, stop, END)).usage
    assert (used.cache_write_tokens, used.cache_write_1h_tokens) == (45, 10)


@pytest.mark.parametrize("kept", range(6))
def test_cut_stream_keeps_what_was_seen(kept):
    """A stream that breaks off has the model and the figures that came until then."""
    parts = [START, DELTA, DELTA, STOP, END]
    answer = read("anthropic_messages", events(*parts[:kept]))
    assert answer.complete is (kept == 5)
    assert answer.model == ("claude-test-1" if kept else None)
    assert figures(answer) == ((25, 15 if kept >= 4 else 1, 7, 30) if kept else None)


def test_stream_cut_inside_its_last_event_keeps_what_is_legible():
    """Half an event without its line end is read as far as it goes."""
    body = events(START, DELTA, STOP)
    answer = read("anthropic_messages", body[: body.index(b'"delta":{"stop') - 1])
    assert figures(answer) == (25, 1, 7, 30)


def test_whole_message_with_a_tool_input_that_looks_like_usage():
    """Only the message's own usage counts, not a member of a tool's input."""
    message = {
        **START["message"],
        "content": [{"type": "tool_use", "input": {"usage": {"input_tokens": 5}, "model": "x"}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2, "speed": "fast"},
    }
    answer = read_in_every_way("anthropic_messages", orjson.dumps(message), JSON)
    assert figures(answer) == (1, 2, 0, 0)
    assert answer.usage.speed == "fast"
    assert (answer.finish_reason, answer.streaming, answer.complete) == ("tool_use", False, True)


def test_compaction_is_added_and_the_advisor_is_apart():
    """Compaction is billed beside the top level; an advisor at its own model's price."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 4},
        "server_tool_use": {"web_search_requests": 2},
        "iterations": [
            {
                "type": "compaction",
                "input_tokens": 100,
                "output_tokens": 50,
                "cache_creation_input_tokens": 40,
                "cache_creation": {"ephemeral_1h_input_tokens": 3},
            },
            {"type": "message", "input_tokens": 10, "output_tokens": 5},
            {
                "type": "advisor_message",
                "model": "claude-big",
                "input_tokens": 8,
                "output_tokens": 9,
            },
        ],
    }
    document = {"model": "claude-test-1", "stop_reason": "end_turn", "usage": usage}
    answer = read_in_every_way("anthropic_messages", orjson.dumps(document), JSON)
    assert answer.usage == Usage(
        tokens_input=110,
        tokens_output=55,
        cache_write_tokens=40,
        cache_write_1h_tokens=3,
        tokens_reasoning=4,
        web_searches=2,
        extra_models=(("claude-big", Usage(tokens_input=8, tokens_output=9)),),
    )


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [
        ("overloaded_error", "overloaded"),
        ("rate_limit_error", "rate_limit"),
        ("api_error", "stream_error"),
        ("invalid_request_error", "stream_error"),
    ],
)
def test_error_event_in_a_stream(kind, error_type):
    """An error inside a 200 is a stream error, except where waiting would help."""
    error = {"type": "error", "error": {"type": kind, "message": "No."}}
    answer = read_in_every_way("anthropic_messages", events(START, DELTA, error))
    assert (answer.error_type, answer.error_message) == (error_type, "No.")
    assert (answer.complete, figures(answer)) == (False, (25, 1, 7, 30))


@pytest.mark.parametrize(
    "first",
    [
        DELTA,
        {**DELTA, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {**DELTA, "delta": {"type": "input_json_delta", "partial_json": "{"}},
        {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "x"}},
    ],
)
def test_content_is_seen_with_the_event_that_brings_it(first):
    """Text, thinking and tool calls are content; pings and empty blocks are not."""
    empty = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
    nothing = {**DELTA, "delta": {"type": "text_delta", "text": ""}}
    items = [events(item) for item in (START, {"type": "ping"}, empty, nothing, first, STOP)]
    assert (
        first_content(answer_reader("anthropic_messages", 200, "text/event-stream", None), items)
        == 4
    )


def test_token_counting_is_no_generation():
    """``{"input_tokens": N}`` is an answer about tokens, not one that used them."""
    assert read("other", b'{"input_tokens":588}', JSON).usage is None

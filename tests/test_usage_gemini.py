"""The Gemini API and Vertex AI, by our own small examples."""

from __future__ import annotations

import orjson
from usage_support import (
    JSON,
    answer_reader,
    events,
    figures,
    first_content,
    read,
    read_in_every_way,
)


def chunk(text="hé", usage=None, **candidate):
    """Return a chunk of a stream, or a whole answer."""
    parts = [{"text": text}] if text else []
    return {
        "candidates": [{"content": {"parts": parts, "role": "model"}, **candidate}],
        "modelVersion": "gemini-test",
        **({"usageMetadata": usage} if usage else {}),
    }


FIRST = {"promptTokenCount": 169, "candidatesTokenCount": 900, "toolUsePromptTokenCount": 50}
LAST = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 40,
    "toolUsePromptTokenCount": 20,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 132,
    "promptTokensDetails": [
        {"modality": "TEXT", "tokenCount": 80},
        {"modality": "AUDIO", "tokenCount": 20},
    ],
    "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}],
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 3}],
    "serviceTier": "standard",
}
STREAM = (chunk(usage=FIRST), chunk(usage=FIRST), chunk("", LAST, finishReason="STOP"))


def test_stream_takes_the_last_usage_whole():
    """The figures are not monotone: what the last one leaves out is not there."""
    answer = read_in_every_way("gemini", events(*STREAM))
    assert figures(answer) == (80, 12, 40, 0)
    assert answer.usage.tokens_reasoning == 5
    assert (answer.usage.audio_input_tokens, answer.usage.cache_audio_read_tokens) == (20, 10)
    assert (answer.usage.image_output_tokens, answer.usage.service_tier) == (3, "standard")
    assert (answer.model, answer.finish_reason) == ("gemini-test", "STOP")
    assert (answer.streaming, answer.complete) == (True, True)


def test_stream_as_a_json_list():
    """Without ``alt=sse`` the chunks come as one JSON list; it is a stream all the same."""
    pretty = (
        b"[" + b",\r\n".join(orjson.dumps(c, option=orjson.OPT_INDENT_2) for c in STREAM) + b"]"
    )
    for body in (orjson.dumps(list(STREAM)), pretty):
        answer = read_in_every_way("gemini", body, JSON)
        assert figures(answer) == (80, 12, 40, 0)
        assert (answer.streaming, answer.complete, answer.model) == (True, True, "gemini-test")


def test_json_list_that_breaks_off_keeps_what_was_seen():
    """Each chunk counts as soon as it is whole, and content is seen in the first."""
    body = orjson.dumps(list(STREAM))
    reader = answer_reader("gemini", 200, JSON, None)
    reader.feed(body[: body.index(b"},{")])
    reader.feed(b"},")
    assert reader.content_seen
    answer = reader.close()
    assert (figures(answer), answer.complete) == ((219, 900, 0, 0), False)


def test_whole_answer():
    """A document is read like the last chunk of a stream."""
    answer = read_in_every_way("gemini", orjson.dumps(STREAM[-1]), JSON)
    assert (figures(answer), answer.streaming) == ((80, 12, 40, 0), False)


def test_vertex_may_send_numbers_for_modalities():
    """4 is audio and 2 is an image; what is no modality is passed over."""
    details = [{"modality": 4, "tokenCount": 6}, {"modality": []}, 3, {"modality": 1}]
    usage = {"promptTokenCount": 9, "promptTokensDetails": details}
    assert read("gemini", events(chunk(usage=usage))).usage.audio_input_tokens == 6


def test_blocked_prompt_used_nothing_that_is_told():
    """A traffic type alone is no usage."""
    body = orjson.dumps({"usageMetadata": {"trafficType": "ON_DEMAND"}, "promptFeedback": {}})
    assert read_in_every_way("gemini", body, JSON).usage is None


def test_first_candidate_speaks():
    """Of several candidates the reason of the first one is recorded."""
    reasons = [{"index": n, "finishReason": reason} for n, reason in enumerate(("STOP", "OTHER"))]
    for candidates in (reasons, reasons[::-1], [{"finishReason": "STOP"}, {"finishReason": "X"}]):
        body = orjson.dumps({"candidates": candidates})
        assert read_in_every_way("gemini", body, JSON).finish_reason == "STOP"


def test_error_in_a_list():
    """An error of a stream request comes as a list of one."""
    error = {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}
    answer = read_in_every_way("gemini", orjson.dumps([error]), JSON, 429)
    assert (answer.error_type, answer.error_message) == ("rate_limit", "Quota")
    assert answer.streaming is False
    assert read("openai_chat", orjson.dumps([error]), JSON, 400).error_type == "rate_limit"


def test_error_inside_a_stream():
    """A chunk that is an error is recorded."""
    error = {"error": {"code": 503, "message": "Busy", "status": "UNAVAILABLE"}}
    answer = read_in_every_way("gemini", events(STREAM[0], error))
    assert (answer.error_type, answer.error_message) == ("overloaded", "Busy")


def test_content_is_seen_with_the_chunk_that_brings_it():
    """An empty part is no content; a function call is."""
    call = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]}
    reader = answer_reader("gemini", 200, "text/event-stream", None)
    assert first_content(reader, [events(item) for item in (chunk(""), call)]) == 1

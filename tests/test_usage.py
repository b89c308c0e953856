"""Readers of answers: framings, codings, errors, and bytes nobody foresaw."""

from __future__ import annotations

import gzip
import random
import zlib

import brotli
import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from usage_support import JSON, NDJSON, SSE, answer_reader, events, figures, read, read_in_every_way

from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.usage import ResponseFacts

APIS = (
    "anthropic_messages",
    "openai_chat",
    "openai_completions",
    "openai_embeddings",
    "openai_responses",
    "gemini",
    "ollama",
    "other",
)
CHAT = {
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
STREAM = events(CHAT, "[DONE]")
CODERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "br, gzip": lambda data: gzip.compress(brotli.compress(data)),
}


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize(("body", "content_type"), [(STREAM, SSE), (orjson.dumps(CHAT), JSON)])
def test_compressed_answers(coding, body, content_type):
    """A copy of the compressed bytes is enough, however they are cut."""
    coded = CODERS[coding](body)
    for size in (1, 2, 5, 1 << 20):
        answer = read("openai_chat", coded, content_type, encoding=coding, size=size)
        assert (figures(answer), answer.complete) == ((3, 4, 0, 0), True)


@pytest.mark.parametrize("coding", ["gzip", "what", "zstd"])
def test_undecodable_answers_are_left(coding):
    """What cannot be decoded is not read, and nothing is raised."""
    assert read("openai_chat", STREAM, SSE, encoding=coding) == ResponseFacts(streaming=True)


@pytest.mark.parametrize(
    "content_type", [SSE, None, "application/octet-stream", "text/plain", JSON]
)
def test_streams_are_known_by_how_they_begin(content_type):
    """A content type that is missing or wrong does not hide a stream."""
    answer = read_in_every_way("openai_chat", STREAM, content_type)
    assert (figures(answer), answer.streaming) == ((3, 4, 0, 0), True)


@pytest.mark.parametrize("content_type", [JSON, None, SSE, "text/plain"])
def test_documents_are_known_by_how_they_begin(content_type):
    """JSON that was announced as a stream is read as JSON."""
    answer = read_in_every_way("openai_chat", b" \r\n" + orjson.dumps(CHAT), content_type)
    assert (figures(answer), answer.streaming, answer.complete) == ((3, 4, 0, 0), False, True)


@pytest.mark.parametrize(
    ("content_type", "streaming"), [(SSE, True), (NDJSON, True), (JSON, False)]
)
def test_answer_without_a_body(content_type, streaming):
    """Of no bytes only the content type speaks."""
    assert answer_reader("openai_chat", 200, content_type, None).close() == ResponseFacts(
        streaming=streaming
    )


def test_content_of_a_document_is_seen_with_its_first_byte():
    """A JSON answer has its content from the first byte on."""
    reader = answer_reader("openai_chat", 200, JSON, None)
    assert not reader.content_seen
    reader.feed(b"{")
    assert reader.content_seen


def test_cut_document_keeps_what_was_seen():
    """A JSON body that breaks off still says what it said."""
    body = orjson.dumps({"model": "m", "usage": CHAT["usage"], "choices": [{"message": "long"}]})
    answer = read("openai_chat", body[:-12], JSON)
    assert (figures(answer), answer.model, answer.complete) == ((3, 4, 0, 0), "m", False)


ERRORS = [
    ("anthropic_messages", 401, {"error": {"type": "authentication_error"}}, "authentication"),
    ("anthropic_messages", 403, {"error": {"type": "permission_error"}}, "permission"),
    ("anthropic_messages", 404, {"error": {"type": "not_found_error"}}, "not_found"),
    ("anthropic_messages", 413, {"error": {"type": "request_too_large"}}, "request_too_large"),
    ("anthropic_messages", 429, {"error": {"type": "rate_limit_error"}}, "rate_limit"),
    ("anthropic_messages", 500, {"error": {"type": "api_error"}}, "api_error"),
    ("anthropic_messages", 500, {"error": {"type": "overloaded_error"}}, "overloaded"),
    ("anthropic_messages", 529, {"error": {"type": "overloaded_error"}}, "overloaded"),
    ("openai_chat", 400, {"error": {"type": "invalid_request_error"}}, "invalid_request"),
    ("openai_chat", 404, {"error": {"type": "invalid_request_error"}}, "not_found"),
    ("openai_responses", 429, {"error": {"type": "insufficient_quota"}}, "rate_limit"),
    ("openai_chat", 503, {"error": {"type": "server_error"}}, "overloaded"),
    ("gemini", 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, "invalid_request"),
    ("gemini", 500, {"error": {"code": 500, "status": "UNAVAILABLE"}}, "overloaded"),
    ("other", 418, {}, "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("api", "status", "document", "error_type"), ERRORS)
def test_error_bodies(api, status, document, error_type):
    """The status says what went wrong; the body's type where the status is a general one."""
    answer = read_in_every_way(api, orjson.dumps(document), JSON, status)
    assert (answer.error_type, answer.usage, answer.streaming) == (error_type, None, False)
    assert answer.error_type in ERROR_TYPES


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "Why"}},
        {"error": "Why"},
        {"detail": "Why"},
        {"detail": [{"msg": "Why", "loc": []}]},
        {"detail": {"message": "Why"}},
        {"object": "error", "message": "Why", "code": 400},
        [{"error": {"message": "Why"}}],
    ],
)
def test_messages_of_errors(document):
    """Each provider has its own place for the message."""
    body = orjson.dumps(document)
    assert read_in_every_way("openai_chat", body, JSON, 400).error_message == "Why"


def test_message_of_an_error_is_short_and_has_no_key():
    """A message is cut to 500 characters, and what looks like a key is hidden."""
    body = orjson.dumps({"error": {"message": "bad key sk-abcdef123456 \0" + "x" * 9000}})
    message = read("openai_chat", body, JSON, 401).error_message
    assert len(message) == 500
    assert message.startswith("bad key ***")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"upstream connect error", "upstream connect error"),
        (b"<html><head><title>502 Bad Gateway</title></head><body/></html>", "502 Bad Gateway"),
        (b"<html></html>", None),
        (b"", None),
        (b"ok", "ok"),
    ],
)
def test_errors_that_are_no_json(body, message):
    """A gateway's page is an error too: its title, or its first words."""
    answer = read_in_every_way("openai_chat", body, "text/html", 502)
    assert (answer.error_type, answer.error_message) == ("api_error", message)


def test_error_in_a_document_that_promised_success():
    """OpenRouter answers some failures with 200."""
    body = orjson.dumps({"error": {"message": "Busy", "code": 503}})
    assert read_in_every_way("openai_chat", body, JSON).error_type == "overloaded"
    failed = {"status": "failed", "model": "m", "error": {"code": "odd", "message": "No"}}
    assert read("openai_responses", orjson.dumps(failed), JSON).error_type == "api_error"


@pytest.mark.parametrize("api", [api for api in APIS if api != "other"])
def test_names_from_the_network_are_bounded(api):
    """A model's name is cut; what has control characters or endless words is none."""
    key = "modelVersion" if api == "gemini" else "model"
    answer = read(api, orjson.dumps({key: "gemma-3/" * 800}), JSON)
    assert len(answer.model) == 200
    for name in ("m\n\x7f", "x" * 5000):
        assert read(api, orjson.dumps({key: name}), JSON).model == "***"


_NOISE = [
    b"data: ", b"\n", b"\r", b"event: x\n", b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",",
    b'"usage":', b'"model":', b'"choices":[', b'"message":', b'"usageMetadata":', b'"done":true',
    b'"error":', b"null", b"-1", b"1e999", b"NaN", b"[DONE]", b"\xff", b"\xed\xa0\x80",
    b'"\\ud800"',
    b'"type":"message_start"', b'"type":"response.completed"', b'"response":', b"0" * 50,
]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    api=st.sampled_from(APIS),
    parts=st.lists(st.sampled_from(_NOISE) | st.binary(max_size=5), max_size=30),
    content_type=st.sampled_from([SSE, JSON, NDJSON, None]),
    encoding=st.sampled_from([None, "gzip", "br", "zstd", "deflate"]),
    status=st.sampled_from([200, 400, 529]),
)
def test_no_bytes_make_a_reader_raise(api, parts, content_type, encoding, status):
    """Whatever an upstream sends, reading along gives an answer."""
    reader = answer_reader(api, status, content_type, encoding, small_json=len(parts))
    for part in parts:
        reader.feed(part)
    assert isinstance(reader.close(), ResponseFacts)


@pytest.mark.parametrize("api", APIS)
def test_values_of_the_wrong_type_do_no_harm(api):
    """Every member the readers look at may be of any type."""
    names = (
        "type", "message", "usage", "delta", "response", "error", "choices", "candidates", "model",
        "usageMetadata", "modelVersion", "content", "parts", "x_groq", "status", "content_block",
        "item", "iterations", "finish_reason", "finishReason", "stop_reason", "service_tier",
    )  # fmt: skip
    shuffled = random.Random(5)
    simple = [None, True, 3, -1.5, "message_start", "message_delta", "response.completed", [], {}]

    def value(depth):
        if depth == 0 or shuffled.random() < 0.3:
            return shuffled.choice(simple)
        if shuffled.random() < 0.3:
            return [value(depth - 1) for _ in range(2)]
        return {name: value(depth - 1) for name in shuffled.sample(names, 7)}

    for _ in range(150):
        documents = [value(3), value(3)]
        for content_type, body in (
            (SSE, events(*[d for d in documents if isinstance(d, dict)])),
            (JSON, orjson.dumps(documents[0])),
        ):
            reader = answer_reader(api, 200, content_type, None)
            reader.feed(body)
            assert not reader.failed
            assert isinstance(reader.close(), ResponseFacts)
            assert not reader.failed

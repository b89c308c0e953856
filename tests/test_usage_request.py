"""What a request says of itself."""

from __future__ import annotations

import gzip
import json

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from usage_support import pieces_of, request_reader

from ccproxy_flask.usage import RequestFacts

CHAT = "/v1/chat/completions"


def facts(body, api="openai_chat", path=CHAT, size=1 << 20, small_json=64 << 10, **headers):
    """Return what is read of a request; headers with dashes as underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    reader = request_reader(api, names, path, small_json=small_json)
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    for piece in pieces_of(data, size):
        reader.feed(piece)
    return reader.close()


BODY = {
    "messages": [{"role": "user", "content": 'say "model": "no"', "model": "no", "stream": False}],
    "model": "gpt-test",
    "stream": True,
    "stream_options": {"include_usage": True},
    "service_tier": "flex",
    "user": "u-1",
}


@pytest.mark.parametrize("small_json", [0, 64 << 10])
def test_body_cut_anywhere(small_json):
    """Model, streaming and user are found however the body comes."""
    expected = RequestFacts("gpt-test", True, user_id="u-1")
    for size in (*range(1, 30), 1 << 20):
        assert facts(BODY, size=size, small_json=small_json) == expected


@pytest.mark.parametrize("coding", ["zstd", "gzip"])
def test_compressed_body(coding):
    """Codex compresses its requests."""
    pack = {"zstd": zstandard.compress, "gzip": gzip.compress}[coding]
    for size in (1, 1 << 20):
        found = facts(pack(orjson.dumps(BODY)), content_encoding=coding, size=size)
        assert (found.model, found.streaming) == ("gpt-test", True)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("sk-ant-api03-CANARY0123", "***"),
        ("AIzaCANARY0123456789", "***"),
        ("pplx-7b-chat", "pplx-7b-chat"),
        ("xai-grok-4", "xai-grok-4"),
    ],
)
def test_key_in_the_place_of_a_model(model, kept):
    """A key that somebody took for a model's name is not kept; names like keys are."""
    assert facts({"model": model}).model == kept


def test_large_body():
    """Of megabytes of messages nothing is kept but the facts."""
    body = {"messages": [{"content": 'text "quoted" \\ ' * 100}] * 1500} | BODY
    body["messages"] = [{"content": 'text "quoted" \\ ' * 100}] * 1500
    assert facts(body, size=65_536).model == "gpt-test"


@pytest.mark.parametrize(
    ("api", "path", "body", "model", "streaming"),
    [
        ("gemini", "/v1beta/models/gemini-x:streamGenerateContent?alt=sse", {}, "gemini-x", True),
        ("gemini", "/v1beta/models/gemini-x:generateContent", {"contents": []}, "gemini-x", False),
        (
            "gemini",
            "/v1/projects/p/locations/l/publishers/google/models/gemini-y:generateContent",
            {},
            "gemini-y",
            False,
        ),
        (
            "openai_chat",
            "/openai/deployments/mine/chat/completions?api-version=1",
            {},
            "mine",
            False,
        ),
        ("openai_chat", CHAT, {"model": "m"}, "m", False),
        ("anthropic_messages", "/v1/messages", {"model": "m", "stream": True}, "m", True),
        ("ollama", "/api/chat", {"model": "m"}, "m", True),
        ("ollama", "/api/embed", {"model": "m"}, "m", False),
        ("ollama", "/api/chat", {"model": "m", "stream": False}, "m", False),
        ("other", "/v1/models/gpt-x", {}, "gpt-x", None),
        ("other", "/v1/models", b"", None, None),
        ("other", "/v1/files", b"--form\r\n{", None, None),
        ("openai_chat", CHAT, b"[1]", None, None),
        ("openai_chat", CHAT, {"model": 7, "stream": "yes"}, None, False),
    ],
)
def test_model_and_streaming(api, path, body, model, streaming):
    """The model is in the body or in the path; each API has its own default for streaming."""
    found = facts(body, api, path)
    assert (found.model, found.streaming) == (model, streaming)


OLD_USER = "user_ab12_account_11-22_session_33-44"
NEW_USER = json.dumps({"device_id": "dev", "account_uuid": "acc", "session_id": "ses"})


@pytest.mark.parametrize(
    ("headers", "body", "session", "user", "agent"),
    [
        ({"x_claude_code_session_id": "s"}, {"metadata": {"user_id": NEW_USER}}, "s", "acc", None),
        ({"x_claude_code_agent_id": "a"}, {"metadata": {"user_id": NEW_USER}}, "ses", "acc", "a"),
        ({}, {"metadata": {"user_id": OLD_USER}}, "33-44", "11-22", None),
        ({}, {"metadata": {"user_id": "somebody"}}, None, "somebody", None),
        ({}, {"metadata": {"user_id": '{"device_id": "d", "account_uuid": ""}'}}, None, "d", None),
        ({"session_id": "s", "thread_id": "s"}, {}, "s", None, None),
        ({"session_id": "s", "thread_id": "t"}, {"prompt_cache_key": "p"}, "s", None, "t"),
        ({"thread_id": "t"}, {}, "t", None, None),
        ({"x_codex_turn_metadata": '{"session_id":"s","thread_id":"t"}'}, {}, "s", None, "t"),
        ({"x_codex_turn_metadata": "nonsense {"}, {"prompt_cache_key": "p"}, "p", None, None),
        ({"x_session_id": "s"}, {}, "s", None, None),
        ({"x_session_affinity": "s"}, {}, "s", None, None),
        ({}, {"safety_identifier": "h", "user": "u"}, None, "h", None),
        ({}, {"user": {"not": "text"}, "metadata": [1]}, None, None, None),
    ],
)
def test_on_whose_behalf(headers, body, session, user, agent):
    """Claude Code, Codex, opencode and the SDKs each say who they are in their own way."""
    found = facts(body, **headers)
    assert (found.session_id, found.user_id, found.agent_id) == (session, user, agent)


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("3", 3), ("9999", 1000), ("x", None), ("-1", None), ("²", None)]
)
def test_retry_count(text, count):
    """The SDKs count their retries."""
    assert facts({}, x_stainless_retry_count=text).retry_count == count


def test_ids_are_short_and_no_keys():
    """An id is at most 128 characters long, and a key in its place is hidden."""
    found = facts({"user": "sk-proj-1234567890"}, x_session_id="s\n" + "x" * 500)
    assert len(found.session_id) == 128
    assert found.user_id == "***"


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.binary(max_size=9)
        | st.sampled_from([b'{"model":', b'"m"', b',"metadata":', b"}", b'"']),
        max_size=12,
    ),
    header=st.text(max_size=12),
    encoding=st.sampled_from(["", "gzip", "zstd", "x"]),
)
def test_nothing_makes_a_reader_raise(parts, header, encoding):
    """Whatever a client sends, reading along gives facts."""
    names = ("content-encoding", "x-stainless-retry-count", "x-codex-turn-metadata", "session-id")
    headers = dict.fromkeys(names, header) | {"content-encoding": encoding}
    reader = request_reader("openai_chat", headers, header, small_json=len(parts))
    for part in parts:
        reader.feed(part)
    assert isinstance(reader.close(), RequestFacts)

"""Who sends a request, what it is for, and what it goes on from, by what it says of itself."""

from __future__ import annotations

import json

import orjson
import pytest
from usage_support import pieces_of, request_reader

from ccproxy_flask.dialects import CLASSES, ENDPOINTS, meaning_of
from ccproxy_flask.usage.clients import client_of
from ccproxy_flask.usage.request_class import (
    GENERATIONS,
    REQUEST_CLASSES,
    STATED,
    TURNS,
    class_at_end,
    class_of,
)

KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("claude-cli/2.1.273 (external, cli)", ("claude-code", "2.1.273")),
        ("codex_cli_rs/0.144.6 (Ubuntu 24.4.0; x86_64) xterm", ("codex", "0.144.6")),
        ("codex_vscode/0.150.0-alpha.1 (Mac)", ("codex", "0.150.0-alpha.1")),
        ("opencode/1.0.61 ai-sdk/5", ("opencode", "1.0.61")),
        ("GeminiCLI/0.9.0/gemini-2.5-pro (linux; x64)", ("gemini-cli", "0.9.0")),
        ("aider/0.86.1", ("aider", "0.86.1")),
        ("Anthropic/Python 0.70.0", ("anthropic-sdk-python", "0.70.0")),
        ("AsyncAnthropic/Python 0.70.0", ("anthropic-sdk-python", "0.70.0")),
        ("AsyncAzureOpenAI/Python 2.7.1", ("openai-sdk-python", "2.7.1")),
        ("OpenAI/JS 6.1.0", ("openai-sdk-typescript", "6.1.0")),
        ("google-genai-sdk/1.50.0 gl-python/3.12", ("google-genai", "1.50.0")),
        ("Mozilla/5.0 (X11; Linux)", ("browser", None)),
        ("curl/8.14.1", ("curl", "8.14.1")),
        ("my-script", ("my-script", None)),
        ("", (None, None)),
        (f"{KEY}/1.0", ("***", "1.0")),
        (f"curl/8{KEY}", ("curl", "***")),
        ("(comment)", (None, None)),
    ],
)
def test_clients_are_named_by_their_user_agent(agent, expected):
    """Those in the table have one name each, others that of their product; a key is not shown."""
    assert client_of({"user-agent": agent}) == expected


@pytest.mark.parametrize(
    ("name", "value", "client"),
    [
        ("x-claude-code-session-id", "s-1", "claude-code"),
        ("originator", "codex_cli_rs", "codex"),
        ("x-title", "Aider", "aider"),
        ("http-referer", "https://aider.chat", "aider"),
        ("originator", "else", "axios"),
    ],
)
def test_clients_are_named_by_headers_of_their_own(name, value, client):
    """Where a library or a setting has replaced the user agent, other headers tell."""
    assert client_of({"user-agent": "axios/1.13", name: value}).name == client


def facts(body=None, api="anthropic_messages", path="/v1/messages", size=1 << 20, **headers):
    """Return what is read of a request; headers with dashes as underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    reader = request_reader(api, names, path)
    for piece in pieces_of(orjson.dumps(body if body is not None else {"model": "m"}), size):
        reader.feed(piece)
    return reader.close()


CLAUDE = {"user_agent": "claude-cli/2.1.273 (external, cli)", "x_claude_code_session_id": "s-1"}
CODEX = {"user_agent": "codex_cli_rs/0.144.6 (Linux)", "session_id": "t-0", "thread_id": "t-0"}
MEMORY = {"x-codex-turn-metadata": '{"request_kind":"memory"}'}


@pytest.mark.parametrize(
    ("said", "body", "expected"),
    [
        *(
            ({**CLAUDE, "x_claude_code_request_class": word}, {}, word)
            for word in ("main", "subagent", "workflow", "compaction", "auxiliary")
        ),
        ({**CLAUDE, "x_claude_code_request_class": "of tomorrow"}, {}, None),
        ({**CLAUDE, "x_claude_code_compaction": "manual"}, {}, "compaction"),
        (CLAUDE, {"max_tokens": 1}, "probe"),
        (CLAUDE, {"max_tokens": True}, None),
        (CLAUDE, {"max_tokens": [1]}, None),
        ({"user_agent": "curl/8"}, {"max_tokens": 1}, None),
        (CODEX, {"generate": False}, "probe"),
        (CODEX, {"generate": 0}, None),
        (CODEX | {"x_codex_turn_metadata": '{"request_kind":"compaction"}'}, {}, "compaction"),
        (CODEX | {"x_codex_turn_metadata": '{"request_kind":"turn"}'}, {}, None),
        (CODEX, {"client_metadata": MEMORY}, "auxiliary"),
        (CODEX | {"x_openai_subagent": "compact"}, {}, "compaction"),
        (CODEX | {"x_openai_subagent": "review"}, {}, "subagent"),
    ],
)  # fmt: skip
def test_clients_state_what_a_request_is_for(said, body, expected):
    """The words of Claude Code and Codex are taken where only they say them, however cut."""
    for size in (1, 7, 1 << 20):
        assert facts(body, size=size, **said).stated_class == expected


def test_sessions_have_conversations_of_agents():
    """The main conversation is named by the session, that of an agent by both."""
    main = facts(**CLAUDE)
    agent = facts(**CLAUDE, x_claude_code_agent_id="a-1", x_claude_code_parent_agent_id="a-0")
    assert (main.conversation_id, main.agent_id, main.parent_agent_id) == ("s-1", None, None)
    assert (agent.conversation_id, agent.agent_id) == ("s-1/a-1", "a-1")
    assert agent.parent_agent_id == "a-0"
    thread = {"thread_id": "t-1", "x_codex_parent_thread_id": "t-0"}
    child = facts(**CODEX | thread)
    assert (child.session_id, child.conversation_id) == ("t-0", "t-0/t-1")
    assert child.parent_agent_id is None  # the main conversation has no agent
    turn = json.dumps({"session_id": "t-0", "thread_id": "t-2", "parent_thread_id": "t-1"})
    nested = facts({"client_metadata": {"x-codex-turn-metadata": turn}})
    assert (nested.conversation_id, nested.parent_agent_id) == ("t-0/t-2", "t-1")


def test_chains_are_read_of_bodies():
    """What a request goes on from is found in each format, and nothing else is taken for it."""
    assert facts({"previous_response_id": "resp_1"}).previous_message_id == "resp_1"
    thread = {"thread": {"type": "continue", "previous_message_id": "msg_1"}}
    assert facts(thread).previous_message_id == "msg_1"
    assert facts({"thread": {"type": "new"}}).begins_chain
    assert facts({"conversation": {"id": "conv_1"}}).conversation_id == "conv_1"
    assert facts({"conversation": "conv_2"}).conversation_id == "conv_2"
    odd = facts({"previous_response_id": 7, "thread": [1], "conversation": {"id": {}}})
    assert (odd.previous_message_id, odd.conversation_id, odd.begins_chain) == (None, None, False)
    long = facts(x_session_id="s" * 500, x_claude_code_agent_id="a" * 500)
    assert len(long.conversation_id) <= 256


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Bash=742;Read=9", 751.0),
        ("a%3Db=5", 5.0),
        ("Bash=", None),
        ("", None),
        ("x=-4;y=1e9;z=99999999999", None),
    ],
)
def test_durations_of_tools_are_added(said, expected):
    """What is no duration is left out."""
    assert facts(x_claude_code_prev_tool_durations=said).tools_ms == expected
    assert facts().tools_ms is None


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("POST", "/v1/messages", {}, "main"),
        ("POST", "/v1/messages/count_tokens", {}, "count_tokens"),
        ("POST", "/v1/responses/input_tokens", {}, "count_tokens"),
        ("POST", "/v1beta/models/m:countTokens", {}, "count_tokens"),
        ("GET", "/v1/models", {}, "models"),
        ("GET", "/v1/models", {"anthropic-version": "2023-06-01"}, "models"),
        ("POST", "/v1/embeddings", {}, "embeddings"),
        ("POST", "/v1beta/models/m:embedContent", {}, "embeddings"),
        ("POST", "/v1/messages/batches", {}, "batches"),
        ("POST", "/v1/files", {}, "files"),
        ("POST", "/v1/images/edits", {}, "images"),
        ("POST", "/v1/audio/speech", {}, "audio"),
        ("HEAD", "/api/hello", {}, "probe"),
        ("OPTIONS", "/v1/models", {}, "probe"),
        ("GET", "/v1/responses/resp_1", {}, "other"),
    ],
)
def test_endpoints_say_what_requests_are_for(method, path, headers, expected):
    """What does not generate has the class of its endpoint."""
    meaning = meaning_of(method, path, headers)
    of_endpoint = CLASSES.get(meaning.endpoint)
    found = class_of(method, of_endpoint, None, generates=meaning.generates, is_agent=False)
    assert found == expected


@pytest.mark.parametrize(
    ("known", "method", "status", "is_route", "expected"),
    [
        ("other", "GET", 404, False, "probe"),
        ("other", "GET", 404, True, "other"),
        ("other", "GET", 426, True, "probe"),
        ("other", "POST", 404, False, "other"),
        ("main", "POST", 404, True, "main"),
        (None, "GET", None, False, "other"),
    ],
)
def test_answers_show_what_was_a_probe(known, method, status, is_route, expected):
    """A browser's 404 and a refused upgrade are probes; an API's own 404 is not."""
    assert class_at_end(known, method, status, is_route) == expected


def test_tables_are_consistent():
    """Every word that is used is in the closed list, and each rule names its source."""
    assert {*TURNS, *GENERATIONS, *CLASSES.values()} <= set(REQUEST_CLASSES)
    assert {word for each in STATED for word in each.means.values()} <= set(REQUEST_CLASSES)
    assert all(each.source and each.client for each in STATED)
    assert CLASSES.keys() <= ENDPOINTS

"""What is written down of requests: the columns whose rule is easily got wrong."""

from __future__ import annotations

import json

import pytest
from conftest import Server
from scripted import ScriptedUpstream
from test_proxy import ANTHROPIC, stream_all

STREAMED = json.dumps({"model": "m-1", "messages": [], "stream": True}).encode()
WHOLE = json.dumps({"model": "m-1", "messages": [], "stream": False}).encode()
GEMINI = "/v1beta/models/gemini-2.5-pro"


@pytest.mark.parametrize(
    ("path", "body", "asked"),
    [
        ("/v1/messages", STREAMED, True),
        ("/v1/messages", WHOLE, False),
        ("/v1/chat/completions", STREAMED, True),
        ("/v1/responses", WHOLE, False),
        (f"{GEMINI}:streamGenerateContent", b"{}", True),
        (f"{GEMINI}:generateContent", b"{}", False),
        ("/ollama/api/chat", b'{"model":"m-1"}', True),
        ("/ollama/api/chat", b'{"model":"m-1","stream":false}', False),
    ],
)
@pytest.mark.parametrize("answered", ["stream", "error"])
def test_streaming_is_what_the_client_asked_for(
    server: Server, upstream: ScriptedUpstream, path: str, body: bytes, asked: bool, answered: str
) -> None:
    """Whether the answer becomes a stream, or an error, the column says what was asked."""
    if answered == "stream":
        upstream.script = stream_all
    else:
        upstream.script = lambda talk: talk.answer(b'{"error":{}}', "400 Bad Request")
    _, named, _ = server.request("POST", path, body, ANTHROPIC)
    [row] = server.records(1, request_id=named["x-ccproxy-request-id"])
    assert row["streaming"] is asked

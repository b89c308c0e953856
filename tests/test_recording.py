"""What is written down of requests: the columns whose rule is easily got wrong."""

from __future__ import annotations

import json

import pytest
import websocket
from conftest import Server
from scripted import ScriptedUpstream, wait_until
from test_proxy import ANTHROPIC, CHAT, CHAT_ANSWER, error_of, stream_all

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


@pytest.mark.parametrize(
    ("path", "headers", "kept"),
    [
        ("/v1/messages", "request-id: req_1\r\nx-request-id: edge_1\r\n", "req_1"),
        ("/v1/messages", "x-request-id: edge_1\r\n", "edge_1"),
        ("/v1/chat/completions", "request-id: other\r\nx-request-id: req_2\r\n", "req_2"),
    ],
)
def test_upstreams_id_is_the_one_of_its_api(
    server: Server, upstream: ScriptedUpstream, path: str, headers: str, kept: str
) -> None:
    """Each API has its own header for the id that its support and its telemetry know."""
    upstream.script = lambda talk: talk.send(
        f"HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\n{{}}".encode()
    )
    _, named, _ = server.request("POST", path, CHAT)
    [row] = server.records(1, request_id=named["x-ccproxy-request-id"])
    assert row["upstream_request_id"] == kept


def costs(server: Server) -> float:
    """Return what all requests so far have cost, as the metrics say."""
    metrics = server.request("GET", "/metrics")[2].decode()
    lines = [line for line in metrics.splitlines() if line.startswith("ccproxy_cost_usd_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize(
    "claimed",
    [
        {"prompt_tokens": 1 << 53, "completion_tokens": 2},
        {"prompt_tokens": 3, "completion_tokens": 1 << 60},
        {"prompt_tokens": 100_000_001, "completion_tokens": 0},
        {"prompt_tokens": 3, "completion_tokens": 1e300},
    ],
)
def test_impossible_usage_is_no_usage(
    server: Server, upstream: ScriptedUpstream, claimed: dict[str, float]
) -> None:
    """Token counts that no answer can have are neither recorded nor priced, and the log says so."""
    answer = json.loads(CHAT_ANSWER) | {"usage": claimed}
    upstream.script = lambda talk: talk.answer(json.dumps(answer).encode())
    before = costs(server)
    _, named, _ = server.request("POST", "/v1/chat/completions", CHAT)
    request_id = named["x-ccproxy-request-id"]
    [row] = server.records(1, request_id=request_id)
    assert (row["tokens_input"], row["tokens_output"], row["cost_usd"]) == (None, None, None)
    assert row["model"] == "gpt-4o-mini-2024-07-18"
    assert costs(server) - before < 100
    lines = server.log_path.read_text().splitlines()
    assert len([line for line in lines if "usage_implausible" in line and request_id in line]) == 1


def test_large_usage_is_usage(server: Server, upstream: ScriptedUpstream) -> None:
    """Ten million tokens are a large context, and count."""
    usage = {"prompt_tokens": 10_000_000, "completion_tokens": 200_000}
    answer = json.loads(CHAT_ANSWER) | {"usage": usage}
    upstream.script = lambda talk: talk.answer(json.dumps(answer).encode())
    _, named, _ = server.request("POST", "/v1/chat/completions", CHAT)
    [row] = server.records(1, request_id=named["x-ccproxy-request-id"])
    assert (row["tokens_input"], row["tokens_output"]) == (10_000_000, 200_000)


H2C = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
}
WEBSOCKET = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@pytest.mark.parametrize("upgrade", [H2C, H2C | {"Upgrade": "TLS/1.0, IRC/6.9"}])
def test_offered_upgrade_is_ignored(
    server: Server, upstream: ScriptedUpstream, upgrade: dict[str, str]
) -> None:
    """A client that offers another protocol (as Java's HttpClient does) is served over this one."""
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER)
    headers = {"content-type": "application/json", **upgrade}
    status, _, body = server.request("POST", "/v1/chat/completions", CHAT, headers)
    assert (status, body) == (200, CHAT_ANSWER)
    sent = {name for name, _ in upstream.seen[0].headers}
    assert sent.isdisjoint({"upgrade", "http2-settings", "connection"})
    assert upstream.seen[0].body == CHAT
    assert server.records(1)[0]["status_code"] == 200


def test_refused_websocket_is_recorded_as_refused(server: Server) -> None:
    """The row of a WebSocket that is sent to HTTP has the status that the client got."""
    status, named, body = server.request("GET", "/v1/responses", headers=WEBSOCKET)
    assert (status, error_of(body)["code"]) == (426, "upgrade_required")
    [row] = server.records(1, request_id=named["x-ccproxy-request-id"])
    assert (row["status_code"], row["error_type"]) == (426, "upgrade_required")


def test_websocket_of_the_dashboard_is_logged_as_one(server: Server) -> None:
    """The log line of a socket says 101, that of one without a fitting handshake what it got."""
    address = f"ws://127.0.0.1:{server.port}/dashboard/ws"
    watcher = websocket.create_connection(address, timeout=10)
    watcher.close()

    def logged() -> list[str]:
        lines = server.log_path.read_text().splitlines()
        return [line for line in lines if "path=/dashboard/ws" in line]

    found = wait_until(logged)
    assert isinstance(found, list)
    assert "status_code=101" in found[-1]


@pytest.mark.parametrize(
    "path",
    [
        "/favicon.ico",
        "/robots.txt",
        "/apple-touch-icon.png",
        "/apple-touch-icon-120x120-precomposed.png",
        "/.well-known/appspecific/com.chrome.devtools.json",
    ],
)
def test_what_browsers_ask_for_is_no_traffic(
    server: Server, upstream: ScriptedUpstream, path: str
) -> None:
    """What a browser asks of any origin is answered here, and is no request of anybody."""
    status, named, _ = server.request("GET", path)
    assert status == 404
    assert "x-ccproxy-request-id" not in named
    assert upstream.seen == []
    server.request("POST", "/v1/chat/completions", CHAT)
    [row] = server.records(1)
    assert row["path"] == "/v1/chat/completions"

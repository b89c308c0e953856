"""The proxy on the wire: a real client, the real server, a scripted upstream."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
from conftest import Server, free_port
from scripted import Conversation, ScriptedUpstream, wait_until

MESSAGE = json.dumps(
    {"model": "claude-sonnet-4-5", "max_tokens": 64, "messages": [], "stream": True}
).encode()
CHAT = b'{"model":"gpt-4o-mini","messages":[]}'
ANTHROPIC = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
EVENTS = [
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":'
    b'"claude-sonnet-4-5-20250929","usage":{"input_tokens":25,"output_tokens":1}}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"Hel\xc3\xa9"}}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":15}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
CHAT_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
).encode()


def stream_all(talk: Conversation) -> None:
    """Answer with the whole example stream."""
    talk.start_stream()
    for event in EVENTS:
        talk.chunk(event)
    talk.end_stream()


def connect(server: Server) -> socket.socket:
    """Return a raw connection to the server."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a POST request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Read until *mark* has come."""
    held = b""
    while mark not in held:
        data = sock.recv(65536)
        assert data, held
        held += data
    return held


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the connection ends."""
    held = b""
    while data := sock.recv(65536):
        held += data
    return held


# -- transparency ------------------------------------------------------------------------------


def test_request_reaches_the_upstream_as_it_was_sent(
    server: Server, upstream: ScriptedUpstream
) -> None:
    """Method, raw path and query, repeated headers and the body arrive unchanged, with no more."""
    with connect(server) as sock:
        sock.sendall(
            b"PUT /openai/v1//a%2Fb%20c/../d?x=%41&&y=a+b&x= HTTP/1.1\r\nHost: localhost:1\r\n"
            b"X-Twice: one\r\nX-Twice: two\r\nx_under: kept\r\nAccept-Encoding: br\r\n"
            b"Connection: close, X-Hop\r\nX-Hop: gone\r\nTE: trailers\r\nContent-Length: 4\r\n\r\n"
            b"\x00\xff{}"
        )
        read_to_end(sock)

    [seen] = upstream.seen
    assert seen.line == "PUT /v1//a%2Fb%20c/../d?x=%41&&y=a+b&x= HTTP/1.1"
    assert seen.headers == [
        ("host", f"127.0.0.1:{upstream.port}"),
        ("x-twice", "one"),
        ("x-twice", "two"),
        ("x_under", "kept"),
        ("accept-encoding", "br"),
        ("content-length", "4"),
    ]
    assert seen.body == b"\x00\xff{}"


def test_answer_reaches_the_client_as_it_was_sent(
    server: Server, upstream: ScriptedUpstream
) -> None:
    """Status, reason, repeated headers and compressed bytes arrive unchanged; our ids are added."""
    body = gzip.compress(CHAT_ANSWER)
    upstream.script = lambda talk: talk.send(
        b"HTTP/1.1 207 Quite Fine\r\nSet-Cookie: a=1\r\nX-Odd:  \xe9 \r\nset-cookie: b=2\r\n"
        b"Content-Encoding: gzip\r\nKeep-Alive: timeout=9\r\nContent-Type: application/json\r\n"
        b"Date: Wed, 21 Jan 2026 04:05:54 GMT\r\nServer: cloudflare\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    with connect(server) as sock:
        sock.sendall(post("/v1/chat/completions", CHAT, {"Connection": "close"}))
        head, _, got = read_to_end(sock).partition(b"\r\n\r\n")

    [record] = server.records(1)
    lines = head.split(b"\r\n")
    assert got == body
    assert lines[0] == b"HTTP/1.1 207 Quite Fine"
    assert lines[1:] == [
        b"Connection: close",
        b"Set-Cookie: a=1",
        b"X-Odd: \xe9",
        b"set-cookie: b=2",
        b"Content-Encoding: gzip",
        b"Content-Type: application/json",
        b"Date: Wed, 21 Jan 2026 04:05:54 GMT",
        b"Server: cloudflare",
        b"Content-Length: %d" % len(body),
        b"x-ccproxy-request-id: " + record["request_id"].encode(),
        b"x-request-id: " + record["request_id"].encode(),
    ]
    assert (record["tokens_input"], record["tokens_output"]) == (9, 2)
    assert (record["status_code"], record["model"]) == (207, "gpt-4o-mini-2024-07-18")


def test_upstreams_request_id_is_kept(server: Server, upstream: ScriptedUpstream) -> None:
    """Where the upstream names the request, its name stays, and ours comes beside it."""
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER, headers=(("X-Request-Id", "req_up"),))

    _, headers, _ = server.request("POST", "/v1/chat/completions", CHAT)

    [record] = server.records(1)
    assert headers["x-request-id"] == "req_up"
    assert headers["x-ccproxy-request-id"] == record["request_id"] != "req_up"
    assert record["upstream_request_id"] == "req_up"


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "OPTIONS", "DELETE", "PATCH", "PROPFIND", "BREW"]
)
def test_every_method_is_passed_on(server: Server, upstream: ScriptedUpstream, method: str) -> None:
    """Methods are the upstream's business."""
    body = b"" if method == "HEAD" else b"{}"
    upstream.script = lambda talk: talk.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + body)

    status, headers, got = server.request(method, "/v1/models")

    assert (status, headers["content-length"], got) == (200, "2", body)
    assert upstream.seen[0].line == f"{method} /v1/models HTTP/1.1"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "302 Found"])
def test_answers_without_a_body(server: Server, upstream: ScriptedUpstream, status: str) -> None:
    """Answers without a body and redirects are passed on, not followed."""
    upstream.script = lambda talk: talk.send(
        f"HTTP/1.1 {status}\r\nLocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".encode()
    )

    got, headers, body = server.request("GET", "/v1/models")

    assert (got, headers["location"], body) == (int(status[:3]), "/elsewhere", b"")
    assert len(upstream.seen) == 1


def test_body_that_ends_with_the_connection(server: Server, upstream: ScriptedUpstream) -> None:
    """An HTTP/1.0 upstream's body ends with its connection, and arrives whole."""

    def script(talk: Conversation) -> None:
        talk.send(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + CHAT_ANSWER)
        talk.cut()

    upstream.script = script

    assert server.request("POST", "/v1/chat/completions", CHAT)[2] == CHAT_ANSWER
    assert server.records(1)[0]["tokens_output"] == 2


def test_interim_answers_are_not_the_answer(server: Server, upstream: ScriptedUpstream) -> None:
    """What an upstream says before its answer (1xx) is left out."""

    def script(talk: Conversation) -> None:
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        talk.answer(CHAT_ANSWER)

    upstream.script = script

    assert server.request("POST", "/v1/chat/completions", CHAT)[2] == CHAT_ANSWER


# -- streams -----------------------------------------------------------------------------------


def test_each_event_arrives_before_the_next_is_sent(
    server: Server, upstream: ScriptedUpstream
) -> None:
    """The head, then each event, reach the client while the upstream still waits."""
    go = threading.Semaphore(0)

    def script(talk: Conversation) -> None:
        talk.start_stream()
        for event in EVENTS:
            go.acquire(timeout=10)
            talk.chunk(event)
        go.acquire(timeout=10)
        talk.end_stream()

    upstream.script = script
    with connect(server) as sock:
        sock.sendall(post("/v1/messages", MESSAGE, ANTHROPIC))
        read_until(sock, b"\r\n\r\n")
        for event in EVENTS:
            go.release()
            read_until(sock, event)
        go.release()
        read_until(sock, b"0\r\n\r\n")

    [record] = server.records(1)
    assert (record["tokens_input"], record["tokens_output"]) == (25, 15)
    assert (record["streaming"], record["chunks"], record["finish_reason"]) == (True, 4, "end_turn")
    assert record["model"] == "claude-sonnet-4-5-20250929"
    assert 0 < record["ttfb_ms"] <= record["ttft_ms"] <= record["duration_ms"]
    assert record["cost_usd"] == pytest.approx(25 * 3e-6 + 15 * 15e-6)


def test_slow_client_slows_the_upstream(server: Server, upstream: ScriptedUpstream) -> None:
    """What a client does not read stays with the upstream, not in our memory."""
    size, sent = 64 << 20, [0]

    def script(talk: Conversation) -> None:
        talk.send(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        while sent[0] < size:
            talk.send(bytes(65536))
            sent[0] += 65536

    upstream.script = script
    with connect(server) as sock:
        sock.sendall(post("/v1/files", b"{}", {"Connection": "close"}))
        wait_until(lambda: sent[0] > 0)
        before = -1
        while before != sent[0]:
            before = sent[0]
            time.sleep(0.3)
        assert sent[0] < 32 << 20
        got = 0
        while data := sock.recv(1 << 20):
            got += len(data)

    assert got > size


def test_stream_cut_by_the_upstream_is_cut_for_the_client(
    server: Server, upstream: ScriptedUpstream
) -> None:
    """A part of a stream is never given for the whole of it, and its record is an error."""

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(EVENTS[0] + EVENTS[1])
        talk.cut()

    upstream.script = script
    with pytest.raises(http.client.IncompleteRead) as caught:
        server.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)

    [record] = server.records(1)
    assert caught.value.partial == EVENTS[0] + EVENTS[1]
    assert (record["status_code"], record["error_type"]) == (200, "upstream_broken")
    assert (record["tokens_input"], record["client_disconnected"]) == (25, False)


def test_short_body_is_cut_for_the_client(server: Server, upstream: ScriptedUpstream) -> None:
    """A body shorter than its length ends the client's connection early too."""

    def script(talk: Conversation) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
        talk.cut()

    upstream.script = script
    with pytest.raises(http.client.IncompleteRead):
        server.request("GET", "/v1/models")

    assert server.records(1)[0]["error_type"] == "upstream_broken"


# -- clients that hang up ----------------------------------------------------------------------


def test_client_that_hangs_up_in_a_stream(server: Server, upstream: ScriptedUpstream) -> None:
    """The upstream's connection is closed, and the tokens seen are recorded."""
    closed = threading.Event()

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(EVENTS[0] + EVENTS[1])
        if talk.wait_for_hangup():
            closed.set()
        talk.cut()

    upstream.script = script
    with connect(server) as sock:
        sock.sendall(post("/v1/messages", MESSAGE, ANTHROPIC))
        read_until(sock, EVENTS[1])

    assert closed.wait(30)
    [record] = server.records(1)
    assert record["error_type"] == "client_disconnected"
    assert (record["client_disconnected"], record["tokens_input"]) == (True, 25)


def test_client_that_hangs_up_before_the_answer(server: Server, upstream: ScriptedUpstream) -> None:
    """A client that leaves while the upstream thinks ends the upstream's work."""
    gone: list[bool] = []

    def script(talk: Conversation) -> None:
        gone.append(talk.wait_for_hangup())
        talk.cut()

    upstream.script = script
    with connect(server) as sock:
        sock.sendall(post("/v1/chat/completions", CHAT))
        wait_until(lambda: upstream.seen)

    wait_until(lambda: gone, 3)
    [record] = server.records(1)
    assert gone == [True]
    assert (record["status_code"], record["error_type"]) == (499, "client_disconnected")


def test_client_that_stops_in_its_upload(server: Server, upstream: ScriptedUpstream) -> None:
    """Half a request is not passed on as a whole one."""
    with connect(server) as sock:
        sock.sendall(post("/v1/files", bytes(300_000))[:200_000])

    [record] = server.records(1)
    assert record["error_type"] == "client_disconnected"
    assert upstream.seen == []


# -- uploads -----------------------------------------------------------------------------------


def test_large_upload_is_streamed(server: Server, upstream: ScriptedUpstream) -> None:
    """32 MB arrive whole, and begin to arrive before the client has sent them all."""
    body = hashlib.sha256(b"x").digest() * (1 << 20)
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER)

    status, _, got = server.request("POST", "/v1/chat/completions", body)

    assert (status, got) == (200, CHAT_ANSWER)
    assert hashlib.sha256(upstream.seen[0].body).digest() == hashlib.sha256(body).digest()
    assert server.records(1)[0]["request_bytes"] == 32 << 20


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
def test_chunked_upload(server: Server, upstream: ScriptedUpstream, size: int) -> None:
    """A body in chunks of unknown number is passed on in chunks."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with connect(server) as sock:
        sock.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for start in range(0, size, 7000):
            piece = body[start : start + 7000]
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        answer = read_to_end(sock)

    [seen] = upstream.seen
    assert answer.startswith(b"HTTP/1.1 200")
    assert (seen.header("transfer-encoding"), seen.header("content-length")) == ("chunked", None)
    assert seen.body == body


def test_expect_continue(server: Server, upstream: ScriptedUpstream) -> None:
    """A client that waits to be asked for its body is asked for it."""
    with connect(server) as sock:
        request = post("/v1/chat/completions", CHAT, {"Expect": "100-continue"})
        head, _, body = request.partition(b"\r\n\r\n")
        sock.sendall(head + b"\r\n\r\n")
        assert b"100 Continue" in read_until(sock, b"\r\n\r\n")
        sock.sendall(body)
        assert b"HTTP/1.1 200" in read_until(sock, b"\r\n\r\n")

    assert upstream.seen[0].body == CHAT


def test_answer_before_the_end_of_the_upload(server: Server, start_server: object) -> None:
    """An upstream that refuses a large body at once is heard at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard = threading.Event()

    def refuse() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(1000)
            sock.sendall(
                b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
            )
            heard.wait(60)

    threading.Thread(target=refuse, daemon=True).start()
    assert callable(start_server)
    own = start_server(upstream_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    with connect(own) as sock:
        sock.sendall(post("/v1/files", bytes(40 << 20))[: 1 << 20])
        assert b"413 Too Large" in read_until(sock, b"{}")
    heard.set()
    listener.close()

    assert own.records(1)[0]["status_code"] == 413


# -- upstreams that fail -----------------------------------------------------------------------


def error_of(body: bytes) -> dict[str, object]:
    """Return the error object of an answer."""
    error = json.loads(body)["error"]
    assert isinstance(error, dict)
    return error


def test_upstream_that_refuses(start_server: Callable[..., Server]) -> None:
    """No connection is a 502 in the shape of the client's API, and a record."""
    own = start_server(upstream_url=f"http://127.0.0.1:{free_port()}")

    anthropic = own.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)
    openai = own.request("POST", "/v1/responses", CHAT)
    gemini = own.request("POST", "/v1beta/models/gemini-2.5-pro:generateContent", b"{}")

    rows = own.records(3)
    assert [anthropic[0], openai[0], gemini[0]] == [502, 502, 502]
    assert json.loads(anthropic[2])["type"] == "error"
    assert json.loads(anthropic[2])["request_id"] == rows[0]["request_id"]
    assert error_of(anthropic[2])["type"] == "api_error"
    assert set(error_of(openai[2])) == {"message", "type", "code", "param"}
    assert error_of(gemini[2])["status"] == "UNAVAILABLE"
    assert {row["error_type"] for row in rows} == {"upstream_unreachable"}
    assert rows[1]["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("kind", ["close", "reset", "garbage", "half head"])
def test_upstream_that_answers_nothing_useful(
    server: Server, upstream: ScriptedUpstream, kind: str
) -> None:
    """An upstream that breaks off before its answer is a 502; the request is not sent twice."""

    def script(talk: Conversation) -> None:
        if kind == "garbage":
            talk.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        elif kind == "half head":
            talk.send(b"HTTP/1.1 200 OK\r\ncontent-le")
        if kind == "reset":
            talk.reset()
        else:
            talk.cut()

    upstream.script = script
    status, _, body = server.request("POST", "/v1/chat/completions", CHAT)

    assert (status, error_of(body)["code"]) == (502, "upstream_broken")
    assert server.records(1)[0]["error_type"] == "upstream_broken"
    assert len(upstream.seen) == 1


def test_upstream_that_is_silent(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """An upstream that says nothing for too long is a 504, or a cut where it had begun."""

    def script(talk: Conversation) -> None:
        if b"stream" in talk.request.body:
            talk.start_stream()
            talk.chunk(EVENTS[0])
        talk.wait_for_hangup()
        talk.cut()

    upstream.script = script
    own = start_server(PROXY__TIMEOUT_READ_SECONDS="0.5")

    status, _, body = own.request("POST", "/v1/chat/completions", CHAT)
    assert (status, error_of(body)["code"]) == (504, "upstream_timeout")
    with pytest.raises(http.client.IncompleteRead):
        own.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)

    first, second = own.records(2)
    assert (first["error_type"], second["error_type"]) == ("upstream_timeout",) * 2
    assert (first["status_code"], second["status_code"]) == (504, 200)
    assert second["tokens_input"] == 25


# -- requests that are refused -----------------------------------------------------------------


def test_unknown_route(server: Server) -> None:
    """A path that means no provider gets an error that names the ones there are."""
    status, headers, body = server.request("POST", "/nobody/v1/chat/completions", CHAT)

    [record] = server.records(1)
    assert status == 404
    assert "openrouter" in str(error_of(body)["message"])
    assert headers["x-ccproxy-request-id"] == record["request_id"]
    assert record["error_type"] == "unknown_route"


def test_claude_codes_first_request(server: Server) -> None:
    """``HEAD /api/hello`` is a 404 without a body."""
    assert server.request("HEAD", "/api/hello")[::2] == (404, b"")


def test_websocket_upgrade_is_sent_to_http(server: Server) -> None:
    """Codex is told to use HTTP, in the one way that makes it do so at once."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    status, _, body = server.request("GET", "/v1/responses", headers=upgrade)

    assert (status, error_of(body)["code"]) == (426, "upgrade_required")
    assert server.records(1)[0]["error_type"] == "upgrade_required"


def test_body_over_the_limit(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """Too long a body is a 413, also where its length is not told; nothing of it is a request."""
    own = start_server(PROXY__MAX_BODY_BYTES="100000")

    told = own.request("POST", "/v1/messages", bytes(100_001), ANTHROPIC)
    with connect(own) as sock:
        sock.sendall(
            b"POST /v1/responses HTTP/1.1\r\nHost: x.localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(2):
            sock.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        untold = read_until(sock, b"}")

    assert told[0] == 413
    assert error_of(told[2])["type"] == "request_too_large"
    assert untold.startswith(b"HTTP/1.1 413")
    assert upstream.seen == []
    assert {row["error_type"] for row in own.records(2)} == {"body_too_large"}


def test_headers_over_the_limit(server: Server, upstream: ScriptedUpstream) -> None:
    """Too long headers are a 431 in the shape of the client's API."""
    status, _, body = server.request(
        "POST", "/v1/messages", MESSAGE, {**ANTHROPIC, "x-long": "x" * 70_000}
    )

    assert (status, json.loads(body)["type"]) == (431, "error")
    assert upstream.seen == []
    assert server.records(1)[0]["error_type"] == "headers_too_large"


def test_foreign_host_is_refused(server: Server, upstream: ScriptedUpstream) -> None:
    """A page whose name was made to point here cannot spend money."""
    status, _, _ = server.request("POST", "/v1/messages", MESSAGE, {"Host": "evil.example"})

    assert (status, upstream.seen) == (403, [])
    assert server.records(1)[0]["error_type"] == "not_allowed"


# -- connections -------------------------------------------------------------------------------


def test_connections_are_used_again(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """Requests one after the other share a connection to the upstream."""
    own = start_server()
    for _ in range(10):
        own.request("POST", "/v1/chat/completions", CHAT)

    assert (len(upstream.seen), upstream.connections) == (10, 1)


def test_connection_closed_by_the_upstream_is_not_used(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """An idle connection that the upstream has closed costs no request."""

    def script(talk: Conversation) -> None:
        talk.answer(CHAT_ANSWER)
        talk.cut()

    upstream.script = script
    own = start_server()
    statuses = []
    for _ in range(5):
        statuses.append(own.request("POST", "/v1/chat/completions", CHAT)[0])
        time.sleep(0.05)

    assert statuses == [200] * 5
    assert len(upstream.seen) == 5


def test_clients_connection_is_used_again(server: Server, upstream: ScriptedUpstream) -> None:
    """A client keeps its connection, after errors of ours too."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for path in ("/v1/models", "/nobody/x", "/v1/models"):
        connection.request("GET", path)
        connection.getresponse().read()
        assert connection.sock is not None
    connection.close()

    assert len(server.records(3)) == 3


# -- keys, sessions, injected usage ------------------------------------------------------------


def test_configured_key_is_sent_where_the_client_sends_none(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """A provider's own key is injected in its API's header, and never replaces a client's."""
    own = start_server(
        PROVIDERS__ANTHROPIC__API_KEY="sk-ant-configured",
        PROVIDERS__OPENAI__API_KEY="sk-configured",
        PROVIDERS__GEMINI__API_KEY="AIzaconfigured",
    )
    own.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)
    own.request("POST", "/v1/chat/completions", CHAT)
    own.request("POST", "/v1beta/models/m:generateContent", b"{}")
    own.request("POST", "/v1beta/models/m:generateContent?key=AIzaclient", b"{}")
    own.request("POST", "/v1/messages", MESSAGE, {**ANTHROPIC, "Authorization": "Bearer c"})

    headers = [seen.headers for seen in upstream.seen]
    assert ("x-api-key", "sk-ant-configured") in headers[0]
    assert ("authorization", "Bearer sk-configured") in headers[1]
    assert ("x-goog-api-key", "AIzaconfigured") in headers[2]
    assert "x-goog-api-key" not in dict(headers[3])
    assert "x-api-key" not in dict(headers[4])
    assert "AIza" not in json.dumps(own.records(5))


def test_keys_are_told_apart_but_not_kept(server: Server, tmp_path_factory: object) -> None:
    """Two keys have two ids, the same key has one, and no piece of a key is on disk or in logs."""
    secrets = ["sk-ant-api03-goldfinchAAAA", "sk-ant-api03-goldfinchBBBB"]
    for key in (*secrets, secrets[0]):
        server.request("POST", "/v1/messages?key=goldfinchQUERY", MESSAGE, {"x-api-key": key})

    first, second, third = server.records(3)
    assert first["api_key_id"] == third["api_key_id"] != second["api_key_id"]
    for path in server.home.rglob("*"):
        if path.is_file():
            assert b"goldfinch" not in path.read_bytes(), path


def test_sessions_are_recorded(server: Server) -> None:
    """Who asked is taken from what Claude Code sends."""
    server.request(
        "POST",
        "/v1/messages?beta=true",
        json.dumps(
            {
                "model": "claude-opus-4-5",
                "metadata": {"user_id": json.dumps({"device_id": "d", "session_id": "s-1"})},
            }
        ).encode(),
        {**ANTHROPIC, "X-Claude-Code-Session-Id": "s-1", "x-stainless-retry-count": "2"},
    )

    [record] = server.records(1)
    assert (record["session_id"], record["retry_count"]) == ("s-1", 2)
    assert (record["query"], record["model_requested"]) == ("beta=true", "claude-opus-4-5")


def test_injected_usage_is_recorded_and_not_shown(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """The record has the tokens; the client sees the stream that it asked for."""
    delta = b'data: {"id":"c","model":"gpt-4o-mini","choices":[{"delta":{"content":"x"}}]%b}\n\n'

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(delta % b',"usage":null')
        talk.chunk(
            b'data: {"id":"c","model":"gpt-4o-mini","choices":[],"usage":'
            b'{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'
        )
        talk.chunk(b"data: [DONE]\n\n")
        talk.end_stream()

    upstream.script = script
    own = start_server(PROXY__INJECT_STREAM_USAGE="true")
    body = b'{"model":"gpt-4o-mini","messages":[],"stream":true}'
    _, _, got = own.request("POST", "/v1/chat/completions", body, {"Accept-Encoding": "gzip"})

    [record] = own.records(1)
    [seen] = upstream.seen
    assert json.loads(seen.body)["stream_options"] == {"include_usage": True}
    assert (seen.header("accept-encoding"), seen.header("content-length")) == (
        "identity",
        str(len(seen.body)),
    )
    assert got == delta % b"" + b"data: [DONE]\n\n"
    assert (record["tokens_input"], record["tokens_output"]) == (7, 3)


# -- stopping ----------------------------------------------------------------------------------


def test_stop_is_quick_and_finishes_what_runs(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """SIGTERM lets a running stream end, does not wait for idle connections, and loses nothing."""
    go = threading.Event()

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(EVENTS[0])
        go.wait(10)
        for event in EVENTS[1:]:
            talk.chunk(event)
        talk.end_stream()

    upstream.script = script
    own = start_server()
    idle = http.client.HTTPConnection("127.0.0.1", own.port)
    idle.request("GET", "/health")
    idle.getresponse().read()
    with connect(own) as sock:
        sock.sendall(post("/v1/messages", MESSAGE, ANTHROPIC))
        read_until(sock, EVENTS[0])
        stopper = threading.Thread(target=own.stop)
        began = time.monotonic()
        stopper.start()
        time.sleep(0.5)
        go.set()
        read_until(sock, b"0\r\n\r\n")
        stopper.join(15)
    idle.close()

    assert own.process is not None
    assert own.process.returncode == 0
    assert time.monotonic() - began < 20

"""The proxy against peers that bend HTTP: whatever they do, no message is taken for two."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import Server
from scripted import Conversation, ScriptedUpstream

CHAT = b'{"model":"gpt-4o-mini","messages":[]}'
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def exchange(server: Server, sent: bytes, timeout: float = 10) -> bytes:
    """Send bytes on a connection of their own, and return all that comes until its end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as sock:
        sock.sendall(sent)
        held = b""
        while data := sock.recv(65536):
            held += data
        return held


def saying(data: bytes) -> Callable[[Conversation], None]:
    """Return a script that answers with *data*, and closes the connection."""

    def script(talk: Conversation) -> None:
        talk.send(data)
        talk.cut()

    return script


def post(headers: bytes, body: bytes = CHAT) -> bytes:
    """Return a POST with *headers*, whose body has a length."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    return head + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


# -- requests ----------------------------------------------------------------------------------


def test_length_is_not_for_connection_to_hide(server: Server, upstream: ScriptedUpstream) -> None:
    """A body whose length is called hop-by-hop does not become a request of its own."""
    inner = b"POST /v1/smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    for _ in range(2):
        answer = exchange(server, post(b"Connection: close, Content-Length\r\n", inner))
        assert answer.startswith(b"HTTP/1.1 200")

    assert [seen.line for seen in upstream.seen] == ["POST /v1/chat/completions HTTP/1.1"] * 2
    assert [seen.body for seen in upstream.seen] == [inner] * 2


@pytest.mark.parametrize("framing", [b"gzip, chunked", b"deflate,chunked"])
def test_unknown_transfer_coding_is_refused(
    server: Server, upstream: ScriptedUpstream, framing: bytes
) -> None:
    """A body in a coding that is not passed on is not passed on without its name."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = exchange(
        server, head + b"Transfer-Encoding: " + framing + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )

    assert answer.startswith(b"HTTP/1.1 400")
    assert upstream.seen == []
    assert server.records(1)[0]["error_type"] == "bad_request"


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n"])
def test_malformed_chunks_are_a_bad_request(
    server: Server, upstream: ScriptedUpstream, body: bytes
) -> None:
    """A client that is there and sends nonsense is told so, and did not hang up."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    answer = exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    [record] = server.records(1)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
    assert (record["error_type"], record["client_disconnected"]) == ("bad_request", False)
    assert upstream.seen == []


def test_malformed_chunks_late_in_an_upload(server: Server, upstream: ScriptedUpstream) -> None:
    """Nonsense behind the part that was passed on already is told and recorded in the same way."""
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = (b"8000\r\n" + bytes(0x8000) + b"\r\n") * 5
    answer = exchange(server, head + pieces + b"zz\r\n")

    assert answer.startswith(b"HTTP/1.1 400")
    assert server.records(1)[0]["error_type"] == "bad_request"
    assert upstream.seen == []


KEY = b"HERONkey0123456789"
UNREADABLE = [
    (KEY + b"@ /v1/models HTTP/1.1\r\nHost: a", 400, "method", ""),
    (KEY + b" " + KEY + b" " + KEY, 400, "request line", ""),
    (b"GET " + KEY + b" HTTP/1.1\r\nHost: a", 400, "request line", ""),
    (b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY, 400, "header", "/v1/models"),
    (
        b"GET /v1/models?key=" + KEY + b"\xc3\xa9 HTTP/1.1\r\nHost: a",
        400,
        "request line",
        "/v1/models",
    ),
    (b"POST /v1beta/x?key=" + KEY + b" HTTP/3.0\r\nHost: a", 400, "HTTP/1.1", "/v1beta/x"),
    (b"G@T /v1/models HTTP/1.1\r\nHost: " + KEY, 400, "method", ""),
    (
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization Bearer " + KEY,
        400,
        "header",
        "/v1/models",
    ),
    (
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY + b"(: x",
        400,
        "name of a header",
        "/v1/models",
    ),
    (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-api-key: a\r\n " + KEY, 400, "folded", "/v1/models"),
    (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: " + KEY, 400, "twice", "/v1/models"),
    (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nExpect: " + KEY, 417, "100-continue", "/v1/models"),
    (
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + KEY,
        501,
        "coding",
        "/v1/messages",
    ),
    (b"GET /v1/" + KEY * 500 + b" HTTP/1.1\r\nHost: a", 414, "8190", ""),
    (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nCookie: " + KEY * 8000, 431, "131072", "/v1/models"),
    (
        b"GET /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 201 + b"b: c",
        431,
        "200 headers",
        "/v1/models",
    ),
]


@pytest.mark.parametrize(("sent", "status", "reason", "path"), UNREADABLE)
def test_what_cannot_be_read_is_answered_and_recorded(
    server: Server, upstream: ScriptedUpstream, sent: bytes, status: int, reason: str, path: str
) -> None:
    """In the shape of the API, with a row, and with nothing of what may be a key."""
    answer = exchange(server, sent + b"\r\n\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    error = json.loads(body)["error"]
    assert reason in error["message"]
    [record] = server.records(1)
    assert (record["status_code"], record["path"]) == (status, path)
    assert record["error_type"] == ("headers_too_large" if status == 431 else "bad_request")
    assert record["error_message"] == error["message"]
    assert f"x-ccproxy-request-id: {record['request_id']}".encode() in head
    assert "HERON" not in json.dumps(record) + server.log_path.read_text() + answer.decode()
    assert upstream.seen == []


def test_path_with_encoded_line_breaks_is_passed_on(
    server: Server, upstream: ScriptedUpstream
) -> None:
    """What a path's escapes stand for is the upstream's business."""
    answer = exchange(server, GET.replace(b"/v1/models", b"/v1/files/a%0d%0ab%00%ff"))

    assert answer.startswith(b"HTTP/1.1 200")
    assert upstream.seen[0].line == "GET /v1/files/a%0d%0ab%00%ff HTTP/1.1"
    assert len(server.records(1)) == 1


@pytest.mark.parametrize("value", [b"/nowhere", b"/v1"])
def test_script_name_is_a_header_like_any_other(
    server: Server, upstream: ScriptedUpstream, value: bytes
) -> None:
    """A header that WSGI servers take for a setting changes nothing, and is passed on."""
    request = GET.replace(b"Connection", b"Script_Name: " + value + b"\r\nConnection")
    answer = exchange(server, request)

    assert answer.startswith(b"HTTP/1.1 200")
    assert upstream.seen[0].line == "GET /v1/models HTTP/1.1"
    assert upstream.seen[0].header("script_name") == value.decode()


# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_chunks_overrule_a_length(
    server: Server, upstream: ScriptedUpstream, framing: bytes
) -> None:
    """An answer with two framings reaches the client with the one that counts, and whole."""
    upstream.script = saying(OK + framing + b"\r\n5\r\nhello\r\n0\r\n\r\n")

    status, headers, body = server.request("GET", "/v1/models")

    assert (status, body, "content-length" in headers) == (200, b"hello", False)


def test_repeated_length_is_told_once(server: Server, upstream: ScriptedUpstream) -> None:
    """Two equal lengths become one."""
    upstream.script = saying(OK + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\n{}")

    assert exchange(server, GET).lower().count(b"content-length") == 1


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"GET", OK + b"Content-Length: abc\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (b"GET", OK + b"Transfer-Encoding: chunked\r\nContent-Length: abc\r\n\r\n0\r\n\r\n"),
        (b"GET", OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}"),
        (b"HEAD", OK + b"Content-Length: abc\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Same\r\nContent-Length: -1\r\n\r\n"),
        (b"GET", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nx"),
    ],
)
def test_answer_that_cannot_be_framed(
    server: Server, upstream: ScriptedUpstream, method: bytes, answer: bytes
) -> None:
    """An answer whose end nobody could tell is a 502, with its record; nothing stays behind."""
    upstream.script = saying(answer)

    got = exchange(server, GET.replace(b"GET", method))

    assert got.startswith(b"HTTP/1.1 502")
    assert server.records(1)[0]["error_type"] == "upstream_broken"
    assert active_requests(server) == 0


def active_requests(server: Server) -> float:
    """Return the gauge of requests in flight."""
    text = server.request("GET", "/metrics")[2].decode()
    [line] = [line for line in text.splitlines() if line.startswith("ccproxy_active_requests ")]
    return float(line.split()[1])


@pytest.mark.parametrize(
    ("method", "head"),
    [(b"HEAD", OK + b"Content-Length: 2\r\n\r\n"), (b"GET", b"HTTP/1.1 204 Nothing\r\n\r\n")],
)
def test_body_where_none_may_be_ends_the_connection(
    start_server: Callable[..., Server], upstream: ScriptedUpstream, method: bytes, head: bytes
) -> None:
    """A body behind an answer that has none is never taken for the answer to somebody else."""
    upstream.script = lambda talk: talk.send(head + b"{}")
    own = start_server()
    for _ in range(2):
        assert b"{}" not in exchange(own, GET.replace(b"GET", method))

    assert upstream.connections == 2


def test_endless_interim_answers(server: Server, upstream: ScriptedUpstream) -> None:
    """An upstream that only ever announces an answer is given up."""

    def script(talk: Conversation) -> None:
        while True:
            talk.send((b"HTTP/1.1 103 Early Hints\r\nlink: " + b"x" * 1000 + b"\r\n\r\n") * 16)

    upstream.script = script

    assert exchange(server, GET).startswith(b"HTTP/1.1 502")
    assert server.records(1)[0]["error_type"] == "upstream_broken"


# -- requests that are still coming when they are answered ---------------------------------------


def upload(server: Server, length: int = 8 << 20, sent: int = 300_000) -> socket.socket:
    """Return a connection on which an upload of *length* bytes has begun."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length
    sock.sendall(head + bytes(sent))
    return sock


@pytest.fixture
def hasty() -> Iterator[HastyUpstream]:
    """An upstream that answers before it has read a request."""
    upstream = HastyUpstream()
    yield upstream
    upstream.close()


class HastyUpstream:
    """Answers the first bytes of each request with ``answer``, and reads no more."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                sock.recv(1000)
                sock.sendall(self.answer)

    def close(self) -> None:
        """End all connections."""
        for sock in (self._listener, *self._open):
            sock.close()


def test_early_answer_is_the_only_one(
    start_server: Callable[..., Server], hasty: HastyUpstream
) -> None:
    """A client that stalls in its upload gets the early answer, no second one, and the end."""
    own = start_server(upstream_url=hasty.url)
    with upload(own) as sock:
        held = b""
        while data := sock.recv(65536):
            held += data

    head, _, body = held.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in head
    assert body == b"{}"
    assert own.records(1)[0]["status_code"] == 413
    assert b"Traceback" not in own.log_path.read_bytes()


def test_client_that_sends_all_before_it_reads_gets_the_early_answer(
    start_server: Callable[..., Server], hasty: HastyUpstream
) -> None:
    """What is still sent does not make the client's system throw the answer away."""
    own = start_server(upstream_url=hasty.url)
    with upload(own) as sock:
        sock.sendall(bytes((8 << 20) - 300_000))
        assert sock.recv(65536).startswith(b"HTTP/1.1 413")


def test_stalled_upload_to_a_silent_upstream(
    start_server: Callable[..., Server], hasty: HastyUpstream
) -> None:
    """Where neither side moves, the answer is one 504, and the connection ends."""
    hasty.answer = b""
    own = start_server(upstream_url=hasty.url, PROXY__TIMEOUT_READ_SECONDS="0.5")
    with upload(own) as sock:
        held = b""
        while data := sock.recv(65536):
            held += data

    assert held.startswith(b"HTTP/1.1 504")
    assert held.count(b"HTTP/1.1") == 1
    assert own.records(1)[0]["error_type"] == "upstream_timeout"


def test_refused_upload_that_stalls_is_recorded_at_once(server: Server) -> None:
    """The record of a refused request does not wait for the rest of it."""
    with upload(server, length=1 << 40) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 413")
        [record] = server.records(1)

    assert record["error_type"] == "body_too_large"
    assert record["duration_ms"] < 1000


# -- answers that are changed, and ways round ----------------------------------------------------

CHAT_STREAM = b'{"model":"gpt-4o-mini","messages":[],"stream":true}'
DELTA = b'data: {"id":"c","choices":[{"delta":{"content":"x"}}]%b}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


def test_injected_usage_in_an_answer_with_a_length(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """A stream that had a length loses it with what is taken out, and arrives whole."""
    events = DELTA % b',"usage":null' + USAGE + b"data: [DONE]\n\n"
    upstream.script = lambda talk: talk.answer(
        events, headers=(("content-type", "text/event-stream"),)
    )
    own = start_server(PROXY__INJECT_STREAM_USAGE="true")

    _, headers, body = own.request("POST", "/v1/chat/completions", CHAT_STREAM, timeout=5)

    assert body == DELTA % b"" + b"data: [DONE]\n\n"
    assert "content-length" not in headers
    assert own.records(1)[0]["tokens_input"] == 7


def test_compressed_stream_is_not_held_back_for_injected_usage(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """Where an upstream compresses although nobody asked for it, its bytes pass as they come."""
    go = threading.Event()

    def script(talk: Conversation) -> None:
        talk.start_stream(extra="content-encoding: gzip\r\n")
        talk.chunk(b"\x1f\x8bfirst")
        go.wait(10)
        talk.end_stream()

    upstream.script = script
    own = start_server(PROXY__INJECT_STREAM_USAGE="true")
    with socket.create_connection(("127.0.0.1", own.port), timeout=5) as sock:
        sock.sendall(post(b"", CHAT_STREAM))
        held = b""
        while b"first" not in held:
            held += sock.recv(65536)
        go.set()


def test_chunked_upload_through_an_outbound_proxy(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """A short body in chunks is put into chunks once, and nothing of ours is added."""
    own = start_server(upstream_url="http://upstream.example", PROXY__OUTBOUND_PROXY=upstream.url)
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = exchange(own, head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")

    [seen] = upstream.seen
    assert answer.startswith(b"HTTP/1.1 200")
    assert seen.body == b"{}"
    assert seen.header("user-agent") is None
    assert seen.header("accept-encoding") is None


def test_our_id_is_told_once(server: Server, upstream: ScriptedUpstream) -> None:
    """Behind another proxy of this kind, a client gets the id of the one it talks to."""
    upstream.script = lambda talk: talk.answer(b"{}", headers=(("X-CCProxy-Request-Id", "inner"),))

    head = exchange(server, GET).lower()

    [record] = server.records(1)
    assert head.count(b"x-ccproxy-request-id") == 1
    assert record["request_id"].encode() in head


def test_large_answer_holds_up_nobody(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """While an answer comes as fast as it can be read, others are served by the same worker."""
    sending, served = threading.Event(), threading.Event()

    def script(talk: Conversation) -> None:
        talk.start_stream()
        until = time.monotonic() + 15
        while not served.is_set() and time.monotonic() < until:
            talk.send(b"1\r\nx\r\n" * 20_000)
            sending.set()
        talk.end_stream()

    upstream.script = script
    own = start_server()
    thread = threading.Thread(target=own.request, args=("GET", "/v1/models"))
    thread.start()
    assert sending.wait(10)
    status = own.request("GET", "/health", timeout=10)[0]
    served.set()
    thread.join(30)

    assert status == 200


def test_client_that_hangs_up_while_tls_is_not_agreed(start_server: Callable[..., Server]) -> None:
    """An upstream that never answers the TLS handshake does not outlive its client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = start_server(upstream_url=f"https://127.0.0.1:{listener.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", own.port)) as sock:
            sock.sendall(post(b""))
            silent, _ = listener.accept()
        with silent:
            silent.settimeout(3)
            while silent.recv(65536):
                pass
        [record] = own.records(1)

    assert record["error_type"] == "client_disconnected"
    assert record["duration_ms"] < 3000


def test_long_method_is_passed_on_and_not_kept(server: Server, upstream: ScriptedUpstream) -> None:
    """A method of any length is passed on; what is no method of HTTP's kind is not kept."""
    method = b"M" * 5000
    exchange(server, GET.replace(b"GET", method))

    assert upstream.seen[0].line.startswith(method.decode() + " ")
    assert server.records(1)[0]["method"] == "***"


# -- what comes after an answer ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "rows"), [(b"/nonexistent", 404, 1), (b"/health", 405, 0)]
)
def test_rest_of_a_body_that_is_broken_gets_no_answer_of_its_own(
    server: Server, path: bytes, status: int, rows: int
) -> None:
    """Who is answered before the end of its body hears no second word, and has no second row."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(server, head + b"zz\r\n")

    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert answer.count(b"HTTP/1.1") == 1
    exchange(server, GET)
    records = server.records(rows + 1)
    assert [record["path"] for record in records] == [path.decode()] * rows + ["/v1/models"]


def test_broken_body_for_a_page_of_ours(server: Server) -> None:
    """It is the client's fault there, too."""
    head = b"POST /logs/sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")

    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "bad_request"


def test_refused_client_that_stays_is_recorded_at_once(server: Server) -> None:
    """The row is there while the rest of the connection is still read."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET /v1/models HTTP/9.9\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400")
        [record] = server.records(1, seconds=3)
    assert record["duration_ms"] < 1000


def test_refusal_of_a_head_request_has_no_body(server: Server) -> None:
    """As every answer to HEAD."""
    answer = exchange(server, b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.endswith(b"\r\n\r\n")


def test_endless_head_is_refused_while_others_are_served(start_server) -> None:
    """A head without an end is not gathered by the megabyte, which would hold up the worker."""
    server: Server = start_server(workers=1)
    line = b"a: " + b"b" * 60_000 + b"\r\n"
    answer = exchange(server, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + line * 10)

    assert answer.startswith(b"HTTP/1.1 431")
    assert server.records(1)[0]["error_type"] == "headers_too_large"


def test_debug_log_shows_no_key_of_a_client_that_leaves(start_server) -> None:
    """Not in what gunicorn says of half a head, either."""
    server: Server = start_server(workers=1, LOGGING__LEVEL="debug")
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-api-key: sk-" + KEY)
    exchange(server, GET)
    server.records(1)
    assert "HERON" not in server.log_path.read_text()

"""Tracing in the real server: what goes through it can be looked at afterwards."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, free_port
from scripted import Conversation, ScriptedUpstream, wait_until
from test_proxy import ANTHROPIC, CHAT, CHAT_ANSWER, EVENTS, MESSAGE, post, stream_all

from ccproxy_flask.capture import read_trace

KEY = "opaque-CANARY-Zq7x2Wk9Lm"
ID_HEADER = "x-ccproxy-request-id"


@pytest.fixture(scope="module")
def traced_server(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[Server]:
    """One server that traces everything into files, with a provider that is not there."""
    server = Server(
        tmp_path_factory.mktemp("traced"),
        shared_upstream.url,
        workers=1,
        TRACING__FILE="true",
        TRACING__VERBOSE="true",
        PROVIDERS__GROQ__BASE_URL=f"http://127.0.0.1:{free_port()}",
    ).start()
    yield server
    server.stop()


@pytest.fixture
def traced(traced_server: Server, upstream: ScriptedUpstream) -> Server:
    """That server, without traces."""
    for path in directory(traced_server).glob("*"):
        path.unlink()
    return traced_server


def directory(server: Server) -> Path:
    """Return where a server keeps its traces."""
    return server.database.parent / "traces"


def trace_of(server: Server, request_id: str) -> dict[str, Any]:
    """Wait for the trace of a request."""

    def found() -> dict[str, Any] | None:
        try:
            return read_trace(directory(server), request_id)
        except FileNotFoundError:
            return None

    trace = wait_until(found)
    assert isinstance(trace, dict)
    return trace


def only_trace(server: Server) -> dict[str, Any]:
    """Wait for the one trace there is."""
    found = wait_until(lambda: list(directory(server).glob("*.trace.json")))
    assert isinstance(found, list)
    assert len(found) == 1
    return trace_of(server, found[0].name.partition(".")[0])


def everything(server: Server) -> str:
    """Return all that was written: traces, log, database, journal."""
    paths = [path for path in server.home.rglob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode("latin-1") for path in paths)


def test_exchange_is_traced_under_the_id_of_its_record(traced: Server, upstream: ScriptedUpstream):
    """Both sides of an exchange are kept, by the id that the client and the record have."""
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    status, named, body = traced.request("POST", f"/v1/chat/completions?key={KEY}", CHAT, headers)
    assert (status, body) == (200, CHAT_ANSWER)
    trace = trace_of(traced, named[ID_HEADER])
    assert trace["request"]["url"] == f"{upstream.url}/v1/chat/completions?key=***"
    assert trace["request"]["body"] == json.loads(CHAT)
    assert trace["response"]["body"] == json.loads(CHAT_ANSWER)
    assert ["authorization", "***"] in trace["request"]["headers"]
    assert ["host", f"127.0.0.1:{upstream.port}"] in trace["request"]["headers"]
    assert trace["raw_response"].endswith(CHAT_ANSWER.decode().replace(" ", "")[-20:])
    traced.records(1, request_id=trace["request_id"])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory(traced).iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(directory(traced).stat().st_mode) == 0o700
    assert "CANARY" not in everything(traced)


def test_stream_is_traced_with_its_times(traced: Server, upstream: ScriptedUpstream):
    """Each event is traced with the time at which it came, and reaches the client as it is."""

    def slowly(talk: Conversation) -> None:
        talk.start_stream()
        for event in EVENTS:
            talk.chunk(event)
            time.sleep(0.15)
        talk.end_stream()

    upstream.script = slowly
    _, named, body = traced.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)
    assert body == b"".join(EVENTS)
    trace = trace_of(traced, named[ID_HEADER])
    chunks = [chunk for chunk in trace["stream"]["chunks"] if "events" in chunk]
    kinds = [
        event["type"] for chunk in chunks for event in chunk["events"] if isinstance(event, dict)
    ]
    assert kinds == ["message_start", "content_block_delta", "message_delta", "message_stop"]
    offsets = [chunk["offset_us"] for chunk in chunks]
    assert len(offsets) == 4
    assert all(100_000 < b - a < 2_000_000 for a, b in itertools.pairwise(offsets))
    assert (trace["complete"], trace["response"]["status"]) == (True, 200)
    assert trace["stream"]["total_bytes"] == len(body)


def test_stream_that_breaks_off_says_so(traced: Server, upstream: ScriptedUpstream):
    """A stream that the upstream cuts is traced as far as it came, with the error."""

    def cut(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(EVENTS[0])
        talk.cut()

    upstream.script = cut
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        traced.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)
    trace = only_trace(traced)
    assert trace["error"]["type"] == "upstream_broken"
    assert trace["stream"]["total_chunks"] == 1
    assert trace["complete"] is False


def test_client_that_hangs_up_is_traced(traced: Server, upstream: ScriptedUpstream):
    """A client that leaves in the middle of a stream ends its trace."""

    def endless(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(EVENTS[0])
        talk.wait_for_hangup()
        talk.cut()

    upstream.script = endless
    with socket.create_connection(("127.0.0.1", traced.port), timeout=20) as sock:
        sock.sendall(post("/v1/messages", MESSAGE, ANTHROPIC))
        held = b""
        while b"message_start" not in held:
            held += sock.recv(65536)
    assert only_trace(traced)["error"]["type"] == "client_disconnected"


@pytest.mark.parametrize(
    ("path", "headers", "status", "kind"),
    [
        ("/nothing/here", {}, 404, "unknown_route"),
        ("/v1/messages", {"host": "evil.example"}, 403, "not_allowed"),
        ("/groq/openai/v1/chat/completions", {}, 502, "upstream_unreachable"),
    ],
)
def test_own_errors_are_traced(
    traced: Server, path: str, headers: dict[str, str], status: int, kind: str
):
    """An answer of the proxy itself is traced as the client got it."""
    server = traced
    sent = {"x-api-key": KEY, **headers}
    got, named, body = server.request("POST", f"{path}?token={KEY}", MESSAGE, sent)
    assert got == status
    trace = trace_of(server, named[ID_HEADER])
    assert (trace["response"]["status"], trace["error"]["type"]) == (status, kind)
    assert trace["response"]["body"]["error"]["message"] in body.decode()
    assert "CANARY" not in everything(server)


@pytest.mark.parametrize(
    "answer",
    [
        f"{KEY} is no status line\r\n\r\n",
        f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{KEY}\r\n",
        f"HTTP/1.1 200 {KEY}\r\nx-own: {KEY}\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_what_an_upstream_garbles_is_written_nowhere(
    traced: Server, upstream: ScriptedUpstream, answer: str
):
    """Bytes that are no HTTP show up in no trace, log line, or record."""

    def garble(talk: Conversation) -> None:
        talk.send(answer.encode())
        talk.cut()

    upstream.script = garble
    headers = {**ANTHROPIC, "x-api-key": "another-key-of-the-client"}
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        traced.request("POST", "/v1/messages", MESSAGE, headers)
    trace = only_trace(traced)
    traced.records(1, request_id=trace["request_id"])
    assert "CANARY" not in everything(traced)


@pytest.mark.parametrize("chunked", [False, True])
def test_long_upload_is_traced_in_part(traced: Server, upstream: ScriptedUpstream, chunked: bool):
    """Of a long body the beginning is traced; the upstream gets all of it."""
    body = json.dumps({"model": "m-1", "prompt": "word " * 500_000}).encode()
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER)
    connection = http.client.HTTPConnection("127.0.0.1", traced.port, timeout=30)
    headers = {"content-type": "application/json"}
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    connection.request(
        "POST",
        "/v1/chat/completions",
        pieces if chunked else body,
        headers,
        encode_chunked=chunked,
    )
    answer = connection.getresponse()
    assert answer.read() == CHAT_ANSWER
    connection.close()
    assert upstream.seen[0].body == body
    trace = trace_of(traced, answer.headers[ID_HEADER])
    assert trace["request"]["body_cut"] is True
    assert trace["request"]["body_bytes"] == 1 << 20


def test_paths_are_chosen(start_server: Callable[..., Server], upstream: ScriptedUpstream):
    """Only what the patterns name is traced, and never the operator's pages."""
    server = start_server(
        TRACING__FILE="true",
        TRACING__INCLUDE_PATHS="/v1/messages*, /v1/chat/*",
        TRACING__EXCLUDE_PATHS="*/count_tokens",
    )
    upstream.script = lambda talk: talk.answer(b"{}")
    server.request("GET", "/logs/status")
    ids = {}
    for path in ("/v1/models", "/v1/messages/count_tokens", "/v1/messages", "/v1/chat/completions"):
        _, named, _ = server.request("POST", path, CHAT, ANTHROPIC)
        ids[path] = named[ID_HEADER]
    trace_of(server, ids["/v1/chat/completions"])
    trace_of(server, ids["/v1/messages"])
    kept = {path.name[:36] for path in directory(server).iterdir()}
    assert kept == {ids["/v1/messages"], ids["/v1/chat/completions"]}


def test_console_shows_exchanges(start_server: Callable[..., Server], upstream: ScriptedUpstream):
    """Exchanges come on standard error, without a secret, and nothing is kept."""
    server = start_server(TRACING__CONSOLE="true")
    upstream.script = stream_all
    headers = {**ANTHROPIC, "x-api-key": KEY}
    _, named, _ = server.request("POST", "/v1/messages", MESSAGE, headers)
    wait_until(lambda: f"← {named[ID_HEADER]} 200 " in server.log_path.read_text())
    shown = server.log_path.read_text()
    assert f"→ {named[ID_HEADER]} POST {upstream.url}/v1/messages\n" in shown
    assert "  x-api-key: ***\n" in shown
    assert '"text":"Helé"' in shown
    assert "CANARY" not in shown
    assert not directory(server).exists()


def test_nothing_is_traced_by_default(server: Server, upstream: ScriptedUpstream):
    """Without the settings there is no trace."""
    upstream.script = stream_all
    server.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)
    server.records(1)
    assert not directory(server).exists()


def test_unwritable_directory_disturbs_nothing(
    start_server: Callable[..., Server], upstream: ScriptedUpstream, tmp_path: Path
):
    """Where traces cannot be written requests pass, and the loss is counted."""
    in_the_way = tmp_path / "in-the-way"
    in_the_way.write_text("a file")
    server = start_server(TRACING__FILE="true", TRACING__DIRECTORY=str(in_the_way))
    upstream.script = stream_all

    def counted() -> bool:
        assert server.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)[0] == 200
        metrics = server.request("GET", "/metrics")[2].decode()
        return 'ccproxy_traces_dropped_total{reason="unwritable"}' in metrics

    wait_until(counted)


def test_stop_writes_what_waits(start_server: Callable[..., Server], upstream: ScriptedUpstream):
    """At a stop the traces of all finished requests are written."""
    server = start_server(workers=2, TRACING__FILE="true", TRACING__MAX_EXCHANGES="1000")
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER)
    ids = {server.request("POST", "/v1/chat/completions", CHAT)[1][ID_HEADER] for _ in range(40)}
    server.stop()
    kept = {path.name[:36] for path in directory(server).glob("*.trace.json")}
    assert kept == ids


def test_changed_request_is_traced_as_it_was_sent(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
):
    """Where the proxy asks for the usage of a stream, the trace shows what the upstream got."""
    server = start_server(
        TRACING__FILE="true", TRACING__VERBOSE="true", PROXY__INJECT_STREAM_USAGE="true"
    )
    chat = json.dumps({"model": "m-1", "messages": [], "stream": True}).encode()
    upstream.script = stream_all
    _, named, _ = server.request("POST", "/v1/chat/completions", chat)
    trace = trace_of(server, named[ID_HEADER])
    assert trace["request"]["body"] == json.loads(upstream.seen[0].body)
    assert trace["request"]["body"]["stream_options"] == {"include_usage": True}

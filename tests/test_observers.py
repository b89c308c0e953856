"""Observers of exchanges, in the real server: their order, their isolation, every ending."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Server, free_port
from scripted import Conversation, ScriptedUpstream, wait_until
from test_proxy import ANTHROPIC, CHAT, CHAT_ANSWER, EVENTS, MESSAGE, post, read_until, stream_all

# Two observers that write down what they are told, and between them one that fails on demand.
APPLICATION = """
import json
from pathlib import Path

from ccproxy_flask.app import create_app
from ccproxy_flask.proxy.observers import NullObserver


class Spy:
    def __init__(self, name):
        self.name = name

    def _told(self, call, *facts):
        line = json.dumps([self.id, self.name, call, *facts]).encode() + b"\\n"
        with Path("told.ndjson").open("ab") as told:
            told.write(line)

    def request_head(self, head):
        self.id = head.request_id
        facts = head._replace(credentials=None, dialect=head.dialect.name)._asdict()
        self._told("request_head", {**facts, "named": dict(head.named)})

    def request_chunk(self, data, at):
        self._told("request_chunk", data.decode("latin-1"), at)

    def response_head(self, head):
        self._told("response_head", {**head._asdict(), "named": dict(head.named)})

    def response_chunk(self, data, at):
        self._told("response_chunk", data.decode("latin-1"), at)

    def end(self, record, error):
        told = {"request_id": record.request_id, "status_code": record.status_code}
        self._told("end", told, getattr(error, "error_type", None))


class Failing(NullObserver):
    pass


def failing(record, head):
    at = head.named.get("x-fail-at")
    if at == "factory":
        raise RuntimeError("the factory failed")
    observer = Failing()
    if at is not None:
        def fail(*facts):
            raise RuntimeError(f"{at} failed")
        setattr(observer, at, fail)
    return observer


app = create_app(observers=[
    lambda record, head: Spy("first"), failing, lambda record, head: None,
    lambda record, head: Spy("second"),
])
"""
CALLS = ("request_head", "request_chunk", "response_head", "response_chunk", "end")


@pytest.fixture(scope="module")
def observed(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[Server]:
    """One server with these observers, and with a provider that is not there."""
    home = tmp_path_factory.mktemp("observed")
    (home / "wsgi.py").write_text(APPLICATION)
    server = Server(
        home,
        shared_upstream.url,
        workers=1,
        PROVIDERS__GROQ__BASE_URL=f"http://127.0.0.1:{free_port()}",
        GUNICORN_CMD_ARGS="--graceful-timeout 1",
    ).start()
    yield server
    server.stop()


def told(server: Server, request_id: str) -> list[list[Any]]:
    """Wait for the end of a request, and return what the observers were told of it, in order."""

    def all_told() -> list[list[Any]] | None:
        path = server.home / "told.ndjson"
        lines = path.read_bytes().splitlines() if path.exists() else []
        calls = [call[1:] for call in map(json.loads, lines) if call[0] == request_id]
        ended = [call[0] for call in calls if call[1] == "end"]
        return calls if ended == ["first", "second"] else None

    calls = wait_until(all_told)
    assert isinstance(calls, list)
    return calls


def newest(server: Server) -> str:
    """Wait for the only request that has been told of, and return its id."""

    def begun() -> set[str]:
        path = server.home / "told.ndjson"
        return {json.loads(line)[0] for line in path.read_bytes().splitlines()}

    (server.home / "told.ndjson").touch()
    [request_id] = wait_until(begun)  # type: ignore[misc]
    return str(request_id)


@pytest.fixture
def fresh(observed: Server, upstream: ScriptedUpstream) -> Server:
    """That server, and nothing told yet."""
    (observed.home / "told.ndjson").unlink(missing_ok=True)
    return observed


def of(calls: list[list[Any]], name: str) -> list[list[Any]]:
    """Return what one observer was told."""
    return [call[1:] for call in calls if call[0] == name]


def test_all_are_told_the_same_in_their_order(fresh: Server, upstream: ScriptedUpstream) -> None:
    """Each call reaches the observers one after the other, and they come in the promised order."""
    upstream.script = stream_all
    _, named, body = fresh.request("POST", "/v1/messages?beta=true", MESSAGE, ANTHROPIC)
    calls = told(fresh, named["x-ccproxy-request-id"])
    assert [call[0] for call in calls] == ["first", "second"] * (len(calls) // 2)
    first = of(calls, "first")
    assert first == of(calls, "second")
    kinds = [call[0] for call in first]
    assert kinds[:4] == ["request_head", "request_chunk", "request_chunk", "response_head"]
    assert set(kinds[4:-1]) == {"response_chunk"}
    assert kinds[-1] == "end"
    assert [call[1] for call in first[1:3]] == [MESSAGE.decode(), ""]
    assert "".join(call[1] for call in first[4:-1]) == body.decode("latin-1")
    times = [call[2] for call in first if call[0].endswith("_chunk")]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 60


def test_heads_are_told_as_they_came(fresh: Server, upstream: ScriptedUpstream) -> None:
    """An observer sees every header of both sides, keys too, and where the request goes."""
    upstream.script = lambda talk: talk.answer(
        b"{}", "201 Made", (("Content-Type", "application/json"), ("X-A", "1"), ("X-A", "2"))
    )
    with socket.create_connection(("127.0.0.1", fresh.port), timeout=20) as sock:
        head = "GET /openrouter/v1/models?limit=1 HTTP/1.1\r\nHost: localhost\r\n"
        sock.sendall(f"{head}X-Twice: a\r\nX-Twice: b\r\nX-Api-Key: key-1\r\n\r\n".encode())
        read_until(sock, b"\r\n\r\n{}")
    calls = of(told(fresh, newest(fresh)), "first")
    assert [call[0] for call in calls[:2]] == ["request_head", "request_chunk"]
    request, response = calls[0][1], calls[2][1]
    assert request["headers"] == [
        *(["host", "localhost"], ["x-twice", "a"], ["x-twice", "b"], ["x-api-key", "key-1"])
    ]
    assert request["sent_headers"] == request["headers"][1:]
    assert request["url"] == f"{upstream.url}/v1/models?limit=1"
    assert request["target"] == "/openrouter/v1/models?limit=1"
    assert (request["method"], request["path"]) == ("GET", "/v1/models")
    assert (request["provider"], request["endpoint"]) == ("openrouter", "/v1/models")
    assert (request["dialect"], request["generates"]) == ("openai", False)
    assert request["client_ip"] == "127.0.0.1"
    assert (response["status"], response["reason"], response["own"]) == (201, "Made", False)
    assert [pair for pair in response["headers"] if pair[0] == "X-A"] == [
        ["X-A", "1"],
        ["X-A", "2"],
    ]
    assert calls[1][1] == ""


@pytest.mark.parametrize("call", ["factory", *CALLS])
def test_one_that_fails_disturbs_nothing(
    fresh: Server, upstream: ScriptedUpstream, call: str
) -> None:
    """An observer that raises is logged once; bytes, record and other observers are whole."""
    upstream.script = stream_all
    before = fresh.log_path.read_text().count("observer_failed")
    headers = {**ANTHROPIC, "x-fail-at": call}
    _, named, body = fresh.request("POST", "/v1/messages", MESSAGE, headers)
    assert body == b"".join(EVENTS)
    calls = told(fresh, named["x-ccproxy-request-id"])
    assert of(calls, "first") == of(calls, "second")
    [row] = fresh.records(1, request_id=named["x-ccproxy-request-id"])
    assert (row["tokens_input"], row["tokens_output"], row["error_type"]) == (25, 15, None)
    log = fresh.log_path.read_text()
    assert log.count("observer_failed") - before == 1
    assert f"{call} failed" in log


def broken(talk: Conversation) -> None:
    """Send one event and break off."""
    talk.start_stream()
    talk.chunk(EVENTS[0])
    talk.cut()


def endless(talk: Conversation) -> None:
    """Send one event, and no more until the proxy leaves."""
    talk.start_stream()
    talk.chunk(EVENTS[0])
    talk.wait_for_hangup()
    talk.cut()


def test_end_of_a_whole_answer(fresh: Server, upstream: ScriptedUpstream) -> None:
    """An answer that was sent whole ends without an error."""
    upstream.script = lambda talk: talk.answer(CHAT_ANSWER)
    _, named, _ = fresh.request("POST", "/v1/chat/completions", CHAT)
    request_id = named["x-ccproxy-request-id"]
    ends = [call[1:] for call in told(fresh, request_id) if call[1] == "end"]
    assert ends == [["end", {"request_id": request_id, "status_code": 200}, None]] * 2


def test_end_of_an_answer_that_the_upstream_cuts(fresh: Server, upstream: ScriptedUpstream) -> None:
    """Where the upstream breaks off the end says so, after what had come."""
    upstream.script = broken
    with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
        fresh.request("POST", "/v1/messages", MESSAGE, ANTHROPIC)
    first = of(told(fresh, newest(fresh)), "first")
    assert first[-1][2] == "upstream_broken"
    assert first[-2][:2] == ["response_chunk", EVENTS[0].decode()]


def test_end_of_an_answer_whose_client_leaves(fresh: Server, upstream: ScriptedUpstream) -> None:
    """Where the client hangs up the end says so."""
    upstream.script = endless
    with socket.create_connection(("127.0.0.1", fresh.port), timeout=20) as sock:
        sock.sendall(post("/v1/messages", MESSAGE, ANTHROPIC))
        read_until(sock, b"message_start")
    first = of(told(fresh, newest(fresh)), "first")
    assert first[-1][2] == "client_disconnected"


@pytest.mark.parametrize(
    ("path", "status", "error_type", "provider"),
    [
        ("/nothing/here", 404, "unknown_route", None),
        ("/groq/openai/v1/chat/completions", 502, "upstream_unreachable", "groq"),
    ],
)
def test_end_of_a_request_that_we_answer(
    fresh: Server, path: str, status: int, error_type: str, provider: str | None
) -> None:
    """An answer of ours is told like any other, and is marked as ours."""
    _, named, body = fresh.request("POST", path, CHAT)
    first = of(told(fresh, named["x-ccproxy-request-id"]), "first")
    assert first[0][1]["provider"] == provider
    assert (first[0][1]["url"] == "") == (provider is None)
    head, chunk, end = first[-3:]
    assert (head[1]["status"], head[1]["own"]) == (status, True)
    assert chunk[:2] == ["response_chunk", body.decode("latin-1")]
    assert (end[1]["status_code"], end[2]) == (status, error_type)


def test_end_of_an_upload_that_stops(fresh: Server) -> None:
    """A client that leaves in its own request ends the exchange, though nobody sees an answer."""
    with socket.create_connection(("127.0.0.1", fresh.port), timeout=20) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n")
        sock.sendall(b"content-length: 1000\r\n\r\n{")
    first = of(told(fresh, newest(fresh)), "first")
    assert [call[0] for call in first][-1] == "end"
    assert first[-1][2] == "client_disconnected"


def test_end_of_an_answer_in_a_worker_that_stops(fresh: Server, upstream: ScriptedUpstream) -> None:
    """A stream that outlasts the patience of a worker's stop ends with the worker."""
    upstream.script = endless
    with socket.create_connection(("127.0.0.1", fresh.port), timeout=20) as sock:
        sock.sendall(post("/v1/messages", MESSAGE, ANTHROPIC))
        read_until(sock, b"message_start")
        [worker] = fresh.worker_pids()
        os.kill(worker, signal.SIGTERM)
        first = of(told(fresh, newest(fresh)), "first")
    assert first[-1][2] == "worker_lost"

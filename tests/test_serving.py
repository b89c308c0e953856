"""What is taken from the WSGI server beyond WSGI. (Framing and headers: test_proxy.)"""

from __future__ import annotations

import http.client
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, Server
from gunicorn.config import Config
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkExtension,
    InvalidChunkSize,
    NoMoreData,
    ParseException,
)
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from scripted import wait_until

from ccproxy_flask.server.client_connections import ClientConnections
from ccproxy_flask.server.middleware import raw_target, request_headers
from ccproxy_flask.server.request_parser import MalformedBody, PlainRequest
from ccproxy_flask.server.response_writer import answer_past_wsgi
from ccproxy_flask.server.sockets import has_left, send_all


@pytest.fixture
def pair():
    """Two ends of a connection."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    ("environ", "target"),
    [
        ({"RAW_URI": "/a%2Fb//c?x=%20&y"}, ("/a%2Fb//c", "x=%20&y")),
        ({"RAW_URI": "/a?b?c"}, ("/a", "b?c")),
        ({"RAW_URI": "http://host:1/a/b?c"}, ("/a/b", "c")),
        ({"RAW_URI": "http://host", "PATH_INFO": "/"}, ("/", "")),
        ({"REQUEST_URI": "/from/flask?q"}, ("/from/flask", "q")),
        ({"PATH_INFO": "/plain", "QUERY_STRING": "q=1"}, ("/plain", "q=1")),
        ({"RAW_URI": "*", "PATH_INFO": "*"}, ("*", "")),
    ],
)
def test_target_is_what_the_client_wrote(environ, target):
    """Path and query are taken as they came, escapes and double slashes too."""
    assert raw_target(environ) == target


def test_headers_are_those_of_the_wire():
    """Where the server tells, repeated headers stay apart and in order."""
    wire = [("accept", "a"), ("accept", "b")]
    assert request_headers({"ccproxy.headers": wire, "HTTP_ACCEPT": "a,b"}) == wire


def test_headers_of_plain_wsgi():
    """Under another server the headers are made from the WSGI names."""
    environ = {
        "HTTP_X_API_KEY": "k",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "",
        "wsgi.input": None,
    }
    assert request_headers(environ) == [("x-api-key", "k"), ("content-type", "application/json")]


HEADS = (
    b"Host: a\r\nContent-Length: 2\r\nAccept: x, y\r\naccept:\tz \r\nX-Empty:",
    b"Host: a\r\nContent-Type: x\r\nX_Under-Score: 1\r\nX-Obs: \xe9\xff",
    b"host: a\r\nHOST: b",
    b"Host: a\r\nExpect: 100-continue",
    b"Host: a\r\nExpect: something",
    b"Host: a\r\nX-Folded: one\r\n two",
    b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
    b"Host: a\r\nTransfer-Encoding: gzip, chunked",
    b"Host: a\r\nLong: " + b"x" * 63,
    b"Host: a\r\n" + b"x" * 66 + b": l",
    b"\r\n".join(b"X-%d: y" % number for number in range(12)),
    b"SCRIPT_NAME: /v1\r\nHost: a",
    b"Host: a\r\nno-colon",
    b"Host: a\r\n: no name\r\n:",
)
ODD = (
    b"\0",
    b"\t",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"\r\n",
    b"\r\n ",
    b"\x7f",
    b"\x80",
    b"_",
    b"(",
    b"\xdf",
)


@pytest.fixture(scope="module")
def config():
    """Settings with small limits."""
    config = Config()
    config.set("limit_request_fields", 10)
    config.set("limit_request_field_size", 70)
    config.set("header_map", "dangerous")
    config.set("secure_scheme_headers", {})
    return config


BROKEN_BODY = (MalformedBody, InvalidChunkSize, InvalidChunkExtension, ChunkMissingTerminator)


def parsed(kind, config, head):
    """Return what a parser of gunicorn's makes of *head*: the request, or its refusal."""
    source = IterUnreader(iter([b"POST /v1 HTTP/1.1\r\n" + head + b"\r\n\r\nhi"]))
    try:
        request = kind(config, source, ("127.0.0.1", 1))
        body = request.body.read()
    except (ParseException, NoMoreData) as error:
        return "body" if isinstance(error, BROKEN_BODY) else type(error)
    asked = request._expected_100_continue  # noqa: SLF001  what gunicorn goes by
    wire = getattr(request, "wire_headers", None)
    assert wire is None or wire == [(name.lower(), value) for name, value in request.headers]
    return request.headers, body, request.should_close(), asked


def test_plain_heads_are_read_at_once(config):
    """The quick way is taken; or there would be nothing to compare below."""
    source = IterUnreader(iter([b"GET / HTTP/1.1\r\n" + HEADS[0] + b"\r\n\r\nhi"]))
    request = PlainRequest(config, source, ("127.0.0.1", 1))
    assert request.wire_headers is not None
    assert request.wire_headers[-1] == ("x-empty", "")


@pytest.mark.parametrize("head", HEADS)
def test_head_is_read_as_gunicorn_reads_it(head, config):
    """However it is broken, and wherever."""
    broken = (head[:at] + odd + head[at:] for at in range(len(head) + 1) for odd in ODD)
    for text in (head, *broken):
        assert parsed(PlainRequest, config, text) == parsed(Request, config, text), text


LINES = (
    b"GET / HTTP/1.1",
    b"POST /v1/a%20b;c?x=1&y=%2F HTTP/1.0",
    b"GET /? HTTP/1.1",
    b"GET //host/x?y HTTP/1.1",
    b"GET http://host/x?y#z HTTP/1.1",
    b"GET /x#y?z HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT host:1 HTTP/1.1",
    b"CONNECT /x HTTP/1.1",
    b"GET /x HTTP/2.0",
)


def first_line(kind, config, line):
    """Return what a parser of gunicorn's makes of a request with the first *line*."""
    try:
        request = kind(config, IterUnreader(iter([line + b"\r\nHost: a\r\n\r\n"])), ("::1", 1))
    except (ParseException, NoMoreData) as error:
        return type(error)
    target = (request.uri, request.path, request.query, request.fragment)
    return request.method, target, request.version, request.should_close()


@pytest.mark.parametrize("line", LINES)
def test_first_line_is_read_as_gunicorn_reads_it(line, config):
    """However it is broken, and wherever."""
    odds = (*ODD, b"/", b"?", b"#", b"a", b"[")
    broken = (line[:at] + odd + line[at:] for at in range(len(line) + 1) for odd in odds)
    for text in (line, *broken):
        assert first_line(PlainRequest, config, text) == first_line(Request, config, text), text


def test_everything_is_sent_to_a_slow_reader(pair):
    """What the socket does not take at once follows when there is room."""
    sender, receiver = pair
    data = bytes(range(256)) * 8192
    thread = threading.Thread(target=send_all, args=(sender, data))
    thread.start()
    received = bytearray()
    while len(received) < len(data):
        received += receiver.recv(65536)
    thread.join()
    assert bytes(received) == data


def test_stop_ends_idle_connections_at_once(pair):
    """A connection that waits for its next request is told that there is none."""
    ours, _ = pair
    connections = ClientConnections()
    connections.begin(ours)
    connections.end(ours)
    connections.stop()
    assert ours.recv(1) == b""


def test_stop_lets_a_running_answer_end(pair):
    """A connection with a request on it is left alone until that is answered."""
    ours, client = pair
    connections = ClientConnections()
    connections.begin(ours)
    connections.stop()
    client.sendall(b"body")
    assert ours.recv(4) == b"body"
    connections.end(ours)
    assert ours.recv(1) == b""


def test_silent_connections_have_a_while_to_ask(pair):
    """A connection that has asked nothing is ended only when it is silent still."""
    ours, client = pair
    connections = ClientConnections()

    def serve(_listener, sock, _address):
        connections.stop()
        connections.end_silent(60)
        client.sendall(b"late")
        assert sock.recv(4) == b"late"
        connections.end_silent(0)
        assert sock.recv(1) == b""

    connections.watched(serve)(None, ours, None)
    connections.end_silent(0)


def test_those_who_ask_nothing_make_way():
    """Over the room that there is, the longest silent one goes first, then the longest idle one."""
    connections = ClientConnections(room=3)
    pairs = [socket.socketpair() for _ in range(5)]
    idle = pairs[0][0]

    def serve(_listener, sock, _address):
        if sock is idle:
            connections.begin(sock)
            connections.end(sock)
        place = pairs.index(next(pair for pair in pairs if pair[0] is sock))
        if place < 4:
            connections.watched(serve)(None, pairs[place + 1][0], None)
        else:
            ended.extend(at for at, (ours, _) in enumerate(pairs) if has_left(ours))

    ended: list[int] = []
    connections.watched(serve)(None, idle, None)
    assert ended == [1, 2]
    for ours, client in pairs:
        ours.close()
        client.close()


def test_many_silent_connections_keep_nobody_out(start_server, upstream):
    """More of them than a worker takes at once, and a request is answered all the same."""
    server = start_server(workers=1, GUNICORN_CMD_ARGS="--worker-connections=64")
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]

    assert server.request("POST", "/v1/chat/completions", b"{}", timeout=20)[0] == 200
    for sock in silent:
        sock.close()


def test_silent_connection_is_ended_in_time(start_server):
    """Also where there is room for it; one that sends its head byte by byte, too."""
    server = start_server(workers=1, PROXY__TIMEOUT_CLIENT_SECONDS="0.5")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(b"GET /v1")
        assert sock.recv(1) == b""


def open_files(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_no_descriptors_left(start_server, upstream):
    """Those who come are told so or wait; one line says why, and all is well again afterwards."""
    server = start_server(workers=1)
    [worker] = server.worker_pids()
    server.request("POST", "/v1/chat/completions", b"{}")
    wait_until(lambda: server.request("GET", "/logs/entries")[0] == 200)
    few = open_files(worker) + 3
    _, most = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (few, most))
    go_on = threading.Event()
    upstream.script = lambda talk: (go_on.wait(20), talk.answer(b"{}"))
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(server.request("POST", "/v1/chat/completions", b"{}", timeout=60)[0])

    clients = [threading.Thread(target=ask) for _ in range(12)]
    for client in clients:
        client.start()
    wait_until(lambda: "no_descriptors_left" in server.log_path.read_text(), 20)
    go_on.set()
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, most))
    for client in clients:
        client.join(60)

    assert set(statuses) <= {200, 503}
    assert len(statuses) == 12
    assert server.request("POST", "/v1/chat/completions", b"{}")[0] == 200
    said = server.log_path.read_text()
    assert "Traceback" not in said
    assert said.count("no_descriptors_left") < 5


def test_what_came_in_before_a_stop_is_read(pair):
    """The bytes of a request that are here already are not lost by a stop."""
    ours, client = pair
    connections = ClientConnections()
    connections.end(ours)
    client.sendall(b"GET")
    connections.stop()
    assert ours.recv(3) == b"GET"
    assert ours.recv(1) == b""


def test_stop_with_open_connections_is_quick_and_quiet(start_server):
    """Idle and silent connections end without an error in the log, and hold nothing up."""
    server = start_server(workers=1)
    idle = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in range(3)]
    silent = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    for connection in idle:
        connection.request("POST", "/v1/chat/completions", b"{}")
        assert connection.getresponse().read() == b"{}"

    began = time.monotonic()
    assert server.stop() == 0

    assert time.monotonic() - began < 20
    assert [connection.sock.recv(1) for connection in idle] == [b"", b"", b""]
    assert silent.recv(1) == b""
    assert "Traceback" not in server.log_path.read_text()
    for connection in [*idle, silent]:
        connection.close()


@pytest.mark.parametrize("seconds", [0.02, 0.2])
def test_server_can_be_stopped_while_its_workers_start(tmp_path, seconds):
    """A stop right after the start does not wait for workers that missed it."""
    server = Server(tmp_path, "http://127.0.0.1:9", workers=1)
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=server.env, stdout=server.log, stderr=server.log
    ) as process:
        server.process = process
        wait_until(lambda: "listens on" in server.log_path.read_text(), 20)
        time.sleep(seconds)  # for different points of the workers' start
        assert server.stop(15) == 0
    assert "Traceback" not in server.log_path.read_text()


def test_answer_past_wsgi_is_whole_and_the_last():
    """An answer that no WSGI writer makes says its length, and that the connection ends."""
    here, there = socket.socketpair()
    with here, there:
        answer_past_wsgi(here, 431, [("X-One", "é")], b"{}")
        here.shutdown(socket.SHUT_WR)
        found = there.makefile("rb").read()
    assert found == (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nX-One: \xe9\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )

"""Bodies of requests: read as they come, and not waited for without end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from conftest import Server
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import IterUnreader
from scripted import wait_until

from ccproxy_flask.errors import BodyTooLarge, ClientDisconnected, RequestTimeout
from ccproxy_flask.http1 import Chunked, Sized
from ccproxy_flask.proxy.body import RequestBody
from ccproxy_flask.server.request_parser import BodyReader, MalformedBody

IN_CHUNKS = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx: y\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n"


def reader_of(*pieces: bytes, length: int | None = None) -> tuple[BodyReader, IterUnreader]:
    """Return a reader of a body that comes in *pieces*, and what is behind it."""
    unreader = IterUnreader(iter(pieces))
    framing = Chunked() if length is None else Sized(length)
    return BodyReader(unreader, framing), unreader


def read_all(reader: BodyReader, size: int) -> bytes:
    """Read to the end, at most *size* bytes at a time."""
    pieces = list(iter(lambda: reader.read(size), b""))
    assert all(len(piece) <= size for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("size", [1, 3, 65536])
@pytest.mark.parametrize(("sent", "length"), [(IN_CHUNKS, None), (b"hello world", 11)])
def test_body_cut_anywhere_is_the_same(sent: bytes, length: int | None, size: int) -> None:
    """Whatever pieces the network made of it; what follows is left for the next request."""
    whole = sent + NEXT
    for cut in range(1, len(whole)):
        reader, unreader = reader_of(whole[:cut], whole[cut:], length=length)

        assert read_all(reader, size) == b"hello world"
        assert reader.done
        assert unreader.read(len(NEXT)) == NEXT


def test_body_that_ends_early() -> None:
    """One in chunks is an error; one of known length is short, which its reader sees."""
    for cut in range(len(IN_CHUNKS) - 1):
        with pytest.raises(NoMoreData):
            read_all(reader_of(IN_CHUNKS[:cut])[0], 100)
    assert read_all(reader_of(b"hel", length=5)[0], 100) == b"hel"
    with pytest.raises(MalformedBody):
        reader_of(b"5\r\nhelloX\r\n")[0].read(100)


def body_of(*pieces: bytes, length: int | None = None, limit: int = 1 << 20) -> RequestBody:
    """Return a body that has begun, and what its observers were told in ``told``."""
    body = RequestBody(reader_of(*pieces, length=length)[0], length, limit, lambda _: None)
    body.begin()
    return body


def test_short_body_is_whole_and_in_the_framing_of_its_client() -> None:
    """It goes upstream in one piece with the head."""
    assert body_of(b"he", b"llo", length=5).whole == b"hello"
    assert body_of(IN_CHUNKS).whole == b"b\r\nhello world\r\n0\r\n\r\n"
    assert body_of(b"0\r\n\r\n").whole == b"0\r\n\r\n"


def test_long_body_is_passed_on_in_pieces() -> None:
    """Without its framing where it is asked for so, and complete."""
    long = bytes(range(256)) * 1024
    pieces = [long[at : at + 10_000] for at in range(0, len(long), 10_000)]
    body = body_of(*pieces, length=len(long))

    assert body.whole is None
    assert b"".join(body.wire_pieces()) == long
    assert body.size == len(long)


def test_observers_see_each_piece_and_the_end() -> None:
    """The end is told once."""
    told: list[bytes] = []
    body = RequestBody(reader_of(IN_CHUNKS)[0], None, 100, told.append)
    body.begin()

    assert b"".join(told) == b"hello world"
    assert (told[-1], told.count(b"")) == (b"", 1)


def test_body_over_the_limit_or_cut_is_an_error() -> None:
    """Each with its own."""
    with pytest.raises(BodyTooLarge):
        body_of(IN_CHUNKS, limit=10)
    with pytest.raises(ClientDisconnected):
        body_of(b"hel", length=5)
    body = RequestBody(reader_of(b"hel", length=5)[0], 5, 100, lambda _: None)
    body.give_up()
    with pytest.raises(RequestTimeout):
        body.begin()


# -- over sockets --------------------------------------------------------------------------------


class RawUpstream:
    """Keeps what comes as it comes, and answers nothing."""

    def __init__(self) -> None:
        self.got = b""
        self.hung_up = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    def _read(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                self.got += data
        self.hung_up += 1

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


@pytest.fixture(scope="module")
def raw() -> Iterator[RawUpstream]:
    """An upstream that only reads."""
    upstream = RawUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, raw: RawUpstream) -> Iterator[Server]:
    """A server that waits two seconds for clients."""
    home = tmp_path_factory.mktemp("impatient")
    server = Server(home, raw.url, 1, PROXY__TIMEOUT_CLIENT_SECONDS="2").start()
    yield server
    server.stop()


def active(server: Server) -> float:
    """Return the gauge of requests in flight."""
    text = server.request("GET", "/metrics")[2].decode()
    [line] = [line for line in text.splitlines() if line.startswith("ccproxy_active_requests ")]
    return float(line.split()[1])


def client(server: Server, sent: bytes) -> socket.socket:
    """Return a connection on which *sent* was sent."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=15)
    sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n" + sent)
    return sock


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 1000\r\n\r\n{",
        b"Content-Length: 1000\r\n\r\n",
        b"Content-Length: 1000000\r\n\r\n" + bytes(200_000),
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n{",
    ],
)
def test_client_that_stalls_in_its_body(impatient: Server, raw: RawUpstream, sent: bytes) -> None:
    """It is in flight, gets a 408 in time, and a row; the upstream is let go."""
    wait_until(lambda: impatient.request("POST", "/logs/reset")[0] == 200)
    with client(impatient, sent) as sock:
        wait_until(lambda: active(impatient) == 1)
        held = b""
        while data := sock.recv(65536):
            held += data

    head, _, body = held.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["error"]["code"] == "client_timeout"
    [record] = impatient.records(1)
    assert (record["status_code"], record["error_type"]) == (408, "client_timeout")
    assert active(impatient) == 0


def test_chunks_are_sent_on_as_they_come(impatient: Server, raw: RawUpstream) -> None:
    """A slow upload is not held back until a piece is full."""
    with client(impatient, b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n") as sock:
        wait_until(lambda: raw.got.endswith(b"\r\n\r\n5\r\nfirst\r\n"))
        sock.sendall(b"6\r\nsecond\r\n")
        wait_until(lambda: raw.got.endswith(b"first\r\n6\r\nsecond\r\n"))

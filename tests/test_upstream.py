"""Ways to an upstream other than plain HTTP: TLS, an outbound proxy, names."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from conftest import Server
from scripted import Conversation, ScriptedUpstream, wait_until

from ccproxy_flask.errors import (
    ClientDisconnected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ccproxy_flask.proxy.upstream import UpstreamCall, UpstreamRequest
from ccproxy_flask.proxy.upstream.addresses import Addresses, connect, interleaved
from ccproxy_flask.proxy.upstream.call import CancelToken
from ccproxy_flask.proxy.upstream.transport import DirectTransport
from ccproxy_flask.settings import Proxy

CHAT = b'{"model":"gpt-4o-mini","messages":[]}'
ANSWER = b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":3,"completion_tokens":1}}'


class TlsUpstream(ScriptedUpstream):
    """A scripted upstream behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"https://localhost:{self.port}"

    def _serve(self, sock: socket.socket) -> None:
        try:
            secured = self._context.wrap_socket(sock, server_side=True)
        except (ssl.SSLError, OSError):  # the client does not trust us
            sock.close()
            return
        super()._serve(secured)


@pytest.fixture
def authority() -> trustme.CA:
    """A certificate authority of the test's own."""
    return trustme.CA()


@pytest.fixture
def tls_upstream(authority: trustme.CA) -> Iterator[TlsUpstream]:
    """An upstream with a certificate for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    upstream = TlsUpstream(context)
    yield upstream
    upstream.close()


def test_tls_upstream(
    start_server: Callable[..., Server],
    tls_upstream: TlsUpstream,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    """Requests, streams and long uploads go over TLS, on one connection used again."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    own = start_server(upstream_url=tls_upstream.url, PROXY__CA_BUNDLE=str(bundle))

    def script(talk: Conversation) -> None:
        if b"upload" in talk.request.body[:10]:
            talk.answer(str(len(talk.request.body)).encode())
            return
        talk.start_stream("application/json")
        for i in range(0, len(ANSWER), 7):
            talk.chunk(ANSWER[i : i + 7])
        talk.end_stream()

    tls_upstream.script = script
    for _ in range(3):
        assert own.request("POST", "/v1/chat/completions", CHAT)[::2] == (200, ANSWER)
    long = b"upload" + bytes(5 << 20)
    assert own.request("POST", "/v1/files", long)[2] == str(len(long)).encode()

    assert [row["tokens_input"] for row in own.records(4)] == [3, 3, 3, None]
    assert tls_upstream.connections == 1


def test_untrusted_certificate_is_refused(
    start_server: Callable[..., Server], tls_upstream: TlsUpstream
) -> None:
    """An upstream that cannot prove its name gets no request; the error says why."""
    own = start_server(upstream_url=tls_upstream.url)

    status, _, body = own.request("POST", "/v1/chat/completions", CHAT)

    assert status == 502
    assert "certificate" in json.loads(body)["error"]["message"].lower()
    assert tls_upstream.seen == []


def test_outbound_proxy(start_server: Callable[..., Server], upstream: ScriptedUpstream) -> None:
    """Where an outbound proxy is set, everything goes through it, unchanged."""
    upstream.script = lambda talk: talk.answer(ANSWER)
    own = start_server(upstream_url="http://upstream.example", PROXY__OUTBOUND_PROXY=upstream.url)

    status, _, body = own.request(
        "POST", "/v1/chat/completions?x=%41", CHAT, {"x-twice": "a", "accept-encoding": "gzip"}
    )

    [seen] = upstream.seen
    assert (status, body) == (200, ANSWER)
    assert seen.line == "POST http://upstream.example/v1/chat/completions?x=%41 HTTP/1.1"
    assert (seen.header("accept-encoding"), seen.body) == ("gzip", CHAT)
    assert own.records(1)[0]["tokens_output"] == 1


def test_upstream_without_an_address(start_server: Callable[..., Server]) -> None:
    """A name nobody knows is a 502 that names it."""
    own = start_server(upstream_url="http://nobody.invalid")

    status, _, body = own.request("POST", "/v1/chat/completions", CHAT)

    assert status == 502
    assert "nobody.invalid" in json.loads(body)["error"]["message"]


# -- who owns a connection -----------------------------------------------------------------------


@pytest.fixture
def transport() -> Iterator[DirectTransport]:
    """The direct way to the upstreams, in this process."""
    transport = DirectTransport(Proxy(timeout_connect_seconds=5, timeout_read_seconds=10))
    yield transport
    transport.close()


def request_to(upstream: ScriptedUpstream, target: str = "/") -> UpstreamRequest:
    """Return a request that waits at most ten seconds."""
    return UpstreamRequest(upstream.url, "GET", target, [], None, 5, 10)


def whole_body(call: UpstreamCall) -> bytes:
    """Read a call's answer to its end."""
    return b"".join(iter(call.read, b""))


def test_cancelling_after_release_leaves_the_next_owner_alone(
    transport: DirectTransport, upstream: ScriptedUpstream
) -> None:
    """A connection that was given back is out of reach of the call that had it."""
    go_on = threading.Event()

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(b"one")
        if talk.request.line.startswith("GET /second"):
            go_on.wait(10)
            talk.chunk(b"two")
        talk.end_stream()

    upstream.script = script
    first, second = (transport.call(request_to(upstream, to)) for to in ("/first", "/second"))
    first.send()
    assert whole_body(first) == b"one"
    second.send()
    assert second.read() == b"one"
    first.cancel()
    go_on.set()

    assert whole_body(second) == b"two"
    assert upstream.connections == 1
    second.close()


def test_cancelled_call_ends_wherever_it_waits(
    transport: DirectTransport, upstream: ScriptedUpstream
) -> None:
    """Before the head and in the middle of the body; its connection is closed, not kept."""
    hung_up = []

    def script(talk: Conversation) -> None:
        if talk.request.line.startswith("GET /body"):
            talk.start_stream()
            talk.chunk(b"one")
        hung_up.append(talk.wait_for_hangup())
        talk.cut()

    upstream.script = script
    for target in ("/head", "/body"):
        call = transport.call(request_to(upstream, target))
        threading.Timer(0.1, call.cancel).start()
        with pytest.raises(ClientDisconnected):
            whole_body(call) if call.send() else None
        call.close()

    wait_until(lambda: hung_up == [True, True])


def test_call_cancelled_before_it_is_sent_reaches_nobody(
    transport: DirectTransport, upstream: ScriptedUpstream
) -> None:
    """Who hung up while the request was prepared costs no request."""
    call = transport.call(request_to(upstream))
    call.cancel()

    with pytest.raises(ClientDisconnected):
        call.send()
    assert upstream.seen == []


def test_idle_connection_is_closed_when_the_upstream_closes_it(
    transport: DirectTransport, upstream: ScriptedUpstream
) -> None:
    """Also where no request comes that could find out."""

    def script(talk: Conversation) -> None:
        talk.answer(b"{}")
        talk.sock.shutdown(socket.SHUT_WR)  # from now on the proxy's end would be in CLOSE_WAIT
        hung_up.append(talk.wait_for_hangup())

    hung_up: list[bool] = []
    upstream.script = script
    call = transport.call(request_to(upstream))
    call.send()

    assert whole_body(call) == b"{}"
    wait_until(lambda: hung_up == [True])


def test_idle_connection_is_closed_when_its_time_is_over(upstream: ScriptedUpstream) -> None:
    """Not only when the next request comes."""
    hung_up: list[bool] = []

    def script(talk: Conversation) -> None:
        talk.answer(b"{}")
        hung_up.append(talk.wait_for_hangup())

    upstream.script = script
    transport = DirectTransport(Proxy(idle_connection_seconds=0.1))
    call = transport.call(request_to(upstream))
    call.send()

    assert whole_body(call) == b"{}"
    wait_until(lambda: hung_up == [True])
    transport.close()


def test_trailers_that_drip_are_given_up(
    transport: DirectTransport, upstream: ScriptedUpstream
) -> None:
    """An upstream that sends a little now and then is not listened to for ever."""
    over = threading.Event()

    def script(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(b"all")
        talk.send(b"0\r\n")
        while not over.wait(0.05):
            talk.send(b"x: y\r\n")

    upstream.script = script
    call = transport.call(request_to(upstream)._replace(read_timeout=0.5))
    call.send()
    assert call.read() == b"all"

    with pytest.raises(UpstreamTimeout):
        call.read()
    over.set()


def test_hangup_is_seen_through_an_outbound_proxy(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """Before the head and in the middle of the body; others on used connections go on."""
    hung_up: list[bool] = []

    def script(talk: Conversation) -> None:
        if "first" in talk.request.line:
            talk.answer(ANSWER)
            return
        if "body" in talk.request.line:
            talk.start_stream()
            talk.chunk(b"data: {}\n\n")
        hung_up.append(talk.wait_for_hangup(5))
        talk.cut()

    upstream.script = script
    own = start_server(upstream_url="http://upstream.example", PROXY__OUTBOUND_PROXY=upstream.url)
    assert own.request("POST", "/v1/first", CHAT)[0] == 200
    for target in ("head", "body"):
        with socket.create_connection(("127.0.0.1", own.port), timeout=10) as sock:
            head = f"GET /v1/{target} HTTP/1.1\r\nhost: localhost\r\n\r\n"
            sock.sendall(head.encode())
            wait_until(lambda: any(target in seen.line for seen in upstream.seen))  # noqa: B023  used at once
        wait_until(lambda: len(hung_up) == (1 if target == "head" else 2))  # noqa: B023  used at once

    assert hung_up == [True, True]
    assert [row["error_type"] for row in own.records(3)] == [
        None,
        "client_disconnected",
        "client_disconnected",
    ]


# -- addresses -----------------------------------------------------------------------------------


class NameServer:
    """Answers lookups by hand: with ``answer``, or an error where it is empty."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = ["192.0.2.1"]
        self.free = threading.Event()
        self.free.set()

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        """Take the place of ``getaddrinfo``."""
        self.asked += 1
        self.free.wait(10)
        if not self.answer:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in self.answer]


def looked_up(addresses: Addresses, timeout: float = 5) -> list[str]:
    """Return the addresses of one host."""
    return [sock[0] for _, sock in addresses.of("host.example", 80, timeout, CancelToken())]


def test_address_is_looked_up_once_and_refreshed_beside() -> None:
    """A known address is used at once, also while it is looked up again, by one lookup."""
    server = NameServer()
    addresses = Addresses(0.01, 60, server)
    assert looked_up(addresses) == ["192.0.2.1"]
    server.free.clear()
    server.answer = ["192.0.2.2"]

    def asked_again() -> bool:
        assert looked_up(addresses) == ["192.0.2.1"]
        return server.asked == 2

    wait_until(asked_again)
    for _ in range(5):
        assert looked_up(addresses) == ["192.0.2.1"]
    assert server.asked == 2
    server.free.set()
    wait_until(lambda: looked_up(addresses) == ["192.0.2.2"])


def test_fresh_address_is_not_looked_up_again() -> None:
    """For as long as an answer is said to hold, the name server is left in peace."""
    server = NameServer()
    addresses = Addresses(60, 60, server)
    for _ in range(5):
        assert looked_up(addresses) == ["192.0.2.1"]
    wait_until(lambda: "lookup" not in {thread.name for thread in threading.enumerate()})
    assert server.asked == 1


def test_old_address_is_not_used_for_ever() -> None:
    """Where the name server is away, an answer serves a while and no longer."""
    server = NameServer()
    patient, addresses = Addresses(0.01, 60, server), Addresses(0.01, 0.05, server)
    looked_up(patient)
    looked_up(addresses)
    server.answer = []

    def refused() -> bool:
        try:
            return not looked_up(addresses)
        except UpstreamUnreachable as error:
            return "host.example" in str(error)

    wait_until(refused)
    assert looked_up(patient) == ["192.0.2.1"]


def test_slow_name_server_is_asked_once_and_given_up_in_time() -> None:
    """Those who wait for the same name share one lookup, and wait no longer than they may."""
    server = NameServer()
    server.free.clear()
    addresses = Addresses(60, 60, server)

    for _ in range(3):
        with pytest.raises(UpstreamTimeout, match=r"host\.example"):
            looked_up(addresses, timeout=0.05)
    assert server.asked == 1
    server.free.set()
    wait_until(lambda: looked_up(addresses) == ["192.0.2.1"])
    assert server.asked == 1


def test_families_take_turns() -> None:
    """Where one family leads nowhere, the other comes second, not last (RFC 8305)."""
    four, six = socket.AF_INET, socket.AF_INET6
    pairs = [(six, "a"), (six, "b"), (six, "c"), (four, "d"), (four, "e")]

    assert [name for _, name in interleaved(pairs)] == ["a", "d", "b", "e", "c"]
    assert interleaved([]) == []


@pytest.fixture
def dead_address() -> Iterator[tuple[int, tuple[str, int]]]:
    """An address that never answers: its queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield socket.AF_INET, listener.getsockname()


def test_dead_address_does_not_eat_the_time_of_the_next(
    dead_address: tuple[int, tuple[str, int]], upstream: ScriptedUpstream
) -> None:
    """The next address is tried while the first one is silent, and at once where it refuses."""
    refusing = (socket.AF_INET, ("127.0.0.3", upstream.port))
    alive = (socket.AF_INET, ("127.0.0.1", upstream.port))
    token = CancelToken()

    sock, address = connect([dead_address, refusing, dead_address, alive], 20, token)

    assert address == alive
    sock.close()
    with pytest.raises(TimeoutError):
        connect([dead_address], 0.05, token)
    with pytest.raises(ConnectionRefusedError):
        connect([refusing, refusing], 5, token)


def test_hangup_ends_an_attempt_to_connect(dead_address: tuple[int, tuple[str, int]]) -> None:
    """A client that leaves is not waited for until the timeout."""
    token = CancelToken()
    threading.Timer(0.1, token.cancel).start()

    with pytest.raises(ClientDisconnected):
        connect([dead_address, dead_address], 30, token)


def test_address_that_answered_is_tried_first() -> None:
    """The next connection does not wait for the dead address again."""
    server = NameServer()
    server.answer = ["192.0.2.1", "192.0.2.2"]
    addresses = Addresses(60, 60, server)
    looked_up(addresses)

    addresses.prefer("host.example", 80, (socket.AF_INET, ("192.0.2.2", 80)))

    assert looked_up(addresses) == ["192.0.2.2", "192.0.2.1"]

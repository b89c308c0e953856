"""Ways to an upstream other than plain HTTP: TLS, an outbound proxy, names."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from conftest import Server
from requests.exceptions import ConnectionError as NoConnection
from scripted import Conversation, ScriptedUpstream, wait_until

from ccproxy_flask.proxy.upstream import Addresses

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


def test_addresses_are_looked_up_once_and_refreshed_beside() -> None:
    """A known address is used at once, also while it is looked up again."""
    addresses = Addresses(seconds=0.01)

    first = addresses.of("localhost", 80)
    wait_until(lambda: threading.active_count() < 50)

    assert first
    assert addresses.of("localhost", 80) == first
    with pytest.raises(NoConnection):
        addresses.of("nobody.invalid", 80)

"""The dashboard as the server sends it: its pages, and its live feed."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pytest
import websocket
from dashboard_support import Site, make_record, open_journal, sites, wait_for

from ccproxy_flask.dashboard.feed import LockedSocket

if TYPE_CHECKING:
    from conftest import Server
    from scripted import ScriptedUpstream

PAGES = [
    *("/dashboard", "/dashboard/requests", "/dashboard/search"),
    *("/dashboard/sql", "/dashboard/status"),
]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a site; all are closed at the end."""
    with sites(tmp_path) as make:
        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A running dashboard without traffic."""
    return make_site()


@pytest.fixture
def watch(site: Site) -> Iterator[Callable[..., websocket.WebSocket]]:
    """Return a function that opens the WebSocket as a program does."""
    opened: list[websocket.WebSocket] = []

    def connect(query: str = "", **options: Any) -> websocket.WebSocket:
        opened.append(websocket.create_connection(site.socket_url + query, timeout=10, **options))
        return opened[-1]

    yield connect
    for socket_ in opened:
        socket_.shutdown()


class Events:
    """The same messages as Server-Sent Events; anything with a port has them."""

    def __init__(self, served: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        self._connection.request("GET", "/dashboard/events")
        self._answer = self._connection.getresponse()
        assert self._answer.headers["X-Accel-Buffering"] == "no"

    def recv(self) -> str:
        """Return the data of the next event."""
        while not (line := self._answer.readline()).startswith(b"data: "):
            assert line, "the stream has ended"
        return line.removeprefix(b"data: ").decode()

    def close(self) -> None:
        """Hang up."""
        self._answer.close()
        self._connection.close()


def messages(watcher: Any) -> Iterator[dict[str, Any]]:
    """Return all messages as they come, those of a batch one by one."""
    while True:
        message = json.loads(watcher.recv())
        yield from message["data"] if message["type"] == "batch" else [message]


def receive(watcher: Any, kind: str) -> dict[str, Any]:
    """Return the next message of a *kind*."""
    return next(one for one in messages(watcher) if one["type"] == kind)


def get(site: Site, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Send a GET to the site."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


class TestPages:
    """What the server sends for the pages."""

    @pytest.mark.parametrize("path", PAGES)
    def test_policy_allows_nothing_from_elsewhere(self, site: Site, path: str) -> None:
        """The Content-Security-Policy names only this server, and no inline code."""
        status, headers, _ = get(site, path)

        policy = headers["Content-Security-Policy"]
        assert status == 200
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("path", [*PAGES, "/dashboard/sign-in"])
    def test_markup_has_no_inline_code(self, make_site: Callable[..., Site], path: str) -> None:
        """Scripts and styles are files, there is no handler attribute, addresses are relative."""
        site = make_site(token="long-token-1234567890")  # noqa: S106  a test's token
        site.store.keep(make_record(error_type="overloaded", status_code=529))
        bearer = {"Authorization": "Bearer long-token-1234567890"}
        _, _, html = get(site, path, **({} if "sign-in" in path else bearer))

        assert not re.search(r"<script(?![^>]*\bsrc=)", html)
        assert "<style" not in html
        assert not re.search(r"\s(?:on\w+|style)=", html)
        assert not re.search(r"(?:href|src|action)=\"(?:/|[a-z]+:)", html)

    def test_favicon_is_an_image(self, site: Site) -> None:
        """The icon is at its published address."""
        status, headers, body = get(site, "/dashboard/favicon.svg")

        assert (status, headers.get_content_type()) == (200, "image/svg+xml")
        assert body.startswith("<svg")

    def test_with_and_without_a_slash(self, site: Site) -> None:
        """Both spellings of the address are the page."""
        assert get(site, "/dashboard")[0] == get(site, "/dashboard/")[0] == 200

    def test_says_when_nothing_is_recorded(self, make_site: Callable[..., Site]) -> None:
        """With collection off the page says so, and which setting to change."""
        site = make_site(collect=False)
        _, _, html = get(site, "/dashboard")

        assert "Recording is off." in html
        assert "OBSERVABILITY__LOGS_COLLECTION_ENABLED=true" in html
        assert get(site, "/dashboard/events")[0] == get(site, "/dashboard/snapshot")[0] == 503
        watcher = websocket.create_connection(site.socket_url, timeout=5)
        code, data = watcher.recv_data()
        assert (code, data[:2]) == (websocket.ABNF.OPCODE_CLOSE, (4503).to_bytes(2, "big"))
        watcher.shutdown()

    def test_first_data_is_in_the_page(self, site: Site) -> None:
        """Without any script the page has figures, rows and links to other ranges."""
        record = make_record(model="claude-opus-4-5")
        site.store.keep(record, make_record(ago=90_000))

        html = get(site, "/dashboard")[2]
        figure = re.search(r'data-total="requests">([^<]*)', html)
        assert figure is not None
        assert figure[1] == "1"
        assert html.count('<tr role="row" class="row') == 2  # one of them is the template
        assert f"dashboard/requests/{record.request_id}" in html
        assert 'href="dashboard?range=7d"' in html

    @pytest.mark.parametrize("path", PAGES)
    def test_store_that_is_away_is_no_error(self, site: Site, path: str) -> None:
        """Without the store every page is shown, with the reason."""
        site.store.away = "the recorder is not running"

        status, _, html = get(site, path)

        assert status == 200
        # A page without rows asks nothing of the store while it is rendered.
        asks = path in ("/dashboard", "/dashboard/requests")
        assert ("the recorder is not running" in html) is asks

    @pytest.mark.parametrize("path", PAGES)
    def test_nonsense_in_the_address_is_no_error(self, site: Site, path: str) -> None:
        """Whatever stands in the address, a page is shown."""
        nonsense = "range=%00&status=x&sort=%27&cursor=1~&page=-1&cols=,,&duration=NaN&error=%F0%9F"

        assert get(site, f"{path}?{nonsense}")[0] == 200

    def test_request_that_is_not_stored_is_a_404(self, site: Site) -> None:
        """An address without a row says what may be the matter."""
        status, _, html = get(site, "/dashboard/requests/01a1feeb-4d52-761d-bf10-98436e06fba7")

        assert status == 404
        assert "This request is not stored" in html

    def test_typed_filters_become_an_address(self, site: Site) -> None:
        """What a form sends is turned into the address that says it, without a script."""
        typed = quote('model:opus status:>=400 "two words"')
        status, headers, _ = get(site, f"/dashboard/requests?f={typed}&range=7d&model=old")
        assert status == 303
        assert unquote(headers["Location"]) == (
            "../dashboard/requests?range=7d&model=opus&status=>=400&q=two+words"
        )

        _, headers, _ = get(site, f"/dashboard/requests?f={quote('class:all')}")
        assert headers["Location"].endswith("class=all")

        status, headers, _ = get(site, "/dashboard/requests?cols=cost&cols=time")
        assert (status, headers["Location"]) == (303, "../dashboard/requests?cols=time,cost")

    def test_statement_in_a_foreign_link_is_not_run(self, site: Site) -> None:
        """A page of another site can fill in the SQL page, and not make the database work."""
        address = "/dashboard/sql?q=SELECT+count(*)+FROM+access_logs"

        assert "rows in" in get(site, address)[2]
        assert "rows in" in get(site, address, **{"Sec-Fetch-Site": "same-origin"})[2]
        foreign = get(site, address, **{"Sec-Fetch-Site": "cross-site"})[2]
        assert "rows in" not in foreign
        assert "SELECT count(*) FROM access_logs" in foreign

    def test_search_says_how_to_keep_what_is_said(self, site: Site) -> None:
        """Where nothing is kept, the page has the line that keeps it; the words stay."""
        status, _, text = get(site, "/dashboard/search?q=the+walrus")
        assert (status, "CAPTURE__CONTENT=on" in text) == (200, True)
        assert 'value="the walrus"' in text

    def test_search_is_away_with_the_recorder(self, site: Site) -> None:
        """A recorder that does not answer is said, in place of "nothing was found"."""
        site.app.extensions["ccproxy.content"] = site.store
        site.store.away = "it rests"
        status, _, text = get(site, "/dashboard/search?q=walrus")
        assert (status, "it rests" in text, "Nobody said that" in text) == (200, True, False)

    def test_suggestions_are_what_there_is(self, site: Site) -> None:
        """Models, providers and clients of the range are completed; without the store, the rest."""
        site.store.keep(make_record(model="claude-opus-4-5"), make_record(provider="openai"))
        site.store.keep(make_record(client="codex"))

        found = json.loads(get(site, "/dashboard/suggestions")[2])
        site.store.away = "gone"
        without = json.loads(get(site, "/dashboard/suggestions")[2])

        assert set(found["values"]["model"]) == {"claude-opus-4-5", "claude-sonnet-4-5"}
        assert set(found["values"]["provider"]) == {"anthropic", "openai"}
        assert found["values"]["client"] == ["codex"]
        assert "subagent" in found["values"]["class"]
        assert found["names"].keys() == without["names"].keys()
        assert without["values"]["model"] == []


class TestSocket:
    """The messages on the WebSocket."""

    def test_snapshot_comes_first(self, site: Site, watch: Any) -> None:
        """The first message has the newest rows and what is in flight."""
        stored, running = make_record(ago=5), make_record(status_code=None)
        site.store.keep(stored, make_record(ago=100_000))
        site.journal.start(running)

        message = json.loads(watch().recv())

        data = message["data"]
        assert message["type"] == "snapshot"
        assert [row["id"] for row in data["entries"]] == [stored.request_id]
        assert [row["id"] for row in data["in_flight"]] == [running.request_id]
        assert data["store"] == {"available": True, "reason": None}

    def test_no_more_than_fifty_rows(self, site: Site, watch: Any) -> None:
        """The snapshot has the last 50 rows, newest first."""
        site.store.keep(*(make_record(ago=number) for number in range(80)))

        entries = json.loads(watch().recv())["data"]["entries"]

        stamps = [row["time"] for row in entries]
        assert len(entries) == 50
        assert stamps == sorted(stamps, reverse=True)

    @pytest.mark.parametrize("way", ["socket", "events"])
    def test_requests_of_all_workers_are_told(self, site: Site, watch: Any, way: str) -> None:
        """Start, end and error of a request come as events, whichever worker has it."""
        watcher = watch() if way == "socket" else Events(site)
        receive(watcher, "snapshot")
        other = open_journal(site.settings)
        record = make_record()

        other.start(record)
        started = receive(watcher, "request_start")
        other.end(record)
        ended = receive(watcher, "request_complete")
        failed = site.finish(status_code=529, error_type="overloaded")
        error = receive(watcher, "request_error")
        other.close()

        assert started["data"]["id"] == ended["data"]["id"] == record.request_id
        assert (started["data"]["kind"], ended["data"]["kind"]) == ("live", "good")
        assert ended["data"]["cost"] == "$0.012346"
        assert ended["timestamp"].endswith("Z")
        assert (error["data"]["id"], error["data"]["kind"]) == (failed.request_id, "bad")
        if way == "events":
            watcher.close()

    def test_what_turns_out_to_be_none_of_the_page_goes_again(self, site: Site, watch: Any) -> None:
        """A request is shown at its start by what is known then, also on a page with filters."""
        watcher = watch(query="?model=opus")
        receive(watcher, "snapshot")
        fields = {"model": None, "model_requested": "claude-opus-4-5", "status_code": None}
        record, probe = (make_record(**fields) for _ in range(2))
        for one in (record, probe):
            one.request_class = "main"
            site.journal.start(one)
        told = [receive(watcher, "request_start")["data"]["id"] for _ in range(2)]
        probe.request_class, record.model = "probe", "claude-opus-4-5"
        probe.status_code = record.status_code = 200
        site.journal.end(probe)
        gone = receive(watcher, "request_gone")
        site.journal.end(record)

        assert told == [record.request_id, probe.request_id]
        assert gone["data"] == {"id": probe.request_id}
        assert receive(watcher, "request_complete")["data"]["id"] == record.request_id

    def test_only_what_the_page_shows_is_told(self, site: Site, watch: Any) -> None:
        """A page with filters hears of the requests that fit them, and of no others."""
        watcher = watch(query="?status=5xx&provider=openai")
        receive(watcher, "snapshot")
        site.finish(provider="openai")
        site.finish(status_code=529, error_type="overloaded")
        wanted = site.finish(provider="openai", status_code=529, error_type="overloaded")

        assert next(
            one["data"]["id"] for one in messages(watcher) if one["type"].startswith("request_")
        ) == (wanted.request_id)

    def test_overflow_is_followed_by_two_snapshots(self, site: Site, watch: Any) -> None:
        """A viewer that missed events is told, and soon gets everything anew.

        What it missed may not be stored yet when the first one is made: hence the second.
        """
        watcher = watch()
        receive(watcher, "snapshot")
        receive(watcher, "snapshot")  # there is no further one for 30 s
        [subscription] = site.feed.subscriptions
        record = make_record()
        event = {"type": "request_start", "data": record.as_dict(), "timestamp": "", "id": ""}

        subscription.put([event] * 3000)

        assert receive(watcher, "overflow")["data"]["missed"] >= 1000
        receive(watcher, "snapshot")
        receive(watcher, "snapshot")

    def test_store_that_is_away_does_not_stop_the_feed(self, site: Site, watch: Any) -> None:
        """Without the store there are no rows, a reason, and still every event."""
        site.store.away = "the database is locked by another process"
        watcher = watch()

        data = receive(watcher, "snapshot")["data"]
        record = site.finish()
        event = receive(watcher, "request_complete")

        assert data["entries"] is None
        assert data["store"] == {
            "available": False,
            "reason": "the database is locked by another process",
        }
        assert event["data"]["id"] == record.request_id

    def test_sockets_end_at_once_with_the_feed(self, site: Site, watch: Any) -> None:
        """At shutdown every viewer gets a close frame, and does not hold the server up."""
        watcher = watch()
        receive(watcher, "snapshot")

        began = time.monotonic()
        site.feed.close()
        code, data = watcher.recv_data()

        assert (code, data[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1001).to_bytes(2, "big"))
        assert time.monotonic() - began < 5

    def test_viewer_that_vanishes_is_forgotten(self, site: Site, watch: Any) -> None:
        """A connection that breaks without a word frees its subscription."""
        watcher = watch()
        receive(watcher, "snapshot")
        assert site.feed.open_subscriptions == 1

        watcher.sock.shutdown(socket.SHUT_RDWR)

        wait_for(lambda: site.feed.open_subscriptions == 0)

    def test_viewer_that_no_longer_answers_is_forgotten(
        self, make_site: Callable[..., Site]
    ) -> None:
        """A peer that leaves pings unanswered is taken for dead, however open its connection."""
        site = make_site(ping_seconds=0.1)
        with socket.create_connection(("127.0.0.1", site.port)) as silent:
            silent.sendall(
                b"GET /dashboard/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            wait_for(lambda: site.feed.open_subscriptions == 1)

            wait_for(lambda: site.feed.open_subscriptions == 0)

    def test_what_the_viewer_says_is_ignored(self, site: Site, watch: Any) -> None:
        """Messages from the page change nothing."""
        watcher = watch()
        receive(watcher, "snapshot")
        watcher.send("hello")
        watcher.send(b"\x00\x01", opcode=websocket.ABNF.OPCODE_BINARY)

        record = site.finish()

        assert receive(watcher, "request_complete")["data"]["id"] == record.request_id

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "http://localhost:1"}, 403),
            ({"host": "evil.example", "suppress_origin": True}, 403),
        ],
    )
    def test_other_sites_are_refused(self, watch: Any, options: Any, status: int) -> None:
        """A page of another site cannot open the feed."""
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            watch(**options)

        assert caught.value.status_code == status

    def test_strangers_are_refused(self, make_site: Callable[..., Site]) -> None:
        """With a token set, the feed needs it."""
        site = make_site(token="long-token-1234567890")  # noqa: S106  a test's token
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            websocket.create_connection(site.socket_url, timeout=5)
        assert caught.value.status_code == 401

        bearer = ["Authorization: Bearer long-token-1234567890"]
        watcher = websocket.create_connection(site.socket_url, timeout=5, header=bearer)
        assert receive(watcher, "snapshot")
        watcher.shutdown()

    def test_broken_handshake_is_a_400(self, site: Site) -> None:
        """A handshake that is none is refused with an error of ours."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        status, _, body = get(site, "/dashboard/ws", **upgrade)

        assert status == 400
        assert json.loads(body)["error"]["type"] == "bad_request"


class TestLine:
    """The socket under a WebSocket."""

    @pytest.fixture
    def pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Two connected sockets with small buffers."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield ours, theirs
        ours.close()
        theirs.close()

    def test_long_messages_go_out_whole(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """A message larger than the buffers is sent to its end, one writer at a time."""
        ours, theirs = pair
        line = LockedSocket(ours)
        writers = [
            threading.Thread(target=line.send, args=(letter * 300_000,)) for letter in (b"a", b"b")
        ]
        for writer in writers:
            writer.start()
        received = b""
        while len(received) < 600_000:
            received += theirs.recv(10_000)
        for writer in writers:
            writer.join()

        assert received in (b"a" * 300_000 + b"b" * 300_000, b"b" * 300_000 + b"a" * 300_000)

    def test_peer_that_takes_nothing_is_given_up(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """Sending ends after the time limit; waiting for input does not."""
        ours, theirs = pair
        line = LockedSocket(ours, seconds=0.1)
        with pytest.raises(TimeoutError):
            line.send(b"x" * 1_000_000)

        timer = threading.Timer(0.3, theirs.sendall, (b"late",))
        timer.start()
        assert line.recv(10) == b"late"
        timer.join()


class TestUnderGunicorn:
    """The same over the real server, with requests that really go through it."""

    @pytest.mark.slow
    def test_watcher_sees_all_workers_and_ends_at_shutdown(
        self, start_server: Callable[..., Server], upstream: ScriptedUpstream
    ) -> None:
        """One viewer sees what both workers pass on; SIGTERM does not wait for it."""
        upstream.script = lambda talk: talk.answer(b'{"model": "gpt-5"}')
        server = start_server(workers=2)
        watcher = websocket.create_connection(
            f"ws://localhost:{server.port}/dashboard/ws", timeout=15
        )
        events = Events(server)
        receive(watcher, "snapshot")
        receive(events, "snapshot")

        asked = set()
        for _ in range(12):
            status, headers, _ = server.request(
                "POST", "/v1/chat/completions", b"{}", {"content-type": "application/json"}
            )
            asked.add(headers["x-ccproxy-request-id"])
            assert status == 200
        ends = (one for one in messages(watcher) if one["type"] == "request_complete")
        told = (one for one in messages(events) if one["type"] == "request_complete")
        assert {next(told)["data"]["id"] for _ in asked} == asked
        assert {next(ends)["data"]["id"] for _ in asked} == asked

        server.stop()  # in a shorter time than gunicorn would give who is still there
        watcher.shutdown()
        events.close()

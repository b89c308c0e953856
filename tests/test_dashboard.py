"""The dashboard: its pages, its WebSocket, and what a person sees in a browser."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import websocket
from browser_support import Visit, browser_test, chromium
from dashboard_support import Site, make_record, open_journal, wait_for
from playwright.sync_api import Browser, expect

from ccproxy_flask.dashboard.feed import Line
from ccproxy_flask.record import to_json
from ccproxy_flask.store.base import Totals

if TYPE_CHECKING:
    from conftest import Server
    from scripted import ScriptedUpstream

MARKUP = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a site; all are closed at the end."""
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        sites.append(Site(tmp_path, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A running dashboard without traffic."""
    return make_site()


@pytest.fixture
def watch(site: Site) -> Iterator[Callable[..., websocket.WebSocket]]:
    """Return a function that opens the WebSocket as a program does."""
    opened: list[websocket.WebSocket] = []

    def connect(**options: Any) -> websocket.WebSocket:
        opened.append(websocket.create_connection(site.socket_url, timeout=10, **options))
        return opened[-1]

    yield connect
    for socket_ in opened:
        socket_.shutdown()


def messages(watcher: websocket.WebSocket) -> Iterator[dict[str, Any]]:
    """Return all messages as they come, those of a batch one by one."""
    while True:
        message = json.loads(watcher.recv())
        yield from message["data"] if message["type"] == "batch" else [message]


def receive(watcher: websocket.WebSocket, kind: str) -> dict[str, Any]:
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


class TestPage:
    """What the server sends for the page."""

    def test_policy_allows_nothing_from_elsewhere(self, site: Site) -> None:
        """The Content-Security-Policy names only this server, and no inline code."""
        status, headers, _ = get(site, "/dashboard")

        policy = headers["Content-Security-Policy"]
        assert status == 200
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("path", ["/dashboard", "/dashboard/sign-in"])
    def test_markup_has_no_inline_code(self, make_site: Callable[..., Site], path: str) -> None:
        """Scripts and styles are files; there is no handler attribute and no foreign address."""
        site = make_site(token="long-token-1234567890")  # noqa: S106  a test's token
        bearer = {"Authorization": "Bearer long-token-1234567890"}
        _, _, html = get(site, path, **bearer)

        assert not re.search(r"<script(?![^>]*\bsrc=)", html)
        assert "<style" not in html
        assert not re.search(r"\s(?:on\w+|style)=", html)
        assert not re.search(r"(?:href|src|action)=\"(?:/|[a-z]+:)", html), "relative ones only"

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
        watcher = websocket.create_connection(site.socket_url, timeout=5)
        code, data = watcher.recv_data()
        assert (code, data[:2]) == (websocket.ABNF.OPCODE_CLOSE, (4503).to_bytes(2, "big"))
        watcher.shutdown()


class TestSocket:
    """The messages on the WebSocket."""

    def test_snapshot_comes_first(self, site: Site, watch: Any) -> None:
        """The first message has the figures, the newest rows and what is in flight."""
        stored, running = make_record(ago=5), make_record(status_code=None)
        site.store.keep(stored, make_record(ago=100_000))
        site.journal.start(running)

        message = json.loads(watch().recv())

        data = message["data"]
        assert message["type"] == "snapshot"
        assert data["totals"]["total_requests"] == 1
        assert data["entries"][0]["request_id"] == stored.request_id
        assert [row["request_id"] for row in data["in_flight"]] == [running.request_id]
        assert data["store"] == {"available": True, "reason": None}

    def test_snapshot_is_of_one_moment(self, site: Site, watch: Any) -> None:
        """What is stored while a snapshot is made is in its figures and in its rows, or in none."""
        site.store.keep(make_record())
        site.store.arriving.append(make_record(ago=30))  # a long one, that ends just now

        data = json.loads(watch().recv())["data"]

        assert len(data["entries"]) == data["totals"]["total_requests"] == 2

    def test_no_more_than_a_hundred_rows(self, site: Site, watch: Any) -> None:
        """The snapshot has the last 100 rows, newest first."""
        site.store.keep(*(make_record(ago=number) for number in range(150)))

        entries = json.loads(watch().recv())["data"]["entries"]

        stamps = [row["timestamp"] for row in entries]
        assert len(entries) == 100
        assert stamps == sorted(stamps, reverse=True)

    def test_requests_of_all_workers_are_told(self, site: Site, watch: Any) -> None:
        """Start, end and error of a request come as events, whichever worker has it."""
        watcher = watch()
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

        assert started["data"]["request_id"] == ended["data"]["request_id"] == record.request_id
        assert ended["data"]["cost_usd"] == pytest.approx(0.0123456)
        assert ended["timestamp"].endswith("Z")
        assert error["data"]["error_type"] == failed.error_type

    def test_row_has_only_what_the_page_shows(self, site: Site, watch: Any) -> None:
        """Query strings and ids of keys, users and sessions stay on the server."""
        watcher = watch()
        receive(watcher, "snapshot")
        site.finish(query="beta=true", api_key_id="0123", user_id="u", session_id="s")

        row = receive(watcher, "request_complete")["data"]

        assert not {"query", "api_key_id", "user_id", "session_id"} & row.keys()

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
        began = time.monotonic()

        subscription.put([event] * 3000)

        assert receive(watcher, "overflow")["data"]["missed"] >= 1000
        receive(watcher, "snapshot")
        receive(watcher, "snapshot")
        assert time.monotonic() - began < 20

    def test_store_that_is_away_does_not_stop_the_feed(self, site: Site, watch: Any) -> None:
        """Without the store there are no figures, a reason, and still every event."""
        site.store.away = "the database is locked by another process"
        watcher = watch()

        data = receive(watcher, "snapshot")["data"]
        record = site.finish()
        event = receive(watcher, "request_complete")

        assert (data["totals"], data["entries"]) == (None, None)
        assert data["store"] == {
            "available": False,
            "reason": "the database is locked by another process",
        }
        assert event["data"]["request_id"] == record.request_id

    def test_second_snapshot_comes_soon(self, site: Site, watch: Any) -> None:
        """What had ended but was not stored when the page opened is not long in coming."""
        watcher = watch()
        began = time.monotonic()
        assert receive(watcher, "snapshot")["data"]["entries"] == []
        site.store.keep(make_record())

        assert receive(watcher, "snapshot")
        assert time.monotonic() - began < 20

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

        assert receive(watcher, "request_complete")["data"]["request_id"] == record.request_id

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
        line = Line(ours)
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
        line = Line(ours, seconds=0.1)
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
        receive(watcher, "snapshot")

        asked = set()
        for _ in range(12):
            status, headers, _ = server.request(
                "POST", "/v1/chat/completions", b"{}", {"content-type": "application/json"}
            )
            asked.add(headers["x-ccproxy-request-id"])
            assert status == 200
        ends = (one for one in messages(watcher) if one["type"] == "request_complete")
        assert {next(ends)["data"]["request_id"] for _ in asked} == asked

        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 8
        watcher.shutdown()


# -- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the dashboard; nothing may have gone wrong at the end."""
    visits: list[Visit] = []

    def open_page(**options: Any) -> Visit:
        visits.append(Visit(browser, **options))
        visits[-1].page.goto(site.url)
        visits[-1].expect_live()
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()
        assert one.complaints == []
        assert one.hosts == {f"localhost:{site.port}"}


class TestBrowser:
    """What a person sees."""

    pytestmark = browser_test

    def test_request_appears_at_its_start_and_is_updated_at_its_end(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """A row is there while the request is in flight, and the same row says how it ended."""
        seen = visit()
        record = make_record(model=None, model_requested="claude-opus-4-5", status_code=None)
        record.duration_ms = record.cost_usd = None

        site.journal.start(record)
        expect(seen.cell(record.request_id, "status")).to_have_text("streaming")
        expect(seen.cell(record.request_id, "model")).to_have_text("claude-opus-4-5")
        expect(seen.cell(record.request_id, "cost")).to_have_text("")
        expect(seen.figure("active")).to_have_text("1")
        record.status_code, record.duration_ms, record.cost_usd = 200, 2345.6, Decimal("0.0421")
        record.model = "claude-opus-4-5-20251101"
        site.journal.end(record)

        expect(seen.cell(record.request_id, "status")).to_have_text("200")
        expect(seen.cell(record.request_id, "model")).to_have_text("claude-opus-4-5-20251101")
        expect(seen.cell(record.request_id, "duration")).to_have_text("2.35 s")
        expect(seen.cell(record.request_id, "input")).to_have_text("12")
        expect(seen.cell(record.request_id, "cached")).to_have_text("6,789")
        expect(seen.cell(record.request_id, "output")).to_have_text("345")
        expect(seen.cell(record.request_id, "cost")).to_have_text("$0.042100")
        expect(seen.row(record.request_id)).to_have_count(1)
        expect(seen.figure("active")).to_have_text("0")

    def test_other_workers_requests_appear(self, site: Site, visit: Callable[..., Visit]) -> None:
        """The page shows the traffic of workers other than the one it is connected to."""
        seen = visit()
        other = open_journal(site.settings)
        record = make_record()
        other.start(record)
        other.end(record)
        other.close()

        expect(seen.cell(record.request_id, "status")).to_have_text("200")

    @pytest.mark.parametrize(
        ("cost", "shown"),
        [
            (None, "—"),
            (Decimal(0), "$0.00"),
            (Decimal("0.0000012"), "$0.0000012"),
            (Decimal("0.0123456"), "$0.012346"),
            (Decimal("12.5"), "$12.5000"),
        ],
    )
    def test_cost_is_never_rounded_away(
        self, site: Site, visit: Callable[..., Visit], cost: Decimal | None, shown: str
    ) -> None:
        """A small cost keeps its digits, an unknown one is a dash, and only zero is zero."""
        seen = visit()
        record = site.finish(cost_usd=cost)

        expect(seen.cell(record.request_id, "cost")).to_have_text(shown)
        expect(seen.figure("cost")).to_have_text(shown)

    def test_unknown_tokens_are_a_dash(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Token counts that the answer did not tell are not shown as 0."""
        seen = visit()
        record = site.finish(tokens_input=None, tokens_output=0, cache_read_tokens=None)

        expect(seen.cell(record.request_id, "input")).to_have_text("—")
        expect(seen.cell(record.request_id, "cached")).to_have_text("—")
        expect(seen.cell(record.request_id, "output")).to_have_text("0")

    def test_error_is_told_in_words(self, site: Site, visit: Callable[..., Visit]) -> None:
        """A failed request says what went wrong, and counts as an error."""
        seen = visit()
        site.finish()
        record = site.finish(
            status_code=529, error_type="overloaded", error_message="Try again later"
        )

        expect(seen.row(record.request_id)).to_have_class("row failed")
        expect(seen.cell(record.request_id, "status")).to_have_text("529")
        expect(seen.cell(record.request_id, "note")).to_have_text("overloaded: Try again later")
        expect(seen.figure("errors")).to_have_text("50%")
        expect(seen.figure("success")).to_have_text("50%")

    def test_markup_from_the_wire_stays_text(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Whatever clients and providers send is shown, never run."""
        stored = make_record(ago=60, model=MARKUP, error_message=MARKUP, error_type=MARKUP)
        site.store.keep(stored)
        seen = visit()
        record = site.finish(
            model=MARKUP,
            path=f"/{MARKUP}",
            method=MARKUP,
            provider=MARKUP,
            user_agent=MARKUP,
            finish_reason=MARKUP,
            cost_source=MARKUP,
        )
        site.store.away = MARKUP
        site.tell_anew()

        for request_id in (stored.request_id, record.request_id):
            expect(seen.cell(request_id, "model")).to_have_text(MARKUP)
        expect(seen.cell(record.request_id, "note")).to_have_text(MARKUP)
        expect(seen.page.locator("[data-notice]")).to_contain_text(MARKUP)
        assert seen.page.locator("img").count() == 0
        assert "owned" not in seen.page.title()

    def test_last_hundred_are_there_on_load(self, site: Site, visit: Callable[..., Visit]) -> None:
        """The page opens with the newest 100 requests, newest first, and never grows past them."""
        site.store.keep(*(make_record(ago=200 - number) for number in range(120)))
        seen = visit()
        rows = seen.page.locator("[data-rows] tr")
        expect(rows).to_have_count(100)
        expect(seen.figure("requests")).to_have_text("120")

        record = site.finish()

        expect(rows.first).to_have_attribute("data-request", record.request_id)
        expect(rows).to_have_count(100)
        expect(seen.figure("requests")).to_have_text("121")

    def test_figures_follow_the_traffic(self, site: Site, visit: Callable[..., Visit]) -> None:
        """The figures start from the store and count on with each request that ends."""
        site.store.keep(make_record(ago=60, duration_ms=1000.0, cost_usd=Decimal("0.25")))
        seen = visit()
        expect(seen.figure("requests")).to_have_text("1")
        expect(seen.figure("cost")).to_have_text("$0.250000")

        site.finish(duration_ms=3000.0, cost_usd=Decimal("0.5"), cache_write_tokens=199)

        expect(seen.figure("requests")).to_have_text("2")
        expect(seen.figure("success")).to_have_text("100%")
        expect(seen.figure("errors")).to_have_text("0%")
        expect(seen.figure("latency")).to_have_text("2.00 s")
        expect(seen.figure("cost")).to_have_text("$0.750000")
        expect(seen.figure("input")).to_have_text("13.8K")
        expect(seen.figure("output")).to_have_text("690")
        expect(seen.figure("cache")).to_have_text("98.4%")

    def test_stored_request_is_counted_once(self, site: Site, visit: Callable[..., Visit]) -> None:
        """A request the page heard of is not counted again when a snapshot has it too."""
        seen = visit()
        record = site.finish()
        expect(seen.figure("requests")).to_have_text("1")
        site.store.keep(record, make_record(ago=3600))
        site.tell_anew()

        expect(seen.figure("requests")).to_have_text("2")
        expect(seen.page.locator("[data-rows] tr")).to_have_count(2)

    def test_reconnects_and_catches_up(self, site: Site, visit: Callable[..., Visit]) -> None:
        """When the server is gone the page says so, comes back alone, and shows what it missed."""
        seen = visit()
        running = make_record(status_code=None)
        site.journal.start(running)
        expect(seen.cell(running.request_id, "status")).to_have_text("streaming")

        site.stop()
        expect(seen.page.get_by_role("status").first).to_have_text("Connection lost")
        expect(seen.page.locator("[data-link-countdown]")).to_contain_text("retrying")
        site.journal.end(running)
        missed = site.finish()
        site.store.keep(running, missed)
        site.start()

        seen.expect_live(seconds=40)  # it waits 30 s at most between two attempts
        expect(seen.cell(missed.request_id, "status")).to_have_text("200")
        expect(seen.row(running.request_id)).not_to_have_class("row in-flight")
        expect(seen.figure("active")).to_have_text("0")
        seen.complaints = [said for said in seen.complaints if "WebSocket connection" not in said]
        seen.complaints = [said for said in seen.complaints if "ERR_CONNECTION" not in said]

    def test_store_that_is_away_is_said_plainly(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """Without the store the page says why, still shows live requests, and recovers."""
        site.store.away = "The database is locked by another process"
        seen = visit()
        notice = seen.page.locator("[data-notice]")
        expect(notice).to_contain_text("The store is away.")
        expect(notice).to_contain_text("The database is locked by another process")
        expect(seen.page.locator("[data-span]")).to_have_text("since this page was opened")

        record = site.finish()
        expect(seen.cell(record.request_id, "status")).to_have_text("200")
        expect(seen.figure("requests")).to_have_text("1")
        site.store.away = None
        site.tell_anew()

        expect(notice).to_be_hidden()
        expect(seen.page.locator("[data-span]")).to_have_text("last 24 hours")

    def test_time_is_local_with_utc_in_the_title(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """Times are those of the viewer's clock; the title says UTC."""
        seen = visit()
        record = site.finish(timestamp=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC))

        time_cell = seen.cell(record.request_id, "time")
        expect(time_cell).to_have_text("2 Jan 08:49:05")
        expect(time_cell).to_have_attribute("title", "2026-01-02 03:04:05.678 UTC")

    def test_pause_holds_the_list_still(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Paused by the keyboard, no row is added, and the button counts what waits."""
        seen = visit()
        first = site.finish()
        expect(seen.row(first.request_id)).to_have_count(1)
        button = seen.page.get_by_role("button", name="Pause")
        button.focus()
        seen.page.keyboard.press("Enter")

        second = site.finish()
        resume = seen.page.get_by_role("button", name="Resume, 1 new")
        expect(resume).to_have_attribute("aria-pressed", "true")
        expect(seen.row(second.request_id)).to_have_count(0)
        seen.page.keyboard.press("Enter")

        expect(seen.row(second.request_id)).to_have_count(1)

    def test_theme_is_chosen_and_kept(self, visit: Callable[..., Visit]) -> None:
        """The theme follows the system until the viewer chooses, and then stays."""
        seen = visit(color_scheme="dark")
        ground = "getComputedStyle(document.body).backgroundColor"
        assert seen.page.evaluate(ground) == "rgb(10, 12, 16)"

        seen.page.get_by_role("button", name="Theme: system").click()
        assert seen.page.evaluate(ground) == "rgb(245, 246, 248)"
        seen.page.reload()

        assert seen.page.evaluate(ground) == "rgb(245, 246, 248)"
        expect(seen.page.get_by_role("button", name="Theme: light")).to_be_visible()

    def test_page_has_names_for_screen_readers(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """The table has a caption and headers, the connection state is a live region."""
        site.store.keep(make_record())
        seen = visit(viewport={"width": 1440, "height": 900})

        table = seen.page.get_by_role("table", name=re.compile("newest first"))
        expect(table.get_by_role("columnheader")).to_have_count(10)
        expect(table.get_by_role("row")).to_have_count(2)
        status = seen.page.get_by_role("status").first
        expect(status).to_have_attribute("aria-live", "polite")
        seen.page.keyboard.press("Tab")
        expect(seen.page.get_by_role("link", name="Skip to the live traffic")).to_be_focused()

    def test_fits_a_phone(self, site: Site, visit: Callable[..., Visit]) -> None:
        """On a phone nothing scrolls sideways, and rows are still rows."""
        record = make_record(model="a-very-long-model-name-" * 8, error_message="x" * 400)
        record.error_type, record.path = "api_error", "/v1/" + "long/" * 60
        site.store.keep(record)
        seen = visit(viewport={"width": 360, "height": 740})

        expect(seen.row(record.request_id)).to_be_visible()
        width = "document.documentElement.scrollWidth"
        assert seen.page.evaluate(width) == 360
        expect(seen.page.get_by_role("row")).to_have_count(2)

    def test_phone_prints_nothing_over_something_else(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """On a phone no value of a row stands on another one."""
        record = make_record(ago=200_000, error_type="api_error", error_message="Too much " * 9)
        record.status_code, record.provider = 529, None
        site.store.keep(record)
        seen = visit(viewport={"width": 360, "height": 740})

        boxes = (
            seen.row(record.request_id)
            .locator("td")
            .evaluate_all(
                """cells => cells.filter((cell) => cell.checkVisibility() && cell.innerText.trim())
                .map((cell) => {
                    const range = document.createRange();
                    range.selectNodeContents(cell);
                    const text = range.getBoundingClientRect();
                    const { left, right, top, bottom } = cell.getBoundingClientRect();
                    return [
                        cell.className,
                        Math.max(text.left, left), Math.min(text.right, right),
                        Math.max(text.top, top), Math.min(text.bottom, bottom),
                    ];
                })"""
            )
        )
        assert len(boxes) >= 6
        for one, other in itertools.combinations(boxes, 2):
            beside = one[2] <= other[1] + 1 or other[2] <= one[1] + 1
            below = one[4] <= other[3] + 1 or other[4] <= one[3] + 1
            assert beside or below, (one, other)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_sign_in_button_can_be_read(
        self, browser: Browser, make_site: Callable[..., Site], scheme: str
    ) -> None:
        """Its text has a contrast of 4.5 at least, also under the pointer (WCAG 2.2, 1.4.3)."""
        site = make_site(token="long-token-1234567890")  # noqa: S106  a test's token
        seen = Visit(browser, color_scheme=scheme)
        seen.page.goto(site.url)
        button = seen.page.get_by_role("button", name="Sign in")
        for _ in range(2):
            text, ground, effect = button.evaluate(
                """button => {
                    const { color, backgroundColor, filter } = getComputedStyle(button);
                    return [color, backgroundColor, filter];
                }"""
            )
            assert effect == "none"
            assert contrast(text, ground) >= 4.5
            button.hover()
        seen.close()

    def test_empty_page_says_how_to_begin(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Without traffic the page says how to point a client here."""
        seen = visit()

        expect(seen.page.get_by_text("No traffic yet")).to_be_visible()
        expect(seen.page.get_by_text("ANTHROPIC_BASE_URL=")).to_contain_text(
            f"http://localhost:{site.port}"
        )

    def test_many_requests_do_not_stop_the_page(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """A thousand requests at once are counted once each, and the newest hundred are shown.

        That holds however many of them the page itself has heard of, and missed.
        """
        seen = visit()
        burst = [site.finish() for _ in range(1000)]
        site.store.keep(make_record(ago=3600), *burst)
        site.tell_anew()

        rows = seen.page.locator("[data-rows] tr")
        expect(seen.figure("requests")).to_have_text("1,001")
        expect(seen.row(burst[-100].request_id)).to_have_count(1)
        expect(rows.first).to_have_attribute("data-request", burst[-1].request_id)
        expect(rows).to_have_count(100)

    def test_signing_in(self, browser: Browser, make_site: Callable[..., Site]) -> None:
        """A person signs in with the token, watches, and signs out."""
        site = make_site(token="long-token-1234567890")  # noqa: S106  a test's token
        seen = Visit(browser)
        page = seen.page
        page.goto(site.url)
        page.get_by_label("Operator token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")

        page.get_by_label("Operator token").fill("long-token-1234567890")
        page.get_by_role("button", name="Sign in").click()
        seen.expect_live()
        page.get_by_role("button", name="Sign out").click()

        expect(page.get_by_label("Operator token")).to_be_visible()
        seen.close()


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, written `rgb(r, g, b)`, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


class TestModules:
    """The pure parts of the scripts, in the browser they are for."""

    pytestmark = browser_test

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            ("duration(null)", "—"),
            ("duration(0.04)", "0.0 ms"),
            ("duration(84.4)", "84 ms"),
            ("duration(999.6)", "1.00 s"),
            ("duration(12345)", "12.3 s"),
            ("duration(59960)", "1 m 00 s"),
            ("duration(64000)", "1 m 04 s"),
            ("duration(3723000)", "1 h 02 m"),
            ("cost('0.0000000003')", "$0.0000000003"),
            ("cost(0.001)", "$0.001000"),
            ("cost('abc')", "—"),
            ("costTotal(1284.5)", "$1,284.50"),
            ("costTotal(null)", "—"),
            ("percent(0, 0)", "—"),
            ("percent(99999, 100000)", "99.99%"),
            ("percent(1, 100000)", "0.01%"),
            ("percent(1, 3)", "33.3%"),
            ("shortCount(9999)", "9,999"),
            ("shortCount(1234567)", "1.23M"),
            ("words('rate_limit')", "rate limit"),
            ("clock('nonsense')", "—"),
            ("utc('2026-11-21T02:19:00.123456Z')", "2026-11-21 02:19:00.123 UTC"),
        ],
    )
    def test_format(self, modules: Callable[[str, str], Any], call: str, text: str) -> None:
        """Values are written as people read them."""
        assert modules("format", call) == text

    @pytest.mark.parametrize(
        ("steps", "requests"),
        [
            ("hear(0, 10); snapshot(7, 5, 8)", "10"),
            ("snapshot(7, 5, 8); hear(0, 10)", "10"),
            ("hear(0, 10); snapshot(3, 5, 8)", "10"),
            ("hear(0, 10); hear(0, 10)", "10"),
            ("hear(0, 1000); snapshot(0, 0, 0)", "1,000"),
        ],
    )
    def test_requests_are_counted_once(
        self, modules: Callable[[str, str], Any], steps: str, requests: str
    ) -> None:
        """What the page heard of and what is stored make one sum, whichever came first.

        One request a second began; the first is the last to end. The store says how many it has,
        and shows the newest of them.
        """
        rows = [
            make_record(
                timestamp=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
                duration_ms=500.0 if number else 1e7,
            ).as_dict()
            for number in range(1000)
        ]
        figure = modules(
            "totals",
            f"""(() => {{
                const rows = {to_json(rows).decode()};
                const nothing = {json.dumps(asdict(Totals()))};
                const place = document.querySelector("[data-totals]").cloneNode(true);
                const totals = new Totals(place);
                const hear = (from, to) => rows.slice(from, to).forEach((row) => totals.ended(row));
                const snapshot = (total_requests, from, to) =>
                    totals.reset({{ ...nothing, total_requests }}, rows.slice(from, to));
                {steps};
                totals.render();
                return place.querySelector('[data-total="requests"]').textContent;
            }})()""",
        )

        assert figure == requests

    def test_backoff_grows_to_a_bound_with_chance(self, modules: Callable[[str, str], Any]) -> None:
        """The wait doubles up to 30 s; between half of it and all of it is chance."""
        waits = modules(
            "connection", "[0, 1, 5, 6, 60].map((n) => [0, 1].map((r) => backoff(n, r)))"
        )

        assert waits == [
            [250, 500],
            [500, 1000],
            [8000, 16000],
            [15000, 30000],
            [15000, 30000],
        ]


@pytest.fixture(scope="module")
def modules(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Any]]:
    """Return a function that evaluates an expression with the exports of a module."""
    site = Site(tmp_path_factory.mktemp("modules"))
    seen = Visit(browser)
    seen.page.goto(site.url)

    def run(module: str, expression: str) -> Any:
        names = (
            "{ "
            + ", ".join(sorted(set(re.findall(r"\b([a-zA-Z]+)\(", expression)) - {"map"}))
            + " }"
        )
        path = f"/dashboard/static/dashboard/{module}.js"
        return seen.page.evaluate(
            f"async () => {{ const {names} = await import('{path}'); return {expression}; }}"
        )

    yield run
    seen.close()
    site.close()

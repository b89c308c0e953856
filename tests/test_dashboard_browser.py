"""What a person sees and does on the dashboard, in a real browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browser_support import Visit, axe, browser_test, chromium, needs_npm, visits
from dashboard_support import Site, make_record, open_journal, sites, wait_for
from playwright.sync_api import Browser, expect

MARKUP = "<img src=x onerror=\"document.title='owned'\">"
TOKEN = "long-token-1234567890"  # noqa: S105  a test's token
DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}

pytestmark = browser_test


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a site; all are closed at the end."""
    with sites(tmp_path) as make:
        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A running dashboard without traffic."""
    return make_site()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens a page and waits for its live connection."""
    with visits(browser, site.url, viewport=DESK) as open_page:

        def open_live(path: str = "", **options: Any) -> Visit:
            seen = open_page(path, **options)
            seen.expect_live()
            return seen

        yield open_live


def address(seen: Visit) -> dict[str, list[str]]:
    """Return the parameters of the page's address."""
    return parse_qs(urlsplit(seen.page.url).query)


class TestLive:
    """What happens while the page is open."""

    def test_request_appears_at_its_start_and_is_updated_at_its_end(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """A row is there while the request is in flight, and the same row says how it ended."""
        seen = visit()
        record = make_record(model=None, model_requested="claude-opus-4-5", status_code=None)
        record.duration_ms = record.cost_usd = record.tokens_output = None

        site.journal.start(record)
        expect(seen.cell(record.request_id, "status")).to_have_text("streaming")
        expect(seen.cell(record.request_id, "model")).to_have_text("claude-opus-4-5")
        expect(seen.cell(record.request_id, "cost")).to_have_text("")
        expect(seen.cell(record.request_id, "duration")).to_contain_text(" s")
        expect(seen.page.get_by_text("1 in flight now")).to_be_visible()
        record.status_code, record.duration_ms, record.cost_usd = 200, 2345.6, Decimal("0.0421")
        record.model, record.tokens_output = "claude-opus-4-5-20251101", 345
        site.journal.end(record)

        expect(seen.cell(record.request_id, "status")).to_have_text("200")
        expect(seen.cell(record.request_id, "model")).to_have_text("claude-opus-4-5-20251101")
        expect(seen.cell(record.request_id, "duration")).to_have_text("2.35 s")
        expect(seen.cell(record.request_id, "input")).to_have_text("12")
        expect(seen.cell(record.request_id, "output")).to_have_text("345")
        expect(seen.cell(record.request_id, "cost")).to_have_text("$0.042100")
        expect(seen.row(record.request_id)).to_have_count(1)
        expect(seen.page.get_by_text("0 in flight now")).to_be_visible()

    def test_live_row_looks_as_the_stored_one(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """A row that came in live is the same, to the last attribute, as after a reload."""
        seen = visit("/requests")
        record = site.finish(error_type="overloaded", status_code=529, error_message="Too busy")
        outer = "row => row.outerHTML.replace(/\\s+/g, ' ')"
        expect(seen.cell(record.request_id, "status")).to_have_text("529")
        came = seen.row(record.request_id).evaluate(outer)
        site.store.keep(record)
        seen.page.reload()
        seen.expect_live()

        assert tags(seen.row(record.request_id).evaluate(outer)) == tags(came)

    def test_other_workers_requests_appear(self, site: Site, visit: Callable[..., Visit]) -> None:
        """The page shows the traffic of workers other than the one it is connected to."""
        seen = visit()
        other = open_journal(site.settings)
        record = make_record()
        other.start(record)
        other.end(record)
        other.close()

        expect(seen.cell(record.request_id, "status")).to_have_text("200")

    def test_what_is_filtered_out_does_not_appear(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """A page with filters shows live only what fits them."""
        seen = visit("/requests?provider=openai&error=any")
        other = site.finish(provider="openai")
        wanted = site.finish(provider="openai", status_code=500, error_type="api_error")

        expect(seen.row(wanted.request_id)).to_have_count(1)
        expect(seen.row(other.request_id)).to_have_count(0)

    def test_figures_come_from_the_server(self, site: Site, visit: Callable[..., Visit]) -> None:
        """A little after requests end, the figures are what the store counts."""
        site.store.keep(make_record(ago=60, cost_usd=Decimal("0.25")))
        seen = visit()
        expect(seen.figure("requests")).to_have_text("1")

        record = site.finish(cost_usd=Decimal("0.5"))
        site.store.keep(record, make_record(ago=3600, cost_usd=Decimal("0.5")))

        expect(seen.figure("requests")).to_have_text("3")
        expect(seen.figure("cost")).to_have_text("$1.25")

    def test_unknown_tokens_are_a_dash(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Token counts and costs that the answer did not tell are not shown as 0."""
        seen = visit()
        record = site.finish(tokens_input=None, tokens_output=0, cost_usd=None)

        expect(seen.cell(record.request_id, "input")).to_have_text("—")
        expect(seen.cell(record.request_id, "cost")).to_have_text("—")
        expect(seen.cell(record.request_id, "output")).to_have_text("0")

    def test_markup_from_the_wire_stays_text(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Whatever clients and providers send is shown, never run, on every page."""
        strange = dict.fromkeys(
            ("model", "path", "method", "provider", "user_agent", "finish_reason", "cost_source"),
            MARKUP,
        )
        stored = make_record(
            ago=60, **strange, error_message=MARKUP, error_type=MARKUP, session_id=MARKUP
        )
        site.store.keep(stored)
        seen = visit()
        record = site.finish(**strange)

        for request_id in (stored.request_id, record.request_id):
            expect(seen.cell(request_id, "model")).to_have_text(MARKUP)
        for path in ("/requests?q=onerror", f"/requests/{stored.request_id}"):
            seen.page.goto(site.url + path)
            expect(seen.page.get_by_text(MARKUP).first).to_be_visible()
        site.store.away = MARKUP
        seen.page.goto(site.url)
        expect(seen.page.locator("[data-away]")).to_contain_text(MARKUP)
        assert seen.page.locator("img").count() == 0
        assert "owned" not in seen.page.title()

    def test_reconnects_and_catches_up(self, site: Site, visit: Callable[..., Visit]) -> None:
        """When the server is gone the page says so; "Retry now" brings back all it missed."""
        seen = visit()
        running = make_record(status_code=None)
        site.journal.start(running)
        expect(seen.cell(running.request_id, "status")).to_have_text("streaming")

        site.stop()
        expect(seen.page.get_by_role("status").first).to_have_text("Connection lost")
        retry = seen.page.get_by_role("button", name="Retry now")
        expect(retry).to_be_visible()
        site.journal.end(running)
        missed = site.finish()
        site.store.keep(running, missed)
        site.start()
        retry.click()

        seen.expect_live(seconds=40)
        expect(retry).to_be_hidden()
        expect(seen.cell(missed.request_id, "status")).to_have_text("200")
        expect(seen.cell(running.request_id, "status")).to_have_text("no answer")
        expect(seen.page.get_by_text("0 in flight now")).to_be_visible()
        known = re.compile("WebSocket connection|ERR_CONNECTION|ERR_EMPTY")
        seen.complaints = [said for said in seen.complaints if not known.search(said)]

    def test_store_that_is_away_is_said_plainly(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """Without the store the page says why, still shows live requests, and recovers."""
        site.store.away = "The database is locked by another process"
        seen = visit()
        notice = seen.page.locator("[data-away]")
        expect(notice).to_contain_text("The database is locked by another process")

        record = site.finish()
        expect(seen.cell(record.request_id, "status")).to_have_text("200")
        site.store.away = None
        site.store.keep(record)
        site.tell_anew()

        expect(notice).to_be_hidden()
        expect(seen.figure("requests")).to_have_text("1")

    def test_pause_holds_the_list_still(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Paused by a key, no row is added, and a button counts what waits and shows it."""
        seen = visit()
        first = site.finish()
        expect(seen.row(first.request_id)).to_have_count(1)
        seen.page.keyboard.press("p")
        expect(seen.page.get_by_role("button", name="Resume")).to_have_attribute(
            "aria-pressed", "true"
        )

        second = site.finish()
        fresh = seen.page.get_by_role("button", name="1 new")
        expect(fresh).to_be_visible()
        expect(seen.row(second.request_id)).to_have_count(0)
        fresh.click()

        expect(seen.row(second.request_id)).to_have_count(1)
        expect(seen.page.get_by_role("button", name="Pause")).to_be_visible()

    def test_list_does_not_move_under_a_reader(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """Scrolled away from the top, rows that come in wait, and are counted."""
        site.store.keep(*(make_record(ago=number) for number in range(1, 60)))
        seen = visit("/requests")
        seen.page.mouse.wheel(0, 900)
        wait_for(lambda: seen.page.evaluate("scrollY") > 400)
        record = site.finish()

        expect(seen.page.get_by_role("button", name="1 new")).to_have_count(1)
        expect(seen.row(record.request_id)).to_have_count(0)
        seen.page.evaluate("scrollTo(0, 0)")
        expect(seen.row(record.request_id)).to_have_count(1)

    def test_many_requests_do_not_stop_the_page(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """A thousand requests at once: the newest are shown, the page grows no longer."""
        seen = visit("/requests")
        burst = [site.finish() for _ in range(1000)]
        site.store.keep(*burst)
        site.tell_anew()

        rows = seen.page.locator("[data-rows] tr")
        expect(rows.first).to_have_attribute("data-id", burst[-1].request_id)
        assert rows.count() <= 50
        expect(seen.page.locator("#summary")).to_contain_text("1,000 requests")

    def test_time_is_local_with_utc_in_the_title(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """Times are those of the viewer's clock; the title says UTC."""
        seen = visit("?range=2026-01-02..2026-01-02")
        record = make_record(timestamp=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC))
        site.store.keep(record)
        seen.page.reload()

        time_cell = seen.cell(record.request_id, "time")
        expect(time_cell).to_have_text("2 Jan 08:49:05")
        expect(time_cell).to_have_attribute("title", "2026-01-02 03:04:05.678 UTC")


def tags(markup: str) -> list[str]:
    """Return what *markup* consists of, without what only a browser adds."""
    for noise in (' title=""', ' href="[^"]*"', ' x="[^"]*"'):
        markup = re.sub(noise, "", markup)
    parts = re.findall(r"<[^>]+>|[^<>]+", markup)
    return [" ".join(sorted(part.split())).replace('.0"', '"') for part in parts if part.strip()]


class TestFinding:
    """Ranges, filters, order, pages: all of it in the address."""

    @pytest.fixture
    def filled(self, site: Site) -> Site:
        """A site with forty requests of two models, one of them failed."""
        site.store.keep(
            *(
                make_record(
                    ago=60.0 + number,
                    model="claude-opus-4-5" if number % 2 else "gpt-5",
                    provider="anthropic" if number % 2 else "openai",
                    duration_ms=1000.0 * number,
                )
                for number in range(1, 40)
            ),
            make_record(ago=30, status_code=529, error_type="overloaded", error_message="Busy"),
        )
        return site

    def test_typed_filter_becomes_chips_and_a_link(
        self, filled: Site, visit: Callable[..., Visit]
    ) -> None:
        """Filters are completed by keyboard, stand as chips and in the address, and go again."""
        seen = visit("/requests?range=7d")
        rows = seen.page.locator("[data-rows] tr")
        expect(rows).to_have_count(40)
        seen.page.keyboard.press("/")
        field = seen.page.get_by_role("combobox", name="Filter")
        expect(field).to_be_focused()
        seen.page.keyboard.type("mod")
        expect(seen.page.get_by_role("option", name="model:")).to_be_visible()
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.type("opu")
        expect(seen.page.get_by_role("option", name="model:claude-opus-4-5")).to_be_visible()
        seen.page.keyboard.press("ArrowDown")
        seen.page.keyboard.press("Enter")

        expect(rows).to_have_count(20)
        assert address(seen) == {"range": ["7d"], "model": ["claude-opus-4-5"]}
        expect(field).to_be_focused()
        seen.page.keyboard.type("duration:>30s")
        seen.page.keyboard.press("Enter")
        expect(rows).to_have_count(5)
        assert address(seen)["duration"] == [">30s"]
        seen.page.get_by_role("link", name="Remove the filter model:claude-opus-4-5").click()
        expect(rows).to_have_count(10)
        seen.page.go_back()
        expect(rows).to_have_count(5)

    def test_link_shows_the_same_to_others(
        self, filled: Site, visit: Callable[..., Visit], browser: Browser
    ) -> None:
        """The address alone leads to the same rows in the same order, with the same columns."""
        seen = visit("/requests")
        seen.page.get_by_role("columnheader", name="Duration").get_by_role("link").click()
        expect(seen.page.get_by_role("columnheader", name="Duration")).to_have_attribute(
            "aria-sort", "descending"
        )
        expect(seen.page.locator("[data-rows] tr").first).to_contain_text("39.0 s")
        seen.page.get_by_text("Columns").click()
        seen.page.get_by_label("Session").check()
        seen.page.get_by_role("button", name="Show").click()
        expect(seen.page.get_by_role("columnheader", name="Session")).to_be_visible()
        ids = "rows => rows.map((row) => row.dataset.id)"
        shown = seen.page.locator("[data-rows] tr").evaluate_all(ids)

        other = visit(seen.page.url.removeprefix(filled.url))
        assert other.page.locator("[data-rows] tr").evaluate_all(ids) == shown
        expect(other.page.get_by_role("columnheader", name="Session")).to_be_visible()

    def test_figures_lead_to_their_requests(
        self, filled: Site, visit: Callable[..., Visit]
    ) -> None:
        """What failed, and what a model did, are one click away from the figures."""
        seen = visit()
        seen.page.get_by_role("link", name="1 failed").click()
        expect(seen.page.locator("[data-rows] tr")).to_have_count(1)
        expect(seen.page.locator("[data-rows] tr")).to_contain_text("overloaded: Busy")
        seen.page.go_back()
        seen.page.get_by_role("region", name="Top spend").get_by_role("link", name="gpt-5").click()
        expect(seen.page.locator("[data-rows] tr")).to_have_count(19)

    def test_older_rows_are_loaded_below(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Pages follow each other without a gap or a repeat, also while rows come in."""
        site.store.keep(*(make_record(ago=10.0 + number) for number in range(120)))
        seen = visit("/requests")
        rows = seen.page.locator("[data-rows] tr")
        expect(rows).to_have_count(50)
        site.store.keep(make_record(ago=1))
        for count in (100, 120):
            seen.page.get_by_role("link", name="Load more").click()
            expect(rows).to_have_count(count)
        expect(seen.page.get_by_role("link", name="Load more")).to_have_count(0)
        assert len(set(rows.evaluate_all("rows => rows.map((row) => row.dataset.id)"))) == 120

    def test_export_is_of_this_filter(self, filled: Site, visit: Callable[..., Visit]) -> None:
        """The file has the rows that the page shows, no others."""
        seen = visit("/requests?model=opus")
        seen.page.get_by_text("Export").click()
        with seen.page.expect_download() as download:
            seen.page.get_by_role("link", name="CSV").click()

        lines = Path(download.value.path()).read_text().splitlines()
        assert len(lines) == 21
        assert all("claude-opus-4-5" in line for line in lines[1:])

    def test_no_match_says_how_to_go_on(self, filled: Site, visit: Callable[..., Visit]) -> None:
        """Where nothing matches, the filters can be cleared."""
        seen = visit("/requests?model=nobody")
        expect(seen.page.get_by_text("Nothing matches")).to_be_visible()
        seen.page.get_by_role("link", name="Clear the filters").click()

        expect(seen.page.locator("[data-rows] tr")).to_have_count(40)

    def test_wrong_filter_is_named(self, filled: Site, visit: Callable[..., Visit]) -> None:
        """A filter that means nothing is left out, with what would be right."""
        seen = visit("/requests?status=many")

        expect(seen.page.get_by_text("status:many is left out")).to_be_visible()
        expect(seen.page.locator("[data-rows] tr")).to_have_count(40)

    @needs_npm
    def test_dragging_on_a_chart_is_a_range(
        self, filled: Site, visit: Callable[..., Visit]
    ) -> None:
        """A part of a chart becomes the range of the page; Back leads out of it again."""
        seen = visit("?range=1h")
        box = seen.page.locator('[data-chart="latency"] .u-over').bounding_box()
        assert box is not None
        seen.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
        seen.page.mouse.down()
        seen.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 50, steps=5)
        seen.page.mouse.up()

        expect(seen.page.get_by_role("link", name="Go live")).to_be_visible()
        [chosen] = address(seen)["range"]
        start, end = (datetime.fromisoformat(part) for part in chosen.split(".."))
        assert 600 < (end - start).total_seconds() < 900
        seen.page.go_back()
        expect(seen.page.get_by_role("link", name="Go live")).to_be_hidden()
        seen.page.get_by_role("button", name="Tokens").click()
        expect(seen.page.locator('[data-chart="spend"]')).to_contain_text("Written")


class TestOneRequest:
    """The page of a request, and the same beside the list."""

    def test_panel_opens_beside_the_list(self, site: Site, visit: Callable[..., Visit]) -> None:
        """By keys alone: choose rows, open one, go through them, close it."""
        records = [make_record(ago=10.0 + number, model=f"model-{number}") for number in range(3)]
        site.store.keep(*records)
        seen = visit("/requests")
        panel = seen.page.get_by_role("complementary", name="Request")
        seen.page.keyboard.press("j")
        expect(seen.page.get_by_role("link", name="model-0")).to_be_focused()
        seen.page.keyboard.press("Enter")
        expect(panel.get_by_role("heading", name="model-0")).to_be_visible()
        seen.page.keyboard.press("j")
        expect(panel.get_by_role("heading", name="model-1")).to_be_visible()
        seen.page.keyboard.press("Escape")
        expect(panel).to_be_hidden()

        seen.row(records[2].request_id).click()
        expect(panel.get_by_role("heading", name="model-2")).to_be_visible()
        panel.get_by_role("link", name="Open as a page").click()
        expect(panel).to_be_hidden()
        expect(seen.page.get_by_role("heading", name="model-2")).to_be_visible()
        assert seen.page.url.endswith(f"/requests/{records[2].request_id}")
        seen.page.go_back()
        expect(seen.page.locator("[data-rows] tr")).to_have_count(3)

    def test_ctrl_click_opens_the_page(self, site: Site, visit: Callable[..., Visit]) -> None:
        """With Ctrl a row opens in a tab of its own."""
        record = make_record()
        site.store.keep(record)
        seen = visit("/requests")
        with seen.page.context.expect_page() as opened:
            seen.row(record.request_id).locator(".c-cost").click(modifiers=["Control"])

        expect(opened.value.get_by_role("heading", name="claude-sonnet-4-5")).to_be_visible()
        expect(seen.page.get_by_role("complementary", name="Request")).to_be_hidden()

    def test_page_says_where_time_and_money_went(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """Stages, each line of the bill, ids, what to do about an error, and its neighbours."""
        record = make_record(
            ago=5,
            upstream_ms=1200.0,
            ttfb_ms=300.0,
            ttft_ms=410.0,
            tokens_input=2000,
            cost_input_usd=Decimal("0.006"),
            cost_cache_usd=Decimal("0.0020367"),
            cost_output_usd=Decimal("0.005175"),
            error_type="stream_error",
            error_message="Overloaded",
            upstream_request_id="req_011CSHoE",
            session_id="session-7",
        )
        earlier = make_record(ago=50, session_id="session-7")
        site.store.keep(record, earlier, make_record(ago=20))
        seen = visit(f"/requests/{record.request_id}")
        page = seen.page

        waited = page.get_by_role("row", name="Waiting for the provider")
        expect(waited).to_contain_text("300 ms")
        expect(page.get_by_role("row", name="The rest of the answer")).to_contain_text("824 ms")
        bill = page.get_by_role("row", name="Uncached input")
        expect(bill).to_contain_text("2,000")
        expect(bill).to_contain_text("$3.00 a million")
        expect(bill).to_contain_text("$0.006000")
        expect(page.get_by_text("stream error: Overloaded")).to_be_visible()
        expect(page.get_by_text("The provider broke a stream off")).to_be_visible()
        expect(page.get_by_text("req_011CSHoE")).to_be_visible()
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.locator("[data-toast]")).not_to_be_empty()
        page.get_by_role("link", name="Previous").click()
        panel = page.get_by_role("complementary", name="Request")
        expect(panel).to_contain_text(earlier.request_id)

    def test_request_in_flight_is_shown_once_it_is_over(
        self, site: Site, visit: Callable[..., Visit], browser: Browser
    ) -> None:
        """The page of a request that is not stored yet says so, and then shows it."""
        record = make_record()
        seen = Visit(browser)
        seen.page.goto(f"{site.url}/requests/{record.request_id}")
        expect(seen.page.get_by_text("This request is not stored")).to_be_visible()
        seen.expect_live()
        site.store.keep(record)
        site.finish()

        expect(seen.page.get_by_role("heading", name="claude-sonnet-4-5")).to_be_visible()
        seen.close()


class TestOtherPages:
    """SQL, status, signing in, and what every page has."""

    def test_sql_answers_and_can_be_sent(self, site: Site, visit: Callable[..., Visit]) -> None:
        """A statement is answered as a table, is in the address, and a wrong one says why."""
        site.store.keep(make_record(), make_record(model="gpt-5"))
        seen = visit("/sql")
        seen.page.get_by_role("link", name="Run: Cost by model and day").click()
        expect(seen.page.locator(".answer tbody tr")).to_have_count(2)
        statement = seen.page.get_by_label("Statement")
        statement.fill("SELECT count(*) AS n FROM access_logs")
        statement.press("Control+Enter")

        expect(seen.page.locator(".answer tbody tr")).to_have_count(1)
        expect(seen.page.locator(".answer td")).to_have_text("2")
        assert address(seen) == {"q": ["SELECT count(*) AS n FROM access_logs"]}
        statement.fill("DELETE FROM access_logs")
        seen.page.get_by_role("button", name="Run").click()
        expect(seen.page.get_by_role("alert")).to_contain_text("Not answered.")

    def test_status_is_told_and_rows_can_be_deleted(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """The status page knows the store; deleting asks first."""
        site.store.keep(make_record(), make_record())
        seen = visit("/status")
        rows = seen.page.locator(".tile [data-status=rows]")
        expect(rows).to_have_text("2")
        expect(seen.page.get_by_text("log_storage_backend")).to_be_visible()
        seen.page.get_by_role("button", name="Delete all rows…").click()
        seen.page.get_by_role("button", name="Keep them").click()
        expect(rows).to_have_text("2")
        seen.page.get_by_role("button", name="Delete all rows…").click()
        seen.page.get_by_role("button", name="Delete all rows", exact=True).click()

        expect(rows).to_have_text("0")
        expect(seen.page.locator("[data-toast]")).to_have_text("All rows are deleted.")

    def test_keys_lead_from_page_to_page(self, site: Site, visit: Callable[..., Visit]) -> None:
        """g and a letter lead to the pages, the range comes along, and ? says so."""
        seen = visit("?range=7d")
        for key, title in (
            ("r", "Requests"),
            ("s", "Sessions"),
            ("q", "SQL"),
            ("t", "Status"),
            ("o", "Overview"),
        ):
            seen.page.keyboard.press("g")
            seen.page.keyboard.press(key)
            expect(seen.page).to_have_title(f"{title} · ccproxy")
            current = seen.page.get_by_role("navigation").locator("[aria-current=page]")
            expect(current).to_have_text(title)
        seen.page.keyboard.press("?")
        expect(seen.page.get_by_role("heading", name="Keyboard")).to_be_visible()
        seen.page.keyboard.press("Escape")
        expect(seen.page.get_by_role("heading", name="Keyboard")).to_be_hidden()

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

    def test_empty_page_says_how_to_begin(self, site: Site, visit: Callable[..., Visit]) -> None:
        """Without traffic the page says how to point a client here, with our own address."""
        seen = visit()

        expect(seen.page.get_by_text("No traffic yet")).to_be_visible()
        expect(seen.page.get_by_text("ccproxy-flask run -- claude")).to_be_visible()
        expect(seen.page.get_by_text("OPENAI_BASE_URL=")).to_have_text(
            f"OPENAI_BASE_URL=http://localhost:{site.port}/v1"
        )
        site.finish()
        expect(seen.page.get_by_text("No traffic yet")).to_be_hidden()

    def test_signing_in(self, browser: Browser, make_site: Callable[..., Site]) -> None:
        """A person signs in with the token, comes where they wanted, and signs out."""
        site = make_site(token=TOKEN)
        seen = Visit(browser)
        page = seen.page
        page.goto(f"{site.url}/requests?range=7d")
        page.get_by_label("Operator token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")

        page.get_by_label("Operator token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        seen.expect_live()
        assert page.url == f"{site.url}/requests?range=7d"
        page.get_by_role("button", name="Sign out").click()

        expect(page.get_by_label("Operator token")).to_be_visible()
        seen.close()

    def test_session_that_ended_asks_to_sign_in(
        self, browser: Browser, make_site: Callable[..., Site]
    ) -> None:
        """A page whose session is over leads to the sign-in page at the next click."""
        site = make_site(token=TOKEN)
        seen = Visit(browser)
        seen.page.goto(site.url)
        seen.page.get_by_label("Operator token").fill(TOKEN)
        seen.page.keyboard.press("Enter")
        seen.expect_live()
        seen.page.context.clear_cookies()
        seen.page.get_by_role("navigation").get_by_role("link", name="Requests").click()

        expect(seen.page.get_by_label("Operator token")).to_be_visible()
        seen.close()


class TestEverybody:
    """For phones, keyboards, screen readers and bad eyes."""

    @pytest.fixture
    def filled(self, site: Site) -> Site:
        """A site whose texts are as long as they can be."""
        long = make_record(model="a-very-long-model-name-" * 8, error_message="x" * 400)
        long.error_type, long.path, long.status_code = "api_error", "/v1/" + "long/" * 60, 500
        site.store.keep(long, *(make_record(ago=60.0 * number) for number in range(1, 5)))
        self.long = long
        return site

    @needs_npm
    @pytest.mark.parametrize(
        ("scheme", "size"), [("light", DESK), ("dark", DESK), ("light", PHONE)]
    )
    def test_axe_finds_nothing(
        self, filled: Site, visit: Callable[..., Visit], scheme: str, size: dict[str, int]
    ) -> None:
        """No page breaks a rule of axe-core (WCAG 2.2 A and AA, and best practices)."""
        seen = visit(color_scheme=scheme, viewport=size)
        for path in (
            "",
            "?model=nobody",
            "/requests?status=5xx",
            f"/requests/{self.long.request_id}",
            "/sql",
            "/sql?q=SELECT+request_id,+model,+cost_usd+FROM+access_logs",
            "/status",
        ):
            seen.page.goto(filled.url + path)
            seen.expect_live()
            assert axe(seen) == [], path
        seen.page.goto(f"{filled.url}/requests")
        seen.page.locator("[data-rows] .row").first.click()
        expect(seen.page.get_by_role("complementary", name="Request")).to_be_visible()
        assert axe(seen) == [], "with a request beside the list"

    @needs_npm
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing_at_the_door(
        self, browser: Browser, make_site: Callable[..., Site], scheme: str
    ) -> None:
        """The sign-in page, too."""
        seen = Visit(browser, color_scheme=scheme)
        seen.page.goto(make_site(token=TOKEN).url)
        assert axe(seen) == []
        seen.close()

    def test_page_has_names_for_screen_readers(
        self, filled: Site, visit: Callable[..., Visit]
    ) -> None:
        """The table has a caption and headers, the connection state is a live region."""
        seen = visit()
        table = seen.page.get_by_role("table", name=re.compile("newest first"))
        expect(table.get_by_role("columnheader")).to_have_count(11)
        status = seen.page.get_by_role("status").first
        expect(status).to_have_attribute("aria-live", "polite")
        seen.page.keyboard.press("Tab")
        expect(seen.page.get_by_role("link", name="Skip to the content")).to_be_focused()

    def test_fits_a_phone(self, filled: Site, visit: Callable[..., Visit]) -> None:
        """On a phone nothing scrolls sideways, and the navigation is at the bottom."""
        seen = visit(viewport={"width": 360, "height": 740})
        for path in ("", "/requests", f"/requests/{self.long.request_id}", "/sql", "/status"):
            seen.page.goto(filled.url + path)
            seen.expect_live()
            assert seen.page.evaluate("document.documentElement.scrollWidth") == 360, path
            box = seen.page.get_by_role("navigation", name="Pages").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] == 740

    def test_phone_prints_nothing_over_something_else(
        self, site: Site, visit: Callable[..., Visit]
    ) -> None:
        """On a phone no value of a row stands on another one."""
        record = make_record(ago=200_000, error_type="api_error", error_message="Too much " * 9)
        record.status_code, record.provider = 529, None
        site.store.keep(record)
        seen = visit("/requests?range=7d", viewport={"width": 360, "height": 740})

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
        seen = Visit(browser, color_scheme=scheme)
        seen.page.goto(make_site(token=TOKEN).url)
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


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, written `rgb(r, g, b)`, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def modules(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Any]]:
    """Return a function that evaluates an expression with the exports of a module."""
    site = Site(tmp_path_factory.mktemp("modules"))
    seen = Visit(browser)
    seen.page.goto(site.url)

    def run(module: str, expression: str) -> Any:
        path = f"/dashboard/static/dashboard/{module}.js"
        return seen.page.evaluate(
            f"async () => {{ const it = await import('{path}'); return {expression}; }}"
        )

    yield run
    seen.close()
    site.close()


class TestModules:
    """The pure parts of the scripts, in the browser they are for."""

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            ("it.clock('nonsense')", "—"),
            ("it.clock('2026-01-02T03:04:05Z', new Date('2026-01-02T08:00:00Z'))", "08:49:05"),
            (
                "it.clock('2026-01-02T03:04:05Z', new Date('2026-01-03T20:00:00Z'))",
                "2 Jan 08:49:05",
            ),
            ("it.elapsed(-5)", "0 s"),
            ("it.elapsed(59_999)", "59 s"),
            ("it.elapsed(64_000)", "1 m 04 s"),
            ("it.elapsed(3_723_000)", "1 h 02 m"),
        ],
    )
    def test_times(self, modules: Callable[[str, str], Any], call: str, text: str) -> None:
        """Times are written as people read them, in the zone of the viewer."""
        assert modules("times", call) == text

    def test_backoff_grows_to_a_bound_with_chance(self, modules: Callable[[str, str], Any]) -> None:
        """The wait doubles up to 30 s; between half of it and all of it is chance."""
        waits = modules(
            "connection", "[0, 1, 5, 6, 60].map((n) => [0, 1].map((r) => it.backoff(n, r)))"
        )

        assert waits == [
            [250, 500],
            [500, 1000],
            [8000, 16000],
            [15000, 30000],
            [15000, 30000],
        ]

"""What a person does with what the dashboard shows: compare, filter, take along, go elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from browser_support import Visit, axe, browser_test, chromium, needs_npm, visits
from dashboard_support import Site, make_record
from playwright.sync_api import Browser, expect

from ccproxy_flask.record import RequestRecord

DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
WICKED = '<img src=x onerror="document.title=1">\u202eevil\u200b"'

pytestmark = browser_test


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def kept() -> list[RequestRecord]:
    """Two models, two sessions, errors, a count of tokens; texts that would be markup."""
    fail = {"status_code": 529, "error_type": "overloaded", "error_message": WICKED}
    made = [
        make_record(60.0 + at, model=("opus", "gpt")[at % 2], session_id=f"s{at % 3}",
                    client="codex" if at % 2 else "claude-code", duration_ms=1000.0 * (at + 1),
                    cost_usd=Decimal(at + 1), request_class="main", user_id=WICKED)
        for at in range(20)
    ]  # fmt: skip
    made += [make_record(100.0 + at, cost_usd=None, session_id="s0", **fail) for at in range(3)]
    made.append(make_record(30, request_class="count_tokens", cost_usd=None))
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, kept: list[RequestRecord]) -> Iterator[Site]:
    """One server with these rows for all tests, which only look."""
    made = Site(tmp_path_factory.mktemp("tools"))
    made.store.keep(*kept)
    yield made
    made.close()


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens a page of the site."""
    with visits(browser, site.url, viewport=DESK) as open_page:
        yield open_page


def asked(seen: Visit) -> dict[str, list[str]]:
    """Return the parameters of the page's address."""
    return parse_qs(urlsplit(seen.page.url).query)


def test_two_requests_are_picked_and_compared(
    visit: Callable[..., Visit], site: Site, kept: list[RequestRecord]
) -> None:
    """Two ticks lead to their comparison, the older one first; its link shows it to others."""
    seen = visit("/requests")
    rows = seen.page.locator("[data-rows] .row")
    expect(rows).to_have_count(23)
    seen.row(kept[2].request_id).get_by_label("Pick to compare").check()
    expect(seen.page.get_by_text("1 picked. Pick another one")).to_be_visible()
    seen.page.keyboard.press("j")  # by keyboard: the first row
    seen.page.keyboard.press("x")
    seen.page.get_by_role("link", name="Compare", exact=True).click()

    a, b = sorted((kept[2].request_id, kept[0].request_id))
    expect(seen.page).to_have_url(f"{site.url}/compare?a={a}&b={b}")
    for panel, row, figures in (("Timing", "Whole", "1.00 3.00"), ("Cost", "In all", "$1 $3")):
        line = seen.page.get_by_role("region", name=panel).get_by_role("row", name=row)
        for figure in figures.split(" "):
            expect(line).to_contain_text(figure)
    seen.page.get_by_role("link", name="Swap").click()
    expect(seen.page).to_have_url(f"{site.url}/compare?a={b}&b={a}")


def test_probes_are_shown_on_demand(visit: Callable[..., Visit]) -> None:
    """A toggle shows all requests, and generations alone again; both are addresses."""
    seen = visit("/requests")
    rows = seen.page.locator("[data-rows] .row")
    expect(rows).to_have_count(23)
    seen.page.get_by_role("group", name="Which requests").get_by_role("link", name="All").click()
    expect(rows).to_have_count(24)
    assert asked(seen) == {"class": ["all"]}
    seen.page.get_by_role("link", name="Generations").click()
    expect(rows).to_have_count(23)
    assert asked(seen) == {}


@needs_npm
def test_name_in_the_legend_is_a_filter(visit: Callable[..., Visit]) -> None:
    """A click on a model of the chart shows that model alone; Back leads out of it."""
    seen = visit("")
    seen.page.get_by_role("button", name="opus").click()
    expect(seen.figure("requests")).to_have_text("10")
    assert asked(seen) == {"model": ["=opus"]}
    seen.page.go_back()
    expect(seen.figure("requests")).to_have_text("23")
    seen.page.locator('[data-chart="latency"]').get_by_role("button", name="p50").first.click()
    expect(seen.page.locator('[data-chart="latency"] .u-series.u-off')).to_have_count(1)


def test_spend_is_by_whom_one_asks(visit: Callable[..., Visit]) -> None:
    """Tabs show who spent what; a session's name leads to its page, a client's to its requests."""
    seen = visit("")
    spend = seen.page.get_by_role("region", name="Top spend")
    spend.get_by_role("button", name="Session").click()
    expect(spend.get_by_role("row")).to_have_count(4)
    expect(spend.get_by_role("link").first).to_have_attribute("href", re.compile("/sessions/s1$"))
    spend.get_by_role("button", name="Client").click()
    spend.get_by_role("link", name="codex").click()
    expect(seen.page.locator("[data-rows] .row")).to_have_count(10)
    assert asked(seen) == {"client": ["codex"]}


def test_errors_are_grouped_and_lead_to_theirs(visit: Callable[..., Visit]) -> None:
    """The same error is one line with how often it was; markup in it stays text."""
    seen = visit("")
    errors = seen.page.get_by_role("region", name="Errors")
    expect(errors.get_by_role("row")).to_have_count(2)
    expect(errors.get_by_role("row").nth(1)).to_contain_text(WICKED)
    errors.get_by_role("link", name="overloaded:").click()
    expect(seen.page.locator("[data-rows] .row")).to_have_count(3)
    assert "1" not in seen.page.title()


@needs_npm
def test_panels_are_taken_along(visit: Callable[..., Visit]) -> None:
    """A panel gives its values as CSV, a picture of itself, and the statement behind it."""
    seen = visit("")

    def take(panel: str, what: str) -> Path:
        region = seen.page.get_by_role("region", name=panel)
        region.locator("summary").click()
        with seen.page.expect_download() as download:
            region.get_by_role("button", name=what).click()
        region.locator("summary").click()
        return Path(download.value.path())

    lines = take("Errors", "CSV").read_text().splitlines()
    assert lines[0] == "error,message,times,first,last"
    assert lines[1].startswith('overloaded,"<img src=x onerror=""document')
    for panel in ("Cost", "Errors"):
        assert take(panel, "PNG").read_bytes().startswith(b"\x89PNG")
    region = seen.page.get_by_role("region", name="Slowest")
    region.locator("summary").click()
    region.get_by_role("link", name="Its SQL").click()
    expect(seen.page.get_by_role("heading", name="Answer")).to_be_visible()
    expect(seen.page.locator(".answer tbody tr").first).to_contain_text("20000")


def test_palette_leads_anywhere(visit: Callable[..., Visit], kept: list[RequestRecord]) -> None:
    """Ctrl-K and a few letters: a page, a range, a filter, a request by its id; Esc leaves."""
    seen = visit("/requests")
    seen.expect_live()
    for typed, where in (
        ("7 days", "/requests?range=7d"),
        ("only err", "error=any"),
        ("model:gpt", "model=gpt"),
        (kept[0].request_id, f"/requests/{kept[0].request_id}"),
        ("status", "/dashboard/status"),
    ):
        seen.page.keyboard.press("Control+k")
        box = seen.page.get_by_role("combobox", name="What to go to")
        expect(box).to_be_focused()
        seen.page.keyboard.type(typed)
        seen.page.keyboard.press("Enter")
        expect(box).to_be_hidden()
        seen.page.wait_for_url(lambda url, where=where: where in url)
    seen.page.keyboard.press("Control+k")
    seen.page.keyboard.press("Escape")
    expect(seen.page.get_by_role("dialog")).to_have_count(0)


@needs_npm
def test_sql_has_a_chart_and_a_history(visit: Callable[..., Visit]) -> None:
    """An answer with numbers is a chart, too; what was asked stays a click away."""
    seen = visit("/sql")
    seen.page.get_by_label("Statement").fill(
        "SELECT client, count(*) AS n FROM access_logs GROUP BY ALL ORDER BY 1"
    )
    seen.page.keyboard.press("Control+Enter")
    seen.page.get_by_role("button", name="Chart").click()
    expect(seen.page.locator('[data-chart="sql"] canvas')).to_be_visible()
    seen.page.get_by_label("Statement").fill("SELECT 1 AS one FROM access_logs LIMIT 1")
    seen.page.keyboard.press("Control+Enter")
    before = seen.page.get_by_role("region", name="Asked before")
    expect(before.get_by_role("link")).to_have_count(1)
    before.get_by_role("link").click()
    expect(seen.page.get_by_label("Statement")).to_have_value(
        "SELECT client, count(*) AS n FROM access_logs GROUP BY ALL ORDER BY 1"
    )
    stored = json.loads(seen.page.evaluate("localStorage.getItem('ccproxy-sql')"))
    assert len(stored) == 2


def test_status_says_how_much_there_is(visit: Callable[..., Visit]) -> None:
    """Sizes on the disk, versions, and what was dropped."""
    seen = visit("/status")
    expect(seen.page.get_by_role("region", name="On the disk")).to_contain_text("database")
    expect(seen.page.get_by_role("region", name="Versions")).to_contain_text("duckdb")
    expect(seen.page.get_by_role("region", name="What was dropped")).to_contain_text("Nothing.")


@needs_npm
@pytest.mark.parametrize(
    "options", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}], ids=["light", "dark", "phone"]
)
def test_axe_finds_nothing(
    visit: Callable[..., Visit], kept: list[RequestRecord], options: dict[str, object]
) -> None:
    """Nor does the comparison, the palette or a full overview break a rule, or scroll sideways."""
    seen = visit("", **options)
    compare = f"/compare?a={kept[0].request_id}&b={kept[20].request_id}"
    for path in ("", compare, "/compare"):
        seen.page.goto(seen.page.url.split("/dashboard")[0] + "/dashboard" + path)
        seen.expect_live()
        assert axe(seen) == [], path
        wide = "document.documentElement.scrollWidth > innerWidth"
        assert not seen.page.evaluate(wide), path
    seen.page.keyboard.press("Control+k")
    expect(seen.page.get_by_role("option").first).to_be_visible()
    assert axe(seen) == []

"""Sessions, as a person sees them: a real server, real traffic, a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

import pytest
from browser_support import Visit, axe, browser_test, chromium, needs_npm, visits
from conftest import Server
from playwright.sync_api import Browser, expect
from scripted import Conversation, ScriptedUpstream, wait_until
from test_caching_wire import a_session as session_with_misses

pytestmark = browser_test

SESSION = "session/of a page?"  # what clients say may be anything
ADDRESS = "/dashboard/sessions/session/of%20a%20page%3F"
MARKUP = "Mend <b>the</b> gate"
HEADERS = {
    "content-type": "application/json",
    "user-agent": "claude-cli/2.1.273 (external, cli)",
    "anthropic-version": "2026-10-21",
    "x-claude-code-session-id": SESSION,
}
AGENT = {"x-claude-code-agent-id": "agent-1"}
CHILD = {"x-claude-code-agent-id": "agent-2", "x-claude-code-parent-agent-id": "agent-1"}
PHONE = {"width": 390, "height": 800}
USAGE = {"input_tokens": 200, "output_tokens": 50, "cache_read_input_tokens": 600,
         "cache_creation_input_tokens": 200}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens a page of the server."""
    with visits(browser, server.url, viewport={"width": 1440, "height": 900}) as open_page:
        yield open_page


def answer(talk: Conversation) -> None:
    """Answer with a model that has a price, as an overloaded provider where that is asked for."""
    if b"too much" in talk.request.body:
        talk.answer(b'{"type":"error","error":{"type":"overloaded_error"}}', "529 Overloaded")
        return
    found = {"id": "msg_1", "type": "message", "model": "claude-opus-4-5", "content": []}
    talk.answer(json.dumps({**found, "stop_reason": "end_turn", "usage": USAGE}).encode())


def turn(server: Server, said: str, more: Mapping[str, str] | None = None) -> str:
    """Send a turn and return its id."""
    tools = [{"name": "mcp__files__read", "description": "Reads files.", "input_schema": {}}]
    messages = [{"role": "user", "content": [{"type": "text", "text": said}]}]
    body = {"model": "claude-opus-4-5", "system": "Be brief.", "tools": tools, "messages": messages}
    sent, headers = json.dumps(body).encode(), {**HEADERS, **(more or {})}
    return server.request("POST", "/v1/messages", sent, headers)[1]["x-ccproxy-request-id"]


def a_session(server: Server, upstream: ScriptedUpstream) -> list[str]:
    """Do two turns, one of an agent, one of an agent of that, and one that fails."""
    upstream.script = answer
    ids = [
        turn(server, MARKUP),
        turn(server, "look around", AGENT),
        turn(server, "look closer", CHILD),
        turn(server, "too much"),
        turn(server, "go on"),
    ]
    for one in ids:
        for path in (f"/logs/entries/{one}", f"/logs/entries/{one}/content"):
            wait_until(lambda path=path: server.request("GET", path)[0] == 200, 20)
    return ids


def test_a_list_leads_to_a_session_and_that_to_its_requests(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """A row says who, what and how much; its page has a lane for each agent, and opens requests."""
    ids = a_session(server, upstream)
    seen = visit("/dashboard/sessions?range=7d")
    page = seen.page
    row = page.locator(".row")
    expect(row).to_have_count(1)
    expect(row.locator(".c-words")).to_have_text(MARKUP)
    expect(row.locator(".c-client")).to_have_text("claude-code 2.1.273")
    for name, text in (("turns", "5"), ("agents", "2"), ("errors", "1"), ("hit", "60%")):
        expect(row.locator(f".c-{name}")).to_have_text(text)
    page.get_by_role("link", name="Cost").click()
    expect(page).to_have_url(server.url + "/dashboard/sessions?range=7d&sort=-cost")
    page.keyboard.press("j")
    page.keyboard.press("Enter")

    expect(page).to_have_url(server.url + ADDRESS + "?range=7d")
    expect(page.get_by_role("heading", level=1)).to_have_text(MARKUP)
    expect(page.locator(".agent")).to_have_text(["Main conversation", "agent-1", "agent-2"])
    main = page.locator(".lane").nth(0)
    expect(main.locator(".row .c-number")).to_have_text(["1", "4", "5"])
    expect(main.locator(".badge")).to_have_text(["200", "529", "200"])
    expect(main.locator(".row.bad .said")).to_contain_text("overloaded")
    assert page.locator(".lane.d-1 .row").get_attribute("data-id") == ids[1]
    assert main.locator(".c-context svg rect").count() >= 3
    expect(page.get_by_role("region", name="Context of the last turn")).to_contain_text("files")
    costs = [float(text[1:]) for text in main.locator(".c-spent").all_inner_texts()[:3] if text]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0] > 0

    page.locator(f'.row[data-id="{ids[2]}"] .c-cost').click()
    expect(page.locator("[data-panel]")).to_contain_text(ids[2])
    page.locator("[data-panel]").get_by_role("link", name=SESSION).click()
    expect(page).to_have_url(server.url + ADDRESS + "?range=7d")
    page.get_by_role("link", name="Its requests").click()
    expect(page.locator(".row")).to_have_count(5)


def test_misses_and_rent_are_shown(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """A turn that missed is marked with its cause and cost, and its page has both witnesses."""
    ids = session_with_misses(server, upstream)
    page = visit("/dashboard/sessions/session-of-caches").page
    marks = page.locator(".row .miss")
    expect(marks).to_have_text(["tools $0.287500", "provider $0.292100"])
    expect(marks.first).to_have_attribute("title", re.compile("mcp__files__read changed.*49,000"))
    expect(page.get_by_role("region", name="Cache misses")).to_contain_text("$0.579600")
    rent = page.get_by_role("region", name="Rent")
    expect(rent).to_contain_text("files · 1 tool")
    name, cost = rent.get_by_role("row").nth(4).locator("th, td").all()[0::3]
    expect(name).to_have_text("mcp__files__read")
    there, here = cost.bounding_box(), name.bounding_box()
    assert there is not None
    assert here is not None
    assert abs(there["y"] - here["y"]) < 4  # in one line
    results = page.get_by_role("region", name="Dearest tool results")
    expect(results.get_by_role("row")).to_have_count(4)
    page.goto(f"{server.url}/dashboard/requests/{ids[1]}")
    cache = page.get_by_role("region", name="Cache")
    expect(cache).to_contain_text("Missed: tools (mcp__files__read changed)")
    expect(cache).to_contain_text("tools changed, 49,000 tokens")
    cache.get_by_role("link", name="the turn before").click()
    expect(page.get_by_role("region", name="Cache")).to_contain_text("first turn")


def test_a_session_goes_on_while_it_is_shown(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """A page for a session that is not there yet says so, and shows it once it began."""
    upstream.script = answer
    seen = visit("/dashboard/sessions")
    expect(seen.page.get_by_text("ccproxy-flask run -- claude")).to_be_visible()
    later = visit(ADDRESS)
    expect(later.page.get_by_text("There is no session with this id")).to_be_visible()
    later.complaints.clear()  # the browser reports the 404 of the page
    for one in (seen, later):
        one.expect_live()

    turn(server, MARKUP)
    expect(seen.page.locator(".row .c-turns")).to_have_text("1", timeout=90_000)
    expect(later.page.locator(".row")).to_have_count(1, timeout=90_000)
    turn(server, "go on")
    expect(later.page.locator(".row")).to_have_count(2, timeout=90_000)
    expect(seen.page.locator(".row .c-turns")).to_have_text("2", timeout=90_000)


def test_a_long_session_is_shown_in_parts(server: Server, upstream: ScriptedUpstream) -> None:
    """A page has 200 turns; the next one goes on with the numbers and with what it cost so far."""
    upstream.script = answer
    for _ in range(202):
        turn(server, "go on")
    path = ADDRESS.replace("dashboard", "logs")
    wait_until(lambda: b'"requests":202,' in server.request("GET", path)[2], 30)

    def shown(page: int) -> tuple[str, list[str], list[str]]:
        status, _, body = server.request("GET", f"{ADDRESS}?page={page}")
        assert status == 200
        text = body.decode()
        cells = [
            re.findall(rf'class="c-{name}[^"]*">([^<]+)</td>', text) for name in ("number", "spent")
        ]
        return text, cells[0], cells[1]

    text, numbers, spent = shown(1)
    assert "1 to 200 of 202" in text
    assert (numbers[0], numbers[-1], spent[-1]) == ("1", "200", "$0.760000")
    text, numbers, spent = shown(2)
    assert "201 to 202 of 202" in text
    assert (numbers, spent) == (["201", "202"], ["$0.763800", "$0.767600"])


@needs_npm
@pytest.mark.parametrize(
    "options", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}], ids=["light", "dark", "phone"]
)
def test_axe_finds_nothing(
    server: Server,
    upstream: ScriptedUpstream,
    visit: Callable[..., Visit],
    options: dict[str, object],
) -> None:
    """No page of sessions breaks a rule of axe-core, or scrolls sideways."""
    a_session(server, upstream)
    missed = session_with_misses(server, upstream)[1]
    seen = visit("/dashboard/sessions", **options)
    of_misses = ("/dashboard/sessions/session-of-caches", f"/dashboard/requests/{missed}")
    for path in ("/dashboard/sessions", ADDRESS, *of_misses):
        seen.page.goto(server.url + path)
        seen.expect_live()
        assert axe(seen) == [], path
        wide = "document.documentElement.scrollWidth > innerWidth"
        assert not seen.page.evaluate(wide), path


def test_a_session_shows_how_it_grew_and_whose_time_it_took(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """Its context by part is an area with the cost over it, and times are of three."""
    a_session(server, upstream)
    page = visit(ADDRESS + "?range=7d").page
    growth = page.get_by_role("img", name="Context by part")
    assert growth.locator("path").count() >= 4
    expect(growth.locator("path.line")).to_have_count(1)
    times = page.get_by_role("region", name="Whose time it took")
    expect(times.get_by_role("rowheader")).to_have_text([" Model", " Tools", " This proxy"])

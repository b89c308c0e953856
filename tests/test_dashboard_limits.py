"""Limits, as a person sees them: a real server, real traffic, a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from browser_support import Visit, axe, browser_test, chromium, needs_npm, visits
from conftest import Server
from playwright.sync_api import Browser, expect
from scripted import Conversation, ScriptedUpstream

pytestmark = browser_test

PHONE = {"width": 390, "height": 800}
WIDE = "document.documentElement.scrollWidth > innerWidth"


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


def fill(server: Server, upstream: ScriptedUpstream) -> None:
    """Let two sessions fill a window to 80 %, one of them with three quarters of it."""
    used: list[int] = []
    resets = str(int(time.time()) + 9000)

    def answer(talk: Conversation) -> None:
        headers = (
            ("content-type", "application/json"),
            ("anthropic-organization-id", "org-1"),
            ("anthropic-ratelimit-unified-status", "allowed_warning"),
            ("anthropic-ratelimit-unified-5h-status", "allowed_warning"),
            ("anthropic-ratelimit-unified-5h-utilization", f"{sum(used) / 100:.2f}"),
            ("anthropic-ratelimit-unified-5h-reset", resets),
            ("anthropic-ratelimit-unified-7d-utilization", f"{sum(used) / 1000:.2f}"),
            ("anthropic-ratelimit-unified-7d-reset", resets),
        )
        asked = json.loads(talk.request.body)["max_tokens"]
        used.append(asked)
        usage = {"input_tokens": 0, "output_tokens": asked * 10_000}
        found = {"type": "message", "model": "claude-opus-4-5", "usage": usage, "content": []}
        talk.answer(json.dumps(found).encode(), headers=headers)

    upstream.script = answer
    for number in range(21):
        session = f"session/{'small' if number % 2 else 'large'} <b>"
        headers = {"content-type": "application/json", "x-session-id": session}
        body = json.dumps({"model": "claude-opus-4-5", "max_tokens": 2 if number % 2 else 6})
        server.request("POST", "/v1/messages", body.encode(), headers)
    server.records(21)


def test_a_person_sees_when_a_window_is_full_and_who_filled_it(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """From the overview, over the fullest window, to the session that filled it: two clicks."""
    fill(server, upstream)
    seen = visit("/dashboard")
    page = seen.page
    strip = page.locator("#limits-strip")
    expect(strip.locator(".figure").first).to_have_text("80%")
    strip.get_by_role("link").first.click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Limits")
    window = page.locator('[data-window="5 hours"]')
    expect(window.locator(".gauge .figure")).to_have_text("80%")
    expect(window.locator(".gauge")).to_contain_text("Resets")
    expect(window).to_contain_text("allowed warning")
    if page.locator("canvas").count():
        expect(window.locator("canvas").first).to_be_visible()
    rows = window.locator(".shares tbody").first.locator("tr")
    expect(rows.nth(0)).to_contain_text("session/large <b>")
    share = float(rows.nth(0).locator("td").last.inner_text().rstrip("%"))
    assert 70 < share < 80
    expect(page.locator('[data-window="7 days"] .gauge .figure')).to_have_text("8%")
    rows.nth(0).get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("large")
    page.keyboard.press("g")
    page.keyboard.press("l")
    expect(page.get_by_role("heading", level=1)).to_have_text("Limits")


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
    """The page breaks no rule of axe-core, empty or not, and never scrolls sideways."""
    seen = visit("/dashboard/limits", **options)
    expect(seen.page.get_by_text("No provider stated a limit")).to_be_visible()
    seen.expect_live()
    assert axe(seen) == []
    fill(server, upstream)
    for path in ("/dashboard/limits", "/dashboard"):
        seen.page.goto(server.url + path)
        seen.expect_live()
        expect(seen.page.locator(".bar .fill").first).to_be_attached()
        assert axe(seen) == [], path
        assert not seen.page.evaluate(WIDE), path

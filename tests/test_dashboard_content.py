"""What was said, as a person sees it: a real server, real traffic, a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from browser_support import Visit, axe, browser_test, chromium, needs_npm, visits
from conftest import Server
from playwright.sync_api import Browser, expect
from scripted import Conversation, ScriptedUpstream, wait_until

pytestmark = browser_test

MARKUP = "<img src=x onerror=\"document.title='owned'\">"
HEADERS = {"content-type": "application/json", "x-claude-code-session-id": "session-of-a-page"}
TOOL_RESULT = "line of a file\n" * 2_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens a page of the server."""
    with visits(browser, server.url, viewport={"width": 1280, "height": 900}) as open_page:
        yield open_page


def answer(talk: Conversation) -> None:
    """Stream an answer with a text and the call of a tool."""
    call = {"type": "tool_use", "id": "t2", "name": "Edit", "input": {}}
    talk.start_stream()
    for event in (
        {"type": "message_start", "message": {"id": "msg_1", "model": "claude-test"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"text": "I will mend "}},
        {"type": "content_block_delta", "index": 0, "delta": {"text": "the fixture."}},
        {"type": "content_block_start", "index": 1, "content_block": call},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": '{"path": "a.py"}'}},
    ):
        talk.chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    talk.end_stream()


def turn(server: Server, *texts: str, tool_result: str = TOOL_RESULT) -> str:
    """Send a turn, wait until its row and its content are there, and return its id."""
    blocks = [{"type": "text", "text": text} for text in texts]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": tool_result, "is_error": True}
    messages = [{"role": "user", "content": [*blocks, result]}]
    tools = [{"name": "mcp__files__read", "description": "Reads files.", "input_schema": {}}]
    body = {"model": "claude-test", "system": "Be brief.", "tools": tools, "messages": messages}
    _, headers, _ = server.request("POST", "/v1/messages", json.dumps(body).encode(), HEADERS)
    request_id = headers["x-ccproxy-request-id"]
    for path in (f"/logs/entries/{request_id}", f"/logs/entries/{request_id}/content"):
        wait_until(lambda path=path: server.request("GET", path)[0] == 200, 20)
    return request_id


def test_conversation_is_shown_and_harmless(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """System, tools, messages and answer are readable; markup and invisible characters are text."""
    upstream.script = answer
    seen = visit(f"/dashboard/requests/{turn(server, MARKUP, 'a' + chr(0x202E) + 'b')}")
    said = seen.page.locator("[data-content]")

    expect(said.locator(".answer-turn")).to_contain_text("I will mend the fixture.")
    expect(said.locator(".answer-turn")).to_contain_text("Tool call · Edit")
    expect(said).to_contain_text(MARKUP)
    expect(said).to_contain_text("a⟨U+202E⟩b")
    said.get_by_text("Tools · 1").click()
    expect(said).to_contain_text("mcp__files__read")
    said.get_by_text("Tool result · error").click()
    said.get_by_role("button", name="Show all 30,000 characters").click()
    expect(said.get_by_role("button", name="Show all")).to_have_count(0)
    assert "owned" not in seen.page.title()


def test_large_tool_result_is_usable(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """Of five megabytes the page shows the beginning, and more on each click."""
    upstream.script = answer
    large = f"begin {MARKUP} " + "x" * 4_999_900 + " the end"
    seen = visit(f"/dashboard/requests/{turn(server, 'read it', tool_result=large)}")
    said = seen.page.locator("[data-content]")
    said.get_by_text("Tool result · error").click()
    shown = said.locator(".fold.failed pre")

    expect(shown).to_contain_text(f"begin {MARKUP} xxx")
    assert len(shown.inner_text()) < 10_000
    said.get_by_role("button", name="Show 200,000 more of ").click()
    expect(said.get_by_role("button", name="Show 200,000 more of ")).to_have_count(1)
    assert 200_000 < len(shown.inner_text()) < 210_000
    assert "owned" not in seen.page.title()


def test_bodies_events_and_changes(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """The request as it was sent, the events with their times, and what changed since before."""
    upstream.script = answer
    turn(server, "one")
    seen = visit(f"/dashboard/requests/{turn(server, 'two')}")
    said = seen.page.locator("[data-content]")
    expect(said.locator(".answer-turn")).to_be_visible()

    said.get_by_role("button", name="Request").click()
    expect(said).to_contain_text('"system": "Be brief."')
    said.get_by_role("button", name="Events").click()
    expect(said.get_by_role("row")).to_have_count(7)
    expect(said.get_by_role("row").nth(1)).to_contain_text("message_start")
    said.get_by_role("button", name="Changes").click()
    expect(said).to_contain_text("The first change is in messages, user: changed.")
    expect(said.locator(".words.before")).to_contain_text("one")
    expect(said.locator(".words.after")).to_contain_text("two")
    said.get_by_role("button", name="Conversation").click()
    expect(said.locator(".answer-turn")).to_be_visible()


def test_panel_beside_the_list_shows_it_too(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """A click on a row shows what was said without leaving the list."""
    upstream.script = answer
    request_id = turn(server, "from the list")
    seen = visit("/dashboard/requests")
    seen.page.locator(f'.row[data-id="{request_id}"] .c-cost').click()

    panel = seen.page.locator("[data-panel]")
    expect(panel.locator(".answer-turn")).to_contain_text("I will mend the fixture.")


@needs_npm
def test_words_are_found_where_they_were_said(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """From the palette to the words, marked and harmless, and on to the conversation."""
    upstream.script = answer
    request_id = turn(server, f"{MARKUP} the walrus", "and the carpenter")
    seen = visit("/dashboard/sql?q=SELECT+1")
    for key in "gr":
        seen.page.keyboard.press(key)
    seen.page.wait_for_url("**/dashboard/requests")  # without the statement
    seen.page.keyboard.press("Control+k")
    seen.page.keyboard.type("walrus")
    seen.page.get_by_role("option", name="Search what was said: walrus").click()
    row = seen.row(request_id)
    expect(row.locator("mark")).to_have_text(["walrus"])
    expect(row).to_contain_text(f"User {MARKUP} the walrus")
    assert axe(seen) == []
    seen.page.keyboard.press("j")
    expect(row).to_have_class("row chosen")
    seen.page.keyboard.press("Enter")
    panel = seen.page.locator("[data-panel]")
    expect(panel.locator(".answer-turn")).to_be_in_viewport()
    panel.get_by_text("Open as a page").click()
    seen.page.wait_for_url(f"**/requests/{request_id}#said")
    expect(seen.page.locator("main .answer-turn")).to_be_in_viewport()
    seen.page.keyboard.press("g")
    seen.page.keyboard.press("f")
    words = seen.page.get_by_role("searchbox")
    expect(words).to_be_focused()
    words.fill("fixture nobody")
    seen.page.keyboard.press("Enter")
    expect(seen.page.get_by_text("Nobody said that")).to_be_visible()
    seen.page.set_viewport_size({"width": 390, "height": 780})
    words.fill("mend fix")
    seen.page.keyboard.press("Enter")
    expect(seen.row(request_id)).to_contain_text("Answer I will mend the fixture.")
    assert axe(seen) == []
    assert not seen.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert "owned" not in seen.page.title()


@pytest.mark.parametrize("width", [901, 1101])
def test_narrow_tables_keep_their_names(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit], width: int
) -> None:
    """However narrow a table is, there is room to read what leads on from its rows."""
    upstream.script = answer
    turn(server, "the walrus and the carpenter")
    seen = visit("/dashboard/sessions", viewport={"width": width, "height": 720})
    seen.expect_live()
    name = seen.page.locator("tbody .c-words").first
    assert name.evaluate("cell => cell.clientWidth") > 90
    name.get_by_role("link").click()
    model = seen.page.locator("tbody .c-model").first
    expect(model).to_be_visible()
    assert model.evaluate("cell => cell.clientWidth") > 90


def test_what_is_not_kept_says_how_to_keep_it(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """A request that was refused has no content; its page says what turns it on."""
    upstream.script = answer
    _, headers, _ = server.request("POST", "/nobody/v1/chat", b"{}")
    request_id = headers["x-ccproxy-request-id"]
    wait_until(lambda: server.request("GET", f"/logs/entries/{request_id}")[0] == 200, 20)
    seen = visit(f"/dashboard/requests/{request_id}")

    expect(seen.page.get_by_text("CAPTURE__CONTENT=on")).to_be_visible()

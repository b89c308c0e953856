"""What somebody asks who has never seen the dashboard: answered by the page, in under three clicks.

Each question begins at the overview. "When is my window full, and who filled it" has a page of its
own, which is one click away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from browser_support import Visit, browser_test, chromium, visits
from conftest import Server
from playwright.sync_api import Browser, Locator, expect
from scripted import Conversation, ScriptedUpstream, wait_until

pytestmark = browser_test

CHEAP, DEAR = "a-short-question", "a-long-piece-of-work"
TURNS = 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens a page of the server."""
    with visits(browser, server.url, viewport={"width": 1280, "height": 720}) as open_page:
        yield open_page


def answer(talk: Conversation) -> None:
    """Answer each turn with a tool call that names it, and what it cost in tokens."""
    said = json.loads(talk.request.body)["messages"][-1]["content"]
    call = {
        "type": "tool_use",
        "id": f"call-{said}",
        "name": "Read",
        "input": {"path": f"{said}.py"},
    }
    usage = {"input_tokens": 2000, "output_tokens": 400}
    found = {"id": f"msg-{said}", "type": "message", "role": "assistant", "content": [call]}
    found |= {"model": "claude-opus-4-5", "stop_reason": "tool_use", "usage": usage}
    talk.answer(json.dumps(found).encode())


def turn(server: Server, session: str, said: str, system: str = "Be brief.") -> str:
    """Send a turn and return its id."""
    body = {"model": "claude-opus-4-5", "max_tokens": 9, "system": system}
    sent = json.dumps(body | {"messages": [{"role": "user", "content": said}]}).encode()
    headers = {"content-type": "application/json", "x-claude-code-session-id": session,
               "user-agent": "claude-cli/2.1.273 (external, cli)"}  # fmt: skip
    return server.request("POST", "/v1/messages", sent, headers)[1]["x-ccproxy-request-id"]


class Newcomer:
    """Somebody at the overview, whose clicks are counted."""

    def __init__(self, seen: Visit, server: Server) -> None:
        self.page, self._home, self._clicks = seen.page, f"{server.url}/dashboard", 0

    def ask(self) -> None:
        """Begin with the next question."""
        self.page.goto(self._home)
        self._clicks = 0

    def click(self, what: Locator) -> None:
        """Click, at most three times for a question."""
        self._clicks += 1
        assert self._clicks <= 3
        what.click()


def test_questions_of_a_newcomer(
    server: Server, upstream: ScriptedUpstream, visit: Callable[..., Visit]
) -> None:
    """The dearest session, a slow request, turn 12, and what changed in a prompt."""
    upstream.script = answer
    turn(server, CHEAP, "hello")
    ids = [turn(server, DEAR, f"step-{number}") for number in range(1, TURNS + 1)]
    last = turn(server, DEAR, "step-13", system="Be thorough.")
    wait_until(lambda: server.request("GET", f"/logs/entries/{last}/content")[0] == 200, 30)
    person = Newcomer(visit("/dashboard"), server)
    page = person.page
    panel = page.locator("[data-panel]")
    spend = page.get_by_role("region", name="Top spend")

    # Which session cost most today, and why?
    person.ask()
    person.click(spend.get_by_role("button", name="Session"))
    person.click(spend.get_by_role("link").first)
    expect(page).to_have_url(f"{server.url}/dashboard/sessions/{DEAR}")
    expect(page.locator(".row")).to_have_count(TURNS + 1)
    expect(page.locator(".row .c-cost").first).to_contain_text("$0.02")

    # Why was this request slow?
    person.ask()
    person.click(page.get_by_role("region", name="Slowest").get_by_role("link").nth(1))
    expect(panel.get_by_role("row", name="Waiting for the provider")).to_be_visible()

    # What did the agent ask for in turn 12?
    person.ask()
    person.click(spend.get_by_role("button", name="Session"))
    person.click(spend.get_by_role("link").first)
    person.click(page.locator(f'.row[data-id="{ids[-1]}"]'))
    expect(panel.locator(".answer-turn")).to_contain_text("Tool call · Read")
    expect(panel.locator(".answer-turn")).to_contain_text("step-12.py")

    # What changed between these two prompts?
    person.ask()
    person.click(page.locator(f'.row[data-id="{last}"]'))
    person.click(panel.get_by_role("link", name="Compare with the one before"))
    words = page.get_by_role("region", name="What was said")
    expect(words).to_contain_text("The first change is in system")
    expect(words.locator(".words.before").first).to_contain_text("Be brief.")
    expect(words.locator(".words.after").first).to_contain_text("Be thorough.")

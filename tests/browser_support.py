"""A real Chromium, and what a page in it shows and complains about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parent.parent / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]

browser_test = [
    pytest.mark.browser,
    # In CI a missing browser is a failure, not a reason to test less.
    pytest.mark.skipif(
        not CHROMIUM.exists() and os.environ.get("CI") != "true",
        reason=f"{CHROMIUM} is not installed",
    ),
]
needs_npm = pytest.mark.skipif(
    not AXE.exists() and os.environ.get("CI") != "true",
    reason="what comes from npm is not here (make browser)",
)


@contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """Start one for as long as the context lasts; *more* are further arguments of its."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=[*CHROMIUM_ARGS, *more]
        )
        yield started
        started.close()


class Visit:
    """A page that is open, and everything it complained about."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self._context = browser.new_context(timezone_id="Asia/Kathmandu", **options)
        self._context.set_default_timeout(10_000)
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self.hosts.add(asked.url.split("/")[2]))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def row(self, request_id: str) -> Any:
        """The row of one request."""
        return self.page.locator(f'tr[data-id="{request_id}"]')

    def cell(self, request_id: str, name: str) -> Any:
        """One value of a row."""
        return self.row(request_id).locator(f'[data-f="{name}"]')

    def figure(self, name: str) -> Any:
        """One of the figures on top."""
        return self.page.locator(f'[data-total="{name}"]')

    def expect_live(self, seconds: float = 10) -> None:
        """Wait until the connection is there."""
        status = self.page.get_by_role("status").first
        expect(status).to_have_text("Live", timeout=1000 * seconds)

    def close(self) -> None:
        """Close the page."""
        self._context.close()


def axe(seen: Visit) -> list[str]:
    """Return what axe-core finds on the page."""
    # Not as a script of the page: its policy forbids that.
    seen.page.evaluate(AXE.read_text())
    found = seen.page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@contextmanager
def visits(browser: Browser, url: str, **defaults: Any) -> Iterator[Callable[..., Visit]]:
    """Give a function that opens pages below *url*.

    At the end nothing may have gone wrong on any of them, or been asked of another host.
    """
    opened: list[Visit] = []

    def open_page(path: str = "", **options: Any) -> Visit:
        opened.append(Visit(browser, **{**defaults, **options}))
        opened[-1].page.goto(url + path)
        return opened[-1]

    yield open_page
    for one in opened:
        one.close()
        assert one.complaints == []
        assert one.hosts == {urlsplit(url).netloc}

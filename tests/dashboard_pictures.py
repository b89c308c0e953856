"""Takes the pictures of docs/dashboard.md and the README: ``make pictures``.

The traffic is made up, always the same but for the time of day.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from browser_support import Visit, chromium
from dashboard_support import Site, make_record

from ccproxy_flask.record import RequestRecord

DOCS = Path(__file__).parent.parent / "docs"
REQUESTS = 600
# Model, provider, USD for a million tokens of input, how much of the traffic it has.
MODELS = (
    ("claude-opus-4-5", "anthropic", 5, 5),
    ("claude-sonnet-4-5", "anthropic", 3, 6),
    ("claude-haiku-4-5", "anthropic", 1, 3),
    ("gpt-5.1-codex", "openai", 1.25, 4),
    ("gemini-3-pro", "gemini", 2, 2),
)
ERRORS = (
    (429, "rate_limit", "This request would exceed your account's rate limit"),
    (529, "overloaded", "Overloaded"),
)
WIDE, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 780}


def traffic(chance: random.Random) -> list[RequestRecord]:
    """Return a day of made-up requests."""
    return [make_record(**_fields(chance, number)) for number in range(REQUESTS)]


def _fields(chance: random.Random, number: int) -> dict[str, Any]:
    weights = [each[3] for each in MODELS]
    [(model, provider, price, _)] = chance.choices(MODELS, weights)
    client = {"openai": "codex", "gemini": "gemini-cli"}.get(provider, "claude-code")
    tokens = {
        "tokens_input": chance.randint(1, 3000),
        "cache_read_tokens": chance.randint(0, 90_000),
        "cache_write_tokens": chance.randint(0, 5000),
        "tokens_output": chance.randint(20, 3000),
    }
    took = chance.lognormvariate(8.6, 0.9)
    found = {
        "ago": chance.random() * 86_000 + 20,
        "model": model,
        "provider": provider,
        "client": client,
        "session_id": f"5f1c{number // 40:02d}aa-11e2-4b1d-9c3e-0242ac120002",
        "user_id": chance.choice(("ada", "grace", "edsger")),
        "api_key_id": chance.choice(("9f31c2d4", "77aa01be")),
        "request_class": "main",
        "duration_ms": took,
        "ttft_ms": took * chance.uniform(0.1, 0.5),
        "upstream_ms": took * 0.98,
        **tokens,
    }
    found["ttfb_ms"] = found["ttft_ms"] * 0.7
    if chance.random() < 0.05:
        status, kind, message = chance.choice(ERRORS)
        nothing = dict.fromkeys((*tokens, "cost_usd"))
        return found | nothing | {
            "status_code": status, "error_type": kind, "error_message": message,
        }  # fmt: skip
    return found | _bill(tokens, price)


def _bill(tokens: dict[str, int], price: float) -> dict[str, Any]:
    cache = tokens["cache_read_tokens"] * 0.1 + tokens["cache_write_tokens"] * 1.25
    parts = (tokens["tokens_input"], cache, tokens["tokens_output"] * 5)
    amounts = [Decimal(str(round(part * price / 1e6, 8))) for part in parts]
    names = ("cost_input_usd", "cost_cache_usd", "cost_output_usd")
    bill = dict(zip(names, amounts, strict=True))
    return {**bill, "cost_usd": sum(amounts), "cost_source": "prices:2026-11-18"}


def _shrink(picture: Path) -> None:
    """Make a picture a third as large, where pngquant is there."""
    if tool := shutil.which("pngquant"):
        subprocess.run([tool, "--force", "--ext", ".png", "96", str(picture)], check=True)


def main() -> int:
    """Take all of them, and return 0."""
    records = sorted(traffic(random.Random(4)), key=lambda record: record.timestamp)
    good = [record.request_id for record in records if record.error_type is None]
    asked = (
        "SELECT+model,+count(*)+AS+requests,+sum(cost_usd)+AS+cost+FROM+access_logs+GROUP+BY+ALL"
    )
    pictures = (
        ("dashboard.png", "", WIDE, None),
        ("dashboard/requests.png", "/requests?error=any&range=7d", WIDE, None),
        ("dashboard/request.png", f"/requests/{good[-1]}", WIDE, None),
        ("dashboard/compare.png", f"/compare?a={good[-3]}&b={good[-1]}", WIDE, None),
        ("dashboard/palette.png", "", WIDE, "Control+k"),
        ("dashboard/sql.png", f"/sql?q={asked}+ORDER+BY+cost+DESC", WIDE, None),
        ("dashboard/phone.png", "", PHONE, None),
    )
    with tempfile.TemporaryDirectory() as home, chromium() as browser:
        site = Site(Path(home))
        site.store.keep(*records)
        for name, address, size, key in pictures:
            seen = Visit(browser, viewport=size)
            seen.page.goto(site.url + address)
            seen.expect_live(30)
            if key:
                seen.page.keyboard.press(key)
            seen.page.wait_for_timeout(500)  # until charts are drawn
            seen.page.screenshot(path=str(DOCS / name))
            _shrink(DOCS / name)
            seen.close()
        site.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

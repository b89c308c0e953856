"""What parts of a context cost while they stay: by hand, and always adding up to the bill."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from caching_support import ANTHROPIC, APIS, RESPONSES, Api, Json, names, request, turn_of
from hypothesis import given
from hypothesis import strategies as st

from ccproxy_flask.caching.prices import InputPrices
from ccproxy_flask.caching.rent import Rents
from ccproxy_flask.caching.turns import Turn
from ccproxy_flask.content.cache_parts import Prompt, PromptPart

READ, WRITTEN, UNCACHED = Decimal("0.5"), Decimal("6.25"), Decimal(5)


def prices(turn: Turn) -> InputPrices:
    """Return what *turn* paid at 5, 0.5 and 6.25 USD a million tokens."""
    uncached, read, written = (each.scaleb(-6) for each in (UNCACHED, READ, WRITTEN))
    bill = turn.read * read + turn.written * written + (turn.row["tokens_input"] or 0) * uncached
    return InputPrices(uncached, read, written, bill)


def part(name: str, size: int, kind: str = "messages") -> PromptPart:
    """Return a part with as many bytes."""
    section = kind if kind in ("tools", "system") else "messages"
    return PromptPart(name.encode(), section, kind, name, size, True)


def rent_of(*turns: tuple[list[PromptPart], tuple[int, int, int]], **row: Any) -> Json:
    """Return the rents of turns with these parts and tokens: uncached, read, written."""
    rents = Rents()
    for number, (parts, usage) in enumerate(turns):
        turn = turn_of(ANTHROPIC, None, number, usage, **row)
        turn = Turn(turn.row, {}, Prompt(parts))
        rents.add(turn, prices(turn))
    return rents.as_json()


TOOL = part("mcp__files__read", 400, "tools")
SYSTEM = part("system", 600, "system")
ASKED = part("user", 1_000)
RESULT = part("Bash", 2_000, "tool_results")


def test_rents_are_what_they_are_by_hand() -> None:
    """A part pays for being written once, and for being read in each turn after that."""
    found = rent_of(
        ([TOOL, SYSTEM, ASKED], (0, 0, 1_000)),  # two bytes a token
        ([TOOL, SYSTEM, ASKED, RESULT], (100, 1_000, 900)),
        ([TOOL, SYSTEM, ASKED, RESULT], (100, 1_900, 0)),
    )
    # 200 tokens: written, read, read.
    assert found["parts"]["tools"] == pytest.approx((200 * 6.25 + 200 * 0.5 * 2) / 1e6, abs=1e-12)
    assert found["parts"]["system"] == pytest.approx((300 * 6.25 + 300 * 0.5 * 2) / 1e6, abs=1e-12)
    # 1,000 tokens: 900 written and 100 uncached, then 900 read and 100 uncached.
    result = (900 * 6.25 + 100 * 5 + 900 * 0.5 + 100 * 5) / 1e6
    assert found["parts"]["tool_results"] == pytest.approx(result, abs=1e-12)
    [listed] = found["results"]
    assert (listed["name"], listed["bytes"], listed["tokens"], listed["turns"]) == (
        "Bash", 2_000, 1_000, 2
    )  # fmt: skip
    assert listed["cost_usd"] == pytest.approx(result, abs=1e-12)
    assert {tool["name"]: tool["server"] for tool in found["tools"]} == {
        "mcp__files__read": "files", "Bash": ""
    }  # fmt: skip
    [builtin, files] = found["servers"]
    assert (builtin["server"], builtin["results_usd"]) == ("", listed["cost_usd"])
    assert files["definition_usd"] == found["parts"]["tools"]


def total(found: Json) -> Decimal:
    """Return the sum of all shares."""
    shares = [*found["parts"].values(), found["unattributed_usd"]]
    return sum((Decimal(str(share)) for share in shares), Decimal(0))


@given(st.integers(0, 10**6), st.integers(1, 25))
def test_rents_add_up_to_the_bill(seed: int, count: int) -> None:
    """Whatever comes, goes, changes and is read: not a cent is lost, and none is made."""
    chance = random.Random(seed)
    parts: list[PromptPart] = []
    rents, bill = Rents(), Decimal(0)
    listed = Decimal(0)
    for number in range(count):
        parts = parts[: chance.randint(len(parts) // 2, len(parts))]
        for _ in range(chance.randint(0, 6)):
            kind = chance.choice(("tools", "system", "messages", "tool_results", "media"))
            parts.append(part(f"{number}-{len(parts)}", chance.choice((0, 1, 977, 50_000)), kind))
        usage = tuple(chance.choice((0, 0, 7, 1_000, 123_456)) for _ in range(3))
        name = chance.choice(("one", "two", None))
        turn = turn_of(ANTHROPIC, None, number, usage, conversation_id=name)  # type: ignore[arg-type]
        turn = Turn(turn.row, {}, Prompt(list(parts)) if chance.random() < 0.9 else None)
        bill += prices(turn).bill
        rents.add(turn, prices(turn))
    found = rents.as_json()
    assert total(found) == Decimal(str(found["input_cost_usd"])) == round(bill, 10)
    listed = sum((Decimal(str(tool["cost_usd"])) for tool in found["tools"]), Decimal(0))
    servers = sum((Decimal(str(each["cost_usd"])) for each in found["servers"]), Decimal(0))
    assert abs(listed - servers) < Decimal("1e-8") or len(found["tools"]) == 50
    assert min([*found["parts"].values(), 0]) == 0


@pytest.mark.parametrize("api", APIS, ids=names)
def test_real_requests_pay_rent(api: Api) -> None:
    """Tools by server and name, and results by the tool that gave them, in each wire format."""
    rents = Rents()
    for number in range(4):
        usage = (100, 2_000 * number, 2_000)
        turn = turn_of(api, request(api, number), number, usage)
        rents.add(turn, prices(turn))
    found = rents.as_json()
    tools = {tool["name"]: tool for tool in found["tools"]}
    assert set(tools) == {"Bash", "mcp__files__read"}
    assert tools["Bash"]["results"] == 3
    assert tools["mcp__files__read"]["results_usd"] == 0
    assert {each["server"] for each in found["servers"]} == {"", "files"}
    first = max(found["results"], key=lambda result: result["turns"])
    assert (first["turns"], first["name"]) == (3, "Bash")
    assert found["unattributed_usd"] == 0
    assert total(found) == Decimal(str(found["input_cost_usd"]))


def test_a_turn_that_goes_on_by_an_id_has_all_that_came_before() -> None:
    """What is not sent again is there, and pays."""
    rents = Rents()
    whole = turn_of(RESPONSES, request(RESPONSES, 2), 0, (5_000, 0, 0), message_id="resp_1")
    body = {**request(RESPONSES, 0), "input": [{"role": "user", "content": "go on"}]}
    more = turn_of(RESPONSES, body, 9, (10, 5_000, 0), previous_message_id="resp_1")
    for turn in (whole, more):
        rents.add(turn, prices(turn))
    found = rents.as_json()
    assert {result["turns"] for result in found["results"]} == {2}
    assert found["parts"]["messages"] < found["parts"]["tool_results"]


def test_without_content_or_price_nobody_pays() -> None:
    """A bill without content belongs to nobody; without a bill there is none."""
    rents = Rents()
    turn = turn_of(ANTHROPIC, None, 0, (1_000, 0, 0))
    rents.add(turn, prices(turn))
    rents.add(turn, None)
    found = rents.as_json()
    assert found["input_cost_usd"] == found["unattributed_usd"] == 0.005
    assert (found["tools"], found["results"]) == ([], [])

"""Why the cache missed: the right cause for each change, and nobody blamed for none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from caching_support import (
    ANTHROPIC,
    APIS,
    CHAT,
    GEMINI,
    RESPONSES,
    Api,
    Json,
    marked,
    names,
    request,
    tool,
    turn_of,
)
from hypothesis import given
from hypothesis import strategies as st

from ccproxy_flask.caching import rules
from ccproxy_flask.caching.causes import CAUSES
from ccproxy_flask.caching.prices import InputPricing
from ccproxy_flask.caching.verdict import Verdict, verdict_on
from ccproxy_flask.content.cache_diagnostics import diagnostics, may_tell

PRICING = InputPricing()
FIRST = {
    ANTHROPIC: (100, 0, 50_000),
    CHAT: (50_000, 0, 0),
    RESPONSES: (16, 0, 49_984),
    GEMINI: (1_000, 49_000, 0),
}
"""What the turn before used: that much, or 128 less, is in the cache."""
MISSED = {ANTHROPIC: 50_000, CHAT: 49_920, RESPONSES: 49_984, GEMINI: 49_000}
AFTER = {
    ANTHROPIC: (100, 0, 50_400),
    CHAT: (50_500, 0, 0),
    RESPONSES: (20, 0, 50_480),
    GEMINI: (50_500, 0, 0),
}
"""What a turn uses that reads nothing."""
COSTS = {
    ANTHROPIC: Decimal("0.2875"),  # 50,000 x (6.25 - 0.50) / 1,000,000
    CHAT: Decimal("0.05616"),  # 49,920 x (1.25 - 0.125) / 1,000,000
    RESPONSES: Decimal("0.2299264"),  # 49,984 x (5 - 0.40) / 1,000,000
    GEMINI: Decimal("0.055125"),  # 49,000 x (1.25 - 0.125) / 1,000,000
}
"""What that costs by the prices of each model, worked out by hand."""
BILLS = {  # uncached, and written
    ANTHROPIC: ("0.0005", "0.315"),
    CHAT: ("0.063125", "0"),
    RESPONSES: ("0.00008", "0.2524"),
    GEMINI: ("0.063125", "0"),
}


def judged(
    api: Api,
    body: Json,
    *,
    after: float = 20,
    headers: dict[str, str] | None = None,
    before: Json | None = None,
    **row: Any,
) -> Verdict:
    """Return the verdict on a turn with *body* that reads nothing of what the one before left."""
    first = turn_of(api, request(api, 3) if before is None else before, 0, FIRST[api])
    uncached, written = BILLS[api]
    costs = {"cost_input_usd": Decimal(uncached), "cost_cache_usd": Decimal(written)}
    turn = turn_of(api, body, after, AFTER[api], headers, **costs | row)
    found = verdict_on(turn, [first])
    assert found is not None
    return found


def set_in(path: str, value: Any) -> Callable[[Json], None]:
    """Return what sets a member of a body."""

    def change(body: Json) -> None:
        *outer, last = path.split(".")
        for name in outer:
            body = body.setdefault(name, {})
        body[last] = value

    return change


def _first_tool(body: Json) -> Json:
    group = body["tools"][0]
    return group["functionDeclarations"][0] if "functionDeclarations" in group else group


def _change_tool(body: Json) -> None:
    found = _first_tool(body)
    found.get("function", found)["description"] += " And more."


def _add_tool(body: Json) -> None:
    group = body["tools"][0].get("functionDeclarations", body["tools"])
    group.insert(1, {"type": "function", **tool("New"), "function": tool("New")})


def _move_tools(body: Json) -> None:
    body["tools"][0].get("functionDeclarations", body["tools"]).reverse()


def _remove_tool(body: Json) -> None:
    del body["tools"][0].get("functionDeclarations", body["tools"])[0]


def _change_system(body: Json) -> None:
    if "systemInstruction" in body:
        body["systemInstruction"]["parts"][0]["text"] += " It is noon."
    elif "instructions" in body:
        body["instructions"] += " It is noon."
    elif isinstance(body.get("system"), list):
        body["system"][0]["text"] += " It is noon."
    else:
        body["messages"][0]["content"] += " It is noon."


def change_message(body: Json, number: int) -> None:
    """Change a word of the message *number*: of a person, of a call, or of a tool's answer."""
    listed = body.get("contents") or body.get("input") or body["messages"]
    at = number + (listed[0].get("role") == "system")
    text = json.dumps(listed[at])
    changed = text.replace("mend", "paint").replace("Bash", "Fish").replace("result ", "outcome ")
    assert changed != text
    listed[at] = json.loads(changed)


EVERYWHERE: dict[str, tuple[Callable[[Json], None], str]] = {
    "a tool changed": (_change_tool, "tools"),
    "a tool added": (_add_tool, "tools"),
    "tools in another order": (_move_tools, "tools"),
    "a tool removed": (_remove_tool, "tools"),
    "system changed": (_change_system, "system"),
    **{
        f"message {k} changed": (lambda body, k=k: change_message(body, k), "messages")
        for k in (0, 1, 2, 4, 6)
    },
}


@pytest.mark.parametrize("api", APIS, ids=names)
@pytest.mark.parametrize("what", EVERYWHERE)
def test_a_change_of_what_is_said_is_found(api: Api, what: str) -> None:
    """What was changed first is the cause, and the miss costs what it costs by hand."""
    change, cause = EVERYWHERE[what]
    body = request(api, 4)
    change(body)
    found = judged(api, body)
    assert (found.cause, found.missed) == (cause, MISSED[api])
    assert found.cost(PRICING.prices(found.turn.row)) == COSTS[api]
    assert found.change is not None
    if cause == "messages":
        assert found.change.index == int(what.split()[1])
    if what == "a tool changed":
        assert (found.change.name, found.change.index) == ("Bash", 0)
    assert found.as_json(None)["changed"]["section"] == cause


SETTINGS: list[tuple[Api, str, Any, str]] = [
    (ANTHROPIC, "tool_choice", {"type": "any"}, "tool_choice"),
    (ANTHROPIC, "thinking", {"type": "enabled", "budget_tokens": 2048}, "thinking"),
    (ANTHROPIC, "output_config.effort", "max", "effort"),
    (ANTHROPIC, "speed", "fast", "speed"),
    (CHAT, "prompt_cache_key", "other", "cache_key"),
    (CHAT, "service_tier", "priority", "service_tier"),
    (CHAT, "reasoning_effort", "high", "effort"),
    (CHAT, "response_format", {"type": "json_schema", "json_schema": {}}, "response_format"),
    (RESPONSES, "prompt_cache_key", "other", "cache_key"),
    (RESPONSES, "text", {"format": {"type": "json_schema"}}, "response_format"),
    (RESPONSES, "reasoning", {"effort": "high"}, "effort"),
    (GEMINI, "toolConfig", {"functionCallingConfig": {"mode": "ANY"}}, "tool_choice"),
    (GEMINI, "generationConfig", {"thinkingConfig": {"thinkingBudget": 9}}, "thinking"),
    (GEMINI, "cachedContent", "cachedContents/x", "cached_content"),
]


@pytest.mark.parametrize(("api", "path", "value", "cause"), SETTINGS)
def test_a_change_of_settings_is_found(api: Api, path: str, value: Any, cause: str) -> None:
    """A setting that ends the reuse is the cause, where nothing before it changed."""
    body = request(api, 4)
    set_in(path, value)(body)
    assert judged(api, body).cause == cause
    _change_tool(body)
    assert judged(api, body).cause in ("tools", cause)


@pytest.mark.parametrize("api", APIS, ids=names)
def test_another_model_is_found(api: Api) -> None:
    """Another model has another cache; also where no content says so."""
    body = request(api, 4)
    assert judged(api, body, model="another").cause == "model"
    first = turn_of(api, None, 0, FIRST[api])
    found = verdict_on(turn_of(api, None, 9, AFTER[api], model="another"), [first])
    assert found is not None
    assert (found.cause, found.missed) == ("model", MISSED[api]) or api is GEMINI


def test_what_only_anthropic_has_is_found() -> None:
    """Beta headers count as a set; search and pictures are switches."""
    before, after = request(ANTHROPIC, 3), request(ANTHROPIC, 4)
    one = {"anthropic-beta": "a-2026,b-2026"}
    assert judged(ANTHROPIC, after, headers=one).cause == "beta_headers"
    first = turn_of(ANTHROPIC, before, 0, FIRST[ANTHROPIC], one)
    same = turn_of(ANTHROPIC, after, 9, AFTER[ANTHROPIC], {"anthropic-beta": "b-2026, a-2026"})
    found = verdict_on(same, [first])
    assert found is not None
    assert found.cause == "provider"
    search = copy.deepcopy(after)
    search["tools"].append({"type": "web_search_20260209", "name": "web_search"})
    assert judged(ANTHROPIC, search).cause == "search"
    picture = {"type": "image", "source": {"media_type": "image/png", "data": "AAAA"}}
    shown = copy.deepcopy(after)
    shown["messages"][-1]["content"].insert(0, picture)
    assert judged(ANTHROPIC, shown).cause == "images"
    deferred = copy.deepcopy(after)
    deferred["tools"].append({**tool("Late"), "defer_loading": True})
    assert judged(ANTHROPIC, deferred).cause == "provider"


@pytest.mark.parametrize("api", APIS, ids=names)
def test_where_nothing_changed_the_provider_missed(api: Api) -> None:
    """The same beginning, in time: nobody is blamed for it but the provider; it has its price."""
    found = judged(api, request(api, 4))
    assert (found.cause, found.missed, found.change) == ("provider", MISSED[api], None)
    assert found.cost(PRICING.prices(found.turn.row)) == COSTS[api]


@pytest.mark.parametrize(
    ("api", "more", "lasting", "passed"),
    [
        (ANTHROPIC, {}, 299, 302),
        (CHAT, {}, 299, 302),
        (CHAT, {"prompt_cache_retention": "24h"}, 86_000, 86_402),
        (RESPONSES, {}, 1_799, 1_802),
        (RESPONSES, {"prompt_cache_options": {"ttl": "12h"}}, 43_000, 43_202),
        (GEMINI, {}, 299, 302),
    ],
)
def test_a_time_to_live_that_passed_is_the_cause(
    api: Api, more: Json, lasting: int, passed: int
) -> None:
    """Up to the end of it the provider is asked why, behind it nobody; not even for a change."""
    before, after = request(api, 3) | more, request(api, 4) | more
    assert judged(api, after, before=before, after=lasting).cause == "provider"
    assert judged(api, after, before=before, after=passed).cause == "ttl"
    _change_tool(after)
    assert judged(api, after, before=before, after=passed).cause == "ttl"


def test_an_hour_is_an_hour() -> None:
    """A breakpoint says how long it lives; of two that differ the shorter one may be the cause."""
    hour = {"before": marked(request(ANTHROPIC, 3), ttl="1h")}
    after = marked(request(ANTHROPIC, 4), ttl="1h")
    assert judged(ANTHROPIC, after, after=3_599, **hour).cause == "provider"
    assert judged(ANTHROPIC, after, after=3_602, **hour).cause == "ttl"
    hour["before"]["messages"][-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
    assert judged(ANTHROPIC, after, after=400, **hour).cause == "ttl"
    first = turn_of(ANTHROPIC, None, 0, FIRST[ANTHROPIC], cache_write_1h_tokens=50_000)
    for at, cause in ((3_599, "unknown"), (3_602, "ttl")):
        found = verdict_on(turn_of(ANTHROPIC, None, at, AFTER[ANTHROPIC]), [first])
        assert found is not None
        assert found.cause == cause


def test_breakpoints_are_looked_for() -> None:
    """No breakpoint, or one that is too many blocks behind what was kept, reads nothing."""
    plain = request(ANTHROPIC, 4)
    for block in (*plain["system"], *plain["messages"][-1]["content"]):
        block.pop("cache_control", None)
    assert judged(ANTHROPIC, plain).cause == "no_breakpoint"
    near, far = (request(ANTHROPIC, 3) for _ in range(2))
    for body, count in ((near, 19), (far, 20)):
        texts = [{"type": "text", "text": f"{number}"} for number in range(count)]
        body["messages"].append({"role": "user", "content": texts})
    before = request(ANTHROPIC, 3)
    for block in before["system"]:
        del block["cache_control"]
    assert judged(ANTHROPIC, marked(near), before=before).cause == "provider"
    assert judged(ANTHROPIC, marked(far), before=before).cause == "beyond_look_back"
    whole = request(ANTHROPIC, 4)
    whole = {**plain, "cache_control": {"type": "ephemeral"}}
    assert judged(ANTHROPIC, whole).cause == "provider"


def test_what_is_too_short_is_no_miss() -> None:
    """Below the minimum of its model nothing is kept, which is said and costs nothing."""
    for api, tokens in ((ANTHROPIC, 4_000), (CHAT, 1_000)):
        first = turn_of(api, request(api, 0), 0, (tokens - 50, 0, 0))
        found = verdict_on(turn_of(api, request(api, 1), 9, (tokens, 0, 0)), [first])
        assert found is not None
        assert (found.cause, found.missed) == ("below_minimum", 0)


@pytest.mark.parametrize("api", APIS, ids=names)
@given(turns=st.integers(1, 6), reads=st.lists(st.integers(0, 60_000), min_size=6, max_size=6))
def test_who_only_appends_is_never_blamed(api: Api, turns: int, reads: list[int]) -> None:
    """Whatever the provider reads, a chain of additions has no cause on the client's side."""
    earlier = []
    for number in range(turns):
        read = min(reads[number], 40_000 + 1_000 * number)
        usage = (100, read, 40_000 + 1_000 * number - read)
        turn = turn_of(api, request(api, number), 20 * number, usage)
        found = verdict_on(turn, earlier)
        assert found is not None
        assert found.cause == ("provider" if found.missed else None if number else "first_turn")
        assert found.change is None
        earlier.append(turn)


def test_marks_and_forms_that_change_are_no_change() -> None:
    """Breakpoints may move, a text be a list of a block, a message grow, the billing differ."""
    before = request(ANTHROPIC, 3)
    after = marked({**request(ANTHROPIC, 4), "metadata": {"user_id": "x"}})
    before["messages"][0]["content"] = [{"text": "mend the gate", "type": "text"}]
    for body, number in ((before, 1), (after, 2)):
        block = {"type": "text", "text": f"x-anthropic-billing-header: cch={number}"}
        body["system"].insert(0, block)
    after["messages"][6]["content"].append({"type": "text", "text": "<system-reminder>"})
    assert judged(ANTHROPIC, after, before=before).cause == "provider"
    swapped = copy.deepcopy(after)
    swapped["messages"][1]["content"][0]["input"] = {"b": 1, "a": 0}
    before["messages"][1]["content"][0]["input"] = {"a": 0, "b": 1}
    assert judged(ANTHROPIC, swapped, before=before).cause == "messages"


@pytest.mark.parametrize("api", APIS, ids=names)
def test_what_was_read_is_no_miss(api: Api) -> None:
    """A change that costs nothing is none; nor is what rounding takes."""
    body = request(api, 4)
    _change_system(body)
    step = rules.rules_for(api.api, api.provider, "").step
    read = MISSED[api] - step
    found = verdict_on(
        turn_of(api, body, 9, (50_500 - read, read, 0)),
        [turn_of(api, request(api, 3), 0, FIRST[api])],
    )
    assert found is not None
    assert (found.cause, found.missed) == (None, 0)


def test_who_takes_something_back_misses_nothing_of_it() -> None:
    """After a step back what stayed could be read, and what is new could not."""
    api = ANTHROPIC
    first = turn_of(api, request(api, 9), 0, (100, 0, 50_000))
    body = request(api, 6)
    body["messages"].append({"role": "user", "content": "no, otherwise"})
    size = {part.hash: part.size for part in turn_of(api, body, 0, (0, 0, 0)).prompt.parts}
    same = sum(size.values()) - len("no, otherwise")
    read = 40_000 * same // sum(size.values())
    turn = turn_of(api, marked(body), 9, (40_000 - read, read, 0))
    found = verdict_on(turn, [first])
    assert found is not None
    assert (found.missed, found.expected) == (0, read)
    assert found.change is not None
    nothing = verdict_on(turn_of(api, marked(body), 9, (0, 0, 40_000)), [first])
    assert nothing is not None
    assert (nothing.cause, nothing.missed) == ("messages", read)


def test_nobody_is_blamed_for_a_beginning() -> None:
    """First turns, summaries, other conversations and turns that go on by an id have no blame."""
    api = ANTHROPIC
    first = turn_of(api, request(api, 3), 0, FIRST[api])

    def cause(turn: Any, *earlier: Any) -> Any:
        found = verdict_on(turn, earlier or (first,))
        assert found is not None
        assert found.missed == 0 or found.cause in ("provider", "ttl")
        return found.cause

    alone = verdict_on(turn_of(api, request(api, 4), 9, AFTER[api]), [])
    assert alone is not None
    assert (alone.cause, alone.missed) == ("first_turn", 0)
    short = {**request(api, 0), "messages": [{"role": "user", "content": "In short: …"}]}
    assert cause(turn_of(api, short, 9, (900, 0, 9_000))) == "compaction"
    again = turn_of(api, request(api, 4), 9, AFTER[api], request_class="compaction")
    assert cause(again) == "compaction"
    assert cause(turn_of(api, short, 20, (900, 0, 39_000)), first, again) == "compaction"
    aside = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "a title"}]}
    assert cause(turn_of(api, aside, 9, (45_000, 0, 0))) == "first_turn"
    late = turn_of(api, request(api, 3), 8, FIRST[api], ttfb_ms=5_000.0)
    assert cause(turn_of(api, request(api, 3), 9, AFTER[api]), late) == "first_turn"
    thread = {"model": api.model, "messages": [{"role": "user", "content": "go on"}]}
    thread |= {"thread": {"type": "continue"}}
    named = turn_of(api, request(api, 3), 0, FIRST[api], message_id="msg_1")
    goes_on = turn_of(api, thread, 9, AFTER[api], previous_message_id="msg_1")
    assert cause(goes_on, named) == "provider"
    told = turn_of(RESPONSES, request(RESPONSES, 3), 0, FIRST[RESPONSES], message_id="resp_1")
    body = {**request(RESPONSES, 0), "input": [{"role": "user", "content": "go on"}]}
    more = {"previous_message_id": "resp_1"}
    assert cause(turn_of(RESPONSES, body, 9, AFTER[RESPONSES], **more), told) == "provider"
    failed = turn_of(api, request(api, 4), 9, AFTER[api], status_code=529)
    assert verdict_on(failed, [first]) is None


def test_a_call_in_between_is_passed_over() -> None:
    """The turn before is the one that says the same, not the last one."""
    api = ANTHROPIC
    first = turn_of(api, request(api, 3), 0, FIRST[api])
    title = {"model": "claude-haiku-4-5", "system": [{"type": "text", "text": "Write a title."}]}
    title |= {"messages": request(api, 3)["messages"][:1]}
    aside = turn_of(api, title, 5, (900, 0, 0))
    found = verdict_on(aside, [first])
    assert found is not None
    assert found.missed == 0
    found = verdict_on(turn_of(api, request(api, 4), 9, AFTER[api]), [first, aside])
    assert found is not None
    assert (found.before, found.cause) == (first, "provider")


def test_without_content_tokens_and_time_speak() -> None:
    """A miss, and a time to live that passed, show in the row; all else is said to be unknown."""
    first = turn_of(ANTHROPIC, None, 0, FIRST[ANTHROPIC])
    for at, cause in ((20, "unknown"), (302, "ttl")):
        found = verdict_on(turn_of(ANTHROPIC, None, at, AFTER[ANTHROPIC]), [first])
        assert found is not None
        assert (found.cause, found.missed) == (cause, 50_000)
        assert found.as_json(None)["evidence"] == "usage"
    found = verdict_on(turn_of(ANTHROPIC, None, 20, (100, 0, 9_000)), [first])
    assert found is not None
    assert found.cause == "compaction"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            {
                "message": {
                    "diagnostics": {
                        "cache_miss_reason": {
                            "type": "tools_changed",
                            "cache_missed_input_tokens": 12,
                        }
                    }
                }
            },
            {"diagnostics": {"reason": "tools_changed", "tokens_missed": 12}},
        ),
        ({"diagnostics": {"cache_miss_reason": None}}, {"diagnostics": None}),
        ({"diagnostics": None}, {}),
        (
            {
                "response": {
                    "prompt_cache_diagnostics": {
                        "type": "cache_miss",
                        "reason": "tools_changed",
                        "cache_missed_tokens": 7,
                    }
                }
            },
            {"diagnostics": {"reason": "tools_changed", "tokens_missed": 7}},
        ),
        ({"prompt_cache_diagnostics": {"type": "cache_hit"}}, {"diagnostics": None}),
        ({"context_management": {"applied_edits": [{}]}}, {"context_edited": True}),
        ({"context_management": {"applied_edits": []}, "message": 5}, {}),
    ],
)
def test_the_provider_is_the_other_witness(document: Json, told: Json) -> None:
    """What an answer says of its cache is read, and shown beside our verdict."""
    assert diagnostics([document, None, []]) == told
    turn = turn_of(ANTHROPIC, request(ANTHROPIC, 3), 0, FIRST[ANTHROPIC])
    turn.facts["cache"] = told
    found = verdict_on(turn, [])
    assert found is not None
    nothing = {"reason": None, "tokens_missed": None}
    expected = told["diagnostics"] or nothing if "diagnostics" in told else None
    assert found.as_json(None)["provider"] == expected


def test_only_an_answer_that_may_tell_is_parsed_again() -> None:
    """The names are looked for in the bytes."""
    assert may_tell(b'{"diagnostics":{"cache_miss_reason":null}}')
    assert not may_tell(b'{"usage":{}}')


def test_what_the_provider_took_out_is_said() -> None:
    """Where the client let it take tool results out, that is the cause."""
    first = turn_of(ANTHROPIC, request(ANTHROPIC, 3), 0, FIRST[ANTHROPIC])
    turn = turn_of(ANTHROPIC, request(ANTHROPIC, 4), 9, AFTER[ANTHROPIC])
    turn.facts["cache"] = {"context_edited": True}
    found = verdict_on(turn, [first])
    assert found is not None
    assert found.cause == "context_edited"


def test_another_tariff_scales_the_cost() -> None:
    """A bill that was half of the usual (a batch) halves the cost; without one nobody knows it."""
    half = {"cost_input_usd": Decimal("0.00025"), "cost_cache_usd": Decimal("0.1575")}
    found = judged(ANTHROPIC, request(ANTHROPIC, 4), **half)
    assert found.cost(PRICING.prices(found.turn.row)) == COSTS[ANTHROPIC] / 2
    found = judged(ANTHROPIC, request(ANTHROPIC, 4), cost_input_usd=None)
    assert found.cost(PRICING.prices(found.turn.row)) is None


def test_an_hour_costs_more_to_write() -> None:
    """What is written for an hour is counted at that price: half of it here."""
    costs = {"cost_input_usd": Decimal("0.0005"), "cost_cache_usd": Decimal("0.4095")}
    found = judged(ANTHROPIC, request(ANTHROPIC, 4), cache_write_1h_tokens=25_200, **costs)
    # 50,000 x ((6.25 + 10) / 2 - 0.50) / 1,000,000
    assert found.cost(PRICING.prices(found.turn.row)) == Decimal("0.38125")


def test_rules_are_checked_when_they_are_loaded() -> None:
    """A word that nobody knows, a pattern that is none, or an order that is wrong is refused."""
    text = (rules.Path(rules.__file__).parent / "rules.toml").read_text(encoding="utf-8")
    assert rules.load(text) == rules.RULES
    for old, new in (
        ('cause = "model"', 'cause = "mood"'),
        ("look_back = 20", "look_bach = 20"),
        ('checked = "2026-11"', 'checked = "lately"'),
        ("    { seconds = 300 },\n]", "]"),
        ('setting = "model", cause = "model", section = "tools"',
         'setting = "model", cause = "model", section = "messages"'),
        ("'claude-opus-4-7'", "'claude-opus-4-7('"),
    ):  # fmt: skip
        assert old in text
        with pytest.raises((ValueError, rules.re.error)):
            rules.load(text.replace(old, new, 1))
    said = {each.cause for one in rules.RULES for each in one.changes}
    assert said <= set(CAUSES)

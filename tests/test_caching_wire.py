"""Verdicts and rents of a session that went over the wire, asked for in every way there is."""

from __future__ import annotations

import copy
import json

from caching_support import ANTHROPIC, request
from click.testing import CliRunner
from conftest import Server
from scripted import ScriptedUpstream, wait_until

from ccproxy_flask.cli import main

HEADERS = {
    "content-type": "application/json",
    "anthropic-version": "2026-10-21",
    "user-agent": "claude-cli/2.1.273 (external, cli)",
    "x-claude-code-session-id": "session-of-caches",
    "anthropic-beta": "cache-diagnosis-2026-04-07",
}
USAGES = [(100, 0, 50_000), (100, 0, 50_400), (100, 50_400, 400), (100, 0, 51_000)]
"""Uncached, read, written: the tools change before the second, nothing before the last."""
MISSES = [None, 0.2875, None, 0.2921]
"""50,000 x (6.25 - 0.5) / 1,000,000, and 50,800 times that."""


def answers(*usages: tuple[int, int, int]) -> list[bytes]:
    """Return streams of the Messages API that used these tokens; the second says why."""
    found = []
    for number, (uncached, read, written) in enumerate(usages):
        usage = {"input_tokens": uncached, "output_tokens": 5, "cache_read_input_tokens": read}
        usage |= {"cache_creation_input_tokens": written}
        reason = {"type": "tools_changed", "cache_missed_input_tokens": 49_000}
        told = {"diagnostics": {"cache_miss_reason": reason}} if number == 1 else {}
        message = {"id": f"msg_{number}", "type": "message", "model": "claude-opus-4-5"}
        message |= {"content": [], "usage": usage, **told}
        events = [{"type": "message_start", "message": message}, {"type": "message_stop"}]
        lines = (f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
        found.append("".join(lines).encode())
    return found


def a_session(server: Server, upstream: ScriptedUpstream) -> list[str]:
    """Do four turns; return the ids of their requests once all of them is kept."""
    rest = iter(answers(*USAGES))

    def script(talk):
        talk.start_stream()
        talk.chunk(next(rest))
        talk.end_stream()

    upstream.script = script
    ids = []
    for number in range(len(USAGES)):
        body = request(ANTHROPIC, number)
        if number:
            body["tools"] = copy.deepcopy(body["tools"])
            body["tools"][1]["description"] += "changed"
        sent = json.dumps(body | {"stream": True}).encode()
        _, headers, _ = server.request("POST", "/v1/messages?beta=true", sent, HEADERS)
        ids.append(headers["x-ccproxy-request-id"])
    for path in (f"/logs/entries/{one}{what}" for one in ids for what in ("", "/content")):
        wait_until(lambda path=path: server.request("GET", path)[0] == 200, 20)
    return ids


def test_a_session_knows_its_misses_and_its_rent(
    server: Server, upstream: ScriptedUpstream
) -> None:
    """Each turn has its verdict, both witnesses and the cost by hand; sums are those of turns."""
    ids = a_session(server, upstream)
    found = server.get_json("/logs/sessions/session-of-caches")
    turns = found["tree"][0]["turns"]
    verdicts = [turn["cache_verdict"] for turn in turns]
    assert [each["cause"] for each in verdicts] == ["first_turn", "tools", None, "provider"]
    assert [each["is_miss"] for each in verdicts] == [False, True, False, True]
    assert [each["cost_usd"] for each in verdicts] == MISSES
    changed = {"section": "tools", "index": 1, "name": "mcp__files__read", "change": "changed"}
    assert verdicts[1]["changed"] == changed
    assert verdicts[1]["provider"] == {"reason": "tools_changed", "tokens_missed": 49_000}
    assert verdicts[3]["provider"] is None
    assert (verdicts[1]["tokens_missed"], verdicts[1]["tokens_expected"]) == (50_000, 50_000)
    assert [each["previous_request_id"] for each in verdicts] == [None, *ids[:-1]]
    assert found["cache_misses"] == {"tools": 1, "provider": 1}
    assert found["cache_miss_cost_usd"] == 0.5796
    assert found["judged_requests"] == 4

    rent = found["rent"]
    rows = [server.get_json(f"/logs/entries/{one}") for one in ids]
    bill = sum(row["cost_input_usd"] + row["cost_cache_usd"] for row in rows)
    assert abs(rent["input_cost_usd"] - bill) < 1e-9
    assert abs(sum(rent["parts"].values()) - bill) < 1e-9
    assert {each["server"] for each in rent["servers"]} == {"", "files"}
    assert [each["name"] for each in rent["results"]] == ["Bash"] * 3
    assert rent["results"][0]["request_id"] == ids[1]

    part = server.get_json("/logs/sessions/session-of-caches", limit=1, offset=1)
    [[turn]] = [agent["turns"] for agent in part["tree"]]
    assert turn["cache_verdict"] == verdicts[1]
    assert part["rent"] == rent
    for one, verdict in zip(ids, verdicts, strict=True):
        alone = server.get_json(f"/logs/entries/{one}/cache")
        assert (alone["request_id"], alone["cache_verdict"]) == (one, verdict)
    for wrong in ("nobody", "x" * 300):
        assert server.request("GET", f"/logs/entries/{wrong}/cache")[0] == 404
    assert server.request("GET", f"/logs/entries/{ids[0]}/cache?why=1")[0] == 422


def test_the_command_line_says_why(server: Server, upstream: ScriptedUpstream) -> None:
    """`show` says it of a request, `session` of each turn, with what it came to and the rent."""
    ids = a_session(server, upstream)

    def told(*argv: str) -> str:
        found = CliRunner().invoke(main, [*argv, "--url", server.url])
        assert found.exit_code == 0, found.output
        return found.output

    shown = told("show", ids[1])
    assert "cache missed: tools (mcp__files__read changed), 50,000 tokens, $0.2875" in shown
    assert "the provider says: tools_changed, 49,000 tokens" in shown
    assert "cache missed: the provider's side, 50,800 tokens" in told("show", ids[3])
    assert "cache missed" not in told("show", ids[2])
    text = told("session", "session-of-caches")
    assert "cache misses: tools 1, provider 1; they cost $0.5796" in text
    assert "rent of $" in text
    assert "files" in text
    [line] = [line for line in text.splitlines() if ids[1] in line]
    assert "tools" in line

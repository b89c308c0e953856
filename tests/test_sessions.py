"""Sessions over the wire, as Claude Code and Codex send them."""

from __future__ import annotations

import itertools
import json

import pytest
import zstandard
from click.testing import CliRunner
from conftest import ROOT
from recording_support import make_record
from scripted import wait_until

from ccproxy_flask.cli import main
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.record import COLUMNS, to_json
from ccproxy_flask.store.base import Page
from ccproxy_flask.store.duckdb import DuckDBStore

JSON = {"content-type": "application/json"}
CLAUDE = {
    **JSON,
    "user-agent": "claude-cli/2.1.273 (external, cli)",
    "anthropic-version": "2026-10-21",
    "x-claude-code-session-id": "session-of-claude",
}
CODEX = {
    **JSON,
    "user-agent": "codex_cli_rs/0.144.6 (Ubuntu 24.4.0; x86_64) xterm",
    "originator": "codex_cli_rs",
    "session-id": "thread-0",
    "thread-id": "thread-0",
}
USAGE = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90}
NEW = COLUMNS[COLUMNS.index("client") :]


def message(number, **more):
    """Return an answer of the Messages API."""
    return {"id": f"msg_{number}", "type": "message", "model": "claude-opus-4-5",
            "stop_reason": "end_turn", "usage": USAGE, "content": [], **more}  # fmt: skip


def said(text, *blocks):
    """Return a message of the person."""
    return {"role": "user", "content": [{"type": "text", "text": text}, *blocks]}


TOOLS = [
    {"name": "Bash", "description": "b" * 400, "input_schema": {}},
    {"name": "mcp__files__read", "description": "r" * 900, "input_schema": {}},
    {"name": "mcp__files__list", "description": "l" * 900, "input_schema": {}},
]


def answering(*answers):
    """Return a script that answers the *answers*, one after the other."""
    rest = itertools.chain(answers, itertools.repeat({}))
    return lambda talk: talk.answer(json.dumps(next(rest)).encode())


def ask(server, path, headers, method="POST", **body):
    """Send a request and return its id."""
    sent = json.dumps({"model": "m", **body}).encode() if method == "POST" else None
    return server.request(method, path, sent, headers)[1]["x-ccproxy-request-id"]


def claude_code(server, upstream):
    """Do what Claude Code does in a session; return the ids of its requests."""
    upstream.script = answering(message(1), message(2), message(3), {"input_tokens": 3})
    hint = "x-claude-code-request-class"
    agent = {"x-claude-code-agent-id": "agent-1", hint: "subagent"}
    tools = {"x-claude-code-prev-tool-durations": "Bash=742;mcp__files__read=9"}
    return [
        ask(server, "/api/hello", CLAUDE, "HEAD"),
        ask(
            server,
            "/v1/messages?beta=true",
            {**CLAUDE, hint: "main"},
            system="be " + "brief " * 50,
            tools=TOOLS,
            messages=[said("<system-reminder>today</system-reminder>"), said("mend the gate")],
        ),
        ask(server, "/v1/messages?beta=true", {**CLAUDE, **agent}),
        ask(server, "/v1/messages?beta=true", {**CLAUDE, hint: "main", **tools}),
        ask(server, "/v1/messages/count_tokens", CLAUDE),
    ]


def test_claude_code_says_who_and_what_for(server, upstream):
    """Client, class, agent, conversation and times of tools are columns; probes have a class."""
    claude_code(server, upstream)
    hello, first, agent, second, count = server.records(5)
    assert {row["client"] for row in (hello, first, agent, second, count)} == {"claude-code"}
    assert (first["client_version"], first["transport"]) == ("2.1.273", "http")
    classes = [row["request_class"] for row in (hello, first, agent, second, count)]
    assert classes == ["probe", "main", "subagent", "main", "count_tokens"]
    assert [row["message_id"] for row in (first, agent, second)] == ["msg_1", "msg_2", "msg_3"]
    session = "session-of-claude"
    conversations = [row["conversation_id"] for row in (hello, first, agent, second, count)]
    assert conversations == [None, session, f"{session}/agent-1", session, None]
    assert [row["tools_ms"] for row in (first, second)] == [None, 751.0]


def flat(agents):
    """Return (agent, parent, classes of turns) of a tree, from the top down."""
    return [
        row
        for agent in agents
        for row in [
            (
                agent["agent_id"],
                agent["parent_agent_id"],
                [turn["request_class"] for turn in agent["turns"]],
            ),
            *flat(agent["agents"]),
        ]
    ]


def test_a_session_has_totals_turns_and_agents(server, upstream):
    """Sums are those of its requests, turns stand with their agent, a context is shared out."""
    ids = claude_code(server, upstream)
    server.records(5)
    wait_until(lambda: server.request("GET", f"/logs/entries/{ids[1]}/content")[0] == 200, 10)
    [session] = server.get_json("/logs/sessions")["sessions"]
    assert session["session_id"] == "session-of-claude"
    assert (session["client"], session["client_version"]) == ("claude-code", "2.1.273")
    counts = [session[name] for name in ("requests", "turns", "agents", "errors")]
    assert counts == [5, 3, 1, 0]  # the 404 of the probe is none of its errors
    assert (session["tokens_input"], session["cache_read_tokens"]) == (30, 270)
    assert session["cache_hit"] == 0.9
    assert session["cost_usd"] > 0
    assert session["models"] == ["claude-opus-4-5", "m"]
    assert session["first_words"] == "mend the gate"

    found = server.get_json("/logs/sessions/session-of-claude")
    assert {name: found[name] for name in session} == session
    main, agent = flat(found["tree"])
    assert main == (None, None, ["probe", "main", "main", "count_tokens"])
    assert agent == ("agent-1", None, ["subagent"])
    first = found["tree"][0]["turns"][1]
    assert (first["request_id"], first["context_tokens"]) == (ids[1], 100)
    context = first["context"]
    assert (
        sum(context["tools"].values())
        + sum(size for name, size in context.items() if name != "tools")
        == 100
    )
    assert context["tools"]["files"] > context["tools"][""] > 0
    assert context["system"] > context["messages"] > 0
    page = server.get_json("/logs/sessions/session-of-claude", limit=1, offset=2)
    assert flat(page["tree"]) == [agent]


def test_sessions_are_paged_and_sorted(server, upstream):
    """Pages go on where the one before ended, and show no session that began meanwhile."""
    upstream.script = lambda talk: talk.answer(json.dumps(message(1)).encode())
    for number in range(3):
        for _ in range(number + 1):
            ask(server, "/v1/messages", {**CLAUDE, "x-claude-code-session-id": f"s-{number}"})
    server.records(6)
    asked = {"limit": 2, "order_by": "turns"}
    first = server.get_json("/logs/sessions", **asked)
    assert [each["session_id"] for each in first["sessions"]] == ["s-2", "s-1"]
    assert (first["total_count"], first["has_more"]) == (3, True)
    ask(server, "/v1/messages", {**CLAUDE, "x-claude-code-session-id": "later"})
    server.records(7)
    second = server.get_json("/logs/sessions", **asked, cursor=first["next_cursor"])
    assert [each["session_id"] for each in second["sessions"]] == ["s-0"]
    assert (second["total_count"], second["next_cursor"]) == (3, None)
    one = server.get_json("/logs/sessions", session_id="s-1", client="claude-code")["sessions"]
    assert [each["turns"] for each in one] == [2]
    old = server.get_json("/logs/sessions", cursor="0~0", start_time=1795226400)
    assert (old["sessions"], old["has_more"]) == ([], False)
    assert server.request("GET", "/logs/sessions/nobody")[0] == 404
    assert server.request("GET", f"/logs/sessions/{'x' * 300}")[0] == 404
    for wrong in ("order_by=model", "cursor=x", "limit=501", "hours=0", "model="):
        assert server.request("GET", f"/logs/sessions?{wrong}")[0] == 422, wrong


def test_answers_that_name_each_other_are_a_conversation(server, upstream):
    """Without a session, a chain is named by its first answer, on whichever worker it was."""
    ids = iter(range(1, 9))
    upstream.script = lambda talk: talk.answer(
        json.dumps({"id": f"resp_{next(ids)}", "model": "gpt-5.6", "status": "completed"}).encode()
    )
    rows = []
    for before in (None, "resp_1", "resp_2", None, "resp_of_old"):
        more = {"previous_response_id": before} if before else {}
        ask(server, "/v1/responses", JSON, input="go on", **more)
        rows = server.records(len(rows) + 1)  # as a model takes longer than the recorder
    assert [row["conversation_id"] for row in rows] == [
        *("resp_1", "resp_1", "resp_1", "resp_4", "resp_of_old")
    ]
    found = server.get_json("/logs/sessions/resp_1")
    assert (found["session_id"], found["turns"]) == ("resp_1", 3)
    listed = server.get_json("/logs/sessions", order_by="turns")["sessions"]
    assert listed[0]["session_id"] == "resp_1"


def test_the_command_line_shows_sessions(server, upstream):
    """`sessions` is a table or JSON; `session` shows its agents with their turns."""
    claude_code(server, upstream)
    server.records(5)

    def told(*argv):
        found = CliRunner().invoke(main, [*argv, "--url", server.url])
        assert found.exit_code == 0, found.output
        return found.output

    assert "session-of-claude" in told("sessions", "--since", "1h")
    [session] = json.loads(told("sessions", "--format", "json", "--class", "main"))
    assert session["turns"] == 2
    assert json.loads(told("sessions", "--format", "jsonl"))["turns"] == 3
    text = told("session", "session-of-claude")
    assert "main > agent-1" in text
    assert "context of the last turn" in text
    assert json.loads(told("session", "session-of-claude", "--json"))["turns"] == 3
    assert "more requests" in told("session", "session-of-claude", "--limit", "1")
    missing = CliRunner().invoke(main, ["session", "nobody", "--url", server.url])
    assert (missing.exit_code, "no session" in missing.output) == (1, True)


def test_codex_says_who_and_what_for(server, upstream):
    """The upgrade that is refused is a probe; a child thread is an agent of the session."""
    upstream.script = answering({"id": "resp_1", "model": "gpt-5.6", "status": "completed"})
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    ask(server, "/v1/responses", {**CODEX, **upgrade, "sec-websocket-key": "x" * 24}, "GET")
    ask(server, "/v1/responses", CODEX, input="hello")
    child = {"thread-id": "thread-1", "x-codex-parent-thread-id": "thread-0"}
    ask(server, "/v1/responses", {**CODEX, **child, "x-openai-subagent": "collab_spawn"})
    refused, turn, agent = server.records(3)
    assert (refused["status_code"], refused["request_class"]) == (426, "probe")
    assert (turn["client"], turn["client_version"]) == ("codex", "0.144.6")
    assert (turn["request_class"], turn["message_id"]) == ("main", "resp_1")
    assert (turn["session_id"], turn["conversation_id"]) == ("thread-0", "thread-0")
    assert (agent["request_class"], agent["agent_id"]) == ("subagent", "thread-1")
    assert (agent["conversation_id"], agent["parent_agent_id"]) == ("thread-0/thread-1", None)


def test_what_is_no_generation_can_be_left_out(server, upstream):
    """Totals count all requests as they did, and generations alone where that is asked for."""
    claude_code(server, upstream)
    upstream.script = lambda talk: talk.answer(b"", status="404 Not Found")
    ask(server, "/openai/robots.txt", {"user-agent": "Mozilla/5.0"}, "GET")
    server.records(6)
    everything = server.get_json("/logs/analytics")["summary"]
    assert (everything["total_requests"], everything["total_error_requests"]) == (6, 2)
    generated = server.get_json("/logs/analytics", generation="true")["summary"]
    assert (generated["total_requests"], generated["total_error_requests"]) == (3, 0)
    rest = server.get_json("/logs/query", generation="false")["results"]
    assert [row["request_class"] for row in rest] == ["probe", "count_tokens", "probe"]
    asked = {"client": "claude-code", "request_class": "!count_tokens,!probe"}
    assert server.get_json("/logs/query", **asked)["count"] == 3
    conversation = "session-of-claude/agent-1"
    assert server.get_json("/logs/query", conversation_id=conversation)["count"] == 1
    csv = server.request("GET", "/logs/export?request_class=subagent&transport=http")[2]
    assert csv.count(b"\n") == 2


@pytest.mark.parametrize("wrong", ["request_class=nonsense", "transport=smoke", "generation=2"])
def test_wrong_values_are_named(server, wrong):
    """A word that no row can have is refused by name."""
    status, _, body = server.request("GET", f"/logs/query?{wrong}")
    assert status == 422
    assert json.loads(body)["detail"][0]["loc"] == ["query", wrong.partition("=")[0]]


def test_no_key_is_in_the_new_columns(server, upstream):
    """Neither the key of a request, nor what looks like one, is kept in the place of an id."""
    key, other = "sk-ant-api03-goldfinch0123456789", "4f3c2b1a09f8e7d6c5b4a39281706f5e"
    upstream.script = answering({"id": key, "model": "m"}, message(1, id=f"msg_{other}"))
    sent = {**JSON, "user-agent": f"{other}/{other}", "x-session-id": key, "thread-id": other}
    ask(server, "/v1/responses", {**sent, "authorization": f"Bearer {other}"},
        previous_response_id=key)  # fmt: skip
    ask(server, "/v1/messages", {**JSON, "x-api-key": other}, thread={"previous_message_id": other})
    for row in server.records(2):
        assert "goldfinch" not in json.dumps(row)
        assert other not in json.dumps(row)


def test_a_database_of_the_version_before_is_opened(tmp_path):
    """Its rows are there, what is new is null in them, and new rows stand beside them."""
    packed = (ROOT / "tests" / "data" / "metrics-0.1.0.duckdb.zst").read_bytes()
    path = tmp_path / "metrics.duckdb"
    path.write_bytes(zstandard.decompress(packed))
    store = DuckDBStore(path)
    try:
        store.append([to_json(make_record(9, client="codex", request_class="main"))], [], {})
        rows = store.entries(LogFilter(), Page(order_desc=False)).rows
        assert [row["session_id"] for row in rows] == ["s-1", "s-1", "s-1", None]
        assert {row[name] for row in rows[:3] for name in NEW} == {None}
        assert (rows[3]["client"], rows[3]["transport"]) == ("codex", "http")
        assert store.totals(LogFilter(generation=True)).total_requests == 4
    finally:
        store.close()

"""What was said, on the command line: show, diff, search, verify, replay."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import random
import sqlite3
import subprocess
import threading
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
from click.testing import CliRunner
from scripted import wait_until
from test_cli import COMMAND, bare_environment
from test_content_wire import HEADERS, say, streamed, turn

from ccproxy_flask.cli import main
from ccproxy_flask.cli.content import content_lines, diff_lines
from ccproxy_flask.content.day_file import Exchange
from ccproxy_flask.content.replay import ReplayServer, Script
from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.record import new_request_id


@pytest.fixture
def run(server, monkeypatch):
    """Return a function that runs a command, in this process, with the shared server's settings."""
    monkeypatch.chdir(server.home)

    def run(*args):
        return CliRunner().invoke(main, args, env={**server.env, "COLUMNS": "100"})

    return run


@pytest.fixture
def session(server, upstream):
    """Two turns of a session, kept: their ids, bodies and answers."""
    upstream.script = streamed("The time ", "has come")
    bodies = [turn("of cabbages"), turn("of cabbages", "and kings\x1b[31m")]
    said = [say(server, body) for body in bodies]
    for request_id, _ in said:
        for page in ("content", ""):
            path = f"/logs/entries/{request_id}/{page}".rstrip("/")
            wait_until(lambda path=path: server.request("GET", path)[0] == 200)
    return [
        (request_id, body, answer) for (request_id, answer), body in zip(said, bodies, strict=True)
    ]


def test_show_prints_what_was_said_parsed_raw_and_as_json(run, session):
    """Each form of an exchange comes out; raw bodies byte for byte."""
    request_id, body, answer = session[1]
    shown = run("show").stdout
    assert f"{request_id}  " in shown
    for text in ("POST /v1/messages", "of cabbages", "The time has come", "verified ok"):
        assert text.replace("verified ", "") in shown
    assert "\x1b" not in shown
    assert json.loads(run("show", request_id, "--json").stdout)["verified"]["request"] == "ok"
    assert run("show", request_id, "--raw", "request").stdout_bytes == body
    assert run("show", request_id, "--raw", "response").stdout_bytes == answer
    assert json.loads(run("show", request_id, "--raw", "events").stdout)["events"]
    missing = run("show", "01930000-0000-7000-8000-000000000000")
    assert (missing.exit_code, "CAPTURE__CONTENT" in missing.stderr) == (1, True)


def test_diff_and_search_find_what_is_new(run, session):
    """The second turn only adds; the search finds the turn that brought the words."""
    told = run("diff", session[1][0])
    assert "nothing but additions" in told.stdout
    assert "appended messages[1] (user)" in told.stdout
    assert json.loads(run("diff", session[1][0], "--with", session[0][0], "--json").stdout)
    hits = [
        json.loads(line) for line in run("search", "kings", "--format", "jsonl").stdout.splitlines()
    ]
    assert [hit["request_id"] for hit in hits] == [session[1][0]]
    assert session[0][0] in run("search", "cabbages").stdout
    assert run("search", "walrus").stdout.split() == ["time", "part", "text", "request"]


def test_verify_tells_what_is_damaged(run, session, server):
    """Whole bodies are ok and end with 0; a damaged one is named, and ends with 1."""
    told = run("verify", "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["bodies"]["ok"] >= 4
    assert found["damaged"] == []
    assert run("verify", "--since", "nonsense").exit_code == 2
    [path] = (server.database.parent / "content").glob("*.sqlite")
    request_id = session[0][0]
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE exchange SET facts = ? WHERE request_id = ?", (random.randbytes(9), request_id)
        )
    db.close()
    told = run("verify", "--since", "1h")
    assert told.exit_code == 1
    counts = [
        json.loads(run("verify", "--since", since, "--json").stdout)["not_kept"]
        for since in ("1h", "2100-01-01")
    ]
    rows = server.get_json("/logs/entries", content="dropped")["total_count"]
    assert counts == [rows, 0]
    assert f"damaged: {request_id}" in told.stdout


def test_replay_serves_a_session_as_its_upstream_did(server, session):
    """The requests of a session get their answers byte for byte, by their bodies, in any order."""
    with replaying(server, "session-of-content") as port:
        for _, body, answer in reversed(session):
            assert sent(port, "/v1/messages", body) == (200, answer)
        assert sent(port, "/v1/messages", b"{}")[0] == 404  # all were served
        assert sent(port, "/v1/messages", session[0][1]) == (200, session[0][2])
        assert sent(port, "/v1/models", b"")[0] == 404


CHUNKS = [
    {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.6",
     "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    for text in ("The time ", "has come")
]  # fmt: skip


def claude_says(url):
    """Ask as Anthropic's SDK does; return the request's id and the words of the stream."""
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:
        answer = client.messages.with_raw_response.create(
            model="claude-test", max_tokens=9, stream=True, messages=QUESTION
        )
        events = [each for each in answer.parse() if each.type == "content_block_delta"]
        words = "".join(each.delta.text for each in events)
        return answer.headers.get("x-ccproxy-request-id"), words


def gpt_says(url):
    """Ask as OpenAI's SDK does; return the request's id and the words of the stream."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-5.6", stream=True, messages=QUESTION
        )
        words = "".join(each.choices[0].delta.content or "" for each in answer.parse())
        return answer.headers.get("x-ccproxy-request-id"), words


QUESTION = [{"role": "user", "content": "what time is it?"}]


@pytest.mark.parametrize("ask", [claude_says, gpt_says])
def test_an_sdk_gets_from_a_replay_what_it_got_then(ask, server, upstream):
    """Real clients, the same call: once through the proxy, once against what was kept."""
    upstream.script = streamed("The time ", "has come", kind="text_delta")
    if ask is gpt_says:
        upstream.script = chunked(CHUNKS)
    request_id, words = ask(server.url)
    assert words == "The time has come"
    path = f"/logs/entries/{request_id}/content"
    wait_until(lambda: server.request("GET", path)[0] == 200)
    with replaying(server, request_id) as port:
        assert ask(f"http://127.0.0.1:{port}") == (None, words)


def chunked(events):
    """Return a script that streams *events* without names, as chats do."""

    def script(talk):
        talk.start_stream()
        for event in events:
            talk.chunk(f"data: {json.dumps(event)}\n\n".encode())
        talk.chunk(b"data: [DONE]\n\n")
        talk.end_stream()

    return script


@contextlib.contextmanager
def replaying(server, name):
    """Run `ccproxy-flask replay`; yield its port."""
    process = subprocess.Popen(
        [*COMMAND, "replay", name],
        env=server.env,
        cwd=server.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield urlsplit(process.stdout.readline().strip()).port
    finally:
        process.kill()
        process.communicate()


def sent(port, path, body):
    """Send a request and return the status and body of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, HEADERS)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_commands_say_what_there_is_not(tmp_path, monkeypatch):
    """Without anything kept, verify and replay end with 1 and one line."""
    monkeypatch.chdir(tmp_path)
    for args in (("verify",), ("replay", "a-session")):
        told = CliRunner().invoke(main, args, env=bare_environment(tmp_path))
        assert told.exit_code == 1
        assert "nothing is kept" in told.stderr


def exchange(body, response, times, encoding=""):
    """Return a kept exchange of one request and its answer."""
    headers = [["content-type", "text/event-stream"], ["transfer-encoding", "chunked"]]
    headers += [["content-encoding", encoding]] if encoding else []
    facts = {
        "method": "POST",
        "target": "/openai/v1/responses?x=1",
        "provider": "openai",
        "status": 200,
        "response_headers": headers,
        "request": {"sha256": body, "way": "plain"},
        "response": {"sha256": "", "way": "plain", "streams": True},
    }
    return Exchange(new_request_id(), 1, "s", facts, [b"{}"], [response], times)


def test_requests_are_matched_by_their_content_and_then_in_order(tmp_path):
    """Equal requests get their own answers again, others the next one; prefixes are left out."""
    store = ContentStore(tmp_path, 1 << 30, 7)
    kept = [exchange(str(n), b"%d" % n, [(0, 0)]) for n in range(3)]
    store.add(kept)
    script = Script(kept, store.exchange)
    for path in ("/v1/responses", "/openai/v1/responses"):
        assert script.answer("POST", path, b"new").pieces == [
            (0.0, b"0" if path[1] == "v" else b"1")
        ]
    assert script.answer("GET", "/v1/responses", b"") is None
    assert script.answer("POST", "/v1/responses", b"").pieces == [(0.0, b"2")]
    assert script.answer("POST", "/v1/responses", b"") is None
    store.close()


def test_a_replay_keeps_pieces_apart_and_takes_chunked_requests(tmp_path):
    """Compressed answers come as they were, piece by piece, none before its time."""
    store = ContentStore(tmp_path, 1 << 30, 7)
    said = gzip.compress(b"data: {}\n\n" * 100)
    kept = exchange("x", said, [(0, 1_000), (9, 60_000), (20, 120_000)], "gzip")
    store.add([kept])
    told: list[tuple[str, str, str | None]] = []
    server = ReplayServer(Script([kept], store.exchange), on_request=lambda *it: told.append(it))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/v1/responses", iter([b"a", b"b"]), encode_chunked=True)
        answer = connection.getresponse()
        assert answer.getheader("content-encoding") == "gzip"
        pieces = [answer.read1() for _ in range(3)]
        assert pieces == [said[:9], said[9:20], said[20:]]
        connection.close()
    finally:
        server.close()
        thread.join()
        store.close()
    assert told == [("POST", "/v1/responses", kept.request_id)]


def test_texts_that_would_steer_the_terminal_do_not(tmp_path):
    """Whatever was said, the lines hold no control characters of it; long texts are cut."""
    evil = "a\x1b]0;x\x07\nb" * 20
    found = {
        **dict.fromkeys(("method", "target", "request_id", "status", "api"), evil),
        "at": 0,
        "request": {"bytes": 1},
        "response": {"bytes": 1, "secrets": ["openai_key"]},
        "verified": {"request": "ok", "response": "scrubbed"},
        "tools": [{"name": evil, "bytes": 3}],
        "system": [{"type": "text", "text": evil}],
        "messages": [{"role": evil, "blocks": [{"type": "tool_use", "name": evil, "input": evil}]}],
        "answer": {"model": evil, "stop": None, "blocks": [{"type": "image", "bytes": 7}]},
        "error": None,
    }
    lines = list(content_lines(found, 3))
    part = {"section": "tools", "index": 0, "change": "changed", "name": evil}
    part |= {"before": evil, "after": evil}
    changed = {
        "before": "1",
        "after": "2",
        "first": part,
        "parts": [part],
        "settings": {"x": [evil, 1]},
    }
    lines += diff_lines(changed)
    assert any("18 more lines" in line for line in lines)
    assert not any("\x07" in line or "\n" in line or "\x1b]" in line for line in lines)

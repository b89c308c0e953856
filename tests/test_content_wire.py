"""Content on its way: from a client through worker and recorder into files, and back."""

import gzip
import http.client
import json
import os
import signal
import threading
import time

import pytest
from conftest import Server
from scripted import wait_until

KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
HEADERS = {
    "content-type": "application/json",
    "x-api-key": KEY,
    "x-claude-code-session-id": "session-of-content",
}


def turn(*texts, **more):
    """Return the body of a turn of a conversation."""
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "claude-test", "messages": messages, **more}).encode()


def streamed(*texts, kind=None):
    """Return a script that streams *texts* as an answer, one event each; of a *kind* of delta."""
    typed = {} if kind is None else {"type": kind}

    def script(talk):
        talk.start_stream()
        for event in (
            {"type": "message_start", "message": {"id": "msg_1", "model": "claude-test"}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"text": text} | typed}
                for text in texts
            ),
        ):
            talk.chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        talk.end_stream()

    return script


def say(server, body, **headers):
    """Send a request, and return its id and the answer's body."""
    _, named, answer = server.request("POST", "/v1/messages", body, HEADERS | headers)
    return named["x-ccproxy-request-id"], answer


def content(server, request_id, path="content", **query):
    """Wait for what was said, and return it."""
    asked = "&".join(f"{name}={value}" for name, value in query.items())

    def found():
        status, _, body = server.request("GET", f"/logs/entries/{request_id}/{path}?{asked}")
        return body if status == 200 else None

    return wait_until(found, 10)


def test_what_was_said_can_be_read(server, upstream):
    """Request and answer are shown parsed, byte for byte, and event by event with times."""
    upstream.script = streamed("The time ", "has come")
    body = turn("the walrus said", system="be brief")
    request_id, answer = say(server, body)
    found = json.loads(content(server, request_id))
    assert found["system"] == [{"type": "text", "text": "be brief"}]
    assert found["messages"][0]["blocks"] == [{"type": "text", "text": "the walrus said"}]
    assert found["answer"]["blocks"] == [{"type": "text", "text": "The time has come"}]
    assert found["verified"] == {"request": "ok", "response": "ok"}
    assert content(server, request_id, raw="request") == body
    assert content(server, request_id, raw="response") == answer
    events = json.loads(content(server, request_id, raw="events"))
    assert events["events"][0]["data"]["type"] == "message_start"
    micros = [event["micros"] for event in events["events"]]
    assert micros == sorted(micros)
    [row] = server.records(1, session_id="session-of-content")
    assert row["content"] == "kept"


def test_the_next_turn_is_compared_with_the_one_before(server, upstream):
    """What changed is named by its place; the words of a session are found."""
    upstream.script = streamed("yes")
    first, _ = say(server, turn("of cabbages", "and kings"))
    second, _ = say(server, turn("of cabbages", "and queens", "and why"))
    content(server, second)
    found = json.loads(content(server, second, "diff"))
    assert (found["before"], found["after"]) == (first, second)
    assert (found["first"]["section"], found["first"]["index"]) == ("messages", 1)
    against = json.loads(content(server, second, "diff", **{"with": second}))
    assert against["same_prefix"] is True
    hits = server.get_json("/logs/search", q="cabbages queens")["results"]
    assert hits == []  # each message is a text of its own
    hits = server.get_json("/logs/search", q="queen")["results"]
    assert [(hit["request_id"], hit["text"]) for hit in hits] == [(second, "and queens")]
    who = [hits[0][name] for name in ("part", "session_id", "model", "client")]
    assert who == ["user", "session-of-content", "claude-test", "claude-code"]


def test_search_page_shows_what_was_said(server, upstream):
    """Who said it, with the words marked and markup as text; each link is relative to the page."""
    upstream.script = streamed("a cabbage answered")
    result = {"type": "tool_result", "tool_use_id": "t", "content": "12 cabbages"}
    messages = [{"role": "user", "content": [{"type": "text", "text": "<b>cabbage</b>"}, result]}]
    headers = {"user-agent": "claude-cli/2.1.273 (external, cli)"}
    sent = json.dumps({"model": "claude-test", "messages": messages}).encode()
    request_id, _ = say(server, sent, **headers)
    content(server, request_id)
    status, _, body = server.request("GET", "/dashboard/search?q=cabbage")
    page = body.decode()
    assert status == 200
    for who, said in (
        ("User", "&lt;b&gt;<mark>cabbage</mark>&lt;/b&gt;"),
        ("Tool result", "12 <mark>cabbages</mark>"),
        ("Answer", "a <mark>cabbage</mark> answered"),
    ):
        assert f"<b>{who}</b> <bdi>{said}</bdi>" in page
    assert page.count('class="row"') == 1
    assert f'href="../dashboard/requests/{request_id}#said"' in page
    assert 'href="../dashboard/sessions/session-of-content"' in page
    assert ">claude-code<" in page
    assert 'href="/' not in page
    nothing = server.request("GET", "/dashboard/search?q=cabbage+zebra")[2]
    assert b"Nobody said that" in nothing
    assert server.request("GET", f"/dashboard/search?q={'x' * 300}&limit=nonsense")[0] == 200


def test_search_page_shows_more_on_demand(server, upstream):
    """A page that is full leads to a longer one, as far as the API goes."""
    upstream.script = streamed("the same again")
    for number in range(21):
        last, _ = say(server, turn(f"number {number}"))
    content(server, last)
    pages = {
        limit: server.request("GET", f"/dashboard/search?q=same+again&limit={limit}")[2].decode()
        for limit in (20, 50)
    }
    assert "the newest 20 texts" in pages[20]
    assert "q=same%20again&amp;limit=50" in pages[20]
    assert "Show up to" not in pages[50]
    assert pages[50].count('class="row"') == 21


def test_turns_of_a_client_that_says_nothing_are_a_conversation(server, upstream):
    """The rows of both turns have it, and it is a session with its first words."""
    upstream.script = streamed("a gate", " is mended")
    plain = {"content-type": "application/json", "user-agent": "Anthropic/Python 0.97.0"}
    messages = [{"role": "user", "content": f"mend the gate at {time.time_ns()}"}]

    def ask():
        body = json.dumps({"model": "claude-test", "messages": messages}).encode()
        return server.request("POST", "/v1/messages", body, plain)[1]["x-ccproxy-request-id"]

    first = ask()
    content(server, first)
    messages.append({"role": "assistant", "content": "a gate is mended"})
    messages.append({"role": "user", "content": "and the fence"})
    second = ask()
    shown = json.loads(content(server, second))
    assert (shown["prompt"]["previous"], shown["prompt"]["shared"]) == (first, 2)

    def told():
        rows = server.get_json("/logs/query", conversation_id=first)["results"]
        return {row["request_id"] for row in rows} == {first, second}

    wait_until(told, 20)
    session = server.get_json(f"/logs/sessions/{first}")
    assert (session["turns"], session["first_words"]) == (2, messages[0]["content"])


def test_compressed_bodies_are_read_and_kept_as_they_were(server, upstream):
    """A compressed answer is shown decoded; its bytes are verified."""
    said = json.dumps({"content": [{"type": "text", "text": "squeezed"}], "model": "m"}).encode()
    headers = (("content-type", "application/json"), ("content-encoding", "gzip"))
    upstream.script = lambda talk: talk.answer(gzip.compress(said, 5), headers=headers)
    body = gzip.compress(turn("packed"), 6, mtime=0)
    request_id, _ = say(server, body, **{"content-encoding": "gzip"})
    found = json.loads(content(server, request_id))
    assert found["answer"]["blocks"][0]["text"] == "squeezed"
    assert found["messages"][0]["blocks"][0]["text"] == "packed"
    assert found["verified"] == {"request": "ok", "response": "ok"}


def test_a_key_is_in_no_file_of_content(server, upstream):
    """The client's key, echoed by the upstream and said by the client, is taken out."""
    upstream.script = lambda talk: talk.answer(
        json.dumps({"type": "error", "error": {"message": f"no such key {KEY}"}}).encode(),
        status="401 Unauthorized",
    )
    request_id, _ = say(server, turn(f"my key is {KEY}"))
    found = content(server, request_id)
    assert b"my key is [secret:credential]" in found
    assert KEY.encode() not in found
    for path in (server.database.parent / "content").iterdir():
        assert KEY.encode() not in path.read_bytes()


def test_what_is_not_kept_is_said(server):
    """Content of an unknown request is a 404 that says why; wrong parameters are 422."""
    unknown = "/logs/entries/01930000-0000-7000-8000-000000000000/content"
    status, _, body = server.request("GET", unknown)
    assert (status, b"CAPTURE__CONTENT" in body) == (404, True)
    assert server.request("GET", unknown + "?raw=all")[0] == 422
    assert server.request("GET", "/logs/search")[0] == 422


def test_reset_deletes_what_was_said(server, upstream):
    """After a reset there is no content either."""
    upstream.script = streamed("gone")
    request_id, _ = say(server, turn("soon"))
    content(server, request_id)
    assert server.request("POST", "/logs/reset")[0] == 200
    assert server.request("GET", f"/logs/entries/{request_id}/content")[0] == 404


@pytest.mark.slow
def test_kill_9_costs_no_row_leaves_no_half_and_rows_say_what_is_there(start_server, upstream):
    """After kill -9 each content is whole or not there, and in the end its row says which."""
    server = start_server(workers=1)
    upstream.script = streamed("x" * 2000, "y" * 2000)
    ids = []
    for number in range(40):
        ids.append(say(server, turn(f"question {number} " * 50))[0])
        if number % 20 == 10:
            for pid in server.recorder_pids():
                os.kill(pid, signal.SIGKILL)
    lost = lose_with_its_worker(server, upstream)
    rows = {row["request_id"]: row for row in server.records(41, 30)}
    assert rows.keys() >= set(ids)
    assert lost() == {"error_type": "worker_lost", "content": "dropped"}

    def told():
        rows = server.records(41)
        return all((row["content"] == "kept") == is_whole(server, row) for row in rows)

    wait_until(told, 60)
    upstream.script = streamed("again")
    content(server, say(server, turn("the last"))[0])  # who comes after it is served again


def lose_with_its_worker(server, upstream):
    """Kill a worker amid an answer; return what tells of the row of that request."""
    cut = threading.Event()

    def script(talk):
        talk.start_stream()
        talk.chunk(b"data: {}\n\n")
        cut.wait(30)

    upstream.script = script
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/messages", turn("lost"), HEADERS)
    named = connection.getresponse().headers
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    connection.close()
    cut.set()
    wait_until(lambda: server.request("GET", "/health")[0] == 200, 30)

    def row():
        found = server.get_json(f"/logs/entries/{named['x-ccproxy-request-id']}")
        return {name: found[name] for name in ("error_type", "content")}

    return row


def is_whole(server, row):
    """Tell whether the content of a row is there, None while nobody knows; it must be whole."""
    status, _, body = server.request("GET", f"/logs/entries/{row['request_id']}/content")
    if status == 503:
        return None
    assert status in (200, 404)
    if status == 200:
        assert json.loads(body)["verified"] == {"request": "ok", "response": "ok"}
    return status == 200


def test_chosen_clients_alone_are_kept(tmp_path, upstream):
    """With patterns, the content of the others is off, and their rows say so."""
    chosen = {"CAPTURE__INCLUDE_CLIENTS": "claude-cli/*", "CAPTURE__EXCLUDE_PATHS": "*/secret"}
    server = Server(tmp_path, upstream.url, 1, **chosen).start()
    try:
        upstream.script = lambda talk: talk.answer(b"{}")
        for path, agent in (("", "claude-cli/2"), ("", "curl/8"), ("/secret", "claude-cli/2")):
            server.request("POST", f"/v1/messages{path}", turn("x"), {"user-agent": agent})
        assert [row["content"] for row in server.records(3)] == ["kept", "off", "off"]
    finally:
        server.stop()

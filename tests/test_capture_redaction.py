"""No secret reaches an artefact, wherever in an exchange it hides."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from pathlib import Path
from urllib.parse import quote

import brotli
import pytest
import zstandard
from conftest import RECORDINGS
from growth_support import PROPORTIONAL, growth
from hypothesis import given, settings
from hypothesis import strategies as st

from ccproxy_flask.capture import ConsoleTracer, FileTracer, read_trace, show
from ccproxy_flask.capture.bodies import Redactor, decoded
from ccproxy_flask.capture.streams import shown_events

ID = "0198c0de-1111-7000-8000-000000000001"
URL = "https://api.example/v1/messages"
JSON = ("content-type", "application/json")
SSE = ("content-type", "text/event-stream; charset=utf-8")
# A secret without any form of its own, and one that looks like a key.
OPAQUE = "Zq7CANARYx2Wk9Lm"
KEY = "sk-ant-api03-CANARY-abcDEF123456"
SECRETS = [OPAQUE, KEY]
# No part of a secret may come through either.
PARTS = ["CANARY", "Zq7CA", "x2Wk9Lm", "abcDEF123", "DEF123456"]


def artefacts(directory: Path, *, url=URL, headers=(), body=b"", status=200, answer=None, error=""):
    """Trace one exchange with every tracer, and return all there is to see of it."""
    answer_headers, pieces, is_stream = answer or ([JSON], [b"{}"], False)
    lines: list[str] = []
    tracers = [
        FileTracer(directory / "verbose", verbose=True),
        FileTracer(directory / "brief", preview=100_000),
        ConsoleTracer(lines.append, verbose=True),
        ConsoleTracer(lines.append, preview=100_000),
    ]
    for tracer in tracers:
        tracer.trace_request(ID, "POST", url, headers, body)
        if error:
            tracer.trace_error(ID, "upstream_broken", error)
        if is_stream:
            tracer.trace_stream_start(ID, [(":status", str(status)), *answer_headers])
            for number, piece in enumerate(pieces, 1):
                tracer.trace_stream_chunk(ID, piece, number)
            tracer.trace_stream_complete(ID, len(pieces), sum(map(len, pieces)))
        else:
            tracer.trace_response(ID, status, answer_headers, b"".join(pieces))
        tracer.close()
    texts = [path.read_text() for path in sorted(directory.rglob("*")) if path.is_file()]
    trace = read_trace(directory / "verbose", ID)
    names = [path.name for path in directory.rglob("*")]
    return "\n".join([*lines, *texts, *names, show.show(trace), show.curl(trace)])


def check(shown: str) -> None:
    """Fail where any part of a secret is in *shown*."""
    for part in PARTS:
        at = shown.find(part)
        assert at < 0, shown[max(0, at - 200) : at + 100]


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "cookie",
        "proxy-authorization",
        "x-own-token",
        "user",
        "x-forwarded-for",
    ],
)
def test_request_headers(tmp_path, name, secret):
    """What a header hides is not shown, nor where the answer repeats it."""
    values = [secret, f"Bearer {secret}", f"a=1; session={secret}"]
    values.append("Basic " + base64.b64encode(f"me:{secret}".encode()).decode())
    for number, value in enumerate(values):
        answer = (
            [JSON, ("server", f"x {secret}")],
            [as_json({"error": {"message": f"wrong credentials: {secret}."}})],
            False,
        )
        headers = [JSON, (name, value), ("user-agent", f"cli {value}")]
        check(artefacts(tmp_path / str(number), headers=headers, answer=answer, status=401))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", ["set-cookie", "x-secret", "www-authenticate", "location"])
def test_answer_headers(tmp_path, name, secret):
    """What the upstream sends in a header that is not on the list is hidden."""
    for number, value in enumerate([secret, f"session={secret}; Path=/; HttpOnly"]):
        answer = [JSON, (name, value)], [as_json({"message": f"see {secret}"})], False
        check(artefacts(tmp_path / str(number), answer=answer))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "url",
    [
        "https://api.example/v1/models?key={}",
        "https://api.example/v1/models?alt=sse&key={}&beta=true",
        "https://api.example/v1/models?{}",
        "https://api.example/v1/models?a%20b={}#x",
        "https://user:{}@api.example/v1/models",
        "https://{}@api.example/v1/models",
    ],
)
def test_addresses(tmp_path, url, secret):
    """Users and unknown parameters of an address are hidden, also where an error repeats them."""
    answer = [JSON], [as_json({"error": {"message": f"no such key {secret}"}})], False
    found = url.format(secret)
    check(artefacts(tmp_path / "a", url=found, answer=answer, error=f"cannot reach {found}"))
    escaped = quote(secret + "+/=", safe="")
    answer = [JSON], [as_json({"error": {"message": f"no {secret}+/= and no {escaped}"}})], False
    check(artefacts(tmp_path / "b", url=url.format(escaped), answer=answer))


BODIES = {
    "a member": lambda s: {"model": "m", "api_key": s},
    "a member below one": lambda s: {
        "model": "m",
        "auth": {"id": s, "text": s, "list": [s, {"a": s}]},
    },
    "metadata": lambda s: {"metadata": {"user_id": s, "name": s}},
    "an MCP server": lambda s: {
        "mcp_servers": [{"url": f"https://x.example/?key={s}", "authorization_token": s}]
    },
    "a tool's headers": lambda s: {
        "tools": [
            {"type": "mcp", "server_url": f"https://u:{s}@h/p", "headers": {"Authorization": s}}
        ]
    },
    "a tool's input": lambda s: {
        "messages": [{"content": [{"type": "tool_use", "input": {"password": s, "pin": s}}]}]
    },
    "arguments": lambda s: {
        "messages": [{"tool_calls": [{"function": {"arguments": json.dumps({"api_key": s})}}]}]
    },
    "arguments that are no JSON": lambda s: {"arguments": f'{{"api_key": "{s}'},
    "a member's name": lambda s: {s: 1, "properties": {s: {"type": "string"}}},
    "an address of data": lambda s: {"image_url": {"url": f"data:image/png;base64,{s}"}},
    "an image": lambda s: {"source": {"type": "base64", "data": s * 20}},
    "a signature": lambda s: {"content": [{"signature": s * 20}]},
    "very deep": lambda s: json.loads('{"content":' * 90 + json.dumps({"text": s}) + "}" * 90),
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("where", BODIES)
def test_json_bodies(tmp_path, where, secret):
    """Members that the APIs do not name are hidden, in requests and in answers."""
    body = as_json(BODIES[where](secret))
    check(artefacts(tmp_path / "a", headers=[JSON], body=body))
    check(artefacts(tmp_path / "b", answer=([JSON], [body], False)))
    check(artefacts(tmp_path / "c", headers=[("content-type", "text/plain")], body=body))
    check(artefacts(tmp_path / "d", answer=([], [body], False)))
    check(artefacts(tmp_path / "e", headers=[JSON], body=body[:-1]))
    check(artefacts(tmp_path / "f", answer=([JSON], [b"[" + body + b"," + body + b"]"], False)))


@pytest.mark.parametrize("name", ["text", "content", "message", "input", "system", "description"])
def test_keys_in_texts(tmp_path, name):
    """A text is shown but for the keys in it."""
    body = as_json({name: f"Use {KEY} for this, or password={OPAQUE}."})
    shown = artefacts(tmp_path, headers=[JSON], body=body, answer=([JSON], [body], False))
    check(shown)
    assert "for this, or" in shown


def test_hidden_member_repeated_in_a_text(tmp_path):
    """A value that is hidden in one place is hidden in the texts of the same exchange."""
    body = as_json({"credential": OPAQUE, "messages": [{"content": f"log in as {OPAQUE}"}]})
    error = as_json({"error": {"message": f"{OPAQUE} is wrong"}})
    check(artefacts(tmp_path, headers=[JSON], body=body, answer=([JSON], [error], False)))


CODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_bodies(tmp_path, coding):
    """A compressed body is decoded, redacted, and shown."""
    data = CODINGS[coding](as_json({"model": "m-1", "token": OPAQUE, "system": f"use {KEY}"}))
    headers = [JSON, ("content-encoding", coding)]
    shown = artefacts(tmp_path / "a", headers=headers, body=data, answer=(headers, [data], False))
    check(shown)
    assert "m-1" in shown
    check(
        artefacts(
            tmp_path / "b", headers=headers, body=data[:-3], answer=(headers, [data[3:]], False)
        )
    )
    assert decoded(data, "unknown") is None


def test_forms(tmp_path):
    """Of a form the fields that the APIs name are shown."""
    body = f"model=whisper-1&client_secret={OPAQUE}&{OPAQUE}=1&language={KEY}".encode()
    headers = [("content-type", "application/x-www-form-urlencoded")]
    answer = [JSON], [as_json({"message": f"bad {OPAQUE}"})], False
    shown = artefacts(tmp_path, headers=headers, body=body, answer=answer)
    check(shown)
    assert "model=whisper-1" in shown


@pytest.mark.parametrize("boundary", ["simple", f"----{OPAQUE}"])
@pytest.mark.parametrize("cut", [0, 40, 200])
def test_multipart(tmp_path, boundary, cut):
    """Of multipart bodies known fields are shown, and no file, file name, or boundary."""
    parts = [
        'form-data; name="model"\r\n\r\nwhisper-1',
        f'form-data; name="api_key"\r\n\r\n{OPAQUE}',
        f'form-data; name="{OPAQUE}"\r\n\r\n1',
        f'form-data; name="prompt"\r\n\r\nUse {KEY} here',
        f'form-data; name="file"; filename="{OPAQUE}.wav"\r\n'
        f"content-type: audio/wav\r\n\r\n{OPAQUE}",
        f"form-data; name=\"model\"; filename*=UTF-8''{OPAQUE}\r\n"
        f"x-a: {KEY}\r\n\r\n{OPAQUE}\r\n{KEY}",
    ]
    text = "".join(f"--{boundary}\r\ncontent-disposition: {part}\r\n" for part in parts)
    body = (text + f"--{boundary}--\r\n").encode()
    body = body[: len(body) - cut]
    headers = [("content-type", f'multipart/form-data; boundary="{boundary}"')]
    if boundary != "simple":
        headers = [("content-type", f"multipart/form-data; boundary={boundary}")]
    shown = artefacts(tmp_path, headers=headers, body=body)
    for part in ["x2Wk9Lm", "abcDEF123"] if boundary != "simple" else PARTS:
        assert part not in shown.replace(f"boundary={boundary}", "")
    assert "whisper-1" in shown


ERROR_PAGES = [
    ("text/html", "<html><title>502 Bad Gateway</title><!-- {} --><a href='/?k={}'>{}</a></html>"),
    ("text/plain", "Bad Gateway: upstream said {} and Authorization: Bearer {}"),
    (
        "application/xml",
        "<Error><Code>Bad</Code><RequestId>{}</RequestId><HostId>{}</HostId></Error>",
    ),
    ("", "Bad request {}"),
    ("text/html; charset=utf-16", "Bad {}"),
    ("application/json", "Bad {{not json {}"),
    ("application/octet-stream", "Bad {}"),
    ("image/png", "Bad {}"),
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("kind", "page"), ERROR_PAGES)
def test_error_pages(tmp_path, kind, page, secret):
    """Of a page of an unknown form only plain words are shown."""
    body = page.replace("{}", secret).encode()
    headers = [("content-type", kind)] if kind else []
    shown = artefacts(tmp_path, answer=(headers, [body], False), status=502)
    check(shown)
    assert "Bad" in shown or kind in ("application/octet-stream", "image/png")


def deltas(text: str, size: int, make) -> list[bytes]:
    """Return the events of a stream that carries *text* in pieces of *size* letters."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [f"data: {json.dumps(make(piece))}\n\n".encode() for piece in pieces]


STREAMS = {
    "Anthropic text": lambda t: {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": t},
    },
    "Anthropic thinking": lambda t: {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": t},
    },
    "OpenAI chat": lambda t: {"choices": [{"index": 0, "delta": {"content": t}}]},
    "OpenAI reasoning": lambda t: {"choices": [{"index": 1, "delta": {"reasoning_content": t}}]},
    "OpenAI responses": lambda t: {
        "type": "response.output_text.delta",
        "output_index": 0,
        "content_index": 0,
        "delta": t,
    },
    "Gemini": lambda t: {"candidates": [{"content": {"parts": [{"text": t}], "role": "model"}}]},
    "Ollama": lambda t: {"model": "m", "message": {"role": "assistant", "content": t}},
}
ARGUMENTS = {
    "Anthropic": lambda t: {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": t},
    },
    "OpenAI chat": lambda t: {
        "choices": [
            {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": t}}]}}
        ]
    },
    "OpenAI responses": lambda t: {
        "type": "response.function_call_arguments.delta",
        "item_id": "fc_1",
        "output_index": 0,
        "delta": t,
    },
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("kind", STREAMS)
def test_streamed_texts(tmp_path, kind, size):
    """A key that a model repeats letter by letter is hidden in all events; the rest is shown."""
    text = f"Your key is {KEY}, and the other one {OPAQUE}: keep them."
    events = [*deltas(text, size, STREAMS[kind]), b"data: [DONE]\n\n"]
    headers = [("x-api-key", OPAQUE)]
    shown = artefacts(tmp_path, headers=headers, answer=([SSE], events, True))
    check(shown)
    told = read_trace(tmp_path / "verbose", ID)["stream"]["chunks"]
    raw = json.dumps([chunk["events"] for chunk in told])
    for letter in "Zq7", "Wk9", "DEF":
        assert letter not in raw
    assert len(told) == len(events)
    # Nothing of a secret is left even where every event carries one letter.
    joined = "".join(map(leaf, (event for chunk in told for event in chunk["events"][:1])))
    assert joined == "Your key is ***, and the other one ***: keep them."


def leaf(event: object) -> str:
    """Return the text an event carries."""
    if isinstance(event, dict):
        for name in ("text", "thinking", "reasoning_content", "content", "delta"):
            if isinstance(event.get(name), str):
                return event[name]
        return "".join(map(leaf, event.values()))
    return "".join(map(leaf, event)) if isinstance(event, list) else ""


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_streamed_arguments(tmp_path, kind, size):
    """Of a tool's streamed arguments unknown members are hidden, as if they came at once."""
    text = json.dumps({"command": "ls -l", "password": OPAQUE, "text": f"use {KEY}"})
    shown = artefacts(tmp_path / "a", answer=([SSE], deltas(text, size, ARGUMENTS[kind]), True))
    check(shown)
    assert "ls -l" in shown
    cut = deltas(text[:-20], size, ARGUMENTS[kind])
    check(artefacts(tmp_path / "b", answer=([SSE], cut, True)))


@pytest.mark.parametrize("end", range(len(OPAQUE)))
def test_stream_that_ends_in_a_secret(tmp_path, end):
    """Of a secret in whose middle a stream is cut no more than five letters are shown."""
    events = deltas(f"It is {OPAQUE[:end]}", 2, STREAMS["Anthropic text"])
    answer = [SSE], events, True
    artefacts(tmp_path, headers=[("x-api-key", OPAQUE)], answer=answer)
    chunks = read_trace(tmp_path / "verbose", ID)["stream"]["chunks"]
    text = "".join(map(leaf, (chunk["events"] for chunk in chunks)))
    assert text == f"It is {OPAQUE[:end] if end < 6 else '***'}"


def test_list_that_was_streamed(tmp_path):
    """A stream in the form of one JSON list, as Gemini has it, is searched as a stream."""
    pieces = [KEY[at : at + 3] for at in range(0, len(KEY), 3)]
    body = as_json([STREAMS["Gemini"](piece) for piece in ["Use ", *pieces, " now"]])
    shown = artefacts(tmp_path, answer=([JSON], [body], False))
    check(shown)
    found = read_trace(tmp_path / "verbose", ID)["response"]["body"]
    assert "".join(map(leaf, found)) == "Use *** now"


def test_two_streamed_texts_are_told_apart():
    """Texts that come in turns are searched each for itself."""
    halves = [("sk-ant-", 0), ("plain ", 1), ("CANARYabc123", 0), ("words", 1)]
    chunks = [
        b"data: " + as_json({"choices": [{"index": index, "delta": {"content": text}}]}) + b"\n\n"
        for text, index in halves
    ]
    texts = [
        event.value["choices"][0]["delta"]["content"]
        for event in shown_events(chunks, "text/event-stream", "", Redactor())
    ]
    assert texts == ["***", "plain ", "", "words"]


def test_lines_of_json(tmp_path):
    """A stream of lines is shown line by line."""
    lines = [as_json({"model": "m-1", "response": t}) + b"\n" for t in ("Hi ", KEY[:9], KEY[9:])]
    kind = ("content-type", "application/x-ndjson")
    shown = artefacts(tmp_path, answer=([kind], [*lines, as_json({"token": OPAQUE})], True))
    check(shown)
    assert "m-1" in shown


def test_other_lines_of_a_stream(tmp_path):
    """Comments, names, ids and data that is no JSON show plain words only."""
    text = f": {OPAQUE}\nid: {OPAQUE}\nevent: {KEY}\nretry: 10\nfoo: {OPAQUE}\ndata: {OPAQUE}\n\n"
    text += f'event: ping\nid: {OPAQUE}\ndata: {{"type":"ping","secret":"{OPAQUE}"}}\n\n'
    text += f'data: {{"type":"cut","secret":"{OPAQUE}'
    shown = artefacts(tmp_path, answer=([SSE], [text.encode()], True))
    check(shown)
    assert "event: ping" in shown


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_streams(tmp_path, coding):
    """A compressed stream is decoded however it was cut."""
    text = b"".join(deltas(f"Your key is {KEY}.", 2, STREAMS["Anthropic text"]))
    data = CODINGS[coding](text)
    headers = [SSE, ("content-encoding", coding)]
    pieces = [data[at : at + 11] for at in range(0, len(data), 11)]
    shown = artefacts(tmp_path, answer=(headers, pieces, True))
    check(shown)
    assert "text_delta" in shown


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_stream_cut_anywhere_shows_the_same(data):
    """The events do not depend on how the network cut the stream."""
    whole = b"".join(deltas(f"Your key is {KEY}, é", 4, STREAMS["Anthropic text"]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    expected = [event.text for event in shown_events([whole], "text/event-stream", "", Redactor())]
    found = [event.text for event in shown_events(pieces, "text/event-stream", "", Redactor())]
    assert found == expected


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            "application/json",
            "multipart/form-data; boundary=x",
            "text/html",
            "text/event-stream",
            "",
            "application/x-www-form-urlencoded",
        ]
    ),
)
def test_any_bytes_can_be_shown(data, kind):
    """No body makes it raise."""
    Redactor().body(data, kind)
    shown_events([data], kind, "", Redactor())


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=10)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_nothing_below_an_unknown_member_is_shown(value):
    """Whatever lies below a member that no API names is one mark."""
    assert Redactor().value({"own_member": value}) in (
        {"own_member": "***"},
        {"own_member": value} if value is None or isinstance(value, bool) else None,
    )


def test_what_people_look_for_stays():
    """The parts of a real request and answer that matter are shown as they are."""
    request = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64,
        "stream": True,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [
            {
                "name": "get_weather",
                "description": "The weather",
                "input_schema": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "own_name": {"type": "number"}},
                    "required": ["city"],
                },
            }
        ],
    }
    answer = {
        "id": "msg_01",
        "usage": {"input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 1}},
        "stop_reason": "end_turn",
        "error": {"type": "invalid_request_error", "message": "max_tokens: 100000 > 8192"},
    }
    assert Redactor().value(request) == request
    assert Redactor().value(answer) == answer


def test_large_bodies_take_no_time():
    """Redacting takes time in proportion to a body's size, whatever is in it."""
    known = Redactor()
    for number in range(300):
        known.learn(f"secret-value-{number:04}")
    message = {"role": "user", "content": "some words of text " * 50}
    bodies = {
        "application/json": lambda size: as_json({"messages": [message] * (size // 1000)}),
        "text/html": lambda size: b"<p>some words</p> " * (size // 20),
        "text/plain": lambda size: b"x" * size,
        "application/problem+json": lambda size: b"{" * size,
    }
    for kind, made in bodies.items():
        assert growth(lambda size, made=made, kind=kind: known.body(made(size), kind), 40_000) < (
            PROPORTIONAL
        ), kind


@pytest.mark.recordings
def test_recorded_traffic_can_be_read():
    """Of real traffic, all but a few events are shown as what they are, with their texts."""
    paths = sorted(RECORDINGS.glob("*.json"))
    if not paths:
        pytest.skip("no recordings here")
    events = 0
    for path in paths:
        recorded = json.loads(path.read_text())
        kind = recorded["response_headers"].get("content-type", "")
        body = base64.b64decode(recorded["response_body_base64"])
        if "event-stream" not in kind:
            continue
        found = [e for e in shown_events([body], kind, "", Redactor()) if e.value is not None]
        real = [json.loads(li[6:]) for li in body.splitlines() if li.startswith(b"data: {")]
        assert len(found) == len(real), path.name
        shown = [leaf(each.value) for each in found if "arguments" not in str(each.value)]
        told = [leaf(each) for each in real if "arguments" not in str(each)]
        assert "".join(shown) == "".join(told), path.name
        events += len(found)
    assert events > 5000

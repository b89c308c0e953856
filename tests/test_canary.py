"""Keys in every place of an exchange, searched for in everything that is kept or shown of it.

One server with everything switched on takes one request for each place and each kind of key; then
every artefact is searched, raw and decoded. Each key is made for its place, so that what comes
through says where it came from.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import brotli
import duckdb
import pytest
import zstandard
from conftest import Server
from scripted import Conversation, ScriptedUpstream, wait_until

from ccproxy_flask.content import view
from ccproxy_flask.content.store import ContentStore

INJECTED = hashlib.sha256(b"injected").hexdigest()[:32]
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _letters(seed: str, count: int) -> str:
    return "".join(_LETTERS[byte % 52] for byte in hashlib.shake_256(seed.encode()).digest(count))


SHAPES: dict[str, Callable[[str], str]] = {
    "anthropic": lambda seed: f"sk-ant-api03-{_letters(seed, 40)}-{_letters(seed, 20)}AA",
    "github": lambda seed: f"ghp_{_letters(seed, 36)}",
    "xai": lambda seed: f"xai-{_letters(seed, 80)}",
    "hf": lambda seed: f"hf_{_letters(seed, 34)}",
    "azure": lambda seed: hashlib.sha256(seed.encode()).hexdigest()[:32],
    "mistral": lambda seed: _letters(seed, 32),
}
SHAPELESS = {"azure", "mistral"}


class Sent(NamedTuple):
    """One request, and how the upstream answers it."""

    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = MappingProxyType({})
    body: dict[str, Any] | None = None
    answer: Callable[[Conversation], None] = lambda talk: talk.answer(OK)
    raw: bytes | None = None
    coding: str = ""


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
OK = json.dumps(
    {
        "model": "gpt-4o",
        "choices": [{"finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
).encode()
PLAIN = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
JSON = (("content-type", "application/json"),)
USAGE = {"prompt_tokens": 2, "completion_tokens": 2, "input_tokens": 2, "output_tokens": 2}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _quoted(text: str) -> str:
    return "".join(f"%{ord(character):02X}" for character in text)


def _header(name: str, form: str = "{}") -> Callable[[str], Sent]:
    return lambda key: Sent(headers={name: form.format(key)}, body=PLAIN)


def _path(form: str, method: str = "GET", encode: Callable[[str], str] = str) -> Any:
    return lambda key: Sent(method, form.format(encode(key)))


def _body(make: Callable[[str], dict[str, Any]], path: str = "/v1/chat/completions") -> Any:
    return lambda key: Sent(path=path, body={**PLAIN, **make(key)})


def _answers(body: Callable[[str], Any], status: str = "200 OK", kind: str = JSON[0][1]) -> Any:
    def make(key: str) -> Sent:
        found = body(key)
        data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        return Sent(
            headers={"authorization": f"Bearer {key}"},
            body=PLAIN,
            answer=lambda talk: talk.answer(data, status, (("content-type", kind),)),
        )

    return make


def _echo(form: str, encode: Callable[[str], str] = str) -> Any:
    """Return an error whose message repeats the key that the client sent."""
    return _answers(lambda key: {"error": {"message": form.format(encode(key))}}, "401 No")


def _streams(
    events: Callable[[str], list[dict[str, Any]]],
    coding: str = "",
    kind: str = "text/event-stream",
) -> Any:
    def make(key: str) -> Sent:
        def answer(talk: Conversation) -> None:
            lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events(key)]
            talk.start_stream(kind, f"content-encoding: {coding}\r\n" if coding else "")
            for part in [CODINGS[coding](b"".join(lines))] if coding else lines:
                talk.chunk(part)
            talk.end_stream()

        headers = {"x-api-key": key}
        return Sent(headers=headers, body={**PLAIN, "stream": True}, answer=answer)

    return make


def _pieces(key: str, size: int = 3) -> list[str]:
    return ["the key is ", *(key[at : at + size] for at in range(0, len(key), size)), " it is"]


def _chat(key: str) -> list[dict[str, Any]]:
    return [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in _pieces(key)]


def _deltas(member: str, kind: str) -> Callable[[str], list[dict[str, Any]]]:
    return lambda key: [
        {"type": "content_block_delta", "index": 0, "delta": {"type": kind, member: part}}
        for part in _pieces(key)
    ]


def _squeezed(coding: str, end: bytes = b"") -> Any:
    """Return a compressed answer that repeats the key; what *end* adds is no such coding."""

    def make(key: str) -> Sent:
        body = CODINGS[coding](json.dumps({"error": {"message": f"bad {key}"}}).encode()) + end
        headers = (*JSON, ("content-encoding", coding))
        return Sent(
            headers={"authorization": f"Bearer {key}"},
            body=PLAIN,
            answer=lambda talk: talk.answer(body, "401 No", headers),
        )

    return make


def _repeats(sent: Callable[[str], Sent], message: Callable[[str], str] = str) -> Any:
    """Return *sent* with an error as its answer that repeats the key."""

    def make(key: str) -> Sent:
        body = json.dumps({"error": {"message": f"bad: {message(key)}"}}).encode()
        return sent(key)._replace(answer=lambda talk: talk.answer(body, "401 No"))

    return make


def _answer_header(name: str) -> Any:
    return lambda key: Sent(
        headers={"authorization": f"Bearer {key}"},
        body=PLAIN,
        answer=lambda talk: talk.answer(OK, headers=(*JSON, (name, key))),
    )


def _raw(form: str) -> Any:
    return lambda key: Sent(raw=form.format(key).encode("latin-1"))


MCP = "/v1/messages"
PLACES: dict[str, Callable[[str], Sent]] = {
    # headers
    "bearer": _header("authorization", "Bearer {}"),
    "authorization": _header("authorization"),
    "x-api-key": _header("x-api-key"),
    "goog": _header("x-goog-api-key"),
    "api-key": _header("api-key"),
    "cookie": _header("cookie", "a=1; session={}"),
    "proxy-auth": _header("proxy-authorization", "Basic {}"),
    "own-token": _header("x-own-token"),
    "unknown": _header("x-unknown"),
    "agent": _header("user-agent", "tool/1.0 {}"),
    "agent-product": _header("user-agent", "{}/1.0"),
    "accept": _header("accept", "text/{}"),
    "length": _raw("POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n"),
    "coding": _header("content-encoding"),
    "header-name": lambda key: Sent(headers={f"x-{key}": "1"}, body=PLAIN),
    "kept-header-name": lambda key: Sent(headers={f"x-stainless-{key}": "1"}, body=PLAIN),
    "beta": _header("anthropic-beta"),
    "language": _header("accept-language", "en;q={}"),
    "content-type": _header("content-type", "application/json; boundary={}"),
    "host": _header("host", "{}.localhost"),
    "referer": _header("referer", "https://example/?token={}"),
    "origin": _header("origin", "https://{}"),
    "expect": _header("expect"),
    "connection": _header("connection", "{}"),
    "signature": _header("authorization", "AWS4-HMAC-SHA256 Credential=a/b, Signature={}"),
    # queries
    "query-key": _path("/v1/models?key={}"),
    "query-alone": _path("/v1/models?{}"),
    "query-quoted": _path("/v1/models?{}", encode=_quoted),
    "query-name": _path("/v1/models?{}=1"),
    "query-kept": _path("/v1/models?beta={0}&after={0}"),
    "query-matrix": _path("/v1/models;key={}?limit=1"),
    "query-broken": _path("/v1/models?limit={}%ZZ&%"),
    "query-fragment": _path("/v1/models?limit=1%26key={}"),
    # paths
    "path": _path("/v1/files/{}"),
    "path-middle": _path("/openrouter/bot{}/getMe"),
    "path-quoted": _path("/v1/files/{}", encode=_quoted),
    "path-quoted-twice": _path("/v1/files/{}", encode=lambda key: quote(_quoted(key))),
    "path-unknown": _path("/{}"),
    "path-unknown-quoted": _path("/x{}", encode=_quoted),
    "path-provider": _path("/{}/v1/models"),
    "path-page": _path("/logs/{}"),
    "path-health": _path("/health/{}"),
    "page-query": _path("/logs/query?model={}&limit=1"),
    "model-in-path": _path("/v1beta/models/{}:generateContent", "POST"),
    "deployment": _path("/openrouter/openai/deployments/{}/chat/completions", "POST"),
    # what is not HTTP
    "raw-method": _raw("{} /v1/messages HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    "raw-target": _raw("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    "raw-header": _raw("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{}\r\n\r\n"),
    "raw-version": _raw("GET /v1/models {}\r\nhost: localhost\r\n\r\n"),
    "raw-absolute": _raw("GET http://u:{}@localhost/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    "raw-long": lambda key: Sent(raw=f"GET /v1/{key}/{'x' * 9000} HTTP/1.1\r\n\r\n".encode()),
    # WebSocket handshakes
    "websocket-protocol": lambda key: Sent(
        raw=(
            "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: localhost\r\n"
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"sec-websocket-protocol: realtime, openai-insecure-api-key.{key}\r\n\r\n"
        ).encode()
    ),
    "websocket-echo": _repeats(
        _header("sec-websocket-protocol", "realtime, openai-insecure-api-key.{}")
    ),
    # bodies
    "model": _body(lambda key: {"model": key}),
    "model-vendor": _body(lambda key: {"model": f"vendor/{key}"}),
    "model-quoted": _body(lambda key: {"model": _quoted(key)}),
    "model-prefix": _body(lambda key: {"model": f"gpt-4o {key}"}),
    "tier": _body(lambda key: {"service_tier": key}),
    "api-key-member": _body(lambda key: {"api_key": key}),
    "form": lambda key: Sent(
        raw=(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            "content-type: application/x-www-form-urlencoded\r\n"
            f"content-length: {len(key) + 21}\r\n\r\nmodel=whisper&api_key={key}"
        ).encode()
    ),
    "stop": _body(lambda key: {"metadata": {"token": key}, "user": "me"}),
    "tool-name": _body(lambda key: {"tools": [{"type": "function", "function": {"name": key}}]}),
    "mcp": _body(
        lambda key: {
            "mcp_servers": [{"name": "m", "url": "https://m", "authorization_token": key}]
        },
        MCP,
    ),
    "mcp-echo": _repeats(
        _body(lambda key: {"mcp_servers": [{"name": "m", "authorization_token": key}]}, MCP)
    ),
    # answers
    "answer-model": _answers(lambda key: {"model": key, "usage": USAGE}),
    "answer-vendor": _answers(lambda key: {"model": f"vendor/{key}", "usage": USAGE}),
    "answer-finish": _answers(lambda key: {"choices": [{"finish_reason": key}], "usage": USAGE}),
    "answer-id": _answer_header("x-request-id"),
    "answer-reason": lambda key: Sent(
        body=PLAIN, answer=lambda talk: talk.answer(b"{}", f"400 {key}")
    ),
    "answer-type": _answers(lambda _: {}, kind="application/json"),
    "answer-error-type": _answers(lambda key: {"error": {"type": key, "code": key}}, "400 No"),
    "answer-retry": _answer_header("retry-after"),
    "answer-limit": _answer_header("x-ratelimit-remaining-tokens"),
    "answer-location": _answer_header("location"),
    "answer-name": lambda key: Sent(
        body=PLAIN, answer=lambda talk: talk.answer(OK, headers=(*JSON, (f"x-{key}", "1")))
    ),
    "answer-cookie": _answer_header("set-cookie"),
    "answer-server": _answer_header("server"),
    "stream-model": _streams(lambda key: [{"model": key, "choices": [], "usage": USAGE}]),
    "stream-error": _streams(lambda key: [{"error": {"message": f"key {key} is over", "code": 1}}]),
    # answers that repeat it a few letters at a time, or compressed
    "stream-chat": _streams(_chat),
    "stream-text": _streams(_deltas("text", "text_delta")),
    "stream-thinking": _streams(_deltas("thinking", "thinking_delta")),
    "stream-input": _streams(_deltas("partial_json", "input_json_delta")),
    "stream-gzip": _streams(_chat, "gzip"),
    "stream-unnamed": _streams(_chat, kind="text/plain"),
    "stream-array": _answers(
        lambda key: [
            {"candidates": [{"content": {"parts": [{"text": part}]}}]} for part in _pieces(key)
        ]
    ),
    **{f"answer-{coding}": _squeezed(coding) for coding in CODINGS if coding},
    "answer-broken": _squeezed("gzip", b"rest"),
    # bodies that repeat what the headers say
    **{
        f"body-{coding or 'plain'}": lambda key, coding=coding: Sent(
            headers={"x-api-key": key}, body={**PLAIN, "user": f"I use {key}"}, coding=coding
        )
        for coding in CODINGS
    },
    "many-cookies": _repeats(
        lambda key: Sent(
            headers={
                "cookie": "; ".join(f"name{at}=value-{at}-of-many" for at in range(40)),
                "authorization": f"Bearer {key}",
            },
            body=PLAIN,
        )
    ),
    # errors that repeat the key, in every form
    "echo": _echo("no such key: {}"),
    "echo-glued": _echo("key:\n{}\tis wrong"),
    "echo-quoted": _echo("see https://x/?a={}", _quoted),
    "echo-lower-quoted": _echo("see /{}", lambda key: _quoted(key).lower()),
    "echo-twice-quoted": _echo("see /{}", lambda key: quote(_quoted(key))),
    "echo-base64": _echo("bad authorization {}", _b64),
    "echo-pair": _echo("bad authorization {}", lambda key: _b64(f"user:{key}")),
    "echo-unicode": _echo("bad {}", lambda key: "".join(f"\\u{ord(one):04x}" for one in key)),
    "echo-html-entities": _echo("bad {}", lambda key: "".join(f"&#{ord(one)};" for one in key)),
    "echo-nested": _echo("{}", lambda key: json.dumps({"error": {"k": f'"{key}"'}})),
    "echo-upper": _echo("bad {}", str.upper),
    "echo-part": _echo("bad {}…", lambda key: key[:20]),
    "echo-end": _echo("bad …{}", lambda key: key[-20:]),
    "echo-cut": _echo("{}", lambda key: "x" * 488 + " " + key),
    "echo-detail": _answers(lambda key: {"detail": [{"msg": f"bad {key}"}]}, "422 No"),
    "echo-text": _answers(lambda key: f"bad {key}", "403 No", "text/plain"),
    "echo-title": _answers(lambda key: f"<html><title>bad {key}</title>", "502 No", "text/html"),
    "echo-basic": _repeats(lambda key: _header("authorization", "Basic {}")(_b64(f"me:{key}"))),
    "echo-cookie": _repeats(_header("cookie", "theme=dark; sid={}")),
    "echo-query": _repeats(_path("/v1/models?key={}")),
    "echo-query-quoted": _repeats(_path("/v1/models?sig={}", encode=_quoted)),
    "echo-own-header": _repeats(_header("x-acme-token")),
    "echo-model": _repeats(
        lambda key: Sent(headers={"x-api-key": key}, body={**PLAIN, "model": key[:20]})
    ),
    "echo-injected": lambda _: Sent(
        path="/openrouter/v1/chat/completions",
        body=PLAIN,
        answer=lambda talk: talk.answer(
            json.dumps({"error": {"message": f"wrong key {INJECTED}"}}).encode(), "401 No"
        ),
    ),
}
# Identifiers look like keys: one without a shape is found where the exchange used it as one.
KNOWN_ONLY: dict[str, Callable[[str], Sent]] = {
    "client-id": _header("x-request-id"),
    "session": _header("x-claude-code-session-id"),
    "agent-id": _header("x-claude-code-agent-id"),
    "user": _body(lambda key: {"user": key}),
    "user-id": _body(lambda key: {"metadata": {"user_id": key}}, "/v1/messages"),
    "cache-key": _body(lambda key: {"prompt_cache_key": key}),
    "prompt": _body(lambda key: {"messages": [{"role": "user", "content": f"use {key}"}]}),
    "tool-result": _body(lambda key: {"messages": [{"role": "tool", "content": f"K={key}"}]}),
}
# Of gunicorn's access log: all that is the client's to choose.
FORMAT = (
    '%(t)s %(s)s "%(r)s" %(m)s %(U)s %(q)s %(u)s "%(f)s" "%(a)s" %({authorization}i)s '
    "%({cookie}i)s %({x-api-key}i)s %({http_authorization}e)s %({raw_uri}e)s %({set-cookie}o)s"
)
CASES = [
    *((place, shape) for place in PLACES for shape in SHAPES),
    *((place, shape) for place in KNOWN_ONLY for shape in sorted(SHAPES.keys() - SHAPELESS)),
]


# In a body alone, where no credential stands, what has no shape is a word like any other.
WORDS = {
    (place, shape)
    for place in ("model", "model-vendor", "model-quoted", "model-prefix", "tier", "tool-name")
    for shape in SHAPELESS
}


def key_of(place: str, shape: str) -> str:
    """Return the key for one place."""
    return SHAPES[shape](f"{place}/{shape}")


@pytest.fixture(scope="module")
def artefacts(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> dict[str, str]:
    """Send everything, and return the text of every artefact by its name."""
    server = Server(
        tmp_path_factory.mktemp("canary"),
        shared_upstream.url,
        workers=1,
        GUNICORN_CMD_ARGS=f"--log-level debug --access-logfile - --access-logformat '{FORMAT}'",
        LOGGING__LEVEL="debug",
        TRACING__FILE="true",
        TRACING__CONSOLE="true",
        TRACING__VERBOSE="true",
        TRACING__MAX_EXCHANGES="5000",
        PROVIDERS__OPENROUTER__API_KEY=INJECTED,
    ).start()
    try:
        with Follower(server) as live:
            send_all(server, shared_upstream)
            found = shown(server)
            found["events"] = live.text
        found |= files(server.home)
    finally:
        server.stop()
        shared_upstream.reset()
    found |= files(server.home) | tables(server.database)
    return found | contents(server.database.parent / "content")


class Follower:
    """Follows ``/logs/stream``, and keeps what comes."""

    def __init__(self, server: Server) -> None:
        self._sock = socket.create_connection(("127.0.0.1", server.port))
        self._sock.sendall(b"GET /logs/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        self._data = b""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        wait_until(lambda: b"connection_id" in self._data, 10)
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._sock.close()

    def _run(self) -> None:
        while data := self._sock.recv(65536):
            self._data += data

    @property
    def text(self) -> str:
        """All that came so far."""
        return self._data.decode("utf-8", "replace")


def send_all(server: Server, upstream: ScriptedUpstream) -> None:
    """Send one request for each case, one after the other."""
    for place, shape in CASES:
        sent = (PLACES | KNOWN_ONLY)[place](key_of(place, shape))
        upstream.script = sent.answer
        if sent.raw is not None:
            with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
                sock.sendall(sent.raw)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            continue
        body = None
        headers = {"content-type": "application/json", **sent.headers}
        if sent.body is not None:
            body = CODINGS[sent.coding](json.dumps(sent.body).encode())
        if sent.coding:
            headers["content-encoding"] = sent.coding
        server.request(sent.method, sent.path, body, headers)


def shown(server: Server) -> dict[str, str]:
    """Return what the pages of the operator show, once all of it is there."""
    wait_until(lambda: server.get_json("/logs/status")["backlog_lines"] == 0, 20)
    pages = ["/metrics", "/dashboard", "/logs/status", "/logs/analytics?hours=168"]
    pages += ["/logs/query?limit=10000", "/logs/entries?limit=1000"]
    pages += [f"/logs/export?format={name}" for name in ("csv", "jsonl")]
    found = {}
    for page in pages:
        status, _, body = server.request("GET", page)
        assert status == 200, (page, body[:300])
        found[page] = body.decode()
    rows = list(map(json.loads, found["/logs/export?format=jsonl"].splitlines()))
    kept = [row["request_id"] for row in rows if row["content"] == "kept"]
    # One of seven: those of other shapes at each place.
    pages = [f"/logs/entries/{request_id}/content" for request_id in kept[::7]]
    pages += [f"/dashboard/requests/{row['request_id']}" for row in rows[::7]]
    for page in [*pages, "/dashboard/requests", "/dashboard/status"]:
        found[page] = wait_until(lambda page=page: _page(server, page), 10)
    return found


def _page(server: Server, page: str) -> str | None:
    status, _, body = server.request("GET", page)
    return body.decode() if status == 200 else None


def files(home: Path) -> dict[str, str]:
    """Return all files below *home*, their names too."""
    paths = [path for path in home.rglob("*") if path.is_file()]
    found = {str(path): path.read_bytes().decode("latin-1") for path in paths}
    return found | {"names": "\n".join(map(str, home.rglob("*")))}


def tables(database: Path) -> dict[str, str]:
    """Return the rows of all tables of *database*, and of the files beside it."""
    with duckdb.connect(str(database), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        names += map(str, database.parent.rglob("*.parquet"))
        return {
            f"table {name}": repr(connection.execute(f"FROM '{name}'").fetchall()) for name in names
        }


def contents(directory: Path) -> dict[str, str]:
    """Return what was said, put together of its compressed pieces, and what a search finds."""
    store, found = ContentStore(directory, 1 << 40, 3650), {}
    for request_id in store.request_ids():
        kept = store.exchange(request_id)
        assert kept is not None
        bodies = [view.said(kept, body).decode("latin-1") for body in ("request", "response")]
        raw = [b"".join(pieces).decode("latin-1") for pieces in (kept.request, kept.response)]
        found[f"content {request_id}"] = "\n".join(
            [repr(kept.facts), *bodies, *raw, json.dumps(view.events(kept))]
        )
    for place, shape in CASES:
        if (place, shape) not in WORDS and store.search(key_of(place, shape), 1):
            found[f"search {place}"] = key_of(place, shape)
    store.close()
    return found


def decoded(text: str) -> str:
    """Return *text* as far as it can be decoded: percent, JSON and HTML escapes, base64."""
    lines = [text, unquote(unquote(text))]
    lines.append(re.sub(r"\\+u([0-9a-fA-F]{4})", lambda it: chr(int(it[1], 16)), text))
    lines.append(re.sub(r"&#(\d{2,3});", lambda it: chr(int(it[1])), text))
    for run in re.findall(r"[A-Za-z0-9+/_-]{16,}={0,2}", text):
        plain = run.rstrip("=").replace("-", "+").replace("_", "/")
        for start in range(4):
            piece = plain[start:]
            piece = piece[: len(piece) // 4 * 4]
            lines.append(base64.b64decode(piece).decode("latin-1"))
    return "\n".join(lines).lower()


@pytest.fixture(scope="module")
def leaks(artefacts: dict[str, str]) -> dict[str, list[str]]:
    """Where which part of a key was found: {place and kind: [artefact, words around it]}."""
    whose = dict.fromkeys(parts_of(INJECTED), "injected")
    for place, shape in CASES:
        whose |= dict.fromkeys(parts_of(key_of(place, shape)), f"{place}-{shape}")
    allowed = {f"{place}-{shape}" for place, shape in WORDS}
    found: dict[str, list[str]] = {}
    for name, text in artefacts.items():
        whole = decoded(text)
        for run in re.finditer(rf"[a-z0-9_-]{{{PART},}}", whole):
            for at in range(run.start(), run.end() - PART + 1):
                owner = whose.get(whole[at : at + PART])
                if owner is not None and not (_is_content(name) and owner in allowed):
                    around = f"{name}: {whole[max(0, at - 100) : at + 60]}"
                    found.setdefault(owner, []).append(around)
                    break
    return found


def _is_content(artefact: str) -> bool:
    return "content" in artefact


PART = 14


def parts_of(key: str) -> set[str]:
    """Return all parts of a key that may not be seen; what it begins with says nothing."""
    lowered = key.lower()
    return {lowered[at : at + PART] for at in range(len(lowered) - PART + 1)}


@pytest.mark.parametrize(("place", "shape"), CASES)
def test_no_key_is_kept_or_shown(leaks: dict[str, list[str]], place: str, shape: str) -> None:
    """A key in any place of an exchange is in no artefact, nor is a long part of it."""
    assert leaks.get(f"{place}-{shape}", [])[:3] == []


def test_injected_key_is_nowhere(leaks: dict[str, list[str]]) -> None:
    """The key that the proxy adds is not kept where an upstream repeats it."""
    assert leaks.get("injected", [])[:3] == []


def test_every_request_is_in_the_records(artefacts: dict[str, str]) -> None:
    """The search is not for nothing: the errors that repeated a key are kept without it."""
    rows = [json.loads(line) for line in artefacts["/logs/export?format=jsonl"].splitlines()]
    messages = [row["error_message"] or "" for row in rows]
    assert messages.count("no such ***") == len(SHAPES)
    assert messages.count("wrong key ***") == len(SHAPES)
    assert len(rows) >= len(CASES) - 12 * len(SHAPES)
    assert any(name.endswith(".ndjson") for name in artefacts)
    assert any("/traces/" in name for name in artefacts)
    kept = [name for name in artefacts if name.startswith("content ")]
    assert len(kept) == sum(row["content"] == "kept" for row in rows) > 500
    shown = [text for name, text in artefacts.items() if name.endswith("/content")]
    assert len(shown) == -(-len(kept) // 7)
    assert sum("the key is [secret:" in text for text in shown) >= 1

"""Wire formats: what holds for all of them, and that a new one is one file and one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Server, free_port
from scripted import Conversation, ScriptedUpstream
from test_exchange_capture import trace_of
from usage_support import events

from ccproxy_flask.dialects import BY_SETTING, DIALECTS, ENDPOINTS, KEY_HEADERS, meaning_of
from ccproxy_flask.redact import KEPT_HEADERS

# The one file. A format that nobody speaks, and that differs in every respect.
PARROT = '''
"""How parrots speak."""

from __future__ import annotations

from typing import Any, ClassVar

import orjson

from ..usage.parser import ResponseParser, Usage, as_count, as_object
from .base import Dialect, Endpoint


class ParrotParser(ResponseParser):
    """What a parrot says, word by word."""

    __slots__ = ("_tokens",)

    wanted: ClassVar[dict[str, Any]] = {"bird": None, "word": None, "tokens": None}

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._tokens: dict[str, Any] | None = None

    def document(self, document: dict[str, Any]) -> None:
        self.note_model(document.get("bird"))
        self.content_seen = self.content_seen or bool(document.get("word"))
        if "tokens" in document:
            self._tokens = as_object(document["tokens"])

    def usage(self) -> Usage | None:
        if self._tokens is None:
            return None
        heard, said = as_count(self._tokens.get("heard")), as_count(self._tokens.get("said"))
        return Usage(tokens_input=heard, tokens_output=said)


def error_body(error, request_id):
    return orjson.dumps({"squawk": str(error), "id": request_id})


DIALECT = Dialect(
    name="parrot",
    setting="parrot",
    endpoints=(Endpoint(r"/v9/repeat", "/v9/repeat", "POST", generates=True),),
    parser=ParrotParser,
    error_body=error_body,
    speaks=lambda path, headers: "x-parrot-key" in headers,
    claims=lambda path, headers: path.startswith("/v9/"),
    provider="parrot",
    key_headers=("x-parrot-key",),
    asks_for_stream=lambda path, document: bool(document and document.get("loud")),
    request_id_headers=("x-feather",),
    limit_headers=("x-parrot-seeds-",),
    price_vendor="openai",
    shown=frozenset({"bird", "word"}),
)
'''
SAID = events(
    {"bird": "gpt-4o", "word": "Hello"},
    {"bird": "gpt-4o", "word": " again", "tokens": {"heard": 1_000_000, "said": 7}},
)


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the file, and with the line in the list."""
    home = tmp_path_factory.mktemp("aviary")
    shutil.copytree(
        ROOT / "ccproxy_flask", home / "ccproxy_flask", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in ("static", "templates"):
        (home / folder).symlink_to(ROOT / folder)
    (home / "wsgi.py").write_text((ROOT / "wsgi.py").read_text())
    dialects = home / "ccproxy_flask" / "dialects"
    (dialects / "parrot.py").write_text(PARROT)
    listed = (dialects / "__init__.py").read_text()
    listed = listed.replace("    openai_chat,\n", "    openai_chat,\n    parrot,\n", 1)
    listed = listed.replace(
        "    openai_chat.DIALECT,\n", "    openai_chat.DIALECT,\n    parrot.DIALECT,\n", 1
    )
    (dialects / "__init__.py").write_text(listed)
    return home


@pytest.fixture(scope="module")
def parrots(aviary: Path, shared_upstream: ScriptedUpstream) -> Iterator[Server]:
    """A server of that copy, with two providers that speak the new format."""
    server = Server(
        aviary,
        shared_upstream.url,
        workers=1,
        PYTHONPATH=str(aviary),
        PROVIDERS__PARROT__BASE_URL=shared_upstream.url,
        PROVIDERS__PARROT__API="parrot",
        PROVIDERS__PARROT__API_KEY="polly",
        PROVIDERS__GONE__BASE_URL=f"http://127.0.0.1:{free_port()}",
        TRACING__FILE="true",
        TRACING__VERBOSE="true",
    ).start()
    yield server
    server.stop()


def test_a_new_format_is_recorded(parrots: Server, upstream: ScriptedUpstream) -> None:
    """One file and one line: routed, keyed, read as a stream, priced, and recorded."""

    def squawk(talk: Conversation) -> None:
        talk.start_stream(extra="x-feather: green\r\n")
        talk.chunk(SAID)
        talk.end_stream()

    upstream.script = squawk
    asked = json.dumps({"model": "grey", "loud": True}).encode()
    status, named, body = parrots.request("POST", "/v9/repeat", asked)
    assert (status, body) == (200, SAID)
    assert upstream.seen[0].line == "POST /v9/repeat HTTP/1.1"
    assert upstream.seen[0].header("x-parrot-key") == "polly"
    [row] = parrots.records(1, request_id=named["x-ccproxy-request-id"])
    assert (row["provider"], row["endpoint"]) == ("parrot", "/v9/repeat")
    assert (row["model_requested"], row["model"], row["streaming"]) == ("grey", "gpt-4o", True)
    assert (row["tokens_input"], row["tokens_output"]) == (1_000_000, 7)
    assert float(row["cost_usd"]) > 2.5
    assert row["upstream_request_id"] == "green"
    assert row["ttft_ms"] is not None


def test_a_new_format_is_configured_by_its_name(
    parrots: Server, upstream: ScriptedUpstream
) -> None:
    """A provider's setting names the format for paths that say nothing."""
    upstream.script = lambda talk: talk.answer(b'{"bird":"grey","tokens":{"heard":2,"said":3}}')
    _, named, _ = parrots.request("POST", "/parrot/else", b'{"bird":"grey","nest":"hidden"}')
    [row] = parrots.records(1, request_id=named["x-ccproxy-request-id"])
    assert (row["endpoint"], row["tokens_output"], row["streaming"]) == ("other", 3, False)
    trace = trace_of(parrots, named["x-ccproxy-request-id"])
    assert trace["request"]["body"] == {"bird": "grey", "nest": "***"}


def test_a_new_format_has_errors_of_its_own(parrots: Server) -> None:
    """What the proxy says itself comes in the shape of the format, on known paths and others."""
    for path, status in (("/gone/v9/repeat", 502), ("/nowhere", 404)):
        got, named, body = parrots.request("POST", path, b"{}", {"x-parrot-key": "k"})
        assert got == status
        assert json.loads(body)["id"] == named["x-ccproxy-request-id"]
        assert json.loads(body)["squawk"]


def test_every_format_is_whole() -> None:
    """Names are unique, headers are in lower case, and the last format takes what is left."""
    names = [dialect.name for dialect in DIALECTS]
    assert len(set(names)) == len(names)
    assert len(BY_SETTING) == len([each for each in DIALECTS if each.setting])
    for dialect in DIALECTS:
        for endpoint in dialect.endpoints:
            re.compile(endpoint.pattern)
            assert endpoint.name in ENDPOINTS
        headers = (*dialect.key_headers, *dialect.request_id_headers, *dialect.limit_headers)
        assert all(name == name.lower() for name in headers)
        assert set(dialect.key_headers) <= set(KEY_HEADERS)
        assert not set(dialect.key_headers) & KEPT_HEADERS
    assert meaning_of("POST", "/anything", {}).dialect is DIALECTS[-1]

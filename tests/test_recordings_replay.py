"""Recorded provider traffic through the real server: same bytes, right records."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import brotli
import pytest
import zstandard
from conftest import RECORDINGS, Server
from scripted import Conversation, ScriptedUpstream, wait_until

from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.content.view import verified
from ccproxy_flask.dialects import BY_NAME
from ccproxy_flask.pricing import PriceBook
from ccproxy_flask.usage import Usage

pytestmark = [
    pytest.mark.recordings,
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not there"),
]

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "br": lambda body: brotli.compress(body, quality=3),
    "zstd": zstandard.ZstdCompressor().compress,
    "deflate": zlib.compress,
}
FRAMING = {"content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive"}


def exchanges() -> list[dict[str, Any]]:
    """Return all recorded exchanges."""
    return [json.loads(path.read_text()) for path in sorted(RECORDINGS.glob("*.json"))]


class Replay:
    """Answers each request with the recorded answer that its ``x-exchange`` header names."""

    def __init__(self) -> None:
        # Not the recordings' own ids: some of them look like a key, and would be hidden.
        self.by_id = {
            f"exchange.{i}": {**e, "id": f"exchange.{i}", "name": e["id"]}
            for i, e in enumerate(exchanges())
        }
        self.cut: random.Random | None = None
        self.encoding = "recorded"

    def wire_body(self, exchange: dict[str, Any]) -> tuple[str, bytes]:
        """Return the content encoding and the body as it goes on the wire."""
        body = base64.b64decode(exchange["response_body_base64"])
        encoding = exchange["content_encoding"] if self.encoding == "recorded" else self.encoding
        if encoding in ENCODERS:
            return encoding, ENCODERS[encoding](body)
        return "", body

    def __call__(self, talk: Conversation) -> None:
        """Write one recorded answer, whole or in pieces."""
        exchange = self.by_id[talk.request.header("x-exchange") or ""]
        encoding, body = self.wire_body(exchange)
        headers = [
            f"{name}: {value}"
            for name, value in exchange["response_headers"].items()
            if name.lower() not in FRAMING
        ]
        headers += [f"content-encoding: {encoding}"] if encoding else []
        in_chunks = exchange["streaming"] or self.cut is not None
        headers.append(
            "transfer-encoding: chunked" if in_chunks else f"content-length: {len(body)}"
        )
        talk.send(
            (f"HTTP/1.1 {exchange['status']} X\r\n" + "\r\n".join(headers)).encode() + b"\r\n\r\n"
        )
        if not in_chunks:
            talk.send(body)
            return
        for piece in self._pieces(body):
            talk.chunk(piece)
        talk.end_stream()

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        if self.cut is None:
            yield from filter(None, [body[i : i + 4000] for i in range(0, len(body), 4000)])
            return
        start = 0
        while start < len(body):
            end = start + self.cut.choice((1, 2, 3, 7, 50, 400, 5000))
            yield body[start:end]
            start = end


def sent_body(exchange: dict[str, Any]) -> bytes | None:
    """Return the recorded request's body."""
    body = exchange["request_body"]
    if body is None:
        return None
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


@pytest.fixture(scope="module")
def providers_server(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[Server]:
    """A server whose providers are those of the recordings, all of them at one upstream."""
    names = {exchange["provider"].upper() for exchange in exchanges()}
    settings = {f"PROVIDERS__{name}__BASE_URL": shared_upstream.url for name in names}
    server = Server(tmp_path_factory.mktemp("replay"), shared_upstream.url, 2, **settings)
    yield server.start()
    server.stop_soon()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "cut", "gzip", "br", "zstd", "deflate"])
def test_every_recording(providers_server: Server, upstream: ScriptedUpstream, way: str) -> None:
    """All exchanges pass unchanged, and each leaves a record with the right figures.

    What was said is kept, and made again byte for byte.
    """
    replay = Replay()
    replay.encoding = way if way in ENCODERS else "recorded"
    replay.cut = random.Random(11) if way != "whole" else None
    upstream.script = replay
    server = providers_server
    wait_until(lambda: server.request("POST", "/logs/reset")[0] == 200)

    different = [
        e["name"] for e in replay.by_id.values() if not passes_unchanged(server, replay, e)
    ]
    rows = {row["client_request_id"]: row for row in server.records(len(replay.by_id), 60)}
    book = PriceBook()
    wrong = {
        exchange["name"]: found
        for exchange in replay.by_id.values()
        if (found := differences(exchange, rows[exchange["id"]], book))
    }

    damaged = wait_until(lambda: not_verified(server, rows), 90)
    print(f"{way}: {len(replay.by_id)} exchanges, {len(different)} different, {len(wrong)} wrong")
    assert different == []
    assert wrong == {}
    assert damaged == [{}]


def not_verified(server: Server, rows: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return what is not whole of the content of *rows*, None where it is not all there yet."""
    store = ContentStore(server.database.parent / "content", 1 << 30, 7)
    wanted = {row["request_id"]: exchange_id for exchange_id, row in rows.items()}
    if store.sessions_of(list(wanted)).keys() != wanted.keys():
        return None
    whole = {"request": "ok", "response": "ok"}
    found = {}
    for request_id, exchange_id in wanted.items():
        kept = store.exchange(request_id)
        told = verified(kept) if kept is not None else None
        if told != whole:
            found[exchange_id] = (
                told,
                kept and kept.facts["request"],
                kept and kept.facts["response"],
            )
    return [found]


def passes_unchanged(server: Server, replay: Replay, exchange: dict[str, Any]) -> bool:
    """Send the recorded request and compare the answer's status, headers and bytes."""
    headers = {**exchange["request_headers"], "x-exchange": exchange["id"]}
    headers |= {"x-request-id": exchange["id"]}
    path = f"/{exchange['provider']}{exchange['path']}"
    status, got, body = server.request(exchange["method"], path, sent_body(exchange), headers)
    kept = {
        n.lower(): v for n, v in exchange["response_headers"].items() if n.lower() not in FRAMING
    }
    same_headers = all(got.get(name) == value.strip() for name, value in kept.items())
    return status == exchange["status"] and same_headers and body == replay.wire_body(exchange)[1]


def differences(
    exchange: dict[str, Any], row: dict[str, Any], book: PriceBook
) -> dict[str, tuple[Any, Any]]:
    """Return what is wrong with *row*: name → (recorded, expected)."""
    truth = exchange["expected"]
    wanted: dict[str, Any] = {
        "status_code": truth["status_code"],
        "streaming": truth["streaming"],
        "model": truth["model"],
    }
    if truth["usage_present"] and exchange["api"] != "other":
        wanted |= {
            "tokens_input": truth["tokens_input"],
            "tokens_output": truth["tokens_output"],
            "cache_read_tokens": truth["cache_read_tokens"],
            "cache_write_tokens": truth["cache_write_tokens"],
            "cache_write_1h_tokens": truth["cache_write_1h_tokens"],
            "tokens_reasoning": truth["reasoning_tokens"],
            "cost_usd": expected_cost(exchange, row, book),
        }
    else:
        wanted |= dict.fromkeys(("tokens_input", "tokens_output", "cost_usd"))
    return {
        name: (row[name], value) for name, value in wanted.items() if not same(row[name], value)
    }


def same(found: Any, wanted: Any) -> bool:
    """Compare figures as they are shown."""
    if isinstance(wanted, Decimal):
        return found is not None and abs(Decimal(str(found)) - wanted) < Decimal("1e-9")
    return bool(found == wanted)


def expected_cost(exchange: dict[str, Any], row: dict[str, Any], book: PriceBook) -> Decimal | None:
    """Return what the recording's own figures cost."""
    truth = exchange["expected"]
    if truth["provider_cost_usd"] is not None:
        return Decimal(str(truth["provider_cost_usd"]))
    price = book.price(
        exchange["provider"],
        BY_NAME[exchange["api"]].price_vendor,
        usage_of(truth),
        model=truth["model_response"],
        model_requested=truth["model_requested"],
        at=datetime.fromisoformat(row["timestamp"]),
        url=f"https://upstream.example{exchange['path']}",
    )
    return None if price is None else price.total


def usage_of(truth: dict[str, Any]) -> Usage:
    """Return the recording's figures as a usage."""
    return Usage(
        tokens_input=truth["tokens_input"],
        tokens_output=truth["tokens_output"],
        cache_read_tokens=truth["cache_read_tokens"],
        cache_write_tokens=truth["cache_write_tokens"],
        cache_write_1h_tokens=truth["cache_write_1h_tokens"],
        tokens_reasoning=truth["reasoning_tokens"],
        audio_input_tokens=truth["audio_input_tokens"],
        audio_output_tokens=truth["audio_output_tokens"],
        cache_audio_read_tokens=truth["cache_audio_read_tokens"],
        image_output_tokens=truth["image_output_tokens"],
        web_searches=truth["web_searches"],
        service_tier=truth["service_tier"],
        speed=truth["speed"],
        extra_models=tuple(
            (
                entry["model"],
                usage_of({**truth, **dict.fromkeys(_NUMBERS, 0), "extra_model_usage": [], **entry}),
            )
            for entry in truth["extra_model_usage"]
        ),
    )


_NUMBERS = (
    "tokens_input",
    "tokens_output",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "cache_audio_read_tokens",
    "image_output_tokens",
    "web_searches",
)

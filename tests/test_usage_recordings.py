"""Recorded answers of real providers, read in every way, against what is true of them."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

import brotli
import pytest
import zstandard
from genai_prices import Usage as TableUsage
from genai_prices import calc_price
from usage_support import answer_reader, request_reader

from ccproxy_flask.dialects import BY_NAME
from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.pricing import OVERRIDES, PriceBook

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "exchanges"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))

pytestmark = [
    pytest.mark.recordings,
    pytest.mark.skipif(not NAMES, reason="the recordings are not here"),
]

AT = datetime(2026, 11, 20, 13, 30, tzinfo=UTC)
SAME_NAME = (
    "tokens_input",
    "tokens_output",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_output_tokens",
    "cache_audio_read_tokens",
    "web_searches",
    "service_tier",
    "speed",
)
PACKED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=4),
    "zstd": zstandard.compress,
}


@cache
def exchange(name):
    """Return a recording; it is not to be changed."""
    return json.loads((RECORDINGS / f"{name}.json").read_bytes())


def read(recorded, encoding=None, seed=None, small_json=64 << 10):
    """Return the answer as read whole, or cut at places that *seed* gives."""
    body = base64.b64decode(recorded["response_body_base64"])
    if encoding is not None:
        body = PACKED[encoding](body)
    headers = {name.lower(): value for name, value in recorded["response_headers"].items()}
    reader = answer_reader(
        recorded["api"],
        recorded["status"],
        headers.get("content-type"),
        encoding,
        small_json=small_json,
    )
    cuts = random.Random(seed)
    while body:
        size = len(body) if seed is None else cuts.randint(1, 200)
        reader.feed(body[:size])
        body = body[size:]
    assert not reader.failed
    return reader.close(), reader.content_seen


def truth(answer, expected):
    """Return what is expected of an answer in our words, beside what was read."""
    used = answer.usage
    want = {
        "usage": expected["usage_present"],
        "finish_reason": expected["stop_reason"],
        "streaming": expected["streaming"],
        "complete": expected["stream_complete"] is not False,
        "error": expected["error"] is not None,
    }
    got = {
        "usage": used is not None,
        "finish_reason": answer.finish_reason,
        "streaming": answer.streaming,
        "complete": answer.complete,
        "error": answer.error_type is not None,
    }
    if used is not None:
        want |= {name: expected[name] for name in SAME_NAME}
        want["tokens_reasoning"] = expected["reasoning_tokens"]
        want["provider_cost_usd"] = expected["provider_cost_usd"]
        want["extra_models"] = [
            (extra["model"], extra["tokens_input"], extra["tokens_output"])
            for extra in expected["extra_model_usage"]
        ]
        got |= {name: getattr(used, name) for name in (*SAME_NAME, "tokens_reasoning")}
        cost = used.provider_cost_usd
        got["provider_cost_usd"] = None if cost is None else float(cost)
        got["extra_models"] = [
            (model, extra.tokens_input, extra.tokens_output) for model, extra in used.extra_models
        ]
    return got, want


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_true(name):
    """Tokens, model, end and error are right: whole, cut, skimmed and compressed alike."""
    recorded = exchange(name)
    answer, content_seen = read(recorded)
    got, want = truth(answer, recorded["expected"])
    assert got == want
    if recorded["api"] != "other":  # of those no model is expected, but one is told
        assert answer.model == recorded["expected"]["model_response"]
    assert content_seen or not recorded["expected"]["tokens_output"]
    assert answer.error_type is None or answer.error_type in ERROR_TYPES
    assert answer.error_type is None or answer.error_message
    for seed in range(3):
        assert read(recorded, seed=seed)[0] == answer
    assert read(recorded, small_json=0)[0] == answer
    assert read(recorded, seed=9, small_json=0)[0] == answer
    for encoding in PACKED:
        assert read(recorded, encoding)[0] == answer
        assert read(recorded, encoding, seed=4)[0] == answer


@pytest.mark.parametrize("name", NAMES)
def test_every_request_is_understood(name):
    """The model and the way of answering that a request asks for are found."""
    recorded = exchange(name)
    body = recorded["request_body"]
    data = b"" if body is None else json.dumps(body).encode()
    headers = {key.lower(): value for key, value in recorded["request_headers"].items()}
    for small_json in (0, 64 << 10):
        reader = request_reader(recorded["api"], headers, recorded["path"], small_json=small_json)
        reader.feed(data)
        facts = reader.close()
        assert facts.model == recorded["expected"]["model_requested"]
        assert facts.streaming in (None, recorded["expected"]["streaming_requested"])
        if facts.streaming is None:
            assert recorded["api"] == "other"


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_keeps_what_was_seen(name):
    """A stream that breaks off has no more than the whole, and is never taken for whole."""
    recorded = exchange(name)
    body = base64.b64decode(recorded["response_body_base64"])
    whole, _ = read(recorded)
    content_type = recorded["response_headers"].get("content-type")
    for part in range(1, 8):
        reader = answer_reader(recorded["api"], recorded["status"], content_type, None)
        reader.feed(body[: len(body) * part // 8])
        answer = reader.close()
        assert not reader.failed
        assert answer.model in (None, whole.model)
        assert answer.usage is None or whole.usage is not None


def price_of(recorded, answer, book, at=AT):
    """Return what an answer cost."""
    return book.price(
        recorded["provider"],
        BY_NAME[recorded["api"]].price_vendor,
        answer.usage,
        model=answer.model,
        model_requested=recorded["expected"]["model_requested"],
        at=at,
        url=f"https://upstream.example{recorded['path']}",
    )


def by_the_table(recorded, used, at=AT):
    """Return the cost as genai-prices itself calculates it, None where it cannot."""
    counts = {
        "input_tokens": used.tokens_input + used.cache_read_tokens + used.cache_write_tokens,
        "output_tokens": used.tokens_output,
        "cache_read_tokens": used.cache_read_tokens,
        "cache_write_tokens": used.cache_write_tokens,
        "cache_write_1h_tokens": used.cache_write_1h_tokens,
        "input_audio_tokens": used.audio_input_tokens,
        "output_audio_tokens": used.audio_output_tokens,
        "cache_audio_read_tokens": used.cache_audio_read_tokens,
        "web_searches": used.web_searches,
    }
    context = {"service_tier": used.service_tier, "speed": used.speed}
    try:
        return calc_price(
            TableUsage(**counts),
            recorded["expected"]["model"],
            provider_id=recorded["provider"],
            genai_request_timestamp=at,
            price_context={name: value for name, value in context.items() if value},
        ).total_price
    except (LookupError, ValueError):
        return None


@pytest.mark.parametrize("name", NAMES)
def test_every_cost_is_right(name):
    """The cost is the provider's own figure, or what the table makes of the same tokens."""
    recorded = exchange(name)
    answer, _ = read(recorded)
    expected = recorded["expected"]
    if answer.usage is None:
        return
    price = price_of(recorded, answer, PriceBook())
    if expected["provider_cost_usd"] is not None:
        assert (float(price.total), price.source) == (expected["provider_cost_usd"], "provider")
        return
    by_table = by_the_table(recorded, answer.usage)
    model = expected["model"]
    corrected = any(row.models.fullmatch(model) for row in OVERRIDES) or answer.usage.extra_models
    if price is None:
        assert not by_table
    elif not corrected and by_table is not None:
        assert abs(price.total - by_table) < Decimal("1e-12")
        assert price.source.startswith("prices:")
    else:
        assert price.total > 0


def test_nearly_every_model_has_a_price():
    """What has no price is what runs on machines of one's own, or is in no table."""
    book, unpriced = PriceBook(), set()
    for name in NAMES:
        recorded = exchange(name)
        answer, _ = read(recorded)
        if answer.usage is not None and price_of(recorded, answer, book) is None:
            unpriced.add((recorded["provider"], answer.model))
    assert {provider for provider, _ in unpriced} == {
        "alibaba",
        "cerebras",
        "gpustack",
        "lmstudio",
        "ollama",
        "openrouter",
    }

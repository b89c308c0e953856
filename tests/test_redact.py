"""Redaction: what is not known to be harmless does not come through."""

from __future__ import annotations

import random
import re
from string import ascii_letters, digits

import pytest
from genai_prices import data
from growth_support import PROPORTIONAL, growth
from hypothesis import given
from hypothesis import strategies as st

from ccproxy_flask.key_shapes import CHECKED, KEY_SHAPES
from ccproxy_flask.redact import (
    KEPT_HEADERS,
    REDACTED,
    kept_agent,
    kept_headers,
    kept_method,
    kept_path,
    kept_query,
    key_id,
    plain_name,
    scrub,
    shortened,
)

KEYS = [
    "sk-ant-api03-CANARY_abc-123",
    "sk-proj-CANARY1234",
    "sk-or-v1-CANARY1234",
    "sk_live_CANARY1234",
    "gsk_CANARY1234",
    "xai-CANARY1234",
    "pplx-CANARY1234",
    "csk-CANARY1234",
    "key-CANARY1234",
    "hf_CANARY1234",
    "nvapi-CANARY1234",
    "github_pat_CANARY1234",
    "ghs_CANARY1234",
    "xoxb-CANARY-1234",
    "AIzaSyCANARY1234",
    "ya29.CANARY1234",
    "AKIACANARY1234567890",
    "ASIACANARY1234567890",
    "eyJhbGciOiJIUzI1NiJ9.CANARY.CANARY-1234",
    "eyJCANARY1234",
]
# Secrets without a form of their own, known by what stands before them.
LABELLED = [
    "Authorization: Bearer CANARY1234",
    "authorization=Basic CANARY1234==",
    "Bearer CANARY1234",
    "bearer   CANARY1234",
    "bearer CANARYabcdefghijklmnopqrstuvwxyz",
    "x-api-key: CANARY1234",
    "X_API_KEY=CANARY1234",
    "apiKey: CANARY1234",
    "https://host/path?key=CANARY1234&alt=sse",
    "access_token=CANARY1234",
    "refresh_token=CANARY1234",
    "client_secret: CANARY1234",
    "password=CANARY1234",
    '{"api_key": "CANARY1234"}',
    '"{\\"api_key\\": \\"CANARY1234\\"}"',
    "{'authorization': 'Bearer CANARY1234'}",
    "http://user:CANARY1234@proxy.example:3128/",
    "https://:CANARY1234@proxy.example",
]
around = st.sampled_from(
    ["", " ", "\n", "_", "-", ".", '"', "'", "(", "[", "=", ":", "/", "\t", "é"]
)
plain = st.text(st.characters(codec="utf-8", exclude_characters="@"), max_size=30)


@pytest.mark.parametrize("text", KEYS + LABELLED)
def test_what_looks_like_a_key_is_hidden(text):
    """Keys of the providers and what follows a word for a secret are hidden in any text."""
    assert "CANARY" not in scrub(text)
    assert REDACTED in scrub(f"incorrect API key provided: {text}.")


@given(plain, around, st.sampled_from(KEYS), around, plain)
def test_no_surroundings_let_a_key_through(before, left, key, right, after):
    """A key is found wherever it stands; only a letter or digit before it makes another word."""
    assert "CANARY" not in scrub(f"{before} {left}{key}{right} {after}")


@given(plain, st.sampled_from(KEYS + LABELLED), plain, st.integers(10, 60))
def test_shortened_text_keeps_no_part_of_a_key(before, key, after, limit):
    """Cutting a text at its limit does not cut a key in half and so past the search."""
    shown = shortened(f"{before} {key} {after}", limit)
    assert shown is not None
    assert len(shown) <= limit
    assert "CANA" not in shown
    assert all(character.isprintable() or ord(character) > 0x9F for character in shown)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "claude-sonnet-4-5-20250929",
        "gpt-5.1-codex-max",
        "models/gemini-2.5-pro",
        "session 0198c0de-1111-7000-8000-000000000000",
        "Overloaded",
        "The model `gpt-9` does not exist or you do not have access to it.",
        "task-1234 of desk-5678",
        "a key-value store, its key-words",
        "a basic understanding of bearer bonds",
        "http://127.0.0.1:8000/v1/messages",
        "claude-cli/2.0.1 (external, cli)",
    ],
)
def test_what_people_need_to_read_stays(text):
    """Error messages, models and user agents pass as they are."""
    assert scrub(text) == text
    assert shortened(text, 200) == text


@given(st.text(), st.text())
def test_unknown_headers_show_nothing_of_their_value(name, value):
    """Only headers of the list keep their value."""
    [(_, shown)] = kept_headers([(f"x-own-{name}", value)])
    assert shown == REDACTED


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "x-api-key",
        "x-goog-api-key",
        "Cookie",
        "Set-Cookie",
        "api-key",
        "forwarded",
    ],
)
def test_headers_that_carry_secrets_are_not_on_the_list(name):
    """Credentials are hidden whole, not searched for."""
    assert kept_headers([(name, "opaque")]) == [(name, REDACTED)]


@pytest.mark.parametrize("name", sorted(KEPT_HEADERS))
def test_kept_headers_are_searched_for_keys(name):
    """A key in a harmless header, by a client's mistake, is hidden as well."""
    assert kept_headers([(name.title(), "plain")]) == [(name.title(), "plain")]
    [(_, shown)] = kept_headers([(name, "sk-ant-CANARY1234")])
    assert "CANARY" not in shown


def test_secret_as_a_header_name_is_hidden():
    """A value that slipped into the place of a name does not come through."""
    names = ["sk-ant-CANARY1234", "CANARY" * 20, "9CANARY", "a b CANARY"]
    assert "CANARY" not in repr(kept_headers([(name, "") for name in names]))


@given(st.text(), st.sampled_from(KEYS))
def test_query_shows_no_unknown_value(name, key):
    """Only parameters of the providers' APIs keep their value, and no key in it."""
    shown = kept_query(f"{name}={key}&beta=true&key={key}&alt=sse&limit={key}&{key}")
    assert shown is None or "CANARY" not in shown


def test_query_keeps_what_tells_requests_apart():
    """The harmless parameters stay, in their order."""
    assert kept_query("beta=true&key=opaque&alt=sse") == "beta=true&key=***&alt=sse"
    assert kept_query("") is None


@given(st.text(st.characters()))
def test_any_query_can_be_shown(query):
    """No query string makes it raise."""
    kept_query(query)


def test_hostile_text_takes_no_time():
    """What looks like the beginning of keys takes time in proportion to its length."""
    hostile = ["key", "sk-", "eyJ", "bearer ", "a:", "://a:", "token=", 'key\\"', "-", "a" * 7]
    for piece in hostile:

        def hide(size, piece=piece):
            scrub(piece * (size // len(piece)))
            scrub(f"https://{piece * (size // len(piece))}")

        assert growth(hide, 16 << 10) < PROPORTIONAL, piece


def test_key_id_tells_keys_apart_and_nothing_of_them():
    """The id of a key depends on the key and on our secret, and is short."""
    ids = {key_id(b"one", "a"), key_id(b"one", "b"), key_id(b"two", "a")}
    assert len(ids) == 3
    assert key_id(b"one", "a") == key_id(b"one", "a")
    assert all(len(each) == 16 for each in ids)
    assert key_id(b"one", "\udcff")


def test_nothing_to_shorten_stays_nothing():
    """None is not turned into a text."""
    assert shortened(None, 10) is None
    assert shortened("a\x00b\r\nc", 10) == "a b c"
    assert shortened("abcdef", 4) == "abc…"


@pytest.mark.parametrize("shape", KEY_SHAPES, ids=lambda shape: shape.issuer)
def test_every_shape_of_the_table_is_known_everywhere(shape):
    """A key of each issuer is hidden in texts, paths, queries and in the place of a name."""
    key = shape.example
    quoted = "".join(f"%{ord(character):02x}" for character in key)
    assert key[4:20] not in scrub(f"bad ({key})")
    for form in (key, quoted, f"vendor/{key}"):
        assert plain_name(form) == REDACTED
        for kept in (
            kept_path(f"/v1/files/{form}"),
            kept_query(f"after={form}&{form}=1"),
            scrub(form),
        ):
            assert key[8:20] not in str(kept)
            assert quoted[12:40] not in str(kept)


def test_table_says_when_it_was_checked():
    """The table has a date, and one row for each issuer."""
    assert re.fullmatch(r"20\d\d-\d\d", CHECKED)
    assert len({shape.issuer for shape in KEY_SHAPES}) == len(KEY_SHAPES)


def test_models_of_the_price_book_are_names():
    """No model that exists is taken for a key."""
    models = {model.id for provider in data.providers for model in provider.models}
    assert [name for name in models if plain_name(name) != name] == []


@pytest.mark.parametrize(
    "name",
    [
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-v2:0",
        "accounts/fireworks/models/llama-v3p1-405b-instruct",
        "ft:gpt-4o-mini-2024-07-18:my-org:custom_suffix:7q8mpxmy",
        "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "projects/123456/locations/us-central1/endpoints/1234567890123456789",
        "/models/Meta-Llama-3-8B-Instruct.Q4_0.gguf",
        "DeepSeekR1DistillQwen32B",
        "pplx-7b-chat",
        "xai-grok-4",
        "end_turn",
        "MALFORMED_FUNCTION_CALL",
    ],
)
def test_names_stay(name):
    """Names of models and reasons of every kind are kept as they are."""
    assert plain_name(name) == name


@pytest.mark.parametrize("alphabet", ["0123456789abcdef", ascii_letters, ascii_letters + digits])
def test_what_looks_random_is_no_name(alphabet):
    """32 hexadecimal digits (Azure), 32 letters (Mistral) and the like are in no name or path."""
    shuffle = random.Random(7)
    for _ in range(200):
        key = "".join(shuffle.choices(alphabet, k=32))
        for form in (key, f"vendor/{key}", f"gpt-4o {key}", key + ":free"):
            assert plain_name(form) == REDACTED
        assert key not in kept_path(f"/v1/{key}/x")
        assert key not in str(kept_agent(f"tool/1.0 ({key})"))
        assert key not in str(kept_query(f"{key}&{key}=1&beta={key}"))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/file-abc123DEF456ghi789JKL012",
        "/v1/messages/batches/msgbatch_013Zva2CMHLNnXjNJJKqJ2EH/results",
        "/v1/responses/resp_67cb32528d6881909eb2859a55e18a85",
        "/v1/threads/thread_abc123/runs/run_0123456789abcdef01234567",
        "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
        "/x/0198c0de-1111-7000-8000-000000000000/12345678901234567890",
        "/v1/a%20b/c",
    ],
)
def test_paths_keep_what_tells_requests_apart(path):
    """Routes, models and identifiers of the APIs stay in a path."""
    assert kept_path(path) == path


def test_a_method_is_a_word():
    """What stands in the place of a method and is none is not kept."""
    assert [kept_method(name) for name in ("GET", "VERSION-CONTROL")] == ["GET", "VERSION-CONTROL"]
    assert kept_method("sk-ant-CANARY1234") == kept_method("AKIAQ7ZXW2KLM9TB") == REDACTED

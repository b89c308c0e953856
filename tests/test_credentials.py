"""The search for an exchange's own credentials: found in every form, and words left alone."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccproxy_flask.credentials import SHORTEST_PART, Credentials, decodings, forget, joined
from ccproxy_flask.proxy.observers import RequestHead
from ccproxy_flask.proxy.secrecy import Secrecy
from ccproxy_flask.record import COLUMN_TYPES, TEXT_COLUMNS, RequestRecord

HEX = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
ODD = 'p@ss"w\\o/rd&7<x>'
plain = st.text(st.characters(codec="utf-8", exclude_characters="%\\&"), max_size=40)


def sent(*headers: tuple[str, str], query: str = "") -> Credentials:
    """Return the credentials of a request."""
    found = Credentials()
    found.add_headers(headers)
    found.add_query(query)
    return found


@pytest.mark.parametrize(
    "secret", [HEX, ODD, "Zq7xW2kLm9TbN4vRc8Yp", "correct-horse-battery-staple"]
)
@pytest.mark.parametrize(
    "form",
    [
        str,
        str.upper,
        str.lower,
        lambda text: quote(text, safe=""),
        lambda text: quote(text, safe="").lower(),
        lambda text: quote(quote(text, safe="")),
        lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(json.dumps(text))[1:-1],
        lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
        lambda text: "".join(f"&#{ord(one)};" for one in text),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"me:{text}".encode()).decode().rstrip("="),
    ],
)
def test_every_form_of_a_credential_is_found(secret, form):
    """However an upstream writes the key that it was sent, nothing of it stays."""
    shown = sent(("authorization", f"Bearer {secret}")).scrub(f"wrong: {form(secret)}. Try again")
    assert form(secret) not in shown
    assert form(secret)[4:-4] not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", HEX),
        ("authorization", f"bearer  {HEX}"),
        ("authorization", "Basic " + base64.b64encode(f"me:{HEX}".encode()).decode()),
        ("authorization", "Basic " + base64.b64encode(f"{HEX}:".encode()).decode()),
        ("authorization", f"AWS4-HMAC-SHA256 Credential=x/y, SignedHeaders=a;b, Signature={HEX}"),
        ("proxy-authorization", f"Bearer {HEX}"),
        ("x-api-key", HEX),
        ("x-goog-api-key", HEX),
        ("api-key", HEX),
        ("ocp-apim-subscription-key", HEX),
        ("x-acme-token", HEX),
        ("x-amz-security-token", HEX),
        ("cookie", f"theme=dark; sid={HEX}; x=1"),
        ("sec-websocket-protocol", f"realtime, openai-insecure-api-key.{HEX}, x.y"),
    ],
)
def test_credentials_are_taken_from_headers(name, value):
    """Each header that carries a key is known, in the parts that an upstream may repeat."""
    assert sent((name, value)).scrub(f"no user {HEX}!") == "no user ***!"


@pytest.mark.parametrize("query", ["key={}", "a=1&sig={}&beta=true", "{}", "{}=", "x={}%20"])
def test_credentials_are_taken_from_the_query(query):
    """Every parameter that is hidden is one, also without a name."""
    assert sent(query=query.format(HEX)).scrub(f"bad {HEX}") == "bad ***"


@given(plain, st.integers(0, 20), st.integers(SHORTEST_PART, 32), plain)
@example("", 0, 12, "")
def test_parts_of_a_credential_are_found(before, start, length, after):
    """Twelve characters of a key, from anywhere in it, are hidden."""
    part = HEX[start : start + length]
    shown = sent(("x-api-key", HEX)).scrub(f"{before} {part} {after}")
    assert len(part) < SHORTEST_PART or part not in shown


def test_beginning_of_a_credential_at_the_end_of_a_cut_text_is_found():
    """A message that was cut in the middle of a key ends before it."""
    credentials = sent(("x-api-key", HEX))
    for length in range(6, len(HEX)):
        assert credentials.scrub(f"bad key {HEX[:length]}…") in ("bad key ***", "bad ***")


@pytest.mark.parametrize(
    "key", ["ollama", "lm-studio", "not-needed", "x", "sk-1", "****************"]
)
def test_a_key_that_is_none_changes_no_text(key):
    """Clients of local servers send any word: it is not taken for a secret."""
    text = f"model {key} not found at /{key}/v1"
    credentials = Credentials()
    credentials.add(key)
    assert not credentials.are_in(text)


@pytest.mark.parametrize(
    "header",
    [
        ("x-claude-code-session-id", "0198c0de-1111-7000-8000-000000000000"),
        ("x-request-id", "req_0123456789abcdef"),
        ("idempotency-key", "stainless-python-retry-0198c0de"),
        ("content-type", "application/json"),
        ("x-title", "gpt-4o playground of mine"),
    ],
)
def test_identifiers_and_words_are_no_credentials(header):
    """What a request says of itself can be kept: sessions, request ids, titles."""
    assert not sent(header).are_in(header[1])


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=200))
def test_any_text_can_be_searched(name, value, text):
    """Nothing that a client or an upstream sends makes the search raise."""
    credentials = sent((name, value), ("authorization", value), ("cookie", value), query=value)
    credentials.scrub(text)
    credentials.scrub(text + value)


def test_search_is_bounded():
    """A thousand credentials of 100 KB each are searched for in 10,000 characters in no time."""
    credentials = Credentials()
    for number in range(1000):
        credentials.add(f"{number}-{HEX}" * 2500)
    assert len(credentials.scrub("0123456789" * 1000)) > 0


def test_record_shows_no_credential_in_any_text():
    """Every column with words of others is searched, new ones too; ours stay."""
    record = RequestRecord("0198c0de-1111-7000-8000-000000000000", datetime.now(UTC))
    texts = {name for name, kind in COLUMN_TYPES.items() if kind is str}
    for name in texts:
        setattr(record, name, f"a {HEX}")
    sent(("x-api-key", HEX)).hide_in(record)
    assert {name for name in texts if getattr(record, name) == "a ***"} == set(TEXT_COLUMNS)
    assert texts - set(TEXT_COLUMNS) == {
        *("request_id", "method", "endpoint", "client_ip", "service_type", "provider"),
        *("cost_source", "error_type", "api_key_id", "node", "transport", "request_class"),
        "account_id",
    }


def test_the_same_headers_are_searched_for_each_time():
    """A second request with the key of the first is searched for it, also once it was forgotten."""
    for _ in range(2):
        assert sent(("x-api-key", HEX)).scrub(f"a {HEX}") == "a ***"
        assert sent(("authorization", f"Bearer {HEX}")).values == (HEX,)
        forget()


def test_what_is_added_after_a_search_is_searched_for():
    """A record that was clean is looked at again when a credential or a text came."""
    record = RequestRecord("0198c0de-1111-7000-8000-000000000000", datetime.now(UTC))
    record.model = f"a {HEX}"
    credentials = Credentials()
    credentials.hide_in(record)
    assert record.model == f"a {HEX}"
    credentials.add(HEX)
    credentials.hide_in(record)
    record.user_id = HEX
    credentials.hide_in(record)
    assert (record.model, record.user_id) == ("a ***", "***")


BODY = json.dumps(
    {
        "model": "claude-sonnet-4-5",
        "mcp_servers": [{"url": "https://mcp", "authorization_token": HEX}],
        "tools": [{"type": "mcp", "headers": {"Authorization": "Bearer secret-of-another-1"}}],
        "messages": [{"role": "user", "content": "x" * 9000}],
    }
).encode()


def head(credentials: Credentials) -> RequestHead:
    """Return the head of a request with *credentials*."""
    empty = RequestHead(*["" for _ in RequestHead._fields])
    return empty._replace(named={"content-type": "application/json"}, credentials=credentials)


@pytest.mark.parametrize("size", [*range(1, 20), 50, 1000, 65536])
def test_credentials_in_a_body_are_found_wherever_it_is_cut(size):
    """What a request sends along for others is secret, too, in pieces of any size."""
    credentials = Credentials()
    record = RequestRecord("id", datetime.now(UTC))
    observer = Secrecy(record, head(credentials))
    for at in range(0, len(BODY), size):
        observer.request_chunk(BODY[at : at + size], 0.0)
    observer.request_chunk(b"", 0.0)
    record.error_message = f"MCP refused {HEX} and secret-of-another-1, not claude-sonnet-4-5"
    observer.end(record, None)
    assert record.error_message == "MCP refused *** and ***, not claude-sonnet-4-5"


def test_decoded_undoes_what_stands_one_in_another():
    """Percent-encoding, JSON and HTML escapes are undone."""
    assert list(decodings("%2541")) == ["A"]
    assert list(decodings("\\\\u0041&#66;"))[-1] == "AB"
    assert list(decodings("plain")) == []


def test_spans_are_joined():
    """Spans that overlap or touch are one."""
    assert joined([(5, 7), (1, 3), (2, 5), (9, 10)]) == [(1, 7), (9, 10)]

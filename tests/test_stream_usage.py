"""Asking for usage on a client's behalf, and hiding that it was asked for."""

from __future__ import annotations

import orjson
import pytest
from growth_support import PROPORTIONAL, growth

from ccproxy_flask.dialects.stream_usage import UsageRemover, asking_for_usage

DELTA = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}],"usage":null}\n\n'
SHOWN_DELTA = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}]}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_option_is_added_and_the_rest_stays_byte_for_byte() -> None:
    """The request keeps its own bytes behind the added option."""
    body = b'{ "model": "m", "stream":true, "n": 1.0}'

    changed = asking_for_usage(body)

    assert changed is not None
    assert changed.endswith(b' "model": "m", "stream":true, "n": 1.0}')
    assert orjson.loads(changed)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"{not json",
        b'{"model":"m"}',
        b'{"stream":false}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":false}}',
    ],
)
def test_other_requests_stay_as_they_are(body: bytes) -> None:
    """Nothing is added where it is no stream, no JSON, or the client has said what it wants."""
    assert asking_for_usage(body) is None


def test_other_stream_options_are_kept() -> None:
    """An option the client set stays set."""
    changed = asking_for_usage(b'{"stream":true,"stream_options":{"include_obfuscation":false}}')

    assert changed is not None
    assert orjson.loads(changed)["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


@pytest.mark.parametrize("cut", range(len(DELTA + USAGE + DONE)))
def test_answer_cut_anywhere_shows_no_trace_of_the_option(cut: int) -> None:
    """The client sees the stream it would have seen without the option."""
    stream = DELTA + USAGE + DONE
    remover = UsageRemover()

    shown = remover.feed(stream[:cut]) + remover.feed(stream[cut:]) + remover.close()

    assert shown == SHOWN_DELTA + DONE


def test_text_that_speaks_of_usage_is_not_touched() -> None:
    """Only the top-level field goes, not the same words in a text or a tool's arguments."""
    event = orjson.dumps(
        {"choices": [{"delta": {"content": '"usage":null'}, "usage": None}], "usage": None}
    )
    remover = UsageRemover()

    shown = remover.feed(b"data: " + event + b"\n\n")

    assert orjson.loads(shown[6:]) == {
        "choices": [{"delta": {"content": '"usage":null'}, "usage": None}]
    }


@pytest.mark.parametrize(
    "event", [b": ping\n\n", b"data: {cut\n\n", b'data: "usage"\n\n', USAGE[:30]]
)
def test_everything_else_passes(event: bytes) -> None:
    """Comments, broken events and incomplete ends pass as they are."""
    remover = UsageRemover()

    assert remover.feed(event) + remover.close() == event


def test_event_without_an_end_is_searched_once() -> None:
    """What is held back is not searched again with every piece that comes."""

    def feed(pieces: int) -> None:
        remover = UsageRemover()
        remover.feed(b"data: ")
        for _ in range(pieces):
            assert remover.feed(b"x" * 100) == b""
        assert len(remover.feed(b"\n") + remover.feed(b"\n")) == 100 * pieces + 8

    assert growth(feed, 10_000) < PROPORTIONAL


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_end_of_an_event_cut_anywhere_is_seen(end: bytes) -> None:
    """An event is shown when its last byte has come, however its end was cut."""
    for cut in range(len(end) + 1):
        remover = UsageRemover()
        shown = remover.feed(b"data: 1" + end[:cut]) + remover.feed(end[cut:])
        assert shown == b"data: 1" + end

"""Server-Sent Events and JSON lines, in every shape the standard allows."""

from __future__ import annotations

import pytest
from usage_support import SSE, figures, read, read_in_every_way

START = (
    '{"type":"message_start","message":{"model":"m","usage":{"input_tokens":3,"output_tokens":1}}}'
)
TEXT = '{"type":"content_block_delta","delta":{"type":"text_delta","text":"h\\u00e9 \U0001f600"}}'
STOP = '{"type":"message_delta","delta":{"stop_reason":"end"},"usage":{"output_tokens":4}}'
END = '{"type":"message_stop"}'
ALL = (START, TEXT, TEXT, STOP, END)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("space", ["", " "])
def test_line_ends_and_spaces(line_end, space):
    """A line ends with LF, CRLF or CR, and one space after the colon means nothing."""
    body = "".join(
        f"event: x{line_end}id: 1{line_end}data:{space}{item}{line_end}{line_end}" for item in ALL
    )
    answer = read_in_every_way("anthropic_messages", body.encode())
    assert (figures(answer), answer.complete) == ((3, 4, 0, 0), True)


def test_byte_order_mark_and_unknown_lines():
    """A byte order mark, comments, retry lines and unknown fields are passed over."""
    body = "\ufeff: hello\nretry: 10\n" + "".join(f"data: {item}\n\nwhat\n" for item in ALL)
    assert figures(read_in_every_way("anthropic_messages", body.encode())) == (3, 4, 0, 0)
    first = ("\ufeff" + "".join(f"data: {item}\n\n" for item in ALL)).encode()
    assert figures(read("anthropic_messages", first)) == (3, 4, 0, 0)


def test_event_with_several_lines_of_data():
    """Lines of data of one event belong together, wherever JSON allows a line end."""
    several = [item.replace(",", ",\ndata: ") for item in ALL]
    body = "".join(f"data: {item}\n\n" for item in several).encode()
    answer = read("anthropic_messages", body)
    assert (figures(answer), answer.complete) == ((3, 4, 0, 0), True)
    for size in (1, 5, 64):
        assert read("anthropic_messages", body, size=size) == answer


def test_events_without_a_blank_line_between_them():
    """Some servers forget the blank line: each line of data that is whole stands alone."""
    body = "".join(f"data: {item}\n" for item in ALL).encode()
    assert figures(read_in_every_way("anthropic_messages", body)) == (3, 4, 0, 0)


def test_what_is_no_json_is_passed_over():
    """Keep-alive texts, broken JSON and JSON that is no object harm no other event."""
    odd = ("ping", '{"type":', "[1,2]", "7", '"text"', "", "null", "{}", "[DONE")
    body = "".join(f"data: {noise}\n\ndata: {item}\n\n" for noise in odd for item in ALL).encode()
    for size in (1, 10, 1 << 20):
        assert figures(read("anthropic_messages", body, size=size)) == (3, 4, 0, 0)


def test_long_lines_take_no_memory_and_lose_nothing():
    """A line of megabytes is skimmed as it comes, and the events around it are read."""
    long = '{"type":"content_block_start","content_block":{"data":"' + "x" * 3_000_000 + '"}}'
    comment = ": " + "y" * 200_000
    body = f"data: {START}\n\n{comment}\n\ndata: {long}\n\ndata: {STOP}\n\ndata: {END}\n\n".encode()
    for size in (997, 65_536, 1 << 23):
        answer = read("anthropic_messages", body, SSE, size=size)
        assert (figures(answer), answer.complete) == ((3, 4, 0, 0), True)

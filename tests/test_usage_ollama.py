"""Ollama's own API, by our own small examples."""

from __future__ import annotations

import orjson
from usage_support import (
    JSON,
    NDJSON,
    answer_reader,
    figures,
    first_content,
    read,
    read_in_every_way,
)

LINE = {"model": "qwen-test", "message": {"role": "assistant", "content": "Hé"}, "done": False}
LAST = {
    "model": "qwen-test",
    "message": {"role": "assistant", "content": ""},
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 26,
    "eval_count": 290,
}


def lines(*items):
    """Return *items* as JSON lines."""
    return b"".join(orjson.dumps(item) + b"\n" for item in items)


def test_stream_of_lines():
    """The line that says it is done has the figures."""
    answer = read_in_every_way("ollama", lines(LINE, LINE, LAST), NDJSON)
    assert (figures(answer), answer.model) == ((26, 290, 0, 0), "qwen-test")
    assert (answer.finish_reason, answer.streaming, answer.complete) == ("stop", True, True)


def test_one_document():
    """An answer that is not streamed is one object; an embedding has no end to speak of."""
    answer = read_in_every_way("ollama", orjson.dumps(LAST), JSON)
    assert (figures(answer), answer.streaming, answer.complete) == ((26, 290, 0, 0), False, True)
    embedding = {"model": "e", "embeddings": [[0.5]], "prompt_eval_count": 8}
    assert figures(read("ollama", orjson.dumps(embedding), JSON)) == (8, 0, 0, 0)


def test_stream_that_breaks_off():
    """Without the last line there are no figures."""
    answer = read("ollama", lines(LINE, LINE), NDJSON)
    assert (answer.usage, answer.model, answer.complete) == (None, "qwen-test", False)


def test_error_line_and_error_body():
    """An error is a text, in a line or alone."""
    answer = read_in_every_way("ollama", lines(LINE, {"error": "out of memory"}), NDJSON)
    assert (answer.error_type, answer.error_message) == ("stream_error", "out of memory")
    answer = read_in_every_way("ollama", b'{"error":"no such model"}', JSON, 404)
    assert (answer.error_type, answer.error_message) == ("not_found", "no such model")


def test_content_is_seen_with_the_line_that_brings_it():
    """Thinking is content, an empty message is not."""
    empty = {**LINE, "message": {"content": ""}}
    thinking = {**LINE, "message": {"content": "", "thinking": "Hm"}}
    reader = answer_reader("ollama", 200, NDJSON, None)
    assert first_content(reader, [lines(item) for item in (empty, thinking)]) == 1

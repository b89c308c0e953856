"""Feed the readers of ``usage`` in every way bytes can come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.dialects import BY_NAME, DIALECTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ccproxy_flask.usage import AnswerReader, RequestReader, ResponseFacts

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"
NDJSON = "application/x-ndjson"


def answer_reader(
    api: str, status: int, kind: str | None, coding: str | None, small_json: int = 64 << 10
) -> AnswerReader:
    """Return a reader for an answer in the wire format *api*; "other" is what generates nothing."""
    dialect, generates = BY_NAME.get(api, DIALECTS[-1]), api in BY_NAME
    return dialect.answer_reader(status, kind, coding, generates=generates, small_json=small_json)


def request_reader(
    api: str, headers: Mapping[str, str], path: str, small_json: int = 64 << 10
) -> RequestReader:
    """Return a reader for a request in the wire format *api*."""
    dialect, generates = BY_NAME.get(api, DIALECTS[-1]), api in BY_NAME
    return dialect.request_reader(headers, path, generates=generates, small_json=small_json)


def pieces_of(body: bytes, size: int) -> Iterator[bytes]:
    """Yield *body* in pieces of *size* bytes."""
    return (body[at : at + size] for at in range(0, len(body), size))


def read(
    api: str,
    body: bytes,
    content_type: str | None = SSE,
    status: int = 200,
    encoding: str | None = None,
    size: int = 1 << 20,
    small_json: int = 64 << 10,
) -> ResponseFacts:
    """Return what is read of *body* when it comes in pieces of *size* bytes."""
    reader = answer_reader(api, status, content_type, encoding, small_json=small_json)
    for piece in pieces_of(body, size):
        reader.feed(piece)
    return reader.close()


def read_in_every_way(
    api: str, body: bytes, content_type: str | None = SSE, status: int = 200
) -> ResponseFacts:
    """Return what is read of *body*; it must be the same cut anywhere, parsed or skimmed."""
    whole = read(api, body, content_type, status)
    for cut in range(1, len(body)):
        reader = answer_reader(api, status, content_type, None)
        reader.feed(body[:cut])
        reader.feed(body[cut:])
        assert reader.close() == whole, cut
    for small_json in (64 << 10, 0):
        for size in (1, 2, 3, 7, 1 << 20):
            got = read(api, body, content_type, status, size=size, small_json=small_json)
            assert got == whole, (size, small_json)
    return whole


def events(*items: dict[str, Any] | str) -> bytes:
    """Return *items* as Server-Sent Events; a text is a payload as it is."""
    return b"".join(b"data: " + _payload(item) + b"\n\n" for item in items)


def _payload(item: dict[str, Any] | str) -> bytes:
    return item.encode() if isinstance(item, str) else orjson.dumps(item)


def first_content(reader: AnswerReader, items: list[bytes]) -> int | None:
    """Return the index of the first of *items* with which content is seen."""
    for index, item in enumerate(items):
        reader.feed(item)
        if reader.content_seen:
            return index
    return None


def figures(answer: ResponseFacts) -> tuple[int, int, int, int] | None:
    """Return the four token figures of *answer*: input, output, cache read, cache write."""
    used = answer.usage
    if used is None:
        return None
    return used.tokens_input, used.tokens_output, used.cache_read_tokens, used.cache_write_tokens

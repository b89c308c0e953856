"""What is shown of a kept exchange: parsed, raw, or event by event; and whether it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Literal

import orjson

from . import context
from .assembly import answer_of, as_json, events_of
from .coding import compressed, decoded
from .conversation import parsed_request, said_in, texts_of
from .difference import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .day_file import Exchange, Hit

Json = dict[str, Any]
_MOST_EVENTS = 20_000
# As a whole, or to the end where it has none: no part tries one stretch of text twice.
_STRING = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*)(?:"(\s*:)?|\\?\Z)', re.DOTALL)
_EXCERPT, _BEFORE = 240, 60  # characters


def said(exchange: Exchange, body: Literal["request", "response"]) -> bytes:
    """Return what a *body* says: decoded where it was compressed, without secrets."""
    facts = exchange.facts[body]
    pieces = exchange.request if body == "request" else exchange.response
    whole = b"".join(pieces)
    if facts["way"] == "wire":
        read = decoded(whole, facts.get("encoding", ""))
        return whole if read is None else read
    return whole


def wire(exchange: Exchange, body: Literal["request", "response"]) -> bytes | None:
    """Return a *body* byte for byte as it was on the wire, None where a secret was taken out."""
    facts = exchange.facts[body]
    whole = b"".join(exchange.request if body == "request" else exchange.response)
    if facts["way"] == "scrubbed":
        return None
    return whole if facts["way"] in ("wire", "plain") else compressed(whole, facts["way"])


def verified(exchange: Exchange) -> dict[str, str]:
    """Return of each body whether it is what was on the wire: ``ok``, ``scrubbed``, ``damaged``."""
    return {body: _verified(exchange, body) for body in ("request", "response")}


def _verified(exchange: Exchange, body: Literal["request", "response"]) -> str:
    again = wire(exchange, body)
    if again is None:
        return "scrubbed"
    same = hashlib.sha256(again).hexdigest() == exchange.facts[body]["sha256"]
    return "ok" if same else "damaged"


def content(exchange: Exchange, document: object = None, prompt: Json | None = None) -> Json:
    """Return the exchange parsed (docs/logs-api.md): what was asked, what was answered.

    *document* is its request made whole, and *prompt* says where that comes from
    (:mod:`.whole_prompts`).
    """
    facts = exchange.facts
    response = said(exchange, "response")
    api = facts.get("api", "other")
    document = as_json(said(exchange, "request")) if document is None else document
    conversation = parsed_request(api, document)
    return {
        "request_id": exchange.request_id,
        "at": exchange.at,
        **{name: facts.get(name) for name in ("method", "target", "api", "provider", "status")},
        "request_headers": facts["request_headers"],
        "response_headers": facts["response_headers"],
        "request": facts["request"],
        "response": facts["response"],
        "end": facts["end"],
        **conversation,
        "prompt": prompt,
        "answer": answer_of(api, response, facts["response"]["streams"]),
        "error": _error(response, facts),
    }


def first_words(api: str, document: object) -> str | None:
    """Return how the person began the conversation that a request carries."""
    return context.first_words(parsed_request(api, document))


def _error(response: bytes, facts: Json) -> object:
    if (facts.get("status") or 0) < 400:
        return None
    document = as_json(response)
    return document if document is not None else response[:4096].decode("utf-8", "replace")


def events(exchange: Exchange) -> Json:
    """Return the pieces of the response with their times, and the events where it was a stream.

    ``{"chunks": [[offset, µs]], "events": [{"offset", "micros", "data"}]}``; µs since the request
    came in.
    """
    found: Json = {"chunks": [list(pair) for pair in exchange.times], "events": []}
    if not exchange.facts["response"]["streams"]:
        return found
    body = said(exchange, "response")
    times = _times(exchange)
    at = 0
    for line in body.split(b"\n"):
        for data in events_of(line)[:1]:
            end = at + len(line)
            found["events"].append({"offset": at, "micros": _at(times, end), "data": data})
        at += len(line) + 1
        if len(found["events"]) >= _MOST_EVENTS:
            break
    return found


def offsets(exchange: Exchange) -> list[int]:
    """Return where the pieces of the response begin in what it says, as far as that is known."""
    found = [offset for offset, _ in _times(exchange)]
    return found if len(found) == len(exchange.times) else [0]


def _times(exchange: Exchange) -> list[tuple[int, int]]:
    """Return (offset in what the response says, µs) of its pieces."""
    said_at = exchange.facts["response"].get("said_at")
    if said_at is None:
        return list(exchange.times)
    return list(zip(said_at, (micros for _, micros in exchange.times), strict=False))


def _at(times: Sequence[tuple[int, int]], offset: int) -> int | None:
    """Return when the byte before *offset* came."""
    index = bisect_left(times, (offset, -1))
    return times[index - 1][1] if index else None


def excerpt(hit: Hit, question: str) -> str:
    """Return the words that were found around those asked for."""
    texts = [hit.words] if hit.words is not None else _texts_of(hit)
    words = question.lower().split()
    for text in (*texts, "\n".join(texts)):
        lowered = text.lower()
        if all(word in lowered for word in words):
            return _shown(text, min(lowered.find(word) for word in words))
    return _shown(texts[0], 0) if texts else ""


def _texts_of(hit: Hit) -> list[str]:
    """Return what was said there: by whom it was, where the piece is a message as a whole."""
    json, api = hit.json or b"", str(hit.facts.get("api", "other"))
    message = {said_in(api).messages: [as_json(json.strip(b", \t\r\n"))]}
    texts = [
        text for part, text in texts_of(parsed_request(api, message), None) if part == hit.part
    ]
    return texts or strings_in(json)


def _shown(text: str, found: int) -> str:
    at = max(0, found - _BEFORE)
    shown = " ".join(text[at : at + _EXCERPT].split())
    return ("…" if at else "") + shown + ("…" if at + _EXCERPT < len(text) else "")


def strings_in(json: bytes) -> list[str]:
    """Return the strings of a piece of JSON that are values, as they read."""
    found = []
    for match in _STRING.finditer(json):
        if match[2] is None:  # not the name of a member
            with contextlib.suppress(orjson.JSONDecodeError):
                found.append(str(orjson.loads(match[1] + b'"')))
    return found


def compared(api: str, before: tuple[str, object], after: tuple[str, object]) -> Json:
    """Return how *after* differs from *before* (:mod:`.difference`): (request id, document)."""
    found = difference(api, before[1], after[1])
    return {"before": before[0], "after": after[0], **found}

"""Make of what a worker handed on what is kept: decoded, without secrets, cut into pieces. Pure."""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask import redact
from ccproxy_flask.credentials import Credentials
from ccproxy_flask.usage.decode import Decoder, Undecodable

from . import conversation
from .cache_diagnostics import diagnostics, may_tell
from .cache_parts import prompt_of
from .coding import decoded, way_of
from .context import context_of
from .day_file import Exchange, Text
from .pieces import cut, cut_stream
from .secrets import Span, secret_spans, stream_spans, take_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]
_STREAMS = ("text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl")
_SCRUBBED, _WIRE = "scrubbed", "wire"
_LONGEST_TARGET = 2048
_SLICE = 1 << 20


@dataclass(slots=True)
class RawExchange:
    """One exchange as a worker handed it on, secrets and all: never written anywhere."""

    request_head: dict[str, Any] = field(default_factory=dict)
    response_head: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    request: list[bytes] = field(default_factory=list)
    response: list[bytes] = field(default_factory=list)
    times: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class _Body:
    """What is kept of a body, and how the bytes of the wire are made of it."""

    pieces: list[bytes]
    said: bytes
    facts: dict[str, Any]
    spans: Sequence[Span] = ()


AreNew = Callable[["Sequence[bytes]"], "Sequence[bool]"]
"""Tells of each of some pieces whether it is not kept yet."""


def assembled(raw: RawExchange, are_new: AreNew) -> Exchange:
    """Return what is kept of *raw*. Raises TooLarge."""
    head, answer = raw.request_head, raw.response_head
    credentials = _credentials(head)
    request = _body(
        b"".join(raw.request),
        _header(head, "content-encoding"),
        lambda said, pieces: _request_spans(said, pieces, head, credentials, are_new),
    )
    streams = _header(answer, "content-type").partition(";")[0].strip().lower() in _STREAMS
    response = _body(
        b"".join(raw.response),
        _header(answer, "content-encoding"),
        lambda said, _: stream_spans(said, credentials),
        cut_stream if streams else cut,
    )
    times = _shifted(raw.times, response.spans) if "encoding" not in response.facts else raw.times
    if streams and "encoding" in response.facts:
        response.facts["said_at"] = _said_at(raw.response, response.facts["encoding"])
    facts = _facts(raw, credentials) | {
        "request": request.facts,
        "response": response.facts | {"streams": streams},
    }
    api = head.get("api", "other")
    document = as_json(request.said)
    asked = conversation.parsed_request(api, document)
    facts["context"] = context_of(asked)
    prompt = prompt_of(api, document, facts["request_headers"])
    told = diagnostics(_documents(response.said, streams)) if may_tell(response.said) else {}
    facts["cache"] = {"settings": prompt.settings, "marks": prompt.marks, **told}
    session_id = raw.end.get("session_id")
    said = answer_of(api, response.said, streams)
    texts = _texts(asked, said, request, are_new)
    return Exchange(
        head["request_id"],
        head["at"],
        session_id,
        facts,
        request.pieces,
        response.pieces,
        times,
        texts,
        prompt.parts,
        conversation=asked,
        answer=said,
    )


def _credentials(head: dict[str, Any]) -> Credentials:
    """Return the credentials of an exchange, what was injected too."""
    found = Credentials()
    for headers in (head.get("sent_headers", ()), head.get("headers", ())):
        found.add_headers([(name.lower(), value) for name, value in headers])
    found.add_query(str(head.get("target", "")).partition("?")[2])
    return found


def _body(
    wire: bytes,
    encoding: str,
    spans_of: Callable[[bytes, list[bytes]], list[Span]],
    cut_up: Callable[[bytes], list[bytes]] = cut,
) -> _Body:
    said = decoded(wire, encoding)
    facts: dict[str, Any] = {"bytes": len(wire), "sha256": hashlib.sha256(wire).hexdigest()}
    if encoding:
        facts["encoding"] = redact.kept_headers([("content-encoding", encoding[:64])])[0][1]
    if said is None and not _is_text(wire):
        # Nobody can look for secrets in it, but somebody may read it one day.
        return _Body([], b"", facts | {"way": _SCRUBBED, "secrets": ["unreadable"]})
    readable = wire if said is None else said
    pieces = cut_up(readable)
    spans = spans_of(readable, pieces)
    if spans:
        clean = take_out(readable, spans)
        kinds = sorted({span.kind for span in spans})
        return _Body(cut(clean), clean, facts | {"way": _SCRUBBED, "secrets": kinds}, spans)
    way = "plain" if said is None or said is wire else way_of(wire, said, encoding)
    if way is None:  # nobody can say how these bytes were made
        return _Body(_slices(wire), readable, facts | {"way": _WIRE})
    return _Body(pieces, readable, facts | {"way": way})


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _slices(wire: bytes) -> list[bytes]:
    return [wire[at : at + _SLICE] for at in range(0, len(wire), _SLICE)]


def _request_spans(
    said: bytes,
    pieces: Sequence[bytes],
    head: dict[str, Any],
    credentials: Credentials,
    are_new: AreNew,
) -> list[Span]:
    """Return where secrets are: what came before was searched, if not for these credentials."""
    if "form-urlencoded" in _header(head, "content-type"):
        credentials.add_fields(said.decode("latin-1"))
    else:
        credentials.add_members(said)
    if credentials.are_in(said.decode("latin-1")):
        return secret_spans(said, credentials)
    spans: list[Span] = []
    at = run_begin = 0
    run: list[bytes] = []
    for piece, is_new in [*zip(pieces, are_new(pieces), strict=True), (b"", False)]:
        if is_new:
            run_begin = run_begin if run else at
            run.append(piece)
        elif run:
            found = secret_spans(b"".join(run), credentials)
            spans += [Span(b + run_begin, e + run_begin, kind) for b, e, kind in found]
            run = []
        at += len(piece)
    return spans


def _said_at(chunks: Sequence[bytes], encoding: str) -> list[int]:
    """Return how much of what a compressed stream says was there before each of its *chunks*."""
    found, size = [], 0
    try:
        decoder = Decoder(encoding)
        for chunk in chunks:
            found.append(size)
            size += sum(len(piece) for piece in decoder.decode(chunk))
    except Undecodable:
        return []
    return found


def _shifted(times: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Return *times* with the offsets that they have after *spans* were taken out."""
    if not spans:
        return list(times)
    ends, shifts, total = [], [], 0
    for begin, end, kind in spans:
        total += len(kind) + 9 - (end - begin)
        ends.append(end)
        shifts.append(total)
    found, last = [], 0
    for offset, micros in times:
        behind = bisect_right(ends, offset)
        last = max(last, offset + (shifts[behind - 1] if behind else 0))
        found.append((last, micros))
    return found


def _facts(raw: RawExchange, credentials: Credentials) -> dict[str, Any]:
    head, answer = raw.request_head, raw.response_head
    target = str(head.get("target", ""))[:_LONGEST_TARGET]
    path, mark, query = target.partition("?")
    facts: dict[str, Any] = {name: head[name] for name in ("api", "provider") if name in head}
    facts |= {
        "method": redact.kept_method(str(head.get("method", ""))),
        "target": redact.kept_path(path, _LONGEST_TARGET) + mark + (redact.kept_query(query) or ""),
        "request_headers": redact.kept_headers(head.get("headers", ())),
        "status": answer.get("status"),
        "response_headers": redact.kept_headers(answer.get("headers", ())),
        "end": raw.end,
    }
    text = orjson.dumps(facts)
    spans = secret_spans(text, credentials)
    cleaned: dict[str, Any] = orjson.loads(take_out(text, spans)) if spans else facts
    return cleaned


def _texts(
    asked: dict[str, Any], answer: dict[str, Any] | None, request: _Body, are_new: AreNew
) -> list[Text]:
    """Return the words that this exchange brought: the answer, and the request's new parts."""
    known = zip(request.pieces, are_new(request.pieces), strict=True)
    new = [(at, piece) for at, (piece, is_new) in enumerate(known) if is_new]
    found = _brought(conversation.texts_of(asked, None), new)
    said = [] if answer is None else [Text("answer", conversation.words_of(answer["blocks"]))]
    return [*found, *(each for each in said if each.words.strip())]


def _brought(texts: Iterable[tuple[str, str]], new: Sequence[tuple[int, bytes]]) -> list[Text]:
    """Return those of *texts* that stand in the *new* pieces, mostly in the same order: each from
    the piece in which it begins to the one in which the next one does."""
    whole = b"".join(piece for _, piece in new)
    ends = list(itertools.accumulate(len(piece) for _, piece in new))
    found: list[Text] = []
    at = 0
    for part, text in texts:
        needle = _needle(text)
        if (place := whole.find(needle, at)) < 0:
            place = whole.find(needle)
        if place >= 0:
            at = max(at, place)
            first = new[bisect_right(ends, place)][0]
            if found and found[-1].first is not None and found[-1].first <= first:
                found[-1] = found[-1]._replace(last=first)
            found.append(Text(part, text, first, new[-1][0]))
    return found


def _needle(text: str) -> bytes:
    """Return a beginning of *text* as it stands in JSON."""
    line = text.partition("\n")[0][:48]
    return orjson.dumps(line)[1:-1]


def as_json(said: bytes) -> object:
    """Return what the JSON *said* stands for, None where it is none."""
    try:
        return orjson.loads(said)
    except orjson.JSONDecodeError:
        return None


def events_of(said: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects that the lines of a stream carry."""
    lines = (line.strip().removeprefix(b"data:").strip() for line in said.split(b"\n"))
    found = (as_json(line) for line in lines if line.startswith(b"{"))
    return [event for event in found if isinstance(event, dict)]


def answer_document(api: str, said: bytes, streams: bool) -> Json | None:
    """Return the JSON of the answer in the body *said*, put together where it was a stream."""
    if streams:
        return conversation.put_together(api, events_of(said))
    document = as_json(said)
    if isinstance(document, list):  # Gemini without ``alt=sse``
        return conversation.put_together(api, [e for e in document if isinstance(e, dict)])
    return document if isinstance(document, dict) else None


def answer_of(api: str, said: bytes, streams: bool) -> Json | None:
    """Return the answer in the body *said*, in the shape of :mod:`ccproxy_flask.dialects.said`."""
    return conversation.parsed_answer(api, answer_document(api, said, streams))


def _documents(said: bytes, streams: bool) -> list[Any]:
    return list(events_of(said)) if streams else [as_json(said)]


def _header(head: dict[str, Any], name: str) -> str:
    headers: Iterable[Sequence[str]] = head.get("headers", ())
    return ", ".join(value for each, value in headers if each.lower() == name)

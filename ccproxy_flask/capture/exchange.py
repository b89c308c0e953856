"""Exchanges as they are gathered from a tracer's calls, and what of them may be kept."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..errors import ERROR_TYPES
from .base import Headers, pairs
from .bodies import Redactor, Shown, decoded, media_type
from .streams import ShownEvent, is_stream, shown_events, shown_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STATUS = ":status"
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ORIGIN = re.compile(r"\A[a-z]+://[^/?]*")
_MOST_OPEN = 4096
_MOST_ENDED = 1024
_MOST_HELD_BYTES = 64 << 20
_CHUNK_BYTES = 128  # what the place and time of a chunk take
_BEGAN_NS = time.time_ns() - time.perf_counter_ns()


def now_ns() -> int:
    """Return the time in nanoseconds since 1970; never goes back."""
    return _BEGAN_NS + time.perf_counter_ns()


@dataclass(slots=True)
class Part:
    """A request or an answer: its head, and its body as far as it is kept."""

    headers: Sequence[tuple[str, str]]
    at_ns: int
    body: bytes = b""
    is_cut: bool = False

    def named(self, name: str) -> str:
        """Return the first value of the header *name*, empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(slots=True)
class CapturedExchange:
    """One request and its answer, nothing hidden yet."""

    request_id: str
    began_ns: int
    method: str = ""
    url: str = ""
    request: Part | None = None
    status: int | None = None
    answer: Part | None = None
    is_stream: bool = False
    chunks: list[tuple[int, int]] = field(default_factory=list)
    """(nanoseconds, bytes) of each piece of a stream."""
    pieces: list[bytes] = field(default_factory=list)
    kept_bytes: int = 0
    is_full: bool = False
    """No more is kept of a stream: what follows a gap could be the rest of something secret."""
    held_bytes: int = 0
    """What all of it takes in memory, roughly."""
    total_chunks: int = 0
    total_bytes: int = 0
    error: tuple[str, str] | None = None
    ended_ns: int | None = None


class ExchangeTracer:
    """Gathers the calls for each exchange, in bounded memory; subclasses get them whole.

    Of each body at most *max_body_bytes* are kept, and less where many exchanges are in flight.
    *clock* says the time in nanoseconds.
    """

    def __init__(self, max_body_bytes: int = 1 << 20, clock: Callable[[], int] = now_ns) -> None:
        self._limit, self._clock = max_body_bytes, clock
        self._open: OrderedDict[str, CapturedExchange] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()
        self._held_bytes = 0
        self._closed = False

    def began(self, exchange: CapturedExchange) -> None:
        """A request is there; its answer is not."""

    def ended(self, exchange: CapturedExchange) -> None:
        """An exchange is over."""

    def trace_request(
        self, request_id: str, method: str, url: str, headers: Headers, body: bytes | None
    ) -> None:
        """Take a request as it is sent to the upstream at *url*."""
        if (exchange := self._of(request_id)) is not None:
            exchange.method, exchange.url = method, url
            exchange.request = self._part(exchange, headers, body)
            self.began(exchange)

    def trace_response(
        self, request_id: str, status: int, headers: Headers, body: bytes | None
    ) -> None:
        """Take a whole answer; the exchange is over."""
        if (exchange := self._of(request_id)) is not None:
            exchange.status = status
            exchange.answer = self._part(exchange, headers, body)
            exchange.total_bytes = len(body or b"")
            self._end(exchange)

    def trace_stream_start(self, request_id: str, headers: Headers) -> None:
        """Take the head of a streamed answer."""
        if (exchange := self._of(request_id)) is not None:
            found = pairs(headers)
            text = next((value for name, value in found if name == STATUS), "200")
            exchange.status = int(text) if text.isdecimal() else None
            real = [pair for pair in found if pair[0] != STATUS]
            exchange.answer = self._part(exchange, real, b"")
            exchange.is_stream = True

    def trace_stream_chunk(self, request_id: str, chunk: bytes, chunk_number: int) -> None:
        """Take one piece of it, as it came off the wire; the first has the number 1."""
        if (exchange := self._of(request_id)) is None:
            return
        exchange.is_stream = True
        exchange.total_chunks = max(chunk_number, exchange.total_chunks)
        exchange.total_bytes += len(chunk)
        exchange.is_full = exchange.is_full or self._room() <= 0
        if exchange.is_full:
            return
        exchange.chunks.append((self._clock(), len(chunk)))
        kept = bytes(chunk[: max(0, min(self._limit - exchange.kept_bytes, self._room()))])
        if kept:
            exchange.pieces.append(kept)
            exchange.kept_bytes += len(kept)
        self._hold(exchange, len(kept) + 2 * _CHUNK_BYTES)

    def trace_stream_complete(self, request_id: str, total_chunks: int, total_bytes: int) -> None:
        """The stream is over, and so is the exchange; also where it was cut short."""
        if (exchange := self._of(request_id)) is not None:
            exchange.is_stream = True
            exchange.total_chunks, exchange.total_bytes = total_chunks, total_bytes
            self._end(exchange)

    def trace_error(self, request_id: str, error_type: str, message: str) -> None:
        """Take what went wrong in an exchange; its end is still to come."""
        if (exchange := self._of(request_id)) is not None:
            exchange.error = (error_type, message)

    def forget(self, request_id: str) -> None:
        """Give up an exchange of which a part was lost."""
        self._drop(request_id)
        self._remember(request_id)

    def close(self) -> None:
        """Write what is not over yet. Later calls of any method do nothing."""
        if not self._closed:
            while self._open:
                request_id = next(iter(self._open))
                self.ended(self._open[request_id])
                self._drop(request_id)
            self._closed = True

    def _of(self, request_id: str) -> CapturedExchange | None:
        found = self._open.get(request_id)
        if found is not None:
            return found
        if self._closed or request_id in self._over or not REQUEST_ID.fullmatch(request_id):
            return None
        if len(self._open) >= _MOST_OPEN:
            self.forget(next(iter(self._open)))
        found = self._open[request_id] = CapturedExchange(request_id, self._clock())
        return found

    def _part(self, exchange: CapturedExchange, headers: Headers, body: bytes | None) -> Part:
        whole, found = body or b"", pairs(headers)
        limit = max(0, min(self._limit, self._room()))
        size = sum(len(name) + len(value) + 64 for name, value in found)
        self._hold(exchange, size + min(limit, len(whole)))
        return Part(found, self._clock(), bytes(whole[:limit]), len(whole) > limit)

    def _room(self) -> int:
        return _MOST_HELD_BYTES - self._held_bytes

    def _hold(self, exchange: CapturedExchange, size: int) -> None:
        exchange.held_bytes += size
        self._held_bytes += size

    def _drop(self, request_id: str) -> None:
        exchange = self._open.pop(request_id, None)
        if exchange is not None:
            self._held_bytes -= exchange.held_bytes

    def _end(self, exchange: CapturedExchange) -> None:
        exchange.ended_ns = self._clock()
        self._drop(exchange.request_id)
        self._remember(exchange.request_id)
        self.ended(exchange)

    def _remember(self, request_id: str) -> None:
        self._over[request_id] = None
        while len(self._over) > _MOST_ENDED:
            self._over.popitem(last=False)


class RedactedExchange(NamedTuple):
    """What may be kept of an exchange."""

    summary: dict[str, Any]
    """JSON: the exchange in parts."""
    request: str
    """The request as it was on the wire, but for what is hidden."""
    response: str
    """The same of the answer."""


def redacted_exchange(exchange: CapturedExchange, verbose: bool, preview: int) -> RedactedExchange:
    """Return what may be kept of *exchange*.

    Bodies are whole where *verbose*; else *preview* letters of them are there.
    """
    known = Redactor()
    bodies = [_learn(part, known) for part in (exchange.request, exchange.answer)]
    known.learn_url(exchange.url)
    request = _shown_body(exchange.request, bodies[0], known)
    events = _events(exchange, known)
    response = (
        Shown("".join(f"{event.text}\n\n" for event in events))
        if exchange.is_stream
        else _shown_body(exchange.answer, bodies[1], known)
    )
    summary = _summary(exchange, known)
    if exchange.request is not None:
        summary["request"] |= _told_body(exchange.request, request, verbose, preview)
    if exchange.answer is not None and not exchange.is_stream:
        summary["response"] |= _told_body(exchange.answer, response, verbose, preview)
    if exchange.is_stream:
        summary["stream"] = _told_stream(exchange, events if verbose else [], response, preview)
    return RedactedExchange(
        summary,
        _raw_request(exchange, known, _cut(request.text, verbose, preview)),
        _raw_response(exchange, known, _cut(response.text, verbose, preview)),
    )


def _learn(part: Part | None, known: Redactor) -> bytes | None:
    """Return the body of *part*, decoded; first of all let *known* see what is secret in it."""
    if part is None:
        return b""
    known.learn_headers(part.headers)
    body = decoded(part.body, part.named("content-encoding"))
    if body and "json" in media_type(part.named("content-type")):
        try:
            known.learn_value(orjson.loads(body))
        except orjson.JSONDecodeError:  # cut, or none; then nothing but words of it is shown
            return body
    return body


def _shown_body(part: Part | None, body: bytes | None, known: Redactor) -> Shown:
    if part is None:
        return Shown("")
    if body is None:
        return Shown(f"*** ({len(part.body)} bytes, encoded)")
    found = known.body(body, part.named("content-type"))
    if isinstance(found.value, list):
        values = shown_values(orjson.loads(body), known)
        return Shown(orjson.dumps(values).decode(), values)
    return found


def _events(exchange: CapturedExchange, known: Redactor) -> list[ShownEvent]:
    if not exchange.is_stream:
        return []
    answer = exchange.answer or Part([], exchange.began_ns)
    content_type = answer.named("content-type")
    if not is_stream(content_type):
        content_type = "text/event-stream"
    encoding = answer.named("content-encoding")
    return shown_events(exchange.pieces, content_type, encoding, known)


def _summary(exchange: CapturedExchange, known: Redactor) -> dict[str, Any]:
    began = datetime.fromtimestamp(exchange.began_ns / 1e9, UTC)
    found: dict[str, Any] = {
        "request_id": exchange.request_id,
        "timestamp": began.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "complete": exchange.ended_ns is not None and exchange.error is None,
        "duration_us": _offset(exchange, exchange.ended_ns),
    }
    if exchange.error is not None:
        kind, message = exchange.error
        kind = kind if kind in ERROR_TYPES else known.words(kind)
        found["error"] = {"type": kind, "message": known.text(message)}
    if exchange.request is not None:
        found["request"] = {
            "method": known.words(exchange.method),
            "url": known.target(exchange.url),
            "headers": known.headers(exchange.request.headers),
        }
    if exchange.answer is not None:
        found["response"] = {
            "status": exchange.status,
            "offset_us": _offset(exchange, exchange.answer.at_ns),
            "headers": known.headers(exchange.answer.headers),
        }
    return found


def _offset(exchange: CapturedExchange, at_ns: int | None) -> int | None:
    return None if at_ns is None else (at_ns - exchange.began_ns) // 1000


def _told_body(part: Part, body: Shown, verbose: bool, preview: int) -> dict[str, Any]:
    found: dict[str, Any] = {"body_bytes": len(part.body), "body_cut": part.is_cut}
    if not part.body:
        return found
    if verbose:
        return found | {"body": body.text if body.value is None else body.value}
    return found | {"body_preview": _cut(body.text, False, preview)}


def _told_stream(
    exchange: CapturedExchange, events: Sequence[ShownEvent], body: Shown, preview: int
) -> dict[str, Any]:
    start = exchange.answer.at_ns if exchange.answer is not None else exchange.began_ns
    chunks: list[dict[str, Any]] = [
        {"number": number, "offset_us": (at_ns - start) // 1000, "bytes": size}
        for number, (at_ns, size) in enumerate(exchange.chunks, 1)
    ]
    for event in events:
        shown = event.text if event.value is None else event.value
        chunks[event.chunk].setdefault("events", []).append(shown)
    return {
        "total_chunks": exchange.total_chunks,
        "total_bytes": exchange.total_bytes,
        "body_cut": exchange.kept_bytes < exchange.total_bytes,
        **({} if events else {"body_preview": _cut(body.text, False, preview)}),
        "chunks": chunks,
    }


def _cut(text: str, verbose: bool, preview: int) -> str:
    return text if verbose or len(text) <= preview else text[:preview] + "…"


def _raw_request(exchange: CapturedExchange, known: Redactor, body: str) -> str:
    if exchange.request is None:
        return ""
    target = known.target(exchange.url)
    target = _ORIGIN.sub("", target) or "/"
    line = f"{known.words(exchange.method)} {target} HTTP/1.1"
    return _raw(line, known.headers(exchange.request.headers), body)


def _raw_response(exchange: CapturedExchange, known: Redactor, body: str) -> str:
    if exchange.answer is None:
        return ""
    try:
        phrase = HTTPStatus(exchange.status or 0).phrase
    except ValueError:
        phrase = ""
    line = f"HTTP/1.1 {exchange.status} {phrase}".rstrip()
    return _raw(line, known.headers(exchange.answer.headers), body)


def _raw(line: str, headers: Sequence[tuple[str, str]], body: str) -> str:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers), "", body])

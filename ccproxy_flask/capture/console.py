"""The tracer that shows exchanges to a person as they pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from .exchange import CapturedExchange, ExchangeTracer, now_ns, redacted_exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Nothing a client or an upstream sends may steer the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class ConsoleTracer(ExchangeTracer):
    """Writes each request and each answer as a few lines of text, by calling *write*.

    Of a body it shows *preview* letters; all of it, and each event of a stream with its time,
    where *verbose*.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        verbose: bool = False,
        preview: int = 1000,
        max_body_bytes: int = 1 << 20,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        super().__init__(max_body_bytes, clock)
        self._write, self._verbose, self._preview = write, verbose, preview

    def began(self, exchange: CapturedExchange) -> None:
        """Show the request."""
        found = redacted_exchange(exchange, verbose=True, preview=self._preview).summary
        self._show(_request_lines(found, exchange.request_id))

    def ended(self, exchange: CapturedExchange) -> None:
        """Show the answer."""
        found = redacted_exchange(exchange, verbose=True, preview=self._preview).summary
        self._show(_response_lines(found, exchange.request_id, self._verbose))

    def _show(self, lines: Iterable[tuple[str, bool]]) -> None:
        """Write *lines*: (text, whether it is of a body)."""
        left = self._preview
        shown: list[str] = []
        for text, is_body in lines:
            if is_body and not self._verbose:
                if left <= 0:
                    continue
                if len(text) > left:
                    text = text[:left] + "…"  # noqa: PLW2901  the same line, shortened
                left -= len(text)
            shown.append(_CONTROL.sub("�", text))
        self._write("\n".join(shown))


def _request_lines(found: dict[str, Any], request_id: str) -> Iterator[tuple[str, bool]]:
    request = found["request"]
    yield f"→ {request_id} {request['method']} {request['url']}", False
    yield from _head(request["headers"])
    yield from _body(request)


def _response_lines(
    found: dict[str, Any], request_id: str, verbose: bool
) -> Iterator[tuple[str, bool]]:
    response, stream = found.get("response"), found.get("stream")
    status = response["status"] if response is not None else "no answer"
    took = "not over" if found["duration_us"] is None else f"{found['duration_us'] / 1000:.1f} ms"
    size = f", {stream['total_chunks']} chunks, {stream['total_bytes']} bytes" if stream else ""
    yield f"← {request_id} {status} {took}{size}", False
    if "error" in found:
        yield f"  ! {found['error']['type']}: {found['error']['message']}", False
    if response is not None:
        yield from _head(response["headers"])
        yield from _body(response)
    if stream is not None:
        yield from _chunks(stream["chunks"], verbose)


def _head(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, bool]]:
    for name, value in headers:
        yield f"  {name}: {value}", False


def _body(part: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    body = part.get("body")
    if body is None:
        return
    text = (
        body if isinstance(body, str) else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
    )
    for line in text.splitlines():
        yield f"  {line}", True
    if part["body_cut"]:
        yield "  … (cut)", False


def _chunks(chunks: Iterable[dict[str, Any]], verbose: bool) -> Iterator[tuple[str, bool]]:
    for chunk in chunks:
        if verbose:
            yield f"  +{chunk['offset_us']} µs, {chunk['bytes']} bytes", False
        for event in chunk.get("events", ()):
            yield f"  {event if isinstance(event, str) else orjson.dumps(event).decode()}", True

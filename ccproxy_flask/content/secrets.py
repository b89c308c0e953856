"""Take secrets out of what is kept: credentials of the exchange, and known shapes of keys. Pure.

Words stay as they are. What is taken out is replaced by a placeholder that names its kind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ccproxy_flask.credentials import Credentials
from ccproxy_flask.key_shapes import KEY_SHAPES, KeyShape
from ccproxy_flask.redact import looks_random, unquoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The table is made for short texts, where a word too many does no harm. Here a key must be as
# long as keys are, and look random: words are never taken for one.
_WHOLE: dict[str, str] = {
    "JWT": r"[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}",
    "PEM": r"(?:\\[nr]|[A-Za-z0-9+/=\r\n])*(?:-----END[ A-Z]{0,24} PRIVATE KEY-----)?",
}
# Not a part of a longer stretch, as there are in base64; but after an escape, or percent-encoded.
_BEGIN = r"(?:(?<![A-Za-z0-9_\-+])|(?<=\\[bfnrt])|(?<=\\u00[0-9A-Fa-f]{2})|(?<=%[0-9A-Fa-f]{2}))"
_BODY = r"[A-Za-z0-9_\-.]{12,300}(?![A-Za-z0-9_\-+/])"
_KEY = re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{20,}")
_QUOTED = re.compile(rb"[A-Za-z0-9_.~%\-]{12,}")


class _Shape(NamedTuple):
    kind: str
    prefix: re.Pattern[bytes]
    """What each such key begins with: searched for alone, which takes a tenth of the time."""
    pattern: re.Pattern[bytes]
    is_certain: bool


def _shape(shape: KeyShape) -> _Shape:
    kind = re.sub(r"[^a-z0-9]+", "_", shape.issuer.partition(",")[0].lower())
    body = _WHOLE.get(shape.issuer, _BODY)
    pattern = rf"{_BEGIN}(?:{shape.prefix}){body}".encode()
    return _Shape(
        f"{kind}_key",
        re.compile(shape.prefix.encode()),
        re.compile(pattern),
        shape.issuer in _WHOLE,
    )


_SHAPES = tuple(_shape(shape) for shape in KEY_SHAPES)

# Where a stream carries a text in pieces: members of its events, by the providers' API references.
_DELTA = re.compile(
    rb'"(?:text|thinking|partial_json|delta|content|arguments|reasoning|reasoning_content|refusal'
    rb'|response|completion)"\s*:\s*"((?:[^"\\]|\\.)*)"'
)
_PLACE = re.compile(rb'"(?:index|output_index|content_index)"\s*:\s*(\d+)')
_LINE_END = re.compile(rb"\r?\n")


_NONE = Credentials()


class Span(NamedTuple):
    """Where a secret stands, and what kind of one."""

    begin: int
    end: int
    kind: str


def secret_spans(data: bytes, credentials: Credentials = _NONE) -> list[Span]:
    """Return where secrets stand in *data*, in order, none over another."""
    return _merged([*_known(data), *_quoted(data), *_credentials(data, credentials)])


def stream_spans(data: bytes, credentials: Credentials = _NONE) -> list[Span]:
    """Return where secrets stand in an answer, also one that is cut across events of a stream."""
    texts: dict[tuple[bytes, ...], list[re.Match[bytes]]] = {}
    for line_begin, line_end in _lines(data):
        place = tuple(_PLACE.findall(data, line_begin, line_end))
        for match in _DELTA.finditer(data, line_begin, line_end):
            name = data[match.start() : match.start() + 12].partition(b":")[0]
            texts.setdefault((name, *place), []).append(match)
    across = [
        span
        for pieces in texts.values()
        if len(pieces) > 1
        for span in _across(pieces, credentials)
    ]
    return _merged([*secret_spans(data, credentials), *across])


def take_out(data: bytes, spans: Sequence[Span]) -> bytes:
    """Return *data* with a placeholder in the place of each of *spans*."""
    parts, at = [], 0
    for begin, end, kind in spans:
        parts += [data[at:begin], placeholder(kind)]
        at = end
    return b"".join([*parts, data[at:]])


def placeholder(kind: str) -> bytes:
    """Return what stands in the place of a secret. Harmless in JSON and in an event stream."""
    return b"[secret:" + kind.encode() + b"]"


def _known(data: bytes) -> Iterator[Span]:
    for kind, prefix, pattern, is_certain in _SHAPES:
        end = 0
        for begin in prefix.finditer(data):
            match = pattern.match(data, begin.start()) if begin.start() >= end else None
            if match is not None:
                end = match.end()
                text = match[0].decode("latin-1").rstrip(".-_")
                if is_certain or _KEY.search(text) or looks_random(text):
                    yield Span(match.start(), match.start() + len(text), kind)


def _quoted(data: bytes) -> Iterator[Span]:
    """Yield what is a key of a known shape without its percent-encoding."""
    if b"%" not in data or not any(_known(_unquoted(data))):
        return
    for match in _QUOTED.finditer(data):
        for _, _, kind in _known(_unquoted(match[0])) if b"%" in match[0] else ():
            yield Span(*match.span(), kind)


def _unquoted(data: bytes) -> bytes:
    return unquoted(data.decode("latin-1")).encode("utf-8", "replace")


def _credentials(data: bytes, credentials: Credentials) -> Iterator[Span]:
    # A character for each byte: so the places are the same.
    for begin, end in credentials.spans_among_words(data.decode("latin-1")):
        yield Span(begin, end, "credential")


def _lines(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    for match in _LINE_END.finditer(data):
        yield at, match.start()
        at = match.end()
    yield at, len(data)


def _across(pieces: Sequence[re.Match[bytes]], credentials: Credentials) -> Iterator[Span]:
    """Yield the parts, in the stream, of secrets in the text that *pieces* make up."""
    text = b"".join(piece[1] for piece in pieces)
    at, spans = 0, secret_spans(text, credentials)
    for piece in pieces:
        begin, size = piece.start(1), len(piece[1])
        while spans and spans[0].end <= at:
            spans = spans[1:]
        for span in spans:
            if span.begin >= at + size:
                break
            first, last = max(span.begin, at) - at, min(span.end, at + size) - at
            yield Span(begin + first, begin + last, span.kind)
        at += size


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.begin < merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged

"""Take secrets out of what is kept: credentials of the exchange, and known shapes of keys. Pure.

Words stay as they are. What is taken out is replaced by a placeholder that names its kind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SHORTEST_CREDENTIAL = 8
"""A shorter one is no secret worth the words that it would take with it; bytes."""

# Kind, a literal that each such key has, and its shape. Strict, so that no word is taken for a
# key. Sources: the vendors' documentation of their key formats and the published rules of secret
# scanners (2026-11).
_END = rb"(?![A-Za-z0-9_\-])"
_SHAPES: tuple[tuple[str, bytes, re.Pattern[bytes]], ...] = tuple(
    (kind, literal, re.compile(rb"(?<![A-Za-z0-9])" + shape, re.DOTALL))
    for kind, literal, shape in (
        ("anthropic_key", b"sk-ant-", rb"sk-ant-[A-Za-z0-9_\-]{20,}"),
        ("openrouter_key", b"sk-or-", rb"sk-or-[A-Za-z0-9_\-]{20,}"),
        ("openai_key", b"sk-", rb"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_\-]{20,}"),
        ("api_key", b"sk-", rb"sk-(?!ant-|or-|proj-|svcacct-|admin-)[A-Za-z0-9]{24,}" + _END),
        ("groq_key", b"gsk_", rb"gsk_[A-Za-z0-9]{20,}"),
        ("xai_key", b"xai-", rb"xai-[A-Za-z0-9]{20,}"),
        ("perplexity_key", b"pplx-", rb"pplx-[A-Za-z0-9]{20,}"),
        ("cerebras_key", b"csk-", rb"csk-[A-Za-z0-9]{20,}"),
        ("huggingface_token", b"hf_", rb"hf_[A-Za-z0-9]{20,}"),
        ("fireworks_key", b"fw_", rb"fw_[A-Za-z0-9]{20,}" + _END),
        ("replicate_token", b"r8_", rb"r8_[A-Za-z0-9]{20,}"),
        ("nvidia_key", b"nvapi-", rb"nvapi-[A-Za-z0-9_\-]{20,}"),
        ("google_key", b"AIza", rb"AIza[A-Za-z0-9_\-]{30,}"),
        ("google_token", b"ya29.", rb"ya29\.[A-Za-z0-9_\-.]{20,}"),
        ("aws_key_id", b"AKIA", rb"AKIA[A-Z0-9]{16}" + _END),
        ("aws_key_id", b"ASIA", rb"ASIA[A-Z0-9]{16}" + _END),
        ("github_token", b"gh", rb"gh[pousr]_[A-Za-z0-9]{20,}"),
        ("github_token", b"github_pat_", rb"github_pat_[A-Za-z0-9_]{20,}"),
        ("gitlab_token", b"glpat-", rb"glpat-[A-Za-z0-9_\-]{16,}"),
        ("slack_token", b"xox", rb"xox[abeoprs]-[A-Za-z0-9\-]{16,}"),
        ("stripe_key", b"k_live_", rb"[rs]k_live_[A-Za-z0-9]{16,}"),
        ("npm_token", b"npm_", rb"npm_[A-Za-z0-9]{30,}"),
        ("pypi_token", b"pypi-", rb"pypi-[A-Za-z0-9_\-]{40,}"),
        ("sendgrid_key", b"SG.", rb"SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}"),
        (
            "json_web_token",
            b"eyJ",
            rb"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+",
        ),
        (
            "private_key",
            b"PRIVATE KEY-----",
            (
                rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.{0,8192}?"
                rb"-----END [A-Z ]{0,20}PRIVATE KEY-----"
            ),
        ),
    )
)

# Where a stream carries a text in pieces: members of its events, by the providers' API references.
_DELTA = re.compile(
    rb'"(?:text|thinking|partial_json|delta|content|arguments|reasoning|reasoning_content|refusal'
    rb'|response|completion)"\s*:\s*"((?:[^"\\]|\\.)*)"'
)
_PLACE = re.compile(rb'"(?:index|output_index|content_index)"\s*:\s*(\d+)')
_LINE_END = re.compile(rb"\r?\n")


class Span(NamedTuple):
    """Where a secret stands, and what kind of one."""

    begin: int
    end: int
    kind: str


def secret_spans(data: bytes, credentials: Iterable[bytes] = ()) -> list[Span]:
    """Return where secrets stand in *data*, in order, none over another."""
    found = [*_known(data), *_credentials(data, credentials)]
    return _merged(found)


def stream_spans(data: bytes, credentials: Sequence[bytes] = ()) -> list[Span]:
    """Return where secrets stand in a stream of events, also one that is cut across events."""
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
    return _merged([*_known(data), *_credentials(data, credentials), *across])


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
    for kind, literal, shape in _SHAPES:
        if literal in data:
            for match in shape.finditer(data):
                yield Span(match.start(), match.end(), kind)


def _credentials(data: bytes, credentials: Iterable[bytes]) -> Iterator[Span]:
    for secret in credentials:
        if len(secret) < SHORTEST_CREDENTIAL:
            continue
        at = data.find(secret)
        while at >= 0:
            yield Span(at, at + len(secret), "credential")
            at = data.find(secret, at + len(secret))


def _lines(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    for match in _LINE_END.finditer(data):
        yield at, match.start()
        at = match.end()
    yield at, len(data)


def _across(pieces: Sequence[re.Match[bytes]], credentials: Sequence[bytes]) -> Iterator[Span]:
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

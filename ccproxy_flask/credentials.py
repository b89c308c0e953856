"""The credentials of one exchange, and the search for them in what is kept of it. Pure.

An upstream may repeat in its error the very key that it was sent, and a key need not look like one.
So whatever is kept of an exchange is searched for what it was sent with: plain, percent-encoded, in
base64, escaped as in JSON or HTML, in other case, and parts of it of :data:`SHORTEST_PART`
characters and more.

A value of fewer than :data:`SHORTEST` characters is not searched for, nor one of small letters
alone that is shorter than :data:`SHORTEST_WORD`: local servers want any key at all, clients send
``ollama`` and ``lm-studio``, and a search for these would take words for secrets.
"""

from __future__ import annotations

import base64
import binascii
import html
import itertools
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from . import redact
from .record import TEXT_COLUMNS
from .redact import REDACTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .record import RequestRecord

SHORTEST = 8
SHORTEST_WORD = 16
SHORTEST_PART = 12
_SHORTEST_BEGINNING = 6  # of a credential, where a text that was cut ends with it
_LONGEST = 4096
_MOST = 24
_MOST_LESSER = 16  # of cookies and parameters, so that there is room for keys
_MOST_TOKENS = 64  # of a text are looked at one by one; where there are more, all of it is hidden
_MOST_PIECES = 16

# Headers that carry a credential, by what their names are made of; and those whose names only
# look so: identifiers, which are kept as such.
_SECRET_NAME = re.compile(
    r"auth|key|token|secret|passw|credential|cookie|signature|jwt|session$|^sec-websocket-protocol$"
)
_NO_SECRET = frozenset({"idempotency-key", "sec-websocket-key", "x-session-affinity"})
_COOKIES = frozenset({"cookie", "set-cookie"})
_SCHEMES = frozenset({"basic", "bearer", "digest", "key", "negotiate", "token"})
_WORD = re.compile(r"[a-z_\-. ]*")
_SEPARATORS = re.compile(r"[\s;,=\"']+")
_TOKEN = re.compile(r"[^\s\"'<>,]+")
_ENCODES = re.compile(r"%[0-9A-Fa-f]{2}|\\.|&#?\w{2,8};")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]{12,}={0,2}")
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})|\\(.)")
_MOST_NESTED = 3  # JSON texts, one in the other
# An encoded stretch, without what separates words. Backslashes double with each JSON in a JSON.
_ENCODED = re.compile(
    r"(?:[A-Za-z0-9_.~+/=:\-]|%[0-9A-Fa-f]{2}|\\{1,8}(?:u[0-9A-Fa-f]{4}|/)|&#?\w{2,8};){12,}"
)
# Of a part: more than a beginning that all keys of an issuer have, and more than a few words.
_TELLING = re.compile(r"(?s:.{18})|[A-Za-z0-9]{10}|(?:[^0-9]*[0-9]){6}")
# Members of requests whose values are credentials: those for MCP servers (Anthropic's
# authorization_token; OpenAI's authorization and headers), and keys that some APIs take there.
_MEMBER_NAMES = (b"uthorization", b"api_key", b"apiKey", b"api-key", b'_token"', b'"token"')
_MEMBER = re.compile(
    rb'(?:uthorization|api_key|apiKey|api-key|[_"]token)[\w\-]{0,16}"'
    rb'\s{0,8}:\s{0,8}"((?:[^"\\]|\\.){8,4096})"'
)
LONGEST_MEMBER = 4352
"""The most bytes that :meth:`Credentials.add_members` has to see at once."""
Piece = tuple[str, int, str]
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Credentials:
    """What one exchange was sent with; fill it before the first search."""

    __slots__ = ("_clean", "_pieces", "_values")

    def __init__(self) -> None:
        self._values: tuple[str, ...] = ()
        self._pieces: tuple[Piece, ...] | None = None
        self._clean: tuple[str | None, ...] | None = None
        """The texts of a record in which nothing was found."""

    # -- what is secret ------------------------------------------------------------------------

    def add(self, value: str) -> None:
        """Search for *value* from here on, unless it is too short or too plain."""
        self._add_all(_searchable([value]))

    def add_header(self, name: str, value: str) -> None:
        """Search for the value of a header (lower-case *name*) that carries a credential."""
        if _carries_credential(name):
            is_short = len(value) <= _LONGEST_REMEMBERED
            values = _of_header(name, value) if is_short else _read_header(name, value)
            self._add_all(values, _MOST_LESSER if name in _COOKIES else _MOST)

    def add_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Search for what *headers* (lower-case names) carry."""
        for name, value in headers:
            if _carries_credential(name):
                self.add_header(name, value)

    def add_query(self, query: str) -> None:
        """Search for the values of all parameters of a raw *query* that are hidden."""
        if query:
            for pair in query.split("&", _MOST):
                name, _, value = pair.partition("=")
                if not redact.keeps_parameter(name):
                    self._add_all(_searchable(_forms(value or name)), _MOST_LESSER)

    def add_members(self, data: bytes) -> None:
        """Search for the values of those members of JSON in *data* that carry a credential."""
        if max(map(data.find, _MEMBER_NAMES)) >= 0:  # quicker than `in` is with bytes
            for member in _MEMBER.finditer(data):
                value = member[1].decode("utf-8", "replace")
                self.add_header("authorization", value.replace("\\/", "/"))

    def add_fields(self, form: str) -> None:
        """Search for the values of those fields of a form (as in a query) that carry one."""
        for pair in form.split("&", _MOST):
            name, _, value = pair.partition("=")
            self.add_header(name.lower(), value)

    def _add_all(self, values: Iterable[str], most: int = _MOST) -> None:
        """Search for *values*, until there are *most* of them."""
        new = tuple(value for value in values if value not in self._values)
        if new:
            self._values += new[: max(0, most - len(self._values))]
            self._pieces = self._clean = None

    @property
    def values(self) -> tuple[str, ...]:
        """What is searched for, with small letters."""
        return self._values

    # -- where it is ---------------------------------------------------------------------------

    def are_in(self, text: str) -> bool:
        """Tell, in microseconds, whether *text* may hold a part of a credential."""
        folded = _folded(text)
        for _, _, piece in self._searched():
            if piece in folded:
                return True
        return self._ends_with_beginning(folded) is not None

    def hide_in(self, record: RequestRecord) -> None:
        """Take what is secret out of the texts of *record*; quick where there is nothing."""
        texts = tuple(map(vars(record).get, TEXT_COLUMNS))
        if texts == self._clean:
            return
        whole = "\0".join(filter(None, texts))
        is_suspect = record.error_message is not None or _may_encode(whole)
        if not is_suspect and not self.are_in(whole):
            self._clean = texts
            return
        for name, text in zip(TEXT_COLUMNS, texts, strict=True):
            if text:
                setattr(record, name, self.scrub(text))

    def scrub(self, text: str) -> str:
        """Return *text* without known shapes of keys, and without what was sent."""
        text = redact.scrub(text)
        if not self._values:
            return text
        for begin, end in reversed(joined(self.spans(text))):
            text = text[:begin] + REDACTED + text[end:]
        # An encoding can put what ends a word into a credential.
        return REDACTED if self._hides_encoded(text) else text

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where credentials and parts of them are in *text*: (begin, end)."""
        found = list(self._plain_spans(text))
        if self._hides_encoded(text):
            tokens = itertools.islice(_TOKEN.finditer(text), _MOST_TOKENS)
            found += [token.span() for token in tokens if self._hides_encoded(token[0])]
        return found + self._base64_spans(text)

    def spans_among_words(self, text: str) -> list[tuple[int, int]]:
        """Return where they are in a long *text*, in order: not one word beside them, nor what
        they have in common with words, and with other keys of their issuer."""
        if not self._values:
            return []
        plain = (
            (begin, end)
            for begin, end in self._plain_spans(text)
            if _TELLING.match(text, begin, end) or _folded(text[begin:end]) in self._values
        )
        found = joined([*plain, *self._base64_spans(text)])
        rest = _blanked(text, found)
        if self._hides_encoded(rest):
            runs = (run.span() for run in _ENCODED.finditer(rest) if self._hides_encoded(run[0]))
            found = joined([*found, *runs])
        return found

    def _base64_spans(self, text: str) -> list[tuple[int, int]]:
        runs = [
            (run.span(), each) for run in _BASE64.finditer(text) for each in _from_base64(run[0])
        ]
        # All at once: long texts have many.
        if runs and self.are_in("\0".join(plain for _, plain in runs)):
            return [span for span, plain in runs if self._hides_in(plain)]
        return []

    def _hides_encoded(self, text: str) -> bool:
        return _may_encode(text) and any(map(self._hides_in, decodings(text)))

    def _hides_in(self, text: str) -> bool:
        return next(self._plain_spans(text), None) is not None

    def _plain_spans(self, text: str) -> Iterator[tuple[int, int]]:
        folded = _folded(text)
        for value, offset, piece in self._searched():
            at = folded.find(piece)
            while at >= 0:
                begin, end = _extended(folded, at, value, offset, len(piece))
                if end - begin >= _part_size(value):
                    yield begin, end
                at = folded.find(piece, end)
        beginning = self._ends_with_beginning(folded)
        if beginning is not None:
            yield beginning, len(text)

    def _searched(self) -> tuple[Piece, ...]:
        if self._pieces is None:
            is_short = sum(map(len, self._values)) <= _LONGEST_REMEMBERED
            self._pieces = (_pieces_of if is_short else _cut)(self._values)
        return self._pieces

    def _ends_with_beginning(self, folded: str) -> int | None:
        """Return from where on a text that was cut ends with the beginning of a credential."""
        folded = folded.removesuffix("…")
        for value in self._values:
            at = folded.rfind(value[:_SHORTEST_BEGINNING], -len(value))
            if at >= 0 and value.startswith(folded[at:]):
                return at
        return None


@lru_cache(maxsize=1024)
def _carries_credential(name: str) -> bool:
    if name in _NO_SECRET or name.endswith("-id"):
        return False
    return _SECRET_NAME.search(name) is not None


def _part_size(value: str) -> int:
    return min(len(value), max(SHORTEST_PART, 2 * len(value) // _MOST_PIECES))


def _cut(values: tuple[str, ...]) -> tuple[Piece, ...]:
    """Cut *values* up: each text with a part of a value in it has one of its pieces."""
    found: list[Piece] = []
    for value in values:
        size = _part_size(value)
        # A stretch of two halves less one characters holds one of the pieces that lie end to end.
        half = len(value) if size == len(value) else (size + 1) // 2
        found += (
            (value, at, value[at : at + half]) for at in range(0, len(value) - half + 1, half)
        )
    return tuple(found)


def _folded(text: str) -> str:
    """Return *text*, of the same length, with the capitals of ASCII small."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def _may_encode(text: str) -> bool:
    """Tell quickly where nothing in *text* stands for another text."""
    return ("%" in text or "\\" in text or "&" in text) and _ENCODES.search(text) is not None


def _read_header(name: str, value: str) -> tuple[str, ...]:
    """Return what to search for of a header that carries a credential."""
    if name in _COOKIES:
        parts = [pair.partition("=")[2] for pair in value.split(";")]
    elif name == "sec-websocket-protocol":
        labelled = [protocol.strip().rpartition(".") for protocol in value.split(",")]
        parts = [rest for label, _, rest in labelled if _SECRET_NAME.search(label.lower())]
    else:
        scheme, _, rest = value.partition(" ")
        parts = [rest.strip() if scheme.lower() in _SCHEMES else value]
    return _searchable(form for part in parts for form in _forms(part))


def _forms(value: str) -> Iterator[str]:
    """Give *value* and what it may be known by."""
    yield value
    if "%" in value:
        yield redact.unquoted(value)
    if not value.isascii():  # WSGI hands bytes over as latin-1 (PEP 3333)
        yield value.encode("latin-1", "replace").decode("utf-8", "replace")
    if " " in value or "=" in value or "," in value:  # AWS4-HMAC-SHA256 Credential=…, …
        yield from _SEPARATORS.split(value)
    for text in _from_base64(value):
        yield text
        user, colon, password = text.partition(":")
        if colon:
            yield password
            yield user


def _searchable(values: Iterable[str]) -> tuple[str, ...]:
    """Return those of *values* that are neither too short nor too plain, with small letters."""
    found: dict[str, None] = {}
    for each in values:
        value = each.strip()[:_LONGEST]
        least = SHORTEST_WORD if _WORD.fullmatch(value) else SHORTEST
        if len(value) >= least and value.strip("*"):
            found[_folded(value)] = None
            if len(found) == _MOST:
                break
    return tuple(found)


# Clients send the same key again and again. What was made of it is remembered until forget().
_REMEMBERED = 256
_LONGEST_REMEMBERED = 1024
_of_header = lru_cache(maxsize=_REMEMBERED)(_read_header)
_pieces_of = lru_cache(maxsize=_REMEMBERED)(_cut)


def forget() -> None:
    """Forget the credentials of earlier requests; called from time to time."""
    _of_header.cache_clear()
    _pieces_of.cache_clear()
    redact.key_id.cache_clear()


def _extended(text: str, at: int, value: str, offset: int, length: int) -> tuple[int, int]:
    """Return how far *text* and *value* are the same around *length* characters that are."""
    begin, end = at, at + length
    while begin > 0 and offset > 0 and text[begin - 1] == value[offset - 1]:
        begin, offset = begin - 1, offset - 1
    left = len(value) - offset - (end - begin)
    while left > 0 and end < len(text) and text[end] == value[len(value) - left]:
        end, left = end + 1, left - 1
    return begin, end


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """Return *text*, as long as it is, with nothing in the place of *spans*."""
    parts, at = [], 0
    for begin, end in spans:
        parts += [text[at:begin], " " * (end - begin)]
        at = end
    return "".join([*parts, text[at:]])


def decodings(text: str) -> Iterator[str]:
    """Give *text* without percent-encoding, then without the escapes of HTML and of JSON."""
    seen = text
    steps = [redact.unquoted, html.unescape, *[_without_escapes] * _MOST_NESTED]
    for step in steps:
        text = step(text)
        if text != seen:
            seen = text
            yield text


def _without_escapes(text: str) -> str:
    return _ESCAPED.sub(lambda it: chr(int(it[1], 16)) if it[1] else it[2], text)


def _from_base64(text: str) -> list[str]:
    """Return what the base64 (either alphabet) in *text* says, as long as it is text."""
    run = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    if len(run) < SHORTEST or not _BASE64.fullmatch(run):
        return []
    try:
        data = base64.b64decode(run + "=" * (-len(run) % 4), validate=True)
        return [data.decode()]
    except (binascii.Error, ValueError):
        return []


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *spans* in order, those that overlap or touch as one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found

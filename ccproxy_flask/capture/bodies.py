"""What of headers, addresses and bodies of one exchange may be shown. Pure.

Structure decides: of JSON only named members are shown, of forms only named fields, of any other
text only plain words. What is shown is searched for keys, and for the values that this exchange
itself has shown to be secret: those of its hidden headers, parameters and members.
"""

from __future__ import annotations

import base64
import binascii
import re
from email.message import Message
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlencode

import orjson

from .. import redact
from ..credentials import Credentials, joined
from ..redact import REDACTED
from ..usage.decode import Decoder, Undecodable, codings_of
from .fields import ADDRESSES, FORM_FIELDS, MEASURES, NAMES, NESTED, OPAQUE, OPEN, SHOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHORTEST_KEY = 7  # of what looks like one
_SHORTEST_SECRET = 8
_SHORTEST_BEGINNING = 6  # of a secret, which is hidden where a text ends with it
_LONGEST_SECRET = 512
_MOST_SECRETS = 256
_DEEPEST = 64
LARGEST_DECODED = 8 << 20
_USER_IN_URL = re.compile(r"(?<=://)[^\s/@]*(?=@)")
_NAME = re.compile(r"[A-Za-z$@_][A-Za-z$@_./ \-\[\]]{0,47}")
_RUN = re.compile(r"[\w\-+/=.~%@:$!#*]+")
_PLAIN = re.compile(
    r"[./:=\-!*]*(?:[A-Z]?[a-z]{0,15}(?:[/\-][a-z]{1,15})?|[A-Z]{2,5}|\d{1,5}"
    r"|[a-z]{1,15}/\d{1,3}(?:\.\d{1,3}){0,3})[./:=\-!*]*"
)


class Shown(NamedTuple):
    """A body as it may be shown: as text, and parsed where it is JSON."""

    text: str
    value: Any = None


class Redactor:
    """Hides what is not known to be harmless, for one exchange."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._credentials = Credentials()

    # -- what the exchange says of its secrets ------------------------------------------------

    def learn(self, value: str) -> None:
        """Remember that *value* is secret, and so are its parts."""
        self._add(value)
        for part in re.split(r"[\s;,=\"']+", value[: 8 * _LONGEST_SECRET]):
            self._add(part)
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(rest, validate=True).decode("utf-8", "replace")
            except (binascii.Error, ValueError):
                return
            self._add(pair)
            self._add(pair.partition(":")[2])

    def _add(self, value: str) -> None:
        value = value.strip()
        fits = _SHORTEST_SECRET <= len(value) <= _LONGEST_SECRET
        if fits and len(self._secrets) < _MOST_SECRETS and value.strip("*"):
            self._secrets.add(value)

    def learn_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Remember the values of all headers that are hidden."""
        for pair in headers:
            self._credentials.add_header(pair[0].lower(), pair[1])
            [(_, shown)] = redact.kept_headers([pair])
            if shown == REDACTED:
                self.learn(pair[1])

    def learn_url(self, url: str) -> None:
        """Remember the values of all parameters that are hidden, and of a user in *url*."""
        for user in _USER_IN_URL.findall(url):
            self.learn(user.replace(":", " "))
            self.learn(unquote(user).replace(":", " "))
        query = url.partition("?")[2].partition("#")[0]
        self._credentials.add_query(query)
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            if not redact.keeps_parameter(name):
                value = value or name  # a parameter without a name
                for form in (value, unquote_plus(value), quote(unquote_plus(value), safe="")):
                    self._add(form)

    def learn_value(self, value: object) -> None:
        """Remember the texts that are hidden in a parsed JSON *value*."""
        for text in _hidden_texts(value):
            self._add(text)

    # -- texts -----------------------------------------------------------------------------

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where secrets are in *text*: (begin, end), in order, not overlapping."""
        found = redact.key_spans(text) + self._credentials.spans(text)
        for secret in self._secrets:
            at = text.find(secret)
            while at >= 0:
                found.append((at, at + len(secret)))
                at = text.find(secret, at + len(secret))
            # A body that was cut can end in the middle of it.
            at = text.rfind(secret[:_SHORTEST_BEGINNING], -len(secret))
            if at >= 0 and secret.startswith(text[at:]):
                found.append((at, len(text)))
        return joined(found)

    def text(self, text: str) -> str:
        """Return *text* with everything secret in it hidden."""
        for begin, end in reversed(self.spans(text)):
            text = text[:begin] + REDACTED + text[end:]
        return text

    def words(self, text: str) -> str:
        """Return of *text*, of which nothing is known, the plain words and short numbers."""
        return _RUN.sub(
            lambda run: run[0] if _PLAIN.fullmatch(run[0]) else REDACTED, self.text(text)
        )

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return *headers* on one line each, with what may be secret hidden."""
        return [
            (name, redact.shortened(self.text(value), 4096) or "")
            for name, value in redact.kept_headers(headers)
        ]

    def url(self, url: str) -> str:
        """Return *url* with what may be secret hidden."""
        if url.startswith("data:"):
            return f"data:{REDACTED} ({len(url)} characters)"
        address, _, query = url.partition("?")
        address = self.text(_USER_IN_URL.sub(REDACTED, address.partition("#")[0]))
        shown = redact.kept_query(query)
        return f"{address}?{self.text(shown)}" if shown else address

    def target(self, url: str) -> str:
        """Return the *url* of a request, whose path shows no part that may be secret."""
        shown, mark, query = self.url(url).partition("?")
        origin, found, path = shown.partition("://")
        host, slash, path = path.partition("/") if found else ("", "", origin)
        origin = f"{origin}://{host}" if found else ""
        return f"{origin}{slash}{redact.kept_path(path)}{mark}{query}"

    # -- JSON ------------------------------------------------------------------------------

    def value(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """Return a parsed JSON *value*, which is shown under *name*."""
        if depth > _DEEPEST:
            return REDACTED
        if isinstance(value, dict):
            return self._members(value, name in OPEN, depth)
        if isinstance(value, list):
            return [self.value(each, name, depth + 1) for each in value]
        return self.leaf(value, name) if isinstance(value, str) else value

    def leaf(self, text: str, name: str) -> Any:
        """Return a *text* in JSON under *name*, which may be shown."""
        if name in OPAQUE and len(text) > 64:
            return f"{REDACTED} ({len(text)} characters)"
        if name in NAMES:
            return self.text(redact.plain_name(text))
        if name in ADDRESSES or text.startswith("data:"):
            return self.url(text)
        return self.nested(text) if name in NESTED else self.text(text)

    def nested(self, text: str) -> str:
        """Return *text* that should be JSON; where it is not, nothing of it."""
        if not text.strip():
            return text
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            return REDACTED
        shown = self.value(parsed)
        return text if shown == parsed else orjson.dumps(shown).decode()

    def _members(self, value: dict[str, Any], is_open: bool, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, member in value.items():
            shown = self._name(name)
            while shown in found:
                shown += "*"
            if is_open or _is_shown(name, member):
                found[shown] = self.value(member, name, depth + 1)
            else:
                found[shown] = REDACTED
        return found

    def _name(self, name: str) -> str:
        if name in SHOWN or name in OPEN:
            return name
        if not (_NAME.fullmatch(name) or MEASURES.fullmatch(name)):
            return REDACTED
        return self.text(name)

    # -- bodies ----------------------------------------------------------------------------

    def body(self, data: bytes, content_type: str) -> Shown:
        """Return a decoded body of *content_type*."""
        kind = media_type(content_type)
        if not data:
            return Shown("")
        if kind == "application/x-www-form-urlencoded":
            return Shown(self._form(data.decode("utf-8", "replace")))
        if kind == "multipart/form-data":
            return Shown(self._multipart(data, content_type))
        if "json" in kind or (
            kind.partition("/")[0] in ("", "text") and data.lstrip()[:1] in b"{["
        ):
            try:
                value = self.value(orjson.loads(data))
            except orjson.JSONDecodeError:
                return self._unknown(data, "text/plain")
            return Shown(orjson.dumps(value).decode(), value)
        return self._unknown(data, kind)

    def _unknown(self, data: bytes, kind: str) -> Shown:
        is_text = kind.startswith("text/") or kind.endswith("xml") or not kind
        try:
            text = data.decode() if is_text else ""
        except UnicodeDecodeError:
            text = ""
        return Shown(self.words(text) if text else f"{REDACTED} ({len(data)} bytes)")

    def _form(self, text: str) -> str:
        fields = []
        for name, value in parse_qsl(text, keep_blank_values=True):
            if name in FORM_FIELDS:
                fields.append((name, self.text(value)))
            else:
                self._add(value)
                fields.append((self._name(name), REDACTED))
        return urlencode(fields, safe="*[]", errors="replace")

    def _multipart(self, data: bytes, content_type: str) -> str:
        boundary = _parameter(content_type, "content-type", "boundary")
        if not boundary:
            return f"{REDACTED} ({len(data)} bytes)"
        # The boundary is the client's own text: another one is written.
        mark = rb"(?:\A|\r\n)--" + re.escape(boundary.encode()) + rb"(?:--)?[ \t]*\r\n"
        parts = re.split(mark, data + b"\r\n")
        shown = [self._part(part) for part in parts[1:] if b"\r\n\r\n" in part]
        return "".join(f"--part\r\n{part}\r\n" for part in shown) + "--part--\r\n"

    def _part(self, part: bytes) -> str:
        head, _, content = part.partition(b"\r\n\r\n")
        lines = dict(_header_lines(head.decode("utf-8", "replace")))
        disposition = lines.get("content-disposition", "")
        name = _parameter(disposition, "content-disposition", "name") or ""
        if "filename" in disposition.lower():
            kind = self.words(lines.get("content-type", "file"))
            return _part_head(self._name(name)) + f"{REDACTED} ({kind}, {len(content)} bytes)"
        if name not in FORM_FIELDS:
            self._add(content.decode("utf-8", "replace"))
            return _part_head(self._name(name)) + REDACTED
        return _part_head(name) + self.text(content.decode("utf-8", "replace"))


def decoded(data: bytes, content_encoding: str) -> bytes | None:
    """Return *data* without its content coding, as far as it goes; None where that is unknown."""
    if not codings_of(content_encoding):
        return data
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in Decoder(content_encoding).decode(data):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_DECODED:
                break
    except Undecodable:
        if not pieces:
            return None
    return b"".join(pieces)


def media_type(content_type: str) -> str:
    """Return the bare, lower-case media type of a Content-Type header."""
    return content_type.partition(";")[0].strip().lower()


def _is_shown(name: str, member: object) -> bool:
    if member is None or isinstance(member, bool):
        return True
    if name in SHOWN or name in OPEN or name in ADDRESSES or name in OPAQUE:
        return True
    return isinstance(member, int | float) and MEASURES.fullmatch(name) is not None


def _hidden_texts(value: object, name: str = "", depth: int = 0) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        for inner, member in value.items():
            if name in OPEN or _is_shown(inner, member):
                yield from _hidden_texts(member, inner, depth + 1)
            else:
                yield from _texts(member, depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _hidden_texts(each, name, depth + 1)


def _texts(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth <= _DEEPEST and isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each, depth + 1)


def _header_lines(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


def _parameter(value: str, header: str, name: str) -> str | None:
    message = Message()
    try:
        message[header] = value
        found = message.get_param(name, header=header)
    except ValueError:  # a line break in it
        return None
    return found if isinstance(found, str) else None


def _part_head(name: str) -> str:
    return f'content-disposition: form-data; name="{name}"\r\n\r\n'

"""HTTP/1.1 (RFC 9112): the heads of answers, and bodies both ways. Bytes in, parts out, no I/O.

A body framing takes what the socket gave and returns the payload in it, however it was cut::

    framing = framing_of("POST", head)
    while not framing.done:
        data = sock.recv(65536)
        payload = framing.feed(data) if data else framing.end()
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

Headers = list[tuple[str, str]]

LONGEST_HEAD = 256 << 10
_LONGEST_LINE = 16 << 10
_LONGEST_TRAILERS = 64 << 10
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LONGEST_REMEMBERED = 4096
_VISIBLE = bytes([9, *range(32, 127), *range(128, 256)])
_LENGTH = re.compile(r"[0-9]{1,18}")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class NotHttp(ValueError):
    """The bytes are no HTTP/1.1, or end too early to be a whole message.

    What they are is not said: the message goes to logs, and they may be anything.
    """


class Head(NamedTuple):
    """Status line and headers of an answer; header names as they were written."""

    status: int
    reason: str
    headers: Headers
    named: dict[str, str]
    """The first value of each header, by lower-case name."""
    keep_alive: bool


def parse_head(block: bytes) -> Head:
    """Return the head in *block* (all before the empty line). Raises NotHttp."""
    first, *lines = block.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise NotHttp("the answer does not begin with a status line of HTTP/1.1")
    if block.translate(None, _VISIBLE) != b"\r\n" * len(lines):
        raise NotHttp("the head has a byte that none may have")
    headers: Headers = []
    named: dict[str, str] = {}
    lowered = _lowered if len(block) <= _LONGEST_REMEMBERED else _lowered.__wrapped__
    for number, line in enumerate(lines, 1):
        name, colon, text = line.partition(":")
        lower = lowered(name)
        if lower is None or not colon:
            raise NotHttp(f"header line {number} is none")
        value = text.strip(" \t")
        headers.append((name, value))
        if lower not in named:
            named[lower] = value
    keep_alive = _keeps_alive(match[1] == "1", values_of("connection", headers, named))
    return Head(int(match[2]), match[3] or "", headers, named, keep_alive)


def values_of(lower: str, headers: Headers, named: Mapping[str, str]) -> list[str]:
    """Return the values of all *headers* with that name; *named* has the first ones."""
    if lower not in named:
        return []
    if len(named) == len(headers):  # none is there twice
        return [named[lower]]
    return [value for name, value in headers if name.lower() == lower]


@lru_cache(maxsize=1024)
def _lowered(name: str) -> str | None:
    """Return the *name* of a header in lower case, None where it is none."""
    return name.lower() if _NAME.fullmatch(name) else None


def _keeps_alive(modern: bool, values: list[str]) -> bool:
    for value in values:
        words = value.lower()
        if "close" in words:
            return False
        if "keep-alive" in words:
            return True
    return modern


class Framing(Protocol):
    """How the end of a body is told."""

    done: bool
    in_trailers: bool
    """True where all of the payload has come, and what may follow it has not ended."""
    rest: bytes
    """What came after the body; on a healthy connection nothing."""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in *data*; may be empty. Raises NotHttp."""

    def end(self) -> bytes:
        """Take note that the connection ended. Raises NotHttp where the body is not complete."""


def framing_of(method: str, head: Head) -> Framing:
    """Return the framing of the body that follows *head* (RFC 9112 §6.3). Raises NotHttp.

    Takes out of *head* every length but the one that counts: a client must not be told two. Of
    transfer codings only ``chunked`` is taken: nobody asked for others, and they could not be
    named to the client.
    """
    chunked, length = "transfer-encoding" in head.named, head.named.get("content-length")
    if chunked or (length is not None and len(head.named) != len(head.headers)):
        _leave_one(head, chunked=chunked)
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise NotHttp(_NOT_ONE_LENGTH)
    if method == "HEAD" or head.status in (204, 304):
        return Sized(0)
    if chunked:
        return Chunked()
    return UntilClose() if length is None else Sized(int(length))


_NOT_ONE_LENGTH = "content-length is not one number"


def _leave_one(head: Head, *, chunked: bool) -> None:
    """Take out of *head* every length but the one that counts. Raises NotHttp."""
    codings = values_of("transfer-encoding", head.headers, head.named)
    if chunked and [coding.lower() for coding in codings] != ["chunked"]:
        raise NotHttp("the answer has a transfer coding that nobody asked for")
    lengths = [pair for pair in head.headers if pair[0].lower() == "content-length"]
    if len({value for _, value in lengths}) > 1:
        raise NotHttp(_NOT_ONE_LENGTH)
    for pair in lengths if chunked else lengths[1:]:
        head.headers.remove(pair)
    if chunked:
        head.named.pop("content-length", None)


class Sized:
    """A body of a known number of bytes."""

    in_trailers = False

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in *data*."""
        if len(data) > self._left:
            data, self.rest = data[: self._left], data[self._left :]
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def end(self) -> bytes:
        """Raise NotHttp where bytes are missing."""
        if not self.done:
            raise NotHttp(f"the connection ended {self._left} bytes before the body did")
        return b""


class UntilClose:
    """A body that ends with its connection."""

    in_trailers = False

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return *data*."""
        return data

    def end(self) -> bytes:
        """Take the end of the connection for the end of the body."""
        self.done = True
        return b""


_USUAL_SIZE_LINE = len("fffffff")


def _take_whole_chunks(data: bytes, position: int, pieces: list[bytes]) -> int:
    """Put the payload of the plain chunks that are whole in *data* into *pieces*.

    Returns where the first other one begins. Most chunks are such: that is what a stream costs.
    """
    while True:
        line_end = data.find(b"\r\n", position, position + _USUAL_SIZE_LINE + 2)
        size = _plain_size(data[position:line_end]) if line_end > position else 0
        begin = line_end + 2
        end = begin + size
        if not size or not data.startswith(b"\r\n", end):
            return position
        pieces.append(data[begin:end])
        position = end + 2


@lru_cache(maxsize=1024)
def _plain_size(line: bytes) -> int:
    """Return the size that a chunk's first *line* states, 0 where it states more or none."""
    match = _SIZE.fullmatch(line)
    return int(line, 16) if match and match[1] == line else 0


class Chunked:
    """A body in chunks; what follows the last one (trailers) is dropped."""

    def __init__(self) -> None:
        self.done = False
        self.in_trailers = False
        self.rest = b""
        self._held = b""  # a line that is not complete yet
        self._size = 0  # payload bytes to come in this chunk
        self._after_chunk = False
        self._trailers = 0  # bytes of them so far

    def feed(self, data: bytes) -> bytes:
        """Return the payload of all chunks and parts of chunks in *data*."""
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        position, size = 0, len(data)
        while position < size and not self.done:
            if self._size:
                end = min(position + self._size, size)
                pieces.append(data[position:end])
                self._size -= end - position
                self._after_chunk = not self._size
                position = end
                continue
            if not self._after_chunk and not self.in_trailers:
                position = _take_whole_chunks(data, position, pieces)
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._hold(data[position:])
                break
            self._line(data[position:line_end])
            position = line_end + 2
        if self.done:
            self.rest = data[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> bytes:
        """Raise NotHttp where the last chunk has not come."""
        if not self.done:
            raise NotHttp("the connection ended before the last chunk")
        return b""

    def _hold(self, part: bytes) -> None:
        if len(part) > _LONGEST_LINE:
            raise NotHttp("a chunk's size line does not end")
        self._held = part

    def _line(self, line: bytes) -> None:
        if self.in_trailers:
            self.done = not line
            self._trailers += len(line) + len("\r\n")
            if self._trailers > _LONGEST_TRAILERS:
                raise NotHttp("the trailers do not end")
        elif self._after_chunk:
            if line:
                raise NotHttp("a chunk is longer than it said")
            self._after_chunk = False
        else:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise NotHttp("a chunk has no size")
            self._size = int(match[1], 16)
            self.in_trailers = self._size == 0

"""The HTTP/1.1 parser, with its input cut at every byte."""

from __future__ import annotations

import pytest

from ccproxy_flask import http1
from ccproxy_flask.http1 import Head, NotHttp

CHUNKED = (
    b"5\r\nhello\r\n6;name=x\r\n world\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx: y\r\n\r\n"
)
PAYLOAD = b"hello worldabcdefghijklmnopqrstuvwxyz"


def head(*headers: tuple[str, str], status: int = 200) -> Head:
    """Return an answer's head."""
    named = {name.lower(): value for name, value in reversed(headers)}
    return Head(status, "OK", list(headers), named, keep_alive=True)


@pytest.mark.parametrize("cut", range(len(CHUNKED)))
def test_chunks_cut_anywhere_give_the_same_payload(cut: int) -> None:
    """A chunked body is the same whatever pieces the network made of it."""
    framing = http1.Chunked()

    payload = framing.feed(CHUNKED[:cut]) + framing.feed(CHUNKED[cut:])

    assert (payload, framing.done, framing.rest) == (PAYLOAD, True, b"")


def test_chunks_byte_by_byte() -> None:
    """A chunked body that comes one byte at a time is read, and its end is seen."""
    framing = http1.Chunked()

    payload = b"".join(framing.feed(CHUNKED[i : i + 1]) for i in range(len(CHUNKED)))

    assert (payload, framing.done) == (PAYLOAD, True)


def test_bytes_after_the_last_chunk_are_told_apart() -> None:
    """What follows the body is no part of it."""
    framing = http1.Chunked()

    framing.feed(CHUNKED + b"HTTP/1.1 200")

    assert framing.rest == b"HTTP/1.1 200"


@pytest.mark.parametrize("cut", range(len(CHUNKED) - 1))
def test_chunked_body_that_ends_early_is_an_error(cut: int) -> None:
    """The end of the connection is not the end of a chunked body."""
    framing = http1.Chunked()
    framing.feed(CHUNKED[:cut])

    with pytest.raises(NotHttp):
        framing.end()


@pytest.mark.parametrize(
    "bad",
    [b"\r\n\r\n", b"g\r\n", b"-1\r\n", b"0x5\r\n", b"5\r\nhelloX\r\n", b" 5\r\n", b"f" * 20000],
)
def test_bad_chunks_are_an_error(bad: bytes) -> None:
    """A framing that could be read in two ways is not read at all."""
    framing = http1.Chunked()

    with pytest.raises(NotHttp):
        framing.feed(bad)


@pytest.mark.parametrize("line", [b"x: y\r\n", b"x: " + b"y" * 10_000 + b"\r\n"])
def test_endless_trailers_are_an_error(line: bytes) -> None:
    """What follows the last chunk is dropped, but not for ever."""
    framing = http1.Chunked()
    framing.feed(b"0\r\n")
    assert (framing.in_trailers, framing.done) == (True, False)

    with pytest.raises(NotHttp, match="trailers"):
        framing.feed(line * 20_000)


def test_sized_body() -> None:
    """A body of known size ends there, and not earlier."""
    framing = http1.Sized(5)

    assert framing.feed(b"hel") == b"hel"
    with pytest.raises(NotHttp):
        framing.end()
    assert (framing.feed(b"loX"), framing.done, framing.rest) == (b"lo", True, b"X")


@pytest.mark.parametrize(
    ("method", "answer", "kind"),
    [
        ("GET", head(), http1.UntilClose),
        ("GET", head(("Content-Length", "3")), http1.Sized),
        ("GET", head(("Content-Length", "3"), ("Transfer-Encoding", "chunked")), http1.Chunked),
        ("GET", head(("Transfer-Encoding", "Chunked")), http1.Chunked),
        ("HEAD", head(("Content-Length", "3")), http1.Sized),
        ("GET", head(("Content-Length", "3"), ("Content-Length", "3")), http1.Sized),
    ],
)
def test_framing_follows_the_rfc(method: str, answer: Head, kind: type) -> None:
    """RFC 9112 §6.3 says how a body's end is told."""
    assert type(http1.framing_of(method, answer)) is kind


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(status: int) -> None:
    """204 and 304 have no body, whatever their headers say."""
    assert http1.framing_of("GET", head(("Content-Length", "3"), status=status)).done


@pytest.mark.parametrize("length", ["x", "-1", "1_0", "²", ""])
def test_bad_length_is_an_error(length: str) -> None:
    """A length that is no number is not guessed."""
    with pytest.raises(NotHttp):
        http1.framing_of("GET", head(("Content-Length", length)))


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked"])
def test_coding_nobody_asked_for_is_an_error(coding: str) -> None:
    """A transfer coding that could not be named to the client is not passed on without its name."""
    with pytest.raises(NotHttp):
        http1.framing_of("GET", head(("Transfer-Encoding", coding)))


def test_two_lengths_are_an_error() -> None:
    """Two different lengths are an attempt to smuggle."""
    with pytest.raises(NotHttp):
        http1.framing_of("GET", head(("Content-Length", "3"), ("Content-Length", "4")))


def test_head_is_kept_as_it_was_written() -> None:
    """Repeated headers, their order and their case stay; bytes beyond ASCII too."""
    parsed = http1.parse_head(
        b"HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nX-A:\t \xe9 \r\nset-cookie: b"
    )

    assert parsed.reason == "Fine"
    assert parsed.headers == [("Set-Cookie", "a"), ("X-A", "\xe9"), ("set-cookie", "b")]


@pytest.mark.parametrize(
    ("block", "kept"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close", False),
        (b"HTTP/1.1 200", True),
    ],
)
def test_connection_is_kept_when_both_agree(block: bytes, kept: bool) -> None:
    """Version and Connection header say whether a connection may be used again."""
    assert http1.parse_head(block).keep_alive is kept


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\na b: c",
        b"HTTP/1.1 200 OK\r\na: b\0c",
        b"HTTP/1.1 200 OK\r\n folded: x",
        b"HTTP/1.1 200 OK\r\n: x",
        b"HTTP/1.1 200 OK\nA: b",
    ],
)
def test_what_is_no_http_is_refused(block: bytes) -> None:
    """Garbage is an error, not an answer."""
    with pytest.raises(NotHttp):
        http1.parse_head(block)

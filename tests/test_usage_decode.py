"""Content codings, whole and cut, stacked and hostile."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib

import brotli
import pytest
import zstandard
from usage_support import pieces_of

from ccproxy_flask.usage.decode import Decoder, Undecodable, codings_of

TEXT = b'{"text": "' + bytes(range(32, 127)) * 500 + b'"}'


def raw_deflate(data: bytes) -> bytes:
    """Return *data* deflated without the header of zlib."""
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


CODED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "GZIP": gzip.compress(TEXT) + b"\0" * 20,
    "deflate": zlib.compress(TEXT),
    "Deflate": raw_deflate(TEXT),
    "br": brotli.compress(TEXT),
    "zstd": zstandard.compress(TEXT),
    " zstd ": zstandard.compress(TEXT[:99]) + zstandard.compress(TEXT[99:]),
    "gzip, br": brotli.compress(gzip.compress(TEXT)),
    "identity, deflate,zstd": zstandard.compress(zlib.compress(TEXT)),
    "identity": TEXT,
}


@pytest.mark.parametrize("coding", CODED)
def test_every_coding_cut_anywhere(coding):
    """Each coding HTTP clients ask for is undone, in pieces of bounded size."""
    for size in (1, 3, 500, 1 << 20):
        decoder = Decoder(coding)
        out = [p for piece in pieces_of(CODED[coding], size) for p in decoder.decode(piece)]
        assert b"".join(out) == TEXT
        assert max(map(len, out)) <= 128 << 10


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_what_is_flushed_can_be_read(coding):
    """An event that was flushed is there at once, not when the stream is over."""
    coder = {
        "gzip": lambda: zlib.compressobj(wbits=31),
        "deflate": zlib.compressobj,
        "zstd": lambda: zstandard.ZstdCompressor().compressobj(),
    }
    if coding == "br":
        compressor = brotli.Compressor()
        data = compressor.process(b"data: 1\n\n") + compressor.flush()
    else:
        made = coder[coding]()
        flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK if coding == "zstd" else zlib.Z_SYNC_FLUSH
        data = made.compress(b"data: 1\n\n") + made.flush(flush)
    assert b"".join(Decoder(coding).decode(data)) == b"data: 1\n\n"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_what_is_not_so_coded_is_undecodable(coding):
    """A body that is not what its header says is given up."""
    decoder = Decoder(coding)
    with pytest.raises(Undecodable):
        list(decoder.decode(b'{"not": "compressed"}' * 10))


@pytest.mark.parametrize("coding", ["compress", "gzip, what", "gzip,gzip,gzip,gzip,gzip"])
def test_unknown_codings_are_refused(coding):
    """Codings nobody uses, and heaps of them, are not tried."""
    with pytest.raises(Undecodable):
        Decoder(coding)


def sink(coding: str, data: bytes) -> None:
    """Decode *data* and keep nothing."""
    decoder = Decoder(coding)
    for piece in pieces_of(data, 64 << 10):
        for _ in decoder.decode(piece):
            pass


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_bombs_are_given_up_soon(coding):
    """A few kilobytes that stand for 40 MB cost neither the memory nor the time."""
    pack = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}[coding]
    bomb = pack(bytes(40 << 20))
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(Undecodable):
        sink(coding, bomb)
    took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 2
    assert peak < 32 << 20


def test_header_without_a_coding():
    """No header, an empty one and identity stand for no coding."""
    assert codings_of(None) == codings_of("") == codings_of("identity, ") == []

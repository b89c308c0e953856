"""What was said: cut, without secrets, compressed, kept by day, and given back byte for byte."""

import gzip
import hashlib
import json
import time
import zlib
from datetime import UTC, datetime, timedelta
from functools import partial

import brotli
import pytest
import zstandard

from ccproxy_flask.content import view
from ccproxy_flask.content.assembly import RawExchange, assembled
from ccproxy_flask.content.coding import compressed, decoded, way_of
from ccproxy_flask.content.day_file import DayFile, Exchange
from ccproxy_flask.content.frames import LARGEST, Frame, FrameParser, Kind, NotFrames, head_of
from ccproxy_flask.content.packing import (
    packed_ids,
    packed_times,
    unpacked_ids,
    unpacked_times,
)
from ccproxy_flask.content.pieces import cut, cut_stream
from ccproxy_flask.content.secrets import secret_spans, stream_spans, take_out
from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.credentials import Credentials
from ccproxy_flask.key_shapes import KEY_SHAPES
from ccproxy_flask.record import new_request_id

LONG = 'a long text with "quotes", a \\ and an é. ' * 40
KEY = KEY_SHAPES[0].example


def turn(*texts, **more):
    """Return the body of a turn of a conversation."""
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts]
    return json.dumps({"model": "m", **more, "messages": messages}).encode()


def raw(request, response=b"{}", encoding="", kind="application/json", **more):
    """Return an exchange as a worker hands it on."""
    head = {"request_id": new_request_id(), "at": 1_000_000, "method": "POST"}
    head |= {"target": "/v1/messages?beta=true", "api": "anthropic_messages", "headers": []}
    answer = [["content-type", kind], *([["content-encoding", encoding]] if encoding else [])]
    chunks = [response[at : at + 7] for at in range(0, len(response), 7)]
    return RawExchange(
        head | more,
        {"status": 200, "headers": answer},
        {"session_id": "s1"},
        [request],
        chunks,
        [(at * 7, 100 * at) for at in range(len(chunks))],
    )


def kept(exchange, store=None):
    """Return what is kept of *exchange* beside what is in *store*."""
    request_id = exchange.request_head["request_id"]
    if store is None:
        return assembled(exchange, lambda pieces: [True] * len(pieces))
    return assembled(exchange, partial(store.are_new, request_id))


@pytest.fixture
def store(tmp_path):
    """A store of content."""
    store = ContentStore(tmp_path / "content", 1 << 30, 7)
    yield store
    store.close()


def test_cut_pieces_make_up_the_body_wherever_it_ends():
    """A body that was cut at any byte is still made up of its pieces."""
    text = LONG[:600]
    body = turn("hi", text, "more", tools=[{"name": "t", "description": text}])
    for end in range(len(body) + 1):
        assert b"".join(cut(body[:end])) == body[:end]


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\xff" * 9, b'"' * 99, b"[" * 500, b"]" * 9, b'{"a":"\\', b'["' + b'\\"' * 200_000],
)
def test_cut_takes_anything(body):
    """What is no JSON is cut, too, and made up again."""
    assert b"".join(cut(body)) == body


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_a_stream_is_cut_in_its_large_events(end):
    """What an answer repeats of its request is a piece of both; small events stay together."""
    said = json.dumps(LONG).encode()
    large = json.dumps({"response": {"instructions": LONG, "tools": [LONG, LONG]}})
    body = f"data: {{}}{end}data: {large}{end}data: {{}}{end}{large}{end}".encode()
    assert cut_stream(body).count(said) == 6
    assert cut_stream(b"data: {}\n\n" * 3_000) == [b"data: {}\n\n" * 3_000]
    for at in range(0, len(body) + 1, 97):
        assert b"".join(cut_stream(body[:at])) == body[:at]


def test_cut_finds_the_same_pieces_in_the_next_turn():
    """Each message of a turn is a piece that the next turn has, too."""
    texts = [f"message {number} " * 9 for number in range(6)]
    before, after = set(cut(turn(*texts[:5]))), cut(turn(*texts))
    new = [piece for piece in after if piece not in before]
    assert sum(map(len, new)) < 2 * len(texts[5]) + 64


def test_a_moving_cache_marker_leaves_long_texts_alone():
    """A text is the same piece whether its block is marked for the cache or not."""
    block = {"type": "text", "text": LONG}
    marked = json.dumps([block | {"cache_control": {"type": "ephemeral"}}]).encode()
    text = json.dumps(LONG).encode()
    assert text in cut(marked)
    assert text in cut(json.dumps([block, block]).encode())


@pytest.mark.parametrize("filler", ["\\", "a", "%41", "&", "\\u0041", "=", "A1b-"])
def test_search_takes_no_time_out_of_proportion(filler):
    """A body made to be slow to search is searched in about the time of any other."""
    credentials = Credentials()
    credentials.add_header("x-api-key", KEY)
    quoted = "".join(f"%{ord(character):02x}" for character in KEY)
    data = (f"{quoted} " + filler * (400_000 // len(filler)) + f" {quoted}").encode()
    begin = time.process_time()
    assert b"%" not in take_out(data, secret_spans(data, credentials)).replace(filler.encode(), b"")
    assert time.process_time() - begin < 30  # a quadratic search takes hours


@pytest.mark.parametrize(
    ("encoding", "wire"),
    [
        ("gzip", zlib.compressobj(6, wbits=31)),
        ("deflate", zlib.compressobj(6)),
    ],
)
def test_what_zlib_compressed_is_compressed_again_to_the_same_bytes(encoding, wire):
    """The way of a usual client is found, and gives the very same bytes."""
    said = turn(LONG)
    body = wire.compress(said) + wire.flush()
    way = way_of(body, said, encoding)
    assert compressed(decoded(body, encoding), way) == body


@pytest.mark.parametrize("level", [1, 3])
def test_what_zstd_compressed_is_compressed_again_to_the_same_bytes(level):
    """So is a body of zstd, as Codex sends them."""
    said = turn(LONG)
    body = zstandard.ZstdCompressor(level=level).compress(said)
    assert compressed(said, way_of(body, said, "zstd")) == body


def test_an_unusual_compression_has_no_way():
    """Where no usual way gives the bytes, none is named."""
    said = turn(LONG)
    assert way_of(gzip.compress(said, 4, mtime=77), said, "gzip") is None
    assert decoded(b"no gzip", "gzip") is None


@pytest.mark.parametrize("shape", KEY_SHAPES, ids=[shape.issuer for shape in KEY_SHAPES])
def test_known_keys_are_taken_out_and_named(shape):
    """A key of each issuer goes, and a placeholder says that there was one."""
    data = json.dumps({"text": f"use\n{shape.example} now"}).encode()
    clean = json.loads(take_out(data, secret_spans(data)))["text"]
    assert clean.startswith("use\n[secret:")
    assert clean.endswith("_key] now")
    assert len(clean) < 48


@pytest.mark.parametrize(
    "text",
    [
        "tasks, actions and risk-averse desk-work; sk-learn, hf_hub, key_1, xai-like",
        '{"cmd":"ls -la","command":"pwd","model":"gpt-5.6-sol","token": 12}',
        "Authorization: Bearer <your token here>, password: hunter2, api_key=os.environ['X']",
        "commit 3f2504e04f8911d39a0c0305e82c3301, id msg_01XFDUDYJgAACzvnptvVoYEL",
    ],
)
def test_words_stay(text):
    """Nothing that is no key is touched."""
    assert secret_spans(text.encode()) == []


def test_a_credential_of_the_exchange_is_taken_out_without_a_shape():
    """The client's own key goes wherever it stands."""
    data = b'{"echo": "0123456789abcdef0123456789abcdef"}'
    credentials = Credentials()
    credentials.add("0123456789abcdef0123456789abcdef")
    spans = secret_spans(data, credentials)
    assert take_out(data, spans) == b'{"echo": "[secret:credential]"}'


@pytest.mark.parametrize(
    "text",
    [
        "keys begin with sk-ant-api03-, see ANTHROPIC_API_KEY=sk-ant-api03-...",
        "line one\nZq7x\nline two, caf\u00e9 100%, a&b &amp; c\n",
    ],
)
def test_words_beside_a_credential_stay(text):
    """What a key has in common with words and with others of its issuer is shown."""
    credentials = Credentials()
    credentials.add_header("x-api-key", KEY)
    data = json.dumps({"text": f"{text} and {KEY}\nthen"}).encode()
    clean = json.loads(take_out(data, secret_spans(data, credentials)))["text"]
    assert clean.startswith(f"{text} and [secret:")
    assert clean.endswith("]\nthen")


@pytest.mark.parametrize(
    ("encoding", "wire"),
    [
        ("gzip", gzip.compress(b'{"a": 1}') + b"rest"),
        ("compress", b"\x1f\x9d\x90"),
    ],
)
def test_what_nobody_can_search_is_not_kept(encoding, wire):
    """A body that is not what its coding says may hide a key: it is named, and left out."""
    head = {"request_id": new_request_id(), "at": 1, "headers": []}
    answer = {"status": 200, "headers": [("content-encoding", encoding)]}
    kept = assembled(
        RawExchange(head, answer, response=[wire]), lambda pieces: [True] * len(pieces)
    )
    assert b"".join(kept.response) == b""
    assert kept.facts["response"]["secrets"] == ["unreadable"]
    assert view.verified(kept)["response"] == "scrubbed"


@pytest.mark.parametrize("step", [1, 3, 8, 30])
def test_a_key_that_is_cut_across_events_is_found(step):
    """A stream that says a key a few letters at a time keeps none of them."""
    parts = [KEY[at : at + step] for at in range(0, len(KEY), step)]
    events = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
        for part in ["it is ", *parts, " then"]
    ]
    other = {"type": "content_block_delta", "index": 1, "delta": {"text": "between"}}
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    lines.insert(2, f"data: {json.dumps(other)}\n\n")
    data = "".join(lines).encode()
    clean = take_out(data, stream_spans(data))
    shown = "".join(
        json.loads(line[6:])["delta"]["text"]
        for line in clean.decode().splitlines()
        if line.startswith("data:") and '"index": 0' in line
    )
    assert "sk-ant" not in shown
    assert shown.startswith("it is [secret:anthropic_key]")
    assert b"between" in clean


def test_frames_are_found_however_they_are_cut():
    """A parser of frames gives the same for every cut."""
    frames = [Frame(Kind.REQUEST_HEAD, 7, 0, b"{}"), Frame(Kind.RESPONSE_CHUNK, 7, 12, b"abc" * 9)]
    data = b"".join(head_of(f.kind, f.number, len(f.data), f.micros) + f.data for f in frames)
    for at in range(len(data) + 1):
        parser = FrameParser()
        assert [*parser.feed(data[:at]), *parser.feed(data[at:])] == frames


def test_frames_of_nobody_are_refused():
    """What is no frame ends the connection, not the memory."""
    with pytest.raises(NotFrames):
        list(FrameParser().feed(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
    for kind in (0, 7):
        with pytest.raises(NotFrames):
            list(FrameParser().feed(head_of(kind, 1, 2, 3)))
    assert list(FrameParser().feed(head_of(Kind.END, 1, LARGEST, 3))) == []  # not whole yet
    with pytest.raises(NotFrames):
        list(FrameParser().feed(head_of(Kind.END, 1, LARGEST + 1, 3)))


@pytest.mark.parametrize("encoding", ["", "gzip", "br", "zstd", "deflate"])
def test_a_kept_exchange_is_what_was_on_the_wire(store, encoding):
    """Both bodies come back byte for byte, with the times of the pieces."""
    said = ("data: " + json.dumps({"type": "ping", "n": LONG}) + "\n\n").encode() * 3
    response = {
        "": lambda: said,
        "gzip": lambda: gzip.compress(said, 5, mtime=1),
        "br": lambda: brotli.compress(said, quality=7),
        "zstd": lambda: zstandard.ZstdCompressor(level=7).compress(said),
        "deflate": lambda: zlib.compress(said, 2),
    }[encoding]()
    given = raw(turn(LONG), response, encoding, "text/event-stream")
    store.add([kept(given)])
    found = store.exchange(given.request_head["request_id"])
    assert view.verified(found) == {"request": "ok", "response": "ok"}
    assert view.wire(found, "response") == response
    assert view.said(found, "response") == said
    assert list(found.times) == given.times
    events = view.events(found)["events"]
    assert len(events) == 3
    ends = [event["micros"] for event in events]
    assert ends == sorted(ends)
    assert 0 < ends[0] <= ends[-1] <= given.times[-1][1]


def test_secrets_are_in_no_file_and_the_rest_is_as_it_was(store, tmp_path):
    """A key in any part of an exchange reaches no file; the bodies say that one was taken out."""
    other = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    given = raw(
        turn(f"my key is {KEY}", LONG),
        json.dumps({"error": {"message": f"bad key {other}"}}).encode(),
        headers=[["authorization", f"Bearer {other}"], ["user-agent", "test/1"]],
        target=f"/v1/messages?key={other}&beta=true",
    )
    store.add([kept(given)])
    found = store.exchange(given.request_head["request_id"])
    store.close()
    files = b"".join(path.read_bytes() for path in (tmp_path / "content").iterdir())
    shown = json.dumps(view.content(found)) + str(view.said(found, "request"))
    for secret in (KEY, other):
        assert secret.encode() not in files
        assert secret not in shown
    assert view.verified(found) == {"request": "scrubbed", "response": "scrubbed"}
    assert ["user-agent", "test/1"] in view.content(found)["request_headers"]
    assert "bad key [secret:credential]" in view.said(found, "response").decode()


def test_a_session_is_kept_once(store):
    """Thirty turns of a growing conversation take a small part of their bytes."""
    texts, size = [], 0
    for number in range(30):
        texts.append(f"turn {number} " + " ".join(f"{number * i:x}" for i in range(300)))
        given = raw(turn(*texts))
        size += len(given.request[0])
        store.add([kept(given, store)])
    store.close()
    assert store.size() < size / 3


def test_content_is_found_by_its_words(store):
    """A search finds the exchange that brought the words, not each later turn."""
    first = raw(turn("the walrus and the carpenter"))
    second = raw(turn("the walrus and the carpenter", "were walking close at hand"))
    for given in (first, second):
        store.add([kept(given, store)])
    found = [request_id for request_id, *_ in store.search("walrus carp", 10)]
    assert found == [first.request_head["request_id"]]
    assert store.search("walking", 10)[0][2] == "user"
    assert store.search('" OR *', 10) == []


@pytest.mark.parametrize("ids", [[], [1], [7, 8, 9], [1 << 40, 3, 3, 0]])
def test_lists_are_packed_and_come_back(ids):
    """Ids of parts in any order, and times that only grow, are the same again."""
    assert unpacked_ids(packed_ids(ids)) == ids
    times = [(offset, 3 * offset) for offset in sorted(ids)]
    assert unpacked_times(packed_times(times)) == times


def test_old_days_go_as_whole_files(store, tmp_path):
    """Retention deletes files of days that are over; what is younger stays."""
    given = raw(turn("x"))
    store.add([kept(given)])
    old = tmp_path / "content" / "2020-01-01.sqlite"
    DayFile(old).close()
    assert store.retain(datetime.now(UTC)) == 1
    assert not old.exists()
    assert store.has(given.request_head["request_id"])
    assert store.retain(datetime.now(UTC) + timedelta(days=9)) == 1
    assert not store.has(given.request_head["request_id"])


def test_a_day_over_its_space_loses_its_oldest_part(tmp_path):
    """Over the bytes that it may take, the oldest content goes, and the newest stays."""
    store = ContentStore(tmp_path / "content", 3 << 20, 7)
    ids = []
    for number in range(40):
        noise = "".join(hashlib.sha512(f"{number} {i}".encode()).hexdigest() for i in range(2400))
        ids.append(Exchange(new_request_id(), 1, None, {}, [noise.encode()]))
        store.add([ids[-1]])
        store.retain(datetime.now(UTC))
    assert store.size() < 4 << 20
    assert store.has(ids[-1].request_id)
    assert not store.has(ids[0].request_id)
    store.close()


def test_an_exchange_is_kept_once_and_whole(tmp_path):
    """The same exchange again changes nothing; ids that are none are not looked for."""
    file = DayFile(tmp_path / "day.sqlite")
    exchange = Exchange(new_request_id(), 5, "s", {"a": 1}, [b"x"] * 3, [], [(0, 9), (4, 9)])
    file.add([exchange])
    file.add([exchange])
    assert file.counts()["exchange"] == 1
    assert file.exchange(exchange.request_id) == exchange
    file.close()


def test_a_difference_names_the_first_part_that_changed():
    """Compared in cache order: tools, system, messages; what is appended is no change."""
    tools = [{"name": "read"}, {"name": "write"}]
    before = json.loads(turn("one", "two", tools=tools, system="be brief"))
    after = json.loads(turn("one", "two", "three", tools=tools, system="be brief"))
    found = view.difference("anthropic_messages", before, after)
    assert (found["same_prefix"], found["first"]) == (True, None)
    assert [part["change"] for part in found["parts"]] == ["appended"]
    after["system"] = "be verbose"
    found = view.difference("anthropic_messages", before, after)
    assert (found["first"]["section"], found["first"]["change"]) == ("system", "changed")
    after["tools"] = tools[::-1]
    found = view.difference("anthropic_messages", before, after)
    assert (found["first"]["section"], found["first"]["change"]) == ("tools", "moved")


def test_markers_of_the_cache_are_no_difference():
    """Where a marker moved, the same is cached."""
    before, after = json.loads(turn("one", "two")), json.loads(turn("one", "two"))
    before["messages"][0]["content"][0]["cache_control"] = {"type": "ephemeral"}
    assert view.difference("anthropic_messages", before, after)["parts"] == []

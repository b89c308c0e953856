"""Tracers: what all of them promise, and what each of them makes of an exchange."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scripted import wait_until

from ccproxy_flask.capture import (
    CaptureFactory,
    ConsoleTracer,
    FileTracer,
    NullTracer,
    QueuedTracer,
    RequestTracer,
    StreamingTracer,
    Tracer,
    read_trace,
    show,
)
from ccproxy_flask.credentials import Credentials
from ccproxy_flask.dialects import BY_NAME
from ccproxy_flask.proxy.observers import Observers, RequestHead, ResponseHead
from ccproxy_flask.record import RequestRecord

ID = "0198c0de-1111-7000-8000-000000000001"
URL = "https://api.example/v1/messages?beta=true"
HEADERS = [("content-type", "application/json"), ("x-api-key", "opaque-CANARY-1")]
BODY = b'{"model":"m-1","messages":[{"role":"user","content":"Hello"}],"stream":true}'
ANSWER = b'{"type":"message","content":[{"type":"text","text":"Hi there"}]}'
SSE = [("content-type", "text/event-stream")]
RECORD = RequestRecord(ID, datetime.now(UTC))
DELTAS = [
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"%b"}}\n\n' % text
    for text in (b"Hel", b"lo")
]


class Outlet:
    """Where a tracer's output goes, as text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []

    def text(self) -> str:
        """Return all that was put out."""
        files = sorted(self.directory.rglob("*")) if self.directory.exists() else []
        return "\n".join([*self.lines, *(path.read_text() for path in files if path.is_file())])


def queued(*targets: Callable[[QueuedTracer], Tracer]) -> QueuedTracer:
    """Return a queue before *targets*, which it is given to."""
    tracer = QueuedTracer()
    tracer.targets = [make(tracer) for make in targets]
    return tracer


MAKERS = {
    "null": lambda out: NullTracer(),
    "console": lambda out: ConsoleTracer(out.lines.append),
    "console, verbose": lambda out: ConsoleTracer(out.lines.append, verbose=True),
    "file": lambda out: FileTracer(out.directory),
    "file, verbose": lambda out: FileTracer(out.directory, verbose=True),
    "queued": lambda out: queued(
        lambda it: FileTracer(out.directory, verbose=True, clock=it.clock, on_drop=it.lost),
        lambda it: ConsoleTracer(out.lines.append, clock=it.clock),
    ),
}


@pytest.fixture
def outlet(tmp_path):
    return Outlet(tmp_path / "a" / "traces")


@pytest.fixture(params=MAKERS)
def tracer(request, outlet) -> Iterator[Tracer]:
    made = MAKERS[request.param](outlet)
    yield made
    made.close()


@pytest.fixture
def files(outlet) -> FileTracer:
    return FileTracer(outlet.directory, verbose=True)


def exchange(tracer: Tracer, request_id: str = ID, body: bytes = BODY) -> None:
    """Trace one exchange without a stream."""
    tracer.trace_request(request_id, "POST", URL, HEADERS, body)
    tracer.trace_response(request_id, 200, {"content-type": "application/json"}, ANSWER)


def stream(tracer: Tracer, request_id: str = ID) -> None:
    """Trace one exchange with a stream."""
    tracer.trace_request(request_id, "POST", URL, HEADERS, BODY)
    tracer.trace_stream_start(request_id, [(":status", "200"), *SSE])
    for number, chunk in enumerate(DELTAS, 1):
        tracer.trace_stream_chunk(request_id, chunk, number)
    tracer.trace_stream_complete(request_id, 2, sum(map(len, DELTAS)))


class TestContract:
    """What every tracer promises."""

    def test_it_has_the_published_methods(self, tracer):
        """It is a tracer of requests and of streams."""
        assert isinstance(tracer, RequestTracer)
        assert isinstance(tracer, StreamingTracer)
        assert isinstance(tracer, Tracer)

    @pytest.mark.parametrize("trace", [exchange, stream])
    def test_nothing_secret_comes_out(self, tracer, outlet, trace):
        """A key in a header is in no output."""
        trace(tracer)
        tracer.close()
        assert "CANARY" not in outlet.text()

    @pytest.mark.parametrize("trace", [exchange, stream])
    def test_the_exchange_comes_out(self, tracer, outlet, trace):
        """All but the null tracer say what was asked and answered."""
        trace(tracer)
        tracer.close()
        shown = outlet.text()
        assert isinstance(tracer, NullTracer) or (ID in shown and "m-1" in shown)

    def test_any_order_of_calls_is_taken(self, tracer):
        """Calls without a beginning, after the end, and twice do no harm."""
        tracer.trace_stream_complete("a", 0, 0)
        tracer.trace_stream_chunk("b", b"x", 1)
        tracer.trace_response("c", 200, [], None)
        tracer.trace_error("d", "upstream_broken", "cut")
        tracer.forget("e")
        stream(tracer)
        stream(tracer)
        exchange(tracer)
        tracer.close()
        tracer.close()
        stream(tracer, "f")

    def test_nothing_raises_on_odd_values(self, tracer):
        """Bytes that are no text, statuses that are none, and empty things are taken."""
        tracer.trace_request("a", "", "", [], None)
        tracer.trace_response("a", 0, [("", "")], b"\xff\x00\x1b[31m")
        tracer.trace_request("b", "G\r\nT", "http://[", [("a\r\nb", "c\r\nd")], b"{" * 5000)
        tracer.trace_stream_start("b", [(":status", "x"), ("content-encoding", "br")])
        tracer.trace_stream_chunk("b", b"\xff" * 100, 1)
        tracer.trace_stream_complete("b", 1, 100)
        tracer.close()

    @pytest.mark.parametrize(
        "name", ["../x", "a/b", "/etc/x", "", ".", "..", "a" * 65, "a\x00", "ä"]
    )
    def test_no_name_leads_elsewhere(self, tracer, outlet, name):
        """What is not an id of ours becomes no part of a path."""
        before = sorted(outlet.directory.parent.parent.rglob("*"))
        exchange(tracer, name)
        tracer.close()
        after = sorted(outlet.directory.parent.parent.rglob("*"))
        assert [path for path in after if path not in before] == []

    def test_headers_may_be_a_mapping(self, tracer, outlet):
        """Headers come as a mapping or as pairs."""
        tracer.trace_request(ID, "GET", URL, {"x-api-key": "opaque-CANARY-1"}, None)
        tracer.trace_response(ID, 404, {"server": "nginx"}, b"")
        tracer.close()
        assert "CANARY" not in outlet.text()


class TestFiles:
    """The tracer that keeps files."""

    def test_exchange_is_kept_in_parts_and_raw(self, files, outlet):
        """The JSON has both parts; the raw texts are as on the wire, but for what is hidden."""
        exchange(files)
        found = read_trace(outlet.directory, ID)
        assert found["complete"] is True
        assert found["request"]["url"] == URL
        assert found["request"]["body"] == json.loads(BODY)
        assert found["response"]["status"] == 200
        assert found["response"]["body"] == json.loads(ANSWER)
        assert found["raw_request"].split("\r\n") == [
            "POST /v1/messages?beta=true HTTP/1.1",
            "content-type: application/json",
            "x-api-key: ***",
            "",
            BODY.decode(),
        ]
        assert found["raw_response"].startswith("HTTP/1.1 200 OK\r\ncontent-type: application/json")

    def test_stream_keeps_the_time_of_each_chunk(self, outlet):
        """Each chunk has its offset in microseconds, and the events that ended in it."""
        times = iter([0, 1_000, 5_000_000, 5_250_000, 6_000_000, 9_000_000])
        tracer = FileTracer(outlet.directory, verbose=True, clock=lambda: next(times))
        stream(tracer)
        found = read_trace(outlet.directory, ID)["stream"]
        assert [chunk["offset_us"] for chunk in found["chunks"]] == [250, 1000]
        texts = [chunk["events"][0]["delta"]["text"] for chunk in found["chunks"]]
        assert texts == ["Hel", "lo"]
        assert (found["total_chunks"], found["total_bytes"]) == (2, sum(map(len, DELTAS)))

    def test_event_over_several_chunks_belongs_to_the_last(self, files, outlet):
        """However a stream is cut, each event is shown once, where it ended."""
        data = b"".join(DELTAS)
        files.trace_stream_start(ID, SSE)
        for number in range(len(data)):
            files.trace_stream_chunk(ID, data[number : number + 1], number + 1)
        files.trace_stream_complete(ID, len(data), len(data))
        chunks = read_trace(outlet.directory, ID)["stream"]["chunks"]
        assert [chunk["number"] for chunk in chunks if "events" in chunk] == [
            len(DELTAS[0]),
            len(data),
        ]

    def test_without_verbose_only_the_beginning_of_bodies_is_kept(self, outlet):
        """A preview has at most the letters that were asked for."""
        tracer = FileTracer(outlet.directory, preview=10)
        exchange(tracer)
        found = read_trace(outlet.directory, ID)
        assert found["request"]["body_preview"] == BODY[:10].decode() + "…"
        assert "body" not in found["request"]
        assert found["raw_response"].endswith(ANSWER[:10].decode() + "…")

    def test_cut_stream_says_why(self, files, outlet):
        """An exchange that ended with an error is not complete, and names the error."""
        files.trace_request(ID, "POST", URL, HEADERS, BODY)
        files.trace_stream_start(ID, SSE)
        files.trace_stream_chunk(ID, DELTAS[0], 1)
        files.trace_error(ID, "upstream_broken", "the upstream broke off")
        files.trace_stream_complete(ID, 1, len(DELTAS[0]))
        found = read_trace(outlet.directory, ID)
        assert found["complete"] is False
        assert found["error"] == {"type": "upstream_broken", "message": "the upstream broke off"}

    def test_exchange_in_flight_is_kept_at_the_end(self, files, outlet):
        """What is not over when the tracer is closed is written as far as it came."""
        files.trace_request(ID, "POST", URL, HEADERS, BODY)
        files.close()
        found = read_trace(outlet.directory, ID)
        assert (found["complete"], found["duration_us"]) == (False, None)

    def test_only_the_owner_may_read(self, files, outlet):
        """Files are 0600 in a directory of 0700, whatever the umask."""
        before = os.umask(0)
        try:
            exchange(files)
        finally:
            os.umask(before)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in outlet.directory.iterdir()}
        assert modes == {0o600}
        assert stat.S_IMODE(outlet.directory.stat().st_mode) == 0o700

    def test_link_in_the_way_is_not_followed(self, files, outlet, tmp_path):
        """A link that somebody puts where a file will be is replaced, not written through."""
        outlet.directory.mkdir(parents=True)
        target = tmp_path / "target"
        target.write_text("mine")
        for name in (f"{ID}.trace.json", f".{ID}.trace.json.tmp"):
            (outlet.directory / name).symlink_to(target)
        exchange(files)
        assert target.read_text() == "mine"
        assert not (outlet.directory / f"{ID}.trace.json").is_symlink()

    def test_body_is_bounded(self, outlet):
        """Of a body over the limit the beginning is kept, and it is said."""
        tracer = FileTracer(outlet.directory, verbose=True, max_body_bytes=1024)
        exchange(tracer, body=b"word " * 1000)
        request = read_trace(outlet.directory, ID)["request"]
        assert (request["body_bytes"], request["body_cut"]) == (1024, True)

    def test_long_stream_is_bounded(self, outlet):
        """Of a stream over the limit the events after it are counted only."""
        tracer = FileTracer(outlet.directory, verbose=True, max_body_bytes=1024)
        tracer.trace_stream_start(ID, SSE)
        for number in range(1, 1001):
            tracer.trace_stream_chunk(ID, DELTAS[0], number)
        tracer.trace_stream_complete(ID, 1000, 1000 * len(DELTAS[0]))
        found = read_trace(outlet.directory, ID)["stream"]
        assert found["body_cut"] is True
        assert len(found["chunks"]) == 1000
        assert sum(len(chunk.get("events", ())) for chunk in found["chunks"]) < 12

    def test_many_streams_at_once_are_bounded_together(self, outlet):
        """Whatever is in flight, a tracer holds no more than 64 MiB and what it began with."""
        tracer = FileTracer(outlet.directory, verbose=True, max_body_bytes=8 << 20)
        data = b"data: " + b"x" * (1 << 20)
        tracemalloc.start()
        try:
            for number in range(20):
                tracer.trace_stream_start(f"id-{number}", SSE)
                for chunk in range(1, 9):
                    tracer.trace_stream_chunk(f"id-{number}", bytes(bytearray(data)), chunk)
            assert tracemalloc.get_traced_memory()[0] < 80 << 20
        finally:
            tracemalloc.stop()
        for number in range(20):
            tracer.forget(f"id-{number}")
        stream(tracer)
        assert read_trace(outlet.directory, ID)["stream"]["body_cut"] is False

    @pytest.mark.parametrize(
        "bound", [{"max_exchanges": 5}, {"max_bytes": 9000}, {"max_age_seconds": 100.0}]
    )
    def test_oldest_exchanges_go(self, outlet, bound):
        """Number, size and age are bounded; the newest exchange stays."""
        for number in range(20):
            tracer = FileTracer(outlet.directory, verbose=True, **bound)
            exchange(tracer, f"0198c0de-1111-7000-8000-{number:012}")
            for path in outlet.directory.iterdir():
                then = path.stat().st_mtime - 30
                os.utime(path, (then, then))
        kept = sorted(path.name[:36] for path in outlet.directory.glob("*.trace.json"))
        assert 1 <= len(kept) < 12
        assert kept == [f"0198c0de-1111-7000-8000-{20 - n:012}" for n in range(len(kept), 0, -1)]
        assert len(list(outlet.directory.iterdir())) == 3 * len(kept)

    def test_bounds_hold_between_looks(self, outlet):
        """One tracer keeps within its number without waiting for its next look."""
        tracer = FileTracer(outlet.directory, max_exchanges=5)
        for number in range(30):
            exchange(tracer, f"id-{number}")
            assert len(list(outlet.directory.glob("*.trace.json"))) <= 5

    def test_full_directory_costs_little(self, outlet):
        """At its bound a tracer does not look at the whole directory for each exchange."""
        tracer = FileTracer(outlet.directory, max_exchanges=100)
        for number in range(100):
            exchange(tracer, f"old-{number}")
        before = outlet.directory.stat().st_mtime_ns
        exchange(tracer, "one-over")
        assert len(list(outlet.directory.glob("*.trace.json"))) == 90
        assert outlet.directory.stat().st_mtime_ns > before
        for number in range(10):
            exchange(tracer, f"new-{number}")
        assert len(list(outlet.directory.glob("*.trace.json"))) == 100

    def test_files_of_others_stay(self, outlet):
        """Nothing but our own files is ever removed."""
        outlet.directory.mkdir(parents=True)
        others = [
            "package.json",
            "login.request.http",
            "notes.txt",
            ".hidden.tmp",
            "a.trace.json.gz",
        ]
        for name in others:
            (outlet.directory / name).write_text("x")
            os.utime(outlet.directory / name, (0, 0))
        tracer = FileTracer(outlet.directory, max_exchanges=1)
        for number in range(5):
            exchange(tracer, f"id-{number}")
        assert {path.name for path in outlet.directory.iterdir()} >= set(others)

    def test_unwritable_directory_is_counted(self, tmp_path):
        """What cannot be written is counted, and raises nothing."""
        (tmp_path / "file").write_text("in the way")
        drops: list[str] = []
        tracer = FileTracer(tmp_path / "file" / "traces", on_drop=drops.append)
        exchange(tracer)
        exchange(tracer, "other")
        assert drops == ["unwritable", "unwritable"]

    def test_directory_that_goes_is_made_again(self, files, outlet):
        """Tracing goes on after somebody removed the directory."""
        exchange(files)
        subprocess.run(["rm", "-r", str(outlet.directory)], check=True)
        exchange(files, "again")
        assert read_trace(outlet.directory, "again")["complete"] is True

    @pytest.mark.parametrize("name", ["missing", "../secret", "a/b", ""])
    def test_missing_trace_is_an_error(self, outlet, name):
        """A trace that is not there, or no id at all, raises."""
        with pytest.raises(FileNotFoundError):
            read_trace(outlet.directory, name)


class TestConsole:
    """The tracer that shows."""

    def test_it_shows_heads_and_readable_json(self, outlet):
        """Request and answer come as lines, bodies as indented JSON."""
        exchange(ConsoleTracer(outlet.lines.append))
        request, answer = outlet.lines
        assert request.startswith(f"→ {ID} POST {URL}\n  content-type: application/json\n")
        assert '\n    "model": "m-1",\n' in request
        assert answer.startswith(f"← {ID} 200 ")
        assert "Hi there" in answer

    def test_preview_is_bounded(self, outlet):
        """Of a long body the beginning is shown, without verbose."""
        tracer = ConsoleTracer(outlet.lines.append, preview=40)
        exchange(tracer, body=json.dumps({"messages": ["word " * 1000]}).encode())
        assert len(outlet.lines[0]) < 300
        assert outlet.lines[0].endswith("…")

    def test_no_output_steers_the_terminal(self, outlet):
        """Control characters of bodies, headers and errors do not get through."""
        tracer = ConsoleTracer(outlet.lines.append, verbose=True)
        text = "a\x1b[2Jb\x07\x9b\u202ec"
        body = json.dumps({"content": text}).encode()
        tracer.trace_request(ID, "POST", URL, [*HEADERS, ("user-agent", text)], body)
        tracer.trace_error(ID, "upstream_broken", text)
        tracer.trace_response(ID, 200, HEADERS, text.encode())
        shown = "".join(outlet.lines).replace("\n", "")
        assert not any(
            ord(each) < 32 or 0x7F <= ord(each) < 0xA0 or each == "\u202e" for each in shown
        )

    def test_verbose_stream_shows_each_chunk(self, outlet):
        """With verbose each chunk has its line with its time."""
        stream(ConsoleTracer(outlet.lines.append, verbose=True))
        assert outlet.lines[1].count(" µs, ") == 2
        assert "2 chunks" in outlet.lines[1]


class Slow(NullTracer):
    """Takes calls when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.seen: list[str] = []
        self.threads: set[int] = set()

    def trace_request(self, request_id, method, url, headers, body):
        self.may.wait(10)
        self.threads.add(threading.get_ident())
        self.seen.append(request_id)

    def trace_response(self, request_id, status, headers, body):
        self.seen.append(request_id)

    def forget(self, request_id):
        self.seen.append(f"forget {request_id}")


class TestQueue:
    """The queue before the tracers."""

    def test_calls_are_worked_off_elsewhere(self):
        """A slow tracer does not hold the caller up, and runs in another thread."""
        target = Slow()
        tracer = QueuedTracer()
        tracer.targets = [target]
        for number in range(100):
            exchange(tracer, f"id-{number}")
        assert target.seen == []
        target.may.set()
        wait_until(lambda: len(target.seen) == 200)
        assert threading.get_ident() not in target.threads
        tracer.close()

    def test_exchange_without_room_is_given_up_whole(self):
        """Over the bound an exchange is dropped once, with all of its parts, and counted."""
        target, drops = Slow(), []
        tracer = QueuedTracer(max_bytes=10_000, on_drop=drops.append)
        tracer.targets = [target]
        for number in range(50):
            exchange(tracer, f"id-{number}", body=b"x" * 1000)
        target.may.set()
        tracer.close()
        whole = [each for each in target.seen if not each.startswith("forget")]
        assert len(whole) >= 2 * 3
        assert len(drops) == len([each for each in target.seen if each.startswith("forget")])
        forgotten = {each.removeprefix("forget ") for each in target.seen if " " in each}
        assert len(forgotten) == len(drops)
        assert {each for each in whole if whole.count(each) == 2}.isdisjoint(forgotten)
        assert set(drops) == {"queue_full"}

    def test_room_comes_back(self):
        """After the queue was worked off there is room again."""
        target, drops = Slow(), []
        target.may.set()
        tracer = QueuedTracer(max_bytes=4_000, on_drop=drops.append)
        tracer.targets = [target]
        for number in range(50):
            exchange(tracer, f"id-{number}", body=b"x" * 1000)
            tracer.flush()
        tracer.close()
        assert drops == []
        assert len(target.seen) == 100

    def test_times_are_those_of_the_calls(self, outlet):
        """The offset of a chunk is when it came, not when it was written."""
        tracer = queued(lambda it: FileTracer(outlet.directory, verbose=True, clock=it.clock))
        tracer.trace_stream_start(ID, SSE)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.2)
        tracer.trace_stream_chunk(ID, DELTAS[0], 1)
        tracer.trace_stream_complete(ID, 1, len(DELTAS[0]))
        tracer.close()
        [chunk] = read_trace(outlet.directory, ID)["stream"]["chunks"]
        assert 200_000 <= chunk["offset_us"] < 2_000_000

    def test_broken_tracer_disturbs_no_other(self, outlet):
        """A defect in one tracer ends neither the thread nor the others."""

        class Broken(NullTracer):
            def trace_request(self, *call):
                raise RuntimeError("defect")

        tracer = queued(lambda it: Broken(), lambda it: FileTracer(outlet.directory))
        exchange(tracer)
        wait_until((outlet.directory / f"{ID}.trace.json").exists)
        tracer.close()

    def test_drops_of_targets_are_told(self, tmp_path):
        """What a target cannot write is counted by the caller's function."""
        (tmp_path / "file").write_text("in the way")
        drops: list[str] = []
        tracer = QueuedTracer(on_drop=drops.append)
        tracer.targets = [FileTracer(tmp_path / "file", on_drop=tracer.lost)]
        exchange(tracer)
        tracer.close()
        assert drops == ["unwritable"]

    def test_each_process_has_a_thread_of_its_own(self, outlet):
        """A queue that was used before a fork works in the child."""
        tracer = queued(lambda it: FileTracer(outlet.directory))
        exchange(tracer, "parent")
        tracer.flush()
        child = os.fork()
        if child == 0:
            exchange(tracer, "child")
            deadline = time.monotonic() + 5
            while not (outlet.directory / "child.trace.json").exists():
                if time.monotonic() > deadline:
                    os._exit(1)
                time.sleep(0.02)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        tracer.close()


def head_of(target, url=""):
    """Return the head of a request, as observers get it."""
    sent = [("host", "localhost"), *HEADERS]
    return RequestHead(
        request_id=ID,
        method="POST",
        target=target,
        headers=sent,
        named=dict(sent),
        client_ip=None,
        provider="anthropic",
        endpoint="/v1/messages",
        dialect=BY_NAME["anthropic_messages"],
        generates=True,
        path=target.partition("?")[0],
        url=url,
        sent_headers=HEADERS,
        credentials=Credentials(),
    )


class TestExchangeCapture:
    """Which exchanges tracers are told of, and what."""

    @pytest.mark.parametrize(
        ("include", "exclude", "target", "chosen"),
        [
            ((), (), "/v1/messages", True),
            (("/v1/messages*",), (), "/v1/messages/count_tokens?x=1", True),
            (("/v1/messages",), (), "/v1/messages?beta=true", True),
            (("/v1/messages",), (), "/v1/chat/completions", False),
            ((), ("/v1/models*",), "/v1/models/a", False),
            (("/v1/*",), ("*/count_tokens",), "/v1/messages/count_tokens", False),
        ],
    )
    def test_paths_are_chosen(self, include, exclude, target, chosen):
        """Patterns say which paths are traced; what is excluded is so in any case."""
        factory = CaptureFactory(NullTracer(), include, exclude)
        assert (factory(RECORD, head_of(target)) is not None) is chosen

    def test_capture_ends_once(self, files, outlet):
        """An answer of our own after the upstream's changes nothing."""
        factory, head = (
            CaptureFactory(files),
            head_of("/v1/messages", "https://api.example/v1/messages"),
        )
        observers = Observers([factory], RECORD, head)
        observers.request_chunk(b"", 0.0)
        named = {"content-type": "application/json"}
        assert observers.response_head(ResponseHead(200, "OK", list(named.items()), named, 0.1))
        observers.response_chunk(ANSWER, 0.1)
        observers.end(RECORD, None)
        observers.end(RECORD, RuntimeError("late"))
        assert not observers.response_head(ResponseHead(502, "", [], {}, 0.2, own=True))
        found = read_trace(outlet.directory, ID)
        assert (found["response"]["status"], found["complete"]) == (200, True)
        assert found["request"]["headers"][0] == ["host", "api.example"]


class TestShow:
    """Kept exchanges as text."""

    def test_show_says_all_of_it(self, files, outlet):
        """Heads, bodies, events and their times are in the text."""
        stream(files)
        text = show.show(read_trace(outlet.directory, ID))
        for part in (
            ID,
            f"POST {URL}",
            "HTTP 200 after",
            "2 chunks",
            '"text":"Hel"',
            '"model": "m-1"',
        ):
            assert part in text

    def test_show_names_an_error(self, files, outlet):
        """An exchange without an answer says why."""
        files.trace_request(ID, "POST", URL, HEADERS, None)
        files.trace_error(ID, "upstream_timeout", "the upstream was silent")
        files.close()
        text = show.show(read_trace(outlet.directory, ID))
        assert "not complete" in text
        assert "error: upstream_timeout: the upstream was silent" in text

    def test_curl_sends_the_same_request(self, files, outlet, shared_upstream):
        """The command runs in a shell, and sends method, path, headers and body again."""
        shared_upstream.reset()
        body = {"model": "m-1", "messages": [{"role": "user", "content": 'it\'s $HOME `x` "é"\n'}]}
        url = f"{shared_upstream.url}/v1/messages?beta=true"
        headers = [*HEADERS, ("anthropic-version", "2023-06-01"), ("content-length", "1")]
        files.trace_request(ID, "POST", url, headers, json.dumps(body).encode())
        files.trace_response(ID, 200, [], ANSWER)
        command = show.curl(read_trace(outlet.directory, ID))
        subprocess.run(
            ["sh", "-ec", command],
            check=True,
            capture_output=True,
            env={**os.environ, "API_KEY": "from-the-shell", "no_proxy": "*"},
        )
        [seen] = shared_upstream.seen
        assert seen.line == "POST /v1/messages?beta=true HTTP/1.1"
        assert json.loads(seen.body) == body
        assert seen.header("x-api-key") == "from-the-shell"
        assert seen.header("anthropic-version") == "2023-06-01"

    def test_curl_says_what_is_missing(self, outlet):
        """Hidden headers, hidden parameters and a cut body are named in comments."""
        tracer = FileTracer(outlet.directory, preview=20)
        tracer.trace_request(ID, "POST", f"{URL}&key=opaque-CANARY", [("x-own", "CANARY")], BODY)
        tracer.close()
        command = show.curl(read_trace(outlet.directory, ID))
        assert "# hidden and left out: x-own\n" in command
        assert "# the body is not whole" in command
        assert "# what was hidden stands as ***" in command

    def test_curl_without_a_request_says_so(self):
        """A trace that lacks its request gives no command."""
        assert show.curl({"request_id": ID}).startswith("# ")

"""``/logs/stream``: every event of all workers to every reader, over real servers and sockets."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from flask import Flask
from recording_support import forked, make_record, open_writer, recording_settings
from scripted import Conversation, ScriptedUpstream, wait_until
from stream_support import ENDS, Collector, Reader, writing
from werkzeug.serving import WSGIRequestHandler, make_server

from ccproxy_flask import logs, request_context
from ccproxy_flask.journal import Feed
from ccproxy_flask.journal import events as feed_events
from ccproxy_flask.journal.segments import list_segments
from ccproxy_flask.logs.stream import EventStreamBody, Selection
from ccproxy_flask.record import COLUMNS, RequestRecord
from ccproxy_flask.store.base import LogFilter

BODY = b'{"model":"claude-test","messages":[]}'


class Chunking(WSGIRequestHandler):
    """Sends streams in chunks, as gunicorn does."""

    protocol_version = "HTTP/1.1"


class Site:
    """An application with the stream alone, over the journal in *home*, in threads."""

    def __init__(self, home: Path, feed: bool = True) -> None:
        self.settings = recording_settings(home, observability={"logs_endpoints_enabled": True})
        self.journal = self.settings.journal_directory
        self.feed = Feed(self.journal)
        app = Flask("stream-test")
        app.extensions |= {
            "ccproxy.settings": self.settings,
            "ccproxy.feed": self.feed if feed else None,
        }
        self.traced: list[RequestRecord] = []
        request_context.init_app(app, request_context.Sinks(ended=[self.traced.append]))
        app.register_blueprint(logs.blueprint)
        self._server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Chunking)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    def close(self) -> None:
        """Stop to serve."""
        self.feed.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own."""
    site = Site(tmp_path)
    yield site
    site.close()


def journal_of(server: Server) -> Path:
    """Return where a server's journal is."""
    return server.database.parent / "journal"


# -- what is sent ----------------------------------------------------------------------------------


def test_events_of_a_proxied_request(server: Server, upstream: ScriptedUpstream) -> None:
    """Connection, start and end, each with its name and id, in the published shape."""
    upstream.script = lambda talk: talk.answer(b'{"model":"claude-test"}')
    with Reader(server.port) as reader:
        assert reader.headers["content-type"].startswith("text/event-stream")
        assert reader.headers["cache-control"] == "no-store"
        assert reader.connection is not None
        assert len(reader.connection.data["connection_id"]) == 36
        _, headers, _ = server.request("POST", "/v1/messages", BODY)
        start, end = reader.take(2)
    assert (start.name, end.name) == ("request_start", "request_complete")
    assert set(end.body) == {"type", "data", "timestamp"}
    assert list(end.data) == list(COLUMNS)
    assert end.data["request_id"] == start.data["request_id"] == headers["x-ccproxy-request-id"]
    assert end.data["status_code"] == 200
    assert start.body["timestamp"] == start.data["timestamp"]
    segments = {one.name.removesuffix(".ndjson") for one in list_segments(journal_of(server))}
    for event in (start, end):
        segment, _, offset = event.id.split(",")[0].partition(":")
        assert segment in segments
        assert offset.isdigit()


def test_errors_are_errors(server: Server, upstream: ScriptedUpstream) -> None:
    """A status of 400 and more ends as request_error."""
    upstream.script = lambda talk: talk.answer(b"{}", "529 Overloaded")
    with Reader(server.port) as reader:
        server.request("POST", "/v1/messages", BODY)
        assert [event.name for event in reader.take(2)] == ["request_start", "request_error"]


def test_events_of_all_workers(server: Server, upstream: ScriptedUpstream) -> None:
    """Readers at any worker get the requests of each of them, in each one's order."""
    journal = journal_of(server)
    with (
        Reader(server.port) as one,
        Reader(server.port) as two,
        writing(journal, workers=3, requests=100, per_second=1000),
    ):
        server.request("POST", "/v1/messages", BODY)
        found = [reader.take(602) for reader in (one, two)]
    for events in found:
        assert Counter(event.key for event in events).most_common(1)[0][1] == 1
        starts = [event.data["path"].split("/")[2:] for event in events if event.key[0] == "start"]
        for worker in "012":
            numbers = [int(path[1]) for path in starts if path[0] == worker]
            assert numbers == list(range(100))
        seen: set[str] = set()
        for kind, request_id in (event.key for event in events):
            assert kind == "start" or request_id in seen
            seen.add(request_id)
    assert {event.id.split(",")[0] for event in found[0]} == {
        event.id.split(",")[0] for event in found[1]
    }


def test_many_readers_get_the_same(site: Site) -> None:
    """What one reader takes, no other loses."""
    readers = [Reader(site.port) for _ in range(5)]
    writer = open_writer(site.journal)
    records = [make_record(number) for number in range(20)]
    for record in records:
        writer.end(record)
    for reader in readers:
        ids = [event.data["request_id"] for event in reader.take(20)]
        assert ids == [record.request_id for record in records]
        reader.close()


def test_too_many_readers_are_told_when_to_come_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader over the bound gets 503 with Retry-After, and those before it go on."""
    monkeypatch.setattr(feed_events, "MOST_WATCHERS", 1)
    with Reader(site.port) as first:
        refused = Reader(site.port)
        assert (refused.status, int(refused.headers["retry-after"]) > 0) == (503, True)
        refused.close()
        open_writer(site.journal).start(make_record())
        assert first.next().name == "request_start"


def test_heartbeat(tmp_path: Path) -> None:
    """In silence there is a comment every so often, with where to resume."""
    feed = Feed(tmp_path)
    writer = open_writer(tmp_path)
    writer.end(make_record())
    with feed.subscribe(select=Selection(LogFilter())) as subscription:
        lines = iter(EventStreamBody(subscription, None, heartbeat=0.05))
        assert b"event: connection" in next(lines)
        beat = next(lines)
    assert beat.startswith(b": heartbeat\nid: ")
    position = beat.split(b"id: ")[1].strip().decode()
    with feed.subscribe(after=position) as subscription:
        writer.end(record := make_record())
        [event], _ = subscription.take(5)
        assert event["data"]["request_id"] == record.request_id
    feed.close()


# -- filters ---------------------------------------------------------------------------------------

VARIETY = [
    {},
    {"model": "other-model", "provider": "openai", "path": "/v1/chat/completions"},
    {"status_code": 404, "error_type": "not_found", "error_message": "No SUCH model"},
    {"status_code": 529, "error_type": "upstream_error", "duration_ms": 2000.0},
    {"status_code": None, "error_type": "client_disconnected", "duration_ms": None},
    {"streaming": False, "session_id": "session-1", "service_type": "batch"},
    {"service_type": "internal", "user_agent": "Claude-CLI/2", "model": None},
    {"duration_ms": 5.0, "model_requested": "Wanted-Model", "status_code": 301},
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"model": "other-model"},
    {"model": "nobody"},
    {"provider": "openai"},
    {"service_type": "batch,internal"},
    {"service_type": "!batch"},
    {"status_code_min": 400},
    {"status_code_max": 399},
    {"status_code_min": 404, "status_code_max": 404},
    {"min_duration_ms": 12, "max_duration_ms": 100},
    {"max_duration_ms": 12.4},
    {"min_duration_ms": 1000},
    {"streaming": "false"},
    {"session_id": "session-1"},
    {"error_type": "client_disconnected"},
    {"q": "such MODEL"},
    {"q": "claude"},
    {"q": "chat/comp"},
    {"q": "wanted"},
    {"start_time": "2026-11-21T02:00:02Z", "end_time": "2026-11-21T02:00:04.5Z"},
    {"end_time": "2026-11-21T02:00:01Z"},
    {"provider": "anthropic", "q": "claude", "status_code_min": 200, "status_code_max": 299},
]


def begun(record: RequestRecord) -> RequestRecord:
    """Return what is known of *record* when it begins."""
    final = {"status_code", "duration_ms", "duration_seconds", "error_type", "error_message"}
    kept = {name: value for name, value in record.as_dict().items() if name not in final}
    return RequestRecord(**{**kept, "model": record.model_requested, "streaming": False})


def test_every_filter_means_what_it_means_to_the_database(start_server) -> None:
    """Starts and ends come both or not at all, for exactly the rows that the query finds."""
    server: Server = start_server(workers=1)
    readers = [Reader(server.port, **query) for query in FILTERS]
    writer = open_writer(journal_of(server))
    records = [make_record(number, **fields) for number, fields in enumerate(VARIETY)]
    for record in records:
        writer.start(begun(record))
    for record in records:
        writer.end(record)
    server.records(len(records))
    for query, reader in zip(FILTERS, readers, strict=True):
        found = server.get_json("/logs/query", **query)["results"]
        wanted = {row["request_id"] for row in found}
        events = reader.take(2 * len(wanted))
        assert Counter(event.key for event in events) == Counter(
            itertools.product(("start", "end"), wanted)
        ), query
        rows = {row["request_id"]: row for row in found}
        for event in events:
            if event.name in ENDS:
                assert event.data == rows[event.data["request_id"]]
        assert reader.nothing_for(0.01), query
        reader.close()


def test_start_that_cannot_be_judged_is_held_back(site: Site) -> None:
    """A start comes at once where the filter is sure of it, and else just before its end."""
    record = make_record(status_code=500)
    sure, unsure = Reader(site.port, provider="anthropic"), Reader(site.port, status_code_min=400)
    writer = open_writer(site.journal)
    writer.start(begun(record))
    assert sure.next().name == "request_start"
    assert unsure.nothing_for(0.2)
    writer.end(record)
    assert sure.next().name == "request_error"
    start, end = unsure.take(2)
    assert (start.name, end.name) == ("request_start", "request_error")
    assert start.data["status_code"] is None
    for reader in (sure, unsure):
        reader.close()


def test_resume_between_a_held_start_and_its_end(site: Site) -> None:
    """A reader that got a late start and not its end gets the end, behind its start."""
    writer = open_writer(site.journal)
    with Reader(site.port, status_code_min=400) as reader:
        record = make_record(status_code=500)
        writer.start(begun(record))
        writer.end(make_record())
        writer.end(record)
        start = reader.next()
        last_id = reader.last_id
        end = reader.next()
    with Reader(site.port, last_id, status_code_min=400) as reader:
        assert [event.key for event in reader.take(2)] == [start.key, end.key]
        assert reader.nothing_for(0.1)


def test_damaged_lines_disturb_no_filter(site: Site) -> None:
    """Whatever a line of the journal says, each reader goes on."""
    writer = open_writer(site.journal)
    writer.end(make_record())
    readers = [Reader(site.port, **query) for query in FILTERS]
    [segment] = list_segments(site.journal)
    with (site.journal / segment.name).open("ab") as file:
        for value in ("5", "true", "[]", '{"a":1}', '"x"', "null", '"0001-01-01T00:00:00"'):
            row = ",".join(f'"{name}":{value}' for name in COLUMNS if name != "request_id")
            for event in ("start", "end"):
                file.write(f'{{"event":"{event}","request_id":"x-1",{row}}}\n'.encode())
    wanted = make_record(**VARIETY[1])
    writer.end(wanted)
    for query, reader in zip(FILTERS, readers, strict=True):
        if query in ({}, {"model": "other-model"}, {"provider": "openai"}, {"q": "chat/comp"}):
            while reader.next().data["request_id"] != wanted.request_id:
                pass
        reader.close()


# -- resume ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [{}, {"status_code_min": 400}, {"q": "/v1/1/"}])
def test_resume_without_gap_under_load(server: Server, query: dict[str, Any]) -> None:
    """A reader that hangs up again and again, and comes back anywhere, gets every event.

    Each once, but for starts that are held back: between such a start and its end is no place.
    """
    requests, workers = 300, 3
    per_worker = requests // 3 if query.get("status_code_min") else requests
    ends = per_worker * (1 if "q" in query else workers)
    with Reader(server.port, **query) as reader:
        first_id = reader.last_id
    chance = random.Random(11)
    found: list[tuple[str, str]] = []

    def is_over() -> bool:
        return len(set(found)) == 2 * ends

    with writing(journal_of(server), workers, requests, per_second=150, segment_bytes=64 << 10):
        last_id, connections = first_id, 0
        while not is_over():
            connections += 1
            with Reader(server.port, last_id, **query) as reader:
                for _ in range(chance.randrange(100)):
                    if is_over():
                        break
                    event = reader.next()
                    assert event.name.startswith("request_"), event
                    found.append(event.key)
                last_id = reader.last_id
        with Reader(server.port, last_id, **query) as reader:
            assert reader.nothing_for(0.3)
    assert Counter(kind for kind, _ in set(found)) == {"start": ends, "end": ends}
    repeated = {key for key, count in Counter(found).items() if count > 1}
    assert {kind for kind, _ in repeated} <= ({"start"} if query else set())
    assert connections > 5


def test_resume_past_the_death_of_workers(site: Site) -> None:
    """Ends by death are told, also to a reader that was away or breaks off between them."""
    records = [make_record(number) for number in range(3)]

    def begin() -> None:
        writer = open_writer(site.journal)
        for record in records:
            writer.start(record)

    with forked(begin), Reader(site.port) as reader:
        first_id = reader.last_id
    wanted = sorted(record.request_id for record in records)
    last_id = first_id
    for _ in records:
        with Reader(site.port, last_id) as reader:
            event = reader.next()
            while event.name == "request_start":
                event = reader.next()
            seen = [event, *reader.take(2)]
            assert [event.data["error_type"] for event in seen] == ["worker_lost"] * 3
            assert [event.data["request_id"] for event in seen] == wanted
            assert reader.nothing_for(0.1)
            last_id = event.id


@pytest.mark.parametrize(
    "last_id", ["nonsense", "0-1", f"{'a' * 32}-00000001:0", f"{'a' * 32}-00000001:1,x", "%ff", "❄"]
)
def test_unknown_last_event_id(site: Site, last_id: str) -> None:
    """An id that leads nowhere: the reader is told that it missed events, and goes on."""
    writer = open_writer(site.journal)
    writer.end(make_record())
    with Reader(site.port, last_id) as reader:
        overflow = reader.next()
        assert (overflow.name, overflow.data) == ("overflow", {"missed": None})
        writer.end(record := make_record())
        while reader.next().data["request_id"] != record.request_id:
            pass  # the one from before may come too: it is not known whether it was told


def test_last_event_id_in_the_middle_of_a_line(site: Site) -> None:
    """Offsets at which no line begins are not known."""
    writer = open_writer(site.journal)
    for number in range(3):
        writer.end(make_record(number))
    [segment] = list_segments(site.journal)
    name = segment.name.removesuffix(".ndjson")
    for entry in (f"{name}:7", f"{name}:{segment.size + 1}"):
        with Reader(site.port, entry) as reader:
            assert reader.next().name == "overflow"
    with Reader(site.port, f"{name}:0") as reader:
        assert len(reader.take(3)) == 3
        assert reader.nothing_for(0.1)


def test_resume_when_the_segment_is_gone(site: Site) -> None:
    """Where the journal has moved on: an overflow of unknown size, then what is there."""
    writer = open_writer(site.journal, segment_bytes=4096)
    with Reader(site.port) as reader:
        writer.end(make_record())
        reader.next()
        last_id = reader.last_id
    for number in range(30):
        writer.end(make_record(number))
    gone = list_segments(site.journal)[:2]
    for segment in gone:
        (site.journal / segment.name).unlink()
    left = sum(
        (site.journal / one.name).read_bytes().count(b"\n") for one in list_segments(site.journal)
    )
    with Reader(site.port, last_id) as reader:
        overflow = reader.next()
        assert (overflow.name, overflow.data) == ("overflow", {"missed": None})
        assert len(reader.take(left)) == left
        assert reader.nothing_for(0.1)


# -- what must survive -----------------------------------------------------------------------------


def test_recorder_killed(server: Server, upstream: ScriptedUpstream) -> None:
    """The stream needs no recorder."""
    with Reader(server.port) as reader:
        for pid in server.recorder_pids():
            os.kill(pid, signal.SIGKILL)
        server.request("POST", "/v1/messages", BODY)
        assert [event.name for event in reader.take(2)] == ["request_start", "request_complete"]
    wait_until(server.recorder_pids, 5)


def test_worker_killed(start_server, upstream: ScriptedUpstream) -> None:
    """What a killed worker had in flight ends as an error; readers at others go on."""
    server: Server = start_server(workers=2)
    gate = threading.Event()

    def wait(talk: Conversation) -> None:
        talk.start_stream()
        talk.chunk(b"data: {}\n\n")
        gate.wait(20)

    upstream.script = wait
    readers = [Reader(server.port) for _ in range(8)]
    send = threading.Thread(target=_ask_and_break, args=(server,))
    send.start()
    starts = [reader.next() for reader in readers]
    busy = starts[0].id.split("-")[0]
    victim = next(pid for pid in server.worker_pids() if _holds(pid, busy))
    os.kill(victim, signal.SIGKILL)
    ends = []
    for reader in readers:
        try:
            ends.append(reader.next())
        except (EOFError, OSError):  # this reader was at the worker that was killed
            with Reader(server.port, reader.last_id) as again:
                ends.append(again.next())
        reader.close()
    gate.set()
    send.join()
    assert {event.data["error_type"] for event in ends} == {"worker_lost"}
    assert {event.key for event in ends} == {("end", starts[0].data["request_id"])}
    # gunicorn loses a stop signal that comes while a worker starts.
    wait_until(lambda: all(_catches(pid, signal.SIGABRT) for pid in server.worker_pids()))


def _ask_and_break(server: Server) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011  however the client notices
        server.request("POST", "/v1/messages", BODY)


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)


def _holds(pid: int, worker: str) -> bool:
    names = [fd.readlink().name for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists()]
    return any(worker in name for name in names)


def test_slow_reader_is_told_and_goes_on(site: Site) -> None:
    """Over the bound the oldest events go; what was missed and what came are all there was."""
    count = 14_000
    with Reader(site.port, small=True, seconds=30) as slow:
        writer = open_writer(site.journal, segment_bytes=1 << 30)
        for number in range(count):
            writer.end(make_record(number % 500, user_agent="x" * 200))
        [watching] = site.feed._watchers  # noqa: SLF001  when all of them are behind it
        wait_until(lambda: watching._missed, 30)  # noqa: SLF001
        came, missed = 0, 0
        while came + missed < count:
            event = slow.next()
            came += event.name == "request_complete"
            missed += event.data["missed"] if event.name == "overflow" else 0
        assert (came + missed, missed > 0) == (count, True)
        writer.end(record := make_record())
        assert slow.next().data["request_id"] == record.request_id


def _connections_of(server: Server) -> int:
    count = 0
    for pid in server.worker_pids():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                count += str(fd.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue
    return count


def test_hang_up_ends_the_stream(start_server, site: Site) -> None:
    """A reader that leaves is forgotten within seconds, without anything happening."""
    server: Server = start_server(workers=1)
    server.request("GET", "/logs/status")
    before = wait_until(lambda: _connections_of(server))
    readers = [Reader(server.port) for _ in range(5)] + [Reader(site.port) for _ in range(5)]
    wait_until(lambda: _connections_of(server) >= 5)
    assert site.feed.watchers == 5
    assert site.traced == []
    for reader in readers:
        reader.close()
    wait_until(lambda: site.feed.watchers == 0, 5)
    wait_until(lambda: _connections_of(server) <= before, 5)
    wait_until(lambda: len(site.traced) == 5, 5)
    assert {record.service_type for record in site.traced} == {"logs_service"}


def test_sigterm_ends_streams_at_once(start_server) -> None:
    """At a stop readers get a disconnect event and the end; one that does not read is cut off."""
    server: Server = start_server(workers=1)
    stuck = Reader(server.port, small=True, seconds=30)
    reader = Reader(server.port)
    writer = open_writer(journal_of(server), segment_bytes=1 << 30)
    for number in range(6000):
        writer.end(make_record(number % 500, user_agent="x" * 200))
    reader.take(6000)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    last = reader.next()
    assert last.name == "disconnect"
    assert last.data["connection_id"] == reader.connection.data["connection_id"]
    with pytest.raises(EOFError):
        reader.next()
    assert time.monotonic() - began < 15
    server.process.wait(10)
    assert time.monotonic() - began < 20
    stuck.close()
    reader.close()


def test_feed_that_is_closed(site: Site) -> None:
    """A reader that comes while the server stops gets its connection and the end of it."""
    site.feed.close()
    with Reader(site.port) as reader:
        assert reader.next().name == "disconnect"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("status_code_min=x", "status_code_min"),
        ("min_duration_ms=nan", "min_duration_ms"),
        ("max_duration_ms=1e30", "max_duration_ms"),
        ("status_code_min=500&status_code_max=400", "status_code_max"),
        ("limit=10", "limit"),
        ("model=", "model"),
        ("model=a&model=b", "model"),
        ("error_type=none", "error_type"),
    ],
)
def test_bad_parameters(server: Server, query: str, name: str) -> None:
    """Each is refused in the published shape, at once."""
    status, _, body = server.request("GET", f"/logs/stream?{query}")
    assert status == 422
    [problem] = json.loads(body)["detail"]
    assert problem["loc"] == ["query", name]


def test_other_methods(server: Server) -> None:
    """Only GET; HEAD gives the head alone."""
    assert server.request("POST", "/logs/stream")[0] == 405
    status, headers, body = server.request("HEAD", "/logs/stream", timeout=5)
    assert (status, body) == (200, b"")
    assert headers["content-type"].startswith("text/event-stream")


def test_collection_off(tmp_path: Path) -> None:
    """Without collection there is nothing to stream: 503, and when to ask again."""
    site = Site(tmp_path, feed=False)
    with Reader(site.port) as reader:
        assert reader.status == 503
        assert int(reader.headers["retry-after"]) > 0
    site.close()


# -- at speed --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_readers_at_five_hundred_requests_a_second(
    start_server: Callable[..., Server],
) -> None:
    """Nine readers lose nothing; the one that stops for seconds goes on and knows its loss."""
    server = start_server(workers=2)
    workers, seconds, stopped = 4, 6, 4
    requests = 500 * seconds // workers
    total = requests * workers
    readers = [Reader(server.port, seconds=60, small=number == 0) for number in range(10)]
    collectors = [Collector(reader, total) for reader in readers]
    slow, *others = collectors
    for collector in collectors:
        collector.start()
    began = time.monotonic()
    with writing(journal_of(server), workers, requests, per_second=500 / workers):
        slow.go.clear()
        time.sleep(stopped)  # what this test is about, not a synchronisation
        slow.go.set()
        for collector in collectors:
            collector.join(60)
    took = time.monotonic() - began
    for reader in readers:
        reader.close()
    for collector in others:
        assert Counter(collector.told()).most_common(1)[0][1] == 1
        assert Counter(kind for kind, _ in collector.told()) == {"start": total, "end": total}
    missed = sum(one.data["missed"] for one in slow.events if one.name == "overflow")
    print(
        f"{total} requests in {took:.1f} s; the slow reader missed {missed} of {2 * total} events"
    )
    assert len(slow.told()) + missed == 2 * total
    assert Counter(slow.told()).most_common(1)[0][1] == 1

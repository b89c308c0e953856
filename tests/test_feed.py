"""The live feed: every worker's events, each once, to any number of watchers."""

from __future__ import annotations

import itertools
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from recording_support import forked, make_record, open_writer
from scripted import wait_until

from ccproxy_flask.dashboard.feed import SharedSnapshots
from ccproxy_flask.journal import Feed, Subscription, TooManyWatchers, events
from ccproxy_flask.journal.segments import list_segments
from ccproxy_flask.record import COLUMNS


@pytest.fixture
def feed(tmp_path: Path):
    """A feed of the journal in *tmp_path*."""
    feed = Feed(tmp_path)
    yield feed
    feed.close()
    wait_until(lambda: "journal-feed" not in {one.name for one in threading.enumerate()})


def take(subscription: Subscription, count: int) -> list[dict[str, Any]]:
    """Return the next *count* events."""
    found = [subscription.get(timeout=30) for _ in range(count)]
    assert None not in found
    return [event for event in found if event is not None]


def test_events_of_a_request(tmp_path, feed):
    """A start and an end give two events with rows of all columns, money as numbers, and an id."""
    writer = open_writer(tmp_path)
    with feed.subscribe() as subscription:
        record = make_record(cost_usd=Decimal("0.5"))
        writer.start(record)
        writer.end(record)
        start, end = take(subscription, 2)
    assert (start["type"], end["type"]) == ("request_start", "request_complete")
    assert list(end["data"]) == list(COLUMNS)
    assert end["data"]["cost_usd"] == 0.5
    assert end["data"]["timestamp"] == "2026-11-21T02:00:00.000000Z"
    assert end["timestamp"].endswith("Z")
    [segment] = list_segments(tmp_path)
    first = (tmp_path / segment.name).read_bytes().index(b"\n") + 1
    assert start["id"] == f"{segment.name.removesuffix('.ndjson')}:{first}"
    assert end["id"] > start["id"]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"status_code": 200}, "request_complete"),
        ({"status_code": 400}, "request_error"),
        ({"error_type": "client_disconnected"}, "request_error"),
    ],
)
def test_kind_of_end(tmp_path, feed, fields, kind):
    """An error type or a status of 400 and more makes an end an error."""
    writer = open_writer(tmp_path)
    with feed.subscribe() as subscription:
        writer.end(make_record(**fields))
        assert [event["type"] for event in take(subscription, 1)] == [kind]


def test_events_of_all_workers(tmp_path, feed):
    """What another process writes is there too, and its death ends what it had in flight."""
    record = make_record()
    with feed.subscribe() as subscription:
        with forked(lambda: open_writer(tmp_path).start(record)):
            [start] = take(subscription, 1)
            assert start["type"] == "request_start"
            assert [row["request_id"] for row in feed.in_flight()] == [record.request_id]
        [end] = take(subscription, 1)
        assert (end["type"], end["data"]["error_type"]) == ("request_error", "worker_lost")
        assert end["data"]["request_id"] == record.request_id
        assert feed.in_flight() == []


def test_begins_now_and_knows_what_is_in_flight(tmp_path, feed):
    """A new watcher gets nothing of the past but the list of what is in flight."""
    writer = open_writer(tmp_path, segment_bytes=4096)
    waiting = make_record()
    writer.start(waiting)
    for number in range(20):
        record = make_record(number)
        writer.start(record)
        writer.end(record)
    with feed.subscribe() as subscription:
        assert [row["request_id"] for row in feed.in_flight()] == [waiting.request_id]
        writer.end(waiting)
        [event] = take(subscription, 1)
        assert event["data"]["request_id"] == waiting.request_id
        assert feed.in_flight() == []


def test_repeated_starts_show_once(tmp_path, feed):
    """Segments that repeat what is in flight add no events."""
    writer = open_writer(tmp_path, segment_bytes=4096)
    waiting = make_record()
    with feed.subscribe() as subscription:
        writer.start(waiting)
        for number in range(20):
            writer.end(make_record(number))
        events = take(subscription, 21)
        assert len(list_segments(tmp_path)) > 3
        assert subscription.get(timeout=0.2) is None
    assert [event["type"] for event in events].count("request_start") == 1


def test_slow_watcher_is_told_what_it_missed(tmp_path, feed):
    """Over the bound the oldest events go, and one event says how many."""
    writer = open_writer(tmp_path)
    with feed.subscribe(limit=3) as slow, feed.subscribe() as quick:
        records = [make_record(number) for number in range(10)]
        for record in records:
            writer.end(record)
        take(quick, 10)
        overflow, *rest = take(slow, 4)
    assert (overflow["type"], overflow["data"]) == ("overflow", {"missed": 7})
    assert [event["data"]["request_id"] for event in rest] == [
        record.request_id for record in records[7:]
    ]


def test_segment_that_is_removed_is_no_trouble(tmp_path, feed):
    """Following goes on when the recorder deletes segments; nothing stays open."""
    writer = open_writer(tmp_path, segment_bytes=4096)
    with feed.subscribe() as subscription:
        for number in range(12):
            writer.end(make_record(number))
        take(subscription, 12)
        for segment in list_segments(tmp_path)[:-1]:
            (tmp_path / segment.name).unlink()
        writer.end(make_record())
        take(subscription, 1)
        wait_until(lambda: len(_open_files(tmp_path)) == 2)  # the writer's own: segment, ledger


def _open_files(directory: Path) -> list[Path]:
    files = [fd.resolve() for fd in Path("/proc/self/fd").iterdir()]
    return [file for file in files if file.is_relative_to(directory)]


def test_damaged_lines_are_passed_over(tmp_path, feed):
    """What is no event gives none, and what comes after it is there."""
    writer = open_writer(tmp_path)
    writer.end(make_record())
    [segment] = list_segments(tmp_path)
    with feed.subscribe() as subscription:
        with (tmp_path / segment.name).open("ab") as file:
            file.write(b'\x00\xff\n{"event":"end"}\n[]\n{"event":5}\n{"event":"end","requ\x18\n')
            file.write(b'{"event":"end","request_id":"x","cost_usd":{},"status_code":"b"}\n')
        writer.end(make_record(1))
        events = take(subscription, 2)
        assert subscription.get(timeout=0.2) is None
    assert events[1]["data"]["duration_ms"] == 13.5


def test_nobody_watches_nothing_runs(tmp_path, feed):
    """The thread that follows ends with the last watcher, and begins again with the next."""
    for _ in range(3):
        first, second = feed.subscribe(), feed.subscribe()
        first.close()
        assert "journal-feed" in {one.name for one in threading.enumerate()}
        second.close()
        wait_until(lambda: "journal-feed" not in {one.name for one in threading.enumerate()})
        assert feed.in_flight() == []


def test_closing_wakes_the_watchers(tmp_path, feed):
    """A watcher that waits gets None when the feed closes; a later one is closed from the start."""
    subscription = feed.subscribe()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(list(subscription)))
    thread.start()
    feed.close()
    thread.join(timeout=5)
    assert found == [[]]
    assert subscription.closed
    assert feed.subscribe().closed
    subscription.close()


def test_missing_directory_is_waited_for(tmp_path):
    """Without a journal there are no events; with the first segment they begin."""
    feed = Feed(tmp_path / "journal")
    with feed.subscribe() as subscription:
        assert subscription.get(timeout=0.1) is None
        open_writer(tmp_path / "journal").end(make_record())
        take(subscription, 1)


# -- following one segment after the other, and going on from a position ---------------------------


def test_long_segments_are_read_before_later_ones(tmp_path, feed):
    """However much comes at once, each worker's events come in its order."""
    writer = open_writer(tmp_path, segment_bytes=512 << 10)
    records = [make_record(number % 1000) for number in range(3000)]
    with feed.subscribe(limit=10_000) as subscription:
        subscription_lock = feed._following.lock  # noqa: SLF001  makes it read all at once
        with subscription_lock:
            for record in records:
                writer.start(record)
                writer.end(record)
        events = take(subscription, 6000)
        assert len(list_segments(tmp_path)) > 3
    wanted = [(kind, one.request_id) for one in records for kind in ("start", "complete")]
    assert [
        (event["type"].removeprefix("request_"), event["data"]["request_id"]) for event in events
    ] == wanted
    assert feed.in_flight() == []


def test_goes_on_from_every_position(tmp_path, feed):
    """From behind each event on come exactly those that came behind it."""
    one, two = (open_writer(tmp_path, segment_bytes=4096) for _ in range(2))
    waiting = make_record()
    with feed.subscribe() as subscription:
        one.start(waiting)
        for number in range(12):
            for writer in (one, two):
                record = make_record(number)
                writer.start(record)
                writer.end(record)
        one.end(waiting)
        events = take(subscription, 50)
        for index, event in enumerate(events):
            with feed.subscribe(after=event.position) as again:
                rest = take(again, 49 - index)
                assert again.get(timeout=0.02) is None
            told = {(one["type"], one["data"]["request_id"]) for one in events[index + 1 :]}
            assert {(one["type"], one["data"]["request_id"]) for one in rest} == told


def test_position_while_nothing_was_there(tmp_path):
    """A watcher that saw an empty journal goes on with its first event."""
    feed = Feed(tmp_path / "journal")
    with feed.subscribe() as subscription:
        found, position = subscription.take(0)
        assert found == []
    open_writer(tmp_path / "journal").end(record := make_record())
    with feed.subscribe(after=position) as subscription:
        [event] = take(subscription, 1)
        assert event["data"]["request_id"] == record.request_id
    feed.close()


def test_half_a_line_of_a_dead_worker(tmp_path, feed):
    """What a worker was killed over is no event, and who goes on meets the others behind it."""
    with feed.subscribe() as subscription:
        position = subscription.take(0)[1]
        with forked(lambda: _write_and_tear(tmp_path)):
            take(subscription, 1)
    with feed.subscribe(after=position) as subscription:
        take(subscription, 1)
        writer = open_writer(tmp_path)
        writer.end(record := make_record())
        [event] = take(subscription, 1)
        assert event["data"]["request_id"] == record.request_id
        wait_until(lambda: subscription.get(timeout=0) or subscription.after is None)


def _write_and_tear(directory: Path) -> None:
    open_writer(directory).end(make_record())
    [segment] = list_segments(directory)
    with (directory / segment.name).open("ab") as file:
        file.write(b'{"event":"end","request_id":"half')


def test_worker_that_dies_just_after_an_end(tmp_path, feed):
    """An end that was written is told, and not an end by death with it."""
    for _ in range(5):
        record = make_record()

        def work(record=record) -> None:
            writer = open_writer(tmp_path)
            writer.start(record)
            writer.end(record)

        with feed.subscribe() as subscription:
            with forked(work):
                pass
            events = take(subscription, 2)
            assert [event["type"] for event in events] == ["request_start", "request_complete"]
        with feed.subscribe() as subscription:
            assert subscription.get(timeout=0.05) is None


def test_part_that_went_unread(tmp_path, feed):
    """Where segments go before they were read, an overflow of unknown size says so; no repeats."""
    writer = open_writer(tmp_path, segment_bytes=4096)
    waiting = make_record()
    with feed.subscribe() as subscription:
        writer.start(waiting)
        take(subscription, 1)
        with feed._following.lock:  # noqa: SLF001  stands for a process that was stopped
            for number in range(20):
                writer.end(make_record(number))
            for segment in list_segments(tmp_path)[:-1]:
                (tmp_path / segment.name).unlink()
        writer.end(waiting)
        events = take(subscription, 1)
        while events[-1]["data"].get("request_id") != waiting.request_id:
            events += take(subscription, 1)
    assert (events[0]["type"], events[0]["data"]) == ("overflow", {"missed": None})
    assert [event["type"] for event in events].count("request_start") == 0
    assert events[-1]["type"] == "request_complete"


def test_watcher_that_selects(tmp_path, feed):
    """What a watcher selects is all it gets, and all that counts as missed."""
    writer = open_writer(tmp_path)

    def failures(event: Any) -> list[str]:
        return [event["data"]["request_id"]] if event["type"] == "request_error" else []

    with feed.subscribe(limit=2, select=failures) as chosen, feed.subscribe() as every:
        records = [make_record(number, status_code=200 + 300 * (number % 2)) for number in range(8)]
        for record in records:
            writer.end(record)
        take(every, 8)
        overflow, *rest = take(chosen, 3)
    assert overflow["data"] == {"missed": 2}
    assert rest == [record.request_id for record in records[5::2]]


def test_so_many_watch_and_no_more(feed, monkeypatch):
    """Over the bound a watcher is refused with when to come again; one that leaves makes room."""
    monkeypatch.setattr(events, "MOST_WATCHERS", 3)
    watching = [feed.subscribe() for _ in range(3)]
    with pytest.raises(TooManyWatchers) as refused:
        feed.subscribe()
    assert refused.value.retry_after > 0
    watching[0].close()
    watching[0] = feed.subscribe()
    for subscription in watching:
        subscription.close()


def test_many_viewers_share_a_snapshot():
    """One viewer gets the figures as they are; where many watch, they get the same text."""
    made = itertools.count()
    shared = SharedSnapshots()

    def text(address: str, watchers: int) -> str:
        return shared.text(address, watchers, lambda: f"{address}{next(made)}")

    assert [text("a=1", 0) for _ in range(3)] == ["a=10", "a=11", "a=12"]
    assert [text("b=2", events.MOST_WATCHERS) for _ in range(50)] == ["b=23"] * 50
    for number in range(100):
        text(f"c={number}", events.MOST_WATCHERS)
    assert text("b=2", events.MOST_WATCHERS) == "b=2104", "what was asked long ago is forgotten"

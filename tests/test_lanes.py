"""The recorder's lanes: small questions never wait behind large ones, nor for nobody."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from recording_support import make_record
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import to_json
from ccproxy_flask.recorder.server import LaneServers
from ccproxy_flask.store.base import LogFilter, Page, abandoned
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import LANES, RemoteStore, lane_of
from ccproxy_flask.totals import Totals

DAY = LogFilter(start_time=datetime(2026, 11, 21, tzinfo=UTC))


class SlowStore(DuckDBStore):
    """A store whose analytics run in the database until they are told to end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked = threading.Semaphore(0)
        self.broken_off = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.niceness: dict[str, int] = {}

    def totals(self, where: LogFilter) -> Totals:
        """Note the rank of the thread that answers."""
        self.niceness["totals"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return super().totals(where)

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """Wait, or let the database count for longer than any test lasts."""
        self.niceness["analytics"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.asked.release()
        if bucket_seconds == 1:
            self.may_end.wait(30)
            return b"{}"
        try:
            with self.database.questions() as cursor:
                cursor.execute("SELECT sum(i) FROM range(1000000000000) t(i)").fetchall()
        except StoreUnavailable:
            self.broken_off.release()
            raise
        return b"{}"


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowStore]:
    """A store with three rows, that answers on sockets in *tmp_path*."""
    store = SlowStore(tmp_path / "metrics.duckdb")
    store.append([to_json(make_record(number)) for number in range(3)], [], {})
    server = LaneServers(tmp_path / "recorder.sock", store)
    yield store
    store.may_end.set()
    server.close()
    store.close()


@pytest.mark.parametrize(
    ("question", "asked", "lane"),
    [
        ("/status", {}, "status"),
        ("/metrics", {}, "status"),
        ("/query", {"where": {}, "limit": 50, "cursor": None}, "small"),
        ("/entries", {"where": {"request_id": "x"}, "limit": 1, "offset": 0}, "small"),
        ("/totals", {"where": {}}, "small"),
        ("/totals", {"where": {"q": "x"}}, "large"),
        ("/query", {"where": {"q": "x"}, "limit": 50, "cursor": None}, "large"),
        ("/query", {"where": {"session_id": "x"}, "limit": 50, "cursor": None}, "large"),
        ("/entries", {"where": {}, "limit": 50, "offset": 0, "order_by": "model"}, "large"),
        ("/query", {"where": {}, "limit": 10_000, "cursor": None}, "large"),
        ("/entries", {"where": {}, "limit": 50, "offset": 1_000_000}, "large"),
        ("/analytics", {"where": {}, "bucket_seconds": 60}, "large"),
        ("/export", {"where": {}, "form": "csv"}, "large"),
    ],
)
def test_lane_of_a_question(question, asked, lane):
    """What reads much of the table or says much is large; the status has a lane of its own."""
    assert lane_of(question, asked) == lane


def test_small_questions_do_not_wait_for_large_ones(tmp_path, slow):
    """With many more large questions than there are turns, status and pages are answered."""
    remote = RemoteStore(tmp_path / "recorder.sock", 20)
    with ThreadPoolExecutor(20) as pool:
        large = [pool.submit(remote.analytics, DAY, 1) for _ in range(20)]
        for _ in range(LANES["large"]):
            assert slow.asked.acquire(timeout=10)
        assert remote.status().rows == 3
        assert remote.entries(LogFilter(), Page(limit=2)).total_count == 3
        assert remote.query(LogFilter(), 10).count == 3
        assert not any(one.done() for one in large)
        slow.may_end.set()
        assert [one.result() for one in large] == [b"{}"] * 20


def test_large_questions_leave_the_machine_to_others(tmp_path, slow):
    """A thread that answers large questions yields to all others; that of a small one does not."""
    remote = RemoteStore(tmp_path / "recorder.sock", 20)
    slow.may_end.set()
    assert remote.analytics(DAY, 1) == b"{}"
    assert remote.totals(LogFilter()).total_requests == 3
    assert slow.niceness == {"analytics": 19, "totals": os.getpriority(os.PRIO_PROCESS, 0)}


def test_question_of_somebody_who_left_is_broken_off(tmp_path, slow):
    """When nobody waits for it any more, the database stops to work on a question."""
    remote, gone = RemoteStore(tmp_path / "recorder.sock", 20), threading.Event()

    def ask() -> None:
        abandoned.set(gone.is_set)
        with pytest.raises(StoreUnavailable, match="nobody waits"):
            remote.analytics(DAY, 60)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        assert slow.asked.acquire(timeout=10)
        gone.set()
        asking.result(10)
        assert slow.broken_off.acquire(timeout=10)
    wait_until(lambda: remote.status().rows == 3)

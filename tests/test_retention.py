"""Retention: what is too old or too much goes, oldest first, and the file gets smaller."""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from recording_support import (
    make_record,
    open_writer,
    recorder_process,
    recording_settings,
    start_in_process,
)
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import to_json
from ccproxy_flask.recorder.retention import AGAIN_SECONDS, INTERVAL_SECONDS, Retention
from ccproxy_flask.store import database
from ccproxy_flask.store import duckdb as rows
from ccproxy_flask.store.base import LogFilter, Page
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import RemoteStore
from ccproxy_flask.store.rewriting import folder_for


def aged(days: float, **fields):
    """Return a record of so many days ago."""
    stamp = datetime.now(UTC) - timedelta(days=days)
    return dataclasses.replace(make_record(**fields), timestamp=stamp)


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


@pytest.fixture
def full(tmp_path):
    """A store with 400,000 rows, a second apart, that cannot be compressed much."""
    path = tmp_path / "metrics.duckdb"
    DuckDBStore(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "INSERT INTO access_logs (request_id, timestamp, path) SELECT uuid()::VARCHAR, "
            "'2026-01-01'::TIMESTAMP + INTERVAL (i) SECOND, uuid()::VARCHAR FROM range(400000) r(i)"
        )
    return DuckDBStore(path)


def test_rows_go_by_age(store, monkeypatch):
    """Rows over the age go, a step at a time, the oldest first; the others stay."""
    monkeypatch.setattr(rows, "STEP_ROWS", 2)
    records = [aged(days) for days in (5, 1, 4, 3, 2)]
    store.append([to_json(record) for record in records], [], {})
    oldest = datetime.now(UTC) - timedelta(days=2.5)
    assert store.retain(oldest, None) == 2
    kept = store.entries(LogFilter(), Page()).rows
    assert [row["request_id"] for row in kept] == [records[n].request_id for n in (1, 4, 3)]
    assert [store.retain(oldest, None), store.retain(oldest, None)] == [1, 0]
    assert store.status().rows == 2


def test_rows_go_by_size_and_the_file_shrinks(full, monkeypatch):
    """Over the size the oldest go, no more than needed; opened again, the file is smaller."""
    monkeypatch.setattr(database, "LEAST_FREE", 1 << 20)
    before = full.path.stat().st_size
    newest = full.query(LogFilter(), 5).rows
    while full.retain(None, before // 4):
        pass
    left = full.status().rows
    assert 60_000 < left < 140_000
    assert full.is_wasteful()
    assert full.shrink()
    after = full.path.stat().st_size
    print(f"{before:,} -> {after:,} bytes with {left:,} of 400,000 rows")
    assert after < before * 0.5
    assert full.path.stat().st_mode & 0o777 == 0o600
    assert not full.shrink()
    assert full.query(LogFilter(), 5).rows == newest
    assert full.status().rows == left
    full.append([to_json(aged(0))], [], {})
    full.close()


def test_nothing_goes_without_a_bound(store):
    """Without settings records stay for ever; within a bound, too."""
    store.append([to_json(aged(3000))], [], {})
    Retention(None, None).step(store)
    assert store.retain(datetime.now(UTC) - timedelta(days=3001), 1 << 40) == 0
    assert store.status().rows == 1


def test_steps_wait_where_there_is_nothing_to_do(store):
    """After a look that found nothing the next is a minute later."""
    now = [0.0]
    retention = Retention(1, None, clock=lambda: now[0])
    store.append([to_json(aged(2))], [], {})
    retention.step(store)
    assert store.status().rows == 0
    retention.step(store)
    store.append([to_json(aged(2))], [], {})
    retention.step(store)
    assert store.status().rows == 1
    now[0] += INTERVAL_SECONDS
    assert not retention.overdue
    retention.step(store)
    assert store.status().rows == 0


def test_steps_are_overdue_where_it_is_never_quiet(store):
    """Where records come without a pause, a look waits a minute more and no longer."""
    now = [0.0]
    retention = Retention(1, None, clock=lambda: now[0])
    now[0] = INTERVAL_SECONDS
    assert retention.overdue
    retention.step(store)
    assert not retention.overdue
    now[0] += 2 * INTERVAL_SECONDS
    assert retention.overdue


def test_recorder_lets_old_records_go(tmp_path):
    """A real recorder with the setting deletes what is older, and goes on recording."""
    settings = recording_settings(tmp_path)
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    store.append([to_json(aged(days)) for days in (10, 1)], [], {})
    store.close()
    writer = open_writer(settings.journal_directory)
    with recorder_process(tmp_path, OBSERVABILITY__RETENTION_DAYS="5"):
        remote = RemoteStore(settings.recorder_socket)
        wait_until(lambda: _rows(remote) == 1)
        writer.end(aged(0))
        wait_until(lambda: _rows(remote) == 2)
    writer.close()


def _rows(store: RemoteStore) -> int:
    try:
        return store.status().rows
    except StoreUnavailable:
        return -1


def test_file_shrinks_while_questions_are_answered(full, monkeypatch, tmp_path):
    """A recorder gives the space back, no question is refused meanwhile, and no row is lost."""
    monkeypatch.setattr(database, "LEAST_FREE", 1 << 20)
    path, before = full.path, full.path.stat().st_size
    full.close()
    asked, refused = [], []
    settings = recording_settings(tmp_path, observability={"retention_max_bytes": before // 4})
    recorder = start_in_process(settings)
    writer = open_writer(settings.journal_directory)
    ended = threading.Event()

    def ask():
        while not ended.is_set():
            try:
                asked.append(recorder.store.totals(LogFilter()).total_requests)
            except StoreUnavailable as error:
                refused.append(str(error))

    wait_until(lambda: _rows(recorder.store) > 0)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    waits, meanwhile, ids = [], 0, set()
    copying = folder_for(path).exists
    deadline = time.monotonic() + 60
    while path.stat().st_size >= before * 0.5:
        assert time.monotonic() < deadline
        record, began, copied = aged(0), time.monotonic(), copying()
        ids.add(record.request_id)
        writer.end(record)
        asking = LogFilter(request_id=record.request_id)
        wait_until(lambda asking=asking: recorder.store.query(asking, 1).count)
        waits.append(time.monotonic() - began)
        meanwhile += copied and copying()
    assert {row["request_id"] for row in recorder.store.query(LogFilter(), len(ids)).rows} == ids
    ended.set()
    for thread in threads:
        thread.join()
    writer.close()
    recorder.close()
    print(
        f"{before:,} -> {path.stat().st_size:,} bytes, {len(asked)} questions, "
        f"{meanwhile} of {len(waits)} records stored during the copying, {max(waits):.2f} s at most"
    )
    assert refused == []
    assert min(len(asked), meanwhile) > 0
    assert not copying()


def test_file_shrinks_after_a_reset(full, monkeypatch, tmp_path):
    """Where all records are deleted the file gets small, without a bound on what is kept."""
    monkeypatch.setattr(database, "LEAST_FREE", 1 << 20)
    full.close()
    recorder = start_in_process(recording_settings(tmp_path))
    wait_until(lambda: _rows(recorder.store) == 400_000)
    assert recorder.store.reset() == 400_000
    wait_until(lambda: full.path.stat().st_size < 2 << 20, 20)
    wait_until(lambda: _rows(recorder.store) == 0)
    recorder.close()


def test_failed_shrinking_is_not_tried_in_a_loop(store):
    """The first look asks for it, then only those after a deletion; a failure puts it off."""
    now = [0.0]
    retention = Retention(1, None, clock=lambda: now[0])

    def asked_after(seconds: float) -> bool:
        now[0] += seconds
        if seconds:
            store.append([to_json(aged(2))], [], {})
        steps = [retention.step(store) for _ in range(3)]
        return any(steps)

    assert asked_after(0)
    assert not asked_after(0)
    assert asked_after(INTERVAL_SECONDS)
    retention.put_off()
    assert not asked_after(INTERVAL_SECONDS)
    assert not asked_after(AGAIN_SECONDS - 2 * INTERVAL_SECONDS)
    assert asked_after(INTERVAL_SECONDS)
    unbound = Retention(None, None, clock=lambda: now[0])
    assert [unbound.step(store), unbound.step(store)] == [True, False]
    unbound.look_again()
    assert unbound.step(store)

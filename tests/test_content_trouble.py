"""Content where the disk is full, read-only or damaged: rows stay, and in the end say the truth."""

import os
import random
import sqlite3
import subprocess
import sys
import time

import pytest
from disk_support import fill
from recording_support import make_record, open_writer, recording_settings, start_in_process
from scripted import wait_until

from ccproxy_flask.content.day_file import Exchange
from ccproxy_flask.content.frames import Kind
from ccproxy_flask.content.handover import Handover
from ccproxy_flask.content.intake import Intake
from ccproxy_flask.content.store import ContentStore, by_day
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.record import new_request_id, to_json
from ccproxy_flask.recorder.content_rows import ContentRows
from ccproxy_flask.store.base import Page
from ccproxy_flask.store.duckdb import DuckDBStore


def exchange(size=2000):
    """Return an exchange with a body that cannot be compressed."""
    return Exchange(new_request_id(), 1, "s", {"a": 1}, [random.randbytes(size)])


@pytest.fixture
def folder(tmp_path):
    """Where content is kept."""
    return tmp_path / "content"


@pytest.fixture
def store(folder):
    """A store of content."""
    store = ContentStore(folder, 1 << 30, 7)
    yield store
    store.close()


def keep(store, size=2000):
    """Keep an exchange and return its id."""
    kept = exchange(size)
    store.add([kept])
    return kept.request_id


def the_file(folder):
    """Return the only file in *folder*."""
    [path] = folder.glob("*.sqlite")
    return path


# -- rows --------------------------------------------------------------------------------------


def contents(rows):
    """Return the content column of all rows by request id."""
    found = rows.entries(LogFilter(), Page(limit=100)).rows
    return {row["request_id"]: row["content"] for row in found}


def test_rows_whose_content_is_not_there_say_dropped(store, tmp_path):
    """A row that says `kept` is looked at when its content must have come, and once."""
    there = keep(store)
    records = [make_record(content=state) for state in ("kept", "kept", "off")]
    records[0].request_id = there
    gone, off = records[1].request_id, records[2].request_id
    rows = DuckDBStore(tmp_path / "rows.duckdb")
    try:
        rows.append([to_json(record) for record in records], [], {})
        pending = {gone}
        checks = ContentRows(store.sessions_of, pending.__contains__, settle_seconds=0)
        checks.claim([there, gone])
        assert checks.step(rows) == 0
        pending.clear()
        assert checks.step(rows) == 1
        assert contents(rows) == {there: "kept", gone: "dropped", off: "off"}
        assert rows.status().counts["content_dropped"] == 1
        assert checks.step(rows) == 0
    finally:
        rows.close()


def test_a_loss_that_is_known_is_told_at_once_and_also_before_its_row_comes(store, tmp_path):
    """Nothing waits where it is known already; an unreadable store lets rows wait."""
    early, late = make_record(content="kept"), make_record(content="kept")
    rows = DuckDBStore(tmp_path / "rows.duckdb")
    try:
        rows.append([to_json(early)], [], {})
        checks = ContentRows(store.sessions_of, lambda _: False, settle_seconds=3600)
        checks.lose(late.request_id)
        checks.lose(early.request_id)
        checks.claim([early.request_id])
        assert wait_until(lambda: checks.step(rows), 5) == 1
        rows.append([to_json(late)], [], {})
        checks.claim([late.request_id])
        assert wait_until(lambda: checks.step(rows), 5) == 1
        assert set(contents(rows).values()) == {"dropped"}
    finally:
        rows.close()


def test_rows_of_an_earlier_recorder_are_looked_at(store, tmp_path):
    """At its start a recorder looks back at rows that ended lately, however long they took."""
    long_one = make_record(content="kept", duration_seconds=86_400.0)
    old_one = make_record(content="kept", duration_seconds=1.0)
    now = time.time()
    for record, ago in ((long_one, 86_000), (old_one, 9_000)):
        record.timestamp = type(record.timestamp).fromtimestamp(now - ago, record.timestamp.tzinfo)
    rows = DuckDBStore(tmp_path / "rows.duckdb")
    try:
        rows.append([to_json(long_one), to_json(old_one)], [], {})
        checks = ContentRows(store.sessions_of, lambda _: False, settle_seconds=0)
        checks.begin(rows)
        assert checks.step(rows) == 1
        found = contents(rows)
        assert (found[long_one.request_id], found[old_one.request_id]) == ("dropped", "kept")
    finally:
        rows.close()


def test_what_the_recorder_cannot_keep_is_said_by_its_row(tmp_path):
    """The content is dropped, counted, and the row says so; a later one is kept."""
    settings = recording_settings(tmp_path, capture={"content": "on"})
    settings.content_directory.write_text("a file is in the way")
    recorder = start_in_process(settings)
    writer = open_writer(settings.journal_directory)
    handover = Handover(settings.content_socket, 1 << 20, 1 << 20, lambda _reason: None)
    try:
        first, second = make_record(content="kept"), make_record(content="kept")
        hand_on(handover, writer, first)
        wait_until(lambda: contents(recorder.store).get(first.request_id) == "dropped", 30)
        status = recorder.store.status()
        assert status.counts["content_dropped"] == 1
        settings.content_directory.unlink()
        hand_on(handover, writer, second)
        wait_until(lambda: recorder.store.status().content["bytes"] > 0, 30)
        wait_until(lambda: contents(recorder.store).get(second.request_id) == "kept", 30)
    finally:
        handover.close()
        writer.close()
        recorder.close()


def hand_on(handover, writer, record):
    """Do what a worker does for a small exchange."""
    writer.start(record)
    handed = handover.begin({"request_id": record.request_id, "at": 1, "api": "other"})
    handed.put(Kind.REQUEST_CHUNK, 1, b"{}")
    assert handed.end({}, 2)
    writer.end(record)


# -- files -------------------------------------------------------------------------------------


def test_a_file_deleted_under_our_hands_is_made_again(store, folder):
    """What comes after it is kept."""
    lost = keep(store)
    the_file(folder).unlink()
    found = keep(store)
    assert store.sessions_of([lost, found]).keys() == {found}


@pytest.mark.parametrize("why", ["reset", "removed", "damaged"])
def test_a_name_of_a_file_is_not_used_again(store, folder, why):
    """Who still reads the file that had it would damage a new one of the same name."""
    keep(store)
    used = the_file(folder)
    if why == "reset":
        store.reset()
    elif why == "removed":
        used.unlink()
    else:
        for each in folder.iterdir():
            each.write_bytes(random.randbytes(100_000))
    kept = keep(store)
    assert store.has(kept)
    assert the_file(folder).name == used.name.replace(".sqlite", ".2.sqlite")


def test_those_who_read_at_a_reset_harm_nothing(tmp_path):
    """However often everything is deleted and begun anew beside readers, what comes is kept."""
    ended = subprocess.run(
        [sys.executable, "-c", RESETS, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr[-2000:]


# A process of its own: what went wrong here once ended it with SIGBUS.
RESETS = """
import pathlib, sqlite3, sys, threading
from ccproxy_flask.content.day_file import Exchange
from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.record import new_request_id
store, over = ContentStore(pathlib.Path(sys.argv[1]), 1 << 30, 7), False
wanted = new_request_id()
def read():
    while not over:
        try:
            store.exchange(wanted)
        except sqlite3.OperationalError as error:
            assert "no such table" not in str(error), error
readers = [threading.Thread(target=read) for _ in range(2)]
for reader in readers:
    reader.start()
try:
    for _ in range(25):
        store.reset()
        wanted = new_request_id()
        store.add([Exchange(wanted, 1, "s", {}, [b"{}"])])
        assert store.has(wanted)
finally:
    over = True
    for reader in readers:
        reader.join()
"""


def test_a_folder_deleted_under_our_hands_is_made_again(store, folder):
    """Nothing raises meanwhile, and what comes is kept."""
    keep(store)
    subprocess.run(["rm", "-r", str(folder)], check=True)
    assert store.sessions_of([new_request_id()]) == {}
    assert (store.size(), store.search("word", 9), store.session("s")) == (0, [], [])
    assert store.has(keep(store))


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_a_damaged_file_is_set_aside(store, folder, is_open):
    """Garbage in the file costs what was in it; the file stays for a look until its day goes."""
    lost = keep(store)
    if not is_open:
        store.close()
    path = the_file(folder)
    for each in path.parent.iterdir():
        each.write_bytes(random.randbytes(100_000))
    found = keep(store)
    assert store.sessions_of([lost, found]).keys() == {found}
    assert path.with_name(path.name + ".damaged").stat().st_size == 100_000
    store.reset()
    assert list(path.parent.iterdir()) == []


def test_something_else_in_the_place_of_a_file_is_not_written_to(store, folder, tmp_path):
    """A symbolic link is set aside, and what it points to stays as it is."""
    keep(store)
    store.close()
    path, other = the_file(folder), tmp_path / "other"
    other.write_text("not ours")
    path.unlink()
    path.symlink_to(other)
    assert store.has(keep(store))
    assert other.read_text() == "not ours"
    assert not path.is_symlink()


def test_reading_goes_on_beside_a_damaged_day(store, folder):
    """A search and a session leave out a day that cannot be read; its own exchanges say why."""
    kept = keep(store)
    damaged = folder / "2025-01-01.sqlite"
    damaged.write_bytes(b"garbage" * 9_000)
    assert store.session("s") == [kept]
    assert list(store.request_ids()) == [kept]
    with pytest.raises(sqlite3.DatabaseError):
        store.exchange("01941f29-7c00-7000-8000-000000000000")  # of that day


def test_a_damaged_piece_is_said(store, folder):
    """Bits that fell over in one exchange are an error of that one alone."""
    first, second = keep(store), keep(store)
    store.close()
    with sqlite3.connect(the_file(folder)) as db:
        db.execute("UPDATE piece SET data = ? WHERE id = 1", (random.randbytes(99),))
        db.execute("DELETE FROM piece WHERE id = 2")
    db.close()
    for each in (first, second):
        with pytest.raises(sqlite3.DatabaseError, match="damaged"):
            store.exchange(each)


def test_a_full_disk_costs_content_and_then_no_more(small_disk):
    """Where there is no room an error says so; with room again content is kept."""
    store = ContentStore(small_disk / "content", 1 << 30, 7)
    try:
        kept = keep(store)
        fill(small_disk)
        with pytest.raises((sqlite3.Error, OSError)):
            keep(store, 2 << 20)
        assert store.exchange(kept) is not None
        (small_disk / "filling").unlink()
        assert store.has(keep(store))
        assert store.has(kept)
    finally:
        store.close()


def test_a_disk_gone_read_only_can_be_read(small_disk):
    """What was kept can be read there, and keeping goes on when it can be written again."""
    store = ContentStore(small_disk / "content", 1 << 30, 7)
    kept = keep(store)
    store.close()
    remount = ["mount", "-o", "remount,{}", str(small_disk)]
    subprocess.run([part.format("ro") for part in remount], check=True)
    try:
        assert store.exchange(kept) is not None
        with pytest.raises((sqlite3.Error, OSError)):
            keep(store)
    finally:
        subprocess.run([part.format("rw") for part in remount], check=True)
    assert store.has(keep(store))
    store.close()


def test_files_are_their_users_alone_under_any_umask(store, folder):
    """Also those that SQLite makes beside them."""
    mask = os.umask(0)
    try:
        keep(store)
    finally:
        os.umask(mask)
    modes = {path.name[10:]: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys((".sqlite", ".sqlite-wal", ".sqlite-shm"), 0o600)
    assert folder.stat().st_mode & 0o777 == 0o700


# -- memory ------------------------------------------------------------------------------------


def test_many_small_frames_count_as_what_they_take(tmp_path):
    """A stream of single bytes is over its bound long before its bytes are."""
    dropped: list[tuple[str, str]] = []
    store = ContentStore(tmp_path / "content", 1 << 30, 7)
    intake = Intake(tmp_path / "sock", store, 1 << 20, lambda *what: dropped.append(what))
    handover = Handover(tmp_path / "sock", 1 << 30, 1 << 30, lambda _reason: None)
    handed = handover.begin({"request_id": new_request_id(), "at": 1})
    for micros in range(20_000):
        handed.put(Kind.RESPONSE_CHUNK, micros, b"x")
    handed.end({}, 9)
    wait_until(lambda: dropped, 10)
    assert [reason for _, reason in dropped] == ["queue_full"]
    handover.close()
    wait_until(lambda: intake.waiting_bytes == 0, 10)
    intake.close()


def test_exchanges_are_kept_by_the_day_on_which_they_began(store, folder):
    """One that ends after midnight lies beside those of its day."""
    yesterday = Exchange("01941f29-7c00-7000-8000-000000000000", 1, "s", {"a": 1}, [b"x"])
    for some in by_day([yesterday, exchange()]):
        store.add(some)
    names = sorted(path.name for path in folder.glob("*.sqlite"))
    assert names[0] == "2025-01-01.sqlite"
    assert len(names) == 2
    assert store.has(yesterday.request_id)

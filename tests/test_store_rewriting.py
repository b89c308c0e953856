"""Rewriting of the database: who writes and asks goes on, nothing is lost, whatever happens."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from recording_support import ROOT, RecorderProcess, make_record, open_writer, recording_settings
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import to_json
from ccproxy_flask.store import database, rewriting
from ccproxy_flask.store.base import CommittedOffset, LogFilter, Page
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import RemoteStore

KEPT = 300_000
COLUMNS_OF_TEXT = ("path", "user_agent", "error_message", "session_id", "user_id", "query", "model")


def make_wasteful(path: Path, length: int = 1) -> Path:
    """Make a database of 700,000 rows of which 400,000 were deleted, in two ways.

    Each row has *length* columns that cannot be compressed much.
    """
    columns = COLUMNS_OF_TEXT[:length]
    DuckDBStore(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            f"INSERT INTO access_logs (request_id, timestamp, {', '.join(columns)}) "  # noqa: S608
            "SELECT uuid()::VARCHAR, '2026-01-01'::TIMESTAMP + INTERVAL (i) SECOND, "
            f"{', '.join(['uuid()::VARCHAR'] * length)} FROM range(700000) r(i)"
        )
        connection.execute("CHECKPOINT")
        with connection.cursor() as asking:  # while it asks, deleted rows keep their place
            asking.execute("BEGIN TRANSACTION")
            asking.execute("SELECT count(*) FROM access_logs").fetchall()
            connection.execute(
                "DELETE FROM access_logs WHERE rowid < 300000 OR rowid >= 500000 AND rowid % 2 = 0"
            )
    return path


@pytest.fixture(scope="module")
def wasteful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a database, to be copied."""
    return make_wasteful(tmp_path_factory.mktemp("wasteful") / "metrics.duckdb")


@pytest.fixture
def store(wasteful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DuckDBStore]:
    """A store of its own over a copy of that database."""
    monkeypatch.setattr(database, "LEAST_FREE", 1 << 20)
    shutil.copyfile(wasteful, tmp_path / "metrics.duckdb")
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[list[float]]:
    """A thread that does *work* again and again; gives the seconds that each time took."""
    took: list[float] = []
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.01):
            began = time.monotonic()
            work()
            took.append(time.monotonic() - began)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        ended.set()
        thread.join()


@contextmanager
def shrinking(store: DuckDBStore) -> Iterator[list[object]]:
    """A thread that shrinks the file and has begun to; gives what came of it when it has ended."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(store.shrink())
        except StoreUnavailable as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: remains(store.path) or outcome)
        yield outcome
    finally:
        thread.join()


def remains(path: Path) -> list[str]:
    """Return what else there is beside the database, the pipes for exports left out."""
    return [
        each.name
        for each in path.parent.glob(f"{path.name}?*")
        if each.suffix not in (".wal", ".tmp") and not each.is_fifo()
    ]


def test_rows_are_appended_while_the_file_shrinks(store):
    """Batch after batch goes in, every question is answered, and each row is there once."""
    before, sent, answers = store.path.stat().st_size, [], []

    def append() -> None:
        records = [make_record(len(sent) + number) for number in range(20)]
        store.append(
            [to_json(each) for each in records], [CommittedOffset("s", len(sent) + 20)], {"n": 20}
        )
        sent.extend(record.request_id for record in records)

    def ask() -> None:
        answers.append(store.totals(LogFilter()).total_requests)

    with repeating(append) as appending, repeating(ask), repeating(ask):
        wait_until(lambda: appending)
        done, began = len(appending), time.monotonic()
        assert store.shrink()
        took, meanwhile = time.monotonic() - began, appending[done:]
        answered = len(answers)
        wait_until(lambda: len(appending) > done + len(meanwhile) + 2)
        wait_until(lambda: len(answers) > answered + 2)
    print(
        f"{before:,} -> {store.path.stat().st_size:,} bytes in {took:.1f} s; {len(meanwhile)} "
        f"batches meanwhile, {max(meanwhile) * 1000:.0f} ms the longest; {len(answers)} answers"
    )
    assert store.path.stat().st_size < before * 0.6
    assert len(meanwhile) > 10
    assert all((answer - KEPT) % 20 == 0 for answer in answers)
    assert store.marks() == {"s": CommittedOffset("s", len(sent))}
    status = store.status()
    assert (status.rows, status.counts) == (KEPT + len(sent), {"n": len(sent)})
    assert unique_rows(store) == KEPT + len(sent)
    assert remains(store.path) == []
    kept = store.entries(LogFilter(start_time=make_record().timestamp), Page(limit=10_000)).rows
    assert {row["request_id"] for row in kept} <= set(sent)


def unique_rows(store: DuckDBStore) -> int:
    """Return how many requests there are."""
    with store.questions() as cursor:
        [(found,)] = cursor.execute("SELECT count(DISTINCT request_id) FROM access_logs").fetchall()
    return int(found)


def test_store_is_as_it_was_when_the_file_has_shrunk(store):
    """Private, closed to other files, bounded, and in its place: as a database that was opened."""
    assert store.shrink()
    assert not store.shrink()
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.is_in_place()
    with pytest.raises(StoreUnavailable), store.questions() as cursor:
        cursor.execute("SELECT * FROM read_text('/etc/passwd')")
    store.append([to_json(make_record())], [], {})
    assert len(b"".join(store.export(LogFilter(), "csv")).splitlines()) == KEPT + 2
    store.close()
    again = DuckDBStore(store.path)
    assert again.status().rows == KEPT + 1
    again.close()


def test_reset_ends_the_rewriting(store):
    """Nobody waits for a copy of what is to be deleted; nothing of it comes back."""
    with shrinking(store) as outcome:
        assert store.retain(None, 1) == 0
        assert store.reset() == KEPT
        store.append([to_json(make_record())], [], {})
    assert outcome == [False]
    assert store.status().rows == 1
    store.shrink()  # where the reset has not given all back
    assert store.status().rows == 1
    assert store.path.stat().st_size < 4 << 20


def test_closing_ends_the_rewriting(store):
    """A recorder that ends leaves the file as it is, and no copy."""
    with shrinking(store) as outcome:
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 3
    assert outcome == [False]
    assert remains(store.path) == []
    again = DuckDBStore(store.path)
    assert again.status().rows == KEPT
    again.close()


def test_remains_of_a_killed_recorder_go(wasteful, tmp_path):
    """Opening the database removes the half copy that somebody left."""
    path = tmp_path / "metrics.duckdb"
    shutil.copyfile(wasteful, path)
    folder = rewriting.folder_for(path)
    folder.mkdir()
    (folder / "copy.duckdb").write_bytes(b"half")
    (folder / "copy.duckdb.wal").write_bytes(b"half")
    DuckDBStore(path).close()
    assert remains(path) == []


def test_long_question_is_waited_for(store):
    """An export that somebody reads slowly is not broken off; the swap comes after it."""
    pieces = store.export(LogFilter(), "csv")
    head = next(pieces)
    with shrinking(store) as outcome:
        time.sleep(3)
        assert outcome == []
        assert store.totals(LogFilter()).total_requests == KEPT
        store.append([to_json(make_record())], [], {})
        lines = (head + b"".join(pieces)).splitlines()
    assert len(lines) == KEPT + 1
    assert outcome == [True]
    assert store.status().rows == KEPT + 1


def test_without_room_the_file_stays(wasteful, tmp_path, monkeypatch):
    """Where a copy does not fit, or suddenly not any more, the file stays and all else goes on."""
    mounting = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(tmp_path)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights")
    try:
        shutil.copyfile(wasteful, tmp_path / "metrics.duckdb")
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(tmp_path).free - (8 << 20)))
        store = DuckDBStore(tmp_path / "metrics.duckdb")
        # The first is refused beforehand; the second begins, and meets the full disk.
        for bound, reason in ((1 << 20, "a copy needs"), (-(1 << 40), "No space left")):
            monkeypatch.setattr(database, "LEAST_FREE", bound)
            with pytest.raises(StoreUnavailable, match=reason):
                store.shrink()
            assert remains(store.path) == []
            assert store.usable
        store.append([to_json(make_record())], [], {})
        assert store.status().rows == KEPT + 1
        ballast.unlink()
        assert store.shrink()
        assert store.status().rows == KEPT + 1
        store.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_room_of_others_is_left(wasteful, tmp_path, monkeypatch):
    """What is to stay free for the journal is not taken, before the copy or in the middle of it."""
    monkeypatch.setattr(database, "LEAST_FREE", 1 << 20)
    shutil.copyfile(wasteful, tmp_path / "metrics.duckdb")
    store = DuckDBStore(tmp_path / "metrics.duckdb", keep_free=1 << 50)
    for little, reason in ((1 << 20, "a copy needs"), (1 << 40, "others may need")):
        monkeypatch.setattr(database, "_LITTLE", little)
        with pytest.raises(StoreUnavailable, match=reason):
            store.shrink()
        assert remains(store.path) == []
    assert store.status().rows == KEPT
    store.close()


def test_database_that_was_put_in_its_place_is_left(store, tmp_path):
    """A backup that somebody moved there meanwhile is not written over."""
    backup = tmp_path / "backup"
    backup.write_bytes(b"somebody's")
    with shrinking(store) as outcome:
        backup.rename(store.path)
    assert [str(one) for one in outcome if isinstance(one, StoreUnavailable)]
    assert store.path.read_bytes() == b"somebody's"


def test_symbolic_link_stays_one(wasteful, tmp_path, monkeypatch):
    """A database behind a link shrinks where it is."""
    monkeypatch.setattr(database, "LEAST_FREE", 1 << 20)
    (tmp_path / "disk").mkdir()
    shutil.copyfile(wasteful, tmp_path / "disk" / "real.duckdb")
    link = tmp_path / "metrics.duckdb"
    link.symlink_to(tmp_path / "disk" / "real.duckdb")
    store = DuckDBStore(link)
    before = link.stat().st_size
    store.append([to_json(make_record())], [], {})
    assert store.shrink()
    assert store.is_in_place()
    assert store.status().rows == KEPT + 1
    store.close()
    assert link.is_symlink()
    assert link.stat().st_size < before * 0.6
    store = DuckDBStore(link)
    assert store.status().rows == KEPT + 1
    store.close()


KILLED_AT_EACH_LINE = textwrap.dedent("""
    import json, os, shutil, signal, sys, threading
    from pathlib import Path
    from recording_support import make_record
    from ccproxy_flask.record import to_json
    from ccproxy_flask.store import database
    from ccproxy_flask.store.base import CommittedOffset
    from ccproxy_flask.store.duckdb import DuckDBStore

    database.LEAST_FREE = 0
    source, path = Path(sys.argv[1]), Path(sys.argv[2])
    WATCHED = {"shrink", "_rewrite", "_open_again", "_opened"}

    def in_child(work):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                work(writing)
            finally:
                os._exit(0)
        os.close(writing)
        said = b""
        while piece := os.read(reading, 4096):
            said += piece
        os.close(reading)
        os.waitpid(pid, 0)
        return said

    def killed(at):
        def work(said):
            store, seen, sent = DuckDBStore(path), [0], [0]

            def line(frame, event, _):
                seen[0] += event == "line"
                if seen[0] == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return line

            def call(frame, _, __):
                code = frame.f_code
                ours = code.co_filename.endswith("store/rewriting.py") or code.co_name in WATCHED
                return line if ours else None

            def append():
                while True:
                    sent[0] += 1
                    row, offset = to_json(make_record(sent[0])), CommittedOffset("s", sent[0])
                    store.append([row], [offset], {"n": 1})
                    os.write(said, b".")

            threading.Thread(target=append, daemon=True).start()
            sys.settrace(call)
            shrunk = store.shrink()
            sys.settrace(None)
            os.write(said, b"!" if shrunk else b"?")
            os.kill(os.getpid(), signal.SIGKILL)
        return work

    def found(said):
        store = DuckDBStore(path)
        with store.questions() as cursor:
            facts = cursor.execute("SELECT count(*), count(DISTINCT request_id) FROM access_logs")
            rows, requests = facts.fetchone()
        rest = sorted(each.name for each in path.parent.iterdir() if not each.is_fifo())
        mark = store.marks().get("s", CommittedOffset("s", 0)).position
        facts = [rows, requests, mark, store.status().counts.get("n", 0), rest]
        os.write(said, json.dumps(facts).encode())
        store.close()

    at, said = 0, b""
    while b"!" not in said and b"?" not in said:
        at += 1
        for old in path.parent.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copyfile(source, path)
        said = in_child(killed(at))
        size = path.stat().st_size
        print(json.dumps([at, said.decode(), size, *json.loads(in_child(found))]), flush=True)
""")


@pytest.mark.slow
def test_killed_at_each_line_it_is_the_old_file_or_the_new_one(tmp_path):
    """kill -9 at any line of the rewriting: each row once, with its mark, and nothing left over."""
    source, path = tmp_path / "source.duckdb", tmp_path / "home" / "metrics.duckdb"
    path.parent.mkdir()
    store = DuckDBStore(source)
    store.append([to_json(make_record(number)) for number in range(3000)], [], {})
    store.close()
    with duckdb.connect(str(source)) as connection:
        connection.execute("DELETE FROM access_logs WHERE rowid % 3 < 2")
    program = [sys.executable, "-c", KILLED_AT_EACH_LINE, str(source), str(path)]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ended = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    seen = [json.loads(line) for line in ended.stdout.splitlines() if line[0] == "["]
    for at, said, _size, rows, requests, mark, count, rest in seen:
        appended = said.count(".")
        assert rows == requests, at
        assert appended <= rows - 1000 <= appended + 1, at
        assert (mark, count) == (rows - 1000, rows - 1000), at
        assert set(rest) <= {"metrics.duckdb", "metrics.duckdb.wal", "metrics.duckdb.tmp"}, at
    assert seen[-1][1].count("!") == 1
    print(f"killed at {len(seen) - 1} lines")
    assert len(seen) > 50


@pytest.mark.slow
def test_recorder_killed_while_it_rewrites(tmp_path):
    """kill -9 at random moments of the rewriting, records coming: none is missing or double."""
    random.seed(20261121)
    settings = recording_settings(tmp_path)
    make_wasteful(settings.duckdb_path, len(COLUMNS_OF_TEXT))
    writer, sent = open_writer(settings.journal_directory), 0
    before = settings.duckdb_path.stat().st_size
    folder = rewriting.folder_for(settings.duckdb_path)
    for _ in range(8):
        recorder = RecorderProcess(tmp_path)
        wait_until(folder.exists, 20)
        until = time.monotonic() + random.uniform(0, 3)
        while time.monotonic() < until:
            writer.end(make_record(sent))
            sent += 1
            time.sleep(0.001)
        recorder.kill()
        if settings.duckdb_path.stat().st_size < before * 0.6:
            break
    recorder = RecorderProcess(tmp_path)
    remote = RemoteStore(settings.recorder_socket)
    wait_until(lambda: rows_of(remote) == KEPT + sent, 20)
    wait_until(lambda: settings.duckdb_path.stat().st_size < before * 0.6, 60)
    wait_until(lambda: rows_of(remote) == KEPT + sent, 20)
    recorder.stop()
    writer.close()
    store = DuckDBStore(settings.duckdb_path)
    assert unique_rows(store) == store.status().rows == KEPT + sent
    store.close()


def rows_of(remote: RemoteStore) -> int:
    """Return how many rows there are, -1 where nobody says."""
    try:
        return remote.status().rows
    except StoreUnavailable:
        return -1

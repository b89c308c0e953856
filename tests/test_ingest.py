"""From the journal into the store: each request once, whatever the journal looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recording_support import ROOT, forked, lines_in, make_record, open_writer

from ccproxy_flask.journal import writer as writing
from ccproxy_flask.journal.lines import CANCELLED, record_line
from ccproxy_flask.journal.segments import list_segments
from ccproxy_flask.record import RequestRecord
from ccproxy_flask.recorder import ingest as ingesting
from ccproxy_flask.recorder.ingest import Ingest, Limits
from ccproxy_flask.store.base import LogFilter, Page
from ccproxy_flask.store.duckdb import DuckDBStore

AMPLE = Limits(max_bytes=1 << 40, min_free_bytes=0)
DEAD = "0" * 31 + "1"


class Watching:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.count = 0
        self.lost: list[RequestRecord] = []
        self.size = -1
        self.reasons: Counter[str] = Counter()

    def written(self, count: int) -> None:
        """Add up."""
        self.count += count

    def worker_lost(self, record: RequestRecord) -> None:
        """Keep it."""
        self.lost.append(record)

    def dropped(self, reason: str, count: int = 1) -> None:
        """Add up."""
        self.reasons[reason] += count

    def backlog(self, size: int) -> None:
        """Keep the last."""
        self.size = size


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    """An empty database."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "journal"
    directory.mkdir()
    return directory


def run(ingest: Ingest) -> None:
    """Store all there is."""
    while ingest.step():
        pass


def rows(store: DuckDBStore) -> list[dict[str, Any]]:
    """Return all rows, oldest first."""
    return store.entries(LogFilter(), Page(limit=10_000, order_desc=False)).rows


def ids(store: DuckDBStore) -> list[str]:
    """Return the requests of all rows."""
    return [row["request_id"] for row in rows(store)]


def write_dead(journal: Path, *lines: bytes, number: int = 1) -> Path:
    """Write a segment whose worker is dead."""
    path = journal / f"{DEAD}-{number:08d}.ndjson"
    path.write_bytes(b"".join(lines))
    return path


def test_finished_records_become_rows(store, journal):
    """Ends are stored with all they have; what is in flight is not."""
    records = [make_record(number) for number in range(5)]
    writer = open_writer(journal)
    watching = Watching()
    ingest = Ingest(store, journal, AMPLE, watching)
    for record in records:
        writer.start(record)
    for record in records[:4]:
        writer.end(record)
    run(ingest)
    assert ids(store) == [record.request_id for record in records[:4]]
    assert rows(store)[0]["cost_usd"] == 0.0012345678
    assert (watching.count, watching.size, ingest.backlog()) == (4, 0, (0, 0.0))
    writer.end(records[4])
    run(ingest)
    run(ingest)
    assert len(ids(store)) == len(set(ids(store))) == 5


def test_new_ingest_goes_on_where_the_last_one_was(store, journal):
    """After a restart nothing is stored twice and what was in flight is still known."""
    writer = open_writer(journal, segment_bytes=4096)
    records = [make_record(number) for number in range(30)]
    for number, record in enumerate(records):
        writer.start(record)
        if number % 3:
            writer.end(record)
        ingest = Ingest(store, journal, AMPLE)
        ingest.step()
    for record in records[::3]:
        writer.end(record)
    writer.close()
    for _ in range(3):
        run(Ingest(store, journal, AMPLE))
    assert sorted(ids(store)) == sorted(record.request_id for record in records)
    assert {row["error_type"] for row in rows(store)} == {None}


def test_worker_that_died_leaves_one_row_for_each_request(store, journal):
    """kill -9 of a process closes what it had in flight as worker_lost, once, and says it."""
    done, open_one = make_record(1), make_record(2, status_code=None, duration_ms=None)

    def work() -> None:
        writer = open_writer(journal)
        writer.start(open_one)
        writer.start(done)
        writer.end(done)
        kept.append(writer)

    kept: list[object] = []
    watching = Watching()
    ingest = Ingest(store, journal, AMPLE, watching)
    with forked(work):
        run(ingest)
        assert ids(store) == [done.request_id]
    run(ingest)
    run(Ingest(store, journal, AMPLE))
    lost = rows(store)[1]
    assert ids(store) == [done.request_id, open_one.request_id]
    assert (lost["error_type"], lost["duration_ms"], lost["model"]) == (
        "worker_lost",
        None,
        "claude-test",
    )
    assert [record.request_id for record in watching.lost] == [open_one.request_id]
    assert store.status().counts == {"worker_lost": 1}


def test_lost_record_becomes_a_row(store, journal):
    """A `lost` line gives the row its start line knew, as record_lost."""
    record = make_record(session_id="s")
    line = record_line("start", record)
    write_dead(journal, line, line.replace(b'"start"', b'"lost"', 1))
    run(Ingest(store, journal, AMPLE))
    [row] = rows(store)
    assert (row["request_id"], row["error_type"], row["session_id"]) == (
        record.request_id,
        "record_lost",
        "s",
    )
    assert store.status().counts == {"record_lost": 1}


def test_dropped_records_are_counted(store, journal):
    """What a worker could not keep is added up by reason, once."""
    line = b'{"event":"dropped","reason":"disk_full","count":3}\n'
    write_dead(journal, line, line, line.replace(b"disk_full", b"journal_full"))
    run(Ingest(store, journal, AMPLE))
    run(Ingest(store, journal, AMPLE))
    assert store.status().counts == {"dropped:disk_full": 6, "dropped:journal_full": 3}


def test_journal_cut_anywhere(store, journal):
    """Wherever a dead worker's last segment ends, each request has one row: its own, or lost."""
    expected: dict[str, str | None] = {}
    lines = [record_line(event, make_record(one)) for one in (1, 2) for event in EVENTS]
    ends = [sum(map(len, lines[: count + 1])) for count in range(4)]
    near = {end + away for end in ends for away in range(-3, 4)}
    for cut in sorted(near | set(range(0, ends[3], 37))):
        one, two = make_record(1), make_record(2)
        whole = b"".join(record_line(event, record) for record in (one, two) for event in EVENTS)
        (journal / f"{cut:032x}-00000001.ndjson").write_bytes(whole[:cut])
        # The newline at the end may be missing: a cut before it makes no difference.
        for record, begins, has_ended in ((one, *ends[:2]), (two, *ends[2:])):
            if cut >= begins - 1:
                expected[record.request_id] = None if cut >= has_ended - 1 else "worker_lost"
    run(Ingest(store, journal, AMPLE))
    assert {row["request_id"]: row["error_type"] for row in rows(store)} == expected
    assert len(ids(store)) == len(expected)


EVENTS = ("start", "end")


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"{\n",
        b"null\n",
        b"\x00" * 5000 + b"\n",
        b'{"event":"end"}\n',
        b'{"event":"unknown","request_id":"x"}\n',
        b'{"event":"dropped","count":"x"}\n',
        b'{"event":"end","request_id":"x","timestamp":"never"}\n',
        b'{"event":"end","request_id":"012345678901234567890123456789012345","garbage}\n',
        b"x" * (1 << 20) + b"\n",
    ],
    ids=lambda junk: repr(junk[:40]),
)
def test_damaged_lines_stop_nothing(store, journal, junk):
    """A line that is nothing is counted, put aside and passed over; those around it are rows."""
    one, two = make_record(1), make_record(2)
    write_dead(journal, record_line("end", one), junk, record_line("end", two))
    run(Ingest(store, journal, AMPLE))
    assert ids(store) == [one.request_id, two.request_id]
    damaged = journal / "damaged.ndjson"
    if junk == b"\n":
        assert not damaged.exists()
    else:
        assert damaged.read_bytes().startswith(junk[:100])
        assert damaged.stat().st_mode & 0o777 == 0o600
        assert store.status().counts["damaged_lines"] >= 1


def test_value_that_fits_no_column_costs_only_itself(store, journal):
    """A row is kept without the value that does not fit; the line is put aside, too."""
    good, odd = make_record(1), make_record(2)
    line = record_line("end", odd).replace(b'"tokens_input":10', b'"tokens_input":"ten"')
    write_dead(journal, record_line("end", good), line)
    run(Ingest(store, journal, AMPLE))
    run(Ingest(store, journal, AMPLE))
    assert [row["tokens_input"] for row in rows(store)] == [10, None]
    assert rows(store)[1]["tokens_output"] == 5
    assert store.status().counts == {"damaged_lines": 1}
    assert (journal / "damaged.ndjson").read_bytes() == line


def test_request_whose_end_is_beyond_repair_is_lost_with_its_worker(store, journal):
    """A damaged end leaves its request open; it gets its row when the worker is gone."""
    record = make_record()
    damaged = record_line("end", record)[:60] + b"\xff\xff}\n"
    write_dead(journal, record_line("start", record), damaged)
    run(Ingest(store, journal, AMPLE))
    assert [(row["request_id"], row["error_type"]) for row in rows(store)] == [
        (record.request_id, "worker_lost")
    ]


def test_cancelled_half_line_is_no_damage(store, journal):
    """A half line that its writer took back is neither a row nor damage."""
    record = make_record()
    line = record_line("end", record)
    write_dead(journal, line[:100] + CANCELLED + b"\n", line)
    run(Ingest(store, journal, AMPLE))
    assert (ids(store), store.status().counts) == ([record.request_id], {})


def test_half_line_that_comes_again_in_the_next_segment_is_one_row(store, journal):
    """What was torn at the end of a segment, whole but for the newline, counts once."""
    record = make_record()
    line = record_line("end", record)
    write_dead(journal, line[:-1])
    write_dead(journal, line, number=2)
    run(Ingest(store, journal, AMPLE))
    assert (ids(store), store.status().counts) == ([record.request_id], {})


def test_stored_segments_go_after_a_while(store, journal):
    """A segment goes when it is stored, left by its worker, and a minute old; not before."""
    writer = open_writer(journal, segment_bytes=4096)
    for number in range(12):
        writer.end(make_record(number))
    ingest = Ingest(store, journal, AMPLE)
    run(ingest)
    assert len(list_segments(journal)) > 2
    for segment in list_segments(journal):
        os.utime(journal / segment.name, (1, 1))
    run(ingest)
    [newest] = list_segments(journal)
    assert set(store.marks()) == {newest.name}
    writer.close()
    os.utime(journal / newest.name, (1, 1))
    run(ingest)
    assert (list_segments(journal), store.marks()) == ([], {})
    assert len(ids(store)) == 12


def test_stored_segments_go_at_once_where_room_is_short(store, journal):
    """In a journal more than half full nothing is kept for live readers."""
    writer = open_writer(journal, segment_bytes=4096)
    for number in range(12):
        writer.end(make_record(number))
    run(Ingest(store, journal, Limits(max_bytes=10_000, min_free_bytes=0)))
    assert len(list_segments(journal)) == 1
    assert len(ids(store)) == 12


def test_clock_that_jumped_keeps_no_segment(store, journal):
    """A segment that seems to come from the future is old, too."""
    path = write_dead(journal, record_line("end", make_record()))
    os.utime(path, (4e9, 4e9))
    run(Ingest(store, journal, AMPLE))
    assert list_segments(journal) == []


def test_full_journal_drains_and_takes_records_again(store, journal):
    """Writer and recorder together come out of a full journal without losing a record."""
    dropped: list[str] = []
    bounds = Limits(max_bytes=1 << 20, min_free_bytes=0)
    writer = open_writer(journal, dropped, max_bytes=bounds.max_bytes)
    ingest = Ingest(store, journal, bounds)
    sent = []
    while len(sent) < 6000:
        record = make_record(len(sent))
        writer.start(record)
        writer.end(record)
        sent.append(record.request_id)
        if len(sent) % 1000 == 0:
            for _ in range(40):
                writer.maintain()
                run(ingest)
                if not writer.backlog_lines:
                    break
                writer._measured_at = 0.0  # noqa: SLF001  the half second is not waited for
    assert dropped == []
    assert sorted(ids(store)) == sorted(sent)


def test_dropped_lost_and_stored_add_up(store, journal, monkeypatch):
    """Requests = rows + dropped, with a disk that comes and goes and a small memory."""
    monkeypatch.setattr(writing, "LONGEST_BACKLOG_LINES", 10)
    dropped: list[str] = []
    writer = open_writer(journal, dropped)
    ingest = Ingest(store, journal, AMPLE)
    sent, in_flight = 0, []
    for number in range(400):
        writer.min_free_bytes = (1 << 60) if number // 40 % 2 else 0
        record = make_record(number)
        writer.start(record)
        in_flight.append(record)
        sent += 1
        if len(in_flight) > 15:
            writer.end(in_flight.pop(0))
        if number % 20 == 0:
            writer.maintain()
            run(ingest)
    writer.min_free_bytes = 0
    for record in in_flight:
        writer.end(record)
    while writer.backlog_lines:
        writer.maintain()
    writer.close()
    run(ingest)
    found = ids(store)
    assert len(found) == len(set(found))
    assert len(found) + len(dropped) == sent
    counts = store.status().counts
    assert counts["dropped:disk_full"] == len(dropped) > 0
    assert counts["record_lost"] > 0


def test_replay_after_the_database_was_lost(tmp_path, journal):
    """A new database gets everything that is still in the journal, once."""
    records = [make_record(number) for number in range(5)]
    write_dead(journal, *[record_line("end", record) for record in records])
    for name in ("first", "second"):
        store = DuckDBStore(tmp_path / name)
        run(Ingest(store, journal, AMPLE))
        assert ids(store) == [record.request_id for record in records]
        store.close()


def test_reset_keeps_what_is_in_flight(store, journal):
    """Rows are deleted, marks are not: nothing comes back, and what ends later is stored."""
    writer = open_writer(journal)
    records = [make_record(number) for number in range(4)]
    for record in records:
        writer.start(record)
    for record in records[:2]:
        writer.end(record)
    ingest = Ingest(store, journal, AMPLE)
    run(ingest)
    store.reset()
    run(Ingest(store, journal, AMPLE))
    assert ids(store) == []
    for record in records[2:]:
        writer.end(record)
    run(ingest)
    assert ids(store) == [record.request_id for record in records[2:]]


def test_many_rows_go_in_by_the_batch(store, journal, monkeypatch):
    """A journal of many batches is stored whole, in bounded steps."""
    monkeypatch.setattr(ingesting, "BATCH_BYTES", 4 << 20)
    writer = open_writer(journal, segment_bytes=1 << 20)
    for number in range(6000):
        writer.end(make_record(number))
    ingest = Ingest(store, journal, AMPLE)
    assert ingest.step()
    assert 1000 < store.status().rows < 6000
    assert ingest.is_behind
    waiting, lag = ingest.backlog()
    assert waiting > 0
    assert lag >= 0
    run(ingest)
    assert store.status().rows == 6000
    assert not ingest.is_behind
    assert ingest.backlog() == (0, 0.0)


def test_lines_are_json_of_one_line(journal):
    """No value can break a line: whatever stands in a text is escaped."""
    writer = open_writer(journal)
    writer.end(make_record(path="/a\nb\r\u2028", user_agent='"}\n{"event":"end"'))
    assert [json.loads(line)["event"] for line in lines_in(journal)] == ["end"]


# -- what does not belong there --------------------------------------------------------------------


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _foreign(path: Path) -> None:
    path.write_bytes(b"x\n")
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize("make", [_directory, _pipe, _link, _foreign])
def test_what_is_no_file_of_ours_is_passed_over(store, journal, make, capsys):
    """What has a segment's name and is no file of ours is passed over, and logged once."""
    if make is _foreign and os.getuid() != 0:
        pytest.skip("giving a file away needs more rights")
    odd = journal / f"{DEAD}-00000001.ndjson"
    make(odd)
    record = make_record()
    other = journal / f"{'0' * 30}22-00000001.ndjson"
    other.write_bytes(record_line("end", record))
    ingest = Ingest(store, journal, AMPLE)
    for _ in range(3):
        run(ingest)
    assert ids(store) == [record.request_id]
    assert not (journal / "damaged.ndjson").exists()
    assert os.path.lexists(odd)
    assert capsys.readouterr().out.count(odd.name) == 1


UNREADABLE = """
import os, sys
from pathlib import Path
from test_ingest import AMPLE, Ingest, DuckDBStore, rows, run
home = Path(sys.argv[1])
os.setuid(12345)
store = DuckDBStore(home / "metrics.duckdb")
ingest = Ingest(store, home / "journal", AMPLE)
run(ingest)
assert len(rows(store)) == 1, rows(store)
(home / "journal" / sys.argv[2]).chmod(0o600)
run(ingest)
assert len(rows(store)) == 3, rows(store)
store.close()
"""


def test_unreadable_segment_holds_up_its_own_worker_alone(tmp_path):
    """What cannot be read waits, with the rest of its worker's; it is stored when it can be."""
    if os.getuid() != 0:
        pytest.skip("needs two users")
    home = tmp_path / "home"
    journal = home / "journal"
    journal.mkdir(parents=True)
    first = make_record(1)
    locked = write_dead(journal, record_line("start", first))
    write_dead(journal, record_line("end", first), record_line("end", make_record(2)), number=2)
    (journal / f"{'0' * 30}22-00000001.ndjson").write_bytes(record_line("end", make_record(3)))
    locked.chmod(0)
    for path in (home, journal, *journal.iterdir()):
        os.chown(path, 12345, 12345)
    for parent in tmp_path.parents[:3]:
        if parent.stat().st_uid == os.getuid() and parent.is_relative_to("/tmp"):  # noqa: S108
            parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o711)
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(home), locked.name],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("segment_not_readable") == 1


# -- what is put back ------------------------------------------------------------------------------


@pytest.mark.parametrize("alive", [False, True], ids=["its worker is dead", "its worker lives"])
def test_journal_that_is_put_back_adds_nothing(store, journal, alive):
    """A copy of segments that were stored and removed changes no row, also with new ones beside."""
    writer = open_writer(journal, segment_bytes=4096)
    ingest = Ingest(store, journal, AMPLE)
    for number in range(30):
        record = make_record(number)
        writer.start(record)
        writer.end(record)
    copies = {one.name: (journal / one.name).read_bytes() for one in list_segments(journal)}
    run(ingest)
    before = ids(store)
    if not alive:
        writer.close()
    for segment in list_segments(journal):
        os.utime(journal / segment.name, (1, 1))
    run(ingest)
    assert len(list_segments(journal)) == alive
    for restart in (False, True):
        for name, content in copies.items():
            if not (journal / name).exists():
                (journal / name).write_bytes(content)
        ingest = Ingest(store, journal, AMPLE) if restart else ingest
        run(ingest)
        assert ids(store) == before
    if alive:
        writer.end(make_record(99))
        run(ingest)
        assert len(ids(store)) == 31
    writer.close()


def test_journal_that_is_put_back_fills_what_is_missing(store, journal):
    """Of a journal that is put back the rows that the database lacks are stored."""
    records = [make_record(number) for number in range(6)]
    path = write_dead(journal, *[record_line("end", record) for record in records[:3]])
    run(Ingest(store, journal, AMPLE))
    path.unlink(missing_ok=True)
    store.forget([path.name])
    write_dead(journal, *[record_line("end", record) for record in records])
    run(Ingest(store, journal, AMPLE))
    assert ids(store) == [record.request_id for record in records]

"""The journal: lines are on disk at once, whole, bounded, and counted where they cannot be."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from recording_support import ROOT, forked, lines_in, make_record, open_writer

from ccproxy_flask.journal import writer as writing
from ccproxy_flask.journal.lines import CANCELLED, identify, parse, record_line, storable
from ccproxy_flask.journal.reader import LONGEST_LINE, read_lines
from ccproxy_flask.journal.segments import is_alive, is_locked, list_segments
from ccproxy_flask.record import COLUMNS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs more rights")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


# -- lines -----------------------------------------------------------------------------------------


def test_line_has_all_columns(tmp_path):
    """A line is the event and every column of the record, readable as JSON."""
    writer = open_writer(tmp_path)
    record = make_record()
    writer.start(record)
    writer.end(record)
    writer.close()
    start, end = map(json.loads, lines_in(tmp_path))
    assert (start.pop("event"), end.pop("event")) == ("start", "end")
    assert [name for name in end if name != "stated_limits"] == list(COLUMNS)  # for another table
    assert end["cost_usd"] == "0.0012345678"
    assert end["timestamp"] == "2026-11-21T02:00:00Z"


def test_line_exists_when_the_call_returns(tmp_path):
    """What end() was given is in the file at once, with no flush and no close."""
    writer = open_writer(tmp_path)
    record = make_record()
    writer.end(record)
    assert record.request_id.encode() in lines_in(tmp_path)[0]


def test_record_that_is_no_json_is_made_to_fit():
    """Values that have no JSON form or fit no column become what does; the record is kept."""
    record = make_record(
        path="/\ud800", tokens_input=1 << 70, cost_usd=Decimal("NaN"), model="claude"
    )
    fields = parse(record_line("end", record).rstrip())
    assert fields is not None
    assert (fields["path"], fields["tokens_input"], fields["cost_usd"]) == ("/?", None, None)
    assert fields["model"] == "claude"


def test_storable_drops_what_fits_no_column():
    """Of fields of any type the ones that fit their columns are left."""
    row = storable({"request_id": "a", "timestamp": "yesterday", "chunks": True, "ttfb_ms": 1e999})
    assert (row["request_id"], row["timestamp"], row["chunks"], row["ttfb_ms"]) == (
        "a",
        None,
        None,
        None,
    )


def test_lines_are_told_apart_without_parsing():
    """Start and end lines are known by their first bytes; anything else has to be parsed."""
    record = make_record()
    line = record_line("start", record).rstrip()
    assert identify(line) == ("start", record.request_id)
    assert identify(record_line("end", record).rstrip()) == ("end", record.request_id)
    assert identify(line[:-1]) is None
    assert identify(b'{"event":"lost","request_id":"x"}') is None
    assert identify(b"") is None


# -- segments --------------------------------------------------------------------------------------


def test_files_are_private(tmp_path):
    """Directory 0700, segments 0600."""
    directory = tmp_path / "deep" / "journal"
    writer = open_writer(directory)
    writer.end(make_record())
    [segment] = list_segments(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / segment.name).stat().st_mode & 0o777 == 0o600


def test_new_segment_repeats_what_is_in_flight(tmp_path):
    """A full segment is followed by one that begins with the requests still open."""
    writer = open_writer(tmp_path, segment_bytes=4096)
    waiting = make_record()
    writer.start(waiting)
    for number in range(10):
        writer.end(make_record(number))
    segments = list_segments(tmp_path)
    assert len(segments) > 1
    for segment in segments:
        first = (tmp_path / segment.name).read_bytes().split(b"\n")[0]
        assert identify(first) == ("start", waiting.request_id)


def test_many_in_flight_do_not_make_every_line_a_segment(tmp_path):
    """Repeated starts do not count for the size at which a segment is left."""
    writer = open_writer(tmp_path, segment_bytes=4096)
    for number in range(100):
        writer.start(make_record(number))
    before = list_segments(tmp_path)[-1].number
    for number in range(8):
        writer.end(make_record(number))
    assert list_segments(tmp_path)[-1].number - before <= 3


def test_old_segment_is_left_once(tmp_path):
    """maintain() leaves a segment of a certain age, and does not do so again without new lines."""
    writer = open_writer(tmp_path, segment_seconds=1e-9)
    writer.end(make_record())
    writer.maintain()
    writer.maintain()
    assert [segment.number for segment in list_segments(tmp_path)] == [1, 2]


def test_lock_says_that_the_worker_lives(tmp_path):
    """Only the newest segment is locked, until the writer closes."""
    writer = open_writer(tmp_path, segment_seconds=1e-9)
    writer.end(make_record())
    writer.maintain()
    old, new = list_segments(tmp_path)
    assert not is_locked(tmp_path / old.name)
    assert is_locked(tmp_path / new.name)
    assert is_alive(tmp_path, old), "its next segment is there"
    writer.close()
    assert not is_alive(tmp_path, new)


def test_killed_process_lets_go_of_its_segment(tmp_path):
    """After kill -9 the newest segment is not locked any more."""

    def work() -> None:
        open_writer(tmp_path).start(make_record())

    with forked(work):
        [segment] = list_segments(tmp_path)
        # The writer of the child is garbage by then, its descriptor is not.
        assert is_alive(tmp_path, segment)
    assert not is_alive(tmp_path, segment)


def test_fork_gets_a_segment_of_its_own(tmp_path):
    """A forked process writes elsewhere, and does not keep its parent's segment alive."""
    writer = open_writer(tmp_path)
    writer.end(make_record(1))
    [parents] = list_segments(tmp_path)
    with forked(lambda: writer.end(make_record(2))):
        assert len({segment.worker for segment in list_segments(tmp_path)}) == 2
        writer.close()
        assert not is_locked(tmp_path / parents.name)


def test_close_with_requests_in_flight_keeps_the_lock(tmp_path):
    """Nobody may take a request for lost whose end can still be written."""
    writer = open_writer(tmp_path)
    record = make_record()
    writer.start(record)
    writer.close()
    [segment] = list_segments(tmp_path)
    assert is_locked(tmp_path / segment.name)
    writer.end(record)
    writer.close()
    assert not is_locked(tmp_path / segment.name)
    assert len(lines_in(tmp_path)) == 2


def test_writers_leave_no_descriptors(tmp_path):
    """Hundreds of segments need one descriptor, and none after close()."""
    before = _descriptors()
    writer = open_writer(tmp_path, segment_bytes=4096)
    for number in range(500):
        writer.end(make_record(number))
    assert len(list_segments(tmp_path)) > 50
    assert _descriptors() == before + 2, "the segment and the ledger"
    writer.close()
    assert _descriptors() == before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- where lines cannot be written -----------------------------------------------------------------


def test_full_disk_keeps_lines_in_memory_and_writes_them_later(small_disk):
    """On a disk without space nothing raises, nothing is lost, and no half line counts."""
    directory = small_disk / "journal"
    writer = open_writer(directory, segment_bytes=1 << 20)
    ballast = small_disk / "ballast"
    records = [make_record(number) for number in range(40)]
    for record in records[:10]:
        writer.start(record)
        writer.end(record)
    with ballast.open("wb") as file:
        _fill(file.fileno())
    for record in records[10:]:
        writer.start(record)
        writer.end(record)
    assert writer.backlog_lines > 0
    assert writer.trouble == "disk_full"
    ballast.unlink()
    writer.maintain()
    assert (writer.backlog_lines, writer.trouble) == (0, None)
    assert _ended(directory) == [record.request_id for record in records]


def _fill(fd: int) -> None:
    size = 1 << 16
    while size:
        try:
            os.write(fd, b"x" * size)
        except OSError:
            size //= 2


def _ended(directory: Path) -> list[str]:
    ended = []
    for line in lines_in(directory):
        fields = parse(line)  # None for the half line, which comes again
        if fields is not None and fields["event"] == "end":
            ended.append(fields["request_id"])
    return ended


def test_half_line_is_cancelled_before_the_next(tmp_path):
    """A write that was cut short is closed off with a mark, and its line comes again whole."""
    program = textwrap.dedent("""
        import resource, sys, time
        from pathlib import Path
        from recording_support import make_record, open_writer
        writer = open_writer(Path(sys.argv[1]))
        one, two = make_record(1), make_record(2)
        writer.end(one)
        size = next(Path(sys.argv[1]).glob("*.ndjson")).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
        writer.end(two)
        assert writer.backlog_lines == 1, writer.backlog_lines
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        while writer.trouble:
            writer.end(make_record(3))
            time.sleep(0.01)
        writer.maintain()
        assert writer.backlog_lines == 0
    """)
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=env, check=True)
    lines = lines_in(tmp_path)
    assert [line.endswith(CANCELLED) for line in lines[:3]] == [False, True, False]
    ended = _ended(tmp_path)
    assert len(ended) == len(set(ended)) == len(lines) - 1


def test_over_the_backlog_records_are_dropped_and_counted_once(tmp_path, monkeypatch):
    """With the disk refusing and the memory full each further request is counted, by reason."""
    monkeypatch.setattr(writing, "LONGEST_BACKLOG_LINES", 5)
    dropped: list[str] = []
    writer = open_writer(tmp_path / "journal", dropped, min_free_bytes=1 << 60)
    for number in range(12):
        record = make_record(number)
        writer.start(record)
        writer.end(record)
    assert dropped == ["disk_full"] * 7
    assert writer.backlog_lines == 5
    assert writer.dropped == {"disk_full": 7}
    writer.close()
    assert dropped == ["disk_full"] * 12


def test_request_with_its_start_on_disk_is_lost_not_dropped(tmp_path, monkeypatch):
    """Where the end overflows after the start was written, a `lost` line follows and no count."""
    monkeypatch.setattr(writing, "LONGEST_BACKLOG_LINES", 0)
    dropped: list[str] = []
    writer = open_writer(tmp_path, dropped)
    record = make_record(session_id="s")
    writer.start(record)
    writer.min_free_bytes = 1 << 60
    writer.end(record)
    assert (dropped, writer.backlog_lines) == ([], 1)
    writer.min_free_bytes = 0
    writer.maintain()
    lost = json.loads(lines_in(tmp_path)[-1])
    assert (lost["event"], lost["request_id"], lost["session_id"]) == (
        "lost",
        record.request_id,
        "s",
    )
    assert (dropped, writer.backlog_lines) == ([], 0)


def test_full_journal_gets_room_again(tmp_path):
    """A writer in a full journal leaves its segment, so that the recorder can delete that."""
    writer = open_writer(tmp_path, max_bytes=1 << 20)
    while writer.trouble is None:
        writer.end(make_record())
    newest = list_segments(tmp_path)[-1]
    writer.maintain()
    assert list_segments(tmp_path)[-1].number == newest.number + 1
    total = sum(segment.size for segment in list_segments(tmp_path))
    assert total <= (1 << 20)


def test_directory_that_vanishes_is_made_again(tmp_path):
    """Records go on into a new directory, and what was in flight is in it."""
    directory = tmp_path / "journal"
    writer = open_writer(directory)
    record = make_record()
    writer.start(record)
    shutil.rmtree(directory)
    writer.maintain()
    writer.end(record)
    assert [identify(line) for line in lines_in(directory)] == [
        ("start", record.request_id),
        ("end", record.request_id),
    ]


def test_directory_that_is_a_file_holds_nobody_up(tmp_path):
    """Where there can be no journal, records wait, and are written when there can be one."""
    directory = tmp_path / "journal"
    directory.write_text("in the way")
    writer = open_writer(directory)
    writer.end(make_record())
    assert (writer.backlog_lines, writer.trouble) == (1, "unwritable")
    directory.unlink()
    writer.maintain()
    assert len(lines_in(directory)) == 1


def test_memory_of_the_backlog_is_bounded(tmp_path):
    """A hundred thousand records that cannot be written take no more memory than the bound."""
    writer = open_writer(tmp_path / "journal", min_free_bytes=1 << 60)
    record = make_record()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20_000):
        writer.end(record)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert writer.backlog_lines <= writing.LONGEST_BACKLOG_LINES
    assert grown < 60 << 10


# -- reading ---------------------------------------------------------------------------------------


def test_reader_stops_before_half_a_line(tmp_path):
    """Whole lines are given, and where they end; the rest is for later."""
    path = tmp_path / "s"
    path.write_bytes(b"one\ntwo\nthr")
    assert read_lines(path, 0) == ([b"one", b"two"], 8)
    assert read_lines(path, 8) == ([], 8)
    assert read_lines(path, 0, limit=5) == ([b"one"], 4)
    assert read_lines(path, 0, limit=2) == ([b"one", b"two"], 8)


def test_reader_passes_over_a_line_without_end(tmp_path):
    """More than the longest line without a newline is one damaged line, not a standstill."""
    path = tmp_path / "s"
    path.write_bytes(b"x" * (LONGEST_LINE + 10) + b"\nnext\n")
    [damaged], end = read_lines(path, 0)
    assert (len(damaged), end) == (LONGEST_LINE, LONGEST_LINE)
    assert read_lines(path, end) == ([b"x" * 10, b"next"], LONGEST_LINE + 16)

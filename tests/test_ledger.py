"""The ledger: what has no row is counted, whoever asks, and whichever process died."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_support import ROOT, forked, make_record, mounted, open_writer

from ccproxy_flask.journal import writer as writing
from ccproxy_flask.journal.ledger import read_ledgers, spare_directory
from ccproxy_flask.journal.segments import list_segments
from ccproxy_flask.recorder.ingest import Ingest, Limits, NullObserver
from ccproxy_flask.store.base import LogFilter, Page
from ccproxy_flask.store.duckdb import DuckDBStore

AMPLE = Limits(max_bytes=1 << 40, min_free_bytes=0)


class Counting(NullObserver):
    """An observer that adds up what went down with workers."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()

    def dropped(self, reason: str, count: int = 1) -> None:
        """Add it."""
        self.reasons[reason] += count


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    """An empty database."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """An empty directory."""
    directory = tmp_path / "journal"
    directory.mkdir()
    yield directory
    assert not spare_directory(directory).exists(), "nothing is left in the system's memory"


def run(ingest: Ingest) -> None:
    """Store all there is."""
    while ingest.step():
        pass


def kinds(store: DuckDBStore) -> Counter[str | None]:
    """Return how many rows there are by error type."""
    rows = store.entries(LogFilter(), Page(limit=10_000)).rows
    assert len({row["request_id"] for row in rows}) == len(rows)
    return Counter(row["error_type"] for row in rows)


def dropped(store: DuckDBStore, ingest: Ingest) -> Counter[str]:
    """Return what has no row, by reason, as the status tells."""
    found = ingest.dropped()
    for name, count in store.status().counts.items():
        if name.startswith("dropped:"):
            found[name.removeprefix("dropped:")] += count
    return found


def send(writer: writing.JournalWriter, count: int) -> None:
    """Begin and end so many requests."""
    for number in range(count):
        record = make_record(number)
        writer.start(record)
        writer.end(record)


@pytest.mark.parametrize("backlog", [5, 1000], ids=["over the bound", "in memory"])
def test_killed_process_leaves_its_count(store, journal, monkeypatch, backlog):
    """What a worker could not write is counted after kill -9, whether it was dropped or waited."""
    monkeypatch.setattr(writing, "LONGEST_BACKLOG_LINES", backlog)
    watching = Counting()
    ingest = Ingest(store, journal, AMPLE, watching)

    def work() -> None:
        writer = open_writer(journal)
        kept.append(writer)
        send(writer, 10)
        writer.min_free_bytes = 1 << 60
        send(writer, 30)
        writer.start(make_record())

    kept: list[object] = []
    with forked(work):
        run(ingest)
        waiting = min(30, backlog)
        assert dropped(store, ingest) == +Counter(disk_full=30 - waiting)
        [ledger] = read_ledgers(journal)
        assert (ledger.alive, ledger.account.waiting) == (True, waiting)
        assert (ledger.account.trouble, ledger.account.in_trouble) == ("disk_full", True)
    run(ingest)
    run(Ingest(store, journal, AMPLE))
    assert kinds(store) == {None: 10}
    assert dropped(store, ingest) == {"disk_full": 31}
    assert watching.reasons == {"disk_full": waiting + 1}, "the worker itself counted the others"
    assert read_ledgers(journal) == []


def test_ledger_that_is_put_back_counts_once(store, journal, monkeypatch):
    """A copy of a dead worker's ledger changes nothing, also for the next recorder."""
    monkeypatch.setattr(writing, "LONGEST_BACKLOG_LINES", 0)
    writer = open_writer(journal, min_free_bytes=1 << 60)
    send(writer, 3)
    writer.close()
    [path] = journal.glob("*.ledger")
    content = path.read_bytes()
    for _ in range(2):
        run(Ingest(store, journal, AMPLE))
        assert not path.exists()
        path.write_bytes(content)
        ingest = Ingest(store, journal, AMPLE)
        assert dropped(store, ingest) == {"disk_full": 3}
        run(ingest)
        path.write_bytes(content)
    path.unlink()


def test_worker_that_wrote_everything_leaves_no_ledger(store, journal):
    """Without a drop nothing stays behind, neither after a stop nor after a kill."""
    writer = open_writer(journal)
    send(writer, 3)
    writer.close()
    assert read_ledgers(journal) == []
    kept: list[object] = []

    def work() -> None:
        kept.append(open_writer(journal))
        send(kept[0], 3)  # type: ignore[arg-type]  # a writer

    with forked(work):
        assert [one.alive for one in read_ledgers(journal)] == [True]
    run(Ingest(store, journal, AMPLE))
    assert read_ledgers(journal) == []
    assert set(store.marks()) == {segment.name for segment in list_segments(journal)}


def test_end_that_cannot_be_written_is_no_lost_worker(store, journal):
    """A worker that stops with finished records it cannot write leaves rows, as record_lost."""
    writer = open_writer(journal)
    records = [make_record(number) for number in range(4)]
    for record in records:
        writer.start(record)
    writer.end(records[0])
    writer.min_free_bytes = 1 << 60
    for record in records[1:]:
        writer.end(record)
    writer.close()
    ingest = Ingest(store, journal, AMPLE)
    run(ingest)
    assert kinds(store) == {None: 1, "record_lost": 3}
    assert dropped(store, ingest) == {}
    assert store.status().counts == {"record_lost": 3}


def test_killed_worker_whose_requests_had_all_ended(store, journal):
    """Where all that was open had ended, a killed worker's rows say record_lost as well."""

    def work() -> None:
        writer = open_writer(journal)
        records = [make_record(number) for number in range(3)]
        for record in records:
            writer.start(record)
        writer.min_free_bytes = 1 << 60
        for record in records:
            writer.end(record)
        kept.append(writer)

    kept: list[object] = []
    with forked(work):
        pass
    run(Ingest(store, journal, AMPLE))
    assert kinds(store) == {"record_lost": 3}


def test_small_journal_takes_records_again(store, journal):
    """However small the bound and however many wait, the journal stays near it, and clears."""
    bounds = Limits(max_bytes=2 << 20, min_free_bytes=0)
    drops: list[str] = []
    writer = open_writer(journal, drops, max_bytes=bounds.max_bytes)
    in_flight = [make_record(number) for number in range(300)]
    for record in in_flight:
        writer.start(record)
    send(writer, 15_000)
    assert writer.trouble == "journal_full"
    sizes = []
    ingest = Ingest(store, journal, bounds)
    deadline = time.monotonic() + 20
    while writer.backlog_lines and time.monotonic() < deadline:
        writer.maintain()
        sizes.append(sum(segment.size for segment in list_segments(journal)))
        run(ingest)
        writer._measured_at = 0.0  # noqa: SLF001  the half second is not waited for
    for record in in_flight:
        writer.end(record)
    writer.maintain()
    assert (writer.backlog_lines, writer.trouble) == (0, None)
    assert max(sizes) <= bounds.max_bytes * 5 // 4
    run(ingest)
    assert store.status().rows + len(drops) == 15_300
    assert Counter(drops) == dropped(store, ingest)
    writer.close()


def test_read_only_file_system_does_not_stop_the_count(store, tmp_path):
    """Where nothing can be written the ledger is in the system's memory, and outlives a kill."""
    with mounted(tmp_path / "disk", "4m") as disk:
        journal = disk / "journal"
        journal.mkdir(mode=0o700)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        def work() -> None:
            writer = open_writer(journal)
            kept.append(writer)
            send(writer, 7)

        kept: list[object] = []
        ingest = Ingest(store, journal, AMPLE)
        with forked(work):
            [ledger] = read_ledgers(journal)
            assert (ledger.alive, ledger.account.waiting) == (True, 7)
            run(ingest)
            assert dropped(store, ingest) == {}
        assert dropped(store, ingest) == {"unwritable": 7}
        run(ingest)
        assert dropped(store, Ingest(store, journal, AMPLE)) == {"unwritable": 7}
        assert not spare_directory(journal).exists()


GONE = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from recording_support import make_record, open_writer
    from ccproxy_flask.journal import ledger, writer as writing
    writing.LONGEST_BACKLOG_LINES = 0
    writer = open_writer(Path(sys.argv[1]))
    writer.end(make_record())
    # From here on every write to a file of that system fails, as on one gone read-only.
    writer.min_free_bytes = 1 << 60
    writer.end(make_record())
    first = writer._ledger._fd
    copy = os.open(f"/proc/self/fd/{first}", os.O_RDONLY)
    os.dup2(copy, first)
    for _ in range(3):
        writer.end(make_record())
    os.kill(os.getpid(), 9)
""")


def test_ledger_moves_where_it_can_be_written(store, journal):
    """A ledger whose file refuses goes on elsewhere with all that it has, and counts once."""
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", GONE, str(journal)], env=env, check=False)
    [ledger] = read_ledgers(journal)
    assert len(ledger.paths) == 2
    run(Ingest(store, journal, AMPLE))
    assert kinds(store) == {None: 1}
    assert dropped(store, Ingest(store, journal, AMPLE)) == {"disk_full": 4}
    assert read_ledgers(journal) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"dropped":{"a":-1}}', b'{"dropped":{"a":"x"}}'],
    ids=repr,
)
def test_damaged_ledger_stops_nothing(store, journal, content):
    """What is no ledger is not counted, and does not stop the records."""
    (journal / f"{'0' * 32}.ledger").write_bytes(content)
    writer = open_writer(journal)
    send(writer, 2)
    writer.close()
    ingest = Ingest(store, journal, AMPLE)
    run(ingest)
    assert kinds(store) == {None: 2}
    assert dropped(store, ingest) == {}

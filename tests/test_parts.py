"""Rows move to Parquet files, files merge, old ones go: each row is in one place at all times."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from recording_support import make_record, open_writer, recorder_process, recording_settings
from scripted import wait_until
from sums_support import check_sums

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import to_json
from ccproxy_flask.store import schema, upkeep
from ccproxy_flask.store.base import CommittedOffset, Cursor, LogFilter, Page
from ccproxy_flask.store.database import days_folder, set_aside
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import RemoteStore
from ccproxy_flask.store.upkeep import Retention

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def row(days: float, **fields):
    """Return the JSON of a record of so many days before the last midnight (UTC)."""
    record = make_record(**fields)
    record.timestamp = TODAY - timedelta(days=days)
    return to_json(record)


def opened(path: Path, **options) -> DuckDBStore:
    """Return the store of a test's folder."""
    return DuckDBStore(path / "metrics.duckdb", **options)


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    store = opened(tmp_path)
    yield store
    store.close()


def maintain(store: DuckDBStore) -> None:
    """Let the store do all there is to do."""
    while store.maintain():
        pass


def files(store: DuckDBStore) -> list[str]:
    """Return the days of the files there are."""
    return sorted(path.name[:10] for path in days_folder(store.path).glob("*.parquet"))


def sealed(path: Path, *days: float) -> DuckDBStore:
    """Return a store with one row of each of these *days*, in files where the day is over."""
    store = opened(path)
    store.append([row(day) for day in days], [], {})
    maintain(store)
    return store


def test_days_that_are_over_become_files(store):
    """Rows of earlier days are in files, those of today in the database; answers are the same."""
    store.append([row(day, model=str(day)) for day in (2.5, 1.5, 1.25, -0.01)], [], {})
    before = store.entries(LogFilter(), Page()).rows
    maintain(store)
    assert files(store) == [f"{TODAY - timedelta(days=day):%Y-%m-%d}" for day in (3, 2)]
    assert store.entries(LogFilter(), Page()).rows == before
    assert [one["model"] for one in before] == ["-0.01", "1.25", "1.5", "2.5"]
    assert store.status().rows == 4
    modes = {path.stat().st_mode & 0o777 for path in days_folder(store.path).iterdir()}
    assert (modes, days_folder(store.path).stat().st_mode & 0o777) == ({0o400}, 0o700)


def test_other_programs_see_all_rows(tmp_path):
    """Whoever opens the database finds all rows in ``access_logs``; files can be read alone."""
    sealed(tmp_path, 2, 1, -0.01).close()
    with duckdb.connect(str(tmp_path / "metrics.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM access_logs").fetchall() == [(3,)]
    with duckdb.connect() as connection:
        found = connection.read_parquet(f"{tmp_path}/metrics.duckdb.days/*.parquet")
        assert found.count("*").fetchall() == [(2,)]


def test_files_move_with_the_database(tmp_path):
    """A folder that was moved has all its rows, and its view finds them."""
    sealed(tmp_path / "a", 2, 1).close()
    (tmp_path / "a").rename(tmp_path / "b")
    store = opened(tmp_path / "b")
    assert store.totals(LogFilter()).total_requests == 2
    store.close()
    with duckdb.connect(str(tmp_path / "b" / "metrics.duckdb")) as connection:
        assert connection.execute("SELECT count(*) FROM access_logs").fetchall() == [(2,)]


def test_late_rows_join_their_day(store, monkeypatch):
    """Rows that come after their day was moved are a further file, and then one with the rest."""
    monkeypatch.setattr(upkeep, "SETTLED", timedelta(0))
    for day in (1.5, 1.25, 1.75):
        store.append([row(day)], [], {})
        maintain(store)
        assert len(files(store)) == 1
    assert store.query(LogFilter(), 10).count == 3
    [path] = days_folder(store.path).glob("*.parquet")
    with duckdb.connect() as connection:
        times = connection.read_parquet(str(path)).project("timestamp").fetchall()
    assert times == sorted(times)


def test_running_day_is_moved_in_parts(store, monkeypatch):
    """Of a day with many rows the oldest are moved while it goes on; the newest stay."""
    monkeypatch.setattr(upkeep, "RECENT_ROWS", 50)
    monkeypatch.setattr(upkeep, "PART_ROWS", 20)
    now = datetime.now(UTC)
    records = [make_record(number) for number in range(100)]
    for number, record in enumerate(records):
        record.timestamp = now + timedelta(milliseconds=5 * number)
    store.append([to_json(record) for record in records], [], {})
    maintain(store)
    with store.database.questions() as cursor:
        [(recent, oldest)] = cursor.execute(
            "SELECT count(*), min(timestamp) FROM recent_logs"
        ).fetchall()
    assert 20 < recent <= 50
    assert oldest == records[100 - recent].timestamp.replace(tzinfo=None)
    assert [one["request_id"] for one in store.query(LogFilter(), 200).rows] == [
        record.request_id for record in reversed(records)
    ]


def test_pages_go_through_files(store, monkeypatch):
    """Every page by cursor and by offset, in both directions, is as if there were one table."""
    monkeypatch.setattr(upkeep, "PART_ROWS", 7)
    store.append([row(number / 10, model=str(number % 3)) for number in range(60)], [], {})
    expected = store.query(LogFilter(), 100).rows
    maintain(store)
    assert len(files(store)) > 6
    found, cursor = [], None
    while True:
        page = store.query(LogFilter(), 7, cursor)
        found += page.rows
        if page.next_cursor is None:
            break
        cursor = Cursor.parse(page.next_cursor)
    assert found == expected
    for descending in (True, False):
        ordered = expected if descending else expected[::-1]
        for offset in (0, 5, 33, 58, 60):
            page = Page(limit=4, offset=offset, order_desc=descending)
            answer = store.entries(LogFilter(), page)
            assert (answer.rows, answer.total_count) == (ordered[offset : offset + 4], 60)
    only = LogFilter(model="1")
    wanted = [one for one in expected if one["model"] == "1"]
    assert store.entries(only, Page(limit=3, offset=10)).rows == wanted[10:13]
    by_model = store.entries(LogFilter(), Page(limit=25, order_by="model", order_desc=False))
    assert [one["model"] for one in by_model.rows] == ["0"] * 20 + ["1"] * 5
    [one] = store.entries(LogFilter(request_id=expected[40]["request_id"]), Page()).rows
    assert one == expected[40]


def test_ranges_of_time_across_files(store):
    """A range counts what is in it, whether files are in it wholly, in part, or not at all."""
    store.append([row(number / 4) for number in range(40)], [], {})
    asked = [
        LogFilter(start_time=TODAY - timedelta(days=start), end_time=TODAY - timedelta(days=end))
        for start, end in ((9, 2), (3.2, 3.1), (20, 11), (5.25, 5.25), (9.75, 0))
    ]
    before = [(store.totals(one), store.entries(one, Page()).total_count) for one in asked]
    maintain(store)
    assert len(files(store)) == 10
    after = [(store.totals(one), store.entries(one, Page()).total_count) for one in asked]
    assert after == before
    assert [count for _, count in after] == [29, 0, 0, 1, 40]


def test_known_rows_are_not_added_again(store):
    """A journal that was put back adds no row that is in a file or in the database."""
    records = [make_record(number) for number in range(4)]
    for day, record in enumerate(records[:3]):
        record.timestamp = TODAY - timedelta(days=day, seconds=1)
    rows = {record.request_id: to_json(record) for record in records}
    store.append(list(rows.values())[:3], [], {})
    maintain(store)
    assert len(files(store)) == 3
    assert store.append_missing(rows, [], {}, "again") == 1
    assert (store.status().rows, store.status().counts) == (4, {"again": 1})


def test_file_of_an_older_version(tmp_path):
    """A file that lacks a column of today has nothing in it, beside files that have it."""
    store = sealed(tmp_path, 1.5)
    store.close()
    with duckdb.connect(str(tmp_path / "metrics.duckdb")) as connection:
        [(name,)] = connection.execute("SELECT name FROM parts").fetchall()
        path = tmp_path / "metrics.duckdb.days" / name
        connection.execute(
            f"COPY (SELECT * EXCLUDE node FROM '{path}') TO '{path}.new' (FORMAT parquet)"  # noqa: S608  our own path
        )
        Path(f"{path}.new").replace(path)
        connection.execute("UPDATE parts SET columns = list_filter(columns, c -> c != 'node')")
    store = opened(tmp_path)
    store.append([row(2.5, node="b"), row(-0.01, node="c")], [], {})
    maintain(store)
    found = store.entries(LogFilter(), Page(order_by="node", order_desc=False)).rows
    assert [one["node"] for one in found] == ["b", "c", None]
    answer = store.sql("SELECT count(*), count(node) FROM access_logs", 1)
    assert b"[[3,2]]" in answer
    store.close()


# -- what goes -------------------------------------------------------------------------------------


def test_old_files_go_by_age(tmp_path):
    """A file goes as a whole, when its newest row is old enough; a row of the database alone."""
    sealed(tmp_path, 5, 4.5, 3.75, 3.25, 0.5).close()
    today = (datetime.now(UTC) - TODAY) / timedelta(days=1)
    store = opened(tmp_path, retention=Retention(days=3.5 + today))
    store.append([row(7)], [], {})
    maintain(store)
    assert store.status().rows == 3
    assert files(store) == [f"{TODAY - timedelta(days=day):%Y-%m-%d}" for day in (4, 1)]
    store.close()


def test_old_files_go_by_size(tmp_path):
    """The oldest files go until the rest fits; no more than that."""
    store = opened(tmp_path)
    for day in (5.5, 4.5, 3.5, 2.5):  # much larger than what the database takes for itself
        for _ in range(8):
            store.append([row(day, error_message=random.randbytes(900_000).hex())], [], {})
    maintain(store)
    sizes = [path.stat().st_size for path in days_folder(store.path).glob("*.parquet")]
    used, _ = store.database.free_bytes()
    store.close()
    store = opened(tmp_path, retention=Retention(max_bytes=used + sum(sizes) - sizes[0] * 3 // 2))
    maintain(store)
    assert files(store) == [f"{TODAY - timedelta(days=day):%Y-%m-%d}" for day in (4, 3)]
    store.close()


def test_recent_rows_go_by_size(tmp_path, monkeypatch):
    """Where there are no files, the oldest rows of the database go; then its file gets smaller."""
    monkeypatch.setattr(upkeep, "LEAST_WASTE", 1 << 20)
    monkeypatch.setattr(upkeep, "EXPIRED_ROWS", 100_000)
    store = opened(tmp_path)
    with store.database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO recent_logs (request_id, timestamp, path) SELECT uuid()::VARCHAR, "
            "now()::TIMESTAMP + INTERVAL (i) MILLISECOND, uuid()::VARCHAR FROM range(100000) r(i)"
        )
    store.checkpoint()
    before = store.path.stat().st_size
    newest = store.query(LogFilter(), 5).rows
    store.close()
    store = opened(tmp_path, retention=Retention(max_bytes=before // 3))
    wait_until(lambda: not store.maintain() and store.path.stat().st_size < before * 0.6, 30)
    assert 10_000 < store.status().rows < 50_000
    assert store.query(LogFilter(), 5).rows == newest
    store.append([row(-0.01)], [], {})
    store.close()


def test_nothing_goes_without_a_bound(tmp_path):
    """Without settings records stay for ever; within a bound, too."""
    store = sealed(tmp_path, 3000)
    store.close()
    store = opened(tmp_path, retention=Retention(days=3002, max_bytes=1 << 40))
    maintain(store)
    assert store.status().rows == 1
    store.close()


def test_reset_removes_files(tmp_path):
    """A reset deletes rows and files; a reader that is at it sees its rows to the end."""
    store = sealed(tmp_path, 2, 1, -0.01)
    pieces = store.export(LogFilter(), "csv")
    assert next(pieces)
    with store.database.reading():
        assert store.reset() == 3
        assert len(files(store)) == 2
    assert store.status().rows == 0
    pieces.close()
    wait_until(lambda: not store.maintain() and files(store) == [])
    store.append([row(0.5)], [], {})
    assert store.status().rows == 1
    store.close()


def test_recorder_lets_old_records_go(tmp_path):
    """A real recorder with the setting deletes what is older, and goes on recording."""
    settings = recording_settings(tmp_path)
    sealed(tmp_path, 10, 1).close()
    writer = open_writer(settings.journal_directory)
    with recorder_process(tmp_path, OBSERVABILITY__RETENTION_DAYS="5"):
        remote = RemoteStore(settings.recorder_socket)
        wait_until(lambda: _rows(remote) == 1)
        writer.end(make_record())
        wait_until(lambda: _rows(remote) == 2)
    writer.close()


def _rows(store: RemoteStore) -> int:
    try:
        return store.status().rows
    except StoreUnavailable:
        return -1


# -- what goes wrong -------------------------------------------------------------------------------


def test_file_that_is_gone_costs_its_rows_alone(tmp_path):
    """A file that somebody removed is said to be missing; the others are answered from."""
    store = sealed(tmp_path, 2.5, 1.5)
    store.close()
    min(days_folder(store.path).glob("*.parquet")).unlink()
    store = opened(tmp_path)
    assert store.status().rows == 1
    assert store.entries(LogFilter(), Page()).total_count == 1
    store.close()


def test_database_that_was_lost_finds_its_files(tmp_path):
    """Where the database was lost a new one goes on with the files there are, each row once."""
    store = sealed(tmp_path, 2.5, 1.5, 1.25)
    folder = days_folder(store.path)
    [doubled] = folder.glob(f"{TODAY - timedelta(days=3):%Y-%m-%d}*")
    (folder / "2020-01-01-00000000.parquet").write_bytes(doubled.read_bytes())
    store.close()
    store.path.write_bytes(b"garbage" * 1000)
    set_aside(store.path)
    store = opened(tmp_path)
    assert store.status().rows == 3
    assert len(list((folder / "unknown").iterdir())) == 1
    store.close()


def test_unknown_file_is_kept_aside(tmp_path):
    """A file that the database does not know is not counted, and not deleted."""
    store = sealed(tmp_path, 1.5)
    folder = days_folder(store.path)
    store.close()
    (folder / "2020-01-01-00000000.parquet").write_bytes(b"what is it?")
    store = opened(tmp_path)
    assert store.status().rows == 1
    assert (folder / "unknown" / "2020-01-01-00000000.parquet").read_bytes() == b"what is it?"
    store.close()


def test_full_disk_leaves_rows_where_they_are(tmp_path):
    """Without room for a file nothing moves, and why is said."""
    store = opened(tmp_path, keep_free=1 << 60)
    store.append([row(1.5)], [], {})
    with pytest.raises(StoreUnavailable, match="disk are free"):
        store.maintain()
    assert (store.status().rows, files(store)) == (1, [])
    store.close()


KILLED = """
import sys, threading
from datetime import timedelta
sys.path.insert(0, sys.argv[2])
from test_parts import TODAY, make_record, maintain, to_json
from pathlib import Path
from ccproxy_flask.store import sums, upkeep
from ccproxy_flask.store.base import CommittedOffset
from ccproxy_flask.store.duckdb import DuckDBStore
upkeep.PART_ROWS, upkeep.FEW_ROWS, upkeep.LEAST_WASTE = 60, 0, 1
sums.FOLD_ROWS = 25
store = DuckDBStore(Path(sys.argv[1]))
def look_after():
    while True:
        maintain(store)
threading.Thread(target=look_after, daemon=True).start()
mark = store.marks().get("s")
number = mark.position if mark else 0
print(flush=True)
while True:
    records = [make_record(0) for _ in range(10)]
    for record in records:
        record.timestamp = TODAY - timedelta(hours=number % 90, minutes=1)
        record.chunks = number
        number += 1
    store.append([to_json(record) for record in records], [CommittedOffset("s", number)], {})
    print(flush=True)
"""


def test_killed_at_any_moment_each_row_is_there_once(tmp_path):
    """Killed while an old database is moved and rows come: rows, offsets and sums always agree."""
    path = tmp_path / "metrics.duckdb"
    old_database(path, 2000)
    chance = random.Random(11)
    for is_last in (False, False, False, True):
        argv = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 15)):  # appends, beside which rows are moved
                process.stdout.readline()
            while is_last and not list(tmp_path.rglob("*.parquet")):
                assert process.stdout.readline()
            process.kill()
        store = DuckDBStore(path)
        new = store.marks()["s"].position - 7
        with store.database.questions() as cursor:
            [found] = cursor.execute(
                "SELECT count(*), count(DISTINCT chunks), count(DISTINCT request_id) "
                "FROM access_logs"
            ).fetchall()
        moved = files(store)
        assert sum(check_sums(store)) == found[0]
        store.close()
        assert found == (2000 + new, new, 2000 + new)
    assert new > 0
    assert moved


# -- a database of the first version ---------------------------------------------------------------


def old_database(path: Path, rows: int) -> None:
    """Make what version 0.1.0 had: one table, with so many rows of the last four days."""
    script = (Path(schema.__file__).parent / "migrations/0001_first.sql").read_text()
    columns = ", ".join(f"{name} {kind}" for name, kind in schema.COLUMN_SQL.items())
    with duckdb.connect(str(path)) as connection:
        connection.execute(script.replace("/*columns*/", columns))
        connection.execute("CREATE TABLE schema_version (version INTEGER, migrated_at TIMESTAMP)")
        connection.execute("INSERT INTO schema_version VALUES (1, now()::TIMESTAMP)")
        connection.execute("INSERT INTO journal_marks VALUES ('s', 7, false)")
        connection.execute(
            "INSERT INTO access_logs (request_id, timestamp, path, cost_usd) "
            "SELECT uuid()::VARCHAR, ?::TIMESTAMP + INTERVAL (i * 345600000 // ?) MILLISECOND, "
            "uuid()::VARCHAR, 0.5 FROM range(?) r(i)",
            [(TODAY - timedelta(days=4)).replace(tzinfo=None), rows, rows],
        )


def test_database_of_the_first_version_is_moved_while_rows_come(tmp_path, monkeypatch):
    """All its rows are there from the first moment on, each once, and its file gets small."""
    monkeypatch.setattr(upkeep, "PART_ROWS", 12_500)
    monkeypatch.setattr(upkeep, "LEAST_WASTE", 1 << 20)
    path = tmp_path / "metrics.duckdb"
    old_database(path, 100_000)
    before = path.stat().st_size
    store = DuckDBStore(path)
    assert (store.status().rows, store.marks()) == (100_000, {"s": CommittedOffset("s", 7)})
    seen: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            seen.append(store.totals(LogFilter(end_time=TODAY)).total_requests)

    thread = threading.Thread(target=ask)
    thread.start()
    added = 0
    while store.maintain():
        store.append([row(-0.01)], [], {})
        added += 1
    ended.set()
    thread.join()
    wait_until(lambda: not store.maintain() and path.stat().st_size < before * 0.8, 120)
    assert set(seen) == {100_000}
    assert added >= 8
    assert store.status().rows == 100_000 + added
    assert store.totals(LogFilter()).total_cost_usd == pytest.approx(50_000 + added * 0.0012345678)
    assert len(files(store)) > 4
    store.close()

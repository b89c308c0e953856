"""The store: one contract for the database itself and for the way to it through the recorder."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from lake_support import Cluster, cluster, lake_settings
from recording_support import BEGAN, make_record, open_writer, recorder_process, recording_settings
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import COLUMN_TYPES, COLUMNS, RequestRecord, to_json
from ccproxy_flask.store import database, upkeep
from ccproxy_flask.store.base import (
    CommittedOffset,
    Cursor,
    IncludeExclude,
    LogFilter,
    Page,
    RowsRefused,
    Store,
    StoreDamaged,
    StoreStatus,
)
from ccproxy_flask.store.database import set_aside
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.lake import writer
from ccproxy_flask.store.lake.store import LakeStore
from ccproxy_flask.store.remote import RemoteStore

__all__ = ["cluster"]

FULL = make_record(
    3,
    query="beta=true",
    client_ip="127.0.0.1",
    user_agent='claude-cli/2.0 "é\u2603',
    cost_sdk_usd=Decimal("0.0000000001"),
    ttft_ms=1.25,
    chunks=7,
    request_bytes=5_000_000_000,
    error_message="a\tb\\",
    client_disconnected=True,
    session_id="session",
)
ROWS = [
    make_record(0),
    make_record(1, model="gpt-test", provider="openai", service_type="other_service"),
    make_record(2, status_code=429, error_type="rate_limit", cost_usd=None, tokens_input=None),
    FULL,
    make_record(4, streaming=False, status_code=None, duration_ms=None, model=None),
]


def put(store: DuckDBStore, *records: RequestRecord) -> None:
    """Append *records* as the recorder does."""
    store.append([to_json(record) for record in records], [], {})


@pytest.fixture(params=["database", "parts", "recorder", "lake"], scope="module")
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """A store with :data:`ROWS`, for those who only ask."""
    with _filled(request, tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(params=["database", "recorder", "lake"])
def own_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with :data:`ROWS`, for one test alone."""
    with _filled(request, tmp_path) as store:
        yield store


@contextmanager
def _filled(request: pytest.FixtureRequest, home: Path) -> Iterator[Store]:
    """The database itself, a recorder behind its socket, or a lake that has not taken all in."""
    kind = request.param
    if kind == "lake":
        with _lake(request.getfixturevalue("cluster"), home) as lake:
            yield lake
        return
    if kind in ("database", "parts"):
        direct = DuckDBStore(home / "metrics.duckdb")
        put(direct, *ROWS)
        if kind == "parts":
            move_to_parts(direct)
        yield direct
        direct.close()
        return
    settings = recording_settings(home)
    writer = open_writer(settings.journal_directory)
    for record in ROWS:
        writer.start(record)
        writer.end(record)
    with recorder_process(home):
        remote = RemoteStore(settings.recorder_socket)
        wait_until(lambda: _rows(remote) == len(ROWS))
        yield remote
    writer.close()


@contextmanager
def _lake(cluster: Cluster, home: Path) -> Iterator[Store]:
    lake = LakeStore(lake_settings(home, cluster.new_database(), home / "metrics.duckdb"))
    rows = [to_json(record) for record in ROWS]
    lake.append(rows[:2], [], {})
    lake.settle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "COMMIT_SECONDS", 3600)
        lake.append(rows[2:4], [], {})
        lake.settle()
        lake.append(rows[4:], [], {})
        yield lake
        lake.close()


def move_to_parts(store: DuckDBStore) -> None:
    """Let each part have two or three rows, and the database the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "RECENT_ROWS", 1)
        patch.setattr(upkeep, "PART_ROWS", 1)
        while store.maintain():
            pass


def _rows(store: Store) -> int:
    try:
        return store.status().rows
    except StoreUnavailable:
        return -1


def ids(*numbers: int) -> list[str]:
    """Return the ids of those of :data:`ROWS`."""
    return [ROWS[number].request_id for number in numbers]


class TestContract:
    """What every store does."""

    def test_row_has_every_column_as_it_was(self, store: Store) -> None:
        """A row is what was recorded: UTC with microseconds and Z, money as numbers, else null."""
        [row] = store.entries(LogFilter(request_id=FULL.request_id), Page()).rows
        assert list(row) == list(COLUMNS)
        assert row["timestamp"] == "2026-11-21T02:00:03.000003Z"
        assert row["cost_usd"] == 0.0012345678
        assert row["cost_sdk_usd"] == 1e-10
        expected = FULL.as_dict()
        plain = {name for name, kind in COLUMN_TYPES.items() if kind not in (datetime, Decimal)}
        assert {name: row[name] for name in plain} == {name: expected[name] for name in plain}

    def test_newest_come_first(self, store: Store) -> None:
        """Entries are sorted by time, newest first, where nothing else is asked."""
        found = store.entries(LogFilter(), Page())
        assert [row["request_id"] for row in found.rows] == ids(4, 3, 2, 1, 0)
        assert found.total_count == 5

    def test_pages(self, store: Store) -> None:
        """A page is a part of the order, and its total is that of all pages."""
        found = store.entries(LogFilter(), Page(limit=2, offset=1, order_desc=False))
        assert [row["request_id"] for row in found.rows] == ids(1, 2)
        assert found.total_count == 5
        beyond = store.entries(LogFilter(), Page(offset=100))
        assert (beyond.rows, beyond.total_count) == ([], 5)

    @pytest.mark.parametrize("column", COLUMNS)
    @pytest.mark.parametrize("descending", [True, False])
    def test_order_by_any_column(self, store: Store, column: str, descending: bool) -> None:
        """Every column orders, rows without a value come last."""
        found = store.entries(LogFilter(), Page(order_by=column, order_desc=descending))
        values = [row[column] for row in found.rows]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=descending)
        assert values == known + [None] * (len(values) - len(known))

    def test_cursor_walks_through_all_rows_once(self, store: Store) -> None:
        """Page after page by cursor gives every row once, newest first, and then ends."""
        seen: list[str] = []
        cursor = None
        for _ in range(3):
            page = store.query(LogFilter(), 2, cursor)
            seen += [row["request_id"] for row in page.rows]
            assert page.count == len(page.rows)
            cursor = Cursor.parse(page.next_cursor) if page.next_cursor else None
        assert seen == ids(4, 3, 2, 1, 0)
        assert cursor is None

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (LogFilter(), [0, 1, 2, 3, 4]),
            (LogFilter(start_time=ROWS[3].timestamp), [3, 4]),
            (LogFilter(end_time=ROWS[1].timestamp), [0, 1]),
            (LogFilter(start_time=BEGAN + timedelta(days=9)), []),
            (LogFilter(model="gpt-test"), [1]),
            (LogFilter(model="GPT-test' OR 1=1 --"), []),
            (LogFilter(provider="openai"), [1]),
            (LogFilter(service_type=IncludeExclude(include=("proxy_service",))), [0, 2, 3, 4]),
            (
                LogFilter(service_type=IncludeExclude(include=("proxy_service", "other_service"))),
                range(5),
            ),
            (LogFilter(service_type=IncludeExclude(exclude=("proxy_service",))), [1]),
            (LogFilter(service_type=IncludeExclude(exclude=("a", "b"))), range(5)),
            (LogFilter(status_code_min=400), [2]),
            (LogFilter(status_code_max=399), [0, 1, 3]),
            (LogFilter(status_code_min=200, status_code_max=200), [0, 1, 3]),
            (LogFilter(min_duration_ms=14), [2, 3]),
            (LogFilter(max_duration_ms=13.5), [0, 1]),
            (LogFilter(streaming=False), [4]),
            (LogFilter(streaming=True), [0, 1, 2, 3]),
            (LogFilter(session_id="session"), [3]),
            (LogFilter(request_id=ROWS[2].request_id), [2]),
            (LogFilter(error_type="rate_limit"), [2]),
            (LogFilter(q="CLAUDE-cli"), [3]),
            (LogFilter(q="rate_"), [2]),
            (LogFilter(q="%"), []),
            (LogFilter(q="☃"), [3]),
            (LogFilter(q="gpt", streaming=True, provider="openai"), [1]),
        ],
    )
    def test_filters(self, store: Store, where: LogFilter, expected: list[int]) -> None:
        """Every part of a filter counts, in every question; text in it is never SQL."""
        found = store.entries(where, Page(order_desc=False))
        assert [row["request_id"] for row in found.rows] == ids(*expected)
        assert found.total_count == store.query(where, 10).count == len(expected)
        assert store.totals(where).total_requests == len(expected)

    def test_totals(self, store: Store) -> None:
        """Sums over all rows; averages over those that have a value."""
        totals = store.totals(LogFilter())
        assert (totals.total_requests, totals.total_successful_requests) == (5, 3)
        assert totals.total_error_requests == 2
        assert totals.avg_duration_ms == pytest.approx((12.5 + 13.5 + 14.5 + 15.5) / 4)
        assert totals.p50_duration_ms == pytest.approx(14.0)
        assert totals.avg_ttft_ms == 1.25
        assert totals.total_cost_usd == pytest.approx(4 * 0.0012345678)
        assert (totals.total_tokens_input, totals.total_tokens_output) == (40, 25)
        assert totals.total_tokens_all == 65

    def test_totals_of_nothing(self, store: Store) -> None:
        """Without rows, counts are 0 and what is not known is None."""
        totals = store.totals(LogFilter(q="nothing like it"))
        assert (totals.total_requests, totals.total_tokens_all) == (0, 0)
        assert (totals.avg_duration_ms, totals.total_cost_usd, totals.p95_duration_ms) == (
            None,
            None,
            None,
        )

    def test_status(self, store: Store) -> None:
        """The status names the backend, the file, the rows, and when the last one came."""
        status = store.status()
        assert status.backend in ("duckdb", "ducklake")
        assert Path(status.path).name == "metrics.duckdb"
        assert status.rows == 5
        assert status.last_write is not None
        assert abs(datetime.now(UTC) - status.last_write) < timedelta(minutes=1)
        assert status.reason is None

    def test_reset(self, own_store: Store) -> None:
        """All rows go, and how many there were is said."""
        assert own_store.reset() == 5
        assert own_store.status().rows == 0
        assert own_store.reset() == 0
        assert own_store.query(LogFilter(), 10).rows == []

    def test_questions_at_the_same_time(self, store: Store) -> None:
        """Many threads ask at once and each gets its own answer."""
        wrong: list[str] = []

        def ask(number: int) -> None:
            for _ in range(5):
                where = LogFilter(request_id=ROWS[number % 5].request_id)
                rows = store.entries(where, Page()).rows
                if [row["request_id"] for row in rows] != ids(number % 5):
                    wrong.append(str(rows))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


# -- the pure shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        LogFilter(),
        LogFilter(start_time=BEGAN, end_time=BEGAN, model="m", streaming=False, q="é"),
        LogFilter(
            service_type=IncludeExclude(("a",), ("b", "c")),
            min_duration_ms=0.0,
            status_code_max=100,
        ),
    ],
)
def test_filter_comes_through_the_wire(where: LogFilter) -> None:
    """What goes to the recorder is what comes out there."""
    assert LogFilter.from_wire(where.to_wire()) == where


@pytest.mark.parametrize("status", [StoreStatus("duckdb", "p", 1, BEGAN, counts={"a": 1})])
def test_status_comes_through_the_wire(status: StoreStatus) -> None:
    """A status is the same on both sides."""
    assert StoreStatus.from_wire(status.to_wire()) == status


@pytest.mark.parametrize("text", ["", "~", "1~", "x~y", "1~a b", "-1~a", "9" * 19 + "~a", "1~é"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """A text that this API never gave is no cursor."""
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


def test_cursor_comes_through_its_text() -> None:
    """A cursor's text gives the same cursor again; a time no calendar has is refused."""
    cursor = Cursor(FULL.timestamp, FULL.request_id)
    assert Cursor.parse(str(cursor)) == cursor
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse("9" * 18 + "~a")


def test_only_columns_order() -> None:
    """A page cannot be asked for in the order of anything but a column."""
    with pytest.raises(ValueError, match="no column"):
        Page(order_by="1; DROP TABLE access_logs")


# -- the database ----------------------------------------------------------------------------------


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[DuckDBStore]:
    """An empty database."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


def test_append_is_all_or_nothing(direct: DuckDBStore) -> None:
    """With one row that fits no column neither the others, nor marks, nor counts are kept."""
    good = to_json(make_record())
    with pytest.raises(RowsRefused):
        direct.append(
            [good, b'{"request_id":"x","timestamp":"no time"}'],
            [CommittedOffset("s", 5)],
            {"damaged": 1},
        )
    status = direct.status()
    assert (status.rows, status.counts, direct.marks()) == (0, {}, {})
    direct.append(
        [good], [CommittedOffset("s", 7), CommittedOffset("t", 1, closed=True)], {"damaged": 2}
    )
    direct.append([], [CommittedOffset("s", 9)], {"damaged": 1})
    assert direct.status().counts == {"damaged": 3}
    assert direct.marks() == {
        "s": CommittedOffset("s", 9),
        "t": CommittedOffset("t", 1, closed=True),
    }
    direct.forget(["s", "t"])
    assert direct.marks() == {}


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"request_id":"x"}',
        b'{"timestamp":"2026-11-21T02:00:00Z"}',
        b'{"request_id":"x","timestamp":"2026-11-21T02:00:00Z","tokens_input":"many"}',
        b'{"request_id":"x","timestamp":"2026-11-21T02:00:00Z","tokens_input":99999999999999999999}',
        b'{"request_id":"x","timestamp":"2026-11-21T02:00:00Z","cost_usd":"99999999999"}',
        b'{"request_id":"x","timestamp":"2026-11-21T02:00:00Z"',
        b'{"request_id":"\xff","timestamp":"2026-11-21T02:00:00Z"}',
    ],
)
def test_row_that_does_not_fit_is_refused(direct: DuckDBStore, row: bytes) -> None:
    """Whatever is wrong with a row, it is refused as such and the database goes on."""
    with pytest.raises(RowsRefused):
        direct.append([row], [], {})
    put(direct, make_record())
    assert direct.status().rows == 1


def test_missing_rows_are_added_once(direct: DuckDBStore) -> None:
    """append_missing() leaves out requests that have a row."""
    records = [make_record(number) for number in range(3)]
    put(direct, records[0])
    rows = {record.request_id: to_json(record) for record in records}
    assert (
        direct.append_missing(rows, [CommittedOffset("s", 1, closed=True)], {}, "worker_lost") == 2
    )
    assert direct.append_missing(rows, [], {}, "worker_lost") == 0
    assert direct.status().rows == 3
    assert direct.status().counts == {"worker_lost": 2}


def test_rows_are_there_after_opening_again(tmp_path: Path) -> None:
    """What was appended is in the file, with the marks; so is when."""
    path = tmp_path / "a" / "b" / "metrics.duckdb"
    store = DuckDBStore(path)
    store.append([to_json(FULL)], [CommittedOffset("s", 5)], {})
    store.close()
    store = DuckDBStore(path)
    assert (store.status().rows, store.marks()) == (1, {"s": CommittedOffset("s", 5)})
    assert store.status().last_write == FULL.timestamp
    store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_database_of_an_older_version_gets_the_new_columns(tmp_path: Path) -> None:
    """Columns that a record has gained since are added, and old rows have nothing in them."""
    path = tmp_path / "metrics.duckdb"
    store = DuckDBStore(path)
    put(store, make_record(node="a"))
    store.close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE recent_logs DROP COLUMN node")
    store = DuckDBStore(path)
    put(store, make_record(1, node="b"))
    assert [row["node"] for row in store.entries(LogFilter(), Page()).rows] == ["b", None]
    store.close()


def test_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """A schema that this version does not know is not touched, and why is said."""
    path = tmp_path / "metrics.duckdb"
    DuckDBStore(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(StoreUnavailable, match="schema 99") as refusal:
        DuckDBStore(path)
    assert not isinstance(refusal.value, StoreDamaged)


def test_database_that_is_locked(tmp_path: Path) -> None:
    """Where another process has the file open, that is the reason, and the file is not damaged."""
    path = tmp_path / "metrics.duckdb"
    program = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        with pytest.raises(StoreUnavailable, match="held by another process") as refusal:
            DuckDBStore(path)
        holder.stdin.write(b"\n")
    assert not isinstance(refusal.value, StoreDamaged)
    DuckDBStore(path).close()


@pytest.mark.parametrize("damage", ["garbage", "empty", "overwritten", "cut"])
def test_database_that_is_damaged(tmp_path: Path, damage: str) -> None:
    """Whatever happened to the file, it is called damaged; aside, it is as it was."""
    path = tmp_path / "metrics.duckdb"
    store = DuckDBStore(path)
    put(store, *[make_record(number) for number in range(1000)])
    store.close()
    content = path.read_bytes()
    broken = {
        "garbage": b"garbage" * 5000,
        "empty": b"",
        "overwritten": content[:4096] + b"\xff" * 8192 + content[12288:],
        "cut": content[:9000],
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(StoreDamaged):
        DuckDBStore(path)
    kept = set_aside(path)
    assert kept.name.startswith("metrics.duckdb.damaged-")
    assert kept.read_bytes() == broken
    store = DuckDBStore(path)
    assert store.status().rows == 0
    store.close()


def test_setting_aside_overwrites_nothing(tmp_path: Path) -> None:
    """Two damaged files in a second get two names, each with its log of changes."""
    path = tmp_path / "m.duckdb"
    names = set()
    for _ in range(3):
        path.write_bytes(b"x")
        (tmp_path / "m.duckdb.wal").write_bytes(b"y")
        kept = set_aside(path)
        assert kept.with_name(kept.name + ".wal").exists()
        names.add(kept.name)
    assert len(names) == 3


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/proc/self/environ')",
        "COPY access_logs TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.duckdb' AS other",
        "SET enable_external_access = true",
        "SET threads = 64",
        "INSTALL httpfs",
        "LOAD httpfs",
    ],
)
def test_database_reaches_no_file_and_no_network(direct: DuckDBStore, sql: str) -> None:
    """No statement, whoever wrote it, gets at anything outside the database."""
    with pytest.raises(StoreUnavailable), direct.database.questions() as cursor:
        cursor.execute(sql)


def test_query_that_takes_too_long_is_broken_off(
    direct: DuckDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bound of seconds a query ends with that as the reason; others go on."""
    monkeypatch.setattr(database, "QUERY_SECONDS", 0.1)
    with (
        pytest.raises(StoreUnavailable, match="took longer"),
        direct.database.questions() as cursor,
    ):
        cursor.execute("SELECT count(*) FROM range(1000000000) a, range(1000000) b").fetchall()
    assert direct.status().rows == 0


def test_settings_bound_what_queries_take(direct: DuckDBStore) -> None:
    """Memory and threads of the database are bounded."""
    with direct.database.questions() as cursor:
        rows = cursor.execute("SELECT name, value FROM duckdb_settings()").fetchall()
    values = dict(rows)
    assert values["threads"] == str(database.THREADS)
    assert values["memory_limit"] == "244.1 MiB"


def test_appending_while_queries_run(direct: DuckDBStore) -> None:
    """Queries see whole batches while they are appended, and hold no append up."""
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(direct.entries(LogFilter(), Page(limit=1)).total_count)

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(20):
        put(direct, *[make_record(number) for _ in range(10)])
    stop.set()
    thread.join()
    assert all(count % 10 == 0 for count in seen)
    assert direct.status().rows == 200


# -- the way to it ---------------------------------------------------------------------------------


def test_recorder_that_is_away(tmp_path: Path) -> None:
    """Without a recorder every question is answered by StoreUnavailable, with the reason."""
    remote = RemoteStore(tmp_path / "recorder.sock")
    for ask in (
        remote.status,
        remote.reset,
        lambda: remote.totals(LogFilter()),
        lambda: remote.query(LogFilter(), 1),
        lambda: remote.entries(LogFilter(), Page()),
    ):
        with pytest.raises(StoreUnavailable, match="not running"):
            ask()

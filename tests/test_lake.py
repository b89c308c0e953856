"""A lake that several machines share: each row once whatever dies, and one answer for all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import ROOT, free_port
from lake_support import Cluster, cluster, lake_settings
from recording_support import make_record, open_writer, recorder_process
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import RequestRecord, to_json
from ccproxy_flask.store.base import CommittedOffset, LogFilter, Page
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.factory import open_store
from ccproxy_flask.store.lake import engine, extensions, upkeep, writer
from ccproxy_flask.store.lake.store import LakeStore
from ccproxy_flask.store.remote import RemoteStore

__all__ = ["cluster"]


class Lake:
    """A new lake, and the stores of its nodes."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.catalog, self.home = cluster.new_database(), home
        self.data = home / "data"

    def settings(self, node: str):
        """Return the settings of a node."""
        (self.home / node).mkdir(exist_ok=True)
        return lake_settings(self.home / node, self.catalog, self.data, node)

    @contextmanager
    def store(self, node: str) -> Iterator[LakeStore]:
        """The store of a node, for the length of the block."""
        found = LakeStore(self.settings(node))
        try:
            yield found
        finally:
            found.close()

    def environment(self, node: str) -> dict[str, str]:
        """Return the variables for a process of a node."""
        return {
            "OBSERVABILITY__LOG_STORAGE_BACKEND": "ducklake",
            "OBSERVABILITY__LAKE__CATALOG": self.catalog,
            "OBSERVABILITY__LAKE__DATA": str(self.data),
            "OBSERVABILITY__NODE": node,
        }

    def files(self) -> int:
        """Return how many files of rows there are."""
        return len(list(self.data.rglob("access_logs/**/*.parquet")))


@pytest.fixture
def lake(cluster: Cluster, tmp_path: Path) -> Lake:
    """A new lake."""
    return Lake(cluster, tmp_path)


def rows_of(node: str, count: int, **fields) -> list[RequestRecord]:
    """Return new records of a node."""
    return [make_record(number, node=node, **fields) for number in range(count)]


def put(store: LakeStore, *records: RequestRecord, position: int = 0) -> None:
    """Append *records* as the recorder does."""
    marks = [CommittedOffset("segment", position)] if position else []
    store.append([to_json(record) for record in records], marks, {})


def ids(store: LakeStore | RemoteStore, where: LogFilter | None = None) -> list[str]:
    """Return the ids of all rows, sorted."""
    found = store.entries(where or LogFilter(), Page(limit=10_000)).rows
    return sorted(row["request_id"] for row in found)


def test_every_node_answers_for_all(lake: Lake):
    """Rows of one machine are found on the other, in every question; `node` tells them apart."""
    ours, theirs = rows_of("one", 3), rows_of("two", 2)
    with lake.store("one") as one, lake.store("two") as two:
        put(one, *ours)
        put(two, *theirs)
        one.settle()
        two.settle()

        expected = sorted(each.request_id for each in ours + theirs)
        assert ids(one) == ids(two) == expected
        assert one.totals(LogFilter(node="two")).total_requests == 2
        assert two.query(LogFilter(node="one"), 10).count == 3
        assert b'"rows":[["one",3],["two",2]]' in one.sql(
            "SELECT node, count(*) FROM access_logs GROUP BY node ORDER BY node", 10
        )
        assert b"".join(two.export(LogFilter(), "jsonl")).count(b"\n") == 5


def test_rows_of_this_machine_are_there_at_once(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """What was taken is in every answer of its own machine before the lake has it, and once."""
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 3600)
    with lake.store("one") as one:
        put(one, *(first := rows_of("one", 3)))
        one.settle()
        put(one, *(second := rows_of("one", 2)))

        assert ids(one) == sorted(each.request_id for each in first + second)
        assert one.totals(LogFilter()).total_requests == 5
        assert b'"rows":[[5]]' in one.sql("SELECT count(*) FROM access_logs", 10)
        assert one.status().rows == 5
        assert one.status().backlog_bytes > 0


def test_questions_while_rows_go_into_the_lake(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """Whoever asks while a commit takes place sees each row once."""
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.01)
    with lake.store("one") as one:
        taken = 0
        for _ in range(25):
            put(one, *rows_of("one", 4))
            taken += 4
            found = ids(one)
            assert len(found) == len(set(found)) == taken


def test_state_comes_with_the_rows(lake: Lake):
    """Marks and counts are those of the last commit, also after snapshots have expired."""
    with lake.store("one") as one:
        put(one, *rows_of("one", 3), position=30)
        one.append([], [], {"damaged_lines": 2})
    with lake.store("one") as one:
        assert one.marks() == {"segment": CommittedOffset("segment", 30)}
        assert one.status().counts == {"damaged_lines": 2}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(upkeep, "SNAPSHOT_SECONDS", 0)
            one.maintain()
    with lake.store("one") as one, lake.store("two") as two:
        assert one.marks() == {"segment": CommittedOffset("segment", 30)}
        assert two.marks() == {}


def test_missing_rows_are_added_once(lake: Lake):
    """Rows that are in the lake, or on their way into it, are not added again."""
    records = rows_of("one", 4)
    with lake.store("one") as one:
        put(one, records[0])
        one.settle()
        put(one, records[1])
        lines = {each.request_id: to_json(each) for each in records}
        assert one.append_missing(lines, [], {}, "worker_lost") == 2
        assert one.append_missing(lines, [], {}, "worker_lost") == 0
        one.settle()
        assert ids(one) == sorted(lines)
        assert one.status().counts == {"worker_lost": 2}


def test_content_that_was_dropped(lake: Lake):
    """Only rows of this machine are looked at, and one says so whose content is not kept."""
    ours, theirs = rows_of("one", 2, content="kept"), rows_of("two", 1, content="kept")
    with lake.store("one") as one, lake.store("two") as two:
        put(one, *ours)
        put(two, *theirs)
        two.settle()
        assert sorted(one.content_kept_since(1e9, 10)) == sorted(each.request_id for each in ours)
        assert one.content_dropped([ours[0].request_id]) == 1
        kept = one.entries(LogFilter(content="kept"), Page())
        assert kept.total_count == 2
        assert b'"rows":[[3]]' in two.sql("SELECT count(*) FROM access_logs", 10)


def test_conversations_that_are_known_late(lake: Lake):
    """Rows get the conversation that what was said tells, and the new name of one."""
    first, second = rows_of("one", 2, content="kept")
    with lake.store("one") as one:
        put(one, first, second)
        assert one.name_conversations({first.request_id: "a", second.request_id: "b"}, {}) == 2
        assert one.name_conversations({first.request_id: "x"}, {"b": "a"}) == 1
        found = one.entries(LogFilter(conversation_id="a"), Page())
        assert found.total_count == 2


def test_two_machines_with_one_name(lake: Lake):
    """A name that another machine has is refused with a line that says what to set."""
    with lake.store("one"):
        settings = lake.settings("two")
        observability = settings.observability.model_copy(update={"node": "one"})
        with pytest.raises(StoreUnavailable, match="set OBSERVABILITY__NODE"):
            LakeStore(settings.model_copy(update={"observability": observability}))


def test_small_files_become_few(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """However many commits there are, files stay few, and no row is lost or doubled."""
    monkeypatch.setattr(upkeep, "SNAPSHOT_SECONDS", 0)
    monkeypatch.setattr(upkeep, "FILE_SECONDS", 0)
    with lake.store("one") as one, lake.store("two") as two:
        for _ in range(15):
            put(one, *rows_of("one", 2))
            one.settle()
        assert lake.files() == 15
        while one.maintain() or two.maintain():
            pass
        one._upkeep._tidy_at = 0.0  # noqa: SLF001  a minute later
        one.maintain()
        assert lake.files() < 5
        assert len(ids(two)) == 30


def test_old_days_go(lake: Lake):
    """Days that are over for longer than rows are kept go as whole files, for all machines."""
    long_ago = datetime.now(UTC) - timedelta(days=40)
    old = [make_record(node="one") for _ in range(3)]
    for each in old:
        each.timestamp = long_ago
    new = make_record(node="one")
    new.timestamp = datetime.now(UTC)
    settings = lake.settings("one")
    kept = settings.observability.model_copy(update={"retention_days": 30})
    store = LakeStore(settings.model_copy(update={"observability": kept}))
    try:
        put(store, *old, new)
        store.settle()
        assert store.maintain()
        assert ids(store) == [new.request_id]
    finally:
        store.close()


def test_catalogue_that_comes_back(cluster: Cluster, lake: Lake):
    """While PostgreSQL is away, the journal keeps rows; afterwards each is there once."""
    home = lake.settings("one").journal_directory.parent
    settings = lake.settings("one")
    journal = open_writer(settings.journal_directory)
    remote = RemoteStore(settings.recorder_socket)
    with recorder_process(home, **lake.environment("one")):
        first = _written(journal, 3)
        wait_until(lambda: _ids_or_none(remote) == first, 20)
        cluster.stop()
        both = sorted(first + _written(journal, 3))
        wait_until(lambda: _ids_or_none(remote) is None, 20)
        cluster.start()
        wait_until(lambda: _ids_or_none(remote) == both, 40)
    journal.close()


def test_recorder_that_is_killed(lake: Lake):
    """However often a recorder is killed while it stores, each row is there once in the end."""
    settings = lake.settings("one")
    home = settings.journal_directory.parent
    journal = open_writer(settings.journal_directory)
    written: list[str] = []
    for _ in range(3):
        with recorder_process(home, **lake.environment("one")) as recorder:
            remote = RemoteStore(settings.recorder_socket)
            wait_until(lambda: _ids_or_none(remote) is not None, 20)  # noqa: B023  called at once
            written = sorted(written + _written(journal, 50))
            wait_until(lambda: len(_ids_or_none(remote) or []) > 0, 20)  # noqa: B023  called at once
            os.kill(recorder.process.pid, signal.SIGKILL)
            recorder.process.wait(10)
    journal.close()
    with recorder_process(home, **lake.environment("one")):
        remote = RemoteStore(settings.recorder_socket)
        wait_until(lambda: _ids_or_none(remote) == written, 20)


def _written(journal, count: int) -> list[str]:
    records = rows_of("one", count)
    for record in records:
        journal.start(record)
        journal.end(record)
    return sorted(record.request_id for record in records)


def _ids_or_none(remote: RemoteStore) -> list[str] | None:
    try:
        return ids(remote)
    except StoreUnavailable:
        return None


def test_catalogue_that_hangs(cluster: Cluster, lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """While a catalogue does not answer, questions are refused in time, and rows wait."""

    monkeypatch.setattr(engine, "QUERY_SECONDS", 0.5)
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.5)
    record = make_record(node="one")
    with lake.store("one") as one:
        ids(one)
        with cluster.halted():
            put(one, record)
            with pytest.raises(StoreUnavailable):
                one._engine.ask(lambda cursor: cursor.execute("FROM lake.access_logs"), 0.5)  # noqa: SLF001  with a bound
        one.settle()
        assert ids(one) == [record.request_id]


@pytest.mark.parametrize(
    ("catalog", "told"),
    [
        ("host=127.0.0.1 port=1 dbname=x user=u password=Canary", "catalogue"),
        ("host=/nowhere dbname=x user=u password=Canary", "catalogue"),
    ],
)
def test_catalogue_that_is_not_there(tmp_path: Path, catalog: str, told: str):
    """Who cannot open the lake is told why, without a password."""
    with pytest.raises(StoreUnavailable, match=told) as refused:
        open_store(lake_settings(tmp_path, catalog, tmp_path / "data"))
    assert "Canary" not in str(refused.value)


def test_extension_of_another_version():
    """Where DuckDB and its extensions are of different versions, one line says so."""
    with pytest.raises(StoreUnavailable, match=r"DuckDB is 9\.9\.9, its extension .* 1\.5\.5"):
        extensions.statement("ducklake", "9.9.9")
    with pytest.raises(StoreUnavailable, match="package duckdb-extension-nothing"):
        extensions.statement("nothing")


def test_commands_move_records_into_a_lake_and_back(lake: Lake):
    """A file's records are in the lake once, however often it is imported, and come back whole."""
    home = lake.home / "one"
    home.mkdir()
    records = [*rows_of("old", 5), make_record(9, error_message='é "x"\n')]
    local = DuckDBStore(home / "metrics.duckdb")
    local.append([to_json(each) for each in records], [], {})
    expected = local.query(LogFilter(), 10).text
    local.close()

    assert "0 records" in command(lake, "init")
    assert "6 of them added" in command(lake, "import")
    assert "0 of them added" in command(lake, "import")
    assert "6 of them added" in command(lake, "export", "back.duckdb")
    back = DuckDBStore(home / "back.duckdb")
    assert back.query(LogFilter(), 10).text == expected
    back.close()
    told = command(lake, "doctor")
    assert "6 records in" in told
    assert "WRONG" not in told


def command(lake: Lake, *argv: str) -> str:
    """Return what a command says on the machine that is called one; it has to work."""
    home = lake.home / "one"
    known = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "OBSERVABILITY__DUCKDB_PATH": str(home / "metrics.duckdb"),
        "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ccproxy_flask.cli", "lake", *argv],
        cwd=home,
        env=known | lake.environment("one"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """The address of an object store with an empty bucket."""
    port = free_port()
    with (tmp_path / "moto.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
        )
    address = f"http://127.0.0.1:{port}"

    def is_made() -> bool:
        assert process.poll() is None, (tmp_path / "moto.log").read_text()
        made = urllib.request.Request(f"{address}/bucket", method="PUT")  # noqa: S310  ours
        try:
            with urllib.request.urlopen(made, timeout=5) as answer:  # noqa: S310  ours
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_until(is_made, 30)
        yield address
    finally:
        process.kill()
        process.wait()


def test_lake_on_an_object_store(cluster: Cluster, tmp_path: Path, bucket: str):
    """Rows go to a bucket, small files become one there, and every question is answered from it."""
    keys = {"s3_access_key_id": "AKIA", "s3_secret_access_key": "Canary"}
    place = "s3://bucket/prefix"
    store = LakeStore(
        lake_settings(tmp_path, cluster.new_database(), place, s3_endpoint=bucket, **keys)
    )
    records = rows_of("one", upkeep.TIERS[0][1] + 1)
    try:
        for record in records:
            put(store, record)
            store.settle()
        assert store.maintain()
        assert ids(store) == sorted(each.request_id for each in records)
        assert b'"rows":[[13]]' in store.sql("SELECT count(*) FROM access_logs", 10)
        assert b"".join(store.export(LogFilter(), "csv")).count(b"\n") == len(records) + 1
    finally:
        store.close()


def test_rows_that_are_deleted_while_others_come(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """Whoever deletes is in the way of who commits: both try again, and no row is lost."""
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.01)
    deleted: list[int] = []
    over = threading.Event()
    with lake.store("one") as one, lake.store("two") as two:

        def delete() -> None:
            while not over.is_set():
                with contextlib.suppress(StoreUnavailable):
                    deleted.append(two.reset())

        thread = threading.Thread(target=delete)
        thread.start()
        for _ in range(10):
            put(one, *rows_of("one", 5))
            one.settle()
        over.set()
        thread.join()
        assert sum(deleted) + len(ids(one)) == 50

"""The recorder as a process: what it survives, and what it does for those who wait."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from recording_support import (
    ROOT,
    RecorderProcess,
    make_record,
    open_writer,
    recorder_process,
    recording_settings,
    start_in_process,
)
from scripted import wait_until

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.journal import JournalWriter
from ccproxy_flask.journal.failure import recorder_failure
from ccproxy_flask.journal.ledger import spare_directory
from ccproxy_flask.journal.segments import list_segments, private_directory
from ccproxy_flask.recorder import supervisor as supervising
from ccproxy_flask.recorder.ingest import NullObserver
from ccproxy_flask.recorder.supervisor import Supervisor
from ccproxy_flask.settings import Settings
from ccproxy_flask.store.base import LogFilter, Page
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.remote import RemoteStore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of the recorder of *tmp_path*."""
    return recording_settings(tmp_path)


@pytest.fixture
def writer(settings: Settings) -> Iterator[JournalWriter]:
    """A writer into its journal."""
    writer = open_writer(settings.journal_directory)
    yield writer
    writer.close()


@pytest.fixture
def remote(settings: Settings) -> RemoteStore:
    """Its store, as a worker sees it."""
    return RemoteStore(settings.recorder_socket)


def row_count(remote: RemoteStore) -> int:
    """Return how many rows there are, -1 where nobody says."""
    try:
        return remote.status().rows
    except StoreUnavailable:
        return -1


def reason_of(ask: Callable[[], object]) -> str:
    """Return why *ask* is not answered; nothing where it is."""
    try:
        ask()
    except StoreUnavailable as error:
        return str(error)
    return ""


def stored_ids(path: Path) -> list[str]:
    """Return the requests of all rows of the database, in their order."""
    store = DuckDBStore(path)
    rows = store.entries(LogFilter(), Page(limit=100_000, order_desc=False)).rows
    store.close()
    return [row["request_id"] for row in rows]


def test_recorder_leaves_the_machine_to_the_workers(tmp_path, remote):
    """The process has the rank of a batch, so that no worker waits for it."""
    with recorder_process(tmp_path) as recorder:
        wait_until(lambda: row_count(remote) == 0)
        assert os.sched_getscheduler(recorder.process.pid) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, recorder.process.pid) >= 5


def test_row_is_there_within_a_second(tmp_path, settings, writer, remote):
    """From the end of a request to its row it takes less than a second."""
    with recorder_process(tmp_path):
        wait_until(lambda: row_count(remote) == 0)
        writer.end(make_record())
        wait_until(lambda: row_count(remote) == 1, seconds=1)
        status = remote.status()
        assert (status.backlog_bytes, status.reason) == (0, None)
        assert status.version


def test_files_are_private(tmp_path, settings, writer, remote):
    """The socket, the lock, and the database with its log are for this user alone."""
    with recorder_process(tmp_path):
        writer.end(make_record())
        wait_until(lambda: row_count(remote) == 1)
        assert stat.S_ISSOCK(settings.recorder_socket.stat().st_mode)
        wal = settings.duckdb_path.with_name(settings.duckdb_path.name + ".wal")
        lock = settings.journal_directory / "recorder.lock"
        for path in (settings.recorder_socket, lock, settings.duckdb_path, wal):
            assert path.stat().st_mode & 0o077 == 0, path


def test_stops_at_a_signal_and_stores_what_is_there(tmp_path, settings, writer):
    """SIGTERM: everything that has ended is in the database afterwards, and the status is 0."""
    recorder = RecorderProcess(tmp_path)
    wait_until(settings.recorder_socket.exists)
    records = [make_record(number) for number in range(500)]
    for record in records:
        writer.end(record)
    assert recorder.stop() == 0
    assert stored_ids(settings.duckdb_path) == [record.request_id for record in records]


@pytest.mark.slow
def test_killed_at_random_moments_it_stores_everything_once(tmp_path, settings, writer, remote):
    """kill -9 again and again, while records keep coming: no row is missing, none is double."""
    random.seed(20261121)
    sent = []
    for _ in range(6):
        recorder = RecorderProcess(tmp_path)
        until = time.monotonic() + random.uniform(0.3, 1.2)
        while time.monotonic() < until:
            record = make_record(len(sent))
            writer.start(record)
            writer.end(record)
            sent.append(record.request_id)
            time.sleep(0.0005)
        recorder.kill()
    with recorder_process(tmp_path):
        wait_until(lambda: row_count(remote) == len(sent))
    assert stored_ids(settings.duckdb_path) == sent


WRITE_FOREVER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from recording_support import make_record, open_writer
    writer = open_writer(Path(sys.argv[1]), segment_bytes=32768)
    number = 0
    while True:
        record = make_record(number)
        number += 1
        writer.start(record)
        sys.stdout.write(f"{record.request_id}\\n")
        sys.stdout.flush()
        if number % 5:
            writer.end(record)
            sys.stdout.write("ended\\n")
            sys.stdout.flush()
""")


@pytest.mark.slow
def test_killed_workers_leave_one_row_for_each_request(tmp_path, settings, remote):
    """kill -9 of several processes in the middle of their writing: every request has one row."""
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"]}
    said: list[str] = []
    with recorder_process(tmp_path):
        for number in range(4):
            argv = [sys.executable, "-c", WRITE_FOREVER, str(settings.journal_directory)]
            with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                said += [process.stdout.readline() for _ in range(200 + 61 * number)]
                process.kill()
                said += process.stdout.readlines()
        started = [line.strip() for line in said if len(line) == 37]
        # What was written before the kill but not said any more makes at most one more each.
        wait_until(lambda: row_count(remote) >= len(started))
    found = stored_ids(settings.duckdb_path)
    assert len(found) == len(set(found))
    assert set(started) <= set(found)
    assert len(found) - len(started) <= 4


def test_second_recorder_stands_by_and_takes_over(tmp_path, settings, writer, remote):
    """One recorder at a time has a journal; when it is killed the next goes on at once."""
    first = RecorderProcess(tmp_path)
    wait_until(lambda: row_count(remote) == 0)
    with recorder_process(tmp_path) as second:
        wait_until(lambda: "recorder_stands_by" in second.log.read_text())
        writer.end(make_record(1))
        wait_until(lambda: row_count(remote) == 1)
        first.kill()
        writer.end(make_record(2))
        wait_until(lambda: row_count(remote) == 2, seconds=3)


def test_stand_by_stops_at_a_signal(tmp_path, settings, remote):
    """A recorder that waits for its turn ends as quickly as one that has it."""
    with recorder_process(tmp_path):
        wait_until(lambda: row_count(remote) == 0)
        second = RecorderProcess(tmp_path)
        wait_until(lambda: "recorder_stands_by" in second.log.read_text())
        assert second.stop() == 0
        assert row_count(remote) == 0


def test_dies_with_its_parent(tmp_path, settings, remote):
    """Within a second of the death of --parent it stores what is there and ends."""
    program = textwrap.dedent("""
        import os, subprocess, sys
        argv = [sys.executable, "-m", "ccproxy_flask.recorder", "--parent", str(os.getpid())]
        print(subprocess.Popen(argv).pid, flush=True)
        sys.stdin.read()
    """)
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "true",
        "OBSERVABILITY__DUCKDB_PATH": str(settings.duckdb_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=env,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: row_count(remote) == 0)
        parent.kill()
    wait_until(lambda: not is_running(pid))


def test_recorder_that_hangs_does_not_hang_the_status(tmp_path, settings, remote):
    """A recorder that is stopped, not dead, is said to be away within seconds."""
    with recorder_process(tmp_path) as recorder:
        wait_until(lambda: row_count(remote) == 0)
        recorder.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert reason_of(remote.status) == "the recorder does not answer"
        assert time.monotonic() - began < 20
        recorder.process.send_signal(signal.SIGCONT)
        wait_until(lambda: row_count(remote) == 0)


def test_database_that_cannot_be_made_leaks_nothing(tmp_path):
    """A path that can be no database is refused with the reason, and nothing stays open."""
    (tmp_path / "file").write_text("")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path, tmp_path / "file" / "metrics.duckdb"):
        for _ in range(3):
            with pytest.raises((StoreUnavailable, OSError)):
                DuckDBStore(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def is_running(pid: int) -> bool:
    """Tell whether the process *pid* is more than a name in the list."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_locked_database_is_waited_for(tmp_path, settings, writer, remote):
    """While another process has the database, that is the answer; then everything is stored."""
    settings.duckdb_path.parent.mkdir(exist_ok=True)
    holder = duckdb.connect(str(settings.duckdb_path))
    with recorder_process(tmp_path) as recorder:
        for number in range(10):
            writer.end(make_record(number))
        wait_until(lambda: "held by another process" in reason_of(remote.status))
        assert "held by another process" in reason_of(lambda: remote.query(LogFilter(), 1))
        assert "held by another process" in reason_of(remote.reset)
        holder.close()
        wait_until(lambda: row_count(remote) == 10, seconds=5)
        assert recorder.log.read_text().count("store_unavailable") == 1


def test_damaged_database_is_kept_aside_and_replayed(tmp_path, settings, writer, remote):
    """A file that is no database is moved away with its content, and the journal stored anew."""
    settings.duckdb_path.write_bytes(b"garbage" * 1000)
    writer.end(make_record())
    with recorder_process(tmp_path) as recorder:
        wait_until(lambda: row_count(remote) == 1)
        assert "database_damaged" in recorder.log.read_text()
    [kept] = tmp_path.glob("metrics.duckdb.damaged-*")
    assert kept.read_bytes() == b"garbage" * 1000


def test_damaged_log_of_changes_is_kept_aside(tmp_path, settings, writer, remote):
    """Without its damaged log the database opens, and what that had comes from the journal."""
    with recorder_process(tmp_path) as recorder:
        writer.end(make_record(1))
        wait_until(lambda: row_count(remote) == 1)
        recorder.stop()
    log = settings.duckdb_path.with_name(settings.duckdb_path.name + ".wal")
    recorder = RecorderProcess(tmp_path)
    for number in range(2, 12):
        writer.end(make_record(number))
        wait_until(lambda rows=number: row_count(remote) >= rows)
    recorder.kill()
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)
    with recorder_process(tmp_path) as recorder:
        writer.end(make_record(12))
        wait_until(lambda: row_count(remote) == 12)
        assert "database_log_damaged" in recorder.log.read_text()
    [kept] = tmp_path.glob("metrics.duckdb.damaged-*.wal")
    assert kept.read_bytes() == content
    assert len(set(stored_ids(settings.duckdb_path))) == 12


@pytest.mark.parametrize("content", [None, b"garbage" * 1000], ids=["removed", "replaced"])
def test_log_of_changes_that_is_replaced_while_it_is_used(
    tmp_path, settings, writer, remote, content
):
    """What stood in a log that somebody took away is in the database, also after a kill."""
    log = settings.duckdb_path.with_name(settings.duckdb_path.name + ".wal")
    recorder = RecorderProcess(tmp_path)
    writer.end(make_record(1))
    wait_until(lambda: row_count(remote) == 1)
    if content is not None:
        log.with_name("other").write_bytes(content)
        log.with_name("other").rename(log)
    else:
        log.unlink()
    wait_until(lambda: "database_log_removed" in recorder.log.read_text())
    writer.end(make_record(2))
    wait_until(lambda: row_count(remote) == 2)
    recorder.kill()
    shutil.rmtree(settings.journal_directory)
    assert len(stored_ids(settings.duckdb_path)) == 2


def test_database_that_is_removed_is_made_again(tmp_path, settings, writer, remote):
    """Rows do not go into a file that nobody will find."""
    with recorder_process(tmp_path):
        writer.end(make_record(1))
        wait_until(lambda: row_count(remote) == 1)
        settings.duckdb_path.unlink()
        writer.end(make_record(2))
        wait_until(settings.duckdb_path.exists)
        wait_until(lambda: row_count(remote) == 2)


def test_journal_that_is_removed_is_made_again(tmp_path, settings, writer, remote):
    """With its lock and its socket gone the recorder begins again, and answers again."""
    with recorder_process(tmp_path):
        writer.end(make_record(1))
        wait_until(lambda: row_count(remote) == 1)
        shutil.rmtree(settings.journal_directory)
        writer.maintain()
        writer.end(make_record(2))
        wait_until(lambda: row_count(remote) == 2)


def test_full_disk_of_the_database_loses_nothing(tmp_path):
    """Records wait in the journal while the database has no room, and are stored once, later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights")
    try:
        env = {
            "OBSERVABILITY__DUCKDB_PATH": str(disk / "metrics.duckdb"),
            "JOURNAL__DIRECTORY": str(tmp_path / "journal"),
        }
        ballast = disk / "ballast"
        writer = open_writer(tmp_path / "journal")
        remote = RemoteStore(tmp_path / "journal" / "recorder.sock")
        with recorder_process(tmp_path, **env) as recorder:
            wait_until(lambda: row_count(remote) == 0)
            room = shutil.disk_usage(disk).free
            ballast.write_bytes(b"x" * (room - 20_000))
            for number in range(2000):
                writer.end(make_record(number))
            wait_until(lambda: "store_unavailable" in recorder.log.read_text())
            ballast.unlink()
            wait_until(lambda: row_count(remote) == 2000)
        assert len(set(stored_ids(disk / "metrics.duckdb"))) == 2000
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_reset_takes_what_has_ended_and_leaves_what_is_in_flight(
    tmp_path, settings, writer, remote
):
    """After reset() nothing of before comes back; requests in flight get their rows."""
    with recorder_process(tmp_path):
        wait_until(lambda: row_count(remote) == 0)
        waiting = make_record(0)
        writer.start(waiting)
        for number in range(50):
            writer.end(make_record(number))
        assert remote.reset() == 50
        writer.end(waiting)
        wait_until(lambda: row_count(remote) == 1)
        [row] = remote.query(LogFilter(), 10).rows
        assert row["request_id"] == waiting.request_id


def test_refuses_to_run_with_nothing_to_record(tmp_path):
    """With collection off it says so in one line, and ends with 2."""
    recorder = RecorderProcess(tmp_path, OBSERVABILITY__LOGS_COLLECTION_ENABLED="false")
    assert recorder.process.wait(10) == 2
    [line] = recorder.log.read_text().splitlines()
    assert "LOGS_COLLECTION_ENABLED is off" in line


def test_long_path_of_the_journal(tmp_path):
    """A directory whose path is too long for a socket's name has its socket elsewhere, private."""
    home = tmp_path / ("long" * 25)
    home.mkdir()
    settings = recording_settings(home)
    assert settings.recorder_socket.parent != settings.journal_directory
    with recorder_process(home):
        wait_until(lambda: row_count(RemoteStore(settings.recorder_socket)) == 0)
        assert settings.recorder_socket.parent.stat().st_mode & 0o077 == 0
    shutil.rmtree(settings.recorder_socket.parent)


def test_private_directory_of_somebody_else_is_refused(tmp_path):
    """A directory that another user put in our way is not used."""
    if os.getuid() != 0:
        pytest.skip("giving a directory away needs more rights")
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 12345, 12345)
    with pytest.raises(PermissionError):
        private_directory(place)


# -- in this process -------------------------------------------------------------------------------


def test_in_process(settings, writer):
    """In threads of another process it answers the same way; closing stores the rest."""
    recorder = start_in_process(settings)
    writer.end(make_record(1))
    wait_until(lambda: recorder.store.status().rows == 1)
    writer.end(make_record(2))
    recorder.close()
    assert len(stored_ids(settings.duckdb_path)) == 2


def test_in_process_leaves_nothing_open(settings, writer):
    """Started and closed again and again it keeps no descriptor and no thread."""
    writer.end(make_record())
    start_in_process(settings).close()
    before = sorted(fd.name for fd in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        start_in_process(settings).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


# -- the supervisor --------------------------------------------------------------------------------


@pytest.fixture
def supervised(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Supervisor]:
    """A supervisor with a recorder of *tmp_path*."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OBSERVABILITY__LOGS_COLLECTION_ENABLED", "true")
    monkeypatch.setenv("OBSERVABILITY__DUCKDB_PATH", str(settings.duckdb_path))
    supervisor = Supervisor([sys.executable, "-m", "ccproxy_flask.recorder"])
    supervisor.start()
    yield supervisor
    supervisor.stop()


def test_supervisor_brings_the_recorder_back(supervised, writer, remote):
    """After kill -9 the next one runs within a second, and stores what came meanwhile."""
    wait_until(lambda: row_count(remote) == 0)
    for number in range(2):
        killed = supervised.pid
        os.kill(killed, signal.SIGKILL)
        writer.end(make_record(number))
        wait_until(lambda gone=killed: supervised.pid not in (None, gone), seconds=1)
        wait_until(lambda rows=number + 1: row_count(remote) == rows)


def test_supervisor_whose_child_was_collected_by_somebody_else(supervised, remote):
    """gunicorn's arbiter waits for any child; the recorder comes back all the same."""
    wait_until(lambda: row_count(remote) == 0)
    killed = supervised.pid
    os.kill(killed, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # the supervisor may be first
        os.waitpid(killed, 0)  # not -1: other tests have children too
    wait_until(lambda: supervised.pid not in (None, killed), seconds=1)
    wait_until(lambda: row_count(remote) == 0)


def test_supervisor_stops_its_recorder(supervised, writer, settings, remote):
    """stop() lets it store the rest, waits, and starts no other."""
    wait_until(lambda: row_count(remote) == 0)
    pid = supervised.pid
    writer.end(make_record())
    supervised.stop()
    assert not is_running(pid)
    assert supervised.pid is None
    assert len(stored_ids(settings.duckdb_path)) == 1
    assert list_segments(settings.journal_directory)


def test_supervisor_gives_a_broken_program_pauses(tmp_path):
    """What ends at once is started again, but not hundreds of times a second."""
    log = tmp_path / "starts"
    supervisor = Supervisor([sys.executable, "-c", f"open({str(log)!r}, 'a').write('x')"])
    supervisor.start()
    wait_until(lambda: log.exists() and len(log.read_text()) >= 3)
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 15
    assert len(log.read_text()) < 10


def test_supervisor_waits_longer_for_what_fails_again_and_again(tmp_path, monkeypatch):
    """A program that cannot start is given ever longer pauses, also where its start takes long."""
    log = tmp_path / "starts"
    monkeypatch.setattr(supervising, "_SHORT_LIFE_SECONDS", 0.0)
    program = f"import time; print(time.monotonic(), file=open({str(log)!r}, 'a')); exit(2)"
    supervisor = Supervisor([sys.executable, "-c", program])
    supervisor.start()
    wait_until(lambda: log.exists() and len(log.read_text().split()) >= 4)
    supervisor.stop()
    at = [float(text) for text in log.read_text().split()]
    pauses = [after - before for before, after in itertools.pairwise(at)]
    assert [pause > least for pause, least in zip(pauses, (0.4, 0.8, 1.6), strict=False)] == [
        True
    ] * 3


def test_recorder_that_cannot_start_says_why_once(tmp_path):
    """Its reason is logged at the first try, is there for the status, and goes when it runs."""
    (tmp_path / "journal").write_text("in the way")
    directory = tmp_path / "journal"
    for _ in range(3):
        recorder = RecorderProcess(tmp_path)
        assert recorder.process.wait(20) == 2
    assert recorder.log.read_text().count("recorder_cannot_run") == 1
    assert "File exists" in (recorder_failure(directory) or "")
    directory.unlink()
    with recorder_process(tmp_path):
        wait_until(lambda: recorder_failure(directory) is None)
    assert not spare_directory(directory).exists()


class Health(NullObserver):
    """An observer that remembers whether the store takes records."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def store_health(self, up: bool) -> None:
        """Remember it."""
        self.told.append(up)


def test_health_of_the_store_is_told(tmp_path: Path) -> None:
    """Who watches learns that the database cannot be had, and that it can again."""
    settings = recording_settings(tmp_path)
    settings.duckdb_path.mkdir()
    health = Health()
    recorder = start_in_process(settings, health)
    wait_until(lambda: health.told and not any(health.told))
    settings.duckdb_path.rmdir()
    wait_until(lambda: health.told[-1])
    recorder.close()

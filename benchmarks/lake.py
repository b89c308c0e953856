"""How a lake of several machines does: ``python -m benchmarks.lake [--seconds 60] [--rows 0]``.

Starts a PostgreSQL of Debian's and three recorders over three journals, lets rows come into each,
and kills recorders and PostgreSQL at random. At the end each row has to be there once. With
``--rows`` it then fills a lake with so many rows of 90 days and asks each question of
``benchmarks.storage``. As root, PostgreSQL runs as the user ``nobody``.
"""

from __future__ import annotations

import argparse
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from benchmarks import storage
from ccproxy_flask.journal import JournalWriter
from ccproxy_flask.record import RequestRecord, new_request_id
from ccproxy_flask.settings import Settings, load_settings
from ccproxy_flask.store.base import LogFilter
from ccproxy_flask.store.lake.catalogue import Catalogue
from ccproxy_flask.store.lake.engine import Cursor, Engine
from ccproxy_flask.store.lake.store import LakeStore

NODES = ("one", "two", "three")
_CATCH_UP_SECONDS = 120.0
_STEP = 500_000


def main() -> int:
    """Measure, print, and return 0; 1 where a row is missing or there twice."""
    parser = argparse.ArgumentParser(prog="benchmarks.lake", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=1000, help="rows a second on each machine")
    parser.add_argument("--rows", type=int, default=0, help="then ask questions of so many rows")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    home = Path(tempfile.mkdtemp(prefix="ccproxy-lake-"))
    home.chmod(0o755)
    postgres = Postgres(home / "postgres")
    try:
        wrong = _kills(home, postgres, options.seconds, options.rate) if options.seconds else False
        if options.rows:
            _questions(home, postgres, options.rows, options.times)
    finally:
        postgres.end()
        shutil.rmtree(home, ignore_errors=True)
    return int(wrong)


class Postgres:
    """A PostgreSQL in *home* on a port of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, random.randint(20_000, 30_000)  # noqa: S311  no secret
        home.mkdir(mode=0o700)
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
            self._as_user = ["setpriv", f"--reuid={nobody.pw_uid}", "--clear-groups"]
        argv = ["-D", "data", "-U", "ccproxy", "-A", "trust", "-E", "UTF8", "--no-locale"]
        command = [*self._as_user, str(self._bin / "initdb"), *argv]
        subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [f"--port={self.port}", "--listen_addresses=127.0.0.1"]
        options += ["--unix_socket_directories=", "--log_min_messages=panic"]
        command = [*self._as_user, str(self._bin / "postgres"), "-D", "data", *options]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log)
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.1)
            else:
                return

    def address(self, database: str) -> str:
        """Return the connection string of a database."""
        return f"host=127.0.0.1 port={self.port} user=ccproxy dbname={database}"

    def new_database(self, name: str) -> str:
        """Return the connection string of a new database."""
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def end(self) -> None:
        """End it as a loss of power does."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()


class Machine:
    """A journal into which rows come, and the recorder over it."""

    def __init__(self, home: Path, catalog: str, node: str) -> None:
        self.home = home / node
        self.home.mkdir()
        self.settings = _settings(self.home, catalog, home / "data", node)
        self.node, self._env = node, _environment(self.home, catalog, home / "data", node)
        self.journal = JournalWriter(
            self.settings.journal_directory,
            max_bytes=1 << 30,
            min_free_bytes=0,
            segment_bytes=8 << 20,
            segment_seconds=60.0,
            on_drop=print,
        )
        self.written = 0
        self.start()

    def start(self) -> None:
        """Start the recorder."""
        argv = [sys.executable, "-m", "ccproxy_flask.recorder"]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=self._env, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill the recorder, and start the next one."""
        self._process.kill()
        self._process.wait()
        self.start()

    def write(self, rate: int, until: float) -> None:
        """Let *rate* rows a second come in."""
        began = time.monotonic()
        first = self.written
        while (now := time.monotonic()) < until:
            while self.written - first < (now - began) * rate:
                record = RequestRecord(new_request_id(), datetime.now(UTC), node=self.node)
                self.journal.start(record)
                self.journal.end(record)
                self.written += 1
            time.sleep(0.005)

    def close(self) -> None:
        """End the recorder in the friendly way."""
        self._process.terminate()
        self._process.wait()
        self.journal.close()


def _settings(home: Path, catalog: str, data: Path, node: str) -> Settings:
    lake = {"catalog": catalog, "data": str(data)}
    kept = {"log_storage_backend": "ducklake", "node": node, "lake": lake}
    kept |= {"logs_collection_enabled": True, "duckdb_path": str(home / "metrics.duckdb")}
    settings = load_settings({}, home, observability=kept)
    settings.journal_directory.mkdir(parents=True, exist_ok=True)
    return settings


def _environment(home: Path, catalog: str, data: Path, node: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "true",
        "OBSERVABILITY__LOG_STORAGE_BACKEND": "ducklake",
        "OBSERVABILITY__DUCKDB_PATH": str(home / "metrics.duckdb"),
        "OBSERVABILITY__LAKE__CATALOG": catalog,
        "OBSERVABILITY__LAKE__DATA": str(data),
        "OBSERVABILITY__NODE": node,
        "JOURNAL__MIN_FREE_BYTES": "0",
    }


def _kills(home: Path, postgres: Postgres, seconds: float, rate: int) -> bool:
    """Let rows come in while things die; return whether one is missing or there twice."""
    catalog = postgres.new_database("kills")
    with closing(LakeStore(_settings(home, catalog, home / "data", "watcher"))) as watcher:
        machines = [Machine(home, catalog, node) for node in NODES]
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=each.write, args=(rate, until)) for each in machines]
        for thread in threads:
            thread.start()
        kills = _kill_at_random(machines, postgres, until)
        for thread in threads:
            thread.join()
        written = sum(machine.written for machine in machines)
        rows, took = _wait_for(watcher, written)
        answer = watcher.sql("SELECT count(DISTINCT request_id) FROM access_logs", 1)
        files = len(list((home / "data").rglob("*.parquet")))
        for machine in machines:
            machine.close()
    print(f"| machines, seconds, rows/s each | {len(NODES)}, {seconds:.0f}, {rate:,} |")
    print(f"| recorders killed, PostgreSQL killed | {kills[0]}, {kills[1]} |")
    print(f"| rows written, in the lake | {written:,}, {rows:,} |")
    print(f"| different ids | {answer.decode()} |")
    print(f"| all there after the last one | {took:.1f} s |")
    print(f"| files on the disk | {files:,} |", flush=True)
    return rows != written or f"[[{written}]]".encode() not in answer


def _kill_at_random(machines: list[Machine], postgres: Postgres, until: float) -> tuple[int, int]:
    recorders = servers = 0
    while time.monotonic() < until:
        time.sleep(random.uniform(1, 4))  # noqa: S311  no secret
        if random.random() < 0.15:  # noqa: S311  as above
            postgres.end()
            time.sleep(random.uniform(0, 3))  # noqa: S311  as above
            postgres.start()
            servers += 1
        else:
            random.choice(machines).kill()  # noqa: S311  as above
            recorders += 1
    return recorders, servers


def _wait_for(store: LakeStore, written: int) -> tuple[int, float]:
    began = time.monotonic()
    rows = -1
    while rows != written and time.monotonic() - began < _CATCH_UP_SECONDS:
        time.sleep(0.5)
        rows = store.totals(LogFilter()).total_requests
    return rows, time.monotonic() - began


def _questions(home: Path, postgres: Postgres, count: int, times: int) -> None:
    """Fill a lake, and ask each question some times."""
    catalog = postgres.new_database("questions")
    (home / "asked").mkdir()
    settings = _settings(home / "asked", catalog, home / "asked-data", "asked")
    with closing(LakeStore(settings)) as store:
        began = time.perf_counter()
        _fill(settings, catalog, count)
        while store.maintain():
            pass
        print(f"| {count:,} rows: made and merged | {time.perf_counter() - began:.0f} s |")
        for name, ask in storage._questions(store).items():  # noqa: SLF001  the same questions
            storage._print_times(name, ask, times)  # noqa: SLF001  as above


def _fill(settings: Settings, catalog: str, count: int) -> None:
    """Make the rows that benchmarks.storage makes, a million at a time."""
    spill = settings.duckdb_path.parent / "fill.tmp"
    engine = Engine(settings.observability.lake, Catalogue(catalog, "fill"), spill)
    span = storage.DAYS * 86_400_000
    begin = int(datetime.now(UTC).timestamp() * 1000 - span)
    text = storage._ROWS.replace("recent_logs", "lake.access_logs")  # noqa: SLF001  the same rows
    for first in range(0, count, _STEP):
        values = {"begin": begin, "span": span, "count": count}
        values |= {"first": first, "last": min(count, first + _STEP)}

        def work(cursor: Cursor, values: dict[str, int] = values) -> None:
            cursor.execute(text, values)
            cursor.execute("COMMIT")

        engine.ask(work, 600)
    engine.close()


if __name__ == "__main__":
    raise SystemExit(main())

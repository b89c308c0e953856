"""Count what the worker computes: ``python -m benchmarks.instructions [--checkout DIRECTORY]``.

Times depend on what else the machine does; the number of instructions hardly does. A worker as in
production runs under valgrind (callgrind), is sent the same requests as by ``benchmarks.run``, and
is counted from one batch to the next: neither its start nor its first requests are in the figures.
What the system does for it (its side of reads and writes) is not counted either.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
_IDLE_SECONDS = 3.0
_WARM_UP, _REQUESTS = 60, 200
_STREAMS, _EVENTS = 4, 2_000
_PACED_EVENTS, _GAP_MS = 20, 100.0
_CASES = ("request", "event without gaps", "100 events with each write", "paced event")


class Counter:
    """Counts the instructions of process *pid*, which runs under callgrind with its files there."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid, self._folder = pid, folder
        self._control("--instr=on")
        counted, seconds = self._counted(lambda: time.sleep(_IDLE_SECONDS))
        self._idle_per_second = counted / seconds

    def during(self, work: Callable[[], object]) -> float:
        """Return how many instructions *work* takes beside what an idle worker does meanwhile."""
        counted, seconds = self._counted(work)
        return counted - seconds * self._idle_per_second

    def _counted(self, work: Callable[[], object]) -> tuple[int, float]:
        self._control("--dump")
        began = time.monotonic()
        work()
        time.sleep(0.5)  # what comes behind the answer: the row, the log line
        seconds = time.monotonic() - began
        self._control("--dump")
        newest = max(self._folder.glob(f"callgrind.{self._pid}.*"), key=_number)
        found = _TOTAL.search(newest.read_text())
        if found is None:
            raise RuntimeError(f"{newest} has no total")
        return int(found[1]), seconds

    def _control(self, order: str) -> None:
        subprocess.run(
            ["callgrind_control", order, str(self._pid)], check=True, stdout=subprocess.DEVNULL
        )


def _number(path: Path) -> int:
    return int(path.suffix.removeprefix(".") or 0)


def main() -> int:
    """Count all cases and print them; returns the exit status."""
    options = _options()
    missing = [name for name in ("valgrind", "nginx") if not _found(name)]
    if missing:
        print(
            f"needed and not here: {' '.join(missing)} (Debian: apt install valgrind nginx-light)"
        )
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="ccproxy-count-") as folder,
        _counted(Path(folder), Path(options.checkout).resolve()) as (target, counter),
    ):
        for case in options.case or _CASES:
            print(f"{case}: {_count(case, target, counter):,.0f} instructions", flush=True)
        if options.keep:
            Path(options.keep).mkdir(parents=True, exist_ok=True)
            for path in Path(folder).glob("callgrind.*"):
                shutil.copy(path, options.keep)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.instructions", description=__doc__)
    parser.add_argument("--checkout", default=str(servers.ROOT), help="another working copy")
    parser.add_argument("--case", action="append", choices=_CASES, help="one of them; repeatable")
    parser.add_argument("--keep", help="copy callgrind's files to this folder")
    return parser.parse_args()


def _found(program: str) -> bool:
    return shutil.which(program) is not None or Path("/usr/sbin", program).exists()


@contextlib.contextmanager
def _counted(folder: Path, checkout: Path) -> Iterator[tuple[client.Target, Counter]]:
    command = [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "-q"),
        # callgrind_control finds no others
        *("--trace-children=yes", "--trace-children-skip-by-arg=*recorder*"),
        f"--callgrind-out-file={folder}/callgrind.%p",
        *(str(checkout / ".venv/bin/python"), "-m", "gunicorn", "-k", "gevent", "-w", "1"),
        *("--timeout", "0"),
    ]
    with (
        servers.upstreams(folder) as direct,
        servers.ccproxy_with(command, folder, direct, checkout) as (target, worker),
    ):
        client.latencies(target, _WARM_UP)
        time.sleep(1.0)  # what the first requests began is over
        yield target, Counter(worker, folder)


def _count(case: str, target: client.Target, counter: Counter) -> float:
    if case == "request":
        return counter.during(lambda: client.latencies(target, _REQUESTS)) / _REQUESTS
    if case == "paced event":
        return _each(counter, _PACED_EVENTS, lambda n: _paced(target, n))
    at_once = 1 if case == "event without gaps" else 100
    return _each(counter, _EVENTS, lambda n: _flood(target, n, at_once))


def _each(counter: Counter, events: int, work: Callable[[int], object]) -> float:
    """Return what one event more takes: the requests themselves are not counted."""
    work(events)
    few, many = (counter.during(lambda n=n: work(n)) for n in (events, 3 * events))
    return (many - few) / (2 * events * _STREAMS)


def _flood(target: client.Target, events: int, at_once: int) -> None:
    client.streams(target, _STREAMS, events, at_once=at_once)


def _paced(target: client.Target, events: int) -> None:
    client.streams(target, _STREAMS, events, gap_ms=_GAP_MS)


if __name__ == "__main__":
    sys.exit(main())

"""What is done at intervals: pushing the metrics, and printing figures of the traffic.

It runs in one place, however many workers there are: in the recorder's process, or, where nothing
is recorded, in one of its own (``python -m ccproxy_flask.scheduler [--parent PID]``).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from . import logging, metrics
from .errors import SettingsError
from .export import client_of
from .settings import Settings, handover
from .stats import StatsPrinter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .store.base import LogFilter
    from .totals import Totals

log = structlog.get_logger(__name__)

# How much sooner or later, so that many machines do not all come at once.
_JITTER = 0.1
# A recorder has to be gone a second after its parent.
_LAST_SECONDS = 0.4
_CANNOT_START = 2


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do each *interval* seconds; *run* tells whether it worked.

    After failures the wait doubles up to *longest_backoff* (but is never below the interval).
    """

    name: str
    run: Callable[[], bool]
    interval: float
    longest_backoff: float = 0.0


def pause(task: Task, failures: int, chance: float) -> float:
    """Return the seconds to wait after so many *failures* in a row; *chance* is 0 to 1."""
    longest = max(task.interval, task.longest_backoff)
    doubled = task.interval * 2.0 ** min(failures, 32)
    return min(longest, doubled) * (1 + _JITTER * (2 * chance - 1))


class Scheduler:
    """Runs each of *tasks* in a thread of its own, so that one that hangs holds up no other."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(task,), daemon=True, name=task.name)
            for task in tasks
        ]

    def start(self) -> None:
        """Begin; each task first runs after its interval."""
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float = _LAST_SECONDS) -> None:
        """Run each task once more, and wait for that so many *seconds* at most."""
        self._stopping.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _repeat(self, task: Task) -> None:
        chance = random.Random()  # noqa: S311  it keeps no secret
        failures = 0
        while not self._stopping.wait(pause(task, failures, chance.random())):
            failures = 0 if self._once(task) else failures + 1
        if not failures:
            self._once(task)

    def _once(self, task: Task) -> bool:
        try:
            return task.run()
        except Exception:  # a defect of a task must not end it for good
            log.exception("task_failed", task=task.name)
            return False


def tasks_of(
    settings: Settings,
    figures: metrics.PrometheusMetrics,
    totals: Callable[[LogFilter], Totals] | None,
) -> Iterator[Task]:
    """Give the tasks that *settings* want; *totals* answers for the store."""
    wanted = settings.scheduler
    if wanted.pushgateway_enabled:
        client = client_of(settings)
        yield Task(
            "pushgateway",
            lambda: client.push_metrics(figures.collected()),
            wanted.pushgateway_interval_seconds,
            wanted.pushgateway_max_backoff_seconds,
        )
    if wanted.stats_printing_enabled:
        kept = Path(metrics.SHARED_DIRECTORY or ".") / "stats-printed.json"
        style = settings.observability.stats_printing_format
        printer = StatsPrinter(figures, totals, style, kept=kept)
        yield Task("stats", printer.print, wanted.stats_printing_interval_seconds)


@contextmanager
def scheduled(
    settings: Settings,
    figures: metrics.PrometheusMetrics,
    totals: Callable[[LogFilter], Totals] | None = None,
) -> Iterator[None]:
    """Do at intervals, meanwhile, what *settings* want."""
    if settings.scheduling and metrics.SHARED_DIRECTORY is None:
        # It would tell of this process alone, which passes no request on.
        log.warning("scheduler_off", reason="PROMETHEUS_MULTIPROC_DIR is not set")
        yield
        return
    scheduler = Scheduler(list(tasks_of(settings, figures, totals)))
    scheduler.start()
    try:
        yield
    finally:
        scheduler.close()


def main() -> int:
    """Do what is scheduled until a signal, or until the parent dies. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ccproxy_flask.scheduler", description=__doc__)
    parser.add_argument("--parent", type=int, help="end when this process, the parent, does")
    parser.add_argument(handover.FLAG, action="store_true", help="take them from the parent")
    options = parser.parse_args()
    parent = options.parent
    try:
        given = options.settings_from_stdin
        settings = handover.received(sys.stdin.buffer) if given else handover.current()
    except SettingsError as error:
        sys.stderr.write(f"ccproxy_flask.scheduler: {error}\n")
        return _CANNOT_START
    writer = logging.set_up(settings.logging)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopping.set())
    # Ctrl-C reaches the whole group: the workers have to end first, and be counted.
    ignored = signal.SIG_IGN if parent else lambda _number, _frame: stopping.set()
    signal.signal(signal.SIGINT, ignored)
    figures = metrics.PrometheusMetrics(max_models=settings.observability.max_models)
    with scheduled(settings, figures):
        while not stopping.wait(0.2) and parent in (None, os.getppid()):
            pass
    writer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

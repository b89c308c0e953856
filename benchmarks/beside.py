"""What streams feel of the work beside them: ``python -m benchmarks.beside [--rounds 6]``.

Fifty paced streams go through one worker; the delay of an event is from the upstream's write to the
client. Settings are compared in rounds that take turns, each with one beside it in time, while

* large bodies go through the same worker, with content kept and not;
* worker and recorder share one core, with records kept and not, and with questions about 90 days.

Clients and upstreams have another core; what measures goes first there, where the system lets it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import client, servers
from .content import Words
from .storage import DAYS, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STREAMS, _EVENTS, _GAP_MS = 50, 150, 20
_BODY_BYTES = 5_000_000
_PAUSE_SECONDS = 0.1  # between two bodies, and between two questions
_WARM_EVENTS = 20
_PATH = "/v1/chat/completions"
_FIRST = -15
_SHARES = (0.5, 0.99, 0.999)


class Arm(NamedTuple):
    """One setting: what goes through *target* while *work* is done again and again."""

    name: str
    target: client.Target
    work: Callable[[client.Target], object] | None


def main() -> int:
    """Measure both, and print a table of each."""
    parser = argparse.ArgumentParser(prog="benchmarks.beside", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=500_000, help="of 90 days, to ask about")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("needed: two cores")
        return 2
    with tempfile.TemporaryDirectory(prefix="ccproxy-beside-") as place:
        folder = Path(place)
        names = ("without", "with", "off", "on")
        homes = {name: folder / name for name in names}
        for home in homes.values():
            home.mkdir()
        fill(homes["on"] / "metrics.duckdb", options.rows)
        os.sched_setaffinity(0, cores[1:])
        with _upstreams() as direct:
            _content(homes, direct, cores[0], options.rounds)
            _one_core(homes, direct, cores[0], options.rounds)
    return 0


def _content(homes: dict[str, Path], direct: client.Target, core: int, rounds: int) -> None:
    _said()  # once, for all that are forked
    with (
        _proxy(homes["without"], direct, CAPTURE__CONTENT="off") as (without, worker),
        _proxy(homes["with"], direct, CAPTURE__CONTENT="on") as (kept, other),
    ):
        servers.pin(worker, core)
        servers.pin(other, core)
        arms = [Arm("content off", without, _upload), Arm("content on", kept, _upload)]
        _print(f"bodies of {_BODY_BYTES / 1e6:.0f} MB meanwhile", _measured(arms, rounds))


def _one_core(homes: dict[str, Path], direct: client.Target, core: int, rounds: int) -> None:
    off = {"OBSERVABILITY__LOGS_COLLECTION_ENABLED": "false", "CAPTURE__CONTENT": "off"}
    with (
        _proxy(homes["off"], direct, **off) as (without, worker),
        _proxy(homes["on"], direct) as (recording, other),
    ):
        for pid in (worker, other, *servers.recorders(worker), *servers.recorders(other)):
            servers.pin(pid, core)
        arms = [
            Arm("recording off", without, None),
            Arm("recording on", recording, None),
            Arm(f"on, and questions about {DAYS} days", recording, _ask),
        ]
        _print("worker and recorder on one core", _measured(arms, rounds))


@contextlib.contextmanager
def _upstreams() -> Iterator[client.Target]:
    """Run an upstream for bodies and one for streams, so that they do not wait for each other."""
    ports = [servers.free_port() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
            process = servers.started(command, port, cwd=servers.ROOT)
            stack.enter_context(_first(stack.enter_context(process).pid))
        yield client.Target("direct", *ports, _PATH, _PATH)


@contextlib.contextmanager
def _first(pid: int) -> Iterator[None]:
    """Let a process go before others on its core: it measures, and is not what is measured."""
    before = os.getpriority(os.PRIO_PROCESS, pid)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, _FIRST)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, pid, before)


def _proxy(
    home: Path, direct: client.Target, **settings: str
) -> contextlib.AbstractContextManager[tuple[client.Target, int]]:
    return servers.ccproxy_with(servers.GUNICORN, home, direct, servers.ROOT, **settings)


# -- rounds ------------------------------------------------------------------------------------


def _measured(arms: list[Arm], rounds: int) -> dict[str, list[list[float]]]:
    """Return of each arm its p50, p99 and p99.9 in seconds, of each round."""
    found: dict[str, list[list[float]]] = {arm.name: [] for arm in arms}
    for arm in arms:
        client.streams(arm.target, _STREAMS, _WARM_EVENTS, gap_ms=_GAP_MS)
    for number in range(rounds):
        for arm in arms[:: -1 if number % 2 else 1]:
            with _meanwhile(arm), _first(os.getpid()):
                delays = client.streams(arm.target, _STREAMS, _EVENTS, gap_ms=_GAP_MS).delays
            delays.sort()
            found[arm.name].append([delays[int(len(delays) * share)] for share in _SHARES])
    return found


def _print(name: str, found: dict[str, list[list[float]]]) -> None:
    """Print a row for each arm: medians of the rounds, and of the ratios to the first arm's."""
    print(f"\nload average {os.getloadavg()[0]:.1f}\n")
    print(f"| {name} | p50, ms | p99, ms | p99.9, ms | p99 : first | of the rounds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    first = [rows[1] for rows in next(iter(found.values()))]
    for arm, rows in found.items():
        middle = " | ".join(
            f"{1e3 * statistics.median(each):.2f}" for each in zip(*rows, strict=True)
        )
        ratios = [row[1] / one for row, one in zip(rows, first, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {arm} | {middle} | {statistics.median(ratios):.2f} | {spread} |", flush=True)


# -- meanwhile ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _meanwhile(arm: Arm) -> Iterator[None]:
    """Do the work of *arm* again and again in a process of its own."""
    if arm.work is None:
        yield
        return
    process = multiprocessing.get_context("fork").Process(target=_again, args=(arm,))
    process.start()
    try:
        yield
        if not process.is_alive():
            raise RuntimeError(f"{arm.name}: what was done meanwhile has failed")
    finally:
        process.terminate()
        process.join()


def _again(arm: Arm) -> None:
    if arm.work is not None:
        while True:
            arm.work(arm.target)
            time.sleep(_PAUSE_SECONDS)


_turns = itertools.count(1)


@functools.cache
def _said() -> list[str]:
    """Return the messages of a long conversation."""
    text = Words(1).text(_BODY_BYTES)
    return [text[at : at + 20_000] for at in range(0, len(text), 20_000)]


def _upload(target: client.Target) -> None:
    """Send a long conversation again, with another message at its end; read the answer."""
    said = [*_said(), f"turn {next(_turns)} of {os.getpid()}"]
    messages = [{"role": "user", "content": text} for text in said]
    body = json.dumps({"model": "gpt-5.1", "messages": messages}).encode()
    with socket.create_connection(("127.0.0.1", target.json_port)) as sock:
        sock.sendall(client.request(target.json_path, body))
        client.read_answer(sock)


def _ask(target: client.Target) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", target.json_port)
    connection.request("GET", f"/logs/analytics?start_time={time.time() - DAYS * 86_400:.0f}")
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read().decode())
    answer.read()
    connection.close()


if __name__ == "__main__":
    raise SystemExit(main())

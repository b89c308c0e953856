"""Processes killed at any moment: every request ends in exactly one record."""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest
from conftest import Server
from scripted import Conversation, ScriptedUpstream, wait_until

STREAMS = 50
ROUNDS = 20
BODY = b'{"model":"claude-sonnet-4-5","stream":true,"messages":[]}'
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":'
    b'"claude-sonnet-4-5-20250929","usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
)
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"Hello"}}\n\n'
)
END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":15}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)


def slow_stream(talk: Conversation) -> None:
    """A stream of about a third of a second."""
    talk.start_stream()
    talk.chunk(START)
    for _ in range(6):
        time.sleep(0.05)
        talk.chunk(DELTA)
    talk.chunk(END)
    talk.end_stream()


class Load:
    """Clients that send one stream after the other, and remember how each of them ended."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopping = threading.Event()
        self.whole: set[str] = set()
        self.broken: set[str] = set()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(STREAMS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, number: int) -> None:
        count = 0
        while not self._stopping.is_set():
            count += 1
            name = f"load-{number}-{count}"
            try:
                status, _, body = self._server.request(
                    "POST", "/v1/messages", BODY, {"x-request-id": name}
                )
            except (OSError, http.client.HTTPException):
                self.broken.add(name)
                time.sleep(0.05)
                continue
            assert status in (200, 502), (status, body)
            (self.whole if status == 200 and body.endswith(END) else self.broken).add(name)


def kill(pids: list[int]) -> None:
    """Kill processes without a warning."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_killed_workers_and_recorders_lose_nothing(
    start_server: Callable[..., Server], upstream: ScriptedUpstream
) -> None:
    """Under 50 streams, worker, recorder and both are killed in turn; the records are complete."""
    upstream.script = slow_stream
    server = start_server(workers=2, LOGGING__ACCESS_LOG="false")
    chance = random.Random(7)

    with Load(server) as load:
        for turn in range(ROUNDS):
            enough = len(upstream.seen) + STREAMS
            wait_until(lambda: len(upstream.seen) >= enough, 15)  # noqa: B023  used at once
            time.sleep(chance.uniform(0.0, 0.3))
            victims = []
            if turn % 3 != 1:
                victims += chance.sample(server.worker_pids(), 1)
            if turn % 3 != 0:
                victims += server.recorder_pids()
            kill(victims)
            wait_until(lambda: len(server.worker_pids()) == 2, 15)
            wait_until(server.recorder_pids, 5)

    accepted = {seen.header("x-request-id") for seen in upstream.seen}
    wait_until(lambda: server.get_json("/logs/status")["status"] == "healthy", 15)

    def complete() -> bool:
        rows = server.get_json("/logs/query", limit=10000)["results"]
        return accepted <= {row["client_request_id"] for row in rows}

    with contextlib.suppress(AssertionError):
        wait_until(complete, 20)
    rows = server.get_json("/logs/query", limit=10000)["results"]
    by_name = {row["client_request_id"]: row for row in rows}
    twice = [
        name for name, n in collections.Counter(r["request_id"] for r in rows).items() if n > 1
    ]
    print(
        f"accepted {len(accepted)}, rows {len(rows)}, whole {len(load.whole)}, "
        f"broken {len(load.broken)}, lost {sum(r['error_type'] == 'worker_lost' for r in rows)}"
    )

    assert twice == []
    assert accepted - by_name.keys() == set()
    assert load.whole - by_name.keys() == set()
    unmarked = [n for n in load.broken & by_name.keys() if by_name[n]["error_type"] is None]
    assert unmarked == []
    assert all(by_name[name]["error_type"] in (None, "worker_lost") for name in load.whole)
    assert {row["tokens_output"] for row in rows if row["error_type"] is None} == {15}


def test_recorder_comes_back(start_server: Callable[..., Server]) -> None:
    """A killed recorder is started again, and answers."""
    server = start_server()
    [before] = wait_until(server.recorder_pids)  # type: ignore[misc]
    kill([before])

    wait_until(lambda: server.recorder_pids() not in ([], [before]))
    wait_until(lambda: server.request("GET", "/logs/entries")[0] == 200)


def test_nothing_is_left_when_the_arbiter_is_killed(start_server: Callable[..., Server]) -> None:
    """Workers and recorder end with their parent."""
    server = start_server(workers=2)
    wait_until(server.recorder_pids)
    children = server.worker_pids() + server.recorder_pids()
    assert server.process is not None
    kill([server.process.pid])
    server.process.wait()

    def all_gone() -> bool:
        return not any(_runs(pid) for pid in children)

    wait_until(all_gone, 6)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

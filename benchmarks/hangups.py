"""Clients that hang up at random, beside strangers who must not notice.

``python -m benchmarks.hangups [--requests N] [--checkout DIRECTORY]``. Clients leave by closing,
half-closing or resetting their connection, at every stage of a request; strangers stream over the
same upstream connections meanwhile, and look at each byte. At the end every request has its one
row. *checkout* names another working copy to try.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import http.client
import json
import os
import random
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_HEAD_END = b"\r\n\r\n"
_PIECE = 64 << 10
_PATIENCE_SECONDS = 2.0
_SETTLE_SECONDS = 0.3
_FILLER = bytes(_PIECE)
_EVENT = 'data: {{"id":"{name}","choices":[{{"delta":{{"content":"{number}"}}}}]}}\n\n'
_END = b"data: [DONE]\n\n"
STAGES = ("head", "body", "sent", "answer", "drain", "stall")
WAYS = ("close", "half-close", "reset")


class Upstream:
    """Answers ``?events=N&gap=S`` with a stream of *N* events, ``?bytes=N`` with *N* zeros."""

    def __init__(self) -> None:
        self.busy = 0
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        """Listen; returns the base URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def left_over(self, seconds: float = 10) -> int:
        """Return how many requests are still being answered, after waiting for them so long."""
        deadline = time.monotonic() + seconds
        while self.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return self.busy

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        for writer in self._connections:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while True:
                head = (await reader.readuntil(_HEAD_END)).decode("latin-1")
                named = dict(_named(head))
                await reader.readexactly(int(named.get("content-length", "0")))
                self.busy += 1
                try:
                    await self._answer(writer, _query(head), named.get("x-request-id", ""))
                finally:
                    self.busy -= 1
        self._connections.discard(writer)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, query: dict[str, str], name: str) -> None:
        await asyncio.sleep(float(query.get("wait", "0")))
        if "bytes" in query:
            left = int(query["bytes"])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % left)
            while left:
                writer.write(_FILLER[: min(left, _PIECE)])
                left -= min(left, _PIECE)
                await writer.drain()
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for number in range(int(query.get("events", "1"))):
            event = _EVENT.format(name=name, number=number).encode()
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(float(query.get("gap", "0")))
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_END), _END))
        await writer.drain()


def _named(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n")[1:]:
        name, found, value = line.partition(":")
        if found:
            yield name.lower(), value.strip()


def _query(head: str) -> dict[str, str]:
    _, _, query = head.split(" ", 2)[1].partition("?")
    return dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)


@dataclass
class Outcome:
    """What the clients saw."""

    left: collections.Counter[str] = field(default_factory=collections.Counter)
    """Hang-ups by stage and way."""
    answered: set[str] = field(default_factory=set)
    """Names of requests of which something was answered: they have a row."""
    sent: set[str] = field(default_factory=set)
    """Names of all requests."""
    strangers: set[str] = field(default_factory=set)
    """Names of the strangers' streams."""
    broken: list[str] = field(default_factory=list)
    """What was wrong with a stranger's stream."""


def _request(name: str, query: str, body: bytes) -> tuple[bytes, bytes]:
    head = (
        f"POST /v1/chat/completions?{query} HTTP/1.1\r\nhost: localhost\r\nx-request-id: {name}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


_BODY = b'{"model":"gpt-4o-mini","stream":true,"messages":[]}'


class Clients:
    """Those who leave, and the strangers."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._chance = random.Random(seed)  # noqa: S311  seeded, to be run again
        self.outcome = Outcome()
        self._number = 0
        self._room = 0

    async def run(self, requests: int, at_once: int = 40, strangers: int = 20) -> None:
        """Send so many requests that are left, beside the strangers'."""
        self._room = await self._measured_room()
        waiting = iter(range(requests))
        over = asyncio.Event()
        beside = [asyncio.create_task(self._stranger(at, over)) for at in range(strangers)]
        await asyncio.gather(*(self._leavers(waiting) for _ in range(at_once)))
        over.set()
        await asyncio.gather(*beside)

    async def _measured_room(self) -> int:
        """Return how many bytes of an answer the system takes for a client that does not read.

        With a little more, the proxy has read all of the answer, and cannot send all of it.
        """
        fits, too_much = 0, 8 << 20
        while too_much - fits > _PIECE // 8:
            middle = (fits + too_much) // 2
            async with self._connection(small=True) as (sock, loop):
                name = f"measure-{middle}"
                self.outcome.sent.add(name)
                request = _request(name, f"bytes={middle}", _BODY)
                await loop.sock_sendall(sock, b"".join(request))
                await asyncio.sleep(_SETTLE_SECONDS)
                blocked = await asyncio.to_thread(_active, self._port) > 0
            fits, too_much = (fits, middle) if blocked else (middle, too_much)
            await asyncio.sleep(_SETTLE_SECONDS)
        return fits

    async def _leavers(self, waiting: Iterator[int]) -> None:
        for number in waiting:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._leave(f"leaver-{number}")

    async def _leave(self, name: str) -> None:
        chance, out = self._chance, self.outcome
        stage, way = chance.choice(STAGES), chance.choice(WAYS)
        out.left[f"{stage} {way}"] += 1
        out.sent.add(name)
        query = f"events={chance.randrange(30)}&gap=0.005&wait={chance.choice(('0', '0', '0.1'))}"
        if stage in ("drain", "stall"):
            least, most = (self._room, self._room + _PIECE) if stage == "stall" else (1, 4 << 20)
            query = f"bytes={chance.randrange(least, most)}"
        body = _BODY if chance.random() < 0.9 else _BODY + b" " * 200_000
        async with self._connection(small=stage in ("drain", "stall")) as (sock, loop):
            with contextlib.suppress(TimeoutError):  # it has all, and nothing more will come
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._do(sock, loop, stage, name, _request(name, query, body))
            drains = stage != "stall"
            await _hang_up(sock, loop, way, chance.uniform(0, 0.6), drains=drains)

    async def _do(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        stage: str,
        name: str,
        request: tuple[bytes, bytes],
    ) -> None:
        """Go through a request as far as *stage*."""
        chance, (head, body) = self._chance, request
        if stage == "head":
            await loop.sock_sendall(sock, head[: chance.randrange(1, len(head))])
            return
        if stage == "body":
            await loop.sock_sendall(sock, head + body[: chance.randrange(len(body))])
            return
        await loop.sock_sendall(sock, head + body)
        if stage == "sent":
            await asyncio.sleep(chance.uniform(0, 0.1))
            return
        if await loop.sock_recv(sock, 4096):
            self.outcome.answered.add(name)
        if stage == "stall":
            await asyncio.sleep(chance.uniform(0.2, 0.8))
        while stage == "drain" and chance.random() < 0.97:
            if not await loop.sock_recv(sock, _PIECE):
                return

    async def _stranger(self, at: int, over: asyncio.Event) -> None:
        while not over.is_set():
            self._number += 1
            name, events = f"stranger-{at}-{self._number}", self._chance.randrange(20, 60)
            self.outcome.strangers.add(name)
            self.outcome.sent.add(name)
            expected = "".join(_EVENT.format(name=name, number=n) for n in range(events)).encode()
            try:
                got = await asyncio.wait_for(self._stream(name, events), 60)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.outcome.broken.append(f"{name}: {error!r}")
                continue
            self.outcome.answered.add(name)
            if got != expected + _END:
                self.outcome.broken.append(f"{name}: {got[:200]!r}")

    async def _stream(self, name: str, events: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(b"".join(_request(name, f"events={events}&gap=0.02", _BODY)))
            head = await reader.readuntil(_HEAD_END)
            if not head.startswith(b"HTTP/1.1 200"):
                return head
            pieces = []
            while size := int(await reader.readuntil(b"\r\n"), 16):
                pieces.append(await reader.readexactly(size))
                await reader.readexactly(2)
            return b"".join(pieces)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def _connection(
        self, *, small: bool
    ) -> AsyncIterator[tuple[socket.socket, asyncio.AbstractEventLoop]]:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(sock, ("127.0.0.1", self._port))
            yield sock, loop


async def _hang_up(
    sock: socket.socket, loop: asyncio.AbstractEventLoop, way: str, seconds: float, *, drains: bool
) -> None:
    if way == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif way == "half-close":
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not drains or await loop.sock_recv(sock, _PIECE):
                    await asyncio.sleep(seconds / 20)


def _ask(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _active(port: int) -> float:
    lines = _ask(port, "/metrics").decode().splitlines()
    return next(float(it.split()[1]) for it in lines if it.startswith("ccproxy_active_requests "))


def ledger(port: int, outcome: Outcome) -> list[str]:
    """Return what is wrong with the rows of the requests of *outcome*; nothing where all is well.

    Waits until no request is in flight, and the rows are stored.
    """
    deadline = time.monotonic() + 60
    while True:
        rows = [json.loads(it) for it in _ask(port, "/logs/export?format=jsonl").splitlines()]
        wrong = _differences(rows, outcome)
        if (active := _active(port)) != 0:
            wrong.append(f"{active:.0f} requests are in flight for ever")
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(0.5)


def _differences(rows: list[dict[str, str]], outcome: Outcome) -> list[str]:
    counts = collections.Counter(row["client_request_id"] for row in rows)
    wrong = [f"{name} has {count} rows" for name, count in counts.items() if count > 1]
    wrong += [f"{name} has no row" for name in outcome.answered - counts.keys()]
    wrong += [f"{name} was never sent" for name in counts.keys() - outcome.sent - {None}]
    for row in rows:
        name, error = row["client_request_id"], row["error_type"]
        if name in outcome.strangers and error is not None:
            wrong.append(f"{name} is recorded as {error}")
        elif error not in (None, "client_disconnected", "bad_request"):
            wrong.append(f"{name} is recorded as {error}: {row['error_message']}")
    return wrong


async def _main(options: argparse.Namespace, directory: Path) -> int:
    upstream = Upstream()
    url = await upstream.start()
    port = servers.free_port()
    environment = os.environ | {
        "CONFIG_FILE": str(options.checkout / "ccproxy.toml"),
        "CCPROXY_PORT": str(port),
        "CCPROXY_WORKERS": "1",
        "LOGGING__ACCESS_LOG": "false",
        "OBSERVABILITY__DUCKDB_PATH": str(directory / "metrics.duckdb"),
        "PROVIDERS__OPENAI__BASE_URL": url,
    }
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "wsgi:app"]
    log = directory / "server.log"
    with (
        log.open("wb") as out,
        servers.started(
            command, port, cwd=options.checkout, env=environment, stdout=out, stderr=out
        ),
    ):
        clients = Clients(port, options.seed)
        began = time.monotonic()
        await clients.run(options.requests)
        seconds = time.monotonic() - began
        wrong = await asyncio.to_thread(ledger, port, clients.outcome)
        busy = await upstream.left_over()
        tracebacks = log.read_text().count("Traceback")
        _report(clients.outcome, wrong, busy, tracebacks, seconds)
        await upstream.stop()
    return 1 if wrong or clients.outcome.broken or busy else 0


def _report(outcome: Outcome, wrong: list[str], busy: int, tracebacks: int, seconds: float) -> None:
    print(f"{sum(outcome.left.values()):,} requests left in {seconds:.0f} s; by stage and way:")
    for stage in STAGES:
        ways = ", ".join(f"{way} {outcome.left[f'{stage} {way}']:,}" for way in WAYS)
        print(f"  {stage}: {ways}")
    print(f"strangers' streams: {len(outcome.strangers):,}, broken: {len(outcome.broken):,}")
    print(f"rows that are wrong: {len(wrong):,}; upstream requests left over: {busy}")
    print(f"tracebacks in the log: {tracebacks}", flush=True)
    for line in [*outcome.broken[:5], *wrong[:10]]:
        print(f"  {line}")


def main() -> int:
    """Run, print what was seen, and return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.hangups", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkout", type=Path, default=servers.ROOT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccproxy-hangups-") as folder:
        return asyncio.run(_main(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())

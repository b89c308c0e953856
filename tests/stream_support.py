"""Readers of ``/logs/stream``, and processes that write a journal fast."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from recording_support import make_record, open_writer

from ccproxy_flask.record import RequestRecord

ENDS = ("request_complete", "request_error")


@dataclass
class Sent:
    """One event as it was sent."""

    name: str
    id: str | None
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """What it says."""
        data: dict[str, Any] = self.body["data"]
        return data

    @property
    def key(self) -> tuple[str, str]:
        """What it is about: the same for the same event."""
        return ("start" if self.name == "request_start" else "end"), self.data["request_id"]


class Reader:
    """One client of the stream, which reads as a browser's EventSource does."""

    def __init__(
        self,
        port: int,
        last_id: str | None = None,
        *,
        seconds: float = 10,
        small: bool = False,
        **query: Any,
    ) -> None:
        self.last_id = last_id
        self.sock = socket.socket()
        if small:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(seconds)
        self.sock.connect(("127.0.0.1", port))
        resume = f"last-event-id: {last_id}\r\n" if last_id else ""
        head = f"GET /logs/stream?{urlencode(query)} HTTP/1.1\r\nhost: localhost\r\n{resume}\r\n"
        self.sock.sendall(head.encode())
        self.file = self.sock.makefile("rb", buffering=1 << 16)
        self.status = int(self.file.readline().split()[1])
        self.headers = dict(self._head_lines())
        self.comments: list[str] = []
        self.connection: Sent | None = None
        self._text = b""
        if self.status == 200:
            self.connection = self.next()
            assert self.connection.name == "connection"

    def _head_lines(self) -> Iterator[tuple[str, str]]:
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            yield name.lower(), value.strip()

    def next(self) -> Sent:
        """Return the next event; raises EOFError at the end and TimeoutError where none comes."""
        while True:
            block, found, rest = self._text.partition(b"\n\n")
            if not found:
                self._text += self._chunk()
                continue
            self._text = rest
            event = self._event_of(block.decode())
            if event is not None:
                return event

    def _chunk(self) -> bytes:
        size = int(self.file.readline() or b"0", 16)
        data = self.file.read(size)
        if size == 0 or len(data) < size:
            raise EOFError
        self.file.readline()
        return data

    def _event_of(self, block: str) -> Sent | None:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            else:
                self.comments.append(value.strip())
        if "id" in fields:
            self.last_id = fields["id"]
        if "data" not in fields:
            return None
        body = json.loads(fields["data"])
        assert body["type"] == fields["event"]
        return Sent(fields["event"], fields.get("id"), body)

    def take(self, count: int) -> list[Sent]:
        """Return the next *count* events."""
        return [self.next() for _ in range(count)]

    def nothing_for(self, seconds: float) -> bool:
        """True where no event comes for so long."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self.next()
        except TimeoutError:
            # A file of a socket reads no further after a timeout.
            self.file = self.sock.makefile("rb", buffering=1 << 16)
            return True
        finally:
            self.sock.settimeout(before)
        return False

    def close(self) -> None:
        """Hang up."""
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Collector(threading.Thread):
    """Reads a stream until *count* requests have ended, or the stream has."""

    def __init__(self, reader: Reader, count: int) -> None:
        super().__init__(daemon=True)
        self.reader, self._count = reader, count
        self.events: list[Sent] = []
        self.go = threading.Event()
        self.go.set()

    def run(self) -> None:
        """Read; pause while :attr:`go` is not set."""
        ends = 0
        with contextlib.suppress(EOFError, OSError):
            while ends < self._count:
                self.go.wait()
                event = self.reader.next()
                self.events.append(event)
                ends += event.name in ENDS
                if event.name == "overflow" and event.data["missed"] is not None:
                    self._count -= event.data["missed"] // 2

    def told(self) -> list[tuple[str, str]]:
        """Return what the events are about."""
        return [event.key for event in self.events if event.name.startswith("request_")]


def numbered(worker: int, number: int, **fields: Any) -> RequestRecord:
    """Return a record that says who wrote it."""
    return make_record(number % 1000, path=f"/v1/{worker}/{number}", **fields)


@contextmanager
def writing(
    journal: Path, workers: int, requests: int, per_second: float, **options: Any
) -> Iterator[None]:
    """Processes that write so many requests each to the journal, meanwhile."""
    pids = []
    for worker in range(workers):
        pid = os.fork()
        if pid == 0:
            try:
                write(journal, worker, requests, per_second, **options)
                time.sleep(600)  # a worker that ends would be looked after by the recorder
            finally:
                os._exit(0)
        pids.append(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def write(journal: Path, worker: int, requests: int, per_second: float, **options: Any) -> None:
    """Write requests, five of them in flight at a time; every third an error."""
    writer = open_writer(journal, **options)
    began = time.monotonic()
    waiting: list[RequestRecord] = []
    for number in range(requests):
        record = numbered(worker, number, status_code=500 if number % 3 == 0 else 200)
        writer.start(record)
        waiting.append(record)
        if len(waiting) > 5:
            writer.end(waiting.pop(number % 5))
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
    for record in waiting:
        writer.end(record)

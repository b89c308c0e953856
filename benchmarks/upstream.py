"""An upstream that is never the bottleneck: ``python -m benchmarks.upstream PORT``.

One epoll loop, answers rendered beforehand. The query string says what is wanted:

* nothing: read the request body, however long, and answer a small JSON;
* ``events=N``: a stream of N events as fast as they can be written, 100 with each write; with
  ``at_once=1`` one with each write, as a provider does it;
* ``events=N&gap_ms=G``: N events, one each G milliseconds, each with the time it was written at.
"""

from __future__ import annotations

import heapq
import re
import select
import socket
import sys
import time
from dataclasses import dataclass

MODEL = "gpt-5.1"
JSON = (
    b'{"id":"chatcmpl-0123456789","object":"chat.completion","created":1763000000,'
    b'"model":"gpt-5.1","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How '
    b'can I help you today?","refusal":null,"annotations":[]},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":'
    b'{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}'
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n\r\n"
_SMALL = _HEAD % (b"application/json", b"Content-Length: %d" % len(JSON)) + JSON
_STREAM = _HEAD % (b"text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked")
_EVENT = (
    b'data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1763000000,'
    b'"model":"gpt-5.1","choices":[{"index":0,"delta":{"content":"%019d"},"finish_reason":null}]}'
    b"\n\n"
)
_USAGE = (
    b'data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1763000000,'
    b'"model":"gpt-5.1","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,'
    b'"total_tokens":29}}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_END = _chunk(_USAGE) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_AT_ONCE = 100
_BLOCKS = {count: memoryview(_chunk(_EVENT % 0) * count) for count in (1, _AT_ONCE)}


@dataclass(slots=True)
class _Exchange:
    """A connection, and what is still to be read and written on it."""

    sock: socket.socket
    head: bytes = b""
    body_left: int = 0
    chunked_body: bool = False
    query: bytes = b""
    block: memoryview = _BLOCKS[_AT_ONCE]
    blocks_left: int = 0
    offset: int = 0
    rest: bytes = b""
    events_left: int = 0
    gap_seconds: float = 0.0


class Upstream:
    """The loop over all connections."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.setblocking(False)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._open: dict[int, _Exchange] = {}
        self._due: list[tuple[float, int]] = []

    def serve(self) -> None:
        """Answer until the process is ended."""
        while True:
            wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else -1
            for descriptor, event in self._poll.poll(wait):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif event & select.EPOLLOUT:
                    self._write(self._open[descriptor])
                else:
                    self._read(self._open[descriptor])
            self._tick(time.monotonic())

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[sock.fileno()] = _Exchange(sock)
        self._poll.register(sock, select.EPOLLIN)

    def _close(self, exchange: _Exchange) -> None:
        self._open.pop(exchange.sock.fileno(), None)
        exchange.sock.close()

    def _read(self, exchange: _Exchange) -> None:
        try:
            data = exchange.sock.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            self._close(exchange)
        elif exchange.body_left:
            self._take_body(exchange, data)
        elif exchange.chunked_body:
            exchange.head = (exchange.head + data)[-5:]
            if exchange.head == b"0\r\n\r\n":
                self._answer(exchange)
        else:
            self._take_head(exchange, data)

    def _take_head(self, exchange: _Exchange, data: bytes) -> None:
        head, ended, body = (exchange.head + data).partition(b"\r\n\r\n")
        exchange.head = b"" if ended else head
        if not ended:
            return
        query = re.match(rb"\S+ [^ ?]*\??([^ ]*)", head)
        exchange.query = query[1] if query else b""
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None and re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
            exchange.chunked_body = not body.endswith(b"0\r\n\r\n")
            exchange.head = body[-5:]
        else:
            exchange.body_left = int(length[1]) if length else 0
        if exchange.chunked_body:
            return
        self._take_body(exchange, body)

    def _take_body(self, exchange: _Exchange, data: bytes) -> None:
        exchange.body_left = max(0, exchange.body_left - len(data))
        if not exchange.body_left:
            self._answer(exchange)

    def _answer(self, exchange: _Exchange) -> None:
        exchange.head, exchange.chunked_body = b"", False
        wanted = {
            name: float(value)
            for name, _, value in (pair.partition(b"=") for pair in exchange.query.split(b"&"))
            if value
        }
        if b"events" not in wanted:
            exchange.rest = _SMALL
            self._write(exchange)
            return
        exchange.sock.send(_STREAM)
        if b"gap_ms" in wanted:
            exchange.events_left = int(wanted[b"events"])
            exchange.gap_seconds = wanted[b"gap_ms"] / 1000
            self._plan(exchange, time.monotonic())
        else:
            at_once = int(wanted.get(b"at_once", _AT_ONCE))
            exchange.block = _BLOCKS[at_once]
            exchange.blocks_left = int(wanted[b"events"]) // at_once
            exchange.rest = _END
            self._write(exchange)

    def _plan(self, exchange: _Exchange, now: float) -> None:
        heapq.heappush(self._due, (now + exchange.gap_seconds, exchange.sock.fileno()))

    def _tick(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            due, descriptor = heapq.heappop(self._due)
            exchange = self._open.get(descriptor)
            if exchange is None or not exchange.events_left:
                continue
            exchange.events_left -= 1
            data = _chunk(_EVENT % time.monotonic_ns())
            try:
                exchange.sock.send(data if exchange.events_left else data + _END)
            except (ConnectionError, BlockingIOError):
                self._close(exchange)
                continue
            if exchange.events_left:
                self._plan(exchange, due)

    def _write(self, exchange: _Exchange) -> None:
        try:
            while exchange.blocks_left:
                exchange.offset += exchange.sock.send(exchange.block[exchange.offset :])
                if exchange.offset == len(exchange.block):
                    exchange.offset, exchange.blocks_left = 0, exchange.blocks_left - 1
            exchange.rest = exchange.rest[exchange.sock.send(exchange.rest) :]
        except BlockingIOError:
            self._poll.modify(exchange.sock, select.EPOLLOUT)
        except ConnectionError:
            self._close(exchange)
        else:
            events = select.EPOLLOUT if exchange.rest else select.EPOLLIN
            self._poll.modify(exchange.sock, events)


if __name__ == "__main__":
    Upstream(int(sys.argv[1])).serve()

"""The load clients: raw sockets, so that what is measured is the server and not the client."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

BODY = (
    b'{"model":"gpt-5.1","messages":[{"role":"system","content":"You are a helpful assistant."},'
    b'{"role":"user","content":"Hello!"}]}'
)
STREAM_BODY = BODY[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
_STAMP = re.compile(rb'"content":"(\d{19})"')
# With the line end before it, which the head of an answer cannot have.
_END = b"\r\n0\r\n\r\n"
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_REFUSED = re.compile(r"Non-2xx|Socket errors")


@dataclass(slots=True)
class Target:
    """Something to measure: where it listens, and the path under which the upstream is."""

    name: str
    json_port: int
    stream_port: int
    json_path: str
    stream_path: str


def request(path: str, body: bytes, length: int | None = None) -> bytes:
    """Return the bytes of a request; *length* where more body follows than *body*."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-benchmark\r\n"
        f"Content-Type: application/json\r\nUser-Agent: benchmark\r\n"
        f"Content-Length: {length or len(body)}\r\n\r\n"
    ).encode() + body


def requests_per_second(target: Target, seconds: int, connections: int = 32) -> float:
    """Return how many small requests wrk gets answered each second over kept connections."""
    script = Path(__file__).with_name("post.lua")
    url = f"http://127.0.0.1:{target.json_port}{target.json_path}"
    told = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rate = _RATE.search(told)
    if rate is None or _REFUSED.search(told):
        raise RuntimeError(f"{target.name}: {told}")
    return float(rate[1])


def latencies(target: Target, count: int) -> list[float]:
    """Return the seconds of *count* small requests, one after the other on one connection."""
    message = request(target.json_path, BODY)
    taken = []
    with socket.create_connection(("127.0.0.1", target.json_port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            started = time.perf_counter()
            sock.sendall(message)
            read_answer(sock)
            taken.append(time.perf_counter() - started)
    return taken


def read_answer(sock: socket.socket) -> bytes:
    """Read one answer, in either framing."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(data.decode(errors="replace"))
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while len(body) < int(length[1]) if length else not body.endswith(_END):
        body += _some(sock)
    return body


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 18)
    if not data:
        raise RuntimeError("the connection was closed in the middle of an answer")
    return data


@dataclass(slots=True)
class _Stream:
    sock: socket.socket
    tail: bytes = b""


@dataclass(slots=True)
class Streams:
    """What came of many streams at once."""

    seconds: float = 0.0
    events: int = 0
    received: int = 0
    delays: list[float] = field(default_factory=list)


def streams(
    target: Target, count: int, events: int, *, gap_ms: float | None = None, at_once: int = 100
) -> Streams:
    """Read *count* streams of *events* at once; with *gap_ms* note when each event came."""
    query = f"?events={events}&" + (f"gap_ms={gap_ms}" if gap_ms else f"at_once={at_once}")
    message = request(target.stream_path + query, STREAM_BODY)
    result = Streams(events=count * events)
    poll, open_streams = select.epoll(), {}
    started = time.monotonic()
    for number in range(count):
        if gap_ms:  # spread over one gap, so that events do not come in bursts of all streams
            time.sleep(max(0.0, started + number * gap_ms / 1000 / count - time.monotonic()))
        sock = socket.create_connection(("127.0.0.1", target.stream_port))
        sock.sendall(message)
        open_streams[sock.fileno()] = _Stream(sock)
        poll.register(sock, select.EPOLLIN)
    while open_streams:
        for descriptor, _ in poll.poll():
            if _advance(open_streams[descriptor], result, timed=gap_ms is not None):
                open_streams.pop(descriptor).sock.close()
    result.seconds = time.monotonic() - started
    return result


def _advance(stream: _Stream, result: Streams, *, timed: bool) -> bool:
    """Take what arrived on *stream*; return whether it is complete."""
    data = _some(stream.sock)
    now = time.monotonic_ns()
    result.received += len(data)
    if not timed:
        stream.tail = (stream.tail + data[-len(_END) :])[-len(_END) :]
        return stream.tail == _END
    data = stream.tail + data
    end = 0
    for stamp in _STAMP.finditer(data):
        result.delays.append((now - int(stamp[1])) / 1e9)
        end = stamp.end()
    stream.tail = data[end:]
    return data.endswith(_END)


def upload(target: Target, size: int) -> None:
    """Send one request body of *size* bytes and read the answer."""
    piece = b"x" * 65536
    message = request(target.stream_path, b"", size)
    with socket.create_connection(("127.0.0.1", target.stream_port)) as sock:
        sock.sendall(message)
        for _ in range(size // len(piece)):
            sock.sendall(piece)
        read_answer(sock)

"""A scripted upstream on a real socket: tests say, byte for byte, what it answers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Script = Callable[["Conversation"], None]


@dataclass
class SeenRequest:
    """What the upstream got: the head as it came, the body without its framing."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All header lines, in order."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, value in (li.split(":", 1) for li in lines)]

    def header(self, name: str) -> str | None:
        """The first value of one header."""
        return next((value for key, value in self.headers if key == name), None)


class Conversation:
    """One request, and the socket to answer on."""

    def __init__(self, sock: socket.socket, request: SeenRequest) -> None:
        self.sock, self.request = sock, request
        self.close = False

    def send(self, data: bytes) -> None:
        """Write raw bytes."""
        self.sock.sendall(data)

    def answer(
        self,
        body: bytes,
        status: str = "200 OK",
        headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),),
    ) -> None:
        """Write a whole answer with its length."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.send(
            f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1")
            + body
        )

    def start_stream(self, content_type: str = "text/event-stream", extra: str = "") -> None:
        """Write the head of an answer in chunks."""
        self.send(
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{extra}"
            "transfer-encoding: chunked\r\n\r\n".encode("latin-1")
        )

    def chunk(self, data: bytes) -> None:
        """Write one chunk."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        """Write the last chunk."""
        self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """End the connection as it is."""
        self.close = True

    def reset(self) -> None:
        """End the connection with a reset."""
        self.close = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def wait_for_hangup(self, seconds: float = 10.0) -> bool:
        """Return True once the proxy closes the connection."""
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self.sock.settimeout(60)


class ScriptedUpstream:
    """Answers each request by calling ``script`` with it. Set ``script`` before each test."""

    def __init__(self) -> None:
        self.script: Script = lambda talk: talk.answer(b"{}")
        self.seen: list[SeenRequest] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget what was seen."""
        self.seen = []
        self.connections = 0
        self.script = lambda talk: talk.answer(b"{}")

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._listener.close()
        for sock in list(self._open):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, contextlib.suppress(OSError):
            for request in _requests(sock):
                self.seen.append(request)
                talk = Conversation(sock, request)
                self.script(talk)
                if talk.close:
                    break
        self._open.discard(sock)


@dataclass
class _Reader:
    sock: socket.socket
    held: bytes = field(default=b"")

    def until(self, mark: bytes) -> bytes | None:
        while mark not in self.held:
            data = self.sock.recv(65536)
            if not data:
                return None
            self.held += data
        before, self.held = self.held.split(mark, 1)
        return before

    def line(self) -> bytes:
        line = self.until(b"\r\n")
        if line is None:
            raise ConnectionError("cut in the body")
        return line

    def exactly(self, size: int) -> bytes:
        pieces, got = [self.held[:size]], min(size, len(self.held))
        self.held = self.held[size:]
        while got < size:
            data = self.sock.recv(min(1 << 20, size - got))
            if not data:
                raise ConnectionError("cut in the body")
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)


def _requests(sock: socket.socket) -> Iterator[SeenRequest]:
    reader = _Reader(sock)
    while (head := reader.until(b"\r\n\r\n")) is not None:
        request = SeenRequest(head)
        length = request.header("content-length")
        if length is not None:
            request.body = reader.exactly(int(length))
        elif request.header("transfer-encoding") == "chunked":
            while size := int(reader.line(), 16):
                request.body += reader.exactly(size)
                reader.exactly(2)
            reader.line()
        yield request


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> object:
    """Return the first true value of *condition*; fail after *seconds*.

    It is asked ever less often, as each question may cost a server more than a wait does.
    """
    deadline, pause = time.monotonic() + seconds, 0.005
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
        pause = min(0.05, pause * 1.25)
    raise AssertionError(f"nothing after {seconds} s")

"""Serve what was kept as an upstream would: the same bytes, with the same gaps between them.

So a client can be run again against an earlier session, without a provider and for free.
"""

from __future__ import annotations

import hashlib
import http
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from . import view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .day_file import Exchange

_FRAMING = frozenset(
    {"content-length", "transfer-encoding", "connection", "keep-alive", "trailer", "upgrade"}
)
_LARGEST_BODY = 256 << 20


class Answer(NamedTuple):
    """What is sent: (seconds since the request came in, bytes) of each piece, in order."""

    request_id: str
    status: int
    headers: list[tuple[str, str]]
    pieces: list[tuple[float, bytes]]


class Script:
    """Finds the answer to each request among *exchanges*, which are in the order of their session;
    *load* returns one of them again.

    One with the same method, path and body is served, those not served yet first; where there is
    none, the next one with the same method and path that was not served yet.
    """

    def __init__(
        self, exchanges: Iterable[Exchange], load: Callable[[str], Exchange | None]
    ) -> None:
        self._lock = threading.Lock()
        self._load = load
        self._known = [
            (_asked(each), each.facts["request"]["sha256"], each.request_id) for each in exchanges
        ]
        self._left = set(range(len(self._known)))

    def __len__(self) -> int:
        return len(self._known)

    def answer(self, method: str, path: str, body: bytes) -> Answer | None:
        """Return the answer to a request, None where nothing like it was kept."""
        asked, digest = (method, path), hashlib.sha256(body).hexdigest()
        with self._lock:
            same = [at for at, (each, _, _) in enumerate(self._known) if asked in each]
            equal = [at for at in same if self._known[at][1] == digest]
            candidates = [at for at in equal if at in self._left] or equal
            candidates = candidates or [at for at in same if at in self._left]
            if not candidates:
                return None
            self._left.discard(candidates[0])
            request_id = self._known[candidates[0]][2]
        found = self._load(request_id)
        return None if found is None else answer_of(found)


def answer_of(exchange: Exchange) -> Answer:
    """Return the answer that was kept; where a secret was taken out of it, without it."""
    facts = exchange.facts
    body, offsets = view.wire(exchange, "response"), [offset for offset, _ in exchange.times]
    is_wire = body is not None
    if body is None:
        body = view.said(exchange, "response")
        offsets = view.offsets(exchange)
    gone = _FRAMING if is_wire else _FRAMING | {"content-encoding"}
    headers = [(name, value) for name, value in facts["response_headers"]]
    ends = [*offsets[1:], len(body)]
    pieces = [
        (micros / 1e6, body[begin:end])
        for begin, end, (_, micros) in zip(offsets, ends, exchange.times, strict=False)
    ]
    return Answer(
        exchange.request_id,
        int(facts.get("status") or 502),
        [each for each in headers if each[0].lower() not in gone],
        pieces or [(0.0, body)],
    )


def _asked(exchange: Exchange) -> tuple[tuple[str, str], ...]:
    """Return (method, path) as the proxy was asked, and as the upstream of a provider is."""
    facts = exchange.facts
    path = str(facts.get("target", "")).partition("?")[0]
    bare = path.removeprefix(f"/{facts.get('provider')}")
    return tuple((str(facts.get("method")), each) for each in (path, bare))


class ReplayServer:
    """Answers on 127.0.0.1, from :meth:`run` to :meth:`close`.

    *on_request* is told of each request: method, path, and the id of the exchange that was served,
    None where there was none.

    *gaps*: wait between pieces as long as the upstream did. Raises OSError where the port is taken.
    """

    def __init__(
        self,
        script: Script,
        port: int = 0,
        *,
        gaps: bool = True,
        on_request: Callable[[str, str, str | None], None] = lambda *_: None,
    ) -> None:
        self.script, self.gaps, self.on_request = script, gaps, on_request
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _answering(self))
        self.port: int = self._server.server_address[1]

    def run(self) -> None:
        """Answer until :meth:`close` is called, by another thread."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()


def _answering(replay: ReplayServer) -> type[BaseHTTPRequestHandler]:
    class Answering(_Answering):
        server_of = replay

    return Answering


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: ReplayServer

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):  # the client left, or what it sent is no request
            self.close_connection = True

    def parse_request(self) -> bool:
        self._began = time.monotonic()
        return super().parse_request()

    def _serve(self) -> None:
        body = b"".join(self._body())
        path = self.path.partition("?")[0]
        answer = self.server_of.script.answer(self.command, path, body)
        self.server_of.on_request(self.command, path, answer and answer.request_id)
        if answer is None:
            self._refuse(f"nothing that was kept answers {self.command} {path}")
        else:
            self._send(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve  # noqa: N815  as http.server wants

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            size = 0
            while length := int(self.rfile.readline().partition(b";")[0], 16):
                if (size := size + length) > _LARGEST_BODY:
                    raise ValueError("the body is too large")
                yield self.rfile.read(length)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        yield self.rfile.read(min(int(self.headers.get("content-length") or 0), _LARGEST_BODY))

    def _send(self, answer: Answer) -> None:
        has_body = (
            self.command != "HEAD" and answer.status >= 200 and answer.status not in (204, 304)
        )
        self.send_response_only(answer.status, _reason(answer.status))
        for name, value in answer.headers:
            self.send_header(name, value)
        if has_body:
            self.send_header("transfer-encoding", "chunked")
        self._wait(answer.pieces[0][0])
        self.end_headers()
        for at, data in answer.pieces if has_body else ():
            if data:
                self._wait(at)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        if has_body:
            self.wfile.write(b"0\r\n\r\n")

    def _wait(self, at: float) -> None:
        rest = self._began + at - time.monotonic()
        if self.server_of.gaps and rest > 0:
            time.sleep(rest)

    def _refuse(self, text: str) -> None:
        body = orjson.dumps({"error": {"type": "not_found", "message": text}})
        self.send_response_only(404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as http.server calls it
        """Say nothing: who started it is told by *on_request*."""


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""

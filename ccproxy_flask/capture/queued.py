"""Takes tracing off the path of the bytes: calls wait in bounded memory for a thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from gevent import monkey

from .base import Headers, Tracer, pairs
from .exchange import now_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger(__name__)

# Under gevent these would be of the hub, which must not wait for a disk or for redaction.
_start_thread = monkey.get_original("_thread", "start_new_thread")
_new_lock = monkey.get_original("_thread", "allocate_lock")
_sleep = monkey.get_original("time", "sleep")
_INTERVAL_SECONDS = 0.05
_CALL_BYTES = 256  # what a call takes besides its data

Call = Callable[[Tracer], None]


class QueuedTracer:
    """Hands every call to *targets*, later and in another thread.

    At most *max_bytes* wait. An exchange whose next part has no room is given up as a whole, and
    counted by *on_drop*, called with ``queue_full`` in the thread of a caller. Give :meth:`clock`
    and :meth:`lost` to the targets.
    """

    def __init__(
        self, max_bytes: int = 32 << 20, on_drop: Callable[[str], None] = lambda _reason: None
    ) -> None:
        self.targets: Sequence[Tracer] = ()
        self._max_bytes, self._on_drop = max_bytes, on_drop
        self._calls: deque[tuple[int, int, Call]] = deque()
        self._drops: deque[str] = deque()
        self._waiting_bytes = 0
        self._given_up: set[str] = set()
        self._counting, self._working = _new_lock(), _new_lock()
        self._pid = 0
        self._at_ns: int | None = None
        self._closed = False

    def clock(self) -> int:
        """Return when the call was made that the targets get now; nanoseconds since 1970."""
        return now_ns() if self._at_ns is None else self._at_ns

    def lost(self, reason: str) -> None:
        """Count a drop of a target; told to *on_drop* later, in the thread of a caller."""
        self._drops.append(reason)

    def trace_request(
        self, request_id: str, method: str, url: str, headers: Headers, body: bytes | None
    ) -> None:
        """Take a request as it is sent to the upstream at *url*."""
        kept = pairs(headers)
        size = _size(kept) + len(body or b"") + len(url)
        self._put(
            request_id, size, lambda it: it.trace_request(request_id, method, url, kept, body)
        )

    def trace_response(
        self, request_id: str, status: int, headers: Headers, body: bytes | None
    ) -> None:
        """Take a whole answer; the exchange is over."""
        kept = pairs(headers)
        size = _size(kept) + len(body or b"")
        self._put(request_id, size, lambda it: it.trace_response(request_id, status, kept, body))
        self._given_up.discard(request_id)

    def trace_stream_start(self, request_id: str, headers: Headers) -> None:
        """Take the head of a streamed answer."""
        kept = pairs(headers)
        self._put(request_id, _size(kept), lambda it: it.trace_stream_start(request_id, kept))

    def trace_stream_chunk(self, request_id: str, chunk: bytes, chunk_number: int) -> None:
        """Take one piece of it, as it came off the wire; the first has the number 1."""
        self._put(
            request_id,
            len(chunk),
            lambda it: it.trace_stream_chunk(request_id, chunk, chunk_number),
        )

    def trace_stream_complete(self, request_id: str, total_chunks: int, total_bytes: int) -> None:
        """The stream is over, and so is the exchange; also where it was cut short."""
        self._put(
            request_id,
            0,
            lambda it: it.trace_stream_complete(request_id, total_chunks, total_bytes),
        )
        self._given_up.discard(request_id)

    def trace_error(self, request_id: str, error_type: str, message: str) -> None:
        """Take what went wrong in an exchange; its end is still to come."""
        self._put(
            request_id,
            len(message),
            lambda it: it.trace_error(request_id, error_type, message),
        )

    def forget(self, request_id: str) -> None:
        """Give up an exchange of which a part was lost."""
        self._append(0, lambda it: it.forget(request_id))

    def flush(self) -> None:
        """Let the targets have everything that waits, now and in this thread."""
        with self._working:
            while self._calls:
                self._at_ns, size, call = self._calls.popleft()
                with self._counting:
                    self._waiting_bytes -= size
                for target in self.targets:
                    _give(target, call)
            self._at_ns = None

    def close(self) -> None:
        """Write what waits. Later calls of any method do nothing."""
        if not self._closed:
            self._closed = True
            self.flush()
            for target in self.targets:
                _give(target, lambda it: it.close())
            self._tell_drops()

    def _put(self, request_id: str, size: int, call: Call) -> None:
        if self._closed or request_id in self._given_up:
            return
        if self._waiting_bytes + size + _CALL_BYTES <= self._max_bytes:
            self._append(size + _CALL_BYTES, call)
            return
        self._given_up.add(request_id)
        self.lost("queue_full")
        self.forget(request_id)

    def _tell_drops(self) -> None:
        while self._drops:
            self._on_drop(self._drops.popleft())

    def _append(self, size: int, call: Call) -> None:
        self._tell_drops()
        with self._counting:
            self._waiting_bytes += size
            self._calls.append((now_ns(), size, call))
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
        _start_thread(self._run, ())

    def _run(self) -> None:
        pid = os.getpid()
        while pid == os.getpid() and not self._closed:
            _sleep(_INTERVAL_SECONDS)
            if self._calls:
                self.flush()


def _size(headers: Sequence[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) + 64 for name, value in headers)


def _give(target: Tracer, call: Call) -> None:
    try:
        call(target)
    except Exception:  # a defect in a tracer must end neither its thread nor the other tracers
        log.exception("tracer_failed", tracer=type(target).__name__)

"""structlog set-up, and the access-log sink.

Lines go to standard error through a bounded buffer and a thread of the operating system, so
that whoever reads them slowly holds up no request; lines over the bound are counted and left out.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections import deque
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from gevent import monkey

from .redact import scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from .record import RequestRecord
    from .settings import Logging

# Under gevent these two would be greenlets of the hub that must not wait.
_start_thread = monkey.get_original("_thread", "start_new_thread")
_sleep = monkey.get_original("time", "sleep")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LONGEST_BUFFER = 20_000
_INTERVAL_SECONDS = 0.05

ACCESS_FIELDS = (
    "request_id",
    "method",
    "path",
    "service_type",
    "provider",
    "model",
    "streaming",
    "status_code",
    "duration_ms",
    "ttft_ms",
    "tokens_input",
    "tokens_output",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost_usd",
    "error_type",
    "error_message",
    "client_ip",
)
_access_values = attrgetter(*ACCESS_FIELDS)


class LineWriter:
    """Takes lines without waiting, and writes them to a file descriptor beside the program."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[str] = deque()
        self._left_out = 0
        self._pid = 0
        self._closed = False

    def msg(self, line: str) -> None:
        """Take one *line*; structlog's name for it."""
        if len(self._lines) >= _LONGEST_BUFFER:
            self._left_out += 1
            return
        self._lines.append(line)
        if self._pid != os.getpid():
            self._pid = os.getpid()
            _start_thread(self._run, ())

    log = debug = info = warning = error = critical = exception = fatal = failure = warn = msg

    def flush(self) -> None:
        """Write what was taken so far."""
        lines = list(self._taken())
        left_out, self._left_out = self._left_out, 0
        if left_out:
            lines.append(f"log_lines_left_out count={left_out}")
        data = ("\n".join(lines) + "\n").encode("utf-8", "replace") if lines else b""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                _sleep(_INTERVAL_SECONDS)
            except OSError:  # nobody reads standard error any more
                return

    def close(self) -> None:
        """Write what was taken so far, and let the thread end."""
        self._closed = True
        self.flush()

    def _taken(self) -> Iterator[str]:
        # Not by looking first: another thread may flush at the same time.
        with contextlib.suppress(IndexError):
            while True:
                yield self._lines.popleft()

    def _run(self) -> None:
        pid = os.getpid()
        while pid == os.getpid() and not self._closed:
            _sleep(_INTERVAL_SECONDS)
            if self._lines:
                self.flush()


def set_up(options: Logging, fd: int | None = None) -> LineWriter:
    """Configure structlog for this process and return its writer."""
    writer = LineWriter(sys.stderr.fileno() if fd is None else fd)
    atexit.register(writer.flush)
    renderer: Callable[..., Any]
    if options.format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=os.isatty(writer._fd)  # noqa: SLF001  our own
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_keys,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[options.level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    return writer


def _without_keys(_logger: object, _name: str, event: MutableMapping[str, Any]) -> Any:
    """Hide keys of known shapes, also in the message of an exception; a processor."""
    return {name: scrub(each) if isinstance(each, str) else each for name, each in event.items()}


def _dumps(value: object, **_: object) -> str:
    return orjson.dumps(value, default=str).decode()


class AccessLog:
    """The sink that writes one line for each finished request."""

    def __init__(self, options: Logging, writer: LineWriter) -> None:
        self._writer = writer
        self._json = options.format == "json"

    def __call__(self, record: RequestRecord) -> None:
        """Write the line of *record*."""
        fields = {
            name: value
            for name, value in zip(ACCESS_FIELDS, _access_values(record), strict=True)
            if value is not None
        }
        level = "info" if record.error_type is None else "warning"
        stamp = _stamp(int(time.time()))
        if self._json:
            line = {"timestamp": stamp, "level": level, "event": "access_log", **fields}
            self._writer.msg(_dumps(line))
            return
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        self._writer.msg(f"{stamp} [{level:<8}] access_log {shown}")


@lru_cache(maxsize=1)
def _stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value) if " " in value else value
    return f"{value:.1f}" if isinstance(value, float) else str(value)

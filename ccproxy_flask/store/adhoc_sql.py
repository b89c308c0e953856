"""Answers the operator's own statements: each in a process that may be killed (``sql_process``)."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import orjson

import ccproxy_flask
from ccproxy_flask.errors import StoreUnavailable

from .base import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SQL_SECONDS = 10.0
"""A statement that takes longer is broken off."""
MOST_SQL = 2
"""So many statements run beside each other."""
_IDLE_SECONDS = 60.0
"""A process that nobody asks for so long is ended."""
_LOOK_SECONDS = 0.1
_PIECE = 1 << 20


class AdhocSql:
    """Some processes over the Parquet files in *places*, started when they are needed.

    Each runs the statements of *setup* first; secrets may be in them.
    """

    def __init__(self, places: Sequence[str], setup: Sequence[str] = ()) -> None:
        self._first = orjson.dumps({"places": places, "setup": setup})
        self._slots = threading.BoundedSemaphore(MOST_SQL)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False

    def answer(
        self, text: str, limit: int, views: Mapping[str, str], is_abandoned: Callable[[], bool]
    ) -> bytes:
        """Answer *text* by *limit* rows at most, as Store.sql() tells it.

        *views* are the SELECTs that the tables are. Raises QueryRefused, or StoreUnavailable
        where others are running, or once *is_abandoned* says that nobody waits for the answer.
        """
        if not self._slots.acquire(blocking=False):
            raise StoreUnavailable("other SQL queries are running", retry_after=5)
        try:
            deadline = time.monotonic() + SQL_SECONDS
            asked = orjson.dumps({"text": text, "limit": limit, "views": views})
            return self._answered(asked, deadline, is_abandoned)
        finally:
            self._slots.release()

    def _answered(self, asked: bytes, deadline: float, is_abandoned: Callable[[], bool]) -> bytes:
        process = self._taken()
        try:
            found = process.ask(asked, deadline, is_abandoned)
        except BaseException as error:
            process.close()
            if self._closed:
                raise StoreUnavailable("the database is being closed") from error
            raise
        finally:
            with self._lock:
                self._busy.discard(process)
        self._give_back(process)
        if found[:1] == b"-":
            raise QueryRefused(**orjson.loads(found[1:]))
        return found[1:]

    def _taken(self) -> _Process:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the database is being closed")
            process = self._idle.pop() if self._idle else _Process(self._first)
            self._busy.add(process)
        return process

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            process.idle_since = time.monotonic()
            if not self._closed:
                self._idle.append(process)
                return
        process.close()

    def maintain(self) -> None:
        """End the processes that nobody has asked for a while."""
        longest = time.monotonic() - _IDLE_SECONDS
        with self._lock:
            idle, self._idle = self._idle, []
            self._idle = [each for each in idle if each.idle_since > longest]
        for process in idle:
            if process.idle_since <= longest:
                process.close()

    def close(self) -> None:
        """End all processes; what they are asked is answered by StoreUnavailable."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for process in busy:
            process.kill()
        for process in idle:
            process.close()


class _Process:
    """One process, for one thread; :meth:`kill` is for any."""

    def __init__(self, first: bytes) -> None:
        self.idle_since = time.monotonic()
        self._unsent = _framed(first)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ccproxy_flask.store.sql_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing of the environment is for a statement to see.
            env={"PYTHONPATH": str(Path(ccproxy_flask.__file__).parents[1])},
        )
        self._input = cast("IO[bytes]", self._process.stdin)
        self._output = cast("IO[bytes]", self._process.stdout)

    def ask(self, asked: bytes, deadline: float, is_abandoned: Callable[[], bool]) -> bytes:
        """Return the answer to *asked*. Raises QueryRefused or StoreUnavailable; the process is of
        no use after that."""
        try:
            self._input.write(self._unsent + _framed(asked))
            self._input.flush()
            self._unsent = b""
        except BrokenPipeError as error:
            raise StoreUnavailable("the process for SQL ended", 1) from error
        found = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while len(found) < 4 or len(found) < 4 + int.from_bytes(found[:4], "big"):
                if selector.select(_LOOK_SECONDS):
                    piece = os.read(self._output.fileno(), _PIECE)
                    if not piece:
                        raise self._ended()
                    found += piece
                elif is_abandoned():
                    raise StoreUnavailable("nobody waits for the answer")
                if time.monotonic() > deadline:
                    message = f"the query took longer than {SQL_SECONDS:.0f} s"
                    raise QueryRefused("sql_timeout", message)
        return bytes(found[4:])

    def _ended(self) -> Exception:
        """Return what to raise where the process ended in the middle of its work."""
        self._process.wait()
        if self._process.returncode > 0:  # it could not begin
            return StoreUnavailable("the process for SQL does not start", 5)
        message = "the query needs more memory, or deeper nesting, than it may have"
        return QueryRefused("sql_out_of_memory", message)

    def kill(self) -> None:
        """End it at once; who asks it learns that."""
        self._process.kill()

    def close(self) -> None:
        """End it, and let go of what belongs to it."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # the rest of a question
            self._input.close()
        self._output.close()


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message

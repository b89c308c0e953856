"""The store as a worker sees it: the recorder behind its unix socket.

Rows pass through unparsed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.errors import CcproxyError, ContentNotKept, StoreUnavailable
from ccproxy_flask.totals import Totals

from .base import (
    Cursor,
    EntriesPage,
    Grouping,
    LogFilter,
    Page,
    QueryPage,
    QueryRefused,
    StoreStatus,
    abandoned,
)
from .sessions import SessionsPage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from .limit_rows import LimitsAsked
    from .sessions import SessionPage

FACTS_HEADER = "x-ccproxy-facts"
"""What there is to say of an answer besides its rows, as JSON."""
_TIMEOUT_SECONDS = 35.0
_STATUS_SECONDS = 3.0
_METRICS_SECONDS = 5.0
EXPORT_SECONDS = 900.0
"""How long an export may take, with all that its reader takes."""
_PIECE = 65_536
_LOOK_SECONDS = 0.25
_LONGEST_REASON = 65_536


LANES = {"status": 2, "small": 4, "large": 3}
"""The lanes in which questions are answered, so that none waits behind larger ones; and how many
of each lane are answered beside each other. Others wait for their turn."""
_ENDINGS = {"status": "stat", "small": "sock", "large": "bulk"}
_LARGE = frozenset(
    {"/analytics", "/groups", "/export", "/limits", "/sessions", "/session", "/sql", "/reset"}
)
# Filters that most rows pass, or that say which few files have an answer: no page of theirs reads
# all there is.
_QUICK = frozenset(
    {"start_time", "end_time", "request_id", "generation", "request_class", "service_type"}
    | {"provider", "model", "streaming", "transport", "client", "succeeded"}
)
_SMALL_PAGE = 1000
_SMALL_OFFSET = 10_000


def lane_socket(path: Path, lane: str) -> Path:
    """Return the socket of a *lane* of the recorder that listens on *path*."""
    return path.with_name(f"{path.stem}.{_ENDINGS[lane]}")


def lane_of(question: str, asked: dict[str, Any]) -> str:
    """Return the lane of a *question*: large is what reads much of the table, or says much."""
    if question in ("/status", "/metrics"):
        return "status"
    is_small = (
        (question not in _LARGE or asked.get("shares") is False)
        and _QUICK.issuperset(asked.get("where", {}))
        and asked.get("order_by", "timestamp") == "timestamp"
        and asked.get("limit", 0) <= _SMALL_PAGE
        and asked.get("offset", 0) <= _SMALL_OFFSET
    )
    return "small" if is_small else "large"


class RemoteStore:
    """Asks the recorder that listens on the unix socket *path*, one connection a question."""

    backend = "duckdb"

    def __init__(self, path: Path, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._path, self._timeout = path, timeout

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """Return one page of rows, and how many there are in all."""
        asked = {
            "where": where.to_wire(),
            "limit": page.limit,
            "offset": page.offset,
            "order_by": page.order_by,
            "order_desc": page.order_desc,
        }
        text, facts = self._ask("/entries", asked)
        return EntriesPage(text, facts["total_count"])

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """Return up to *limit* rows, newest first, from after *cursor* on."""
        seen = None if cursor is None else str(cursor)
        asked = {"where": where.to_wire(), "limit": limit, "cursor": seen}
        text, facts = self._ask("/query", asked)
        return QueryPage(text, facts["count"], facts["next_cursor"])

    def sessions(self, where: LogFilter, page: SessionPage) -> SessionsPage:
        """Return one page of the sessions that rows of *where* belong to, with sums over these."""
        asked = {"where": where.to_wire(), **dataclasses.asdict(page)}
        text, facts = self._ask("/sessions", asked)
        return SessionsPage(text, facts["total_count"])

    def session(self, session_id: str, limit: int, offset: int) -> bytes | None:
        """Return a session with its turns as the text of a JSON object; None: there is none."""
        asked = {"session_id": session_id, "limit": limit, "offset": offset}
        text, facts = self._ask("/session", asked)
        return text if facts["found"] else None

    def cache(self, request_id: str) -> bytes | None:
        """Return why the cache missed in a request as the text of a JSON object; None: there is no
        such request."""
        text, facts = self._ask("/cache", {"request_id": request_id})
        return text if facts["found"] else None

    def totals(self, where: LogFilter) -> Totals:
        """Return the sums over all rows of *where*."""
        text, _ = self._ask("/totals", {"where": where.to_wire()})
        return Totals(**orjson.loads(text))

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """Return the figures of ``/logs/analytics`` as the text of a JSON object."""
        asked = {"where": where.to_wire(), "bucket_seconds": bucket_seconds}
        return self._ask("/analytics", asked)[0]

    def groups(self, where: LogFilter, grouping: Grouping) -> bytes:
        """Return sums of the rows of *where* as the text of a JSON array."""
        asked = {"where": where.to_wire(), **dataclasses.asdict(grouping)}
        return self._ask("/groups", asked)[0]

    def limits(self, asked: LimitsAsked) -> bytes:
        """Return how full each window is and who filled it, as the text of a JSON array."""
        return self._ask("/limits", dataclasses.asdict(asked))[0]

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """Give all rows as ``csv``, ``jsonl`` or ``parquet``."""
        asked = {"where": where.to_wire(), "form": form}
        connection = self._connection("/export", asked, self._timeout)
        # A reader that stalls must not keep the recorder's thread for ever.
        alarm = threading.Timer(EXPORT_SECONDS, connection.break_off)
        alarm.daemon = True
        alarm.start()
        try:
            with _away():
                answer = _answered(connection, "/export", asked)
                while piece := answer.read1(_PIECE):
                    yield piece
        finally:
            alarm.cancel()
            connection.close()

    def sql(self, text: str, limit: int) -> bytes:
        """Answer one SELECT, with *limit* rows at most. Raises QueryRefused."""
        return self._ask("/sql", {"text": text, "limit": limit})[0]

    def status(self) -> StoreStatus:
        """Return the state of the store and of the recorder."""
        text, _ = self._ask("/status", {}, min(self._timeout, _STATUS_SECONDS))
        return StoreStatus.from_wire(text)

    def content(self, path: str, **asked: Any) -> bytes:
        """Answer the question *path* about what was said (:mod:`ccproxy_flask.content.questions`).

        Raises ContentNotKept.
        """
        return self._ask(f"/content{path}", asked)[0]

    def reset(self) -> int:
        """Delete all rows and return how many there were."""
        text, _ = self._ask("/reset", {})
        return int(orjson.loads(text)["deleted"])

    def metrics(self, asked: dict[str, Any]) -> tuple[bytes, str]:
        """Let the recorder put the figures together: the text of a scrape, and its content type."""
        text, facts = self._ask("/metrics", asked, _METRICS_SECONDS)
        return text, facts["content_type"]

    def _connection(self, path: str, asked: dict[str, Any], timeout: float) -> _UnixConnection:
        return _UnixConnection(lane_socket(self._path, lane_of(path, asked)), timeout)

    def _ask(
        self, path: str, asked: dict[str, Any], timeout: float | None = None
    ) -> tuple[bytes, dict[str, Any]]:
        connection = self._connection(path, asked, timeout or self._timeout)
        try:
            with _away():
                answer = _answered(connection, path, asked)
                return answer.read(), orjson.loads(answer.getheader(FACTS_HEADER) or b"{}")
        finally:
            connection.close()


@contextlib.contextmanager
def _away() -> Iterator[None]:
    """Say in one word what a broken connection means."""
    try:
        yield
    except TimeoutError as error:
        raise StoreUnavailable("the recorder does not answer", retry_after=5) from error
    except (OSError, http.client.HTTPException) as error:
        raise StoreUnavailable("the recorder is not running") from error


def _answered(
    connection: _UnixConnection, path: str, asked: dict[str, Any]
) -> http.client.HTTPResponse:
    connection.request("POST", path, orjson.dumps(asked))
    connection.wait(abandoned.get())
    answer = connection.getresponse()
    if answer.status != http.client.OK:
        raise _refusal(answer)
    return answer


def _refusal(answer: http.client.HTTPResponse) -> CcproxyError:
    text = answer.read(_LONGEST_REASON)
    if answer.status == http.client.NOT_FOUND:
        return ContentNotKept(**orjson.loads(text))
    if answer.status == http.client.UNPROCESSABLE_ENTITY:
        return QueryRefused(**orjson.loads(text))
    if answer.status != http.client.SERVICE_UNAVAILABLE:
        return StoreUnavailable(f"the recorder answered {answer.status}: another version of it?")
    facts = orjson.loads(text)
    return StoreUnavailable(facts["reason"], facts["retry_after"])


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("recorder", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise

    def wait(self, is_abandoned: Callable[[], bool]) -> None:
        """Wait for the answer to begin; raises StoreUnavailable once it *is_abandoned*."""
        deadline = time.monotonic() + (self.timeout or 0)
        self.sock.settimeout(_LOOK_SECONDS)
        try:
            while True:
                try:
                    self.sock.recv(1, socket.MSG_PEEK)
                except TimeoutError:
                    if is_abandoned():
                        raise StoreUnavailable("nobody waits for the answer") from None
                    if time.monotonic() > deadline:
                        raise
                else:
                    return
        finally:
            self.sock.settimeout(self.timeout)

    def break_off(self) -> None:
        """End what is under way, from another thread."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

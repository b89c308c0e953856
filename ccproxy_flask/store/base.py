"""What a store is: the questions it answers, and the shapes of its answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from ccproxy_flask.errors import CcproxyError, StoreUnavailable
from ccproxy_flask.filters import IncludeExclude as IncludeExclude
from ccproxy_flask.filters import LogFilter as LogFilter  # noqa: TC001  asked for from here
from ccproxy_flask.record import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    from ccproxy_flask.totals import Totals

    from .limit_rows import LimitRow, LimitsAsked
    from .sessions import SessionPage, SessionsPage

abandoned: ContextVar[Callable[[], bool]] = ContextVar("abandoned", default=lambda: False)
"""Tells whether nobody waits any more for the answer to what is asked; set by who asks."""
MOST_ROWS = 10_000
"""The most rows of one answer."""


class StoreDamaged(StoreUnavailable):
    """The database cannot be read any more: its content is broken, or *log_only* that of its log
    of changes, without which it is as it was some time ago."""

    def __init__(self, reason: str, *, log_only: bool = False) -> None:
        super().__init__(reason)
        self.log_only = log_only


class QueryRefused(CcproxyError):
    """A statement of the operator's is not answered; the message says why.

    *kind*: ``sql_not_allowed``, ``sql_invalid``, ``sql_timeout`` or ``sql_out_of_memory``.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class RowsRefused(ValueError):
    """Among the rows to append is one that does not fit the columns; none was kept."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows of all: *limit* of them after the first *offset*, in the order of a column."""

    limit: int = 50
    offset: int = 0
    order_by: str = "timestamp"
    order_desc: bool = True

    def __post_init__(self) -> None:
        if self.order_by not in COLUMNS:
            raise ValueError(f"{self.order_by!r} is no column")


GROUPED = frozenset(
    {"session_id", "conversation_id", "user_id", "api_key_id", "client", "provider", "model"}
    | {"request_class", "failure", "error_message"}
)
"""By what sums can be asked for: columns, and the kind of ``failure``."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which sums are meant: *by* the values of columns, of :data:`GROUPED` (none: one of all rows);
    *limit* of them, those with the largest cost first, or where *often* those with the most
    requests. Rows in which the first column has no value do not count."""

    by: tuple[str, ...]
    limit: int = 10
    often: bool = False

    def __post_init__(self) -> None:
        if not GROUPED.issuperset(self.by):
            raise ValueError(f"{self.by!r} are no columns to group by")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row that was seen, newest first; text form ``<microseconds>~<request id>``."""

    timestamp: datetime
    request_id: str

    def __str__(self) -> str:
        micros = (self.timestamp - _EPOCH) // _MICROSECOND
        return f"{micros}~{self.request_id}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor with this *text*; raises ValueError where it is none."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ValueError("not a cursor")
        try:
            return cls(_EPOCH + int(match[1]) * _MICROSECOND, match[2])
        except OverflowError:
            raise ValueError("not a cursor") from None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = datetime.resolution
_CURSOR = re.compile(r"([0-9]{1,18})~([!-}]{1,128})")


@dataclass(frozen=True, slots=True)
class EntriesPage:
    """Some rows, as the *text* of a JSON array, and how many there are in all."""

    text: bytes
    total_count: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, parsed."""
        rows: list[dict[str, Any]] = orjson.loads(self.text)
        return rows


@dataclass(frozen=True, slots=True)
class QueryPage:
    """Some rows, as the *text* of a JSON array, and where the next page begins (None: nowhere)."""

    text: bytes
    count: int
    next_cursor: str | None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, parsed."""
        rows: list[dict[str, Any]] = orjson.loads(self.text)
        return rows


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The state of a store and of what fills it. Times are UTC, ages are seconds."""

    backend: str
    path: str
    rows: int
    last_write: datetime | None
    backlog_bytes: int = 0
    """Bytes of the journal that are not stored yet."""
    writer_lag_seconds: float = 0.0
    """For how long there has been such a backlog."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """``damaged_lines``, ``worker_lost``, ``record_lost``, ``content_dropped``,
    ``limits_ignored``, ``dropped:<reason>``."""
    content: Mapping[str, int] = field(default_factory=dict)
    """Of what was said: ``bytes`` on disk, ``waiting_bytes`` in the recorder's memory."""
    version: str = ""
    reason: str | None = None
    """What is wrong, where something is."""
    nodes: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """Of several machines: what each said last of its backlog. Docs: docs/logs-api.md."""

    def to_wire(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(self)

    @classmethod
    def from_wire(cls, text: bytes) -> StoreStatus:
        """Return the status of which *text* is the JSON form."""
        fields = orjson.loads(text)
        if fields["last_write"] is not None:
            fields["last_write"] = datetime.fromisoformat(fields["last_write"])
        return cls(**fields)


class Store(Protocol):
    """Answers questions about the rows. Every method raises StoreUnavailable where it cannot."""

    def entries(self, where: LogFilter, page: Page) -> EntriesPage:
        """Return one page of rows, and how many there are in all."""

    def query(self, where: LogFilter, limit: int, cursor: Cursor | None = None) -> QueryPage:
        """Return up to *limit* rows, newest first, from after *cursor* on."""

    def sessions(self, where: LogFilter, page: SessionPage) -> SessionsPage:
        """Return one page of the sessions that rows of *where* belong to, with sums over these."""

    def totals(self, where: LogFilter) -> Totals:
        """Return the sums over all rows of *where*."""

    def analytics(self, where: LogFilter, bucket_seconds: int) -> bytes:
        """Return the figures of ``/logs/analytics`` as the text of a JSON object.

        *where* needs a ``start_time``. Docs: docs/logs-api.md.
        """

    def groups(self, where: LogFilter, grouping: Grouping) -> bytes:
        """Return sums of the rows of *where* as the text of a JSON array, an object each:

        the columns of *grouping*, ``requests``, ``errors``, ``unpriced``, ``first_at``,
        ``last_at``, and sums of tokens and USD under the names of their columns.
        """

    def limits(self, asked: LimitsAsked) -> bytes:
        """Return how full each window is and who filled it, as the text of a JSON array.

        Docs: docs/limits.md.
        """

    def export(self, where: LogFilter, form: str) -> Generator[bytes]:
        """Give all rows as ``csv``, ``jsonl`` or ``parquet``, in no particular order.

        What is wrong is raised by the first piece, or breaks off what came before.
        """

    def sql(self, text: str, limit: int) -> bytes:
        """Answer one SELECT, with *limit* rows at most, by the text of a JSON object: ``columns``,
        ``rows``, ``row_count``, ``truncated``, ``duration_ms``.

        Ends soon after nobody waits for the answer any more. Raises QueryRefused.
        """

    def status(self) -> StoreStatus:
        """Return the state of the store."""

    def reset(self) -> int:
        """Delete all rows and return how many there were."""


class ContentSource(Protocol):
    """Answers questions about what was said."""

    def content(self, path: str, **asked: Any) -> bytes:
        """Return the answer to the question *path*. Raises ContentNotKept, StoreUnavailable."""

    def session(self, session_id: str, limit: int, offset: int) -> bytes | None:
        """Return a session with *limit* of its turns as the text of a JSON object; None: there is
        none. Docs: docs/logs-api.md."""

    def cache(self, request_id: str) -> bytes | None:
        """Return why the cache missed in a request, as the text of a JSON object; None: there is no
        such request. Docs: docs/logs-api.md."""


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """How far a segment of the journal is stored.

    *closed*: its worker is dead, and what that left open is stored too.
    """

    segment: str
    position: int
    closed: bool = False


class RecordingStore(Store, Protocol):
    """A store that takes records: what the recorder needs of it."""

    def append(
        self,
        rows: Sequence[bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        limits: Sequence[LimitRow] = (),
    ) -> None:
        """Keep *rows* (JSON objects), set *marks*, add *counts* and what was said of *limits*: all
        of it or nothing.

        Raises RowsRefused where a row does not fit the columns.
        """

    def append_missing(
        self,
        rows: Mapping[str, bytes],
        marks: Sequence[CommittedOffset],
        counts: Mapping[str, int],
        count: str | None = None,
        limits: Sequence[LimitRow] = (),
    ) -> int:
        """As :meth:`append`, but only those *rows* (by request id) whose request is not there; add
        their number to *count*, too, and return it."""

    def content_kept_since(self, seconds: float, limit: int) -> list[str]:
        """Return the request ids of the recent rows of the last *seconds* that say ``kept``."""

    def content_dropped(self, request_ids: Sequence[str]) -> int | None:
        """Let the recent ones of these rows say that their content was dropped; return how many
        did not, None where that is not possible now: try again later."""

    def name_conversations(
        self, named: Mapping[str, str], renamed: Mapping[str, str]
    ) -> int | None:
        """Give recent rows that have no conversation the one in *named*, by request id, and those
        of conversations in *renamed* the new name; return how many that were, None as above."""

    def conversations(self, message_ids: Collection[str]) -> dict[str, str]:
        """Return the conversations of answers, by *message_ids*, as far as recent rows tell."""

    def newest_limits(self, of_each: int) -> list[LimitRow]:
        """Return so many of the newest rows of ``rate_limits`` *of_each* window, oldest first."""

    def news(self, position: int | None) -> tuple[int, list[bytes]]:
        """Return what other machines have stored since *position* (JSON objects, some thousand at
        most), and the position from which to go on; None is the position of now."""

    def settle(self) -> None:
        """Return when all that was appended is there for good. Raises StoreUnavailable."""

    def marks(self) -> dict[str, CommittedOffset]:
        """Return all marks by segment."""

    def forget(self, segments: Sequence[str]) -> None:
        """Delete the marks of *segments*, which are gone."""

    @property
    def usable(self) -> bool:
        """False after an error that only opening the store again can heal…"""

    @property
    def damaged(self) -> bool:
        """…or not even that."""

    def is_in_place(self) -> bool:
        """False where the database was removed or replaced under our hands."""

    def has_lost_its_log(self) -> bool:
        """True where what was written last is on the disk only after a :meth:`checkpoint`."""

    def checkpoint(self) -> None:
        """Write what is in the log of changes into the database, unless somebody is in the way."""

    def maintain(self) -> bool:
        """Do a small part of what keeps the store small and quick; True where there is more.

        Called from one thread, beside all others. Raises StoreUnavailable.
        """

    def close(self) -> None:
        """Break off what runs, and let go of the database."""

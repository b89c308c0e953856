"""DuckDB in memory with the lake attached: its connections, their bounds, and their errors."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import duckdb
import structlog

from ccproxy_flask.errors import StoreUnavailable

from ..base import abandoned
from ..database import MEMORY_LIMIT, QUERY_SECONDS, SPILL_LIMIT, THREADS, first_line
from ..statements import quoted
from . import extensions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ccproxy_flask.settings.options import Lake

    from .catalogue import Catalogue

log = structlog.get_logger(__name__)

LAKE = "lake"
"""The name of the lake in DuckDB."""
SCHEMA = "ccproxy_lake"
"""The schema of PostgreSQL that has the lake's catalogue."""
_LOOK_SECONDS = 0.1
GRACE_SECONDS = 3.0
_MOST_STUCK = 8
_RETRIES = 100
Cursor = duckdb.DuckDBPyConnection
T = TypeVar("T")


class Engine:
    """One DuckDB in this process, over the lake of *settings*. Raises StoreUnavailable.

    A catalogue that hangs holds up whoever asks it, beyond every interrupt. So each question runs
    in a thread of its own, and who asked goes on without it.
    """

    def __init__(
        self, settings: Lake, catalogue: Catalogue, spill: Path, *, read_only: bool = False
    ) -> None:
        self._catalogue = catalogue
        self._hidden = [
            secret.get_secret_value()
            for secret in (settings.s3_access_key_id, settings.s3_secret_access_key)
            if secret is not None
        ]
        self.data = settings.data or ""
        self._lock = threading.Lock()
        self._stuck = 0
        """Threads that nobody waits for any more."""
        self._active: dict[Cursor, float] = {}
        self._connection = duckdb.connect(":memory:", config=_config(spill))
        try:
            self._attach(settings, read_only)
        except duckdb.Error as error:
            self._connection.close()
            raise self.translated(error) from error
        except StoreUnavailable:
            self._connection.close()
            raise

    def _attach(self, settings: Lake, read_only: bool) -> None:
        connection = self._connection
        extensions.load(connection, ("ducklake", "postgres_scanner"))
        if self.data.startswith("s3://"):
            extensions.load(connection, ("httpfs",))
            connection.execute(s3_secret(settings))
            connection.execute("SET http_timeout = 10")
        connection.execute(f"SET ducklake_max_retry_count = {_RETRIES}")
        # Nodes that met once must not meet again and again.
        connection.execute(f"SET ducklake_retry_wait_ms = {random.randint(10, 40)}")  # noqa: S311  protects nothing
        connection.execute("SET ducklake_retry_backoff = 1.1")
        where = quoted(f"ducklake:postgres:{self._catalogue.writer}")
        more = ", READ_ONLY" if read_only else ""
        connection.execute(
            f"ATTACH {where} AS {LAKE} (DATA_PATH {quoted(self.data)}, "
            f"METADATA_SCHEMA {quoted(SCHEMA)}, DATA_INLINING_ROW_LIMIT 0{more})"
        )
        connection.execute("SET lock_configuration = true")

    def cursor(self) -> Cursor:
        """Return a connection of its own for one thread."""
        return self._connection.cursor()

    @contextmanager
    def translating(self) -> Iterator[None]:
        """What DuckDB raises in the block is raised as StoreUnavailable."""
        try:
            yield
        except duckdb.Error as error:
            raise self.translated(error) from error

    def ask(
        self,
        work: Callable[[Cursor], T],
        seconds: float = QUERY_SECONDS,
        *,
        in_transaction: bool = True,
    ) -> T:
        """Return what *work* does with a connection, in bounded time. What it changes it has to
        commit."""
        if self._stuck >= _MOST_STUCK:
            raise StoreUnavailable("the lake does not answer", 5)
        question = _Question(self.cursor())
        with self._lock:
            self._active[question.cursor] = time.monotonic()
        arguments = (question, work, in_transaction)
        thread = threading.Thread(target=self._run, args=arguments, daemon=True, name="lake-asked")
        thread.start()
        self._wait(question, seconds)
        if question.error is None:
            return question.found  # type: ignore[no-any-return]  # what *work* returned
        if isinstance(question.error, duckdb.Error):
            raise self.translated(question.error) from question.error
        raise question.error

    def _run(
        self, question: _Question, work: Callable[[Cursor], Any], in_transaction: bool
    ) -> None:
        try:
            if in_transaction:
                question.cursor.execute("BEGIN TRANSACTION")
            question.found = work(question.cursor)
        except Exception as error:  # noqa: BLE001  raised where somebody waits for it
            question.error = error
        with suppress(duckdb.Error):
            question.cursor.close()
        with self._lock:
            self._active.pop(question.cursor, None)
            question.over.set()
            if question.is_left:
                self._stuck -= 1

    def _wait(self, question: _Question, seconds: float) -> None:
        is_abandoned = abandoned.get()
        deadline = time.monotonic() + seconds
        while not question.over.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if now < deadline and not is_abandoned():
                continue
            with suppress(duckdb.ConnectionException):  # it has just ended by itself
                question.cursor.interrupt()
            if now > deadline + GRACE_SECONDS or is_abandoned():
                with self._lock:
                    if not question.over.is_set():
                        question.is_left = True
                        self._stuck += 1
                        raise StoreUnavailable("the lake does not answer", 5)

    def translated(self, error: duckdb.Error) -> StoreUnavailable:
        """Return what to raise for *error*, without a secret in its text."""
        if isinstance(error, duckdb.InterruptException):
            return StoreUnavailable(f"the query took longer than {QUERY_SECONDS:.0f} s", 5)
        if isinstance(error, duckdb.OutOfMemoryException):
            return StoreUnavailable("the query needs more memory than it may have", 5)
        text = self._catalogue.hide(str(error))
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return StoreUnavailable(f"the lake: {first_line(text)[:500]}", 5)

    def close(self) -> None:
        """Break off what runs, and let go of the lake as far as it lets go of us."""
        with self._lock:
            active = list(self._active)
        for cursor in active:
            with suppress(duckdb.Error):
                cursor.interrupt()
        # Closing waits for what hangs, and nobody is to wait for that.
        closing = threading.Thread(target=self._connection.close, daemon=True, name="lake-close")
        closing.start()
        closing.join(GRACE_SECONDS)


class _Question:
    """What a thread is asked, and what it found."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.found: Any = None
        self.error: Exception | None = None
        self.over = threading.Event()
        self.is_left = False


def _config(spill: Path) -> dict[str, Any]:
    return {
        "threads": THREADS,
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(spill),
        "max_temp_directory_size": SPILL_LIMIT,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
        # The batch file changes its content, not its name.
        "enable_external_file_cache": False,
    }


def s3_secret(settings: Lake) -> str:
    """Return the statement that gives DuckDB the keys of the object store."""
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    if key is None or secret is None:
        raise StoreUnavailable("the lake needs keys for its object store", 60)
    options = {
        "KEY_ID": key.get_secret_value(),
        "SECRET": secret.get_secret_value(),
        "REGION": settings.s3_region,
    }
    more = ""
    if settings.s3_endpoint is not None:
        parts = urlsplit(settings.s3_endpoint)
        options |= {"ENDPOINT": f"{parts.netloc}{parts.path}", "URL_STYLE": "path"}
        more = f", USE_SSL {'true' if parts.scheme == 'https' else 'false'}"
    shown = ", ".join(f"{name} {quoted(value)}" for name, value in options.items())
    return f"CREATE SECRET lake_s3 (TYPE s3, {shown}{more})"

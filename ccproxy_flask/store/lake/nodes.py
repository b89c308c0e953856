"""The nodes of a lake: which one this is, and what all of them say of themselves."""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import UTC
from typing import TYPE_CHECKING, Any

import structlog

from ccproxy_flask.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    import psycopg

    from .catalogue import Catalogue, Node

log = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
"""Between two reports of a node."""
_ID = re.compile(r"[0-9a-f]{32}")
_FILE = "node-id"
_REPORT = (
    "UPDATE ccproxy.nodes SET seen_at = now(), backlog_bytes = %s, lag_seconds = %s, reason = %s, "
    "committed_at = coalesce(%s, committed_at) WHERE id = %s"
)

Report = tuple[int, float, str | None, Any]
"""Bytes and seconds of backlog, what is wrong, and when something was stored last."""


def node_id(journal: Path) -> str:
    """Return the id of the node whose journal is in the directory *journal*, made once.

    It is as old as the journal: a host's name may change, or be that of two.
    """
    path = journal / _FILE
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        text = os.urandom(16).hex()
        new = path.with_name(f"{_FILE}.new")
        new.write_text(text + "\n", encoding="ascii")
        new.chmod(0o600)
        new.replace(path)
    if not _ID.fullmatch(text):
        raise StoreUnavailable(f"{path} has no node's id in it", 60)
    return text


class Heart:
    """Reports what *report* returns, and reads what others do, about once a second in a thread."""

    def __init__(self, catalogue: Catalogue, report: Callable[[], Report]) -> None:
        self._catalogue, self._report = catalogue, report
        self._nodes: list[Node] = []
        self._read_at = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="lake-heart")
        self._thread.start()

    def nodes(self) -> list[dict[str, Any]]:
        """Return what each node said last, as JSON has it."""
        passed = time.monotonic() - self._read_at
        return [
            {
                "node": one.name,
                "seen_seconds_ago": round(one.seconds_ago + passed, 1),
                "last_commit": one.committed_at and _stamp(one.committed_at),
                "backlog_bytes": one.backlog_bytes,
                "writer_lag_seconds": round(one.lag_seconds, 3),
                "reason": one.reason,
            }
            for one in list(self._nodes)
        ]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._catalogue.session("heart") as connection:
                    while not self._stopping.wait(BEAT_SECONDS):
                        self._beat(connection)
            except StoreUnavailable as error:
                log.debug("lake_not_told", reason=str(error))
                self._stopping.wait(BEAT_SECONDS)

    def _beat(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(_REPORT, [*self._report(), self._catalogue.node_id])
        self._nodes = self._catalogue.nodes(connection)
        self._read_at = time.monotonic()

    def close(self) -> None:
        """End it, as far as the catalogue lets it."""
        self._stopping.set()
        self._thread.join(0.5)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")

"""Moves rows from one store to another, so often as is wanted: what is there is not added again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from .base import Cursor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .base import LogFilter, RecordingStore, Store

PAGE_ROWS = 5_000


def transfer(source: Store, target: RecordingStore, where: LogFilter) -> Iterator[tuple[int, int]]:
    """Add the rows of *source* that *where* means to *target*, newest first.

    Gives, from time to time, how many were seen, and how many of these were missing. What was given
    is there for good. Raises StoreUnavailable.
    """
    seen = added = 0
    cursor: Cursor | None = None
    while True:
        page = source.query(where, PAGE_ROWS, cursor)
        lines = {row["request_id"]: orjson.dumps(row) for row in page.rows}
        if lines:
            added += target.append_missing(lines, [], {})
            target.settle()
        seen += len(lines)
        yield seen, added
        if page.next_cursor is None:
            return
        cursor = Cursor.parse(page.next_cursor)

"""Lets rows say what only their content tells: that it is not kept, and their conversation."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ccproxy_flask.store.base import RecordingStore

SETTLE_SECONDS = 20.0
"""So long after its row a content may still come: a worker keeps it for a recorder that starts."""
LOOK_BACK_SECONDS = 3600.0
"""Rows that ended in this time before a recorder's start are looked at again."""
_MOST = 100_000
_AT_ONCE = 1_000
_PAUSE_SECONDS = 0.5


class ContentRows:
    """Looks at each row that says ``kept`` once, when what belongs to it must have come.

    *having* returns those of some request ids that are kept, each with its session or
    conversation, *is_pending* tells of one whether that is still open.
    """

    def __init__(
        self,
        having: Callable[[Sequence[str]], Mapping[str, str | None]],
        is_pending: Callable[[str], bool],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._having, self._is_pending, self._settle = having, is_pending, settle_seconds
        self._claims: dict[str, float] = {}
        """When rows were stored that say ``kept``, by request id; the oldest first."""
        self._lost: dict[str, None] = {}
        """What is not kept, for sure. Its row may be stored later."""
        self._named: dict[str, str] = {}
        """Conversations by request id, and *renamed*: by their old names."""
        self._renamed: dict[str, str] = {}
        self._losing = threading.Lock()
        self._looked_at = float("-inf")

    def claim(self, request_ids: Iterable[str]) -> None:
        """Note rows that were stored and say ``kept``."""
        self._claims.update(dict.fromkeys(request_ids, time.monotonic()))
        _shorten(self._claims)

    def lose(self, request_id: str) -> None:
        """Note that a content is not kept. From any thread."""
        with self._losing:
            self._lost[request_id] = None
            _shorten(self._lost)

    def name(self, named: Mapping[str, str], renamed: Mapping[str, str]) -> None:
        """Note the conversations of requests, and which have another name. From any thread."""
        with self._losing:
            self._named.update(named)
            self._renamed.update(renamed)
            _shorten(self._named)
            _shorten(self._renamed)

    def begin(self, rows: RecordingStore) -> None:
        """Look at the rows, too, that another recorder stored."""
        self.claim(rows.content_kept_since(LOOK_BACK_SECONDS, _MOST))

    def step(self, rows: RecordingStore) -> int:
        """Let some rows say ``dropped``, or their conversation; return how many say ``dropped``.

        Raises what *having* and *rows* raise; what was not done then is done by a later call."""
        now = time.monotonic()
        if now - self._looked_at < min(_PAUSE_SECONDS, self._settle):
            return 0
        self._looked_at = now
        with self._losing:
            lost = list(self._lost.keys() & self._claims.keys())[:_AT_ONCE]
        due = self._due(now)
        kept = self._having(due) if due else {}
        doomed = {*lost, *due} - kept.keys()
        found = {each: name for each, name in kept.items() if name is not None}
        if not self._tell_names(rows, found):
            return 0
        changed = rows.content_dropped(sorted(doomed)) if doomed else 0
        if changed is None:
            return 0
        with self._losing:
            for request_id in {*lost, *due}:
                self._claims.pop(request_id, None)
                self._lost.pop(request_id, None)
        return changed

    def _tell_names(self, rows: RecordingStore, found: Mapping[str, str]) -> bool:
        """Tell *rows* the conversations that are known; False where that is not possible now."""
        with self._losing:
            stored = list(self._named.keys() & self._claims.keys())[:_AT_ONCE]
            named = {**found, **{each: self._named[each] for each in stored}}
            renamed = dict(self._renamed)
        if not named and not renamed:
            return True
        if rows.name_conversations(named, renamed) is None:
            return False
        with self._losing:
            for each in stored:
                self._named.pop(each, None)
            for old in renamed:
                self._renamed.pop(old, None)
        return True

    def _due(self, now: float) -> list[str]:
        ripe = itertools.takewhile(lambda each: now - each[1] >= self._settle, self._claims.items())
        settled = (request_id for request_id, _ in ripe if not self._is_pending(request_id))
        return list(itertools.islice(settled, _AT_ONCE))


def _shorten(found: dict[str, Any]) -> None:
    while len(found) > _MOST:
        del found[next(iter(found))]


UNREADABLE = (sqlite3.Error, OSError)
"""What *having* may raise where content cannot be read."""

"""What was said, in the recorder: taken from the workers, kept, and answered from."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from ccproxy_flask.content.intake import Intake
from ccproxy_flask.content.questions import ContentQuestions
from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ccproxy_flask.settings import Settings


class ContentKeeping:
    """Takes content where it is to be kept, and answers questions about what was kept before."""

    def __init__(self, settings: Settings, on_drop: Callable[[str, str], None]) -> None:
        options = settings.capture
        self._store = ContentStore(
            settings.content_directory, options.max_bytes, options.retention_days
        )
        self._questions = ContentQuestions(self._store)
        self._intake: Intake | None = None
        if settings.capturing:
            self._intake = Intake(
                settings.content_socket, self._store, options.queue_bytes, on_drop
            )
        self._views: dict[str, Callable[..., bytes]] = {
            "/content": self._questions.content,
            "/content/diff": self._questions.diff,
            "/content/search": self._questions.search,
        }

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Answer the question *path*. Raises ContentNotKept, StoreUnavailable, KeyError."""
        try:
            return self._views[path](**asked), {}
        except sqlite3.Error as error:
            raise StoreUnavailable(f"what was said cannot be read: {error}") from error

    def status(self) -> dict[str, int]:
        """Return how many bytes are kept, and how many wait to be."""
        waiting = self._intake.waiting_bytes if self._intake is not None else 0
        return {"bytes": self._store.size(), "waiting_bytes": waiting}

    def reset(self) -> None:
        """Delete everything."""
        self._store.reset()

    def close(self) -> None:
        """Keep what is whole, and end."""
        if self._intake is not None:
            self._intake.close()
        else:
            self._store.close()

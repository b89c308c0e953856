"""What was said, in the recorder: taken from the workers, kept, and answered from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from ccproxy_flask.content.intake import Intake
from ccproxy_flask.content.questions import ContentQuestions
from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.errors import ContentNotKept, StoreUnavailable

from .content_rows import UNREADABLE, ContentRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ccproxy_flask.content.cache_parts import Prompt
    from ccproxy_flask.settings import Settings
    from ccproxy_flask.store.base import RecordingStore

log = structlog.get_logger(__name__)


class ContentKeeping:
    """Takes content where it is to be kept, and answers questions about what was kept before.

    *on_drop* is called with a reason for each exchange whose content could not be kept; *elsewhere*
    with the id of a request, for the name of another machine that keeps what was said in it.
    """

    def __init__(
        self,
        settings: Settings,
        on_drop: Callable[[str], None],
        elsewhere: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._elsewhere = elsewhere
        options = settings.capture
        self._store = ContentStore(
            settings.content_directory, options.max_bytes, options.retention_days
        )
        self._questions = ContentQuestions(self._store)
        self._on_drop = on_drop
        self._intake: Intake | None = None
        self.rows = ContentRows(self._store.sessions_of, self._is_pending)
        if settings.capturing:
            self._intake = self._taking(settings)
        self._views: dict[str, Callable[..., bytes]] = {
            "/content": self._questions.content,
            "/content/diff": self._questions.diff,
            "/content/search": self._questions.search,
        }

    def _taking(self, settings: Settings) -> Intake | None:
        try:
            return Intake(
                settings.content_socket,
                self._store,
                settings.capture.queue_bytes,
                self._lost,
                self.rows.name,
            )
        except OSError as error:
            log.error("content_not_taken", reason=str(error))  # noqa: TRY400  a fact
            return None

    def _lost(self, request_id: str, reason: str) -> None:
        self.rows.lose(request_id)
        self._on_drop(reason)
        log.debug("content_dropped", request_id=request_id, reason=reason)

    def _is_pending(self, request_id: str) -> bool:
        return self._intake is not None and self._intake.holds(request_id)

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Answer the question *path*. Raises ContentNotKept, StoreUnavailable, KeyError."""
        try:
            return self._views[path](**asked), {}
        except ContentNotKept as error:
            raise ContentNotKept(str(error), self._elsewhere(str(error))) from error
        except UNREADABLE as error:
            raise StoreUnavailable(f"what was said cannot be read: {error}") from error

    def check_rows(self, rows: RecordingStore) -> int:
        """Let some rows say that their content is not kept; return how many.

        Raises StoreUnavailable.
        """
        try:
            return self.rows.step(rows)
        except UNREADABLE:
            return 0  # nobody knows what is kept: later

    def prompts(self, request_ids: Iterable[str]) -> dict[str, tuple[dict[str, Any], Prompt]]:
        """Return the facts of requests, and what a cache looks at in them, as far as that is
        kept."""
        try:
            return self._questions.prompts(request_ids)
        except UNREADABLE as error:
            log.warning("content_not_read", reason=str(error))
            return {}

    def first_words(self, request_id: str | None) -> str | None:
        """Return how the person began the conversation that a request carries; None: not kept."""
        try:
            return self._questions.first_words(request_id) if request_id is not None else None
        except UNREADABLE as error:
            log.warning("content_not_read", reason=str(error))
            return None

    def status(self) -> dict[str, int]:
        """Return how many bytes are kept, and how many wait to be. Raises OSError."""
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

"""Looks after a store while it is open, in a thread of its own, at half speed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from ccproxy_flask.errors import StoreUnavailable

from .scheduling import yield_to_ingest

if TYPE_CHECKING:
    from ccproxy_flask.store.base import RecordingStore

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 10.0
"""Between two looks, where the one before found nothing to do."""
AGAIN_SECONDS = 60.0
"""After a step that failed."""
_LEAST_PAUSE = 0.01


class Maintenance:
    """Calls ``maintain`` of *store* until :meth:`stop`."""

    def __init__(self, store: RecordingStore) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="maintenance")
        self._thread.start()

    def _run(self) -> None:
        yield_to_ingest()
        while not self._stopping.is_set():
            began = time.monotonic()
            more = self._step()
            # Half of the time is for those who write and ask.
            pause = time.monotonic() - began + _LEAST_PAUSE
            self._stopping.wait(pause if more else pause + self._wait)

    def _step(self) -> bool:
        self._wait = INTERVAL_SECONDS
        try:
            return self._store.maintain()
        except StoreUnavailable as error:
            if not self._stopping.is_set() and self._store.usable:
                log.warning("store_not_maintained", reason=str(error))
        except Exception:  # a defect here must not end all recording
            log.exception("store_not_maintained")
        self._wait = AGAIN_SECONDS
        return False

    def stop(self) -> None:
        """End it after the step that runs; whoever closes the store breaks that off."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

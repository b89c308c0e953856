"""The product's gunicorn settings, and a watch over the hub of each worker.

For servers under test: whatever keeps a worker's thread computing for over LIMIT_SECONDS without
giving others their turn is written, as a line of JSON, to the file that HUB_WATCH names. Computing,
and not time gone by: on a busy machine a thread is often interrupted, and does not compute
meanwhile. What it computes takes longer there, too, so that is measured, and the limit with it.
"""

from __future__ import annotations

import gc
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from ccproxy_flask.gunicorn_config import *  # noqa: F403  gunicorn takes every name
from ccproxy_flask.gunicorn_config import post_worker_init as _post_worker_init

# What the hub may be held is 20 ms. Beside two other test processes a turn of 12 takes up to 30,
# so only what is clearly over it fails any test; tests/test_hub.py looks at the worst cases.
LIMIT_SECONDS = float(os.environ.get("HUB_WATCH_SECONDS", "0.060"))

# What `_work` takes on the machine of the figures in benchmarks/README.md, otherwise idle.
_WORK_SECONDS = 0.0012


def _work() -> float:
    """Return the seconds that a known piece of work takes now."""
    began = time.thread_time()
    sum(range(100_000))
    return time.thread_time() - began


class HubWatch:
    """Measures each turn of a greenlet, and each round of the hub's own callbacks."""

    def __init__(self, path: Path, greenlet: Any, hub: Any) -> None:
        self._path, self._hub = path, hub
        self._began = time.thread_time()
        self._collections: list[int] = []
        gc.callbacks.append(self._collected)
        # Before it waits for events, the loop has gone through all that there was to do.
        self._before_waiting = hub.loop.prepare()
        self._before_waiting.start(self._turn_ended, hub)
        greenlet.settrace(lambda _event, greenlets: self._turn_ended(greenlets[0]))

    def _turn_ended(self, greenlet: Any) -> None:
        now = time.thread_time()
        took, self._began = now - self._began, now
        if took >= LIMIT_SECONDS:
            slowness = max(1.0, *(_work() / _WORK_SECONDS for _ in range(3)))
            if took >= LIMIT_SECONDS * slowness:
                self._tell(took, greenlet)
            self._began = time.thread_time()
        self._collections.clear()

    def _collected(self, phase: str, facts: dict[str, int]) -> None:
        if phase == "stop":
            self._collections.append(facts["generation"])

    def _tell(self, took: float, greenlet: Any) -> None:
        found = traceback.extract_stack(greenlet.gr_frame)[-25:]
        stack = [f"{at.filename}:{at.lineno} {at.name}" for at in found]
        told = {"seconds": round(took, 4), "pid": os.getpid(), "collections": self._collections}
        line = json.dumps({**told, "stack": stack})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def post_worker_init(worker: Any) -> None:
    """Do what the product does, then begin to watch."""
    _post_worker_init(worker)
    # Only now: nothing of gevent is imported before it has patched the worker.
    import greenlet  # noqa: PLC0415
    from gevent import get_hub  # noqa: PLC0415

    worker.hub_watch = HubWatch(Path(os.environ["HUB_WATCH"]), greenlet, get_hub())

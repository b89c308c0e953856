"""The recorder's rank among the processes of a machine, and that of its threads.

Records can wait for a moment; requests cannot. On Linux, niceness and policy are those of a thread,
and of those that it starts (sched(7)).
"""

from __future__ import annotations

import contextlib
import os
import threading

_NICE, _NICEST = 5, 19
_known = threading.local()


def yield_to_workers() -> None:
    """Let this process, its later threads included, never take a core from who wants it."""
    os.nice(_NICE)
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(PermissionError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def yield_to_ingest() -> None:
    """Let this thread have what the others leave: large questions, and what can wait longer."""
    if getattr(_known, "yields", False) or not hasattr(os, "sched_setscheduler"):
        return
    _known.yields = True
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICEST)

"""The files of a journal: their names, their list, and whether their writers live.

``<worker id>-<number, 8 digits>.ndjson``; the worker id (32 hex digits) is unique for each life of
a process, and sorts by its time of birth. A worker holds a lock (``flock``) on the segment it
appends to, and has the next one in place, locked, before it lets go of it: so a worker whose newest
segment is not locked is dead.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"([0-9a-f]{32})-([0-9]{8})\.ndjson")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of a journal: *size* in bytes and *modified* (seconds since 1970) when listed."""

    worker: str
    number: int
    size: int = 0
    modified: float = 0.0

    @property
    def name(self) -> str:
        """The file's name, which is also its name in the store's marks."""
        return segment_name(self.worker, self.number)


def segment_name(worker: str, number: int) -> str:
    """Return the file name of the segment *number* of a worker."""
    return f"{worker}-{number:08d}.ndjson"


def list_segments(directory: Path) -> list[Segment]:
    """Return the segments in *directory*, those of a worker together and in order.

    A missing directory has none. Raises OSError where it cannot be read.
    """
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if match := _NAME.fullmatch(entry.name):
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    found.append(Segment(match[1], int(match[2]), facts.st_size, facts.st_mtime))
    except FileNotFoundError:
        return []
    return sorted(found)


def by_worker(segments: list[Segment]) -> dict[str, list[Segment]]:
    """Return *segments* (as listed) for each worker, oldest first."""
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        groups.setdefault(segment.worker, []).append(segment)
    return groups


def is_locked(path: Path) -> bool:
    """Tell whether a worker holds the segment at *path*; a missing one is held by nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_alive(directory: Path, newest: Segment) -> bool:
    """Tell whether the worker whose newest known segment is *newest* lives.

    A worker that has moved on meanwhile lives: its next segment was in place before it let go.
    """
    if is_locked(directory / newest.name):
        return True
    return (directory / segment_name(newest.worker, newest.number + 1)).exists()

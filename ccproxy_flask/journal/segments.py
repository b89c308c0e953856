"""The files of a journal: their names, their list, and whether their writers live.

``<worker id>-<number, 8 digits>.ndjson``; the worker id (32 hex digits) is unique for each life of
a process, and sorts by its time of birth. A worker holds a lock (``flock``) on the segment it
appends to, and has the next one in place, locked, before it lets go of it: so a worker whose newest
segment is not locked is dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ccproxy_flask.folders import make_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# No worker is born that late.
_MIRROR = "f" * 8
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


def mirror_id() -> str:
    """Return a new worker id for what was stored on other machines: shown, and not stored again."""
    return _MIRROR + os.urandom(12).hex()


def list_segments(
    directory: Path,
    on_foreign: Callable[[str], None] | None = None,
    *,
    mirrors: bool | None = False,
) -> list[Segment]:
    """Return the segments in *directory*, those of a worker together and in order; with *mirrors*
    those of other machines' records (:func:`mirror_id`) instead, with None both.

    A missing directory has none. What has the name of a segment and is no regular file of ours is
    passed over; *on_foreign* gets its name. Raises OSError where the directory cannot be read.
    """
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match and mirrors in (None, match[1].startswith(_MIRROR)):
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if is_own(facts):
                        size, modified = facts.st_size, facts.st_mtime
                        found.append(Segment(match[1], int(match[2]), size, modified))
                    elif on_foreign is not None:
                        on_foreign(entry.name)
    except FileNotFoundError:
        return []
    return sorted(found)


def is_own(facts: os.stat_result) -> bool:
    """Tell whether *facts* are those of a regular file of this process's user."""
    return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()


def open_own(path: Path) -> int:
    """Open a regular file of ours to read it, and nothing else: no link is followed, and nothing
    that is no file is waited for. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if is_own(os.fstat(fd)):
        return fd
    os.close(fd)
    raise PermissionError(errno.EACCES, "not a regular file of ours", str(path))


def private_directory(path: Path) -> None:
    """Make the directory *path* for this user alone; PermissionError where it is another's."""
    make_private(path)
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else")


def by_worker(segments: list[Segment]) -> dict[str, list[Segment]]:
    """Return *segments* (as listed) for each worker, oldest first."""
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        groups.setdefault(segment.worker, []).append(segment)
    return groups


def is_locked(path: Path) -> bool:
    """Tell whether a worker holds the segment at *path*; a missing one is held by nobody."""
    try:
        fd = open_own(path)
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

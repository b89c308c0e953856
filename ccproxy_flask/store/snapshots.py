"""Copies of the recent rows as Parquet files, for readers that are processes of their own. Pure."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_PATIENCE = 3.0
"""A copy that took a second to make serves for so many seconds, whatever is new meanwhile."""


@dataclass(eq=False, slots=True)
class _Snapshot:
    path: Path
    made: Mapping[str, str]
    version: int
    good_until: float
    readers: int = 0


class Snapshots:
    """Files in *directory*. *make* is given the path of a new one, and returns what readers need.

    *version* changes with the rows. A file goes when there is a newer one and nobody reads it.
    """

    def __init__(
        self, directory: Path, make: Callable[[Path], Mapping[str, str]], version: Callable[[], int]
    ) -> None:
        self._directory, self._make, self._version = directory, make, version
        self._lock = threading.Lock()
        self._newest: _Snapshot | None = None
        self._number = 0

    @contextmanager
    def lease(self) -> Iterator[Mapping[str, str]]:
        """What *make* returned for a file that is there for the length of the block.

        Raises what *make* does.
        """
        with self._lock:
            snapshot = self._fresh()
            snapshot.readers += 1
        try:
            yield snapshot.made
        finally:
            with self._lock:
                snapshot.readers -= 1
                self._remove_unread(snapshot)

    def _fresh(self) -> _Snapshot:
        version, began = self._version(), time.monotonic()
        last = self._newest
        if last is not None and (last.version == version or began < last.good_until):
            return last
        self._number += 1
        path = self._directory / f"recent-{self._number}.parquet"
        try:
            made = self._make(path)
        except BaseException:
            _remove(path)
            raise
        now = time.monotonic()
        self._newest = _Snapshot(path, made, version, now + _PATIENCE * (now - began))
        if last is not None:
            self._remove_unread(last)
        return self._newest

    def _remove_unread(self, snapshot: _Snapshot) -> None:
        if snapshot is not self._newest and not snapshot.readers:
            _remove(snapshot.path)

    def close(self) -> None:
        """Let go of the newest file, which nobody is to ask for any more."""
        with self._lock:
            last, self._newest = self._newest, None
            if last is not None:
                self._remove_unread(last)


def beside(path: Path) -> Path:
    """Return where the copy of the limits is that belongs to the copy of rows at *path*."""
    return path.with_name(f"{path.name}.limits")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    beside(path).unlink(missing_ok=True)

"""Rows on their way into the database."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class BatchFile:
    """Rows on their way in: a file without a place on any disk, which DuckDB reads by its path."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd, self._named = os.memfd_create("ccproxy-batch"), None
            self.path = f"/proc/self/fd/{self._fd}"
        else:
            self._fd, self._named = tempfile.mkstemp(prefix="ccproxy-", suffix=".ndjson")
            self.path = self._named

    def fill(self, rows: Sequence[bytes]) -> None:
        """Let the file have these *rows* and nothing else."""
        os.ftruncate(self._fd, 0)
        rest = memoryview(b"\n".join(rows) + b"\n")
        offset = 0
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        os.close(self._fd)
        if self._named is not None:
            Path(self._named).unlink(missing_ok=True)

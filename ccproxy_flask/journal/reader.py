"""Read whole lines of a segment from an offset."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .segments import open_own

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_LINE = 1 << 20
"""More bytes than this without a newline are damage, and are passed over."""


def read_lines(path: Path, offset: int, limit: int = 1 << 20) -> tuple[list[bytes], int]:
    """Return the whole lines from *offset* on, about *limit* bytes of them, and where they end.

    The rest after the last newline stays for later. Raises OSError (FileNotFoundError where the
    segment is gone).
    """
    data = _read(path, offset, limit)
    end = data.rfind(b"\n") + 1
    if end == 0 and len(data) >= limit:
        data = _read(path, offset, LONGEST_LINE)
        end = data.rfind(b"\n") + 1 or (len(data) if len(data) >= LONGEST_LINE else 0)
    whole = data[: end - data.endswith(b"\n", 0, end)]
    return (whole.split(b"\n") if end else []), offset + end


def read_rest(path: Path, offset: int) -> bytes:
    """Return all after *offset*: of a dead worker, what stands behind its last newline."""
    return _read(path, offset, LONGEST_LINE)


def _read(path: Path, offset: int, limit: int) -> bytes:
    fd = open_own(path)
    try:
        return os.pread(fd, limit, offset)
    finally:
        os.close(fd)

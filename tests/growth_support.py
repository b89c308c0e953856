"""How the time of a piece of work grows with its size: that is the same on a slow machine."""

from __future__ import annotations

import time
from collections.abc import Callable

FACTOR = 4
PROPORTIONAL = FACTOR**1.5
"""Below it time grows with the size, above it with the square: that would be FACTOR squared."""


def growth(work: Callable[[int], object], size: int) -> float:
    """Return how many times as long *work* takes for FACTOR times the *size*, in CPU time."""
    return _seconds(work, size * FACTOR) / _seconds(work, size)


def _seconds(work: Callable[[int], object], size: int) -> float:
    return min(_once(work, size) for _ in range(3))


def _once(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began

"""Least squares with factors that are none below 0, for a few columns. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

Column = Sequence[float]
_TINY = 1e-12


def weighted_nnls(columns: Sequence[Column], moved: Column, weights: Column) -> list[float]:
    """Return the factors, none below 0, with which the *columns* come closest to *moved*."""
    gram, scales = _gram(columns, weights)
    wanted = list(map(mul, moved, weights))
    aims = [
        sum(map(mul, column, wanted)) / scale for column, scale in zip(columns, scales, strict=True)
    ]
    found = _active_set(gram, aims)
    return [value / scale for value, scale in zip(found, scales, strict=True)]


def _gram(columns: Sequence[Column], weights: Column) -> tuple[list[list[float]], list[float]]:
    """Return the products of the columns, each scaled to length 1, and the lengths."""
    weighed = [list(map(mul, column, weights)) for column in columns]
    scales = [
        math.sqrt(sum(map(mul, column, heavy))) or 1.0
        for column, heavy in zip(columns, weighed, strict=True)
    ]
    gram = [[0.0] * len(columns) for _ in columns]
    for row, heavy in enumerate(weighed):
        for at in range(row + 1):
            product = sum(map(mul, heavy, columns[at])) / (scales[row] * scales[at])
            gram[row][at] = gram[at][row] = product
    return gram, scales


def _active_set(gram: Sequence[Sequence[float]], aims: Sequence[float]) -> list[float]:
    """Lawson and Hanson, "Solving Least Squares Problems", chapter 23, on the products."""
    found = [0.0] * len(aims)
    passive: list[int] = []
    tolerance = 1e-9 * max((abs(aim) for aim in aims), default=0.0)
    for _ in range(3 * len(aims) + 3):
        slopes = [aim - sum(map(mul, row, found)) for aim, row in zip(aims, gram, strict=True)]
        waiting = [at for at in range(len(aims)) if at not in passive and slopes[at] > tolerance]
        if not waiting:
            break
        passive.append(max(waiting, key=slopes.__getitem__))
        while passive:
            trial = solved(
                [[gram[a][b] for b in passive] for a in passive], [aims[a] for a in passive]
            )
            if min(trial) > 0:
                for at, value in zip(passive, trial, strict=True):
                    found[at] = value
                break
            _step_back(found, passive, trial)
    return found


def _step_back(found: list[float], passive: list[int], trial: Sequence[float]) -> None:
    """Go towards *trial* until the first factor is 0, which is passive no longer."""
    pairs = list(zip(passive, trial, strict=True))
    share = min(
        found[at] / (found[at] - value) if found[at] > value else 0.0
        for at, value in pairs
        if value <= 0
    )
    for at, value in pairs:
        found[at] += share * (value - found[at])
        if value <= 0 and found[at] <= _TINY:
            found[at] = 0.0
            passive.remove(at)


def solved(matrix: list[list[float]], aims: Sequence[float]) -> list[float]:
    """Solve a symmetric system; a bit of a ridge keeps what cannot be told apart bounded."""
    size = len(aims)
    rows = [[*line, aim] for line, aim in zip(matrix, aims, strict=True)]
    for at in range(size):
        rows[at][at] += 1e-9
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(rows[row][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for below in range(at + 1, size):
            if factor := rows[below][at] / rows[at][at]:
                rows[below] = [a - factor * b for a, b in zip(rows[below], rows[at], strict=True)]
    found = [0.0] * size
    for at in reversed(range(size)):
        rest = rows[at][size] - sum(map(mul, rows[at][at + 1 : size], found[at + 1 :]))
        found[at] = rest / rows[at][at]
    return found


def spreads(columns: Sequence[Column], weights: Column) -> list[float]:
    """Return how much each factor moves with noise of 1: roots of the inverse's diagonal."""
    gram, scales = _gram(columns, weights)
    found = []
    for at, scale in enumerate(scales):
        unit = [float(at == other) for other in range(len(scales))]
        found.append(math.sqrt(max(solved([list(row) for row in gram], unit)[at], 0.0)) / scale)
    return found

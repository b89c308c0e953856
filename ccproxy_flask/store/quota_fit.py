"""What a token of each kind takes of a window, found out from the window's own history. Pure.

A window's moves are sums: move = weight · tokens, over the kinds of tokens of each model, plus what
others used on the same account. The method: moves are put together into blocks, as a request that
crosses a step belongs half to the next one; non-negative least squares over the blocks, begun with
least absolute deviations (iteratively reweighted), which what others used in bursts does not
mislead; then again without the blocks that stand out. Use by others that goes on all the time is
found as a share per hour, where that explains the moves much better. Intervals are those of the
least squares (95 %), of the blocks that were taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .nnls import spreads, weighted_nnls

Column = Sequence[float]

LEAST_BLOCKS = 3
"""So many blocks are needed for each weight."""
_LARGEST_BLOCK = 6
_LONGEST_RUN = 60
_ROUNDS = 12
_OUTLIER = 3.0
_BETTER = 0.75
_TINY = 1e-12
# Of 95 %, were the rows strangers to each other; each level has much of the one before.
_WIDTH = 1.96 * 1.5


@dataclass(slots=True)
class Step:
    """One move of a window: by *moved*, in so many *seconds*, while *use* (one figure for each
    weight) was counted; *last* of that was the request just before the move."""

    moved: float
    seconds: float
    use: list[float]
    last: list[float]
    period: int
    fits: bool = True
    """False for the first of a period: where in the rounding it began is not known."""


@dataclass(slots=True)
class Fit:
    """The *weights* found, each with the half width of its 95 % interval; *per_second* is what
    others use all the time; *noise* is the standard deviation of a block."""

    weights: list[float]
    widths: list[float]
    per_second: float = 0.0
    noise: float = 0.0
    blocks: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Block:
    """Moves that follow each other."""

    moved: float
    seconds: float
    use: list[float]
    steps: list[int] = field(default_factory=list)


def blocks_of(steps: Sequence[Step], size: int, *, all_steps: bool = False) -> list[Block]:
    """Return *steps* put together, so many in a block, none over the end of a period."""
    found: list[Block] = []
    period = None
    for number, step in enumerate(steps):
        if not (step.fits or all_steps):
            period = None
            continue
        if step.period != period or len(found[-1].steps) >= size:
            found.append(Block(0.0, 0.0, [0.0] * len(step.use)))
            period = step.period
        block = found[-1]
        before = steps[number - 1].last if number and step.fits else None
        block.moved += step.moved
        block.seconds += step.seconds
        block.steps.append(number)
        for at, use in enumerate(step.use):
            # The request that crossed the step: about half of it is of the next one.
            half = (before[at] - step.last[at]) / 2 if before is not None else 0.0
            block.use[at] += use + half
    return found


def block_size(steps: int, weights: int) -> int:
    """Return how many of so many steps make a block."""
    return max(1, min(_LARGEST_BLOCK, steps // (4 * LEAST_BLOCKS * max(weights, 1))))


def fit(steps: Sequence[Step]) -> Fit | None:
    """Return the weights of *steps*; None where there are too few of them."""
    usable = [step for step in steps if step.fits]
    if not usable:
        return None
    weights = len(usable[0].use)
    blocks = blocks_of(steps, block_size(len(usable), weights))
    if len(blocks) < max(LEAST_BLOCKS * weights, 8):
        return None
    columns = [[block.use[at] for block in blocks] for at in range(weights)]
    moved = [block.moved for block in blocks]
    alone, taken = _robust(columns, moved)
    steady, taken_steady = _robust([*columns, [block.seconds for block in blocks]], moved)
    if steady.noise < _BETTER * alone.noise:
        found = _by_levels(steps, blocks, taken_steady, steady, timed=True)
        found.per_second = found.weights.pop()
        found.widths.pop()
        return found
    return _by_levels(steps, blocks, taken, alone)


def _by_levels(
    steps: Sequence[Step],
    blocks: Sequence[Block],
    taken: Sequence[float],
    rough: Fit,
    *,
    timed: bool = False,
) -> Fit:
    """Fit again, by how full the window was at each step of a run of blocks that were *taken*.

    Where one step ends too late, the next one begins too late: the errors of steps take each
    other back, which sums over a run keep, and single steps do not.
    """
    rows: list[list[float]] = []
    run: list[list[float]] = []
    for at, (block, take) in enumerate(zip(blocks, taken, strict=True)):
        follows = (
            at > 0 and blocks[at - 1].steps[-1] + 1 == block.steps[0] and steps[block.steps[0]].fits
        )
        if not take or not follows or len(run) >= _LONGEST_RUN:
            rows += _centred(run)
            run = []
        if take:
            _extend(run, steps, block, timed=timed)
    rows += _centred(run)
    *columns, levels = zip(*rows, strict=True) if rows else [()]
    found = weighted_nnls(columns, levels, [1.0] * len(levels))
    fine = _described(columns, levels, found, [1.0] * len(levels))
    fine.blocks, fine.left_out = rough.blocks, rough.left_out
    return fine


def _extend(run: list[list[float]], steps: Sequence[Step], block: Block, *, timed: bool) -> None:
    """Add the levels after the steps of *block*: sums since the beginning of the run."""
    before = run[-1] if run else None
    for number in block.steps:
        step = steps[number]
        facts = [*step.use, *([step.seconds] if timed else []), step.moved]
        halves = [a / 2 - b / 2 for a, b in zip(steps[number - 1].last, step.last, strict=True)]
        for at, half in enumerate(halves):
            facts[at] += half
        before = facts if before is None else [a + b for a, b in zip(before, facts, strict=True)]
        run.append(before)


def _centred(run: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the rows of *run* without their mean: where it began is not known."""
    if len(run) < 2:
        return []
    means = [sum(column) / len(run) for column in zip(*run, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in run]


def _robust(columns: Sequence[Column], moved: Column) -> tuple[Fit, list[float]]:
    """Fit *moved* by *columns*, whatever a minority of the rows says; also return which were taken
    (1, else 0)."""
    weights = [1.0] * len(moved)
    found = [0.0] * len(columns)
    for _ in range(_ROUNDS):
        found = weighted_nnls(columns, moved, weights)
        rests = _rests(columns, moved, found)
        least = max(_median([abs(rest) for rest in rests]) / 10, _TINY)
        weights = [1 / max(abs(rest), least) for rest in rests]
    taken = _taken(_rests(columns, moved, found))
    for _ in range(_ROUNDS):
        found = weighted_nnls(columns, moved, taken)
        now = _taken(_rests(columns, moved, found))
        if now == taken:
            break
        taken = now
    return _described(columns, moved, found, taken), taken


def _taken(rests: Sequence[float]) -> list[float]:
    """Return 1 for the rows that do not stand out, 0 for the others.

    Others use an account for a while: what is beside a row with too much may have some, too.
    """
    most = _OUTLIER * max(1.4826 * _median([abs(rest) for rest in rests]), _TINY)
    over = [rest > most for rest in rests]
    beside = zip([False, *over], over, [*over[1:], False], strict=False)
    return [
        0.0 if rest < -most or any(near) else 1.0 for rest, near in zip(rests, beside, strict=True)
    ]


def _described(
    columns: Sequence[Column], moved: Column, found: list[float], taken: list[float]
) -> Fit:
    rests = _rests(columns, moved, found)
    count = int(sum(taken))
    free = max(1, count - sum(weight > 0 for weight in found))
    noise = math.sqrt(
        sum(rest * rest * take for rest, take in zip(rests, taken, strict=True)) / free
    )
    spread_of = spreads(columns, taken)
    widths = [
        _WIDTH * noise * spread if any(column) else math.inf
        for spread, column in zip(spread_of, columns, strict=True)
    ]
    return Fit(found, widths, noise=noise, blocks=count, left_out=len(moved) - count)


def _rests(columns: Sequence[Column], moved: Column, found: Sequence[float]) -> list[float]:
    rests = list(moved)
    for weight, column in zip(found, columns, strict=True):
        if weight:
            rests = [rest - weight * use for rest, use in zip(rests, column, strict=True)]
    return rests


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0

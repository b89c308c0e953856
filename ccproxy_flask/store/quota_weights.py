"""What a million tokens takes of a window: its moves, and the weights found from them. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from . import quota_fit
from .quota_fit import Fit, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .quota_periods import Period

Json = dict[str, Any]
KINDS = ("input", "cache_read", "cache_write", "output")
OTHER_MODELS = "other"
LEAST_NOISE = 0.002
_MOST_MODELS = 4
_LEAST_SHARE = 0.02
_UNTOLD = 1.0  # an interval as wide as the weight says nothing
_LEAST_MOVES = 8
_RATIO_ERROR = 0.02
_SAME_FORMULA = 1.1

NO_METER: Json = {
    "method": None,
    "reason": "too_little_known",
    "of": None,
    "blocks": 0,
    "left_out": 0,
    "elsewhere_per_hour": 0.0,
    "per_usd": None,
    "weights": [],
}


class Cell(NamedTuple):
    """What requests of one kind used between two moves: tokens in millions, in KINDS' order."""

    step: int
    session: str | None
    agent: str | None
    model: str | None
    client: str | None
    key: str | None
    requests: int
    cost: float
    tokens: tuple[float, float, float, float]


@dataclass(slots=True)
class Uses:
    """What the requests of an account used, between the moves of any of its windows."""

    times: list[datetime]
    """When there was a move; step *n* has what ended after ``times[n - 1]``, up to ``times[n]``."""
    cells: list[Cell]
    last: dict[int, tuple[str | None, tuple[float, float, float, float]]] = field(
        default_factory=dict
    )
    """Step → model and tokens of the request that ended last before it."""


@dataclass(slots=True)
class Weights:
    """What a million tokens of each kind takes of a window."""

    method: str
    models: list[str]
    fit: Fit
    of: str | None = None

    def of_cell(self, cell: Cell) -> float:
        """Return what *cell* took."""
        if self.method == "by_price":
            return cell.cost * self.fit.weights[0]
        at = _place(self.models, cell.model) * len(KINDS)
        weights = self.fit.weights[at : at + len(KINDS)]
        return sum(tokens * weight for tokens, weight in zip(cell.tokens, weights, strict=True))


@dataclass(slots=True)
class Move:
    """A step of a window with the cells that belong to it."""

    at: datetime
    step: Step
    cells: list[Cell]


def scaled_from(
    moves: Sequence[Move], shorter: Sequence[Move], known: Weights, of: str
) -> Weights | None:
    """Return the weights *known* of a *shorter* window, in the measure of that with *moves*: the
    same use moves both, whoever's it is. None where that is not so, or not known."""
    ratio = _ratio(moves, shorter)
    if ratio is None:
        return None
    fit = known.fit
    scaled = Fit(
        [weight * ratio for weight in fit.weights],
        [
            width * ratio + _RATIO_ERROR * weight * ratio
            for width, weight in zip(fit.widths, fit.weights, strict=True)
        ],
        fit.per_second * ratio,
        max(fit.noise * ratio, LEAST_NOISE),
        fit.blocks,
        fit.left_out,
    )
    weights = Weights("scaled", known.models, scaled, of)
    took = sum(weights.of_cell(cell) for move in moves for cell in move.cells)
    moved = sum(move.step.moved for move in moves)
    return weights if took <= _SAME_FORMULA * moved else None


def _ratio(moves: Sequence[Move], shorter: Sequence[Move]) -> float | None:
    """Return by how much a window moves for each move of a *shorter* one: between its first and its
    last move within a period of that."""
    own = other = 0.0
    count = 0
    times = [move.at for move in moves]
    for period in {move.step.period for move in shorter}:
        inner = [move for move in shorter if move.step.period == period]
        first, last = (bisect_left(times, inner[at].at) for at in (0, -1))
        found = [move for move in moves[first:last] if move.step.fits]
        if len(found) < 2:
            continue
        own += sum(move.step.moved for move in found[1:])
        other += sum(move.step.moved for move in inner if found[0].at < move.at <= found[-1].at)
        count += len(found) - 1
    return own / other if count >= _LEAST_MOVES and own > 0 and other > 0 else None


def models_of(uses: Uses) -> list[str]:
    """Return the models that have weights of their own: those that used most."""
    tokens: dict[str, float] = defaultdict(float)
    for cell in uses.cells:
        tokens[cell.model or OTHER_MODELS] += sum(cell.tokens) + cell.cost
    total = sum(tokens.values())
    named = sorted(tokens, key=tokens.__getitem__, reverse=True)[:_MOST_MODELS]
    return [name for name in named if tokens[name] >= _LEAST_SHARE * total and total > 0]


def _place(models: Sequence[str], model: str | None) -> int:
    """Return which of *models* a *model* is; those that are none of them stand behind them."""
    name = model or OTHER_MODELS
    return models.index(name) if name in models else len(models)


def moves_of(periods: Sequence[Period], uses: Uses, models: list[str]) -> list[Move]:
    """Return the steps of *periods*, each with what was used since the one before."""
    by_step: dict[int, list[Cell]] = defaultdict(list)
    for cell in uses.cells:
        by_step[cell.step].append(cell)
    size = (len(models) + 1) * len(KINDS)
    moves: list[Move] = []
    begin, before = 0, None
    for number, period in enumerate(periods):
        level = 0.0
        for at, row in enumerate(period.rows):
            end = bisect_left(uses.times, row.timestamp) + 1
            cells = [cell for step in range(begin, end) for cell in by_step.get(step, ())]
            is_first = at == 0
            moved = (row.used or 0.0) - level
            seconds = (row.timestamp - before).total_seconds() if before else 0.0
            step = Step(moved, seconds, [0.0] * size, [0.0] * size, number, fits=not is_first)
            for cell in cells:
                _add(step.use, models, cell.model, cell.tokens)
            for last in range(end - 1, begin - 1, -1):
                if last in uses.last:
                    _add(step.last, models, *uses.last[last])
                    break
            if not is_first or period.followed:  # else it was filled before anything is known
                moves.append(Move(row.timestamp, step, cells))
            begin, before, level = end, row.timestamp, row.used or 0.0
    return moves


def _add(
    sums: list[float], models: Sequence[str], model: str | None, tokens: Sequence[float]
) -> None:
    at = _place(models, model) * len(KINDS)
    for kind, count in enumerate(tokens):
        sums[at + kind] += count


def found_from(moves: Sequence[Move], models: list[str]) -> Weights | None:
    """Return weights of the window's own history; where that is too short, by price."""
    steps = [move.step for move in moves]
    if (fit := quota_fit.fit(steps)) is not None and any(fit.weights):
        return Weights("fitted", models, fit)
    moved = sum(move.step.moved for move in moves)
    cost = sum(cell.cost for move in moves for cell in move.cells)
    if moved <= 0 or cost <= 0:
        return None
    return Weights("by_price", models, Fit([moved / cost], [0.0], blocks=len(steps)))


def described(weights: Weights) -> Json:
    """Return how the *weights* were found, and what they are, as the answer has it."""
    fit = weights.fit
    return {
        "method": weights.method,
        "reason": None,
        "of": weights.of,
        "blocks": fit.blocks,
        "left_out": fit.left_out,
        "elsewhere_per_hour": round(fit.per_second * 3600, 6),
        "per_usd": fit.weights[0] if weights.method == "by_price" else None,
        "weights": [] if weights.method == "by_price" else list(_named_weights(weights)),
    }


def _named_weights(weights: Weights) -> list[Json]:
    found = []
    for number, model in enumerate([*weights.models, OTHER_MODELS]):
        for kind, name in enumerate(KINDS):
            at = number * len(KINDS) + kind
            value, width = weights.fit.weights[at], weights.fit.widths[at]
            if math.isinf(width):
                continue  # there were none of these tokens
            found.append(
                {
                    "model": model,
                    "kind": name,
                    "per_million": value,
                    "low": max(value - width, 0.0),
                    "high": value + width,
                    "is_known": width < _UNTOLD * value,
                }
            )
    return found

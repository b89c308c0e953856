"""Who filled a window: each move is shared out over the requests since the one before. Pure."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from . import quota_fit
from .quota_fit import Fit, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .limit_rows import LimitRow
    from .quota_periods import Period

Json = dict[str, Any]
KINDS = ("input", "cache_read", "cache_write", "output")
BY = ("session", "agent", "model", "client", "key")
MOST_NAMED = 50
OTHER_MODELS = "other"
_MOST_MODELS = 4
_LEAST_SHARE = 0.02
_REFIT_SECONDS = 600.0
_MOST_FITS = 64
_UNTOLD = 1.0  # an interval as wide as the weight says nothing
_LEAST_MOVES = 8
_LEAST_NOISE = 0.002
_RATIO_ERROR = 0.02
_SAME_FORMULA = 1.1


_NO_METER: Json = {
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
class _Weights:
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
class _Move:
    """A step of a window with the cells that belong to it."""

    at: datetime
    step: Step
    cells: list[Cell]


@dataclass(slots=True)
class Shared:
    """The moves of a *window*, shared out with *weights*; None: too little is known."""

    window: str
    moves: list[_Move]
    weights: _Weights | None

    def told(self, start: datetime, *, is_current: bool) -> Json:
        """Return ``meter``, ``used_by`` (of the period that runs) and ``used_by_range`` (of all
        moves since *start*)."""
        if self.weights is None:
            return {"meter": _NO_METER, "used_by": None, "used_by_range": None}
        last = self.moves[-1].step.period if self.moves and is_current else None
        now = [move for move in self.moves if move.step.period == last]
        since = [move for move in self.moves if move.at >= start]
        return {
            "meter": _described(self.weights),
            "used_by": _sums(now, self.weights),
            "used_by_range": _sums(since, self.weights),
        }


class Meter:
    """Shares moves out; the weights that it found are used again for a while."""

    def __init__(self) -> None:
        self._fits: dict[tuple[Any, ...], tuple[float, _Weights]] = {}

    def shared(
        self, row: LimitRow, periods: Sequence[Period], uses: Uses, shorter: Shared | None
    ) -> Shared:
        """Share out the moves of the window whose newest row is *row*. A *shorter* one of the same
        account may know better what tokens take."""
        models = _models(uses)
        moves = _moves(periods, uses, models)
        weights = self._known(row, models)
        if weights is None:
            scaled = None if shorter is None or "_" in row.window else _scaled(moves, shorter)
            weights = scaled or _found(moves, models)
            self._remember(row, weights)
        return Shared(row.window, moves, weights)

    def _known(self, row: LimitRow, models: list[str]) -> _Weights | None:
        known = self._fits.get((row.provider, row.account, row.window))
        if known is None or known[1].models != models:
            return None
        return known[1] if time.monotonic() - known[0] < _REFIT_SECONDS else None

    def _remember(self, row: LimitRow, weights: _Weights | None) -> None:
        if len(self._fits) >= _MOST_FITS:
            self._fits.clear()
        if weights is not None and weights.method != "by_price":
            self._fits[row.provider, row.account, row.window] = (time.monotonic(), weights)


def _scaled(moves: Sequence[_Move], shorter: Shared) -> _Weights | None:
    """Return the weights of a *shorter* window in the measure of that with these *moves*: the same
    use moves both, whoever's it is. None where that is not so, or not known."""
    ratio = _ratio(moves, shorter.moves)
    if ratio is None or shorter.weights is None:
        return None
    fit = shorter.weights.fit
    scaled = Fit(
        [weight * ratio for weight in fit.weights],
        [
            width * ratio + _RATIO_ERROR * weight * ratio
            for width, weight in zip(fit.widths, fit.weights, strict=True)
        ],
        fit.per_second * ratio,
        max(fit.noise * ratio, _LEAST_NOISE),
        fit.blocks,
        fit.left_out,
    )
    weights = _Weights("scaled", shorter.weights.models, scaled, shorter.window)
    took = sum(weights.of_cell(cell) for move in moves for cell in move.cells)
    moved = sum(move.step.moved for move in moves)
    return weights if took <= _SAME_FORMULA * moved else None


def _ratio(moves: Sequence[_Move], shorter: Sequence[_Move]) -> float | None:
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


def _models(uses: Uses) -> list[str]:
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


def _moves(periods: Sequence[Period], uses: Uses, models: list[str]) -> list[_Move]:
    by_step: dict[int, list[Cell]] = defaultdict(list)
    for cell in uses.cells:
        by_step[cell.step].append(cell)
    size = (len(models) + 1) * len(KINDS)
    moves: list[_Move] = []
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
                moves.append(_Move(row.timestamp, step, cells))
            begin, before, level = end, row.timestamp, row.used or 0.0
    return moves


def _add(
    sums: list[float], models: Sequence[str], model: str | None, tokens: Sequence[float]
) -> None:
    at = _place(models, model) * len(KINDS)
    for kind, count in enumerate(tokens):
        sums[at + kind] += count


def _found(moves: Sequence[_Move], models: list[str]) -> _Weights | None:
    """Return weights of the window's own history; where that is too short, by price."""
    steps = [move.step for move in moves]
    if (fit := quota_fit.fit(steps)) is not None and any(fit.weights):
        return _Weights("fitted", models, fit)
    moved = sum(move.step.moved for move in moves)
    cost = sum(cell.cost for move in moves for cell in move.cells)
    if moved <= 0 or cost <= 0:
        return None
    return _Weights("by_price", models, Fit([moved / cost], [0.0], blocks=len(steps)))


def _sums(moves: Sequence[_Move], weights: _Weights) -> Json | None:
    """Share *moves* out. What the requests do not explain is from elsewhere; where they explain
    more than all, as can be by noise, each gets less."""
    if not moves:
        return None
    sums: dict[str, dict[str | None, list[float]]] = {name: {} for name in BY}
    took = 0.0
    for move in moves:
        for cell in move.cells:
            took += (takes := weights.of_cell(cell))
            for name in BY:
                found = sums[name].setdefault(getattr(cell, name), [0.0, 0])
                found[0] += takes
                found[1] += cell.requests
    moved = sum(move.step.moved for move in moves)
    noise = 2 * max(weights.fit.noise, _LEAST_NOISE)
    # What is below the noise is nobody else's; of a single step nothing else can be said.
    is_own = took > 0 and moved - took <= noise
    scale = moved / took if is_own else 1.0
    explained = took * scale
    return {
        "from": moves[0].at.isoformat(timespec="seconds") + "Z",
        "to": moves[-1].at.isoformat(timespec="seconds") + "Z",
        "moved": round(moved, 6),
        "explained": round(explained, 6),
        "unexplained": round(max(moved - explained, 0.0), 6),
        "by": {name: _ranked(found, moved, scale) for name, found in sums.items()},
    }


def _ranked(found: dict[str | None, list[float]], moved: float, scale: float) -> list[Json]:
    ordered = sorted(found.items(), key=lambda item: -item[1][0])[:MOST_NAMED]
    return [
        {
            "name": name,
            "used": round(used * scale, 6),
            "share": round(used * scale / moved, 6) if moved > 0 else None,
            "requests": int(requests),
        }
        for name, (used, requests) in ordered
    ]


def _described(weights: _Weights) -> Json:
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


def _named_weights(weights: _Weights) -> list[Json]:
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

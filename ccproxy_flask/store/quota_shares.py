"""Who filled a window: each move is shared out over the requests since the one before. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .quota_weights import (
    LEAST_NOISE,
    NO_METER,
    Json,
    Move,
    Uses,
    Weights,
    described,
    found_from,
    models_of,
    moves_of,
    scaled_from,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .limit_rows import LimitRow
    from .quota_periods import Period

BY = ("session", "agent", "model", "client", "key")
MOST_NAMED = 50
_REFIT_SECONDS = 600.0
_MOST_FITS = 64


@dataclass(slots=True)
class Shared:
    """The moves of a *window*, shared out with *weights*; None: too little is known."""

    window: str
    moves: list[Move]
    weights: Weights | None

    def told(self, start: datetime, *, is_current: bool) -> Json:
        """Return ``meter``, ``used_by`` (of the period that runs) and ``used_by_range`` (of all
        moves since *start*)."""
        if self.weights is None:
            return {"meter": NO_METER, "used_by": None, "used_by_range": None}
        last = self.moves[-1].step.period if self.moves and is_current else None
        now = [move for move in self.moves if move.step.period == last]
        since = [move for move in self.moves if move.at >= start]
        return {
            "meter": described(self.weights),
            "used_by": _sums(now, self.weights),
            "used_by_range": _sums(since, self.weights),
        }


class Meter:
    """Shares moves out; the weights that it found are used again for a while."""

    def __init__(self) -> None:
        self._fits: dict[tuple[Any, ...], tuple[float, Weights]] = {}

    def shared(
        self, row: LimitRow, periods: Sequence[Period], uses: Uses, shorter: Shared | None
    ) -> Shared:
        """Share out the moves of the window whose newest row is *row*. A *shorter* one of the same
        account may know better what tokens take."""
        models = models_of(uses)
        moves = moves_of(periods, uses, models)
        weights = self._known(row, models)
        if weights is None:
            scaled = self._scaled(row, moves, shorter)
            weights = scaled or found_from(moves, models)
            self._remember(row, weights)
        return Shared(row.window, moves, weights)

    def _known(self, row: LimitRow, models: list[str]) -> Weights | None:
        known = self._fits.get((row.provider, row.account, row.window))
        if known is None or known[1].models != models:
            return None
        return known[1] if time.monotonic() - known[0] < _REFIT_SECONDS else None

    def _remember(self, row: LimitRow, weights: Weights | None) -> None:
        if len(self._fits) >= _MOST_FITS:
            self._fits.clear()
        if weights is not None and weights.method != "by_price":
            self._fits[row.provider, row.account, row.window] = (time.monotonic(), weights)

    def _scaled(
        self, row: LimitRow, moves: Sequence[Move], shorter: Shared | None
    ) -> Weights | None:
        # What counts some models alone has a formula of its own.
        if shorter is None or shorter.weights is None or "_" in row.window:
            return None
        return scaled_from(moves, shorter.moves, shorter.weights, shorter.window)


def _sums(moves: Sequence[Move], weights: Weights) -> Json | None:
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
    noise = 2 * max(weights.fit.noise, LEAST_NOISE)
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

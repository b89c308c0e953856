"""The pictures of a session: how its context grew, what it cost so far, whose time it took. Pure.

Coordinates are percent of the width, and of the height from the top down.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from ccproxy_flask.usage.request_class import TURNS

from . import format as texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def growth(turns: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> dict[str, Any] | None:
    """Return the context of the main conversation's turns as a stacked area, by part, and the cost
    of all turns up to each as a line; None where that is less than two turns.

    *turns* have ``sizes`` ({part: tokens}), ``spent`` (USD) and ``lane`` (None: main).
    """
    shown = [
        turn
        for turn in turns
        if turn["sizes"] and turn["lane"] is None and turn["request_class"] in (*TURNS, None)
    ]
    if len(shown) < 2:
        return None
    largest = max(sum(turn["sizes"].values()) for turn in shown) or 1
    spent = max(turn["spent"] for turn in shown)
    step = 100 / (len(shown) - 1)
    xs = [round(at * step, 2) for at in range(len(shown))]
    stacks = [list(_stack(turn["sizes"], parts, largest)) for turn in shown]
    areas = [
        {"name": name, "d": _area(xs, [(low[at], low[at + 1]) for low in stacks])}
        for at, name in enumerate(parts)
        if any(turn["sizes"].get(name) for turn in shown)
    ]
    line = [
        (x, 100 - 100 * turn["spent"] / (spent or 1)) for x, turn in zip(xs, shown, strict=True)
    ]
    return {
        "areas": areas,
        "cost": "M" + " L".join(f"{x:g} {y:.2f}" for x, y in line),
        "largest": texts.short_count(largest),
        "spent": texts.cost_total(spent),
        "first": shown[0]["number"],
        "last": shown[-1]["number"],
    }


def _stack(sizes: Mapping[str, int], parts: Sequence[str], largest: int) -> Sequence[float]:
    """Return the heights between the parts of a context, from the bottom up."""
    sums = itertools.accumulate((sizes.get(name, 0) for name in parts), initial=0)
    return [round(100 - 100 * size / largest, 2) for size in sums]


def _area(xs: Sequence[float], heights: Sequence[tuple[float, float]]) -> str:
    top = [f"{x:g} {high:g}" for x, (_, high) in zip(xs, heights, strict=True)]
    bottom = [f"{x:g} {low:g}" for x, (low, _) in zip(xs, heights, strict=True)]
    return "M" + " L".join([*top, *reversed(bottom)]) + "Z"


TIMES = {"model": "Model", "tools": "Tools", "proxy": "This proxy"}
"""Who took the time."""


def times(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return whose time it was: the model's, that of the client's tools (as clients say), ours.

    The rest of a session is the person's, and is left out. Ours is what a request took beside the
    provider; of a request that says only one of both nothing is counted.
    """
    spent = dict.fromkeys(TIMES, 0.0)
    for turn in turns:
        spent["tools"] += turn["tools_ms"] or 0
        whole, model = turn["duration_ms"], turn["upstream_ms"]
        if whole is not None and model is not None:
            spent["model"] += min(model, whole)
            spent["proxy"] += max(0.0, whole - model)
    whole = sum(spent.values())
    if not whole:
        return []
    found, at = [], 0.0
    for name, millis in spent.items():
        width = 100 * millis / whole
        found.append(
            {
                "name": name,
                "label": TIMES[name],
                "time": texts.duration(millis) if name != "tools" or millis else texts.UNKNOWN,
                "x": round(at, 2),
                "width": round(width, 2),
                "percent": texts.percent(millis, whole),
            }
        )
        at += width
    return found

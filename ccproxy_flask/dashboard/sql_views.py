"""The answer to one SELECT, as the page for SQL shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from ccproxy_flask.store.base import QueryRefused

from . import format as texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ccproxy_flask.store.base import Store

_ROWS = 1000
_MOST_LINES = 6
_LONGEST_NAME = 40

Rows = list[list[Any]]


def sql(store: Store, text: str) -> dict[str, Any]:
    """Return the answer to one SELECT, or why there is none. Raises StoreUnavailable."""
    try:
        found = orjson.loads(store.sql(text, _ROWS))
    except QueryRefused as error:
        return {"problem": str(error)}
    names, rows = found["columns"], found["rows"]
    are_numbers = [_are_numbers(rows, at) for at in range(len(names))]
    return {
        "columns": list(zip(names, are_numbers, strict=True)),
        "rows": [[_cell(value) for value in row] for row in rows],
        "count": found["row_count"],
        "truncated": found["truncated"],
        "took": texts.duration(found["duration_ms"]),
        "chart": chart(names, rows),
    }


def _are_numbers(rows: Rows, at: int) -> bool:
    return bool(rows) and all(
        isinstance(row[at], int | float | None) and not isinstance(row[at], bool) for row in rows
    )


def _cell(value: Any) -> str:
    if value is None:
        return texts.UNKNOWN
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def chart(names: Sequence[str], rows: Rows) -> dict[str, Any] | None:
    """Return what a chart of an answer shows; None where it has nothing to draw.

    The first column says where, if it is times or texts; the numbers beside it are lines. With a
    time, a text and numbers, each text is a line of the first of the numbers.
    """
    if len(rows) < 2 or len(names) < 2:
        return None
    numbers = [at for at in range(1, len(names)) if _are_numbers(rows, at)]
    if not numbers:
        return None
    moments = [_seconds(row[0]) for row in rows]
    if None in moments:
        found: dict[str, Any] = {"names": [_cell(row[0])[:_LONGEST_NAME] for row in rows]}
        return found | {"lines": _lines(names, rows, numbers)}
    if len(set(moments)) < len(rows) and 1 not in numbers:
        return _by_name(rows, moments, numbers[0])
    order = sorted(range(len(rows)), key=lambda at: moments[at] or 0)
    ordered = [rows[at] for at in order]
    return {"time": [moments[at] for at in order], "lines": _lines(names, ordered, numbers)}


def _lines(names: Sequence[str], rows: Rows, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"name": names[at], "values": [row[at] for row in rows]} for at in numbers[:_MOST_LINES]
    ]


def _by_name(rows: Rows, moments: Sequence[float | None], at: int) -> dict[str, Any]:
    """Return a line for each text of the second column: of those with the largest sums."""
    sums: dict[str, float] = {}
    for row in rows:
        sums[_cell(row[1])] = sums.get(_cell(row[1]), 0.0) + (row[at] or 0)
    shown = sorted(sums, key=lambda name: -sums[name])[:_MOST_LINES]
    times = sorted({moment for moment in moments if moment is not None})
    places = {moment: place for place, moment in enumerate(times)}
    values: dict[str, list[float | None]] = {name: [None] * len(times) for name in shown}
    for row, moment in zip(rows, moments, strict=True):
        if moment is not None and _cell(row[1]) in values:
            values[_cell(row[1])][places[moment]] = row[at]
    lines = [{"name": name[:_LONGEST_NAME], "values": line} for name, line in values.items()]
    return {"time": times, "lines": lines}


def _seconds(value: Any) -> float | None:
    """Return a time as seconds since 1970; None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

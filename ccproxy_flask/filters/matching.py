"""Filters on the live feed: the same word on one row as the database's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .comparisons import Filter

    Asked = Sequence[tuple[Filter, Any]]


def matches(asked: Asked, row: Mapping[str, Any]) -> bool:
    """Tell whether the *row* of a request that is over is wanted."""
    return all(each.matches(value, row) for each, value in asked)


def matches_start(asked: Asked, row: Mapping[str, Any]) -> bool | None:
    """Tell whether a request is wanted whose start has this *row*; None: its end will tell."""
    outcomes = [each.matches_start(value, row) for each, value in asked]
    if False in outcomes:
        return False
    return None if None in outcomes else True

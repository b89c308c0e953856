"""Prices that hold in the place of the table's, or beside them: ``overrides.toml``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import date


@dataclass(frozen=True, slots=True)
class Override:
    """Prices (USD per million tokens, fees per 1,000) where the table of 0.2.3 is wrong or old."""

    vendors: frozenset[str]
    models: re.Pattern[str]
    start: date
    source: str
    """Who says so."""
    checked: str
    """In which month that was looked at."""
    same_as: str | None = None
    """The price of this model holds."""
    prices: tuple[tuple[str, Decimal], ...] = ()
    """Instead of, or beside, those of the table."""


def _override(row: dict[str, Any]) -> Override:
    pattern = re.compile(row.pop("models") + r"(?:-\d{4}-?\d{2}-?\d{2})?")
    prices = tuple((name, Decimal(amount)) for name, amount in row.pop("prices", {}).items())
    return Override(frozenset(row.pop("vendors")), pattern, prices=prices, **row)


_TABLE = (Path(__file__).parent / "overrides.toml").read_text(encoding="utf-8")
OVERRIDES: tuple[Override, ...] = tuple(_override(row) for row in tomllib.loads(_TABLE)["override"])

"""What a model costs at a time: rates from the table, and from what is known better."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from genai_prices.types import TieredPrices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from .overrides import Override

# Batches cost half the price ("Batch processing" of each, 2026-11), also before the table knew.
HALVES_BATCHES = frozenset({"anthropic", "openai", "azure", "google", "mistral", "groq"})
_CHINA = timedelta(hours=8)


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens (fees: per 1,000). None: the table has no price for it."""

    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    write_5m: Decimal | None
    write_1h: Decimal | None
    audio_input: Decimal | None
    audio_read: Decimal | None
    audio_output: Decimal | None
    image_output: Decimal | None
    reasoning: Decimal | None
    request_fee: Decimal | None
    search_fee: Decimal | None


Tiers: TypeAlias = tuple[tuple[int, Rates], ...]
"""Over how many tokens of input which rates hold, the highest first."""


@dataclass(slots=True)
class Entry:
    """One model of one vendor in one context, and its rates as of one minute."""

    vendor: Provider
    model: ModelInfo
    overrides: tuple[Override, ...]
    context: dict[str, str] | None
    halved: bool
    known: tuple[int, Tiers] = (-1, ())
    """The rates, and as of which minute."""


def rates_at(entry: Entry, at: datetime) -> Tiers:
    """Return the rates of *entry* that hold at a time."""
    minute = int(at.timestamp()) // 60
    as_of, tiers = entry.known
    if minute != as_of:
        tiers = _tiers(_prices_at(entry, at))
        entry.known = (minute, tiers)
    return tiers


def tier_for(tiers: Tiers, tokens: int) -> Rates:
    """Return the rates that hold for an input of so many *tokens*."""
    return next(rates for start, rates in tiers if tokens > start)


def _prices_at(entry: Entry, at: datetime) -> dict[str, Decimal | TieredPrices]:
    when = _without_peak(at) if entry.vendor.id == "deepseek" else at
    prices = _given(entry.model.get_prices(when, entry.context))
    if entry.halved and prices == _given(entry.model.get_prices(when, None)):
        prices = {
            name: _half(price) if name.endswith("_mtok") else price
            for name, price in prices.items()
        }
    day = at.astimezone(UTC).date()
    for override in entry.overrides:
        if override.start > day:
            continue
        if override.same_as is not None:
            other = entry.vendor.find_model(override.same_as)
            prices = prices if other is None else _given(other.get_prices(when, entry.context))
        elif "input_mtok" in dict(override.prices):
            prices = dict(override.prices)
        else:
            prices.update(override.prices)
    return prices


def _given(prices: ModelPrice) -> dict[str, Decimal | TieredPrices]:
    return {name: price for name, price in vars(prices).items() if price is not None}


def _half(price: Decimal | TieredPrices) -> Decimal | TieredPrices:
    if isinstance(price, Decimal):
        return price / 2
    tiers = [type(tier)(tier.start, tier.price / 2) for tier in price.tiers]
    return TieredPrices(price.base / 2, tiers)


def _without_peak(at: datetime) -> datetime:
    """Return a time of the same day that has no peak price, where *at* is on a weekend.

    DeepSeek's peak hours are on working days ("Models & Pricing"); the table has them on all.
    """
    if at.year >= 2026 and (at.astimezone(UTC) + _CHINA).weekday() >= 5:
        return at.astimezone(UTC).replace(hour=12)
    return at


def _tiers(prices: Mapping[str, Decimal | TieredPrices]) -> Tiers:
    starts = {-1}
    for price in prices.values():
        if isinstance(price, TieredPrices):
            starts.update(tier.start for tier in price.tiers)
    return tuple((start, _rates(prices, start)) for start in sorted(starts, reverse=True))


def _rates(prices: Mapping[str, Decimal | TieredPrices], start: int) -> Rates:
    def rate(*names: str) -> Decimal | None:
        # What has no price of its own is billed as what it is a part of.
        price = next((prices[name] for name in names if name in prices), None)
        if isinstance(price, TieredPrices):
            fitting = [tier.price for tier in price.tiers if tier.start <= start]
            return fitting[-1] if fitting else price.base
        return price

    return Rates(
        input=rate("input_mtok"),
        output=rate("output_mtok"),
        cache_read=rate("cache_read_mtok", "input_mtok"),
        write_5m=rate("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
        write_1h=rate("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
        audio_input=rate("input_audio_mtok", "input_mtok"),
        audio_read=rate("cache_audio_read_mtok", "cache_read_mtok", "input_mtok"),
        audio_output=rate("output_audio_mtok", "output_mtok"),
        image_output=rate("output_image_mtok", "output_mtok"),
        reasoning=rate("output_reasoning_mtok", "output_mtok"),
        request_fee=rate("requests_kcount"),
        search_fee=rate("web_searches_kcount"),
    )

"""What a token of input cost in a request, by how it was billed: the prices really paid.

A row has the estimate for its uncached input, and one for cache reads and writes together. The
price book tells these apart, in the proportion of its rates; where the provider charged by another
tariff (batches, priority), all are scaled to what the row says.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from ccproxy_flask.dialects import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ccproxy_flask.pricing.book import PriceBook
    from ccproxy_flask.pricing.rates import Rates

_MTOK = -6
_ONE = Decimal(1)
_ROUNDING = Decimal("1e-6")
_VENDORS = {
    endpoint.name: dialect.price_vendor for dialect in DIALECTS for endpoint in dialect.endpoints
}


class InputPrices(NamedTuple):
    """USD a token; *bill* is the whole input of the request in USD."""

    uncached: Decimal
    read: Decimal
    written: Decimal
    bill: Decimal


class InputPricing:
    """Tells what requests paid for their input. *base_urls*: by the provider's name."""

    def __init__(self, base_urls: Mapping[str, str] | None = None) -> None:
        self._base_urls = base_urls or {}
        self._book: PriceBook | None = None

    def prices(self, row: Mapping[str, Any]) -> InputPrices | None:
        """Return what the input of *row* cost, None where that is not known."""
        if row["cost_input_usd"] is None or row["cost_cache_usd"] is None:
            return None
        rates = self._rates(row)
        bill = Decimal(str(row["cost_input_usd"])) + Decimal(str(row["cost_cache_usd"]))
        return None if rates is None else _paid(row, rates, bill)

    def _rates(self, row: Mapping[str, Any]) -> Rates | None:
        if self._book is None:
            self._book = _price_book()
        provider = row["provider"]
        return self._book.rates(
            provider,
            _VENDORS.get(row["endpoint"]),
            sum(
                row[name] or 0
                for name in ("tokens_input", "cache_read_tokens", "cache_write_tokens")
            ),
            model=row["model"],
            model_requested=row["model_requested"],
            at=datetime.fromisoformat(row["timestamp"]),
            url=self._base_urls.get(provider or "", "") + row["path"],
        )


def _price_book() -> PriceBook:
    from ccproxy_flask.pricing.book import PriceBook  # noqa: PLC0415  a recorder starts without it

    return PriceBook()


def _paid(row: Mapping[str, Any], rates: Rates, bill: Decimal) -> InputPrices | None:
    if rates.input is None or rates.cache_read is None:
        return None
    uncached, read = rates.input.scaleb(_MTOK), rates.cache_read.scaleb(_MTOK)
    written, count = _written(row, rates), row["cache_write_tokens"] or 0
    estimate = uncached * (row["tokens_input"] or 0)
    estimate += read * (row["cache_read_tokens"] or 0) + written * count
    scale = bill / estimate if estimate else _ONE
    if abs(scale - _ONE) < _ROUNDING:
        scale = _ONE
    return InputPrices(uncached * scale, read * scale, written * scale, bill)


def _written(row: Mapping[str, Any], rates: Rates) -> Decimal:
    """Return what a token that was written cost on average: those for an hour cost more."""
    long, count = row["cache_write_1h_tokens"] or 0, row["cache_write_tokens"] or 0
    short = max(0, count - long)
    usual = rates.write_5m or rates.input or Decimal(0)
    lasting = rates.write_1h or usual
    whole = short * usual + min(long, count) * lasting
    return (whole / count if count else usual).scaleb(_MTOK)

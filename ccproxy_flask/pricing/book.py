"""What an answer cost: what its provider says it charged, else an estimate from a table of prices.

The table is the one of the package ``genai-prices``. Of that package only the table is used: its
own calculation raises where parts exceed wholes, and remembers every model name it ever saw.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot

from .amounts import Price, priced
from .overrides import OVERRIDES
from .rates import HALVES_BATCHES, Entry, rates_at, tier_for
from .vendors import BILLS_IN_ANSWER, find, is_anybodys, vendor_id

if TYPE_CHECKING:
    from datetime import datetime

    from ccproxy_flask.usage import Usage

    from .rates import Rates

SOURCE_PROVIDER = "provider"
SOURCE_TABLE = f"prices:{version('genai-prices')}"
_USUAL_TIERS = frozenset({None, "default", "standard", "auto", "on_demand"})
_MOST_MODELS = 1024


class PriceBook:
    """Prices answers. Bounded: however many names clients make up, it does not grow."""

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], Entry | None] = {}
        # The table takes a quarter of a second to load: not with the first answer.
        get_snapshot()

    def price(
        self,
        provider: str | None,
        format_vendor: str | None,
        usage: Usage,
        *,
        model: str | None,
        model_requested: str | None,
        at: datetime,
        url: str = "",
        batch: bool = False,
    ) -> Price | None:
        """Return what *usage* cost with the provider named *provider*, None where unknown.

        The table knows providers by their names, or by the *url* of the request. For those it
        lacks the prices of *format_vendor* hold, who made the wire format. *model* is what the
        answer named, *at* the request's time. Never raises.
        """
        vendor = _vendor(provider, format_vendor, url, model, model_requested)
        billed = usage.provider_cost_usd if vendor in BILLS_IN_ANSWER else None
        names = (model, model_requested)
        try:
            estimate = self._estimate(vendor, usage, names, at, batch) if vendor else None
        except Exception:  # noqa: BLE001 a price must never cost a record its other figures
            estimate = None
        if billed is None:
            return estimate
        if estimate is None:
            return Price(None, None, None, billed, SOURCE_PROVIDER)
        return Price(estimate.input, estimate.output, estimate.cache, billed, SOURCE_PROVIDER)

    def _estimate(
        self,
        vendor: str,
        usage: Usage,
        names: tuple[str | None, str | None],
        at: datetime,
        batch: bool,
    ) -> Price | None:
        tier = None if usage.service_tier in _USUAL_TIERS else usage.service_tier
        batch = batch or tier == "batch"
        entry = self._entry(vendor, names, tier, usage.speed, batch)
        if entry is None:
            return None
        price = priced(usage, rates_at(entry, at), SOURCE_TABLE)
        if price is None or not usage.extra_models:
            return price
        return self._with_extras(price, vendor, usage, at, batch=batch)

    def rates(
        self,
        provider: str | None,
        format_vendor: str | None,
        tokens: int,
        *,
        model: str | None,
        model_requested: str | None,
        at: datetime,
        url: str = "",
    ) -> Rates | None:
        """Return the usual rates for an input of so many *tokens* in all, None where unknown.

        The others are those of :meth:`price`. Never raises.
        """
        vendor = _vendor(provider, format_vendor, url, model, model_requested)
        try:
            entry = vendor and self._entry(vendor, (model, model_requested), None, None, False)
            return tier_for(rates_at(entry, at), tokens) if entry else None
        except Exception:  # noqa: BLE001 a price must never cost a record its other figures
            return None

    def _entry(
        self,
        vendor: str,
        names: tuple[str | None, str | None],
        tier: str | None,
        speed: str | None,
        batch: bool,
    ) -> Entry | None:
        key = (vendor, names, tier, speed, batch)
        try:
            return self._entries[key]
        except KeyError:
            entry = _entry_for(vendor, names, tier, speed, batch=batch)
            if len(self._entries) >= _MOST_MODELS:
                self._entries.clear()
            self._entries[key] = entry
            return entry

    def _with_extras(
        self, price: Price, vendor: str, usage: Usage, at: datetime, *, batch: bool
    ) -> Price | None:
        total = price.total
        for model, extra in usage.extra_models:
            part = self._estimate(vendor, extra, (model, None), at, batch)
            if part is None:
                return None
            total += part.total
        return Price(price.input, price.output, price.cache, total, price.source)


def _vendor(
    provider: str | None,
    format_vendor: str | None,
    url: str,
    model: str | None,
    model_requested: str | None,
) -> str | None:
    found = vendor_id(provider, url.partition("?")[0], model_requested)
    return format_vendor if found is None and not is_anybodys(model or model_requested) else found


def _entry_for(
    vendor_id: str,
    names: tuple[str | None, str | None],
    tier: str | None,
    speed: str | None,
    *,
    batch: bool,
) -> Entry | None:
    vendor = find_provider_by_id(get_snapshot().providers, vendor_id)
    found = None if vendor is None else find(vendor, names)
    if vendor is None or found is None:
        return None
    name, model = found
    overrides = tuple(
        row for row in OVERRIDES if vendor_id in row.vendors and row.models.fullmatch(name)
    )
    context = {}
    if tier is not None and tier != "batch":
        context["service_tier"] = tier
    if speed is not None:
        context["speed"] = speed
    if batch:
        context["processing"] = "batch"
    # The contexts of a vendor hold for the models that it has in its own list.
    own = any(model is other for other in vendor.models)
    return Entry(
        vendor, model, overrides, context if own else None, batch and vendor_id in HALVES_BATCHES
    )

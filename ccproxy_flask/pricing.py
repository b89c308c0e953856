"""What an answer cost: what its provider says it charged, else an estimate from a table of prices.

The table is the one of the package ``genai-prices``. Of that package only the table is used: its
own calculation raises where parts exceed wholes, and remembers every model name it ever saw.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import TieredPrices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from .usage import Usage

SOURCE_PROVIDER = "provider"
SOURCE_TABLE = f"prices:{version('genai-prices')}"

# They document that the figure in the answer is what is billed (OpenRouter "Usage accounting",
# xAI "Cost tracking", Perplexity "Usage and cost"); others pass the field on without meaning it.
_BILLS_IN_ANSWER = frozenset({"openrouter", "x-ai", "perplexity"})
# What runs on machines of one's own has no price, also where it answers as gpt-oss.
_OWN_MACHINES = frozenset(
    {"ollama", "lmstudio", "vllm", "gpustack", "llamacpp", "llama-cpp", "localai", "sglang"}
)
_OPEN_WEIGHTS = re.compile(r"\bgpt-oss\b|\bgemma")
_NOBODY = ""
_ROUTER = "https://router.huggingface.co/"
_ALIASES = {"gemini": "google", "vertex": "google", "grok": "x-ai", "bedrock": "aws"}
# Batches cost half the price ("Batch processing" of each, 2026-11), also before the table knew.
_HALVES_BATCHES = frozenset({"anthropic", "openai", "azure", "google", "mistral", "groq"})
# Anthropic "Pricing": $10 for 1,000 searches.
_SEARCH_FEE = Decimal(10)
_USUAL_TIERS = frozenset({None, "default", "standard", "auto", "on_demand"})

_MTOK = -6
_K = -3
_MOST_MODELS = 1024
_CHINA = timedelta(hours=8)


@dataclass(frozen=True, slots=True)
class Override:
    """Prices (USD per million tokens, fees per 1,000) where the table of 0.2.3 is wrong or old."""

    vendors: frozenset[str]
    models: re.Pattern[str]
    start: date
    same_as: str | None = None
    """The price of this model holds."""
    prices: tuple[tuple[str, Decimal], ...] = ()
    """Instead of, or beside, those of the table."""


def _override(
    vendors: str, models: str, start: date, same_as: str | None = None, **prices: str
) -> Override:
    amounts = tuple((f"{name}", Decimal(amount)) for name, amount in prices.items())
    pattern = re.compile(models + r"(?:-\d{4}-?\d{2}-?\d{2})?")
    return Override(frozenset(vendors.split()), pattern, start, same_as, amounts)


_ALWAYS = date(2000, 1, 1)
OVERRIDES: tuple[Override, ...] = (
    # OpenAI's model pages, 2026-11: the table has no rates for audio.
    _override(
        "openai azure",
        "gpt-4o-audio-preview",
        _ALWAYS,
        input_audio_mtok="40",
        output_audio_mtok="80",
    ),
    _override(
        "openai azure",
        "gpt-4o-mini-audio-preview",
        _ALWAYS,
        input_audio_mtok="10",
        output_audio_mtok="20",
    ),
    # DeepSeek "Models & Pricing": V3.1 without the discount by night, then V3.2; with V4 the old
    # names became names of V4 Flash, to be retired 2026-07-24.
    _override(
        "deepseek",
        "deepseek-(?:chat|reasoner)",
        date(2025, 9, 5),
        input_mtok="0.56",
        cache_read_mtok="0.07",
        output_mtok="1.68",
    ),
    _override(
        "deepseek",
        "deepseek-(?:chat|reasoner)",
        date(2025, 9, 29),
        input_mtok="0.28",
        cache_read_mtok="0.028",
        output_mtok="0.42",
    ),
    _override(
        "deepseek", "deepseek-(?:chat|reasoner)", date(2026, 4, 24), same_as="deepseek-v4-flash"
    ),
    # Large 3 took the name over; the table has it as Large 2.
    _override("mistral", "mistral-large-latest", date(2025, 12, 2), same_as="mistral-large-2512"),
    # Perplexity "Pricing": the fee goes by the size of the search; the table has the dearest,
    # `low` is the default.
    _override("perplexity", "sonar(?:-reasoning)?", _ALWAYS, requests_kcount="5"),
    _override("perplexity", "sonar(?:-reasoning)?-pro", _ALWAYS, requests_kcount="6"),
)


@dataclass(frozen=True, slots=True)
class Price:
    """What an answer cost, in USD.

    The parts are the estimate and None where there is none; *total* also has fees (searches,
    requests), what other models cost, and is the provider's own figure where *source* says so.
    """

    input: Decimal | None
    output: Decimal | None
    cache: Decimal | None
    total: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class _Rates:
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


_Tiers: TypeAlias = tuple[tuple[int, _Rates], ...]
"""Over how many tokens of input which rates hold, the highest first."""


@dataclass(slots=True)
class _Entry:
    """One model of one vendor in one context, and its rates as of one minute."""

    vendor: Provider
    model: ModelInfo
    overrides: tuple[Override, ...]
    context: dict[str, str] | None
    halved: bool
    known: tuple[int, _Tiers] = (-1, ())
    """The rates, and as of which minute."""


class PriceBook:
    """Prices answers. Bounded: however many names clients make up, it does not grow."""

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], _Entry | None] = {}
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
        vendor = _vendor_id(provider, url.partition("?")[0], model_requested)
        if vendor is None and not _is_anybodys(model or model_requested):
            vendor = format_vendor
        billed = usage.provider_cost_usd if vendor in _BILLS_IN_ANSWER else None
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
        key = (vendor, names, tier, usage.speed, batch)
        try:
            entry = self._entries[key]
        except KeyError:
            entry = _entry_for(vendor, names, tier, usage.speed, batch=batch)
            if len(self._entries) >= _MOST_MODELS:
                self._entries.clear()
            self._entries[key] = entry
        if entry is None:
            return None
        price = _priced(usage, _rates_at(entry, at), SOURCE_TABLE)
        if price is None or not usage.extra_models:
            return price
        return self._with_extras(price, vendor, usage, at, batch=batch)

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


@lru_cache(maxsize=256)
def _vendor_id(provider: str | None, url: str, model: str | None) -> str | None:
    """Return the id in the table of who bills for *provider*, None for who is not in it.

    What is known to bill nobody has the id "".
    """
    name = (provider or "").lower()
    if name in _OWN_MACHINES:
        return _NOBODY
    if not name:
        return None
    vendors = get_snapshot().providers
    found = find_provider_by_id(vendors, _ALIASES.get(name, name))
    if found is None:
        found = next((each for each in vendors if re.match(each.api_pattern, url)), None)
    if found is None and (name == "huggingface" or url.startswith(_ROUTER)):
        found = _routed_to(url, model)
    return None if found is None else found.id


def _routed_to(url: str, model: str | None) -> Provider | None:
    """Return whom the router of HuggingFace asks: /<provider>/v1/…, or <model>:<provider>."""
    first = urlsplit(url).path[1:].partition("/")[0]
    ids = (f"huggingface_{first}", f"huggingface_{(model or '').rpartition(':')[2]}")
    return next((each for each in get_snapshot().providers if each.id in ids), None)


def _is_anybodys(model: str | None) -> bool:
    """True for models that anybody can run, and where none was named."""
    return model is None or _OPEN_WEIGHTS.search(model.lower()) is not None


def _entry_for(
    vendor_id: str,
    names: tuple[str | None, str | None],
    tier: str | None,
    speed: str | None,
    *,
    batch: bool,
) -> _Entry | None:
    vendor = find_provider_by_id(get_snapshot().providers, vendor_id)
    found = None if vendor is None else _find(vendor, names)
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
    return _Entry(
        vendor, model, overrides, context if own else None, batch and vendor_id in _HALVES_BATCHES
    )


def _find(vendor: Provider, names: tuple[str | None, str | None]) -> tuple[str, ModelInfo] | None:
    answered, requested = (name and _plain(name) for name in names)
    for name in (answered, requested):
        if not name or (name is requested and answered and _family(name) != _family(answered)):
            continue
        for spelling in _spellings(name, vendor):
            model = vendor.find_model(spelling, all_providers=get_snapshot().providers)
            if model is not None:
                return spelling, model
    return None


def _spellings(name: str, vendor: Provider) -> tuple[str, ...]:
    """Return *name* and, where it begins with its vendor (openai/gpt-4o), it without."""
    prefix, slash, rest = name.partition("/")
    if slash and find_provider_by_id([vendor], prefix):
        return name, rest
    return (name,)


def _plain(name: str) -> str:
    """Return *name* without the resource path that some APIs put before it."""
    lowered = name.lower()
    return lowered.removeprefix("publishers/google/").removeprefix("models/")


_REVISION = re.compile(
    r"[-:@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|0\d\d|v\d+|latest|preview|exp)(?=$|[-:@])"
)


def _family(name: str) -> str:
    """Return *name* without dates and revisions: davinci-002 is davinci:2023-07-21-v2."""
    while (shorter := _REVISION.sub("", name)) != name:
        name = shorter
    return name


def _rates_at(entry: _Entry, at: datetime) -> _Tiers:
    minute = int(at.timestamp()) // 60
    as_of, tiers = entry.known
    if minute != as_of:
        tiers = _tiers(_prices_at(entry, at))
        entry.known = (minute, tiers)
    return tiers


def _prices_at(entry: _Entry, at: datetime) -> dict[str, Decimal | TieredPrices]:
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


def _tiers(prices: Mapping[str, Decimal | TieredPrices]) -> _Tiers:
    starts = {-1}
    for price in prices.values():
        if isinstance(price, TieredPrices):
            starts.update(tier.start for tier in price.tiers)
    return tuple((start, _rates(prices, start)) for start in sorted(starts, reverse=True))


def _rates(prices: Mapping[str, Decimal | TieredPrices], start: int) -> _Rates:
    def rate(*names: str) -> Decimal | None:
        # What has no price of its own is billed as what it is a part of.
        price = next((prices[name] for name in names if name in prices), None)
        if isinstance(price, TieredPrices):
            fitting = [tier.price for tier in price.tiers if tier.start <= start]
            return fitting[-1] if fitting else price.base
        return price

    return _Rates(
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


class _Unpriced(Exception):
    """There are tokens of a kind that the table has no price for."""


def _priced(usage: Usage, tiers: _Tiers, source: str) -> Price | None:
    whole = usage.tokens_input + usage.cache_read_tokens + usage.cache_write_tokens
    rates = next(rates for start, rates in tiers if whole > start)
    try:
        input_, output, cache = (
            _input(usage, rates).scaleb(_MTOK),
            _output(usage, rates).scaleb(_MTOK),
            _cache(usage, rates).scaleb(_MTOK),
        )
    except _Unpriced:
        return None
    total = input_ + output + cache
    if rates.request_fee is not None:
        total += rates.request_fee.scaleb(_K)
    if usage.web_searches:
        fee = _SEARCH_FEE if rates.search_fee is None else rates.search_fee
        total += (usage.web_searches * fee).scaleb(_K)
    return Price(input_, output, cache, total, source)


_ZERO = Decimal(0)


def _amount(tokens: int, rate: Decimal | None) -> Decimal:
    if tokens <= 0:
        return _ZERO
    if rate is None:
        raise _Unpriced
    return tokens * rate


def _input(usage: Usage, rates: _Rates) -> Decimal:
    if not usage.audio_input_tokens:
        return _amount(usage.tokens_input, rates.input)
    audio = max(usage.audio_input_tokens - usage.cache_audio_read_tokens, 0)
    audio = min(audio, usage.tokens_input)
    return _amount(usage.tokens_input - audio, rates.input) + _amount(audio, rates.audio_input)


def _cache(usage: Usage, rates: _Rates) -> Decimal:
    if not usage.cache_read_tokens and not usage.cache_write_tokens:
        return _ZERO
    audio = min(usage.cache_audio_read_tokens, usage.cache_read_tokens)
    long = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    return (
        _amount(usage.cache_read_tokens - audio, rates.cache_read)
        + _amount(audio, rates.audio_read)
        + _amount(usage.cache_write_tokens - long, rates.write_5m)
        + _amount(long, rates.write_1h)
    )


def _output(usage: Usage, rates: _Rates) -> Decimal:
    left = usage.tokens_output
    amount = _ZERO
    for tokens, rate in (
        (usage.audio_output_tokens, rates.audio_output),
        (usage.image_output_tokens, rates.image_output),
        (usage.tokens_reasoning, rates.reasoning),
    ):
        if tokens and rate != rates.output:
            part = min(tokens, left)
            amount += _amount(part, rate)
            left -= part
    return amount + _amount(left, rates.output)

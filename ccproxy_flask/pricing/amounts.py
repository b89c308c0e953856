"""What an answer cost, by the tokens that it used and the rates that hold."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from .rates import tier_for

if TYPE_CHECKING:
    from ccproxy_flask.usage import Usage

    from .rates import Rates, Tiers

# Anthropic "Pricing": $10 for 1,000 searches.
_SEARCH_FEE = Decimal(10)
_MTOK = -6
_K = -3


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


class _Unpriced(Exception):
    """There are tokens of a kind that the table has no price for."""


def priced(usage: Usage, tiers: Tiers, source: str) -> Price | None:
    """Return what *usage* costs, estimated from *source*; None where a price is missing."""
    whole = usage.tokens_input + usage.cache_read_tokens + usage.cache_write_tokens
    rates = tier_for(tiers, whole)
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


def _input(usage: Usage, rates: Rates) -> Decimal:
    if not usage.audio_input_tokens:
        return _amount(usage.tokens_input, rates.input)
    audio = max(usage.audio_input_tokens - usage.cache_audio_read_tokens, 0)
    audio = min(audio, usage.tokens_input)
    return _amount(usage.tokens_input - audio, rates.input) + _amount(audio, rates.audio_input)


def _cache(usage: Usage, rates: Rates) -> Decimal:
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


def _output(usage: Usage, rates: Rates) -> Decimal:
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

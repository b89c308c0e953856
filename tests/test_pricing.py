"""Prices: where the figure comes from, and the traps on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from genai_prices import data_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from ccproxy_flask.dialects import BY_NAME
from ccproxy_flask.pricing import OVERRIDES, SOURCE_TABLE, Price, PriceBook
from ccproxy_flask.usage import Usage

NOW = datetime(2026, 11, 20, 13, 30, tzinfo=UTC)
MILLION = 1_000_000
BOOK = PriceBook()

API_OF = {"anthropic": "anthropic_messages", "gemini": "gemini", "google": "gemini"}


def price(
    provider, model, usage=None, at=NOW, requested=None, api=None, batch=False, url="", **counts
) -> Price | None:
    """Return what *counts* cost with a provider."""
    return BOOK.price(
        provider,
        BY_NAME[api or API_OF.get(provider, "openai_chat")].price_vendor,
        usage or Usage(**counts),
        model=model,
        model_requested=requested,
        at=at,
        url=url,
        batch=batch,
    )


def total(provider, model, **more) -> Decimal | None:
    """Return the whole cost, None where it is unknown."""
    found = price(provider, model, **more)
    return None if found is None else found.total


def test_parts_of_a_price():
    """Input, output and cache are told apart; together they are the total."""
    found = price(
        "anthropic",
        "claude-sonnet-4-5-20250929",
        tokens_input=1000,
        tokens_output=2000,
        cache_read_tokens=3000,
        cache_write_tokens=4000,
        cache_write_1h_tokens=1000,
    )
    # $3 in, $15 out, $0.30 read, $3.75 written for 5 minutes, $6 for an hour, per million.
    assert found.input == Decimal("0.003")
    assert found.output == Decimal("0.03")
    assert found.cache == Decimal("0.0009") + Decimal("0.01125") + Decimal("0.006")
    assert found.total == found.input + found.output + found.cache
    assert found.source == SOURCE_TABLE
    assert SOURCE_TABLE.startswith("prices:0.")


def test_long_context_raises_all_rates():
    """Over 200,000 tokens of input, cached ones included, all of it costs more."""
    below = {"tokens_input": 100_000, "cache_read_tokens": 100_000, "tokens_output": 1000}
    above = {"tokens_input": 100_001, "cache_read_tokens": 100_000, "tokens_output": 1000}
    low = price("anthropic", "claude-sonnet-4-5", **below)
    high = price("anthropic", "claude-sonnet-4-5", **above)
    assert (low.input, low.cache, low.output) == (
        Decimal("0.3"),
        Decimal("0.03"),
        Decimal("0.015"),
    )
    assert (high.input, high.cache, high.output) == (
        Decimal("0.600006"),
        Decimal("0.06"),
        Decimal("0.0225"),
    )


def test_web_searches_cost_a_fee():
    """Anthropic takes $10 for 1,000 searches."""
    without = price("anthropic", "claude-sonnet-5", tokens_input=10)
    found = price("anthropic", "claude-sonnet-5", tokens_input=10, web_searches=3)
    assert found.total - without.total == Decimal("0.03")
    assert found.input == without.input


def test_other_models_are_priced_apart():
    """What an advisor used is priced at its own model; an unknown one makes all unknown."""
    advised = Usage(tokens_input=MILLION, extra_models=(("claude-opus-4-8", Usage(MILLION)),))
    alone = total("anthropic", "claude-sonnet-5", tokens_input=MILLION)
    advisor = total("anthropic", "claude-opus-4-8", tokens_input=MILLION)
    assert total("anthropic", "claude-sonnet-5", usage=advised) == alone + advisor
    unknown = Usage(tokens_input=5, extra_models=(("claude-of-2050", Usage(5)),))
    assert total("anthropic", "claude-sonnet-5", usage=unknown) is None


@pytest.mark.parametrize("cost", ["0.0145476", "0"])
@pytest.mark.parametrize("provider", ["openrouter", "xai", "perplexity"])
def test_bill_of_the_provider_wins(provider, cost):
    """Three providers say what they charge, 0 included: no table knows better."""
    usage = Usage(tokens_input=10, provider_cost_usd=Decimal(cost))
    found = price(provider, "no-such-model", usage=usage)
    assert (found.total, found.source) == (Decimal(cost), "provider")
    assert (found.input, found.output, found.cache) == (None, None, None)


def test_estimate_is_kept_beside_the_bill():
    """Where the table knows the model too, the parts are its estimate."""
    usage = Usage(tokens_input=MILLION, provider_cost_usd=Decimal("0.5"))
    found = price("xai", "grok-4", usage=usage)
    assert (found.total, found.source, found.input) == (Decimal("0.5"), "provider", Decimal(3))


@pytest.mark.parametrize("provider", ["azure", "openai", "mybox", None])
def test_bills_of_others_are_not_believed(provider):
    """Azure's Grok and copies of OpenRouter pass a figure on without meaning it."""
    usage = Usage(tokens_input=MILLION, provider_cost_usd=Decimal("0.5"))
    assert price(provider, "gpt-4o", usage=usage).source == SOURCE_TABLE


@pytest.mark.parametrize(
    ("usage", "provider", "model"),
    [
        (Usage(tokens_input=0, cache_read_tokens=161, tokens_output=5), "azure", "grok-4-1-fast"),
        (
            Usage(tokens_input=5, audio_input_tokens=50, cache_read_tokens=9),
            "gemini",
            "gemini-2.5-flash",
        ),
        (Usage(cache_write_tokens=1, cache_write_1h_tokens=9), "anthropic", "claude-sonnet-5"),
        (Usage(tokens_output=1, audio_output_tokens=9), "openai", "gpt-audio-mini"),
        (Usage(cache_read_tokens=1, cache_audio_read_tokens=9), "gemini", "gemini-2.5-flash"),
    ],
)
def test_parts_that_exceed_their_whole(usage, provider, model):
    """Real answers contradict themselves: that costs no record, and nothing negative comes out."""
    found = price(provider, model, usage=usage)
    assert found.total >= 0
    assert min(found.input, found.output, found.cache) >= 0


def test_service_tiers_of_the_answer():
    """Flex and priority have their own rates; the usual tiers, whatever they are called, not."""
    usual = total("openai", "gpt-5-mini", tokens_input=MILLION)
    for tier in ("default", "standard", "auto", "on_demand", "what"):
        assert total("openai", "gpt-5-mini", tokens_input=MILLION, service_tier=tier) == usual
    assert total("openai", "gpt-5-mini", tokens_input=MILLION, service_tier="flex") == usual / 2
    priority = total("openai", "gpt-5-mini", tokens_input=MILLION, service_tier="priority")
    assert priority == Decimal("0.45")


def test_fast_mode():
    """Anthropic's fast mode has its own price."""
    slow = total("anthropic", "claude-opus-4-8", tokens_output=MILLION)
    assert total("anthropic", "claude-opus-4-8", tokens_output=MILLION, speed="fast") > slow


@pytest.mark.parametrize("at", [NOW, datetime(2026, 3, 1, tzinfo=UTC)])
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-3-5-haiku-latest"),
        ("openai", "gpt-5-mini"),
    ],
)
def test_batches_cost_half(provider, model, at):
    """A batch halves what tokens cost, also before the table said so, but not the fees."""
    usual = price(provider, model, tokens_input=1000, tokens_output=1000, at=at)
    half = price(provider, model, tokens_input=1000, tokens_output=1000, at=at, batch=True)
    assert half.total == usual.total / 2
    tier = price(
        provider, model, tokens_input=1000, tokens_output=1000, at=at, service_tier="batch"
    )
    assert tier.total == half.total
    if provider == "anthropic":
        searched = price(provider, model, tokens_input=1, web_searches=1, at=at, batch=True)
        assert searched.total - searched.input == Decimal("0.01")


def test_audio_has_its_own_rates():
    """Audio counts apart in input, output and cache."""
    usage = Usage(
        tokens_input=MILLION,
        audio_input_tokens=MILLION + 400_000,
        cache_read_tokens=MILLION,
        cache_audio_read_tokens=500_000,
    )
    # gemini-2.5-flash: $0.30 text, $1 audio, read $0.03 and $0.10.
    found = price("gemini", "gemini-2.5-flash", usage=usage)
    assert found.input == Decimal("0.1") * Decimal("0.3") + Decimal("0.9")
    assert found.cache == Decimal("0.015") + Decimal("0.05")


def test_override_of_audio_previews():
    """The table has no audio rates for the previews; OpenAI's model pages do."""
    usage = Usage(
        tokens_input=800, audio_input_tokens=800, tokens_output=450, audio_output_tokens=400
    )
    for model in ("gpt-4o-audio-preview", "gpt-4o-audio-preview-2025-06-03"):
        assert total("openai", model, usage=usage) == Decimal("0.0645")
    assert total("openai", "gpt-4o-mini-audio-preview", usage=usage) == Decimal("0.01603")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2025, 6, 2, 1, tzinfo=UTC), "1.10"),
        (datetime(2025, 6, 2, 20, tzinfo=UTC), "0.55"),
        (datetime(2025, 9, 10, 20, tzinfo=UTC), "1.68"),
        (datetime(2026, 1, 10, tzinfo=UTC), "0.42"),
        (datetime(2026, 6, 10, 12, tzinfo=UTC), "0.28"),
    ],
)
def test_history_of_deepseek_chat(at, expected):
    """The name outlived several models; each had its price."""
    assert total("deepseek", "deepseek-chat", tokens_output=MILLION, at=at) == Decimal(expected)


def test_peak_hours_are_on_working_days():
    """The same hour costs less on a weekend (DeepSeek, Beijing time)."""
    friday = datetime(2026, 11, 20, 2, tzinfo=UTC)
    costs = [
        total("deepseek", "deepseek-v4-flash", tokens_output=MILLION, at=friday + timedelta(days=n))
        for n in range(4)
    ]
    assert costs == [Decimal("1.2"), Decimal("0.6"), Decimal("0.6"), Decimal("1.2")]


def test_time_of_the_request_counts():
    """The price is that of the request's time, in any time zone, also back and forth."""
    before = datetime(2026, 3, 12, 23, tzinfo=UTC)
    after = datetime(2026, 3, 13, 1, tzinfo=UTC)
    for at, rate in ((before, 10), (after, 5), (before, 10), (after, 5)):
        assert total("anthropic", "claude-opus-4-6", tokens_input=MILLION, at=at) == rate


def test_mistral_large_is_not_the_old_one():
    """The alias moved on to Large 3."""
    assert total("mistral", "mistral-large-latest", tokens_input=MILLION) == Decimal("0.5")
    assert total("mistral", "mistral-large-2411", tokens_input=MILLION) == 2


def test_perplexity_estimates_the_cheapest_search():
    """Without a bill the fee is that of the default search size."""
    assert total("perplexity", "sonar", tokens_input=1) == Decimal("0.005001")


@pytest.mark.parametrize(
    ("provider", "model", "known"),
    [
        ("gemini", "models/gemini-2.5-pro", True),
        ("vertex", "publishers/google/models/gemini-2.5-pro", True),
        ("openai", "openai/gpt-4o", True),
        ("openai", "ft:gpt-4o-mini-2024-07-18:org::id", True),
        ("openai", "GPT-4o", True),
        ("xai", "grok-4", True),
        ("moonshot", "kimi-k2-0905-preview", True),
        ("openai", "no-such-model", False),
        ("openai", "", False),
        ("openai", None, False),
    ],
)
def test_spellings_of_models(provider, model, known):
    """Paths and vendors before a name do not hide it."""
    assert (total(provider, model, tokens_input=5) is not None) is known


@pytest.mark.parametrize("provider", ["ollama", "lmstudio", "vllm", "VLLM"])
def test_own_machines_cost_nothing_known(provider):
    """What runs at home has no price, and that is not 0."""
    assert price(provider, "gpt-oss-120b", tokens_input=5) is None
    assert price(provider, "gpt-4o", tokens_input=5) is None


ROUTER = "https://router.huggingface.co"


@pytest.mark.parametrize(
    ("provider", "url", "model", "requested", "known"),
    [
        ("hf", f"{ROUTER}/together/v1/chat/completions", "deepseek-ai/DeepSeek-R1", None, True),
        (
            "hf",
            f"{ROUTER}/v1/chat/completions",
            "openai/gpt-oss-120b",
            "openai/gpt-oss-120b:groq",
            True,
        ),
        (
            "hf",
            f"{ROUTER}/v1/chat/completions",
            "openai/gpt-oss-120b",
            "openai/gpt-oss-120b",
            False,
        ),
        ("hf", f"{ROUTER}/nobody/v1/chat/completions", "openai/gpt-oss-120b", None, False),
        (
            "huggingface",
            "http://127.0.0.1:1/together/v1/chat/completions",
            "deepseek-ai/DeepSeek-R1",
            None,
            True,
        ),
        (
            "fast",
            "https://api.groq.com/openai/v1/chat/completions",
            "openai/gpt-oss-120b",
            None,
            True,
        ),
        ("mine", "http://127.0.0.1:8000/v1/chat/completions", "openai/gpt-oss-120b", None, False),
    ],
)
def test_providers_are_known_by_their_address(provider, url, model, requested, known):
    """Whatever a provider is called, the prices of its address hold; a router has several."""
    found = price(provider, model, requested=requested, url=url, tokens_input=MILLION)
    assert (found is not None) is known
    assert not known or found.total > 0


def test_providers_of_other_names():
    """A provider that the operator named is priced by the format it speaks."""
    assert total("openai-eu", "gpt-4o", tokens_input=MILLION) == Decimal("2.5")
    mine = price("mine", "claude-sonnet-4-5", api="anthropic_messages", tokens_input=MILLION)
    assert mine.total == 6
    assert price("mine", "llama-3", tokens_input=5) is None
    # Anybody can run it, also at home.
    assert price("mine", "openai/gpt-oss-120b", tokens_input=5) is None
    assert price("groq", "openai/gpt-oss-120b", tokens_input=5) is not None


@pytest.mark.parametrize(
    ("provider", "answered", "requested", "known"),
    [
        ("openai", "davinci:2023-07-21-v2", "davinci-002", True),
        ("openai", None, "gpt-4o", True),
        ("openai", "brand-new", "gpt-4o", False),
        ("openai", "claude-x", "gpt-4o", False),
        ("openrouter", "x-ai/grok-unheard-of", "google/gemini-2.0-flash-exp:free", False),
    ],
)
def test_requested_model_counts_within_its_family_only(provider, answered, requested, known):
    """A router that answers with another model is not priced as what was asked for."""
    found = total(provider, answered, requested=requested, tokens_input=5)
    assert (found is not None) is known


def test_tokens_without_a_price_make_the_cost_unknown():
    """A model that is priced by the hour has no price for tokens: not 0."""
    assert price("openai", "whisper-1", tokens_input=1000) is None


def test_made_up_names_leave_nothing_behind():
    """Clients can make up names without end; neither we nor the package remember them."""
    book = PriceBook()
    snapshot = data_snapshot.get_snapshot()
    before = len(snapshot._lookup_cache) + len(snapshot._provider_cache)  # noqa: SLF001
    for number in range(2500):
        book.price(
            "openai",
            "openai_chat",
            Usage(5),
            model=f"gpt-4o-{number}",
            model_requested=f"x{number}",
            at=NOW,
        )
    assert len(book._entries) <= 1024  # noqa: SLF001 the bound is the point
    after = len(snapshot._lookup_cache) + len(snapshot._provider_cache)  # noqa: SLF001
    assert after == before


def test_overrides_name_models_the_table_has():
    """An override whose model is gone from the table, or renamed, must be looked at again."""
    for row in OVERRIDES:
        for vendor in row.vendors & {"openai", "deepseek", "mistral", "perplexity"}:
            owner = data_snapshot.find_provider_by_id(
                data_snapshot.get_snapshot().providers, vendor
            )
            assert any(row.models.fullmatch(model.id) for model in owner.models) or row.same_as
            assert row.same_as is None or owner.find_model(row.same_as) is not None


@settings(max_examples=100, deadline=None)
@given(
    provider=st.sampled_from(["openai", "anthropic", "gemini", "openrouter", "x", "", None]),
    model=st.sampled_from(["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash", ""])
    | st.text(max_size=8),
    counts=st.lists(st.integers(0, 1 << 53), min_size=11, max_size=11),
    tier=st.none() | st.text(max_size=5),
)
def test_no_usage_makes_it_raise(provider, model, counts, tier):
    """Whatever the figures, a price is a price or unknown, never negative."""
    found = price(provider, model, usage=Usage(*counts, service_tier=tier), api="openai_chat")
    assert found is None or found.total >= 0

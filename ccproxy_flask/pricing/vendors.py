"""Who bills for an answer, and which of their models answered."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

# They document that the figure in the answer is what is billed (OpenRouter "Usage accounting",
# xAI "Cost tracking", Perplexity "Usage and cost"); others pass the field on without meaning it.
BILLS_IN_ANSWER = frozenset({"openrouter", "x-ai", "perplexity"})
# What runs on machines of one's own has no price, also where it answers as gpt-oss.
_OWN_MACHINES = frozenset(
    {"ollama", "lmstudio", "vllm", "gpustack", "llamacpp", "llama-cpp", "localai", "sglang"}
)
_OPEN_WEIGHTS = re.compile(r"\bgpt-oss\b|\bgemma")
_NOBODY = ""
_ROUTER = "https://router.huggingface.co/"
_ALIASES = {"gemini": "google", "vertex": "google", "grok": "x-ai", "bedrock": "aws"}


@lru_cache(maxsize=256)
def vendor_id(provider: str | None, url: str, model: str | None) -> str | None:
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


def is_anybodys(model: str | None) -> bool:
    """True for models that anybody can run, and where none was named."""
    return model is None or _OPEN_WEIGHTS.search(model.lower()) is not None


def find(vendor: Provider, names: tuple[str | None, str | None]) -> tuple[str, ModelInfo] | None:
    """Return the model of *vendor* that answered or was asked for, and how the table spells it."""
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

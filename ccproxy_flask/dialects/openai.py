"""What OpenAI's APIs have in common, also those that others made of them, and those of its routes
on which no model answers.

Sources: OpenAI API reference, and of the others: xAI "Usage", OpenRouter "Usage accounting",
Perplexity "Chat completions", DeepSeek "Context caching", Groq, Mistral, Moonshot (2026-11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ..usage.parser import Usage, as_count, as_money, as_object, as_objects
from . import said
from .anthropic.said import BLOCKS as ANTHROPIC_BLOCKS
from .base import API_ROOT, Dialect, Endpoint, names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from ..errors import ProxyError

Json = dict[str, Any]
# Powers of ten: xAI counts in 1e-10 USD.
_TICKS_PER_USD = 10


def error_body(error: ProxyError, request_id: str) -> bytes:  # noqa: ARG001  it is in the headers
    """Return *error* as OpenAI's APIs have it ("Error codes")."""
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    shape = {"message": str(error), "type": kind, "code": error.error_type, "param": None}
    return orjson.dumps({"error": shape})


def usage_of(raw: dict[str, Any] | None, service_tier: str | None) -> Usage | None:
    """Return the usage object *raw* in our terms, None where it has no figures.

    ``prompt_tokens`` (``input_tokens``) includes what was read from and written to the cache,
    ``completion_tokens`` (``output_tokens``) includes reasoning.
    """
    if not raw:
        return None
    prompt = raw.get("prompt_tokens", raw.get("input_tokens"))
    completion = raw.get("completion_tokens", raw.get("output_tokens"))
    if type(prompt) is not int and type(completion) is not int:
        return None
    details = as_object(raw.get("prompt_tokens_details") or raw.get("input_tokens_details"))
    made = as_object(raw.get("completion_tokens_details") or raw.get("output_tokens_details"))
    audio = as_count(details.get("audio_tokens"))
    total_input, total_output = _with_gap(raw, as_count(prompt), as_count(completion), audio)
    cached, written = _cached(raw, details), as_count(details.get("cache_write_tokens"))
    return Usage(
        # Azure's Grok reports more cached tokens than prompt: then nothing is left uncached.
        tokens_input=max(total_input - cached - written, 0),
        tokens_output=total_output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        tokens_reasoning=as_count(made.get("reasoning_tokens")),
        audio_input_tokens=audio,
        audio_output_tokens=as_count(made.get("audio_tokens")),
        cache_audio_read_tokens=as_count(
            as_object(details.get("cached_tokens_details")).get("audio_tokens")
        ),
        image_output_tokens=as_count(made.get("image_tokens")),
        service_tier=service_tier,
        provider_cost_usd=_cost_of(raw),
    )


def _with_gap(raw: dict[str, Any], prompt: int, completion: int, audio: int) -> tuple[int, int]:
    """Add what only ``total_tokens`` includes to where it belongs."""
    gap = as_count(raw.get("total_tokens")) - prompt - completion
    if gap <= 0:
        return prompt, completion
    # Mistral's Voxtral leaves audio out of prompt_tokens; xAI's chat leaves reasoning out of
    # completion_tokens, and so does Gemini's compatible endpoint with thinking.
    return (prompt + gap, completion) if gap == audio else (prompt, completion + gap)


def _cached(raw: dict[str, Any], details: dict[str, Any]) -> int:
    return (
        as_count(details.get("cached_tokens"))
        or as_count(raw.get("prompt_cache_hit_tokens"))  # DeepSeek
        or as_count(raw.get("cached_tokens"))  # Moonshot
    )


def _cost_of(raw: dict[str, Any]) -> Decimal | None:
    """Return what the provider says it charged, in USD."""
    cost = raw.get("cost")
    if isinstance(cost, dict):  # Perplexity
        cost = cost.get("total_cost")
    if cost is not None:
        return as_money(cost)
    ticks = as_money(raw.get("cost_in_usd_ticks"))
    # Azure's Grok sends 0 where it says nothing.
    return ticks.scaleb(-_TICKS_PER_USD) if ticks else None


# -- what is said ----------------------------------------------------------------------------------


def _image(part: Json) -> Json:
    url = part.get("image_url")
    url = said.as_text(url.get("url") if isinstance(url, dict) else url)
    head, _, data = url.partition(",")
    is_data = head.startswith("data:")
    kind = head[5:].partition(";")[0] if is_data else "image"
    return said.media(kind, data if is_data else None)


def _words(kind: str, member: str) -> Callable[[Json], Json]:
    return lambda part: said.text_block(part.get(member), kind)


BLOCKS: said.Blocks = {
    **ANTHROPIC_BLOCKS,  # gateways take them for chats, too
    **dict.fromkeys(("text", "input_text", "output_text"), _words("text", "text")),
    **dict.fromkeys(("summary_text", "reasoning_text"), _words("thinking", "text")),
    "refusal": _words("text", "refusal"),
    **dict.fromkeys(("image_url", "input_image"), _image),
}


def chat_request(document: Json) -> Json:
    """Return the conversation in ``messages``, or what older APIs have in their place."""
    if not isinstance(document.get("messages"), list):
        return said.plain_request(document)
    system, messages = list[Json](), list[Json]()
    for each in as_objects(document["messages"]):
        blocks = chat_blocks(each)
        if each.get("role") in said.SYSTEM_ROLES and not messages:
            system += blocks
        else:
            messages.append(said.message(each.get("role"), blocks))
    tools = said.tools(document.get("tools"))
    return {"system": system, "tools": tools, "messages": messages}


def chat_blocks(message: Json) -> list[Json]:
    """Return the blocks of a message of a chat, or of its answer."""
    content = message.get("content")
    if message.get("role") == "tool":
        found = said.blocks(content, BLOCKS)
        return [said.tool_result(message.get("tool_call_id"), found, content, False)]
    thinking = said.text_of(message, "reasoning_content", "reasoning", "thinking")
    blocks = [said.text_block(thinking, "thinking")] if thinking is not None else []
    blocks += said.blocks(content, BLOCKS)
    for call in as_objects(message.get("tool_calls")):
        function = as_object(call.get("function")) or as_object(call.get("custom"))
        given = function.get("arguments", function.get("input"))
        blocks.append(said.tool_use(function.get("name"), call.get("id"), given))
    return blocks


KEY_HEADERS = ("authorization", "api-key")  # the second one is Azure's
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-oai-request-id")
LIMIT_HEADERS = (
    "x-ratelimit-",
    # Of Codex with a ChatGPT login.
    "x-codex-primary-",
    "x-codex-secondary-",
    "x-codex-credits-",
)
# The second one is of requests: those of Codex with a ChatGPT login.
ACCOUNT_HEADERS = ("openai-organization", "chatgpt-account-id")


def _is_for_openai(path: str, _headers: Mapping[str, str]) -> bool:
    return path.startswith("/v1/")


# Members of its JSON that say nothing secret (its API reference).
SHOWN = names("""
    allow_fallbacks annotations architecture arguments background call_id categories
    category_scores channel choices completed_at completion_tokens_details
    content_filter_results content_filters content_index context_details context_length cost
    cost_details country created_at detected dimensions effort embedding embeddings
    enable_thinking encoding_format filtered finish_reason flagged frequency_penalty
    function_call hate image_url include include_obfuscation include_usage
    incomplete_details input_audio input_modalities input_tokens_details instructions
    is_byok item item_id jailbreak json_schema language logit_bias logprobs logs
    max_completion_tokens max_output_tokens max_tool_calls native_finish_reason
    num_sources_used only op order output_index output_modalities output_text
    output_tokens_details owned_by parallel_tool_calls phase presence_penalty
    previous_response_id prompt_cache_options prompt_cache_retention prompt_filter_results
    prompt_tokens_details protected_material_code protected_material_text provider
    provider_name quality reasoning reasoning_content reasoning_details reasoning_effort
    refusal relevance_score repetition_penalty require_approval response_format root
    search_context_size search_results seed self_harm sequence_number server_description
    server_label server_side_tool_usage_details server_tool_use_details service_tier sexual
    size sources store stream_options strict style suffix summary system_fingerprint
    time_info timestamp_granularities timezone tool_calls tool_usage top_logprobs truncation
    upstream_inference_cost user_location verbosity violence voice x_groq
""")

DIALECT = Dialect(
    name="openai",
    endpoints=(
        Endpoint(API_ROOT + r"/moderations", "/v1/moderations"),
        Endpoint(
            API_ROOT + r"/audio/(?:speech|transcriptions|translations)", "/v1/audio", of="audio"
        ),
        Endpoint(API_ROOT + r"/images(?:/.*)?", "/v1/images", of="images"),
        Endpoint(API_ROOT + r"/files(?:/.*)?", "/v1/files", of="files"),
        Endpoint(API_ROOT + r"/batches(?:/.*)?", "/v1/batches", of="batches"),
        Endpoint(API_ROOT + r"/models(?:/.*)?", "/v1/models", of="models"),
    ),
    error_body=error_body,
    claims=_is_for_openai,
    provider="openai",
    key_headers=KEY_HEADERS,
    request_id_headers=REQUEST_ID_HEADERS,
    limit_headers=LIMIT_HEADERS,
    account_headers=ACCOUNT_HEADERS,
    said=said.Said(chat_request),
    shown=SHOWN,
)

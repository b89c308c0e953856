"""OpenAI's APIs, and what others made of them.

Sources: OpenAI API reference ("Chat", "Responses", "Completions", "Embeddings"), and of the
dialects: xAI "Usage", OpenRouter "Usage accounting", Perplexity "Chat completions", DeepSeek
"Context caching", Groq, Mistral, Moonshot (2026-11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .base import (
    ERROR_WANTED,
    Reading,
    Usage,
    count_of,
    money_of,
    name_of,
    object_of,
    objects_of,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from .skim import WantedMembers

# Powers of ten: xAI counts in 1e-10 USD.
_TICKS_PER_USD = 10

_CONTENT_KEYS = (
    "content",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "refusal",
    "function_call",
    "audio",
)


# "data: [DONE]" is the last line, whatever line ends and comments are after it.
_LONGEST_END = 64
# Items of a response that do not begin with a token of content; tool calls do.
_SILENT_ITEMS = frozenset({None, "message", "reasoning", "mcp_list_tools"})


class ChatReading(Reading):
    """A chat completion, a legacy completion, or the stream of one."""

    __slots__ = ("_service_tier", "_usage", "_usually_spaced")

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "model": None,
        "usage": None,
        "service_tier": None,
        "x_groq": {"usage": None, "error": None},
        "choices": [
            {
                "index": None,
                "finish_reason": None,
                "usage": None,
                "delta": None,
                "text": None,
                "error": None,
            }
        ],
    }

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._usage: dict[str, Any] | None = None
        self._service_tier: str | None = None
        self._usually_spaced = False

    def worth_reading(self, block: bytes) -> bool:
        """Once the content has begun: a reason to finish, usage, an error, the end."""
        if not self.content_seen:
            self._usually_spaced = b'"choices":[' in block or b'"choices": [' in block
            return True
        # More than null, in both ways to space JSON that are in use: Azure mixes them in one
        # stream. With any other way each chunk is looked at.
        return (
            not self._usually_spaced
            or b'"usage":{' in block
            or b'"usage": {' in block
            or b'"finish_reason":"' in block
            or b'"finish_reason": "' in block
            or b'"error"' in block
            or block.find(b"[DONE]", -_LONGEST_END) >= 0
        )

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a chunk of a stream, or of a whole completion."""
        # Azure's first chunk names the model "" and has no choices.
        self.note_model(document.get("model"))
        self._service_tier = name_of(document.get("service_tier")) or self._service_tier
        choices = document.get("choices")
        if choices:
            for choice in objects_of(choices):
                self._note_choice(choice)
        groq = object_of(document.get("x_groq"))
        for holder in (document, groq):
            if usage := holder.get("usage"):
                # The last one counts; some servers repeat it in every chunk.
                self._usage = usage if isinstance(usage, dict) else self._usage
            if holder.get("error"):
                self.note_error(holder)

    def usage(self) -> Usage | None:
        """Return what was used, as far as the answer said."""
        return usage_of(self._usage, self._service_tier)

    def _note_choice(self, choice: dict[str, Any]) -> None:
        if (reason := choice.get("finish_reason")) and (
            self.finish_reason is None or choice.get("index") == 0
        ):
            self.finish_reason = name_of(reason)
        if usage := choice.get("usage"):
            self._usage = usage if isinstance(usage, dict) else self._usage
        if choice.get("error"):
            self.note_error(choice)
        if not self.content_seen:
            delta = object_of(choice.get("delta"))
            self.content_seen = bool(choice.get("text")) or any(map(delta.get, _CONTENT_KEYS))


class EmbeddingsReading(ChatReading):
    """A list of embeddings: input only."""

    __slots__ = ()

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "model": None,
        "usage": None,
        "service_tier": None,
    }


class ResponsesReading(Reading):
    """A response of the Responses API, or the stream of one."""

    __slots__ = ("_response",)

    _response_wanted: ClassVar[WantedMembers] = {
        "model": None,
        "status": None,
        "usage": None,
        "service_tier": None,
        "error": None,
    }
    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        **_response_wanted,
        "delta": None,
        "item": {"type": None},
        "response": _response_wanted,
    }

    _terminal = frozenset({"response.completed", "response.incomplete", "response.failed"})

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._response: dict[str, Any] = {}

    def worth_reading(self, block: bytes) -> bool:
        """Once the content has begun: the event that ends the response, or an error."""
        return (
            not self.content_seen
            or b'"response.completed"' in block
            or b'"response.incomplete"' in block
            or b'"response.failed"' in block
            or b'"error"' in block
        )

    def event(self, event: dict[str, Any]) -> None:
        """Take note of one event; only a terminal one has usage."""
        kind = event.get("type")
        if not isinstance(kind, str):
            if event.get("error"):
                self.note_error(event)
            return
        if kind.endswith(".delta"):
            self.content_seen = self.content_seen or bool(event.get("delta"))
        elif kind in self._terminal:
            self.complete = True
            self.document(object_of(event.get("response")))
        elif kind == "error":
            self.note_error(event)
        elif kind == "response.output_item.added":
            item = object_of(event.get("item")).get("type")
            self.content_seen = self.content_seen or item not in _SILENT_ITEMS
        elif response := event.get("response"):
            # response.created: a stream that breaks off has named its model.
            self.note_model(object_of(response).get("model"))

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a whole response."""
        self._response = {
            key: value for key, value in document.items() if key in self._response_wanted
        }
        self.note_model(document.get("model"))
        self.finish_reason = name_of(document.get("status"))
        if document.get("error"):
            self.note_error(document)

    def usage(self) -> Usage | None:
        """Return what was used, where the response came to its end."""
        raw = self._response.get("usage")
        tier = name_of(self._response.get("service_tier"))
        return usage_of(raw if isinstance(raw, dict) else None, tier)


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
    details = object_of(raw.get("prompt_tokens_details") or raw.get("input_tokens_details"))
    made = object_of(raw.get("completion_tokens_details") or raw.get("output_tokens_details"))
    audio = count_of(details.get("audio_tokens"))
    total_input, total_output = _with_gap(raw, count_of(prompt), count_of(completion), audio)
    cached, written = _cached(raw, details), count_of(details.get("cache_write_tokens"))
    return Usage(
        # Azure's Grok reports more cached tokens than prompt: then nothing is left uncached.
        tokens_input=max(total_input - cached - written, 0),
        tokens_output=total_output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        tokens_reasoning=count_of(made.get("reasoning_tokens")),
        audio_input_tokens=audio,
        audio_output_tokens=count_of(made.get("audio_tokens")),
        cache_audio_read_tokens=count_of(
            object_of(details.get("cached_tokens_details")).get("audio_tokens")
        ),
        image_output_tokens=count_of(made.get("image_tokens")),
        service_tier=service_tier,
        provider_cost_usd=_cost_of(raw),
    )


def _with_gap(raw: dict[str, Any], prompt: int, completion: int, audio: int) -> tuple[int, int]:
    """Add what only ``total_tokens`` includes to where it belongs."""
    gap = count_of(raw.get("total_tokens")) - prompt - completion
    if gap <= 0:
        return prompt, completion
    # Mistral's Voxtral leaves audio out of prompt_tokens; xAI's chat leaves reasoning out of
    # completion_tokens, and so does Gemini's compatible endpoint with thinking.
    return (prompt + gap, completion) if gap == audio else (prompt, completion + gap)


def _cached(raw: dict[str, Any], details: dict[str, Any]) -> int:
    return (
        count_of(details.get("cached_tokens"))
        or count_of(raw.get("prompt_cache_hit_tokens"))  # DeepSeek
        or count_of(raw.get("cached_tokens"))  # Moonshot
    )


def _cost_of(raw: dict[str, Any]) -> Decimal | None:
    """Return what the provider says it charged, in USD."""
    cost = raw.get("cost")
    if isinstance(cost, dict):  # Perplexity
        cost = cost.get("total_cost")
    if cost is not None:
        return money_of(cost)
    ticks = money_of(raw.get("cost_in_usd_ticks"))
    # Azure's Grok sends 0 where it says nothing.
    return ticks.scaleb(-_TICKS_PER_USD) if ticks else None

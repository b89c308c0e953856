"""Google's Gemini API, also as served by Vertex AI (ai.google.dev: "UsageMetadata"; 2026-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .base import (
    ERROR_WANTED,
    Reading,
    Usage,
    count_of,
    name_of,
    object_of,
    objects_of,
)

if TYPE_CHECKING:
    from .skim import WantedMembers

# Vertex may send the number of the enum instead of its name ("Modality").
_AUDIO = frozenset({"AUDIO", 4})
_IMAGE = frozenset({"IMAGE", 2})


class GenerateReading(Reading):
    """An answer of generateContent, or the stream of one: each chunk has the same shape."""

    __slots__ = ("_usage",)

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "modelVersion": None,
        "usageMetadata": None,
        "candidates": [{"index": None, "finishReason": None, "content": {"parts": None}}],
    }

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._usage: dict[str, Any] | None = None

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a chunk of a stream, or of a whole answer."""
        self.note_model(document.get("modelVersion"))
        for place, candidate in enumerate(objects_of(document.get("candidates"))):
            if reason := name_of(candidate.get("finishReason")):
                # Of several candidates the first one speaks.
                if self.finish_reason is None or not candidate.get("index", place):
                    self.finish_reason = reason
                # There is no other sign that a stream is over.
                self.complete = True
            if not self.content_seen:
                parts = objects_of(object_of(candidate.get("content")).get("parts"))
                self.content_seen = any(any(part.values()) for part in parts)
        usage = document.get("usageMetadata")
        # The last one counts, as a whole: the figures start again at each round of tools. For a
        # blocked prompt there is only the traffic type.
        if isinstance(usage, dict) and any(key.endswith("TokenCount") for key in usage):
            self._usage = usage
        if document.get("error"):
            self.note_error(document)

    def usage(self) -> Usage | None:
        """Return what was used, as far as the answer said."""
        return None if self._usage is None else _usage_of(self._usage)


def _usage_of(raw: dict[str, Any]) -> Usage:
    tool_prompt = count_of(raw.get("toolUsePromptTokenCount"))
    prompt = count_of(raw.get("promptTokenCount")) + tool_prompt
    cached = count_of(raw.get("cachedContentTokenCount"))
    thoughts = count_of(raw.get("thoughtsTokenCount"))
    made = raw.get("candidatesTokensDetails")
    return Usage(
        tokens_input=max(prompt - cached, 0),
        tokens_output=count_of(raw.get("candidatesTokenCount")) + thoughts,
        cache_read_tokens=cached,
        tokens_reasoning=thoughts,
        audio_input_tokens=_of_modality(raw.get("promptTokensDetails"), _AUDIO)
        + _of_modality(raw.get("toolUsePromptTokensDetails"), _AUDIO),
        cache_audio_read_tokens=_of_modality(raw.get("cacheTokensDetails"), _AUDIO),
        audio_output_tokens=_of_modality(made, _AUDIO),
        image_output_tokens=_of_modality(made, _IMAGE),
        service_tier=name_of(raw.get("serviceTier")),
    )


def _of_modality(details: object, modality: frozenset[object]) -> int:
    if not details:
        return 0
    return sum(
        count_of(part.get("tokenCount"))
        for part in objects_of(details)
        if isinstance(kind := part.get("modality"), str | int) and kind in modality
    )

"""Google's Gemini API, also as served by Vertex AI (ai.google.dev: "UsageMetadata"; 2026-11)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from ..usage.parser import (
    ERROR_WANTED,
    ResponseParser,
    Usage,
    as_count,
    as_name,
    as_object,
    as_objects,
)
from ..usage.request import asks_by_member
from . import said
from .base import Dialect, Endpoint, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..errors import ProxyError
    from ..usage.partial_json import WantedMembers

Json = dict[str, Any]
# Vertex may send the number of the enum instead of its name ("Modality").
_AUDIO = frozenset({"AUDIO", 4})
_IMAGE = frozenset({"IMAGE", 2})


class GeminiParser(ResponseParser):
    """An answer of generateContent, or the stream of one: each chunk has the same shape."""

    __slots__ = ("_usage",)

    streams_as_list: ClassVar[bool] = True  # without `alt=sse`
    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "modelVersion": None,
        "responseId": None,
        "usageMetadata": None,
        "candidates": [{"index": None, "finishReason": None, "content": {"parts": None}}],
    }

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._usage: dict[str, Any] | None = None

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a chunk of a stream, or of a whole answer."""
        self.note_model(document.get("modelVersion"))
        self.note_id(document.get("responseId"))
        for place, candidate in enumerate(as_objects(document.get("candidates"))):
            if reason := as_name(candidate.get("finishReason")):
                # Of several candidates the first one speaks.
                if self.finish_reason is None or not candidate.get("index", place):
                    self.finish_reason = reason
                # There is no other sign that a stream is over.
                self.complete = True
            if not self.content_seen:
                parts = as_objects(as_object(candidate.get("content")).get("parts"))
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
    tool_prompt = as_count(raw.get("toolUsePromptTokenCount"))
    prompt = as_count(raw.get("promptTokenCount")) + tool_prompt
    cached = as_count(raw.get("cachedContentTokenCount"))
    thoughts = as_count(raw.get("thoughtsTokenCount"))
    made = raw.get("candidatesTokensDetails")
    return Usage(
        tokens_input=max(prompt - cached, 0),
        tokens_output=as_count(raw.get("candidatesTokenCount")) + thoughts,
        cache_read_tokens=cached,
        tokens_reasoning=thoughts,
        audio_input_tokens=_of_modality(raw.get("promptTokensDetails"), _AUDIO)
        + _of_modality(raw.get("toolUsePromptTokensDetails"), _AUDIO),
        cache_audio_read_tokens=_of_modality(raw.get("cacheTokensDetails"), _AUDIO),
        audio_output_tokens=_of_modality(made, _AUDIO),
        image_output_tokens=_of_modality(made, _IMAGE),
        service_tier=as_name(raw.get("serviceTier")),
    )


def _of_modality(details: object, modality: frozenset[object]) -> int:
    if not details:
        return 0
    return sum(
        as_count(part.get("tokenCount"))
        for part in as_objects(details)
        if isinstance(kind := part.get("modality"), str | int) and kind in modality
    )


# google.rpc.Code, of the statuses that have one of their own.
_ERROR_CODES = {
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    426: "FAILED_PRECONDITION",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def error_body(error: ProxyError, request_id: str) -> bytes:  # noqa: ARG001  it is in the headers
    """Return *error* as Google's APIs have it."""
    other = "INVALID_ARGUMENT" if error.status < 500 else "INTERNAL"
    code = _ERROR_CODES.get(error.status, other)
    shape = {"code": error.status, "message": str(error), "status": code}
    return orjson.dumps({"error": shape})


# -- what is said ----------------------------------------------------------------------------------


def _blocks(parts: object) -> list[Json]:
    return said.blocks(parts, {}, _block)


def _block(part: Json) -> Json:
    """Return the block of a part without a text."""
    if call := as_object(part.get("functionCall")):
        return said.tool_use(call.get("name"), call.get("id"), call.get("args"))
    if result := as_object(part.get("functionResponse")):
        content = result.get("response")
        number = result.get("id") or result.get("name")
        return said.tool_result(number, _blocks(content), content, False)
    if data := as_object(part.get("inlineData") or part.get("inline_data")):
        return said.media(data.get("mimeType") or data.get("mime_type"), data.get("data"))
    if file := as_object(part.get("fileData") or part.get("file_data")):
        return said.media(file.get("mimeType"), None)
    return said.other_block(part)


def _request(document: Json) -> Json:
    system = as_object(document.get("systemInstruction") or document.get("system_instruction"))
    declared = [
        tool
        for group in as_objects(document.get("tools"))
        for tool in group.get("functionDeclarations")
        or group.get("function_declarations")
        or [group]
    ]
    return {
        "system": _blocks(system.get("parts")),
        "tools": said.tools(declared),
        "messages": [
            said.message(each.get("role") or "user", _blocks(each.get("parts")))
            for each in as_objects(document.get("contents"))
        ],
    }


def _answer(document: Json) -> Json | None:
    candidate = next(iter(as_objects(document.get("candidates"))), None)
    if candidate is None:
        return None
    blocks = _blocks(as_object(candidate.get("content")).get("parts"))
    reason, model = candidate.get("finishReason"), document.get("modelVersion")
    return said.answer(blocks, reason, model, document.get("responseId"))


def _put_together(events: Iterable[Json]) -> Json | None:
    """Return the first chunk with the parts of all of them."""
    head: Json | None = None
    stop, parts = None, list[Json]()
    for event in events:
        for candidate in as_objects(event.get("candidates"))[:1]:
            head = event if head is None else head
            stop = candidate.get("finishReason") or stop
            for part in as_objects(as_object(candidate.get("content")).get("parts")):
                _add_part(parts, part)
    if head is None:
        return None
    return head | {"candidates": [{"content": {"parts": parts}, "finishReason": stop}]}


def _add_part(parts: list[Json], part: Json) -> None:
    """Add *part*, to the one before where both are words of the same kind."""
    last = parts[-1] if parts else {}
    are_words = isinstance(part.get("text"), str) and isinstance(last.get("text"), str)
    if are_words and (part.get("thought") is True) == (last.get("thought") is True):
        parts[-1] = last | {"text": last["text"] + part["text"]}
    else:
        parts.append(part)


_CALL = re.compile(r":(?:generate|streamGenerate|embed|batchEmbed)Contents?$|:countTokens$")
_METHOD = re.compile(r":(\w+)$")
_HEADERS = frozenset({"x-goog-api-key", "x-goog-api-client"})
_ROOTS = ("/v1beta/", "/v1alpha/", "/upload/")


def _is_spoken(path: str, headers: Mapping[str, str]) -> bool:
    if "/openai/" in path:  # its endpoint for clients of OpenAI
        return False
    if not headers.keys().isdisjoint(_HEADERS) or _CALL.search(path):
        return True
    return any(root in f"{path}/" for root in _ROOTS)


def _is_for_gemini(path: str, headers: Mapping[str, str]) -> bool:
    if path.startswith(_ROOTS):
        return True
    # google-genai calls /v1/ where its base URL was changed.
    if not path.startswith("/v1/"):
        return False
    return not _HEADERS.isdisjoint(headers) or _CALL.search(path) is not None


def _asks_for_stream(path: str, document: dict[str, Any] | None) -> bool | None:
    method = _METHOD.search(path)
    return method[1].lower().startswith("stream") if method else asks_by_member(path, document)


# Members of its JSON that say nothing secret (its API reference).
_SHOWN = names("""
    allowedFunctionNames avgLogprobs blockReason cacheTokensDetails candidateCount
    candidates candidatesTokensDetails code_execution codeExecution codeExecutionResult
    contents createdAt createTime executableCode fileData finishMessage finishReason
    functionCall functionCallingConfig functionDeclarations functionResponse
    generationConfig google_search googleSearch groundingChunkIndices groundingChunks
    groundingMetadata groundingSupports includeThoughts inlineData maxOutputTokens
    modalities modality modelVersion nextPageToken outcome parametersJsonSchema parts
    probability promptFeedback promptTokensDetails quota response_mime_type
    response_modalities responseId responseJsonSchema responseMimeType responseModalities
    responseSchema safetyRatings safetySettings segment serviceTier severity stopSequences
    systemInstruction thinkingBudget thinkingConfig thinkingLevel thought toolCall
    toolConfig toolResponse toolUsePromptTokensDetails topK topP trafficType urlContext
    urlContextMetadata urlMetadata urlRetrievalStatus usageMetadata web webSearchQueries
""")

DIALECT = Dialect(
    name="gemini",
    setting="gemini",
    endpoints=(
        Endpoint(r":generateContent", "/v1beta/models:generateContent", "POST", generates=True),
        Endpoint(
            r":streamGenerateContent",
            "/v1beta/models:streamGenerateContent",
            "POST",
            generates=True,
        ),
        Endpoint(r":countTokens", "/v1beta/models:countTokens", of="count_tokens"),
        Endpoint(r":(?:batchE|e)mbedContents?", "/v1beta/models:embedContent", of="embeddings"),
        Endpoint(r"/v1beta/models(?:/[^/:]*)?", "/v1beta/models", of="models"),
    ),
    parser=GeminiParser,
    error_body=error_body,
    speaks=_is_spoken,
    claims=_is_for_gemini,
    provider="gemini",
    key_headers=("x-goog-api-key",),
    asks_for_stream=_asks_for_stream,
    price_vendor="google",
    said=said.Said(
        _request,
        _answer,
        _put_together,
        messages="contents",
        system="systemInstruction",
        blocks="parts",
    ),
    shown=_SHOWN,
)

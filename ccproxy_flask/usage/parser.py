"""What is found out about an answer, and what the parsers of all wire formats share."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import error_type_of_status
from ..redact import plain_name, shortened

if TYPE_CHECKING:
    from ..errors import ErrorType
    from .partial_json import WantedMembers

SMALL_JSON = 64 << 10
"""JSON up to this size (bytes) is parsed whole; of larger texts only the wanted values are kept."""

LONGEST_MESSAGE = 500
LONGEST_ID = 128
MOST_TOKENS = 100_000_000
"""More than this in one answer is no usage: ten times the largest context window (2026-11)."""
MOST_USD = 10_000
"""More than this for one answer is no price."""
_LARGEST_COUNT = 1 << 53


@dataclass(slots=True)
class Usage:
    """What an answer used, in tokens. The four figures with a place in the record never overlap.

    ``tokens_input`` + ``cache_read_tokens`` + ``cache_write_tokens`` is all input;
    ``tokens_output`` is all output that is billed, reasoning included. The others are parts:
    ``cache_write_1h_tokens`` of the cache writes (the rest was written for 5 minutes),
    ``audio_input_tokens`` of all input and ``cache_audio_read_tokens`` of it and of the cache
    reads, ``tokens_reasoning``, ``audio_output_tokens`` and ``image_output_tokens`` of the output.
    """

    tokens_input: int = 0
    tokens_output: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    tokens_reasoning: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    cache_audio_read_tokens: int = 0
    image_output_tokens: int = 0
    web_searches: int = 0
    service_tier: str | None = None
    speed: str | None = None
    provider_cost_usd: Decimal | None = None
    """What the answer says it cost; whom to believe is for the price book to decide."""
    extra_models: tuple[tuple[str, Usage], ...] = ()
    """What other models used on behalf of this answer (Anthropic's advisor), not in the above."""

    @property
    def is_plausible(self) -> bool:
        """False where a figure is larger than that of any answer: upstreams can claim anything."""
        tokens = self.tokens_input + self.cache_read_tokens + self.cache_write_tokens
        parts = self.audio_input_tokens + self.audio_output_tokens + self.image_output_tokens
        if tokens + self.tokens_output > MOST_TOKENS or parts + self.web_searches > MOST_TOKENS:
            return False
        if self.provider_cost_usd is not None and self.provider_cost_usd > MOST_USD:
            return False
        return all(extra.is_plausible for _, extra in self.extra_models)


@dataclass(slots=True)
class ResponseFacts:
    """What an answer said of itself, as far as it was seen."""

    model: str | None = None
    message_id: str | None = None
    """The id that the provider gave the answer."""
    usage: Usage | None = None
    is_implausible: bool = False
    """It claimed a usage that cannot be, which is therefore none."""
    finish_reason: str | None = None
    limits: dict[str, Any] | None = None
    """Rate limits that it stated in its body, as :func:`.limits.kept` has them."""
    error_type: ErrorType | None = None
    error_message: str | None = None
    streaming: bool = False
    complete: bool = False
    """The terminal event of the stream, or the whole of the JSON, was seen."""


class ResponseParser:
    """What has been read of one answer so far; one subclass for each wire format (`dialects`).

    The framing (:mod:`.sse`, :mod:`.partial_json`) calls ``event`` for each event of a stream that
    ``may_matter``, or ``document`` once for a JSON body. Values come from the network: nothing
    may be taken for what it should be.
    """

    __slots__ = (
        "complete",
        "content_seen",
        "error_message",
        "error_type",
        "finish_reason",
        "limits",
        "message_id",
        "model",
        "status",
        "streaming",
    )

    wanted: ClassVar[WantedMembers] = {}
    """What of an event or document the subclass looks at."""
    streams_as_list: ClassVar[bool] = False
    """A stream may come as one JSON list, each item an event."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.model: str | None = None
        self.message_id: str | None = None
        self.finish_reason: str | None = None
        self.limits: dict[str, Any] | None = None
        self.error_type: ErrorType | None = None
        self.error_message: str | None = None
        self.content_seen = False
        self.streaming = False
        self.complete = False

    def may_matter(self, block: bytes) -> bool:
        """Return False where no event in *block* can change what is known; must be fast.

        Search with ``find``: of bytes, CPython's ``in`` tries first whether it was given a number,
        which takes ten times as long.
        """
        return bool(block)

    def event(self, event: dict[str, Any]) -> None:
        """Take note of one event of a stream."""
        self.document(event)

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a whole answer."""
        self.note_model(document.get("model"))

    def done(self) -> None:
        """The stream said that it is over (``[DONE]``)."""
        self.complete = True

    def usage(self) -> Usage | None:
        """Return what was used, None where the answer did not say."""
        return None

    def note_model(self, value: object) -> None:
        """Keep the first model that is named."""
        if self.model is None and value:
            self.model = as_name(value)

    def note_id(self, value: object) -> None:
        """Keep the first id of the answer."""
        if self.message_id is None and (text := as_text(value)):
            self.message_id = shortened(text, LONGEST_ID)

    def note_error(self, document: dict[str, Any]) -> None:
        """Take note of the error *document*, the first one counts."""
        if self.error_type is not None:
            return
        kinds, message = _error_parts(document)
        self.error_type = self._kind_of_error(kinds)
        self.error_message = shortened(message, LONGEST_MESSAGE) if message else None

    def _kind_of_error(self, kinds: list[object]) -> ErrorType:
        named = next((found for found in map(_named_error, kinds) if found), None)
        by_status = error_type_of_status(self.status)
        if by_status is None:
            # The status promised success. In a stream that is an error of a kind of its own,
            # whatever the reason, except where the client can do something about it: wait.
            if self.streaming:
                return named if named in ("overloaded", "rate_limit") else "stream_error"
            refused = any(type(kind) is int and 400 <= kind < 500 for kind in kinds)
            return named or ("invalid_request" if refused else "api_error")
        # The status says most; the name says more where the status is one for everything.
        return named or by_status if by_status in _GENERAL else by_status


_GENERAL = ("invalid_request", "api_error")
# Names of errors in the bodies of the providers (Anthropic "Errors", OpenAI "Error codes",
# google.rpc.Code; 2026-11) that say more than a general status like 400 or 500.
_ERROR_NAMES: dict[str, ErrorType] = {
    "authentication_error": "authentication",
    "UNAUTHENTICATED": "authentication",
    "permission_error": "permission",
    "PERMISSION_DENIED": "permission",
    "not_found_error": "not_found",
    "NOT_FOUND": "not_found",
    "model_not_found": "not_found",
    "request_too_large": "request_too_large",
    "rate_limit_error": "rate_limit",
    "rate_limit_exceeded": "rate_limit",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "overloaded_error": "overloaded",
    "UNAVAILABLE": "overloaded",
    "api_error": "api_error",
    "server_error": "api_error",
    "INTERNAL": "api_error",
}


def _named_error(kind: object) -> ErrorType | None:
    """Return what *kind* means: a name, or a status put into the body (OpenRouter, Google)."""
    if isinstance(kind, str):
        return _ERROR_NAMES.get(kind)
    if isinstance(kind, int) and 400 <= kind < 600:
        found = error_type_of_status(kind)
        return None if found in _GENERAL else found
    return None


def _error_parts(document: dict[str, Any]) -> tuple[list[object], str | None]:
    """Return the names of the error in *document* and its message, in any provider's shape.

    ``{"error": {"type", "code", "status", "message"}}`` (Anthropic, OpenAI, Google),
    ``{"error": "text", "code"}`` (Ollama, xAI), ``{"message", "type", "code"}`` (Mistral, vLLM,
    the Responses API's error event), ``{"detail": …}`` (Mistral).
    """
    error = document.get("error")
    source = error if isinstance(error, dict) else document
    kinds = [source.get("type"), source.get("code"), source.get("status")]
    for value in (error, source.get("message"), document.get("detail")):
        if isinstance(value, str) and value:
            return kinds, value
    detail = document.get("detail")
    first = detail[0] if isinstance(detail, list) and detail else detail
    if isinstance(first, dict):
        return kinds, as_text(first.get("msg") or first.get("message"))
    return kinds, None


# The shapes of errors, to be wanted beside what a format wants.
ERROR_WANTED: WantedMembers = {
    "error": None,
    "detail": None,
    "message": None,
    "code": None,
    "type": None,
}


def as_count(value: object) -> int:
    """Return *value* where it is a number of tokens, else 0; at most 2**53."""
    if value is None:  # most often
        return 0
    if type(value) is int and 0 <= value <= _LARGEST_COUNT:
        return value
    if type(value) is int or (type(value) is float and value == value):  # not NaN
        return int(min(max(value, 0), _LARGEST_COUNT))
    return 0


def as_name(value: object) -> str | None:
    """Return *value* where it is a name (of a model, of a reason), and no key in its place."""
    return plain_name(value) if isinstance(value, str) and value else None


def as_text(value: object) -> str | None:
    """Return *value* where it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def as_object(value: object) -> dict[str, Any]:
    """Return *value* where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_objects(value: object) -> list[dict[str, Any]]:
    """Return the JSON objects of *value* where it is a list, else an empty list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_money(value: object) -> Decimal | None:
    """Return *value* in USD where it is an amount: a number that is not negative."""
    if type(value) not in (int, float):
        return None
    amount = Decimal(str(value))
    return amount if amount.is_finite() and amount >= 0 else None


class PlainParser(ResponseParser):
    """What generates nothing: no model has answered, but there may be an error."""

    __slots__ = ()

    wanted: ClassVar[WantedMembers] = ERROR_WANTED

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a whole answer, or of an event."""
        super().document(document)
        self.model = None
        if self.streaming and document.get("error"):
            self.note_error(document)

"""What an answer of the Messages API says of itself: usage, model, errors, whether it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...usage.parser import (
    ERROR_WANTED,
    ResponseParser,
    Usage,
    as_count,
    as_name,
    as_object,
    as_objects,
)

if TYPE_CHECKING:
    from ...usage.partial_json import WantedMembers

_USAGE_KEYS = ("input_tokens", "output_tokens")
_TOOL_BLOCKS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


class MessagesParser(ResponseParser):
    """One message, or the stream of one."""

    __slots__ = ("_usage",)

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "id": None,
        "model": None,
        "stop_reason": None,
        "usage": None,
        "delta": None,
        "content_block": {"type": None},
        "message": {"id": None, "model": None, "stop_reason": None, "usage": None},
    }

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._usage: dict[str, Any] | None = None

    def may_matter(self, block: bytes) -> bool:
        """Of a stream whose content has begun only message_start/_delta/_stop and error count."""
        # A quote inside a text is escaped: neither can be part of what the model wrote.
        return not self.content_seen or block.find(b'"message_') >= 0 or block.find(b'"error"') >= 0

    def event(self, event: dict[str, Any]) -> None:
        """Take note of one event; the usage of a later one replaces field by field."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._note_content(any(_content_of(as_object(event.get("delta")))))
        elif kind == "content_block_start":
            block = as_object(event.get("content_block"))
            self._note_content(block.get("type") in _TOOL_BLOCKS)
        elif kind == "message_start":
            self.document(as_object(event.get("message")))
        elif kind == "message_delta":
            self._note_stop(as_object(event.get("delta")))
            self._note_usage(event.get("usage"))
        elif kind == "message_stop":
            self.complete = True
        elif "error" in event:
            self.note_error(event)

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a whole message."""
        self.note_id(document.get("id"))
        self.note_model(document.get("model"))
        self._note_stop(document)
        self._note_usage(document.get("usage"))
        if document.get("error"):
            self.note_error(document)

    def usage(self) -> Usage | None:
        """Return what was used so far."""
        raw = self._usage
        if raw is None or not any(type(raw.get(key)) is int for key in _USAGE_KEYS):
            return None
        return _usage_of(raw)

    def _note_content(self, seen: bool) -> None:
        self.content_seen = self.content_seen or seen

    def _note_stop(self, source: dict[str, Any]) -> None:
        self.finish_reason = as_name(source.get("stop_reason")) or self.finish_reason

    def _note_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        if self._usage is None:
            self._usage = {}
        # Cumulative ("Streaming messages"); what is absent or null stays as it was.
        self._usage.update((key, value) for key, value in usage.items() if value is not None)


def _content_of(delta: dict[str, Any]) -> list[Any]:
    return [value for key, value in delta.items() if key != "type"]


def _usage_of(raw: dict[str, Any]) -> Usage:
    details = as_object(raw.get("output_tokens_details"))
    searches = as_object(raw.get("server_tool_use"))
    usage = _tokens_of(raw)
    usage.tokens_reasoning = min(as_count(details.get("thinking_tokens")), usage.tokens_output)
    usage.web_searches = as_count(searches.get("web_search_requests"))
    usage.service_tier = as_name(raw.get("service_tier"))
    usage.speed = as_name(raw.get("speed"))
    if raw.get("iterations"):
        _add_iterations(usage, as_objects(raw.get("iterations")))
    return usage


def _tokens_of(raw: dict[str, Any]) -> Usage:
    written = as_count(raw.get("cache_creation_input_tokens"))
    lifetimes = as_object(raw.get("cache_creation"))
    return Usage(
        tokens_input=as_count(raw.get("input_tokens")),
        tokens_output=as_count(raw.get("output_tokens")),
        cache_read_tokens=as_count(raw.get("cache_read_input_tokens")),
        cache_write_tokens=written,
        cache_write_1h_tokens=min(as_count(lifetimes.get("ephemeral_1h_input_tokens")), written),
    )


def _add_iterations(usage: Usage, iterations: list[dict[str, Any]]) -> None:
    """Add what is billed beside the top-level figures ("Compaction", "Advisor tool")."""
    advisors = []
    for iteration in iterations:
        kind = iteration.get("type")
        if kind == "compaction":
            part = _tokens_of(iteration)
            usage.tokens_input += part.tokens_input
            usage.tokens_output += part.tokens_output
            usage.cache_read_tokens += part.cache_read_tokens
            usage.cache_write_tokens += part.cache_write_tokens
            usage.cache_write_1h_tokens += part.cache_write_1h_tokens
        elif kind == "advisor_message" and (model := as_name(iteration.get("model"))):
            advisors.append((model, _tokens_of(iteration)))
    usage.extra_models = tuple(advisors)

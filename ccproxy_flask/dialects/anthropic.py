"""Anthropic's Messages API (docs.anthropic.com: "Messages", "Streaming messages"; 2026-11)."""

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
from .base import API_ROOT, Dialect, Endpoint, names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import ProxyError
    from ..usage.partial_json import WantedMembers

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
        return not self.content_seen or b'"message_' in block or b'"error"' in block

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


# The type names of its errors ("Errors") that do not follow from the class of the status.
_ERROR_NAMES = {
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    504: "timeout_error",
}


def error_body(error: ProxyError, request_id: str) -> bytes:
    """Return *error* as the Messages API has it."""
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    shape = {"type": _ERROR_NAMES.get(error.status, kind), "message": str(error)}
    return orjson.dumps({"type": "error", "error": shape, "request_id": request_id})


_VERSION_HEADER = "anthropic-version"
_OWN_PATH = re.compile(API_ROOT + r"/(?:messages(?:/.*)?|complete)$")
_CLAIMED = re.compile(r"/v1/(?:messages(?:/.*)?|complete)$")
_CLAIMED_WITH_VERSION = re.compile(r"/v1/(?:models|files)(?:/.*)?$")


def _is_spoken(path: str, headers: Mapping[str, str]) -> bool:
    return _VERSION_HEADER in headers or _OWN_PATH.search(path) is not None


def _is_for_anthropic(path: str, headers: Mapping[str, str]) -> bool:
    if _CLAIMED.match(path):
        return True
    return _VERSION_HEADER in headers and _CLAIMED_WITH_VERSION.match(path) is not None


# Members of its JSON that say nothing secret (its API reference).
_SHOWN = names("""
    allowed_callers allowed_domains anthropic_version applied_edits betas blocked_domains
    budget_tokens cache_control cache_creation caller citation citations cited_text
    completion container_type content_block context_management defer_loading
    disable_parallel_tool_use eager_input_streaming edits first_id has_more inference_geo
    input_schema is_error iterations keep last_id max_uses media_type page_age partial_json
    server_tool_use speed stop_details stop_reason stop_sequence stop_sequences thinking
    thinking_budget tool_name tool_references tool_use_id trigger ttl
""")

DIALECT = Dialect(
    name="anthropic_messages",
    setting="anthropic_messages",
    endpoints=(
        Endpoint(
            API_ROOT + r"/messages/count_tokens", "/v1/messages/count_tokens", of="count_tokens"
        ),
        Endpoint(API_ROOT + r"/messages/batches(?:/.*)?", "/v1/messages/batches", of="batches"),
        Endpoint(API_ROOT + r"/messages", "/v1/messages", "POST", generates=True),
        Endpoint(API_ROOT + r"/complete", "/v1/complete", of="main"),
    ),
    parser=MessagesParser,
    error_body=error_body,
    speaks=_is_spoken,
    claims=_is_for_anthropic,
    provider="anthropic",
    key_headers=("x-api-key", "authorization"),
    request_id_headers=("request-id", "x-request-id"),
    limit_headers=("anthropic-ratelimit-",),
    price_vendor="anthropic",
    shown=_SHOWN,
)

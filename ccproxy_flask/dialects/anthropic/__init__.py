"""Anthropic's Messages API (docs.anthropic.com: "Messages", "Streaming messages"; 2026-11)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from ..base import API_ROOT, Dialect, Endpoint, names
from .parser import MessagesParser
from .said import SAID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...errors import ProxyError

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
    account_headers=("anthropic-organization-id",),
    price_vendor="anthropic",
    said=SAID,
    shown=_SHOWN,
)

"""The Responses API (OpenAI API reference, "Responses"; 2026-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..usage.parser import ERROR_WANTED, ResponseParser, Usage, as_name, as_object
from . import openai
from .base import API_ROOT, Dialect, Endpoint
from .openai import usage_of

if TYPE_CHECKING:
    from ..usage.partial_json import WantedMembers

# Items of a response that do not begin with a token of content; tool calls do.
_SILENT_ITEMS = frozenset({None, "message", "reasoning", "mcp_list_tools"})


class ResponsesParser(ResponseParser):
    """A response of the Responses API, or the stream of one."""

    __slots__ = ("_response",)

    _response_wanted: ClassVar[WantedMembers] = {
        "id": None,
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

    def may_matter(self, block: bytes) -> bool:
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
            self.document(as_object(event.get("response")))
        elif kind == "error":
            self.note_error(event)
        elif kind == "response.output_item.added":
            item = as_object(event.get("item")).get("type")
            self.content_seen = self.content_seen or item not in _SILENT_ITEMS
        elif response := event.get("response"):
            # response.created: a stream that breaks off has named its model.
            self.note_model(as_object(response).get("model"))
            self.note_id(as_object(response).get("id"))

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a whole response."""
        self._response = {
            key: value for key, value in document.items() if key in self._response_wanted
        }
        self.note_model(document.get("model"))
        self.note_id(document.get("id"))
        self.finish_reason = as_name(document.get("status"))
        if document.get("error"):
            self.note_error(document)

    def usage(self) -> Usage | None:
        """Return what was used, where the response came to its end."""
        raw = self._response.get("usage")
        tier = as_name(self._response.get("service_tier"))
        return usage_of(raw if isinstance(raw, dict) else None, tier)


DIALECT = Dialect(
    name="openai_responses",
    endpoints=(
        Endpoint(
            API_ROOT + r"/responses/input_tokens", "/v1/responses/input_tokens", of="count_tokens"
        ),
        Endpoint(API_ROOT + r"/responses(?:/compact)?", "/v1/responses", "POST", generates=True),
        Endpoint(API_ROOT + r"/responses(?:/.*)?", "/v1/responses"),
    ),
    parser=ResponsesParser,
    error_body=openai.error_body,
    key_headers=openai.KEY_HEADERS,
    request_id_headers=openai.REQUEST_ID_HEADERS,
    limit_headers=openai.LIMIT_HEADERS,
    begins_chains=True,
    price_vendor="openai",
    shown=openai.SHOWN,
)

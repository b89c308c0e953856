"""The Responses API (OpenAI API reference, "Responses"; 2026-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..usage import limits
from ..usage.parser import ERROR_WANTED, ResponseParser, Usage, as_name, as_object, as_objects
from . import openai, said
from .base import API_ROOT, Dialect, Endpoint
from .openai import usage_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..usage.partial_json import WantedMembers

Json = dict[str, Any]
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
        "rate_limits": None,
        "credits": None,
    }

    _terminal = frozenset({"response.completed", "response.incomplete", "response.failed"})

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._response: dict[str, Any] = {}

    def may_matter(self, block: bytes) -> bool:
        """Once the content has begun: the event that ends the response, or an error."""
        return (
            not self.content_seen
            or block.find(b'"response.completed"') >= 0
            or block.find(b'"response.incomplete"') >= 0
            or block.find(b'"response.failed"') >= 0
            or block.find(b'"error"') >= 0
            or block.find(b'"codex.rate_limits"') >= 0
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
        elif kind == "codex.rate_limits":
            self.limits = limits.of_event(event)
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


# -- what is said ----------------------------------------------------------------------------------


def _call(part: Json) -> Json:
    given = part.get("arguments", part.get("input"))
    return said.tool_use(part.get("name"), part.get("call_id"), given)


def _shell_call(part: Json) -> Json:
    return said.tool_use("local_shell", part.get("call_id"), part.get("action"))


def _output(part: Json) -> Json:
    output = part.get("output")
    found = said.blocks(output, BLOCKS)
    return said.tool_result(part.get("call_id"), found, output, False)


def _reasoning(part: Json) -> Json:
    texts = [
        *said.blocks(part.get("summary"), BLOCKS),
        *said.blocks(part.get("content"), BLOCKS),
    ]
    return said.text_block("\n".join(block.get("text", "") for block in texts), "thinking")


BLOCKS: said.Blocks = {
    **openai.BLOCKS,
    **dict.fromkeys(("function_call", "custom_tool_call"), _call),
    "local_shell_call": _shell_call,
    **dict.fromkeys(("function_call_output", "custom_tool_call_output"), _output),
    "reasoning": _reasoning,
}


def _request(document: Json) -> Json:
    system = said.blocks(document.get("instructions"), BLOCKS)
    messages: list[Json] = []
    for item in _items(document.get("input")):
        role, blocks = _item(item)
        if role in said.SYSTEM_ROLES and not messages:
            system += blocks
        elif messages and role == messages[-1]["role"] == "assistant":
            messages[-1]["blocks"] += blocks
        else:
            messages.append(said.message(role, blocks))
    return {"system": system, "tools": said.tools(document.get("tools")), "messages": messages}


def _items(given: object) -> list[Json]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return as_objects(given)


def _item(item: Json) -> tuple[str, list[Json]]:
    kind = str(item.get("type") or "message")
    if kind == "message":
        role = str(item.get("role") or "assistant")
        return role, said.blocks(item.get("content"), BLOCKS)
    role = "tool" if kind.endswith("_output") else "assistant"
    return role, said.blocks([item], BLOCKS)


def _answer(document: Json) -> Json | None:
    if not isinstance(document.get("output"), list):
        return None
    blocks = [block for item in as_objects(document["output"]) for block in _item(item)[1]]
    model, number = document.get("model"), document.get("id")
    return said.answer(blocks, document.get("status"), model, number)


def _put_together(events: Iterable[Json]) -> Json | None:
    items, text = list[Json](), list[str]()
    head: Json = {}
    for event in events:
        kind = event.get("type")
        head |= as_object(event.get("response"))
        if kind == "response.output_item.done":
            items.append(as_object(event.get("item")))
            text = []
        elif kind == "response.output_text.delta":
            text.append(said.as_text(event.get("delta")))
    if not head:
        return None
    output = head.get("output") or items
    if not output and text:  # broken off in the middle
        content = [{"type": "output_text", "text": "".join(text)}]
        output = [{"type": "message", "role": "assistant", "content": content}]
    return head | {"output": output}


def _earlier(document: Json) -> said.Earlier | None:
    before, stored = document.get("previous_response_id"), document.get("conversation")
    stored = stored.get("id") if isinstance(stored, dict) else stored
    if isinstance(before, str):
        return said.Earlier(message_id=before)
    return said.Earlier(conversation_id=stored) if isinstance(stored, str) else None


def _whole(before: Json, answer: Json | None, document: Json) -> Json:
    """Put the items of earlier responses before those of a request that goes on with them.

    Instructions and tools are those of the request alone ("Conversation state", 2026-11).
    """
    answered = [] if answer is None else as_objects(answer.get("output"))
    items = [*_items(before.get("input")), *answered, *_items(document.get("input"))]
    return document | {"input": items}


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
    account_headers=openai.ACCOUNT_HEADERS,
    begins_chains=True,
    said=said.Said(
        _request,
        _answer,
        _put_together,
        messages="input",
        system="instructions",
        earlier=_earlier,
        whole=_whole,
    ),
    price_vendor="openai",
    shown=openai.SHOWN,
)

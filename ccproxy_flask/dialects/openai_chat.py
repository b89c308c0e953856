"""Chat completions (OpenAI API reference, "Chat"; 2026-11), also as many others speak it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..usage.parser import ERROR_WANTED, ResponseParser, Usage, as_name, as_object, as_objects
from . import openai, said
from .base import Dialect, Endpoint
from .openai import usage_of
from .stream_usage import UsageRemover, asking_for_usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..usage.partial_json import WantedMembers

Json = dict[str, Any]
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


class ChatParser(ResponseParser):
    """A chat completion, a legacy completion, or the stream of one."""

    __slots__ = ("_service_tier", "_usage", "_usually_spaced")

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "id": None,
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

    def may_matter(self, block: bytes) -> bool:
        """Once the content has begun: a reason to finish, usage, an error, the end."""
        if not self.content_seen:
            self._usually_spaced = (
                block.find(b'"choices":[') >= 0 or block.find(b'"choices": [') >= 0
            )
            return True
        # More than null, in both ways to space JSON that are in use: Azure mixes them in one
        # stream. With any other way each chunk is looked at.
        return (
            not self._usually_spaced
            or block.find(b'"usage":{') >= 0
            or block.find(b'"usage": {') >= 0
            or block.find(b'"finish_reason":"') >= 0
            or block.find(b'"finish_reason": "') >= 0
            or block.find(b'"error"') >= 0
            or block.find(b"[DONE]", -_LONGEST_END) >= 0
        )

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a chunk of a stream, or of a whole completion."""
        # Azure's first chunk names the model "" and has no choices.
        self.note_model(document.get("model"))
        self.note_id(document.get("id"))
        self._service_tier = as_name(document.get("service_tier")) or self._service_tier
        choices = document.get("choices")
        if choices:
            for choice in as_objects(choices):
                self._note_choice(choice)
        groq = as_object(document.get("x_groq"))
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
            self.finish_reason = as_name(reason)
        if usage := choice.get("usage"):
            self._usage = usage if isinstance(usage, dict) else self._usage
        if choice.get("error"):
            self.note_error(choice)
        if not self.content_seen:
            delta = as_object(choice.get("delta"))
            self.content_seen = bool(choice.get("text")) or any(map(delta.get, _CONTENT_KEYS))


# -- what is said ----------------------------------------------------------------------------------


def _answer(document: Json) -> Json | None:
    choice = next(iter(as_objects(document.get("choices"))), None)
    if choice is None:
        return None
    blocks = openai.chat_blocks(as_object(choice.get("message")))
    blocks = blocks or said.blocks(choice.get("text"), openai.BLOCKS)
    model, number = document.get("model"), document.get("id")
    return said.answer(blocks, choice.get("finish_reason"), model, number)


def _put_together(events: Iterable[Json]) -> Json | None:
    text, thinking = list[str](), list[str]()
    calls: dict[object, Json] = {}
    stop = model = number = None
    seen = False
    for event in events:
        model, number = event.get("model") or model, event.get("id") or number
        for choice in as_objects(event.get("choices"))[:1]:
            seen = True
            stop = choice.get("finish_reason") or stop
            delta = as_object(choice.get("delta")) or {"content": choice.get("text")}
            text.append(said.as_text(delta.get("content")))
            thinking.append(said.text_of(delta, "reasoning_content", "reasoning") or "")
            for call in as_objects(delta.get("tool_calls")):
                _add_call(calls, call)
    if not seen:
        return None
    message = {"role": "assistant", "content": "".join(text), "tool_calls": list(calls.values())}
    message |= {"reasoning_content": "".join(thinking)} if any(thinking) else {}
    choice = {"index": 0, "message": message, "finish_reason": stop}
    return {"id": number, "model": model, "choices": [choice]}


def _add_call(calls: dict[object, Json], call: Json) -> None:
    given = as_object(call.get("function"))
    empty = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
    one = calls.setdefault(call.get("index", 0), empty)
    one["id"] = one["id"] or call.get("id")
    function = one["function"]
    function["name"] = function["name"] or said.as_text(given.get("name"))
    function["arguments"] += said.as_text(given.get("arguments"))


SAID = said.Said(openai.chat_request, _answer, _put_together)

DIALECT = Dialect(
    name="openai_chat",
    setting="openai",
    endpoints=(
        Endpoint(r"/chat/completions", "/v1/chat/completions", "POST", generates=True),
        Endpoint(r"/chat/completions(?:/.*)?", "/v1/chat/completions"),
    ),
    parser=ChatParser,
    stream_usage=(asking_for_usage, UsageRemover),
    error_body=openai.error_body,
    key_headers=openai.KEY_HEADERS,
    request_id_headers=openai.REQUEST_ID_HEADERS,
    limit_headers=openai.LIMIT_HEADERS,
    account_headers=openai.ACCOUNT_HEADERS,
    said=SAID,
    price_vendor="openai",
    shown=openai.SHOWN,
)

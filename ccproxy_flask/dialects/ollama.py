"""Ollama's own API: one JSON object, or a line of JSON for each piece (docs/api.md; 2026-11)."""

from __future__ import annotations

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
from . import openai, said
from .base import Dialect, Endpoint, names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..errors import ProxyError
    from ..usage.partial_json import WantedMembers

Json = dict[str, Any]
_CONTENT_KEYS = ("content", "thinking", "tool_calls")


class OllamaParser(ResponseParser):
    """An answer of /api/chat, /api/generate or /api/embed, or the stream of one."""

    __slots__ = ("_usage",)

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "model": None,
        "done": None,
        "done_reason": None,
        "prompt_eval_count": None,
        "eval_count": None,
        "response": None,
        "thinking": None,
        "message": dict.fromkeys(_CONTENT_KEYS),
    }

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._usage: Usage | None = None

    def may_matter(self, block: bytes) -> bool:
        """Once the content has begun: the line that is the last, or an error."""
        return (
            not self.content_seen
            or block.find(b'"done":true') >= 0
            or block.find(b'"done": true') >= 0
            or block.find(b'"error"') >= 0
            or block.find(b'" :') >= 0
            or block.find(b'":  ') >= 0
        )

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a line of a stream, or of a whole answer."""
        self.note_model(document.get("model"))
        if document.get("error"):
            self.note_error(document)
            return
        if not self.content_seen:
            message = as_object(document.get("message"))
            self.content_seen = bool(
                any(map(message.get, _CONTENT_KEYS))
                or document.get("response")
                or document.get("thinking")
            )
        if document.get("done") is True:
            self.complete = True
            self.finish_reason = as_name(document.get("done_reason"))
        if (
            type(document.get("prompt_eval_count")) is int
            or type(document.get("eval_count")) is int
        ):
            self._usage = Usage(
                tokens_input=as_count(document.get("prompt_eval_count")),
                tokens_output=as_count(document.get("eval_count")),
            )

    def usage(self) -> Usage | None:
        """Return what was used, where the last line came."""
        return self._usage


def error_body(error: ProxyError, request_id: str) -> bytes:  # noqa: ARG001  it is in the headers
    """Return *error* as Ollama has it: a text."""
    return orjson.dumps({"error": str(error)})


# -- what is said ----------------------------------------------------------------------------------


def _answer(document: Json) -> Json | None:
    blocks = openai.chat_blocks(as_object(document.get("message")))
    blocks = blocks or said.blocks(document.get("response"), {})
    return said.answer(blocks, document.get("done_reason"), document.get("model"), None)


def _put_together(events: Iterable[Json]) -> Json | None:
    """Return the lines of a stream as one: the words in a row, all calls, the last reason."""
    whole: Json = {}
    message: Json = {"content": "", "thinking": "", "tool_calls": []}
    for event in events:
        one = as_object(event.get("message"))
        for name in ("content", "thinking"):
            message[name] += said.as_text(one.get(name))
        message["tool_calls"] += as_objects(one.get("tool_calls"))
        said_so_far = said.as_text(whole.get("response")) + said.as_text(event.get("response"))
        known = {name: value for name, value in event.items() if value}
        whole = whole | known | {"message": message, "response": said_so_far}
    return whole or None


_STREAM_BY_DEFAULT = ("/api/chat", "/api/generate")


def _asks_for_stream(path: str, document: dict[str, Any] | None) -> bool | None:
    if document is None or isinstance(document.get("stream"), bool):
        return asks_by_member(path, document)
    return path.endswith(_STREAM_BY_DEFAULT)


# Members of its JSON that say nothing secret (its API reference).
_SHOWN = names("""
    done done_reason keep_alive min_p mirostat num_ctx num_keep num_predict options raw
    repeat_penalty template think
""")

DIALECT = Dialect(
    name="ollama",
    setting="ollama",
    endpoints=(
        Endpoint(r"/api/chat", "/api/chat", "POST", generates=True),
        Endpoint(r"/api/generate", "/api/generate", "POST", generates=True),
    ),
    parser=OllamaParser,
    error_body=error_body,
    asks_for_stream=_asks_for_stream,
    said=said.Said(openai.chat_request, _answer, _put_together),
    shown=_SHOWN,
)

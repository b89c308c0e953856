"""Ollama's own API: one JSON object, or a line of JSON for each piece (docs/api.md; 2026-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .base import ERROR_WANTED, Reading, Usage, count_of, name_of, object_of

if TYPE_CHECKING:
    from .skim import WantedMembers

_CONTENT_KEYS = ("content", "thinking", "tool_calls")


class OllamaReading(Reading):
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

    def worth_reading(self, block: bytes) -> bool:
        """Once the content has begun: the line that is the last, or an error."""
        return (
            not self.content_seen
            or b'"done":true' in block
            or b'"done": true' in block
            or b'"error"' in block
            or b'" :' in block
            or b'":  ' in block
        )

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a line of a stream, or of a whole answer."""
        self.note_model(document.get("model"))
        if document.get("error"):
            self.note_error(document)
            return
        if not self.content_seen:
            message = object_of(document.get("message"))
            self.content_seen = bool(
                any(map(message.get, _CONTENT_KEYS))
                or document.get("response")
                or document.get("thinking")
            )
        if document.get("done") is True:
            self.complete = True
            self.finish_reason = name_of(document.get("done_reason"))
        if (
            type(document.get("prompt_eval_count")) is int
            or type(document.get("eval_count")) is int
        ):
            self._usage = Usage(
                tokens_input=count_of(document.get("prompt_eval_count")),
                tokens_output=count_of(document.get("eval_count")),
            )

    def usage(self) -> Usage | None:
        """Return what was used, where the last line came."""
        return self._usage

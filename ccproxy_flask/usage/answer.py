"""Read an answer as it passes: which model, what was used, how it ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import error_type_of_status
from ..redact import shortened
from .anthropic import MessagesReading
from .base import ERROR_WANTED, LONGEST_MESSAGE, SMALL_JSON, Answer, Reading
from .body import BodyReader
from .gemini import GenerateReading
from .ollama import OllamaReading
from .openai import ChatReading, EmbeddingsReading, ResponsesReading
from .skim import JsonBody, Skimmer
from .sse import EventStream

if TYPE_CHECKING:
    from .base import Usage, WireApi
    from .skim import WantedMembers

_FIRST_OF_JSON = (b"{", b"[")
_LONGEST_FIELD_NAME = len("event:")
_LONGEST_TEXT = 4096
_TITLE = re.compile(rb"<title[^>]*>([^<]{1,500})", re.IGNORECASE)


class OtherReading(Reading):
    """What generates nothing: no model has answered, but there may be an error."""

    __slots__ = ()

    wanted: ClassVar[WantedMembers] = ERROR_WANTED

    def document(self, document: dict[str, Any]) -> None:
        """Take note of a whole answer, or of an event."""
        super().document(document)
        self.model = None
        if self.streaming and document.get("error"):
            self.note_error(document)


_READINGS: dict[WireApi, type[Reading]] = {
    "anthropic_messages": MessagesReading,
    "openai_chat": ChatReading,
    "openai_completions": ChatReading,
    "openai_embeddings": EmbeddingsReading,
    "openai_responses": ResponsesReading,
    "gemini": GenerateReading,
    "ollama": OllamaReading,
    "other": OtherReading,
}


class _Document:
    """A body of one JSON text."""

    def __init__(self, reading: Reading, limit: int) -> None:
        self._reading = reading
        self._body = JsonBody(reading.wanted, limit)
        self.feed = self._body.feed

    def end(self) -> None:
        reading = self._reading
        document, complete = self._body.end()
        if isinstance(document, list) and document:
            # Google answers some requests with an error in a list.
            document = document[0]
        if isinstance(document, dict):
            if reading.status >= 400:
                reading.note_error(document)
            else:
                reading.document(document)
        reading.complete = complete


class _DocumentList:
    """A stream that comes as one JSON list (Gemini without ``alt=sse``)."""

    def __init__(self, reading: Reading) -> None:
        self._skimmer = Skimmer([reading.wanted], reading.event)
        self.feed = self._skimmer.feed
        reading.streaming = True

    def end(self) -> None:
        # The last item may have been cut: what is there may still say something.
        skimmer = self._skimmer
        if not skimmer.complete and skimmer.found and skimmer.on_item:
            skimmer.on_item(skimmer.found[-1])


class _Text:
    """A body that is no JSON: of an error, its first words are kept."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._text = b""

    def feed(self, data: bytes) -> None:
        if len(self._text) < _LONGEST_TEXT:
            self._text += data[:_LONGEST_TEXT]

    def end(self) -> None:
        reading = self._reading
        reading.complete = True
        if reading.status < 400:
            return
        text = self._text.strip()
        if text.startswith(b"<"):
            title = _TITLE.search(text)
            text = title[1] if title else b""
        reading.error_message = shortened(text.decode("utf-8", "replace"), LONGEST_MESSAGE) or None


class AnswerReader(BodyReader):
    """Reads a copy of an answer's body; never raises (:class:`BodyReader`)."""

    def __init__(
        self,
        reading: Reading,
        content_type: str | None,
        content_encoding: str | None,
        small_json: int = SMALL_JSON,
    ) -> None:
        super().__init__(content_encoding)
        self._reading = reading
        self._content_type = (content_type or "").lower()
        self._small_json = small_json
        self._body: EventStream | _Document | _DocumentList | _Text | None = None
        self._start = b""
        self._usage: Usage | None = None

    @property
    def content_seen(self) -> bool:
        """The first token of the content has come; of a body that is no stream, its first byte."""
        return self._reading.content_seen

    def close(self) -> Answer:
        """Return what was seen, also of an answer that broke off; feed nothing after it."""
        self._end()
        reading = self._reading
        streaming = reading.streaming
        if self._body is None:
            streaming = reading.status < 400 and _is_stream(self._content_type)
        return Answer(
            model=reading.model,
            usage=self._usage,
            finish_reason=reading.finish_reason,
            error_type=reading.error_type or error_type_of_status(reading.status),
            error_message=reading.error_message,
            streaming=streaming,
            complete=reading.complete,
        )

    def _read(self, data: bytes) -> None:
        if self._body is None:
            if self._start:
                data, self._start = self._start + data, b""
            self._body = self._body_for(data)
            if self._body is None:
                self._start = data
                return
        self._body.feed(data)

    def _read_end(self) -> None:
        if self._body is None and self._start:
            self._body = _Text(self._reading)
            self._body.feed(self._start)
        if self._body is not None:
            self._body.end()
        self._usage = self._reading.usage()

    def _body_for(self, data: bytes) -> EventStream | _Document | _DocumentList | _Text | None:
        """Choose by the content type and by how the body begins: types are not always right."""
        reading = self._reading
        start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if not start and len(data) < _LONGEST_TEXT:
            return None
        if start in _FIRST_OF_JSON:
            if start == b"{" and _is_lines(self._content_type):
                reading.streaming = True
                return EventStream(reading, self._small_json, prefix=b"")
            if start == b"[" and isinstance(reading, GenerateReading) and reading.status < 400:
                return _DocumentList(reading)
            reading.content_seen = True
            return _Document(reading, self._small_json)
        if _is_stream(self._content_type) or _looks_like_events(data):
            reading.streaming = True
            return EventStream(reading, self._small_json)
        if len(data) < _LONGEST_FIELD_NAME:
            return None
        reading.content_seen = True
        return _Text(reading)


def _is_lines(content_type: str) -> bool:
    return "ndjson" in content_type or "jsonl" in content_type or "json-lines" in content_type


def _is_stream(content_type: str) -> bool:
    return "event-stream" in content_type or _is_lines(content_type)


def _looks_like_events(data: bytes) -> bool:
    return data.lstrip(b"\xef\xbb\xbf\r\n").startswith(
        (b"data:", b"event:", b"id:", b"retry:", b":")
    )


def answer_reader(
    api: WireApi,
    status: int,
    content_type: str | None,
    content_encoding: str | None,
    *,
    small_json: int = SMALL_JSON,
) -> AnswerReader:
    """Return a reader for one answer in the wire format *api*.

    JSON texts over *small_json* bytes, whole bodies and single events alike, are not parsed whole.
    """
    return AnswerReader(_READINGS[api](status), content_type, content_encoding, small_json)

"""Read an answer as it passes: which model, what was used, how it ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import error_type_of_status
from ..redact import shortened
from .body import BodyReader
from .parser import LONGEST_MESSAGE, SMALL_JSON, ResponseFacts, ResponseParser
from .partial_json import JsonBody, PartialJsonParser
from .sse import EventStream

if TYPE_CHECKING:
    from .parser import Usage

_FIRST_OF_JSON = (b"{", b"[")
_LONGEST_FIELD_NAME = len("event:")
_LONGEST_TEXT = 4096
_TITLE = re.compile(rb"<title[^>]*>([^<]{1,500})", re.IGNORECASE)


class _Document:
    """A body of one JSON text."""

    def __init__(self, parser: ResponseParser, limit: int) -> None:
        self._parser = parser
        self._body = JsonBody(parser.wanted, limit)
        self.feed = self._body.feed

    def end(self) -> None:
        parser = self._parser
        document, complete = self._body.end()
        if isinstance(document, list) and document:
            # Google answers some requests with an error in a list.
            document = document[0]
        if isinstance(document, dict):
            if parser.status >= 400:
                parser.note_error(document)
            else:
                parser.document(document)
        parser.complete = complete


class _DocumentList:
    """A stream that comes as one JSON list (Gemini without ``alt=sse``)."""

    def __init__(self, parser: ResponseParser) -> None:
        self._partial = PartialJsonParser([parser.wanted], parser.event)
        self.feed = self._partial.feed
        parser.streaming = True

    def end(self) -> None:
        # The last item may have been cut: what is there may still say something.
        partial = self._partial
        if not partial.complete and partial.found and partial.on_item:
            partial.on_item(partial.found[-1])


class _Text:
    """A body that is no JSON: of an error, its first words are kept."""

    def __init__(self, parser: ResponseParser) -> None:
        self._parser = parser
        self._text = b""

    def feed(self, data: bytes) -> None:
        if len(self._text) < _LONGEST_TEXT:
            self._text += data[:_LONGEST_TEXT]

    def end(self) -> None:
        parser = self._parser
        parser.complete = True
        if parser.status < 400:
            return
        text = self._text.strip()
        if text.startswith(b"<"):
            title = _TITLE.search(text)
            text = title[1] if title else b""
        parser.error_message = shortened(text.decode("utf-8", "replace"), LONGEST_MESSAGE) or None


class AnswerReader(BodyReader):
    """Reads a copy of an answer's body; never raises (:class:`BodyReader`)."""

    def __init__(
        self,
        parser: ResponseParser,
        content_type: str | None,
        content_encoding: str | None,
        small_json: int = SMALL_JSON,
    ) -> None:
        super().__init__(content_encoding)
        self._parser = parser
        self._content_type = (content_type or "").lower()
        self._small_json = small_json
        self._body: EventStream | _Document | _DocumentList | _Text | None = None
        self._start = b""
        self._usage: Usage | None = None
        self._is_implausible = False

    @property
    def content_seen(self) -> bool:
        """The first token of the content has come; of a body that is no stream, its first byte."""
        return self._parser.content_seen

    def close(self) -> ResponseFacts:
        """Return what was seen, also of an answer that broke off; feed nothing after it."""
        self._end()
        parser = self._parser
        streaming = parser.streaming
        if self._body is None:
            streaming = parser.status < 400 and _is_stream(self._content_type)
        return ResponseFacts(
            model=parser.model,
            message_id=parser.message_id,
            usage=self._usage,
            is_implausible=self._is_implausible,
            finish_reason=parser.finish_reason,
            limits=parser.limits,
            error_type=parser.error_type or error_type_of_status(parser.status),
            error_message=parser.error_message,
            streaming=streaming,
            complete=parser.complete,
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
            self._body = _Text(self._parser)
            self._body.feed(self._start)
        if self._body is not None:
            self._body.end()
        usage = self._parser.usage()
        self._is_implausible = usage is not None and not usage.is_plausible
        self._usage = None if self._is_implausible else usage

    def _body_for(self, data: bytes) -> EventStream | _Document | _DocumentList | _Text | None:
        """Choose by the content type and by how the body begins: types are not always right."""
        parser = self._parser
        start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if not start and len(data) < _LONGEST_TEXT:
            return None
        if start in _FIRST_OF_JSON:
            if start == b"{" and _is_lines(self._content_type):
                parser.streaming = True
                return EventStream(parser, self._small_json, prefix=b"")
            if start == b"[" and parser.streams_as_list and parser.status < 400:
                return _DocumentList(parser)
            parser.content_seen = True
            return _Document(parser, self._small_json)
        if _is_stream(self._content_type) or _looks_like_events(data):
            parser.streaming = True
            return EventStream(parser, self._small_json)
        if len(data) < _LONGEST_FIELD_NAME:
            return None
        parser.content_seen = True
        return _Text(parser)


def _is_lines(content_type: str) -> bool:
    return "ndjson" in content_type or "jsonl" in content_type or "json-lines" in content_type


def _is_stream(content_type: str) -> bool:
    return "event-stream" in content_type or _is_lines(content_type)


def _looks_like_events(data: bytes) -> bool:
    return data.lstrip(b"\xef\xbb\xbf\r\n").startswith(
        (b"data:", b"event:", b"id:", b"retry:", b":")
    )

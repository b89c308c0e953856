"""The observer that keeps the credentials of an exchange out of its record. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .observers import NullObserver

if TYPE_CHECKING:
    from ..record import RequestRecord
    from .observers import RequestHead

# Members of requests whose values are credentials: those for MCP servers (Anthropic's
# authorization_token; OpenAI's authorization and headers), and keys that some APIs take there.
_NAMES = (b"uthorization", b"api_key", b"apiKey", b"api-key", b'_token"')
_MEMBER = re.compile(
    rb'(?:uthorization|api_key|apiKey|api-key|_token)[\w\-]{0,16}"'
    rb'\s{0,8}:\s{0,8}"((?:[^"\\]|\\.){8,4096})"'
)
_OVERLAP = 4352  # bytes: the longest member


class Secrecy(NullObserver):
    """Looks for credentials in the request's body, and hides all of them in the record's texts.

    It comes right after what fills the record, so that no other observer sees them in there.
    """

    __slots__ = ("_credentials", "_is_json", "_tail")

    def __init__(self, _record: RequestRecord, head: RequestHead) -> None:
        self._credentials = head.credentials
        self._is_json = "json" in head.named.get("content-type", "json")
        self._tail = b""

    def request_chunk(self, data: bytes, at: float) -> None:  # noqa: ARG002  an observer's signature
        """Look through a piece, and what the one before it ended with."""
        if not self._is_json:
            return
        text = self._tail + data
        if any(name in text for name in _NAMES):
            for member in _MEMBER.finditer(text):
                value = member[1].decode("utf-8", "replace")
                self._credentials.add_header("authorization", value.replace("\\/", "/"))
        self._tail = text[-_OVERLAP:]

    def end(self, record: RequestRecord, error: BaseException | None) -> None:  # noqa: ARG002  an observer's signature
        """Hide them."""
        self._credentials.hide_in(record)

"""The observer that keeps the credentials of an exchange out of its record. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..credentials import LONGEST_MEMBER
from .observers import NullObserver

if TYPE_CHECKING:
    from ..record import RequestRecord
    from .observers import RequestHead


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
        if not self._is_json or not data:
            return
        text = self._tail + data
        self._credentials.add_members(text)
        self._tail = text[-LONGEST_MEMBER:]

    def end(self, record: RequestRecord, error: BaseException | None) -> None:  # noqa: ARG002  an observer's signature
        """Hide them."""
        self._credentials.hide_in(record)

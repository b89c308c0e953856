"""Server-Sent Events: bytes in, events out (WHATWG HTML, "Server-sent events"). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Event(NamedTuple):
    """One event; *id* is the last that was seen."""

    name: str
    data: str
    id: str


class EventReader:
    """Reads a stream that may be cut anywhere. ``last_id`` is where to go on after a break."""

    def __init__(self) -> None:
        self.last_id = ""
        self._held = b""
        self._name = ""
        self._id = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Event]:
        """Give the events that end in *data*."""
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            if text := line.removesuffix(b"\r").decode("utf-8", "replace"):
                self._field(text)
                continue
            self.last_id = self._id
            if self._data:
                yield Event(self._name or "message", "\n".join(self._data), self._id)
            self._name, self._data = "", []

    def forget_half(self) -> None:
        """Drop what a broken connection left of an event."""
        self._held, self._name, self._data, self._id = b"", "", [], self.last_id

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value

"""The observer that hands exchanges on to where content is kept. It copies no byte."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003  NamedTuple reads it
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import orjson

from ..content.frames import Kind
from .observers import NullObserver

if TYPE_CHECKING:
    from ..content.handover import HandedExchange, Handover
    from ..record import RequestRecord
    from .observers import RequestHead, ResponseHead

_END_COLUMNS = (
    "session_id", "agent_id", "user_id", "model", "finish_reason", "error_type",
    "request_class", "conversation_id", "retry_count", "client",
)  # fmt: skip


class Chosen(NamedTuple):
    """Whose content is kept: patterns (``*``, ``?``, ``[…]``); without *include* all."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __call__(self, value: str) -> bool:
        """Tell whether the content of what has this *value* is kept."""
        if any(fnmatchcase(value, pattern) for pattern in self.exclude):
            return False
        return not self.include or any(fnmatchcase(value, pattern) for pattern in self.include)


class ContentObservers:
    """Makes a :class:`ContentObserver` for each exchange that is *chosen* by path, provider and
    user agent."""

    def __init__(
        self, handover: Handover, paths: Chosen, providers: Chosen, clients: Chosen
    ) -> None:
        self._handover, self._paths = handover, paths
        self._providers, self._clients = providers, clients
        self._takes_all = not any((*paths, *providers, *clients))

    def __call__(self, record: RequestRecord, head: RequestHead) -> ContentObserver | None:
        """Return the observer of one exchange, None where its content is not kept."""
        record.content = "off"
        if head.provider is None:  # refused
            return None
        if not self._takes_all and not self._takes(head, head.provider):
            return None
        record.content = "dropped"  # until all of it was handed on
        return ContentObserver(self._handover, record)

    def _takes(self, head: RequestHead, provider: str) -> bool:
        return (
            self._paths(head.path.partition("?")[0])
            and self._providers(provider)
            and self._clients(head.named.get("user-agent", ""))
        )


class ContentObserver(NullObserver):
    """Hands one exchange on, and lets the record say whether that was done."""

    __slots__ = ("_exchange", "_handover", "_record")

    def __init__(self, handover: Handover, record: RequestRecord) -> None:
        self._handover, self._record = handover, record
        self._exchange: HandedExchange | None = None

    def request_head(self, head: RequestHead) -> None:
        """Begin with what the client sent."""
        facts = {
            "request_id": head.request_id,
            "at": int(self._record.timestamp.timestamp() * 1e6),
            "method": head.method,
            "target": head.target,
            "headers": head.headers,
            "sent_headers": head.sent_headers,
            "api": head.dialect.name,
            "provider": head.provider,
        }
        self._exchange = self._handover.begin(facts)

    def request_chunk(self, data: bytes, at: float) -> None:
        """Hand a piece of the request on."""
        if self._exchange is not None and data:
            self._exchange.put(Kind.REQUEST_CHUNK, int(at * 1e6), data)

    def response_head(self, head: ResponseHead) -> None:
        """Hand the answer's head on."""
        if self._exchange is not None:
            facts = {"status": head.status, "headers": head.headers, "own": head.own}
            self._exchange.put(Kind.RESPONSE_HEAD, int(head.at * 1e6), orjson.dumps(facts))

    def response_chunk(self, data: bytes, at: float) -> None:
        """Hand a piece of the answer on."""
        if self._exchange is not None:
            self._exchange.put(Kind.RESPONSE_CHUNK, int(at * 1e6), data)

    def end(self, record: RequestRecord, error: BaseException | None) -> None:
        """Hand the end on, and note whether everything was."""
        if self._exchange is None:
            return
        known = ((name, getattr(record, name)) for name in _END_COLUMNS)
        facts = {name: value for name, value in known if value is not None}
        facts["error"] = None if error is None else getattr(error, "error_type", "internal_error")
        if self._exchange.end(facts, 0):
            record.content = "kept"

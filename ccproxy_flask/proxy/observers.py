"""Who sees an exchange pass: one ordered list, told of the same things in the same order. Pure.

To see exchanges, write a class with the methods of :class:`Observer` (:class:`NullObserver` has
those that do nothing) and put a factory for it into the list that ``create_app`` makes. Nothing
else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog

from ..record import RequestRecord

if TYPE_CHECKING:
    from ..credentials import Credentials
    from ..dialects import Dialect
    from .headers import Headers

log = structlog.get_logger(__name__)


class RequestHead(NamedTuple):
    """The head of a request, as the client sent it and as it goes on to the upstream.

    Keys and all, and shared by all observers: copy what you keep, change nothing, and let nothing
    out that was not redacted.
    """

    request_id: str
    method: str
    target: str
    """Raw path and query, as the client wrote them."""
    headers: Headers
    """All headers as they came: lower-case names, in order, repeated ones too."""
    named: Mapping[str, str]
    """The first value of each of them."""
    client_ip: str | None
    provider: str | None
    """None where the request is refused before one was chosen; so are the empty ones below."""
    endpoint: str
    dialect: Dialect
    """The wire format of request and answer."""
    generates: bool
    """A model answers; else it is a list, a count, a file, or nothing."""
    path: str
    """The raw path at the provider, below its base URL."""
    url: str
    """Where the request goes, with its query; "" where it goes nowhere."""
    sent_headers: Headers
    """The headers that the upstream gets, but for ``host`` and the framing of the body."""
    credentials: Credentials
    """What of all this is secret; those of the body are in it when the body has passed."""


class ResponseHead(NamedTuple):
    """The head of an answer, as the upstream sent it, or of an answer of ours."""

    status: int
    reason: str
    headers: Headers
    """Names as they were written, in order, repeated ones too."""
    named: Mapping[str, str]
    """The first value of each of them, by lower-case name."""
    at: float
    own: bool = False
    """The proxy answers by itself: it refuses the request, or could not reach the upstream."""


class Observer(Protocol):
    """Sees one exchange. Times (*at*) are seconds since the request came in, to the microsecond.

    The calls come in this order: ``request_head`` once; ``request_chunk`` for each piece of the
    request's body as the upstream gets it, and once with ``b""`` when the whole of it was read;
    ``response_head`` and ``response_chunk`` for each piece of the answer as the upstream sent it,
    compressed or not; ``end`` once, with None where the answer was sent whole. A request that is
    refused may have no pieces; an answer can begin before the request's last piece.

    Observers run between the bytes of all clients: they copy and count, and never wait or
    compute for long. One that raises is told no more of this exchange.
    """

    def request_head(self, head: RequestHead) -> None:
        """A request came in."""

    def request_chunk(self, data: bytes, at: float) -> None:
        """A piece of its body, without framing; ``b""``: there is no more."""

    def response_head(self, head: ResponseHead) -> None:
        """The head of the answer is there."""

    def response_chunk(self, data: bytes, at: float) -> None:
        """A piece of its body came in, and is on its way to the client."""

    def end(self, record: RequestRecord, error: BaseException | None) -> None:
        """The exchange is over; *record* is finished after this."""


class NullObserver:
    """Looks away. Observers that want to know only some things begin with it."""

    __slots__ = ()

    def request_head(self, head: RequestHead) -> None:
        """Do nothing."""

    def request_chunk(self, data: bytes, at: float) -> None:
        """Do nothing."""

    def response_head(self, head: ResponseHead) -> None:
        """Do nothing."""

    def response_chunk(self, data: bytes, at: float) -> None:
        """Do nothing."""

    def end(self, record: RequestRecord, error: BaseException | None) -> None:
        """Do nothing."""


ObserverFactory = Callable[[RequestRecord, RequestHead], "Observer | None"]
"""Makes the observer of one exchange, None where it is of no interest. The record is the one that
the exchange fills: those that add to it begin here, all others leave it alone."""


class Observers:
    """The observers of one exchange, in their order; itself told like one of them.

    What one of them raises is logged once, with its name, and disturbs neither the exchange nor
    the others. Nobody is told twice of an answer's head, or of the end.
    """

    __slots__ = ("_answered", "_ended", "_heeding", "_observers", "_request_id")

    def __init__(
        self, factories: Iterable[ObserverFactory], record: RequestRecord, head: RequestHead
    ) -> None:
        self._request_id = head.request_id
        self._answered = self._ended = False
        made: list[Observer] = []
        for factory in factories:
            try:
                observer = factory(record, head)
            except Exception as error:  # noqa: BLE001  one not made must not break the exchange
                self._log_failure(factory, "factory", error)
            else:
                if observer is not None:
                    made.append(observer)
        self._observers = made
        self._heeding = _heeding(tuple(map(type, made)))
        self._tell("request_head", head)

    def request_chunk(self, data: bytes, at: float) -> None:
        """Tell of a piece of the request's body."""
        for place in self._heeding["request_chunk"]:
            observer = self._observers[place]
            try:
                observer.request_chunk(data, at)
            except Exception as error:  # noqa: BLE001  it must not break what it observes
                self._drop(observer, "request_chunk", error)

    def response_head(self, head: ResponseHead) -> bool:
        """Tell of the answer's head; later calls do nothing and return False."""
        if self._answered:
            return False
        self._answered = True
        self._tell("response_head", head)
        return True

    def response_chunk(self, data: bytes, at: float) -> None:
        """Tell of a piece of the answer's body."""
        for place in self._heeding["response_chunk"]:
            observer = self._observers[place]
            try:
                observer.response_chunk(data, at)
            except Exception as error:  # noqa: BLE001  it must not break what it observes
                self._drop(observer, "response_chunk", error)

    def end(self, record: RequestRecord, error: BaseException | None) -> None:
        """Tell of the end; later calls do nothing."""
        if not self._ended:
            self._ended = True
            self._tell("end", record, error)

    def _tell(self, what: str, *facts: Any) -> None:
        for place in self._heeding[what]:
            observer = self._observers[place]
            try:
                getattr(observer, what)(*facts)
            except Exception as error:  # noqa: BLE001  it must not break what it observes
                self._drop(observer, what, error)

    def _drop(self, observer: Observer, what: str, error: Exception) -> None:
        made = self._observers
        self._observers = [_NOBODY if each is observer else each for each in made]
        self._log_failure(observer, what, error)

    def _log_failure(self, failed: object, what: str, error: Exception) -> None:
        name = getattr(failed, "__qualname__", type(failed).__qualname__)
        log.error(
            "observer_failed",
            observer=name,
            call=what,
            request_id=self._request_id,
            exc_info=error,
        )


_NOBODY = NullObserver()


@lru_cache(maxsize=64)
def _heeding(kinds: tuple[type, ...]) -> Mapping[str, Sequence[int]]:
    """Return the places in *kinds* of those who do anything with a call, by its name."""
    return {
        what: tuple(place for place, kind in enumerate(kinds) if _heeds(kind, what))
        for what in ("request_head", "request_chunk", "response_head", "response_chunk", "end")
    }


def _heeds(kind: type, what: str) -> bool:
    # One with a dictionary may have a method of its own in it.
    return kind.__dictoffset__ != 0 or getattr(kind, what, None) is not getattr(NullObserver, what)

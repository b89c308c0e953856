"""The answer on its way to the client, and the end of its trace."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from ..errors import CcproxyError, ClientDisconnected, WorkerStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from ..request_context import RequestContext
    from ..server.response_writer import WireHeaders
    from .observers import Observers
    from .upstream import UpstreamResponse


class Filter(Protocol):
    """What of an answer the client is to see."""

    def feed(self, data: bytes) -> bytes:
        """Return what of *data*, and of what was held back before, the client is to see."""

    def close(self) -> bytes:
        """Return what is still held back."""


class Relay:
    """Streams an upstream's answer as it comes.

    Ends in exactly one of three ways: the answer was sent whole, the upstream broke off (the
    client's connection is cut, so that it cannot take the part for the whole), or the client went
    away. ``close()`` is called after each of them, and tells *on_end* which: None or the error.
    The *observers* see each piece as it came, the client sees what *shown* makes of it: None lets
    all of it pass.
    """

    def __init__(
        self,
        answer: UpstreamResponse,
        headers: WireHeaders,
        shown: Filter | None,
        observers: Observers,
        context: RequestContext,
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._answer, self._observers, self._context = answer, observers, context
        self._wire_headers, self._on_end, self._shown = headers, on_end, shown
        self._sent_whole = False
        self._error: BaseException | None = None
        self._closed = False

    def __call__(
        self,
        environ: WSGIEnvironment,  # noqa: ARG002  WSGI's signature
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """Send the head and return the body as it comes."""
        answer = self._answer
        try:
            start_response(f"{answer.status} {answer.reason}", self._wire_headers)
        except BaseException as error:  # nobody else would end the answer
            self._error = error
            self.close()
            raise
        return _Body(self)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes; first nothing, where there is none yet, to send the head."""
        answer, shown, elapsed = self._answer, self._shown, self._context.elapsed
        observe = self._observers.response_chunk
        try:
            if not answer.ready:
                yield b""
            while data := answer.read():
                now = elapsed()
                try:
                    yield data if shown is None else shown.feed(data)
                finally:
                    observe(data, now)  # after the bytes are on their way
            if shown is not None and (rest := shown.close()):
                yield rest
        except CcproxyError as error:
            self._error = error
            # gunicorn cuts the client's connection on this one, and logs no traceback
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        except GeneratorExit:  # close(): the client went away
            raise
        except BaseException:  # the greenlet was killed
            self._error = WorkerStopped("the server stopped before the end of the answer")
            raise
        else:
            self._sent_whole = True

    def close(self) -> None:
        """End the answer, whatever happened to it; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if not self._sent_whole and self._error is None:
            self._error = ClientDisconnected("the client went away before the end of its answer")
        self._answer.close()
        try:
            self._on_end(self._error)
        finally:
            self._context.finish()


class _Body:
    """What the WSGI server iterates over, and closes."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._pieces = relay.pieces()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._pieces.close()  # type: ignore[attr-defined]  # a generator
        self._relay.close()

"""The answer on its way to the client, and the end of its trace."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from .. import redact
from ..errors import CcproxyError, ClientDisconnected, WorkerStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from ..serving import WireHeaders
    from ..tracers import Trail
    from ..tracing import Trace
    from .inject import UsageRemover
    from .tap import Tap
    from .upstream import Answer


class Relay:
    """Streams an upstream's answer as it comes.

    Ends in exactly one of three ways: the answer was sent whole, the upstream broke off (the
    client's connection is cut, so that it cannot take the part for the whole), or the client went
    away. ``close()`` is called after each of them, and tells *on_end* which: None or the error.
    """

    def __init__(
        self,
        answer: Answer,
        headers: WireHeaders,
        tap: Tap,
        trace: Trace,
        on_end: Callable[[BaseException | None], None],
        remover: UsageRemover | None = None,
        trail: Trail | None = None,
    ) -> None:
        self._answer, self._tap, self._trace = answer, tap, trace
        self._wire_headers, self._on_end, self._remover = headers, on_end, remover
        self._trail = trail
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
        answer, tap, elapsed = self._answer, self._tap, self._trace.elapsed
        traced = None if self._trail is None else self._trail.piece
        try:
            if not answer.ready:
                yield b""
            while data := answer.read():
                now = elapsed()
                if traced is not None:
                    traced(data)
                try:
                    yield data if self._remover is None else self._remover.feed(data)
                finally:
                    tap.feed(data, now)  # after the bytes are on their way
            if self._remover is not None:
                yield self._remover.close()
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
            self._trace.finish()


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


def describe(record: Any, tap: Tap, error: BaseException | None) -> None:
    """Fill *record* with what the answer that passed *tap* said of itself."""
    answer = tap.close()
    record.streaming = answer.streaming
    record.model = answer.model or record.model_requested
    record.finish_reason = redact.shortened(answer.finish_reason, 64)
    record.chunks, record.response_bytes = tap.chunks, tap.size
    if tap.first_content is not None:
        record.ttft_ms = tap.first_content * 1000
    usage = answer.usage
    if usage is not None:
        record.tokens_input = usage.tokens_input
        record.tokens_output = usage.tokens_output
        record.cache_read_tokens = usage.cache_read_tokens
        record.cache_write_tokens = usage.cache_write_tokens
        record.cache_write_1h_tokens = usage.cache_write_1h_tokens
        record.tokens_reasoning = usage.tokens_reasoning
    if error is None and answer.error_type is not None:
        record.error_type, record.error_message = answer.error_type, answer.error_message
    if isinstance(error, ClientDisconnected):
        record.client_disconnected = True

"""The published interface of the observability system: its names, where they live.

Nothing is made here: these are the objects that the proxy itself runs on. A request of your own is
measured like this::

    from ccproxy_flask.observability import get_metrics, request_context

    with request_context(metrics=get_metrics(), method="POST", endpoint="/v1/messages") as context:
        answer = ask_the_model()
        context.add_metadata(model=answer.model, tokens_input=9, status_code=200)

It counts in the metrics as one of the proxy's requests does, and where a ``storage`` is given
(``app.extensions["ccproxy.journal"]``) it gets a row in ``access_logs``.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from .capture import (
    ConsoleTracer,
    FileTracer,
    NullTracer,
    QueuedTracer,
    RequestTracer,
    StreamingTracer,
)
from .export import PushgatewayClient, get_pushgateway_client, reset_pushgateway_client
from .metrics import PrometheusMetrics, get_metrics, reset_metrics
from .redact import shortened
from .request_context import ContextTracker, RequestContext, Sinks, Storage, tracker

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ConsoleTracer",
    "ContextTracker",
    "FileTracer",
    "NullTracer",
    "PrometheusMetrics",
    "PushgatewayClient",
    "QueuedTracer",
    "RequestContext",
    "RequestTracer",
    "StreamingTracer",
    "get_context_tracker",
    "get_metrics",
    "get_pushgateway_client",
    "request_context",
    "reset_metrics",
    "reset_pushgateway_client",
    "timed_operation",
    "tracked_request_context",
]


@contextmanager
def request_context(
    request_id: str | None = None,
    storage: Storage | None = None,
    metrics: PrometheusMetrics | None = None,
    **initial: Any,
) -> Iterator[RequestContext]:
    """Measure a request: log its start and its end, count it, and keep its record.

    *initial* and what is added with ``add_metadata`` are fields of the log lines, and, where they
    are named like columns, of the record. An exception ends the request as an error, and goes on.
    """
    sinks = Sinks(ended=[metrics.observe] if metrics is not None else [])
    context = RequestContext(request_id, metadata=initial, storage=storage, sinks=sinks)
    if metrics is not None:
        metrics.inc_active_requests()
    context.start()
    context.logger.info("request_start")
    try:
        yield context
    except BaseException as error:
        context.finish(error)
        kind, reason = context.record.error_type, shortened(repr(error), 500)
        context.log_event("request_error", error_type=kind, error=reason)
        raise
    else:
        context.finish()
        context.log_event("request_success")
    finally:
        if metrics is not None:
            metrics.dec_active_requests()


@contextmanager
def tracked_request_context(
    request_id: str | None = None,
    storage: Storage | None = None,
    metrics: PrometheusMetrics | None = None,
    **initial: Any,
) -> Iterator[RequestContext]:
    """Measure a request as :func:`request_context` does, and count it among those in flight."""
    with request_context(request_id, storage, metrics, **initial) as context:
        tracker.add_context(context)
        try:
            yield context
        finally:
            tracker.remove_context(context.request_id)


@contextmanager
def timed_operation(
    name: str, request_id: str | None = None, **context: Any
) -> Iterator[dict[str, Any]]:
    """Log the start, the end and the duration (milliseconds) of a part of a request.

    Yields ``operation_id``, ``logger`` and ``start_time`` (of ``time.perf_counter()``).
    """
    operation_id, began = str(uuid.uuid4()), time.perf_counter()
    logger = structlog.get_logger().bind(
        operation=name, operation_id=operation_id, request_id=request_id, **context
    )
    logger.info("operation_start")
    try:
        yield {"operation_id": operation_id, "logger": logger, "start_time": began}
    except BaseException as error:
        logger.error(  # noqa: TRY400  the exception goes on, with its traceback
            "operation_error",
            duration_ms=(time.perf_counter() - began) * 1000,
            error=shortened(repr(error), 500),
        )
        raise
    logger.info("operation_success", duration_ms=(time.perf_counter() - began) * 1000)


def get_context_tracker() -> ContextTracker:
    """Return the requests in flight in this process: the proxy's, and the tracked ones."""
    return tracker

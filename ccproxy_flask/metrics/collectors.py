"""The Prometheus collectors (docs/metrics.md); the one home of the Prometheus libraries.

Label values come from closed sets: ``endpoint`` is an API route, ``error_type`` one of
:data:`ccproxy_flask.errors.ERROR_TYPES`, ``method`` an HTTP method, ``model`` one of the first
*max_models* models that answered; everything else is ``other``.
"""

from __future__ import annotations

import math
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

from ..errors import ERROR_TYPES
from ..record import METHODS
from ..redact import REDACTED
from ..totals import failure
from . import multiprocess_values
from .aggregation import Aggregated, exposition
from .multiprocess_values import SHARED_DIRECTORY, SharedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..record import RequestRecord


log = structlog.get_logger(__name__)

if SHARED_DIRECTORY is not None:
    values.ValueClass = SharedValue  # where the library looks for it

OTHER = "other"
UNKNOWN = "unknown"
_TOKEN_TYPES = {
    "tokens_input": "input",
    "tokens_output": "output",
    "cache_read_tokens": "cache_read",
    "cache_write_tokens": "cache_write",
}
_COST_TYPES = {
    "cost_input_usd": "input",
    "cost_output_usd": "output",
    "cost_cache_usd": "cache",
    "cost_usd": "total",
}
DEFAULT_NAMESPACE = "ccproxy"
_SUMMED = ("request_bytes", "response_bytes", *_TOKEN_TYPES, *_COST_TYPES)
_summed_of = attrgetter(*_SUMMED)
_DURATIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, float("inf"))
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, float("inf"))


class Pushgateway(Protocol):
    """Who takes pushed figures; :class:`ccproxy_flask.export.pushgateway.PushgatewayClient`."""

    def push_metrics(self, registry: CollectorRegistry, method: str = "push") -> bool:
        """Push the figures of *registry*: ``push``, ``pushadd`` or ``delete``."""

    def is_enabled(self) -> bool:
        """Tell whether there is somewhere to push to."""


class _Children(dict[Any, Any]):
    """Children of collectors, each bound at its first use: looking one up by labels takes long."""

    def __init__(self, bind: Callable[[Any], Any]) -> None:
        super().__init__()
        self._bind = bind

    def __missing__(self, key: Any) -> Any:
        child = self[key] = self._bind(key)
        return child


class PrometheusMetrics:
    """What is counted of requests, on a registry.

    With ``PROMETHEUS_MULTIPROC_DIR`` set the figures are those of all processes that share it.
    """

    def __init__(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        registry: CollectorRegistry | None = None,
        pushgateway_client: Pushgateway | None = None,
        max_models: int = 100,
    ) -> None:
        self.registry = registry or CollectorRegistry()
        self._prefix = f"{namespace}_"
        self._pushgateway = pushgateway_client
        self.max_models = max_models
        self._models: set[str] = set()
        self._by_place: dict[tuple[str, ...], _Children] = {}
        self._make_published(namespace)
        self._make_ours(namespace)
        if SHARED_DIRECTORY is not None:
            for kind in ("counter", "histogram"):
                multiprocess_values.reserve(kind)

    def _make_published(self, namespace: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=namespace, registry=self.registry)

        self._requests = counter(
            "requests", "Requests", "method", "endpoint", "model", "status", "service_type"
        )
        self._duration = Histogram(
            "response_duration_seconds",
            "From the request's first to the answer's last byte",
            ("model", "endpoint", "service_type"),
            namespace=namespace,
            registry=self.registry,
            buckets=_DURATIONS,
        )
        self._tokens = counter("tokens", "Tokens", "type", "model", "service_type")
        self._cost = counter("cost_usd", "Cost in USD", "model", "cost_type", "service_type")
        self._errors = counter(
            "errors", "Errors", "error_type", "endpoint", "model", "service_type"
        )
        self._active = Gauge(
            "active_requests",
            "Proxied requests in flight",
            namespace=namespace,
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def _make_ours(self, namespace: str) -> None:
        def histogram(name: str, text: str) -> Histogram:
            return Histogram(
                name,
                text,
                ("model", "endpoint", "service_type"),
                namespace=namespace,
                registry=self.registry,
                buckets=_LATENCIES,
            )

        def gauge(name: str, text: str, mode: Any, *labels: str) -> Gauge:
            return Gauge(
                name,
                text,
                labels,
                namespace=namespace,
                registry=self.registry,
                multiprocess_mode=mode,
            )

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=namespace, registry=self.registry)

        self._histograms = {
            "duration_seconds": self._duration,
            "ttfb_ms": histogram("time_to_first_byte_seconds", "To the answer's first body byte"),
            "ttft_ms": histogram("time_to_first_token_seconds", "To the first content token"),
            "gap": histogram("stream_longest_gap_seconds", "Longest silence inside a stream"),
        }
        self._bytes = counter("bytes", "Body bytes", "direction", "service_type")
        self._disconnects = counter(
            "client_disconnects", "Clients that hung up before the end", "endpoint", "service_type"
        )
        self._written = counter("records_written", "Records that reached the store")
        self._dropped = counter("records_dropped", "Records that could not be kept", "reason")
        self._traces_dropped = counter(
            "traces_dropped", "Traced exchanges that could not be kept", "reason"
        )
        self._content_dropped = counter(
            "content_dropped", "Exchanges whose content could not be kept", "reason"
        )
        self._backlog = gauge("journal_backlog_bytes", "Journal not yet stored", "mostrecent")
        self._store_up = gauge("store_up", "1 where the store takes records", "mostrecent")
        self._build = gauge("build_info", "1; the version is the label", "max", "version")
        self._unshared = gauge(
            "metrics_unshared_series",
            "Series that no file had room for: counted in one process alone",
            "livesum",
        )

    # -- one request -------------------------------------------------------------------------

    def request_started(self, record: RequestRecord) -> None:  # noqa: ARG002  a sink's signature
        """Count a proxied request as in flight."""
        self._active.inc()

    def request_ended(self, record: RequestRecord) -> None:  # noqa: ARG002  a sink's signature
        """Count a proxied request as over."""
        self._active.dec()

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request, once."""
        model = self.model_label(record.model, answered=record.tokens_input is not None)
        children = self._children(model, record.endpoint, record.service_type)
        method = record.method if record.method in METHODS else OTHER
        children[method, record.status_code or 0].inc()
        children["duration_seconds"].observe(max(0.0, record.duration_seconds or 0.0))
        if record.ttfb_ms is not None:
            children["ttfb_ms"].observe(record.ttfb_ms / 1000)
        if record.ttft_ms is not None and record.streaming:
            children["ttft_ms"].observe(record.ttft_ms / 1000)
        if (failed := failure(record.error_type, record.status_code)) is not None:
            children["error_type", failed if failed in ERROR_TYPES else OTHER].inc()
        if record.client_disconnected:
            children["client_disconnected"].inc()
        for column, figure in zip(_SUMMED, _summed_of(record), strict=True):
            if not figure:
                continue
            value = float(figure)
            # What upstreams claim: one that is no number would make the sum no number for ever.
            if 0 <= value < math.inf:
                children[column].inc(value)
            else:
                request_id = record.request_id
                log.warning("figure_refused", column=column, value=value, request_id=request_id)

    def observe_gap(self, record: RequestRecord, seconds: float) -> None:
        """Take the longest silence inside a stream."""
        model = self.model_label(record.model, answered=record.tokens_input is not None)
        self._children(model, record.endpoint, record.service_type)["gap"].observe(seconds)

    def _children(self, *place: str) -> _Children:
        """Return the children for a model, an endpoint and a service."""
        found = self._by_place.get(place)
        if found is None:
            found = self._by_place[place] = _Children(partial(self._bind, *place))
        return found

    def _bind(self, model: str, endpoint: str, service: str, key: Any) -> Any:
        place = (model, endpoint, service)
        match key:
            case str() if key in self._histograms:
                return self._histograms[key].labels(*place)
            case "client_disconnected":
                return self._disconnects.labels(endpoint, service)
            case "request_bytes" | "response_bytes":
                return self._bytes.labels(key.removesuffix("_bytes"), service)
            case str() if key in _TOKEN_TYPES:
                return self._tokens.labels(_TOKEN_TYPES[key], model, service)
            case str():
                return self._cost.labels(model, _COST_TYPES[key], service)
            case "error_type", kind:
                return self._errors.labels(kind, endpoint, model, service)
            case method, status:
                return self._requests.labels(method, endpoint, model, str(status), service)

    def model_label(self, model: str | None, answered: bool = False) -> str:
        """Return *model* if it is one of the first *max_models* that answered, else ``other``."""
        if not model:
            return UNKNOWN
        if model in self._models:
            return model
        is_full = len(self._models) >= self.max_models
        if not answered or is_full or len(model) > 128 or REDACTED in model:
            return OTHER
        self._models.add(model)
        return model

    # -- the way of records ------------------------------------------------------------------

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count requests whose record could not be kept."""
        self._dropped.labels(reason).inc(count)

    def trace_dropped(self, reason: str) -> None:
        """Count an exchange that was to be traced and could not be."""
        self._traces_dropped.labels(reason).inc()

    def content_dropped(self, reason: str) -> None:
        """Count an exchange whose content was to be kept and could not be."""
        self._content_dropped.labels(reason).inc()

    def written(self, count: int) -> None:
        """Count records that reached the store."""
        self._written.inc(count)

    def worker_lost(self, record: RequestRecord) -> None:
        """Count a request that its worker took to the grave."""
        self.observe(record)

    def backlog(self, size: int) -> None:
        """Set the bytes of the journal that are not stored yet."""
        self._backlog.set(size)

    def store_health(self, up: bool) -> None:
        """Set whether the store takes records."""
        self._store_up.set(1 if up else 0)

    def set_version(self, version: str) -> None:
        """Publish the version that runs."""
        self._build.labels(version).set(1)

    # -- single figures, for those who count for themselves -------------------------------------

    def record_request(
        self,
        method: str,
        endpoint: str,
        model: str | None = None,
        status: str | int = UNKNOWN,
        service_type: str | None = None,
    ) -> None:
        """Count a request."""
        place = (endpoint, self.model_label(model, answered=True), str(status))
        self._requests.labels(method, *place, service_type or UNKNOWN).inc()

    def record_response_time(
        self,
        duration_seconds: float,
        model: str | None = None,
        endpoint: str = UNKNOWN,
        service_type: str | None = None,
    ) -> None:
        """Take how long a request took."""
        label = self.model_label(model, answered=True)
        seconds = _amount("duration_seconds", duration_seconds)
        self._duration.labels(label, endpoint, service_type or UNKNOWN).observe(seconds)

    def record_tokens(
        self,
        token_count: int,
        token_type: str,
        model: str | None = None,
        service_type: str | None = None,
    ) -> None:
        """Count tokens of a type: ``input``, ``output``, ``cache_read`` or ``cache_write``."""
        kind = token_type if token_type in _TOKEN_TYPES.values() else OTHER
        label = self.model_label(model, answered=True)
        self._tokens.labels(kind, label, service_type or UNKNOWN).inc(
            _amount("token_count", token_count)
        )

    def record_cost(
        self,
        cost_usd: float,
        model: str | None = None,
        cost_type: str = "total",
        service_type: str | None = None,
    ) -> None:
        """Add cost (USD) of a type: ``input``, ``output``, ``cache`` or ``total``."""
        kind = cost_type if cost_type in _COST_TYPES.values() else OTHER
        label = self.model_label(model, answered=True)
        self._cost.labels(label, kind, service_type or UNKNOWN).inc(_amount("cost_usd", cost_usd))

    def record_error(
        self,
        error_type: str,
        endpoint: str = UNKNOWN,
        model: str | None = None,
        service_type: str | None = None,
    ) -> None:
        """Count an error."""
        label = self.model_label(model, answered=True)
        kind = error_type if error_type in ERROR_TYPES else OTHER
        self._errors.labels(kind, endpoint, label, service_type or UNKNOWN).inc()

    def set_active_requests(self, count: int) -> None:
        """Set how many requests are in flight in this process."""
        self._active.set(count)

    def inc_active_requests(self) -> None:
        """Count one more request in flight."""
        self._active.inc()

    def dec_active_requests(self) -> None:
        """Count one request in flight less."""
        self._active.dec()

    def update_system_info(self, info: dict[str, str]) -> None:
        """Publish facts of the system; ``version`` is the one that is a label."""
        self.set_version(info.get("version", UNKNOWN))

    def is_enabled(self) -> bool:
        """Tell whether figures are kept: always."""
        return True

    # -- pushing ---------------------------------------------------------------------------------

    def push_to_gateway(self, method: str = "push") -> bool:
        """Push all figures; False where there is no gateway, or it did not take them."""
        return self._push(method)

    def push_add_to_gateway(self) -> bool:
        """Push all figures beside those already there."""
        return self._push("pushadd")

    def delete_from_gateway(self) -> bool:
        """Take this group's figures off the gateway."""
        return self._push("delete")

    def is_pushgateway_enabled(self) -> bool:
        """Tell whether there is a gateway to push to."""
        return self._pushgateway is not None and self._pushgateway.is_enabled()

    def _push(self, method: str) -> bool:
        if self._pushgateway is None:
            return False
        return self._pushgateway.push_metrics(self.collected(), method)

    # -- the figures ---------------------------------------------------------------------------

    def collected(self) -> CollectorRegistry:
        """Return a registry to read: of all processes, where they share their figures."""
        if SHARED_DIRECTORY is None:
            return self.registry
        registry = CollectorRegistry()
        registry.register(Aggregated(multiprocess_values.folders(), multiprocess_values.homeless()))
        return registry

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Give all samples as they are now: name without namespace, labels, value."""
        for family in self.collected().collect():
            for sample in family.samples:
                yield sample.name.removeprefix(self._prefix), sample.labels, sample.value

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """Return the text for a scraper that accepts *accept*, and its content type.

        Takes its time where many series are shared: :class:`.scrape.Scrape` is for workers.
        """
        return exposition(self.collected(), accept)

    def question(self, accept: str | None) -> dict[str, Any]:
        """Return what another process has to know to answer as :meth:`exposition` does."""
        figures = [tuple(figure) for figure in multiprocess_values.homeless()]
        folders = [str(folder) for folder in multiprocess_values.folders()]
        return {"folders": folders, "figures": figures, "accept": accept}

    def maintain(self) -> None:
        """Look for room for figures that had none, and publish how many these are."""
        if SHARED_DIRECTORY is not None:
            multiprocess_values.settle()
            self._unshared.set(len(multiprocess_values.homeless()))


def _amount(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: must be a number from 0 on, not {value}")
    return value


_shared: dict[str, PrometheusMetrics] = {}
_application: list[PrometheusMetrics] = []


def get_metrics(
    namespace: str = DEFAULT_NAMESPACE,
    registry: CollectorRegistry | None = None,
    pushgateway_client: Pushgateway | None = None,
) -> PrometheusMetrics:
    """Return the figures of this process under *namespace*; made at the first call.

    Those of ``ccproxy`` are the ones that the application runs on, where there is one.
    """
    if namespace == DEFAULT_NAMESPACE and _application:
        return _application[0]
    if namespace not in _shared:
        _shared[namespace] = PrometheusMetrics(namespace, registry, pushgateway_client)
    return _shared[namespace]


def reset_metrics() -> None:
    """Forget what :func:`get_metrics` made. The application's figures stay: it runs on them."""
    _shared.clear()


def application_metrics(max_models: int) -> PrometheusMetrics:
    """Return the figures for an application to run on: from here on, :func:`get_metrics`'s.

    If somebody asked for them before there was an application, it is those.
    """
    found = _shared.pop(DEFAULT_NAMESPACE, None) or PrometheusMetrics()
    found.max_models = max_models
    _application[:] = [found]
    return found

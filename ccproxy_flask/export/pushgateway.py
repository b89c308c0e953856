"""Pushes figures to a Prometheus Pushgateway, or to VictoriaMetrics by its import protocol.

Rules of the wire: "Pushgateway: API" of the Prometheus project, and "How to import data in
Prometheus exposition format" of VictoriaMetrics.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import structlog
from prometheus_client import (
    CollectorRegistry,
    delete_from_gateway,
    generate_latest,
    push_to_gateway,
    pushadd_to_gateway,
)

from ccproxy_flask.redact import shortened
from ccproxy_flask.settings import handover

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ccproxy_flask.settings import Observability, Settings

log = structlog.get_logger(__name__)

IMPORT_PATH = "/api/v1/import/prometheus"
_WRITE_PATH = "/api/v1/write"
_LONGEST_ANSWER = 4096
_LONGEST_REASON = 300
_TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PushFailed(Exception):
    """The gateway did not take what was pushed; the text says why."""


class PushgatewayClient:
    """Pushes to ``pushgateway_url`` of *settings*, grouped by ``pushgateway_job`` and *instance*.

    Where the URL is VictoriaMetrics' import or write endpoint, its import protocol is spoken. An
    exchange takes at most *timeout_seconds* to connect and as long to be answered. Nothing raises:
    a push that fails is logged, and False. When to try again is the caller's to say.
    """

    def __init__(
        self,
        settings: Observability,
        *,
        instance: str | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        url = settings.pushgateway_url
        self._url, self._imports = url or "", False
        self._job = settings.pushgateway_job
        self._instance = instance or settings.node or socket.gethostname()[:64]
        self._timeout = timeout_seconds
        for ending in (IMPORT_PATH, _WRITE_PATH):
            if self._url.endswith(ending):
                self._url, self._imports = self._url.removesuffix(ending) + IMPORT_PATH, True

    def is_enabled(self) -> bool:
        """Tell whether there is somewhere to push to."""
        return bool(self._url)

    def push_metrics(self, registry: CollectorRegistry, method: str = "push") -> bool:
        """Push the figures of *registry*; tell whether the gateway took them.

        ``push`` replaces all figures of the group, ``pushadd`` those of the same names, ``delete``
        takes the group off the gateway.
        """
        if method not in ("push", "pushadd", "delete"):
            log.error("pushgateway_unknown_method", method=method)
            return False
        if self._imports and method == "delete":
            log.warning("pushgateway_delete_not_supported", url=self._url)
            return False
        if not self.is_enabled():
            return False
        return self._attempt(registry, method)

    def push_add_metrics(self, registry: CollectorRegistry) -> bool:
        """Push the figures of *registry* beside those of other names already there."""
        return self.push_metrics(registry, "pushadd")

    def delete_metrics(self) -> bool:
        """Take this group's figures off the gateway; False where it is VictoriaMetrics."""
        return self.push_metrics(CollectorRegistry(), "delete")

    def _attempt(self, registry: CollectorRegistry, method: str) -> bool:
        try:
            if self._imports:
                self._import(registry)
            else:
                self._push(registry, method)
        except PushFailed as error:
            log.warning("pushgateway_push_failed", url=self._url, method=method, reason=str(error))
            return False
        return True

    def _push(self, registry: CollectorRegistry, method: str) -> None:
        group = {"instance": self._instance}
        if method == "delete":
            delete_from_gateway(self._url, self._job, group, self._timeout, _sender)
        else:
            send = push_to_gateway if method == "push" else pushadd_to_gateway
            send(self._url, self._job, registry, group, self._timeout, _sender)

    def _import(self, registry: CollectorRegistry) -> None:
        labels = [
            ("extra_label", f"job={self._job}"),
            ("extra_label", f"instance={self._instance}"),
        ]
        url = f"{self._url}?{urlencode(labels)}"
        text = generate_latest(registry)
        _exchange("POST", url, {"content-type": _TEXT_TYPE}, text, self._timeout)


def _sender(
    url: str,
    method: str,
    timeout: float | None,
    headers: Sequence[tuple[str, str]],
    data: bytes,
) -> Callable[[], None]:
    """Return what sends; the shape is that of the Prometheus library's ``handler``."""
    return lambda: _exchange(method, url, dict(headers), data, timeout or 10.0)


def _exchange(
    method: str, url: str, headers: Mapping[str, str], body: bytes, seconds: float
) -> None:
    """Send one request and read its answer; raises PushFailed where it is not a 2xx."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    # A timeout of the socket is one of each read: a gateway that drips would never meet it.
    late = threading.Event()
    cut = threading.Timer(seconds, _cut, [connection, late])
    cut.daemon = True
    try:
        connection.connect()
        cut.start()
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read(_LONGEST_ANSWER).decode("utf-8", "replace")
    except TimeoutError as error:
        raise PushFailed(f"no answer within {seconds:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        if late.is_set():
            raise PushFailed(f"no answer within {seconds:g} s") from error
        raise PushFailed(_reason(str(error) or repr(error))) from error
    finally:
        cut.cancel()
        connection.close()
    if not 200 <= answer.status < 300:
        raise PushFailed(_reason(f"{answer.status} {answer.reason}: {text.strip()}"))


def _cut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            # Not the TLS socket's own, which would change it under its reader's hands.
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _reason(text: str) -> str:
    return shortened(text, _LONGEST_REASON) or ""


def client_of(settings: Settings) -> PushgatewayClient:
    """Return a client for *settings*, whose instance is ``<node>:<port>``."""
    options = settings.observability
    node = options.node or socket.gethostname()[:64]
    return PushgatewayClient(options, instance=f"{node}:{settings.port}")


_shared: list[PushgatewayClient] = []


def get_pushgateway_client() -> PushgatewayClient:
    """Return the client of this process; made of the settings once."""
    if not _shared:
        _shared.append(client_of(handover.current()))
    return _shared[0]


def reset_pushgateway_client() -> None:
    """Forget what :func:`get_pushgateway_client` made."""
    _shared.clear()

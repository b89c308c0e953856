"""Lets another process put the figures together, so that no request waits for a scrape."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prometheus_flask_exporter
import structlog

from ccproxy_flask.errors import StoreUnavailable

from .multiprocess_values import SHARED_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .collectors import PrometheusMetrics

    Ask = Callable[[dict[str, Any]], tuple[bytes, str]]

log = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("aggregation.py")
_TIMEOUT_SECONDS = 8.0
_PIECE = 65_536


class Scrape:
    """Answers scrapes of *metrics*: by *ask*, the recorder, or by a process that lives as long.

    *ask* takes a question (:meth:`PrometheusMetrics.question`), returns text and content type, and
    raises StoreUnavailable.
    """

    def __init__(self, metrics: PrometheusMetrics, ask: Ask | None = None) -> None:
        self._metrics, self._ask = metrics, ask
        self._one_at_a_time = threading.Lock()
        self._exporter = prometheus_flask_exporter.PrometheusMetrics(
            app=None, path=None, export_defaults=False, registry=metrics.registry
        )

    def text(self, accept: str | None) -> tuple[bytes, str]:
        """Return the text for *accept*, and its content type. Raises StoreUnavailable."""
        self._metrics.maintain()
        if SHARED_DIRECTORY is None:
            return self._of_this_process(accept)  # there are no others
        asked = self._metrics.question(accept)
        if self._ask is not None:
            try:
                return self._ask(asked)
            except StoreUnavailable:
                log.debug("metrics_without_recorder")
        with self._one_at_a_time:
            return _in_a_process(asked)

    def _of_this_process(self, accept: str | None) -> tuple[bytes, str]:
        try:
            text, content_type = self._exporter.generate_metrics(accept)
        except (TypeError, ValueError):  # it accepts a version that is none
            text, content_type = self._exporter.generate_metrics()
        return text.encode(), content_type


def _in_a_process(asked: dict[str, Any]) -> tuple[bytes, str]:
    try:
        answer = subprocess.run(  # noqa: S603  our own program
            [sys.executable, "-P", str(_PROGRAM)],
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("metrics_not_aggregated", reason=str(error))
        raise StoreUnavailable(f"the figures cannot be put together: {error}", 5) from error
    content_type, _, text = answer.stdout.partition(b"\n")
    return text, content_type.decode()


def pieces(text: bytes) -> Iterator[bytes]:
    """Give *text* piece by piece, with room for others in between."""
    for begin in range(0, len(text), _PIECE):
        yield text[begin : begin + _PIECE]
        time.sleep(0)

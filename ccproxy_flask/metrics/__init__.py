"""Figures for Prometheus: what is counted (``collectors``), in which files the processes share it
(``multiprocess_values``), how it is put together (``aggregation``), and by whom (``scrape``)."""

from .collectors import (
    OTHER,
    UNKNOWN,
    PrometheusMetrics,
    Pushgateway,
    application_metrics,
    get_metrics,
    reset_metrics,
)
from .multiprocess_values import SHARED_DIRECTORY

__all__ = [
    "OTHER",
    "SHARED_DIRECTORY",
    "UNKNOWN",
    "PrometheusMetrics",
    "Pushgateway",
    "application_metrics",
    "get_metrics",
    "reset_metrics",
]

"""Figures for Prometheus: what is counted (``collectors``), and where that is kept (``shared``)."""

from .collectors import (
    OTHER,
    SHARED_DIRECTORY,
    UNKNOWN,
    PrometheusMetrics,
    Pushgateway,
    get_metrics,
    reset_metrics,
)

__all__ = [
    "OTHER",
    "SHARED_DIRECTORY",
    "UNKNOWN",
    "PrometheusMetrics",
    "Pushgateway",
    "get_metrics",
    "reset_metrics",
]

"""All settings: the options, where they come from, and what they may not say together."""

from . import handover
from .loading import load_settings
from .options import (
    RESERVED_NAMES,
    Logging,
    Observability,
    Provider,
    Proxy,
    Settings,
)
from .rules import has_operator_pages, is_loopback, refuse_open_pages

__all__ = [
    "RESERVED_NAMES",
    "Logging",
    "Observability",
    "Provider",
    "Proxy",
    "Settings",
    "handover",
    "has_operator_pages",
    "is_loopback",
    "load_settings",
    "refuse_open_pages",
]

"""Opens the store that the settings name. Nobody outside this package knows which one it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ccproxy_flask.errors import StoreUnavailable

from . import database
from .duckdb import DuckDBStore
from .upkeep import Retention

if TYPE_CHECKING:
    from pathlib import Path

    from ccproxy_flask.settings import Settings

    from .base import RecordingStore


def open_store(settings: Settings) -> RecordingStore:
    """Open the store; what it keeps, and what it leaves of the disk, is in *settings*.

    Raises StoreUnavailable, or StoreDamaged: see :func:`set_aside`.
    """
    kept = settings.observability
    if kept.log_storage_backend == "ducklake":
        return _lake(settings)
    return DuckDBStore(
        settings.duckdb_path,
        keep_free=2 * settings.journal.min_free_bytes,
        retention=Retention(kept.retention_days, kept.retention_max_bytes),
    )


def _lake(settings: Settings) -> RecordingStore:
    try:
        from .lake.store import LakeStore  # noqa: PLC0415  an optional extra
    except ImportError as missing:
        raise StoreUnavailable(
            f"the lake needs the package {missing.name}: install ccproxy-flask[lake] "
            "(in its repository: make lake)",
            60,
        ) from missing
    return LakeStore(settings)


def set_aside(settings: Settings, *, log_only: bool) -> Path:
    """Move what is damaged out of the way, so that the store can be opened; return where it is."""
    return database.set_aside(settings.duckdb_path, log_only=log_only)

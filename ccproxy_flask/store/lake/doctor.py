"""Looks at a lake from outside, and says what is right and what is not."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import duckdb

from ccproxy_flask.errors import StoreUnavailable

from . import extensions, upkeep
from .catalogue import Catalogue
from .engine import LAKE, Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ccproxy_flask.settings.options import Lake

    from .engine import Cursor

_LATE_SECONDS = 10.0
_SKEW_SECONDS = 2.0
_MANY_FILES = 200
Finding = tuple[bool, str]
"""Whether something is right, and a line about it."""


def examine(settings: Lake, spill: Path) -> Iterator[Finding]:
    """Give a finding after the other; what is needed and wrong is the last."""
    catalog = settings.catalog.get_secret_value() if settings.catalog is not None else ""
    catalogue = Catalogue(catalog, f"doctor-{os.getpid()}")
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _packages,
        lambda: _database(catalogue),
        lambda: _lake(settings, catalogue, spill),
        lambda: _nodes(catalogue),
    )
    for check in checks:
        try:
            yield from check()
        except StoreUnavailable as error:
            yield False, str(error)
            return


def _packages() -> Iterator[Finding]:
    for name in ("ducklake", "postgres_scanner", "httpfs"):
        extensions.statement(name)
    yield True, f"DuckDB {duckdb.__version__} and its extensions are installed"


def _database(catalogue: Catalogue) -> Iterator[Finding]:
    with catalogue.session() as connection:
        began, ours = time.monotonic(), time.time()
        [(version, theirs)] = connection.execute(
            "SELECT current_setting('server_version'), "
            "extract(epoch FROM clock_timestamp())::float8"
        ).fetchall()
        took = time.monotonic() - began
    yield True, f"PostgreSQL {version} answers in {took * 1000:.0f} ms"
    skew = abs(theirs - ours - took / 2)
    yield skew < _SKEW_SECONDS, f"its clock and this machine's are {skew:.1f} s apart"


def _lake(settings: Lake, catalogue: Catalogue, spill: Path) -> Iterator[Finding]:
    engine = Engine(settings, catalogue, spill, read_only=True)
    try:
        rows, sizes, snapshots = engine.ask(_figures)
    finally:
        engine.close()
    yield True, f"the lake has {rows} records in {len(sizes)} files, {sum(sizes)} bytes"
    small = sum(size < upkeep.TIERS[0][0] for size in sizes)
    yield small < _MANY_FILES, f"{small} of the files are small, {snapshots} snapshots are kept"


def _figures(cursor: Cursor) -> tuple[int, list[int], int]:
    [(rows,)] = cursor.execute(f"SELECT count(*) FROM {LAKE}.access_logs").fetchall()  # noqa: S608  our names
    found = cursor.execute(
        f"SELECT data_file_size_bytes FROM ducklake_list_files('{LAKE}', 'access_logs')"  # noqa: S608  our names
    ).fetchall()
    [(snapshots,)] = cursor.execute(f"SELECT count(*) FROM {LAKE}.snapshots()").fetchall()  # noqa: S608  our names
    return rows, [size for (size,) in found], snapshots


def _nodes(catalogue: Catalogue) -> Iterator[Finding]:
    for node in catalogue.nodes():
        told = f"{node.name} was seen {node.seconds_ago:.0f} s ago, {node.backlog_bytes} bytes wait"
        is_right = node.lag_seconds < _LATE_SECONDS and not node.reason
        yield is_right, f"{told}{f': {node.reason}' if node.reason else ''}"

"""The tracer that keeps exchanges as files, and gives them back.

Three files for each exchange, all of them redacted: ``<request id>.trace.json`` (the exchange in
parts), ``<request id>.request.http`` and ``<request id>.response.http`` (as it was on the wire).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson
import structlog

from ..folders import make_private
from .exchange import REQUEST_ID, CapturedExchange, ExchangeTracer, now_ns, redacted_exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

_SUMMARY = "trace.json"
_SUFFIXES = ("request.http", "response.http", _SUMMARY)
_OURS = re.compile(
    r"\.?([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.(trace\.json|re(?:quest|sponse)\.http)(\.tmp)?"
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOOK_SECONDS = 10.0
_LOG_SECONDS = 30.0


class FileTracer(ExchangeTracer):
    """Keeps exchanges in *directory*, the newest ones within the bounds.

    *max_exchanges*, *max_bytes* of all files and *max_age_seconds* are kept up to what other
    processes write to the same directory in ten seconds. Bodies are whole where *verbose*, else
    *preview* letters of them are kept. What cannot be written is counted by *on_drop*, called
    with ``unwritable``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        verbose: bool = False,
        preview: int = 1000,
        max_body_bytes: int = 1 << 20,
        max_exchanges: int = 1000,
        max_bytes: int = 256 << 20,
        max_age_seconds: float = 7 * 86400.0,
        clock: Callable[[], int] = now_ns,
        on_drop: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        super().__init__(max_body_bytes, clock)
        self._directory, self._verbose, self._preview = directory, verbose, preview
        self._on_drop = on_drop
        self._quota = DirectoryQuota(directory, max_exchanges, max_bytes, max_age_seconds)
        self._logged = float("-inf")

    def ended(self, exchange: CapturedExchange) -> None:
        """Write the files of *exchange*."""
        found = redacted_exchange(exchange, self._verbose, self._preview)
        summary = orjson.dumps(found.summary, option=orjson.OPT_INDENT_2)
        texts = (found.request.encode(), found.response.encode(), summary + b"\n")
        try:
            make_private(self._directory)
            size = sum(
                _write(self._directory / f"{exchange.request_id}.{suffix}", data)
                for suffix, data in zip(_SUFFIXES, texts, strict=True)
                if data
            )
            self._quota.added(size)
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        self._on_drop("unwritable")
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            log.warning("trace_unwritable", directory=str(self._directory), reason=error.strerror)


def _write(path: Path, data: bytes) -> int:
    """Write a whole file, or none. Returns its size."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, 0o600), "wb") as file:  # noqa: PTH123  a descriptor
            file.write(data)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return len(data)


class _Kept(NamedTuple):
    """The files of one exchange."""

    at: float
    size: int
    names: list[str]


class DirectoryQuota:
    """Keeps a directory of exchanges within its bounds; the oldest ones go first."""

    def __init__(
        self, directory: Path, max_exchanges: int, max_bytes: int, max_age_seconds: float
    ) -> None:
        self._directory = directory
        self._most, self._max_bytes, self._max_age = max_exchanges, max_bytes, max_age_seconds
        self._count = self._bytes = 0
        self._looked = float("-inf")

    def added(self, size: int) -> None:
        """Take note of an exchange of *size* bytes; remove others where there are too many."""
        self._count += 1
        self._bytes += size
        is_over = self._count > self._most or self._bytes > self._max_bytes
        if is_over or time.monotonic() - self._looked > _LOOK_SECONDS:
            self.tidy()

    def tidy(self) -> None:
        """Look at the directory, and remove what is over a bound."""
        self._looked = time.monotonic()
        kept = sorted(self._found().values())
        count, size = len(kept), sum(each.size for each in kept)
        most, max_bytes = self._most, self._max_bytes
        if count > most or size > max_bytes:  # some room, so that the next look is not at once
            most, max_bytes = most - most // 10, max_bytes - max_bytes // 10
        oldest = time.time() - self._max_age
        for each in kept[:-1]:
            if count <= most and size <= max_bytes and each.at >= oldest:
                break
            for name in each.names:
                with contextlib.suppress(OSError):
                    (self._directory / name).unlink()
            count, size = count - 1, size - each.size
        self._count, self._bytes = count, size

    def _found(self) -> dict[str, _Kept]:
        found: dict[str, _Kept] = {}
        for request_id, entry in self._ours():
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                status = entry.stat(follow_symlinks=False)
                before = found.get(request_id, _Kept(0.0, 0, []))
                found[request_id] = _Kept(
                    max(before.at, status.st_mtime),
                    before.size + status.st_size,
                    [*before.names, entry.name],
                )
        # Others may have a `login.request.http`: without its summary a name has to look like ours.
        return {
            request_id: each
            for request_id, each in found.items()
            if _UUID.fullmatch(request_id) or f"{request_id}.{_SUMMARY}" in each.names
        }

    def _ours(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        with os.scandir(self._directory) as entries:
            for entry in entries:
                match = _OURS.fullmatch(entry.name)
                if match is not None and entry.is_file(follow_symlinks=False):
                    yield match[1], entry


def read_trace(directory: Path, request_id: str) -> dict[str, Any]:
    """Return the summary of a kept exchange, with its raw texts as ``raw_request`` and
    ``raw_response``. Raises FileNotFoundError where there is none of that id.
    """
    if not REQUEST_ID.fullmatch(request_id):
        raise FileNotFoundError(f"{request_id[:80]!r} is not the id of a request")
    try:
        found = orjson.loads((directory / f"{request_id}.{_SUMMARY}").read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"no trace of {request_id} in {directory}") from None
    for part in ("request", "response"):
        path = directory / f"{request_id}.{part}.http"
        if path.exists():
            found[f"raw_{part}"] = path.read_bytes().decode("utf-8", "replace")
    return cast("dict[str, Any]", found)

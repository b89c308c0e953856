"""Figures in files that the processes of the service share.

The same files as prometheus_client's own value class writes (its README: "Multiprocess Mode"). That
one asks for the process's id and takes a lock of gevent's at each increment, and there are fourteen
in a request. It also maps files whose blocks are not there yet: where the disk has no room for them
when they are needed, the system kills the process (SIGBUS). Here each byte has its place on the
disk before it is mapped (POSIX: posix_fallocate); where there is none, figures go to a folder in
memory (:func:`folders`), and where that cannot take them either, they are counted in this process
alone until there is room again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from gevent import monkey
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from ccproxy_flask import metrics_folders

from .aggregation import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger(__name__)

SHARED_DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
"""Where the processes of this service share their figures, while it runs. None: they do not."""

FIRST_BYTES = 1 << 16
"""How large a file begins; it doubles when it is full."""
_RETRY_SECONDS = 1.0
_SPARE_BYTES = 1 << 12
_HEAD_BYTES = 8
_pack_used = struct.Struct("i").pack
_pack_figure = struct.Struct("dd").pack
_write_figure = struct.Struct("dd").pack_into
_unpack_figure = struct.Struct("dd").unpack_from

# Of the system, not of gevent: nothing that is done with it switches to another greenlet. It may be
# taken twice, as by a finalizer that counts something in the middle of a count.
_new_lock = monkey.get_original("_thread", "RLock")


def folders() -> list[Path]:
    """Return the folders with figures; the first is the shared one, none where there is none."""
    return metrics_folders.folders(SHARED_DIRECTORY)


class _File:
    """A file of figures of one kind, mapped, with all its blocks allocated.

    The format is that of prometheus_client, described at its MmapedDict. The lock (flock) on it
    tells that its process lives. Raises OSError.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        path = folder / f"{kind}_{os.getpid()}.db"
        self._fd = _open(path) if path.exists() else _left_by_the_dead(folder, kind, path)
        size = os.fstat(self._fd).st_size
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._fd, 0, max(size, FIRST_BYTES))
            self.map = mmap.mmap(self._fd, max(size, FIRST_BYTES))
        except OSError:
            if not size:
                path.unlink(missing_ok=True)
            os.close(self._fd)
            raise
        self._used = max(_HEAD_BYTES, struct.unpack_from("i", self.map)[0])
        try:
            figures = list(MmapedDict.read_all_values_from_file(path)) if size else []  # type: ignore[no-untyped-call]  # no types
        except (RuntimeError, ValueError, struct.error):  # damaged
            figures, self._used = [], _HEAD_BYTES
        self.map[:4] = _pack_used(self._used)
        self.places = {key: slice(at, at + 16) for key, _, _, at in figures}
        if "_live" in kind:
            for place in self.places.values():
                self.map[place] = bytes(16)  # what was in flight in a process that is dead

    def add(self, key: str) -> slice:
        """Make a place for the figure *key*. Raises OSError where there is no room."""
        name = key.encode()
        padded = name + b" " * (8 - (len(name) + 4) % 8)
        entry = struct.pack(f"i{len(padded)}sdd", len(name), padded, 0.0, 0.0)
        self.make_room(len(entry))
        begin = self._used
        self._used += len(entry)
        self.map[begin : self._used] = entry
        self.map[:4] = _pack_used(self._used)
        place = self.places[key] = slice(self._used - 16, self._used)
        return place

    def make_room(self, size: int) -> None:
        """Have room for *size* bytes more. Raises OSError."""
        capacity = len(self.map)
        while self._used + size > capacity:
            capacity *= 2
        if capacity == len(self.map):
            return
        try:
            os.posix_fallocate(self._fd, 0, capacity)
            self.map.resize(capacity)
        except OSError:
            os.ftruncate(self._fd, len(self.map))  # what it got on the way
            raise

    def close(self) -> None:
        """Let go of it; the file stays."""
        self.map.close()
        os.close(self._fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _left_by_the_dead(folder: Path, kind: str, own: Path) -> int:
    """Open the file that a dead process left, as *own*, so that it goes on; else a new one.

    So a worker that is started again and again needs no more room each time.
    """
    for path in folder.glob(f"{kind}_*.db"):
        if Path("/proc", path.stem.rpartition("_")[2]).exists():
            continue
        with suppress(OSError):  # another process was faster
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.rename(own)
            except OSError:
                os.close(fd)
                raise
            return fd
    return _open(own)


class _Figures:
    """The figures of this process, and its files: one for each kind and folder."""

    def __init__(self) -> None:
        self.lock = _new_lock()
        self.values: dict[tuple[str, str], SharedValue] = {}
        self.homeless: list[SharedValue] = []
        """Figures that no file has room for."""
        self.trouble: str | None = None
        """Why the shared folder does not take all figures; None where it does."""
        self._refused: set[str] = set()
        self._files: dict[tuple[Path, str], _File] = {}
        self._try_at = 0.0
        os.register_at_fork(after_in_child=self._begin_anew)

    def value(self, kind: str, key: str) -> SharedValue:
        """Return the one figure of that name: two beside each other would lose counts."""
        with self.lock:
            found = self.values.get((kind, key))
            if found is None:
                found = self.values[kind, key] = object.__new__(SharedValue)
                found.begin(kind, key)
                self._house(found)
            return found

    def reserve(self, kind: str) -> None:
        """Have a file for figures of *kind* while there still are room and descriptors."""
        with self.lock:
            try:
                self._file(folders()[0], kind)
            except OSError as error:
                self._was_refused(kind, folders()[0], error)

    def settle(self) -> None:
        """Look, once a second, whether there is room for what was refused."""
        if self.trouble is None or time.monotonic() < self._try_at:
            return
        with self.lock:
            self._try_at = time.monotonic() + _RETRY_SECONDS
            try:
                for kind in self._refused:
                    self._file(folders()[0], kind).make_room(_SPARE_BYTES)
            except OSError:
                return
            self._refused.clear()
            waiting, self.homeless = self.homeless, []
            for value in waiting:
                self._house(value)
            if not self._refused:
                self.trouble = None
                log.warning("metrics_folder_available", folder=str(folders()[0]))

    def _house(self, value: SharedValue) -> None:
        """Find a place for *value*, in the folder in memory where the shared one has no room."""
        for folder in folders():
            try:
                file = self._file(folder, value.kind)
                place = file.places.get(value.key) or file.add(value.key)
            except OSError as error:
                self._was_refused(value.kind, folder, error)
            else:
                value.move_in(file.map, place)
                return
        self.homeless.append(value)

    def _was_refused(self, kind: str, folder: Path, error: OSError) -> None:
        self._refused.add(kind)
        if self.trouble is None:
            self.trouble = f"{folder}: {error.strerror}"
            log.warning("metrics_folder_refuses", folder=str(folder), reason=error.strerror)

    def _file(self, folder: Path, kind: str) -> _File:
        file = self._files.get((folder, kind))
        if file is None:
            if folder != folders()[0]:
                _make_private(folder)
            file = self._files[folder, kind] = _File(folder, kind)
        return file

    def _begin_anew(self) -> None:
        self.lock = _new_lock()
        for file in self._files.values():
            file.close()
        self._files.clear()
        self.homeless, self.trouble = [], None
        self._refused.clear()
        for value in self.values.values():
            value.begin(value.kind, value.key)
            self._house(value)


def _make_private(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(1, "belongs to somebody else")


_figures = _Figures()


class SharedValue:
    """One float: prometheus_client's interface for a value, as its ``values.ValueClass``.

    There is one object for each name in a process, whoever asks for it.
    """

    _multiprocess = True

    def __new__(
        cls,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> SharedValue:
        """Return the figure of these names."""
        kind = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)  # type: ignore[arg-type]  # any sequence
        return _figures.value(kind, key)

    def begin(self, kind: str, key: str) -> None:
        """Be zero, and in no file."""
        self.kind, self.key = kind, key
        self._value = self._timestamp = 0.0
        self._map: Any = None
        self._place = slice(0)

    def move_in(self, map_: mmap.mmap, place: slice) -> None:
        """Stand at *place* from here on, together with what a process before has counted there."""
        value, timestamp = _unpack_figure(map_, place.start)
        if not self.kind.startswith("gauge"):
            self._value += value
        elif timestamp > self._timestamp or not self._value:
            self._value, self._timestamp = value, timestamp
        self._map, self._place = map_, place
        map_[place] = _pack_figure(self._value, self._timestamp)

    def inc(self, amount: float) -> None:
        """Add *amount*."""
        with _figures.lock:
            self._value += amount
            self._timestamp = 0.0
            if self._map is not None:  # at once: some dozen of them change with each request
                _write_figure(self._map, self._place.start, self._value, 0.0)
            else:
                _figures.settle()

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the figure; *timestamp* (seconds) decides which process's is the most recent."""
        with _figures.lock:
            self._value = value
            self._timestamp = timestamp or 0.0
            self._write()

    def _write(self) -> None:
        if self._map is not None:
            self._map[self._place] = _pack_figure(self._value, self._timestamp)
        else:
            _figures.settle()

    def get(self) -> float:
        """Return the figure of this process."""
        return float(self._value)

    def figure(self) -> Figure:
        """Return the figure with all that is known of it."""
        return Figure(self.kind, str(os.getpid()), self.key, self._value, self._timestamp)

    def set_exemplar(self, exemplar: Any) -> None:
        """Do nothing, as the library: its files have no place for examples."""

    def get_exemplar(self) -> None:
        """Return None, as the library."""


def reserve(kind: str) -> None:
    """Have a file for figures of *kind* while there still are room and descriptors."""
    _figures.reserve(kind)


def settle() -> None:
    """Look for room for figures that had none."""
    _figures.settle()


def homeless() -> list[Figure]:
    """Return the figures of this process that are in no file."""
    with _figures.lock:
        return [value.figure() for value in _figures.homeless]


def trouble() -> str | None:
    """Tell why the shared folder does not take all figures of this process; None: it does."""
    return _figures.trouble

"""Figures in files that the processes of the service share.

The same files as prometheus_client's own value class writes (its README: "Multiprocess Mode"). That
one asks for the process's id and takes a lock of gevent's at each increment, and there are fourteen
in a request.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gevent import monkey
from prometheus_client.mmap_dict import MmapedDict, mmap_key

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of the system, not of gevent: nothing that is done with it switches to another greenlet. It may be
# taken twice, as by a finalizer that counts something in the middle of a count.
_new_lock = monkey.get_original("_thread", "RLock")


class _Files:
    """The files of this process, one for each kind of figure, and the figures in them."""

    def __init__(self) -> None:
        self.lock = _new_lock()
        self.values: list[SharedValue] = []
        self._open: dict[str, Any] = {}
        os.register_at_fork(after_in_child=self._begin_anew)

    def of(self, kind: str) -> Any:
        if kind not in self._open:
            path = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], f"{kind}_{os.getpid()}.db")
            self._open[kind] = MmapedDict(str(path))  # type: ignore[no-untyped-call]  # no types
        return self._open[kind]

    def _begin_anew(self) -> None:
        self.lock = _new_lock()
        for file in self._open.values():
            file.close()
        self._open.clear()
        for value in self.values:
            value.find()


_files = _Files()


class SharedValue:
    """One float: prometheus_client's interface for a value, as its ``values.ValueClass``."""

    _multiprocess = True

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        self._kind = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        self._key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)  # type: ignore[arg-type]  # any sequence
        with _files.lock:
            self.find()
            _files.values.append(self)

    def find(self) -> None:
        """Take the place of the figure in the file of this process; begin with what is there."""
        self._file = _files.of(self._kind)
        self._value, _timestamp = self._file.read_value(self._key)

    def inc(self, amount: float) -> None:
        """Add *amount*."""
        with _files.lock:
            self._value += amount
            self._file.write_value(self._key, self._value, 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the figure; *timestamp* (seconds) decides which process's is the most recent."""
        with _files.lock:
            self._value = value
            self._file.write_value(self._key, value, timestamp or 0.0)

    def get(self) -> float:
        """Return the figure of this process."""
        return float(self._value)

    def set_exemplar(self, exemplar: Any) -> None:
        """Do nothing, as the library: its files have no place for examples."""

    def get_exemplar(self) -> None:
        """Return None, as the library."""

"""What the processes of the service counted, put together.

The rules are those of prometheus_client's multiprocess collector, which reads the same files; ours
takes figures that are in no file as well, and a third of the time. It runs where it may take its
time: in the recorder, or, where there is none, in a process of its own (``python aggregation.py``),
for which this module imports nothing of the package.
"""

from __future__ import annotations

import json
import struct
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Labels = tuple[tuple[str, str], ...]

_ATTEMPTS = 5
_HEAD_BYTES = 8
_unpack_length = struct.Struct("i").unpack_from
_unpack_figure = struct.Struct("dd").unpack_from


class Figure(NamedTuple):
    """One figure of one process."""

    kind: str
    """``counter``, ``histogram``, … as the file is named; a gauge's ends with its mode."""
    process: str
    key: str
    value: float
    timestamp: float = 0.0


class _Sample(NamedTuple):
    """What a key says."""

    metric: str
    description: str
    name: str
    labels: Labels
    bound: float | None
    """The upper bound of a histogram's bucket; it is not among the labels."""


@lru_cache(maxsize=32_768)
def _sample(key: bytes) -> _Sample:
    metric, name, labels, description = json.loads(key)
    bound = float(labels.pop("le")) if name == f"{metric}_bucket" and "le" in labels else None
    return _Sample(metric, description, name, tuple(sorted(labels.items())), bound)


def _entries(data: bytes) -> Iterator[tuple[bytes, float, float]]:
    """Give key, value and timestamp of each figure of a file (prometheus_client: MmapedDict)."""
    (used,), at = _unpack_length(data), _HEAD_BYTES
    while at < used:
        (length,) = _unpack_length(data, at)
        begin = at + 4
        place = begin + length + 8 - (length + 4) % 8
        if length < 0 or place + 16 > used:
            raise ValueError("it ends in the middle of a figure")
        value, timestamp = _unpack_figure(data, place)
        yield data[begin : begin + length], value, timestamp
        at = place + 16


class _Family:
    """The samples of one metric."""

    def __init__(self, kind: str, sample: _Sample) -> None:
        self.type, _, mode = kind.partition("_")
        self._name, self._description = sample.metric, sample.description
        self._mode = mode.removeprefix("live")
        self._values: dict[tuple[str, Labels], float] = {}
        self._buckets: dict[Labels, dict[float, float]] = {}
        self._timestamps: dict[tuple[str, Labels], float] = {}

    def take(self, sample: _Sample, process: str, value: float, timestamp: float) -> None:
        """Combine *value*, of one process, with what there is of the others."""
        place = sample.name, sample.labels
        if self._mode == "all":
            self._values[sample.name, (*sample.labels, ("pid", process))] = value
        elif self._mode == "mostrecent":
            if timestamp > self._timestamps.get(place, 0.0):
                self._timestamps[place], self._values[place] = timestamp, value
        elif self._mode in ("min", "max"):
            combine: Callable[..., float] = min if self._mode == "min" else max
            self._values[place] = combine(self._values.get(place, value), value)
        else:
            self.add(sample, value)

    def add(self, sample: _Sample, value: float) -> None:
        """Add *value* to what there is."""
        if sample.bound is not None:
            found = self._buckets.setdefault(sample.labels, {})
            found[sample.bound] = found.get(sample.bound, 0.0) + value
            return
        place = sample.name, sample.labels
        self._values[place] = self._values.get(place, 0.0) + value

    def complete(self) -> Metric:
        """Return the metric with its samples."""
        metric = Metric(self._name, self._description, self.type)
        for labels, found in sorted(self._buckets.items()):
            sum_so_far, shown = 0.0, dict(labels)
            for bound, value in sorted(found.items()):
                sum_so_far += value
                le = floatToGoString(bound)  # type: ignore[no-untyped-call]  # no types
                metric.add_sample(f"{self._name}_bucket", {**shown, "le": le}, sum_so_far)
            metric.add_sample(f"{self._name}_count", shown, sum_so_far)
        for (name, labels), value in sorted(self._values.items()):
            metric.add_sample(name, dict(labels), value)
        return metric


class Aggregated(Collector):
    """The figures of all processes with files in *folders*, and *more*."""

    def __init__(self, folders: Iterable[Path], more: Iterable[Figure] = ()) -> None:
        self._families: dict[str, _Family] = {}
        self._sums: dict[str, dict[bytes, float]] = {}
        for kind, process, data in _files(list(folders)):
            try:
                self._take_file(kind, process, data)
            except (ValueError, TypeError, AttributeError, struct.error):
                continue  # damaged; the figures of the others are right
        for figure in more:
            self._take(*figure[:2], figure.key.encode(), *figure[3:])
        for kind, sums in self._sums.items():
            for key, value in sums.items():
                sample = _sample(key)
                self._family(kind, sample).add(sample, value)

    def _take_file(self, kind: str, process: str, data: bytes) -> None:
        if kind.startswith("gauge"):
            for key, value, timestamp in _entries(data):
                self._take(kind, process, key, value, timestamp)
            return
        sums = self._sums.setdefault(kind, {})
        for key, value, _ in _entries(data):
            if key not in sums:
                _sample(key)  # raises where it is damaged
            sums[key] = sums.get(key, 0.0) + value

    def _take(self, kind: str, process: str, key: bytes, value: float, timestamp: float) -> None:
        sample = _sample(key)
        self._family(kind, sample).take(sample, process, value, timestamp)

    def _family(self, kind: str, sample: _Sample) -> _Family:
        found = self._families.get(sample.metric)
        if found is None:
            found = self._families[sample.metric] = _Family(kind, sample)
        return found

    def collect(self) -> Iterator[Metric]:
        """Give each metric with its samples, in the order of the names."""
        for metric in sorted(self._families):
            yield self._families[metric].complete()


def _files(folders: list[Path]) -> list[tuple[str, str, bytes]]:
    """Return kind, process and content of each file; again where one was renamed meanwhile."""
    found: list[tuple[str, str, bytes]] = []
    for _ in range(_ATTEMPTS):
        found.clear()
        renamed = False
        for path in sorted(path for folder in folders for path in folder.glob("*.db")):
            kind, _, process = path.stem.rpartition("_")
            try:
                found.append((kind, process, path.read_bytes()))
            except FileNotFoundError:
                renamed = True
            except OSError:
                continue
        if not renamed:
            break
    return found


def exposition(collector: Collector, accept: str | None) -> tuple[bytes, str]:
    """Return the text for a scraper that accepts *accept*, and its content type."""
    try:
        encoder, content_type = choose_encoder(accept or "")
    except (TypeError, ValueError):  # a version that is none
        encoder, content_type = choose_encoder("")
    return encoder(collector), content_type


def answer(asked: dict[str, Any]) -> tuple[bytes, str]:
    """Answer a question of :class:`.scrape.Scrape`: the text, and its content type."""
    more = [Figure(*each) for each in asked["figures"]]
    return exposition(Aggregated(map(Path, asked["folders"]), more), asked["accept"])


def main() -> None:
    """Read a question (JSON) from standard input, and write the content type and the text."""
    text, content_type = answer(json.load(sys.stdin))
    sys.stdout.buffer.write(content_type.encode() + b"\n" + text)


if __name__ == "__main__":
    main()

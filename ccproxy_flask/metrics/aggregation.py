"""What the processes of the service counted, put together.

The rules are those of prometheus_client's multiprocess collector, which reads the same files. Ours
also takes figures that are in no file, and is three times as fast. It runs where it may take its
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
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Labels = tuple[tuple[str, str], ...]

_ATTEMPTS = 5


class Figure(NamedTuple):
    """One figure of one process."""

    kind: str
    """``counter``, ``histogram``, … as the file is named; a gauge's ends with its mode."""
    process: str
    key: str
    value: float
    timestamp: float = 0.0


def read_figures(folders: Iterable[Path]) -> list[Figure]:
    """Return what the files in *folders* have."""
    for _ in range(_ATTEMPTS):
        found = list(_read(folders))
        if None not in found:
            break
    return [figure for figure in found if figure is not None]


def _read(folders: Iterable[Path]) -> Iterator[Figure | None]:
    """Give what the files have; None for one that was moved to another process meanwhile."""
    for path in sorted(path for folder in folders for path in folder.glob("*.db")):
        kind, _, process = path.stem.rpartition("_")
        try:
            for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]  # no types
                _names(key)
                yield Figure(kind, process, key, value, timestamp)
        except FileNotFoundError:
            yield None
        except (OSError, ValueError, RuntimeError, struct.error):
            continue  # damaged; the other figures are right


@lru_cache(maxsize=65_536)
def _names(key: str) -> tuple[str, str, Labels, str]:
    """Return the metric's name, the sample's, its labels, and the metric's description."""
    metric, name, labels, description = json.loads(key)
    return metric, name, tuple(sorted(labels.items())), description


class _Family:
    """The samples of one metric."""

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.type, _, self.mode = kind.partition("_")
        self.metric = Metric(name, description, self.type)
        self._values: dict[tuple[str, Labels], float] = {}
        self._timestamps: dict[tuple[str, Labels], float] = {}
        self._combine = _COMBINING.get(self.mode.removeprefix("live"))

    def take(self, figure: Figure, name: str, labels: Labels) -> None:
        if self.mode in ("all", "liveall"):
            labels = (*labels, ("pid", figure.process))
        sample, value = (name, labels), figure.value
        if self.mode in ("mostrecent", "livemostrecent"):
            if figure.timestamp > self._timestamps.get(sample, 0.0):
                self._timestamps[sample], self._values[sample] = figure.timestamp, value
        elif sample not in self._values or self._combine is None:
            self._values[sample] = value
        else:
            self._values[sample] = self._combine(self._values[sample], value)

    def complete(self) -> Metric:
        """Return the metric with its samples."""
        buckets: dict[Labels, list[tuple[float, float]]] = {}
        for (name, labels), value in sorted(self._values.items()):
            bound = dict(labels).get("le") if self.type == "histogram" else None
            if bound is None:
                self.metric.add_sample(name, dict(labels), value)
            else:
                rest = tuple(label for label in labels if label[0] != "le")
                buckets.setdefault(rest, []).append((float(bound), value))
        for labels, found in buckets.items():
            self._add_buckets(labels, found)
        return self.metric

    def _add_buckets(self, labels: Labels, found: list[tuple[float, float]]) -> None:
        sum_so_far, name = 0.0, self.metric.name
        for bound, value in sorted(found):
            sum_so_far += value
            le = {"le": floatToGoString(bound)}  # type: ignore[no-untyped-call]  # no types
            self.metric.add_sample(f"{name}_bucket", dict(labels) | le, sum_so_far)
        self.metric.add_sample(f"{name}_count", dict(labels), sum_so_far)


def _sum(one: float, other: float) -> float:
    return one + other


_COMBINING: dict[str, Callable[[float, float], float]] = {
    "": _sum,
    "sum": _sum,
    "min": min,
    "max": max,
}


class Aggregated(Collector):
    """A collector (prometheus_client's interface) of the *figures* of several processes."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Give each metric with its samples, in the order of the names."""
        families: dict[str, _Family] = {}
        for figure in self._figures:
            metric, name, labels, description = _names(figure.key)
            family = families.get(metric)
            if family is None:
                family = families[metric] = _Family(metric, description, figure.kind)
            family.take(figure, name, labels)
        for metric in sorted(families):
            yield families[metric].complete()


def exposition(collector: Collector, accept: str | None) -> tuple[bytes, str]:
    """Return the text for a scraper that accepts *accept*, and its content type."""
    try:
        encoder, content_type = choose_encoder(accept or "")
    except (TypeError, ValueError):  # a version that is none
        encoder, content_type = choose_encoder("")
    return encoder(collector), content_type


def answer(asked: dict[str, Any]) -> tuple[bytes, str]:
    """Answer a question of :class:`.scrape.Scrape`: the text, and its content type."""
    figures = read_figures([Path(folder) for folder in asked["folders"]])
    figures += [Figure(*each) for each in asked["figures"]]
    return exposition(Aggregated(figures), asked["accept"])


def main() -> None:
    """Read a question (JSON) from standard input, and write the content type and the text."""
    asked = json.load(sys.stdin)
    text, content_type = answer(asked)
    sys.stdout.buffer.write(content_type.encode() + b"\n" + text)


if __name__ == "__main__":
    main()

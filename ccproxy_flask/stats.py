"""Prints figures of the traffic: since the last print, and in all.

What happened since the last print is told by the metrics of all workers, what there is in all by
the store.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from .errors import StoreUnavailable
from .redact import shortened
from .store.base import LogFilter
from .totals import REPORTED, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from .metrics import PrometheusMetrics
    from .totals import Totals

    Sample = tuple[str, Mapping[str, str], float]

log = structlog.get_logger(__name__)

_OWN_PAGES = frozenset({"logs_service", "dashboard_service", "metrics_service", "health_service"})
_MOST_MODELS = 5
_TOKEN_KINDS = ("input", "output", "cache_read", "cache_write")


@dataclass
class Traffic:
    """Sums over proxied requests. USD, seconds."""

    requests: float = 0
    errors: float = 0
    duration_seconds: float = 0
    cost_usd: float = 0
    tokens: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    active: float = 0

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Traffic:
        """Return the sums that *samples* (name without namespace, labels, value) tell."""
        found = cls()
        for name, labels, value in samples:
            if labels.get("service_type") not in _OWN_PAGES:
                found._add(name, labels, value)
        return found

    def _add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        match name:
            case "requests_total":
                self.requests += value
                self.models[labels["model"]] += value  # type: ignore[assignment]  # a whole number
            case "errors_total":
                self.errors += value
            case "response_duration_seconds_sum":
                self.duration_seconds += value
            case "cost_usd_total" if labels["cost_type"] == "total":
                self.cost_usd += value
            case "tokens_total":
                self.tokens[labels["type"]] += value  # type: ignore[assignment]  # a whole number
            case "active_requests":
                self.active += value

    def since(self, before: Traffic) -> dict[str, Any]:
        """Return what came after *before*, in the names of the report. Milliseconds, USD."""
        requests, errors = self.requests - before.requests, self.errors - before.errors
        seconds = self.duration_seconds - before.duration_seconds
        tokens, models = self.tokens - before.tokens, self.models - before.models
        return {
            "requests": int(requests),
            "successful_requests": int(requests - errors),
            "error_requests": int(errors),
            "active_requests": int(self.active),
            "avg_duration_ms": round(1000 * seconds / requests, 3) if requests else None,
            **{f"tokens_{kind}": int(tokens[kind]) for kind in _TOKEN_KINDS},
            "cost_usd": round(self.cost_usd - before.cost_usd, 10),
            "models": {name: int(count) for name, count in models.most_common(_MOST_MODELS)},
        }


def _in_all(totals: Totals) -> dict[str, Any]:
    """Return *totals* in the names of the report."""
    found = {name: getattr(totals, figure) for name, figure in REPORTED.items()}
    return found | {"cost_usd": None if found["cost_usd"] is None else round(found["cost_usd"], 10)}


class StatsPrinter:
    """Prints a report at each call of :meth:`print` that has something to tell.

    *totals* answers for the store (StoreUnavailable: the report goes without). *write* takes the
    text of all formats but ``log``. In the file *kept* is what was printed so far, for whoever
    prints the same metrics after this process: nothing is told twice, and nothing is left out.
    """

    def __init__(
        self,
        metrics: PrometheusMetrics,
        totals: Callable[[LogFilter], Totals] | None,
        style: str = "console",
        write: Callable[[str], None] | None = None,
        kept: Path | None = None,
    ) -> None:
        self._metrics, self._totals, self._style = metrics, totals, style
        self._write = write or _to_standard_output
        self._kept = kept
        self._last, self._last_at = _known(kept), datetime.now(UTC)

    def print(self) -> bool:
        """Print what happened since the last print; nothing where no request ended."""
        now, at = Traffic.of(self._metrics.samples()), datetime.now(UTC)
        interval = now.since(self._last)
        if not interval["requests"]:
            self._last_at = at
            return True
        report = {
            "event": "stats",
            "timestamp": at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "seconds": round((at - self._last_at).total_seconds(), 1),
            "interval": interval,
            "total": self._in_all(),
        }
        self._last, self._last_at = now, at
        if self._kept is not None:
            fresh = self._kept.with_suffix(".new")
            fresh.write_bytes(orjson.dumps(vars(now)))
            fresh.replace(self._kept)
        if self._style == "log":
            log.info(**report)
        else:
            self._write(_FORMATS[self._style](report))
        return True

    def _in_all(self) -> dict[str, Any] | None:
        if self._totals is None:
            return None
        try:
            return _in_all(self._totals(LogFilter()))
        except StoreUnavailable:
            return None


def _known(kept: Path | None) -> Traffic:
    """Return what was printed before, nothing where nothing was."""
    if kept is None or not kept.exists():
        return Traffic()
    fields = orjson.loads(kept.read_bytes())
    counted = {name: Counter(fields[name]) for name in ("tokens", "models")}
    return Traffic(**{**fields, **counted})


def _to_standard_output(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def as_json(report: Mapping[str, Any]) -> str:
    """Return *report* as one line of JSON."""
    return orjson.dumps(report).decode()


def as_lines(report: Mapping[str, Any]) -> str:
    """Return *report* as a few lines for people."""
    title = f"ccproxy at {report['timestamp']}"
    lines = [f"{title}, in the last {report['seconds']:.0f} s: {_sentence(report['interval'])}"]
    if models := report["interval"]["models"]:
        lines.append(f"  models: {_models(models)}")
    if report["total"] is not None:
        lines.append(f"  in all: {_sentence(report['total'])}")
    return "\n".join(lines)


def _sentence(part: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _shown(part).items())


def as_table(report: Mapping[str, Any]) -> str:
    """Return *report* as a table with borders, for a terminal."""
    last, total = _shown(report["interval"]), _shown(report["total"])
    rows = [("", f"last {report['seconds']:.0f} s", "in all")]
    rows += [(name, value, total.get(name, "-")) for name, value in last.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"│ {name:<{widths[0]}} │ {value:>{widths[1]}} │ {all_of_it:>{widths[2]}} │"
        for name, value, all_of_it in rows
    ]
    top, middle, bottom = (
        left + cross.join("─" * (width + 2) for width in widths) + right
        for left, cross, right in ("╭┬╮", "├┼┤", "╰┴╯")
    )
    title = f"ccproxy at {report['timestamp']}"
    return "\n".join([title, top, lines[0], middle, *lines[1:], bottom, *_below(report)])


def _below(report: Mapping[str, Any]) -> list[str]:
    models = report["interval"]["models"]
    return [f"models: {_models(models)}"] if models else []


def _models(models: Mapping[str, int]) -> str:
    # A name is what an upstream says: no control character of it reaches the terminal.
    return ", ".join(f"{shortened(name, 128)} {count:,}" for name, count in models.items())


def _shown(part: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what people want to know of a part of the report, as texts."""
    if part is None:
        return {}
    active = {"in flight": f"{part['active_requests']:,}"} if "active_requests" in part else {}
    return shown(part) | active


_FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "console": as_lines,
    "rich": as_table,
    "json": as_json,
}

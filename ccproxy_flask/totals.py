"""What is summed up over requests: each figure once, with its unit, its SQL and its names.

The statements of the store, its answers, the printed figures and the pages follow from here. Pure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    _Derivation = Callable[[Mapping[str, Any]], Any]

UNKNOWN = "unknown"


def failure(error_type: object, status_code: object) -> str | None:
    """Return the kind of error of a record; None where the client got the whole of an answer that
    is no error. This is what success and error mean, everywhere; :data:`FAILURE_SQL` says it again.
    """
    if error_type is None and isinstance(status_code, int) and status_code < 400:
        return None
    return UNKNOWN if error_type is None else str(error_type)


FAILURE_SQL = (
    "CASE WHEN error_type IS NULL AND status_code < 400 THEN NULL "
    f"ELSE coalesce(error_type, '{UNKNOWN}') END"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure is: *sql* over rows of which ``failure`` is a column too, or made *of* figures
    that stand before it. *report* is its name in the printed figures, *label* what people read.
    """

    unit: Literal["requests", "ms", "tokens", "USD", "percent"]
    sql: str | None = None
    of: _Derivation | None = None
    report: str | None = None
    label: str | None = None


def _percentile(column: str, number: int) -> str:
    return f"quantile_cont({column}, [0.5, 0.95, 0.99])[{number}]"


def _sum(column: str) -> str:
    return f"coalesce(sum({column}), 0)::BIGINT"


def percent(part: int, whole: int) -> float:
    """Return how many percent *part* is of *whole*; 0 where there is nothing."""
    return round(100 * part / whole, 4) if whole else 0.0


def _share(part: str, whole: str) -> _Derivation:
    return lambda found: percent(found[part], found[whole])


def _together(*names: str) -> _Derivation:
    return lambda found: sum(found[name] for name in names)


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures over some requests. USD, milliseconds; None: nothing is known of it."""

    # fmt: off
    total_requests: Annotated[int, Figure("requests", "count(*)", report="requests", label="requests")] = 0
    total_successful_requests: Annotated[int, Figure("requests", "count(*) - count(failure)", report="successful_requests")] = 0
    total_error_requests: Annotated[int, Figure("requests", "count(failure)", report="error_requests", label="errors")] = 0
    success_rate: Annotated[float, Figure("percent", of=_share("total_successful_requests", "total_requests"))] = 0.0
    error_rate: Annotated[float, Figure("percent", of=_share("total_error_requests", "total_requests"))] = 0.0
    avg_duration_ms: Annotated[float | None, Figure("ms", "avg(duration_ms)", report="avg_duration_ms", label="mean")] = None
    p50_duration_ms: Annotated[float | None, Figure("ms", _percentile("duration_ms", 1))] = None
    p95_duration_ms: Annotated[float | None, Figure("ms", _percentile("duration_ms", 2), report="p95_duration_ms")] = None
    p99_duration_ms: Annotated[float | None, Figure("ms", _percentile("duration_ms", 3))] = None
    avg_ttft_ms: Annotated[float | None, Figure("ms", "avg(ttft_ms)")] = None
    p50_ttft_ms: Annotated[float | None, Figure("ms", _percentile("ttft_ms", 1))] = None
    p95_ttft_ms: Annotated[float | None, Figure("ms", _percentile("ttft_ms", 2))] = None
    p99_ttft_ms: Annotated[float | None, Figure("ms", _percentile("ttft_ms", 3))] = None
    total_tokens_input: Annotated[int, Figure("tokens", _sum("tokens_input"), report="tokens_input", label="tokens in")] = 0
    """Input that no cache had."""
    total_tokens_output: Annotated[int, Figure("tokens", _sum("tokens_output"), report="tokens_output", label="out")] = 0
    total_cache_read_tokens: Annotated[int, Figure("tokens", _sum("cache_read_tokens"), report="tokens_cache_read", label="cache read")] = 0
    total_cache_write_tokens: Annotated[int, Figure("tokens", _sum("cache_write_tokens"), report="tokens_cache_write", label="cache write")] = 0
    total_tokens_reasoning: Annotated[int, Figure("tokens", _sum("tokens_reasoning"))] = 0
    """A part of the output."""
    total_tokens_all_input: Annotated[int, Figure("tokens", of=_together("total_tokens_input", "total_cache_read_tokens", "total_cache_write_tokens"))] = 0
    """Input, cache read and cache write together."""
    total_tokens_all: Annotated[int, Figure("tokens", of=_together("total_tokens_all_input", "total_tokens_output"))] = 0
    """The same, and the output."""
    cache_hit_rate: Annotated[float, Figure("percent", of=_share("total_cache_read_tokens", "total_tokens_all_input"))] = 0.0
    """How much of all input came from a cache."""
    total_cost_usd: Annotated[float | None, Figure("USD", "sum(cost_usd)::DOUBLE", report="cost_usd", label="cost")] = None
    total_cost_input_usd: Annotated[float | None, Figure("USD", "sum(cost_input_usd)::DOUBLE")] = None
    """The part of the estimates for uncached input."""
    total_cost_cache_usd: Annotated[float | None, Figure("USD", "sum(cost_cache_usd)::DOUBLE")] = None
    """The part of the estimates for cache reads and writes."""
    priced_requests: Annotated[int, Figure("requests", "count(cost_usd)")] = 0
    """How many of them have a cost."""
    unpriced_requests: Annotated[int, Figure("requests", "count(*) FILTER (failure IS NULL AND cost_usd IS NULL)")] = 0
    """How many successes have none."""
    # fmt: on


_HINTS = get_type_hints(Totals, include_extras=True)
FIGURES: dict[str, Figure] = {
    field.name: _HINTS[field.name].__metadata__[0] for field in dataclasses.fields(Totals)
}
STORED: dict[str, str] = {name: each.sql for name, each in FIGURES.items() if each.sql is not None}
"""The SQL of the figures that a store counts, in the order of its answers."""
REPORTED: dict[str, str] = {
    each.report: name for name, each in FIGURES.items() if each.report is not None
}
"""Which figure is meant by a name of a report."""


def complete(row: Sequence[Any]) -> dict[str, Any]:
    """Return all figures by name, from those that are :data:`STORED`."""
    counted = dict(zip(STORED, row, strict=True))
    found: dict[str, Any] = {}
    for name, each in FIGURES.items():
        value = each.of(found) if each.of is not None else counted[name]
        found[name] = round(value, 3) if each.unit == "ms" and value is not None else value
    return found


def shown(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what people want to know of a *report*, as texts by label."""
    labelled = ((name, FIGURES[figure]) for name, figure in REPORTED.items())
    return {each.label: _text(each.unit, report[name]) for name, each in labelled if each.label}


def _text(unit: str, value: Any) -> str:
    if value is None:
        return "-"
    match unit:
        case "ms":
            return f"{value:,.0f} ms"
        case "USD":
            return f"${value:,.4f}"
        case _:
            return f"{value:,}"

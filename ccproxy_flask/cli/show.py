"""Rows and events as text for a terminal."""

from __future__ import annotations

import re
import shutil
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDEST, _NARROWEST = 60, 14
# What a terminal could take for a command, or shows in another order than it is.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_UNKNOWN = "-"


def printable(text: str) -> str:
    """Return *text* in one line, without what a terminal could take for a command."""
    return _CONTROL.sub(" ", text)


def table(
    names: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int | None = None,
    less: Sequence[str] = (),
) -> str:
    """Return *rows* below *names* in columns; numbers to the right, long texts cut.

    No line is longer than *width*, if at all possible: texts get shorter first, then the columns in
    *less* are left out, one after the other.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    is_number = [any(_is_number(row[at]) for row in rows) for at in range(len(names))]
    widths = {
        at: max([len(name), *(len(row[at]) for row in cells)]) for at, name in enumerate(names)
    }
    if width is not None:
        widths = _fitted(widths, width, is_number, [names.index(name) for name in less])
    lines = []
    for row in ([printable(name) for name in names], *cells):
        shown = ((_cut(row[at], wide), wide, is_number[at]) for at, wide in widths.items())
        padded = (text.rjust(wide) if right else text.ljust(wide) for text, wide, right in shown)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def window() -> int | None:
    """Return how wide lines may be; None where standard output is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fitted(
    widths: dict[int, int], width: int, is_number: Sequence[bool], less: Sequence[int]
) -> dict[int, int]:
    """Return *widths* that fit into *width* with two spaces between them, by column."""
    found = dict(widths)

    def excess() -> int:
        return sum(found.values()) + 2 * (len(found) - 1) - width

    leaving = iter(less)
    while excess() > 0:
        texts = [at for at in found if not is_number[at] and found[at] > _NARROWEST]
        widest = max(texts, key=lambda at: found[at], default=None)
        if widest is not None:
            found[widest] -= 1
        elif (at := next(leaving, None)) is not None:
            del found[at]
            found |= {at: widths[at] for at in found}
        else:
            break
    return found


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return format(value, "f")
    text = printable(str(value))
    return _cut(text, _WIDEST)


ROW_NAMES = (
    "time", "status", "method", "path", "model", "ms", "input", "cached", "output", "USD", "error",
)  # fmt: skip
LESS_NEEDED = ("method", "cached", "ms", "input", "error")
"""What of it a narrow window can do without."""


def row_cells(row: Mapping[str, Any], *, short: bool = False) -> tuple[object, ...]:
    """Return the cells of a record, under :data:`ROW_NAMES`; *short*: no more time than needed."""
    return (
        _short_clock(row.get("timestamp")) if short else _clock(row.get("timestamp")),
        row.get("status_code"),
        row.get("method"),
        row.get("path"),
        row.get("model"),
        _whole(row.get("duration_ms")),
        all_input(row),
        row.get("cache_read_tokens"),
        row.get("tokens_output"),
        _decimal(row.get("cost_usd")),
        row.get("error_type"),
    )


def all_input(row: Mapping[str, Any]) -> int | None:
    """Return all input tokens of a record, cached ones too; None where none are known."""
    parts = [row.get(f) for f in ("tokens_input", "cache_read_tokens", "cache_write_tokens")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


SESSION_NAMES = (
    "began", "client", "turns", "agents", "errors", "minutes", "input", "cached %", "output", "USD",
    "session", "first words",
)  # fmt: skip
SESSION_LESS_NEEDED = ("agents", "input", "minutes", "errors")
_TURN_NAMES = (
    "time",
    "class",
    "status",
    "model",
    "ms",
    "context",
    "cached",
    "missed",
    "output",
    "USD",
    "request",
)
_TURN_LESS_NEEDED = ("class", "model", "ms", "cached")


def session_cells(session: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the cells of a session, under :data:`SESSION_NAMES`."""
    hit = session["cache_hit"]
    return (
        _short_clock(session["started_at"]),
        session["client"],
        session["turns"],
        session["agents"],
        session["errors"],
        round(session["duration_ms"] / 60_000, 1),
        all_input(session),
        None if hit is None else round(100 * hit),
        session["tokens_output"],
        _decimal(session["cost_usd"]),
        session["session_id"],
        session["first_words"],
    )


def session_text(session: Mapping[str, Any], width: int | None) -> str:
    """Return a session and its agents with their turns as text."""
    said = f"{session['turns']:,} turns, {session['errors']:,} errors"
    spent = _cost_line(session["cost_usd"], session["unpriced_requests"])
    client = " ".join(filter(None, (session["client"], session["client_version"])))
    lines = [f"{session['session_id']} · {client or _UNKNOWN} · {said} · {spent}"]
    if session["first_words"]:
        lines.append(session["first_words"])
    parts = ["\n".join(map(printable, lines)) + "\n"]
    for agent in session["tree"]:
        parts += _agent_texts(agent, width, "")
    return "\n".join(parts)


def _agent_texts(agent: Mapping[str, Any], width: int | None, path: str) -> list[str]:
    """Return the turns of an agent, and of those that it started; *path* leads to it."""
    path += f" > {agent['agent_id']}" if agent["agent_id"] else "main"
    cells = [_turn_cells(turn, short=width is not None) for turn in agent["turns"]]
    found = [f"{printable(path)}\n{table(_TURN_NAMES, cells, width, _TURN_LESS_NEEDED)}"]
    if shares := _context_line(agent["turns"]):
        found[0] += shares
    for each in agent["agents"]:
        found += _agent_texts(each, width, path)
    return found


def _turn_cells(turn: Mapping[str, Any], *, short: bool) -> tuple[object, ...]:
    return (
        _short_clock(turn["timestamp"]) if short else _clock(turn["timestamp"]),
        turn["request_class"],
        turn["status_code"],
        turn["model"],
        _whole(turn["duration_ms"]),
        turn["context_tokens"],
        turn["cache_read_tokens"],
        _miss(turn["cache_verdict"]),
        turn["tokens_output"],
        _decimal(turn["cost_usd"]),
        turn["request_id"],
    )


def _miss(verdict: Mapping[str, Any] | None) -> str:
    return verdict["cause"] if verdict is not None and verdict["is_miss"] else ""


def _context_line(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return what the context of the last turn is made of, the largest part first."""
    known = [turn for turn in turns if turn["context"] and turn["context_tokens"]]
    if not known:
        return ""
    context, whole = known[-1]["context"], known[-1]["context_tokens"]
    parts = {name.replace("_", " "): size for name, size in context.items() if name != "tools"}
    parts |= {
        f"tools of {name}" if name else "tools": size for name, size in context["tools"].items()
    }
    largest = sorted(parts.items(), key=lambda part: -part[1])
    shown = (f"{name} {size / whole:.0%}" for name, size in largest if size)
    return printable("context of the last turn: " + ", ".join(shown)) + "\n"


def event_line(event: Mapping[str, Any]) -> str:
    """Return the line of a `request_…` event of the stream."""
    row = event.get("data") or {}
    parts = [_clock(row.get("timestamp"))]
    if event.get("type") == "request_start":
        parts.append("...")
    else:
        parts.append(str(row.get("status_code") or "---"))
    parts += [str(row.get("method") or ""), str(row.get("path") or "")]
    parts += _outcome(row)
    return printable(" ".join(part for part in parts if part))


def _outcome(row: Mapping[str, Any]) -> list[str]:
    """Return what is known of how a request went, each with its unit."""
    parts = [str(row["model"])] if row.get("model") else []
    if (took := row.get("duration_ms")) is not None:
        parts.append(f"{Decimal(took) / 1000:.2f}s")
    if (tokens := all_input(row)) is not None:
        parts.append(f"in {tokens:,}")
    if row.get("cache_read_tokens"):
        parts.append(f"(cached {row['cache_read_tokens']:,})")
    if row.get("tokens_output") is not None:
        parts.append(f"out {row['tokens_output']:,}")
    if (cost := _decimal(row.get("cost_usd"))) is not None:
        parts.append(money(cost))
    if row.get("error_type"):
        message = row.get("error_message")
        parts.append(f"{row['error_type']}: {message}" if message else str(row["error_type"]))
    return parts


def money(usd: Decimal) -> str:
    """Return an amount as it is said: cents, and where there is less than a dollar more digits."""
    amount = abs(usd)
    digits = 2 if amount >= 1 or not amount else 4 if amount >= Decimal("0.01") else 6
    return f"${usd:,.{digits}f}"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the `summary` of /logs/analytics as lines."""
    read, written = summary["total_cache_read_tokens"], summary["total_cache_write_tokens"]
    requests, errors = summary["total_requests"], summary["total_error_requests"]
    first = f"{requests:,} request{'' if requests == 1 else 's'}"
    if errors:
        first += f", {errors:,} with errors"
    first += f" · {summary['total_tokens_all_input']:,} tokens in"
    if read or written:
        first += f" ({read:,} read from and {written:,} written to caches)"
    return [
        f"{first} · {summary['total_tokens_output']:,} out",
        _cost_line(summary["total_cost_usd"], summary["unpriced_requests"]),
    ]


def _cost_line(usd: Any, unpriced: int) -> str:
    cost = _decimal(usd)
    if cost is None:
        return "cost: unknown"
    without = f" ({unpriced:,} request{'' if unpriced == 1 else 's'} without a price)"
    return f"cost: {money(cost)}" + (without if unpriced else "")


_BREAKDOWN_NAMES = ("requests", "errors", "input", "cached", "output", "USD", "p50 ms", "p95 ms")


def stats_text(found: Mapping[str, Any]) -> str:
    """Return the answer of /logs/analytics: the whole, then by model, provider and error."""
    parts = ["\n".join([*summary_lines(found["summary"]), _times_line(found["summary"])]) + "\n"]
    for name in ("model", "provider"):
        if rows := found[f"{name}_breakdown"]:
            cells = [(key, *_breakdown_cells(row)) for key, row in rows.items()]
            parts.append(table((name, *_BREAKDOWN_NAMES), cells, window(), ("cached", "p95 ms")))
    if errors := found["error_breakdown"]:
        cells = [(key, row["request_count"]) for key, row in errors.items()]
        parts.append(table(("error", "requests"), cells))
    return "\n".join(parts)


def _breakdown_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    cached = row["total_cache_read_tokens"]
    return (
        row["request_count"],
        row["error_requests"],
        row["total_tokens_all_input"],
        cached,
        row["total_tokens_output"],
        _decimal(row["total_cost_usd"]),
        _whole(row["p50_duration_ms"]),
        _whole(row["p95_duration_ms"]),
    )


def _times_line(summary: Mapping[str, Any]) -> str:
    def times(name: str) -> str:
        values = [_whole(summary[f"{each}_{name}"]) for each in ("p50", "p95", "p99")]
        return "/".join(_UNKNOWN if value is None else f"{value:,}" for value in values)

    return f"p50/p95/p99: {times('duration_ms')} ms, first token {times('ttft_ms')} ms"


def _clock(stamp: object) -> str:
    """Return `2026-11-21T02:19:00.123456Z` without the fraction."""
    return re.sub(r"\.\d+", "", str(stamp)) if stamp else _UNKNOWN


def _short_clock(stamp: object) -> str:
    return _clock(stamp)[5:].replace("T", " ").rstrip("Z") or _UNKNOWN


def _whole(value: Any) -> int | None:
    return None if value is None else round(value)


def _decimal(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))

"""How values look, for pages and for the live feed alike. Pure: values in, texts out.

None is "not known" and is shown as a dash, never as 0.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ccproxy_flask.record import to_json
from ccproxy_flask.totals import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

UNKNOWN = "—"


def number(value: object) -> float | None:
    """Return *value* as a number: money is one in the store, and a text in the journal."""
    if value is None or value == "" or isinstance(value, bool):
        return None
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def count(value: object) -> str:
    """Return a count with its thousands apart: 6,789."""
    known = number(value)
    return UNKNOWN if known is None else f"{known:,.0f}"


def short_count(value: object) -> str:
    """Return a count in the room of a tile: 9,999, 13.8K, 1.23M."""
    known = number(value)
    if known is None:
        return UNKNOWN
    if abs(known) < 9_999.5:
        return f"{known:,.0f}"
    for unit, size in (("K", 1e3), ("M", 1e6), ("B", 1e9)):
        if abs(known) < 999.95 * size or unit == "B":
            shown = known / size
            return f"{shown:,.{2 if shown < 9.995 else 1 if shown < 99.95 else 0}f}{unit}"
    raise AssertionError("unreachable")


def cost(value: object) -> str:
    """Return USD with as many decimals as say something: $12.3456, $0.018420, $0.0000012."""
    known = number(value)
    if known is None:
        return UNKNOWN
    size = abs(known)
    if size == 0:
        return "$0.00"
    if size >= 0.001:
        return f"${known:,.{4 if size >= 1 else 6}f}"
    return f"${known:.{min(10, max(6, 1 - math.floor(math.log10(size))))}f}"


def cost_total(value: object) -> str:
    """Return USD of many requests: from one dollar on, cents are enough."""
    known = number(value)
    return f"${known:,.2f}" if known is not None and abs(known) >= 1 else cost(value)


def price(value: object) -> str:
    """Return USD for a million tokens: $3.00."""
    known = number(value)
    if known is None:
        return UNKNOWN
    return f"${known:,.2f}" if known >= 0.1 or known == 0 else f"${known:.4g}"


def duration(milliseconds: object) -> str:
    """Return a time as people say it: 84 ms, 2.41 s, 1 m 04 s."""
    known = number(milliseconds)
    if known is None:
        return UNKNOWN
    if known < 9.95:
        return f"{max(0.0, known):.1f} ms"
    if known < 999.5:
        return f"{known:.0f} ms"
    if known < 59_950:
        return f"{known / 1000:.{2 if known < 9_995 else 1}f} s"
    seconds = round(known / 1000)
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds // 60 % 60:02} m"


def percent(part: float, whole: float) -> str:
    """Return a share; one with exceptions is never rounded to a clean 100 % or 0 %."""
    if not whole:
        return UNKNOWN
    share = 100 * part / whole
    if 99.9 < share < 100:
        return f"{math.floor(share * 100) / 100:.2f}%"
    if 0 < share < 0.1:
        return f"{max(share, 0.01):.2f}%"
    return f"{share:.1f}".removesuffix(".0") + "%"


def size(value: object) -> str:
    """Return bytes: 512 B, 1.5 KB, 2.0 MB."""
    known = number(value)
    if known is None:
        return UNKNOWN
    for unit in ("B", "KB", "MB", "GB"):
        if known < 1000 or unit == "GB":
            return f"{known:.0f} B" if unit == "B" else f"{known:.1f} {unit}"
        known /= 1024
    raise AssertionError("unreachable")


def change(now: float | None, before: float | None) -> str:
    """Return how much more *now* is than *before*: +12%, -3%, or "" where that says nothing."""
    if now is None or not before:
        return ""
    share = 100 * (now - before) / before
    if abs(share) > 999:
        return ""
    return f"{share:+.0f}%" if abs(share) >= 0.5 else "±0%"


def words(name: object) -> str:
    """Return a name of ours as words: `rate_limit` is "rate limit"."""
    return str(name).replace("_", " ") if name else ""


def utc(value: object) -> str:
    """Return a time for people, in UTC: 2026-11-21 02:19:00.123 UTC."""
    moment = value if isinstance(value, datetime) else _moment(value)
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(" ", "milliseconds").removesuffix("+00:00") + " UTC"


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


# -- rows ------------------------------------------------------------------------------------------


def row(record: Mapping[str, Any], in_flight: bool = False) -> dict[str, Any]:
    """Return what the page shows of a record, as texts; the rest stays on the server.

    *record* is a row of the store, or of the journal's feed. Keys that are columns of the table
    are texts; ``kind`` is ``live``, ``good``, ``warn`` or ``bad``.
    """
    bad = not in_flight and failed(record)
    agent = record.get("user_agent") or ""
    shown = {
        "id": record["request_id"],
        "time": record["timestamp"],
        "kind": _kind(record, in_flight, bad),
        "status": _status(record, in_flight),
        "model": record.get("model") or record.get("model_requested") or UNKNOWN,
        "provider": record.get("provider") or "",
        "method": record.get("method") or "",
        "path": record.get("path") or record.get("endpoint") or UNKNOWN,
        "error": error_text(record) if bad else "",
        "client": client_of(agent),
        "session": record.get("session_id") or "",
        "node": record.get("node") or "",
        "finish": words(record.get("finish_reason")),
    }
    waiting = "" if in_flight else UNKNOWN
    for name, column, form in _FIGURES:
        value = record.get(column)
        shown[name] = waiting if number(value) is None else form(value)
    if in_flight:
        shown["duration"] = ""  # the page counts it
    return shown | {"titles": _titles(record), "bars": bars(record)}


_FIGURES = (
    ("duration", "duration_ms", duration),
    ("first", "ttft_ms", duration),
    ("input", "tokens_input", count),
    ("cached", "cache_read_tokens", count),
    ("written", "cache_write_tokens", count),
    ("output", "tokens_output", count),
    ("cost", "cost_usd", cost),
    ("sent", "request_bytes", size),
    ("received", "response_bytes", size),
)


def failed(record: Mapping[str, Any]) -> bool:
    """Tell whether the client did not get the whole of an answer that is no error."""
    return failure(record.get("error_type"), record.get("status_code")) is not None


def _kind(record: Mapping[str, Any], in_flight: bool, bad: bool) -> str:
    if in_flight:
        return "live"
    if not bad:
        return "good"
    return "warn" if record.get("client_disconnected") else "bad"


def _status(record: Mapping[str, Any], in_flight: bool) -> str:
    if in_flight:
        return "streaming" if record.get("streaming") else "in flight"
    status = record.get("status_code")
    return "no answer" if status is None else str(status)


def error_text(record: Mapping[str, Any]) -> str:
    """Return what went wrong, once: "overloaded: Overloaded" says it once too often."""
    kind, message = words(record.get("error_type")), record.get("error_message")
    if message and message.lower() == kind:
        return str(message)
    return ": ".join(part for part in (kind, message) if part) or "error"


def client_of(agent: str) -> str:
    """Return the product names of a user agent, without the parts in brackets."""
    return re.sub(r"\s*\([^)]*\)", "", agent)[:120]


def _titles(record: Mapping[str, Any]) -> dict[str, str]:
    model, asked = record.get("model"), record.get("model_requested")
    thought = number(record.get("tokens_reasoning"))
    source = record.get("cost_source")
    return {
        "time": utc(record["timestamp"]),
        "model": f"{model} (asked for {asked})" if model and asked and model != asked else "",
        "path": record.get("path") or "",
        "error": record.get("error_message") or "",
        "client": record.get("user_agent") or "",
        "cost": f"from {source}" if source else "",
        "output": f"{count(thought)} of them reasoning" if thought else "",
        "waterfall": _said(record, duration, _TIMES),
        "cache": _said(record, count, _INPUTS),
    }


_TIMES = (("head after", "ttfb_ms"), ("first token after", "ttft_ms"), ("end after", "duration_ms"))
_INPUTS = (
    ("uncached", "tokens_input"),
    ("cached", "cache_read_tokens"),
    ("written", "cache_write_tokens"),
)


def _said(
    record: Mapping[str, Any], form: Callable[[object], str], what: Iterable[tuple[str, str]]
) -> str:
    """Return the figures of a small bar in words."""
    known = ((word, record.get(name)) for word, name in what)
    return " · ".join(f"{word} {form(value)}" for word, value in known if number(value) is not None)


def bars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the widths of the small bars, in percent of their cells.

    ``wait``, ``first`` and ``stream`` are the time to the first byte, to the first token and
    to the end, on a scale of 10 ms to 2 minutes; ``uncached``, ``cached`` and ``written`` are the
    parts of the input.
    """
    took = number(record.get("duration_ms")) or 0.0
    head = min(number(record.get("ttfb_ms")) or 0.0, took)
    first = min(max(number(record.get("ttft_ms")) or head, head), took)
    whole = _scaled(took) if took else 0.0
    steps = [whole * point / took if took else 0.0 for point in (head, first, took)]
    tokens = [
        number(record.get(name)) or 0.0
        for name in ("tokens_input", "cache_read_tokens", "cache_write_tokens")
    ]
    shares = [100 * each / sum(tokens) if sum(tokens) else 0.0 for each in tokens]
    found = {
        "wait": steps[0],
        "first": steps[1] - steps[0],
        "stream": steps[2] - steps[1],
        "uncached": shares[0],
        "cached": shares[1],
        "written": shares[2],
    }
    return {name: round(width, 1) for name, width in found.items()}


def _scaled(milliseconds: float) -> float:
    share = math.log10(max(10.0, milliseconds) / 10) / math.log10(120_000 / 10)
    return 4 + 96 * min(1.0, share)


# -- messages --------------------------------------------------------------------------------------


def message(kind: str, data: object, timestamp: str | None = None) -> str:
    """Return one message: ``{"type", "data", "timestamp"}``; *timestamp* is now by default."""
    stamp = timestamp or datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return to_json({"type": kind, "data": data, "timestamp": stamp}).decode()


def event(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of the journal's feed with no more than the page shows."""
    kind, data = found["type"], found["data"]
    if kind in ("request_start", "request_complete", "request_error"):
        data = row(data, in_flight=kind == "request_start")
    return {"type": kind, "data": data, "timestamp": found.get("timestamp")}


def batch(found: Iterable[Mapping[str, Any]]) -> str:
    """Return many events as one message: ``{"type": "batch", "data": [event, …], "timestamp"}``.

    A start whose end is in the same batch is left out: the end says all of it.
    """
    events = [event(one) for one in found]
    ends = ("request_complete", "request_error", "request_gone")
    ended = {one["data"]["id"] for one in events if one["type"] in ends}
    kept = [
        one for one in events if one["type"] != "request_start" or one["data"]["id"] not in ended
    ]
    return message("batch", kept)

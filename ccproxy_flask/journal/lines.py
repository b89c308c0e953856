"""The lines of a journal: how they are made, and how they are told apart without parsing them.

Events: ``start`` and ``end`` of a request, ``lost`` (it ended, but its end could not be written;
has what its start line had). Journals of version 0.1 have ``dropped`` (*count* records that could
not be kept, for *reason*), too.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ccproxy_flask.record import COLUMN_TYPES, to_json

if TYPE_CHECKING:
    from ccproxy_flask.record import RequestRecord

Event = Literal["start", "end", "lost", "dropped"]

CANCELLED = b"\x18"
"""ASCII CAN at the end of a line: what stands before it was cut short and comes again whole."""

_PREFIX = b'{"event":"'
_START = b'{"event":"start",'
_LOST = b'{"event":"lost",'
_ID_KEY = b'"request_id":"'
_ID_LENGTH = 36
_KIND = slice(len(_PREFIX), len(_PREFIX) + 1)
# Where the id begins and ends, by the first bytes of a line as record_line() makes it.
_ID_OFFSETS = {
    event: (head := _PREFIX + event.encode() + b'",' + _ID_KEY, len(head), len(head) + _ID_LENGTH)
    for event in ("start", "end")
}


def record_line(event: Event, record: RequestRecord) -> bytes:
    """Return the line of *record*, newline included. Never raises."""
    try:
        body = to_json(record)
    except TypeError:
        body = to_json(storable(record.as_dict()))
    return _PREFIX + event.encode() + b'",' + body[1:] + b"\n"


def lost_line(start: bytes) -> bytes:
    """Return the line that says that the end of the request with the line *start* is lost."""
    return _LOST + start.removeprefix(_START)


def identify(line: bytes) -> tuple[Event, str] | None:
    """Return what *line* is and the request's id, by its first bytes; None: parse it to know."""
    event: Event = "end" if line[_KIND] == b"e" else "start"
    head, begin, end = _ID_OFFSETS[event]
    if line[:begin] != head or line[end : end + 1] != b'"' or line[-1:] != b"}":
        return None
    request_id = line[begin:end]
    return (event, request_id.decode()) if request_id.isascii() else None


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the fields of *line*, None where it is damaged."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("event"), str) else None


def storable(fields: dict[str, Any]) -> dict[str, Any]:
    """Return *fields* with every value that does not fit its column replaced by what does."""
    return {name: _fitting(fields.get(name), kind) for name, kind in COLUMN_TYPES.items()}


def _fitting(value: Any, kind: type) -> Any:
    if value is None:
        return None
    if kind is str:
        return str(value).encode("utf-8", "replace").decode()
    if kind is Decimal:
        return _fitting_money(value)
    if kind is int:
        fits = isinstance(value, int) and abs(value) < 1 << 63
        return value if fits and not isinstance(value, bool) else None
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if fits and abs(value) < 1e300 and math.isfinite(value) else None
    if kind is datetime:
        return _fitting_time(value)
    return value if isinstance(value, kind) else None


def _fitting_time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC) if isinstance(moment, datetime) else None
    except (ValueError, OverflowError):
        return None


def _fitting_money(value: Any) -> Decimal | None:
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return None
    return amount if amount.is_finite() and abs(amount) < 10**10 else None

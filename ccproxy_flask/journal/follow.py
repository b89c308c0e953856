"""Follow the segments of a journal: whole lines → events, each worker's in order."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeGuard

import structlog

from ccproxy_flask.record import COLUMN_TYPES, COLUMNS
from ccproxy_flask.totals import failure

from .lines import identify, parse
from .reader import read_lines
from .segments import Segment, by_worker, is_alive, list_segments, segment_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

_LIVENESS_SECONDS = 1.0
_READ_BYTES = 256 << 10
_MOST_IN_FLIGHT = 10_000
_MONEY = tuple(name for name, kind in COLUMN_TYPES.items() if kind is Decimal)
_STORED_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_REQUEST_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_ENTRY = re.compile(r"([0-9a-f]{32})-([0-9]{8}):([0-9]{1,15})")


class Event(dict[str, Any]):
    """``{"type", "data", "timestamp", "id"}``, and beside it what only this process needs.

    *start* is the start line of a request that ended here. *frame* keeps a rendered form for all
    watchers.
    """

    __slots__ = ("frame", "others", "start")

    def __init__(
        self, kind: str, data: dict[str, Any], moment: str | None = None, where: str | None = None
    ) -> None:
        super().__init__(type=kind, data=data, timestamp=moment or _now(), id=where)
        self.start: bytes | None = None
        self.others = ""
        self.frame: bytes | None = None

    @property
    def position(self) -> str:
        """Where to go on behind this event; see :class:`Follower`."""
        return f"{self['id']}{self.others}"


@dataclass(slots=True)
class ReadPosition:
    """How far a worker's journal was read: to *offset* in its segment *number*."""

    number: int = 0
    offset: int = 0

    def text(self, worker: str) -> str:
        """Return it as an entry of a position."""
        return f"{worker}-{self.number:08d}:{self.offset}"


class Follower:
    """How far the segments were read, and what is in flight.

    A *position* is a text that says for each worker how far its journal was told,
    ``<segment>:<offset>`` with commas between. The id of an event is its worker's entry.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.places: dict[str, ReadPosition] = {}
        self._rows: dict[str, dict[str, bytes]] = {}
        """Worker → request id → start line, of what is in flight."""
        self._before: dict[str, frozenset[str]] = {}
        """Worker → what was in flight when a part of its journal was missed."""
        self._began = False
        self._checked_at = 0.0
        self.behind = False

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows in flight, oldest first."""
        lines = [line for rows in list(self._rows.values()) for line in list(rows.values())]
        found = [as_row(parse(line) or {}) for line in lines]
        return sorted(found, key=lambda row: str(row["request_id"]))

    def position(self) -> str:
        """Return where to go on."""
        return ",".join(place.text(worker) for worker, place in self.places.items()) or "0"

    def poll(self) -> list[Event]:
        """Read what is new and return its events; the first call only begins. Raises OSError."""
        groups = by_worker(list_segments(self._directory, mirrors=None))
        if not self._began:
            self._begin(groups)
            self._began = True
            return []
        self.behind = False
        events: list[Event] = []
        for worker, group in groups.items():
            with _unreadable():
                events += self._news(worker, group)
        now = time.monotonic()
        if now - self._checked_at >= _LIVENESS_SECONDS:
            self._checked_at = now
            events += self._lost(groups)
        for worker in self.places.keys() - groups.keys():
            self._forget(worker)
        return events

    def missed_since(self, position: str) -> Iterator[list[Event]]:
        """Give what happened between *position* and now, a part at a time.

        Each event at least once: an end by death may have been told before.
        """
        flying = {worker: frozenset(rows) for worker, rows in self._rows.items()}
        return Follower(self._directory).read_up_to(self._reached(), flying, position)

    def read_up_to(
        self, targets: dict[str, tuple[int, int]], flying: dict[str, frozenset[str]], position: str
    ) -> Iterator[list[Event]]:
        """Give what happened between *position* and *targets*; *flying* is in flight there."""
        try:
            yield self._resume(
                position, by_worker(list_segments(self._directory, mirrors=None)), targets
            )
            before = None
            while before != (before := self._reached()):
                groups = by_worker(list_segments(self._directory, mirrors=None))
                for worker, target in targets.items():
                    yield self._news(worker, groups.get(worker, []), target)
        except OSError as error:
            log.warning("feed_cannot_read", error=str(error))
        reached = self._reached()
        if any(reached.get(worker, (0, 0)) < target for worker, target in targets.items()):
            yield [_overflow()]
        for worker, target in targets.items():
            if reached.get(worker) == target and worker in self._rows:
                died = self._rows[worker].keys() - flying.get(worker, frozenset())
                yield list(self._ends_by_death(worker, died))

    def _reached(self) -> dict[str, tuple[int, int]]:
        """Return segment number and offset for each worker."""
        return {worker: (place.number, place.offset) for worker, place in self.places.items()}

    # -- where it begins ---------------------------------------------------------------------------

    def _begin(self, groups: dict[str, list[Segment]]) -> None:
        """Pass over what is there; what is in flight is in the newest segments of live workers."""
        for worker, group in groups.items():
            newest = group[-1]
            if is_alive(self._directory, newest):
                self.places[worker] = place = ReadPosition(newest.number)
                self._pass_over(worker, place, newest.size)
            else:
                self.places[worker] = ReadPosition(newest.number, newest.size)

    def _resume(
        self,
        position: str,
        groups: dict[str, list[Segment]],
        targets: dict[str, tuple[int, int]],
    ) -> list[Event]:
        """Go to the position; return an overflow where that is not known any more."""
        found = _places_in(position)
        if found is None:
            self.places = {worker: ReadPosition(*target) for worker, target in targets.items()}
            return [_overflow()]
        missed = False
        for worker, (number, offset) in found.items():
            segment = next((one for one in groups.get(worker, []) if one.number == number), None)
            if segment is not None and self._is_line_start(segment, offset):
                self.places[worker] = place = ReadPosition(number)
                self._pass_over(worker, place, offset)
                place.offset = offset
                continue
            missed = True
            if worker in groups:  # go on with the oldest there is
                self.places[worker] = ReadPosition(groups[worker][0].number)
        return [_overflow()] if missed else []

    def _is_line_start(self, segment: Segment, offset: int) -> bool:
        if offset in (0, segment.size):
            return True
        try:
            lines, end = read_lines(self._directory / segment.name, offset - 1, 1)
        except FileNotFoundError:
            return False
        return lines == [b""] and end == offset

    def _pass_over(self, worker: str, place: ReadPosition, end: int) -> None:
        """Read up to *end*, only to know what is in flight there."""
        rows = self._rows.setdefault(worker, {})
        path = self._directory / segment_name(worker, place.number)
        while place.offset < end:
            size = min(_READ_BYTES, end - place.offset)
            try:
                lines, reached = read_lines(path, place.offset, size)
            except FileNotFoundError:
                return
            if reached == place.offset or reached > end:
                return
            place.offset = reached
            for line in lines:
                self._note(rows, line)
            time.sleep(0)  # lets other greenlets have their turn

    def _note(self, rows: dict[str, bytes], line: bytes) -> None:
        found = identify(line) or _parsed_identity(line)
        if found is None:
            return
        kind, request_id = found
        if kind != "start":
            rows.pop(request_id, None)
        elif len(rows) < _MOST_IN_FLIGHT:
            rows[request_id] = line

    # -- what is new -------------------------------------------------------------------------------

    def _news(
        self, worker: str, group: list[Segment], target: tuple[int, int] | None = None
    ) -> list[Event]:
        """Return the next events of a worker, of one segment after the other."""
        place = self.places.get(worker)
        if place is None:
            if not group:
                return []
            place = self.places[worker] = ReadPosition()
        missed: list[Event] = []
        while True:
            limit = _READ_BYTES
            if target is not None and place.number >= target[0]:
                limit = min(limit, target[1] - place.offset) if place.number == target[0] else 0
            if limit <= 0:
                return missed
            lines, is_there = self._lines(worker, place, limit)
            if lines:
                self.behind = self.behind or group[-1].number > place.number
                return missed + self._events(worker, place, lines)
            if target is not None and is_there and place.number == target[0]:
                place.offset = target[1]  # a line that was cut short by its worker's death
                return missed
            later = next((one for one in group if one.number > place.number), None)
            if later is None:
                return missed
            if later.number != place.number + 1 or not (is_there or place.number == 0):
                missed = [_overflow()]
                self._before[worker] = frozenset(self._rows.pop(worker, {}))
            place.number, place.offset = later.number, 0

    def _lines(self, worker: str, place: ReadPosition, limit: int) -> tuple[list[bytes], bool]:
        """Return the next lines, and whether the segment is there at all."""
        if place.number == 0:
            return [], False
        path = self._directory / segment_name(worker, place.number)
        try:
            lines, end = read_lines(path, place.offset, limit)
        except FileNotFoundError:
            return [], False
        self.behind = self.behind or end - place.offset > _READ_BYTES // 2
        return lines, True

    def _events(self, worker: str, place: ReadPosition, lines: list[bytes]) -> list[Event]:
        name = segment_name(worker, place.number).removesuffix(".ndjson")
        others = self._others(worker)
        events = []
        for line in lines:
            place.offset += len(line) + 1
            event = self._event_of(worker, line, f"{name}:{place.offset}")
            if event is not None:
                event.others = others
                events.append(event)
        return events

    def _others(self, worker: str) -> str:
        """Return how far all other workers were read."""
        places = (place.text(name) for name, place in self.places.items() if name != worker)
        return "".join(f",{text}" for text in places)

    def _event_of(self, worker: str, line: bytes, where: str) -> Event | None:
        fields = parse(line)
        if fields is None:
            return None
        kind, request_id = fields.pop("event"), fields.get("request_id")
        if kind not in ("start", "end", "lost") or not _is_id(request_id):
            return None
        rows = self._rows.setdefault(worker, {})
        row = as_row(fields)
        if kind == "start":
            known = request_id in rows or request_id in self._before.get(worker, ())
            if len(rows) < _MOST_IN_FLIGHT:
                rows[request_id] = line
            return None if known else Event("request_start", row, row["timestamp"], where)
        if kind == "lost":
            row["error_type"] = "record_lost"
        event = Event(_kind_of_end(row), row, _end_time(row), where)
        event.start = rows.pop(request_id, None)
        return event

    # -- the ends of dead workers' requests --------------------------------------------------------

    def _lost(self, groups: dict[str, list[Segment]]) -> list[Event]:
        events: list[Event] = []
        for worker, rows in list(self._rows.items()):
            group = groups.get(worker)
            with _unreadable():
                if rows and (group is None or self._is_over(worker, group[-1])):
                    events += self._ends_by_death(worker, list(rows))
        return events

    def _is_over(self, worker: str, newest: Segment) -> bool:
        """True where the worker is dead and all that it wrote was read."""
        place = self.places[worker]
        if place.number != newest.number or is_alive(self._directory, newest):
            return False
        lines, _ = self._lines(worker, place, _READ_BYTES)  # it may have died just after writing
        return not lines

    def _ends_by_death(self, worker: str, request_ids: Iterable[str]) -> Iterator[Event]:
        where, rows = (
            self.places.setdefault(worker, ReadPosition()).text(worker),
            self._rows[worker],
        )
        for request_id in sorted(request_ids):
            line = rows.pop(request_id)
            row = as_row(parse(line) or {})
            row["error_type"] = "worker_lost"
            event = Event("request_error", row, None, where)
            event.start, event.others = line, self._others(worker)
            yield event

    def _forget(self, worker: str) -> None:
        self._rows.pop(worker, None)
        self._before.pop(worker, None)
        self.places.pop(worker)


def as_row(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the *fields* of a line as a row of the logs API: all columns, money as numbers."""
    row = {name: fields.get(name) for name in COLUMNS}
    for name in _MONEY:
        row[name] = _as_number(row[name])
    stamp = row["timestamp"]
    if isinstance(stamp, str) and "." not in stamp:
        row["timestamp"] = stamp.removesuffix("Z") + ".000000Z"
    return row


def _as_number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):  # a damaged line that is JSON all the same
        return None


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _REQUEST_ID.fullmatch(value) is not None


def _parsed_identity(line: bytes) -> tuple[str, str] | None:
    fields = parse(line)
    if fields is None or not _is_id(fields.get("request_id")):
        return None
    return fields["event"], fields["request_id"]


def _kind_of_end(row: dict[str, Any]) -> str:
    failed = failure(row["error_type"], row["status_code"])
    return "request_complete" if failed is None else "request_error"


@contextmanager
def _unreadable() -> Iterator[None]:
    """Go on with the next worker where one's segment cannot be read now."""
    try:
        yield
    except OSError as error:
        log.warning("feed_cannot_read", error=str(error))


def _now() -> str:
    return datetime.now(UTC).strftime(_STORED_STAMP)


def _end_time(row: dict[str, Any]) -> str | None:
    """Return when the request of *row* ended; None where that is not known."""
    try:
        moment = datetime.fromisoformat(row["timestamp"])
        return (moment + timedelta(milliseconds=row["duration_ms"])).strftime(_STORED_STAMP)
    except (TypeError, ValueError, OverflowError):
        return None


def _overflow() -> Event:
    return Event("overflow", {"missed": None})


def _places_in(position: str) -> dict[str, tuple[int, int]] | None:
    """Return segment number and offset for each worker; None: no position."""
    found: dict[str, tuple[int, int]] = {}
    for entry in position.split(",") if position != "0" else ():
        match = _ENTRY.fullmatch(entry)
        if match is None:
            return None
        found[match[1]] = int(match[2]), int(match[3])
    return found

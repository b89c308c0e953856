"""What was said, by day: files of one day or a part of it, found through the request's id.

One process keeps (the recorder), any thread of it reads. A request id is a UUIDv7, which says
when the request began; so the id alone says in which files to look.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from .day_file import SUFFIXES, DayFile, Exchange, Hit, is_damage
from .places import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from .cache_parts import Prompt

log = structlog.get_logger(__name__)

_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d+))?\.sqlite(\.damaged)?")
_DAMAGED = ".damaged"
_REQUEST_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_T = TypeVar("_T")
_File = tuple["Path", str, int]
_DAY_MILLIS = 86_400_000
_PARTS = 8
"""A file is full at this part of the space: so that there is always one to delete."""


def by_day(exchanges: Sequence[Exchange]) -> list[list[Exchange]]:
    """Return *exchanges* in groups, each of which :meth:`ContentStore.add` takes."""
    groups: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        groups.setdefault(_day_of(exchange.request_id), []).append(exchange)
    return list(groups.values())


class ContentStore:
    """The files in *directory*: at most *max_bytes*, none of a day over *days* ago."""

    def __init__(self, directory: Path, max_bytes: int, days: float) -> None:
        self._directory, self._max_bytes, self._days = directory, max_bytes, days
        self._lock = threading.Lock()
        self._open: dict[str, DayFile] = {}
        self._parts: dict[str, int] = {}
        """The last part of each day that was begun here; its name is not used again."""
        self._reported: set[str] = set()
        """Files that cannot be read; each is logged once."""

    # -- keep --------------------------------------------------------------------------------------

    def add(self, exchanges: Sequence[Exchange]) -> None:
        """Keep *exchanges* of one day, all of them or none.

        Raises sqlite3.Error or OSError where there is no room.
        """
        self._with_current(_day_of(exchanges[0].request_id), lambda file: file.add(exchanges))

    def are_new(self, request_id: str, pieces: Sequence[bytes]) -> Sequence[bool]:
        """Return of each of *pieces* whether the current file of the request's day lacks it."""
        return self._with_current(_day_of(request_id), lambda file: file.are_new(pieces))

    def name_session(self, request_id: str, session_id: str) -> None:
        """Let an exchange that belongs to no session belong to one. Raises as :meth:`add`."""
        days = {_day_of(request_id)}
        self._change(days, lambda file: file.name_session(request_id, session_id))

    def rename_session(self, old: str, new: str) -> None:
        """Let all that belongs to *old* belong to *new*. Raises as :meth:`add`."""
        self._change(None, lambda file: file.rename_session(old, new))

    def _change(self, days: Collection[str] | None, work: Callable[[DayFile], object]) -> None:
        for path, day, _ in self._files():
            if days is None or day in days:
                with self._lock:
                    opened = self._open.get(day)
                    if opened is not None and opened.path == path:
                        work(opened)
                        continue
                    with contextlib.closing(DayFile(path)) as file:
                        work(file)

    def retain(self, now: datetime) -> int:
        """Delete what is too old or too much, and return how many files that were."""
        files = self._files(damaged=True)
        oldest = (now.timestamp() - self._days * 86_400) // 86_400 * 86_400
        doomed = [path for path, day, _ in files if _begin_of(day) < oldest]
        kept = [path for path, _, _ in files if path not in doomed]
        total = sum(_size(path) for path in kept)
        while len(kept) > 1 and total > self._max_bytes:
            doomed.append(kept.pop(0))
            total -= _size(doomed[-1])
        with self._lock:
            for path in doomed:
                self._delete(path)
            self._parts = {day: n for day, n in self._parts.items() if _begin_of(day) >= oldest}
        return len(doomed)

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(_size(path) for path, _, _ in self._files(damaged=True))

    def reset(self) -> None:
        """Delete everything."""
        with self._lock:
            for path, _, _ in self._files(damaged=True):
                self._delete(path)

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _with_current(self, day: str, work: Callable[[DayFile], _T]) -> _T:
        """Do *work* with the current file of *day*. One that is damaged is set aside, and the work
        done with a new one."""
        with self._lock:
            try:
                return work(self._current(day))
            except (sqlite3.Error, OSError) as error:
                self._let_go(day)
                if not is_damage(error):
                    raise
                if (path := self._newest(day)) is not None:
                    self._set_aside(path, str(error))
            try:
                return work(self._current(day))
            except (sqlite3.Error, OSError):
                self._let_go(day)
                raise

    def _current(self, day: str) -> DayFile:
        opened = self._open.get(day)
        if opened is not None and not opened.is_in_place():
            log.warning("content_file_removed", file=opened.path.name)
        elif opened is not None and opened.size() < self._max_bytes // _PARTS:
            return opened
        path = self._newest(day) if opened is None else None
        path = path or self._next(day)
        self._let_go(day)
        while len(self._open) > 2:  # of days before
            self._let_go(min(self._open))
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open[day] = DayFile(path)
        return self._open[day]

    def _newest(self, day: str) -> Path | None:
        """Return the path of the newest file of *day*."""
        files = self._files(day)
        return files[-1][0] if files else None

    def _next(self, day: str) -> Path:
        """Return the path of a file of *day* that is to be begun.

        A name that was used before is left alone: who still reads that file would take what SQLite
        keeps beside the new one for its own, and damage it.
        """
        used = [part for _, _, part in self._files(day, damaged=True)]
        part = self._parts[day] = max(0, self._parts.get(day, 0), *used) + 1
        return self._directory / (f"{day}.sqlite" if part == 1 else f"{day}.{part}.sqlite")

    def _let_go(self, day: str) -> None:
        opened = self._open.pop(day, None)
        if opened is not None:
            opened.close()

    def _set_aside(self, path: Path, reason: str) -> None:
        """Keep a damaged file for a person to look at, as long as others of its day are."""
        log.error("content_file_damaged", file=path.name, reason=reason)
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                beside = path.with_name(path.name + suffix)
                beside.replace(path.with_name(f"{path.name}{_DAMAGED}{suffix}"))

    def _delete(self, path: Path) -> None:
        for day in [day for day, opened in self._open.items() if opened.path == path]:
            self._let_go(day)
        for suffix in SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        log.info("content_removed", file=path.name)

    # -- read --------------------------------------------------------------------------------------

    def exchange(self, request_id: str) -> Exchange | None:
        """Return an exchange, None where it is not kept. Raises sqlite3.Error."""
        if not _REQUEST_ID.fullmatch(request_id):
            return None
        for path, _, _ in self._files(_day_of(request_id)):
            with _reading(path) as file:
                if file is not None and (found := file.exchange(request_id)) is not None:
                    return found
        return None

    def prompts(self, request_ids: Iterable[str]) -> dict[str, tuple[dict[str, Any], Prompt]]:
        """Return of those of the exchanges that are kept the facts, and what a cache looks at, by
        request id. Raises sqlite3.Error."""
        found: dict[str, tuple[dict[str, Any], Prompt]] = {}
        for day, ids in _days_of(request_ids).items():
            for path, _, _ in self._files(day):
                with _reading(path) as file:
                    found |= {} if file is None else file.prompts(ids)
        return found

    def has(self, request_id: str) -> bool:
        """True where the exchange is kept."""
        return bool(self.sessions_of([request_id]))

    def sessions_of(self, request_ids: Sequence[str]) -> dict[str, str | None]:
        """Return those of *request_ids* that are kept, each with its session or conversation.

        Raises sqlite3.Error or OSError.
        """
        found: dict[str, str | None] = {}
        for day, ids in _days_of(request_ids).items():
            for path, _, _ in self._files(day):
                with _reading(path) as file:
                    found |= file.sessions_of(ids) if file is not None else {}
        return found

    def session(self, session_id: str) -> list[str]:
        """Return the ids of the requests of a session that are kept, in order."""
        return sorted(itertools.chain.from_iterable(self._each(lambda f: f.session(session_id))))

    def request_ids(self) -> Iterator[str]:
        """Yield the ids of all that is kept, day by day."""
        for ids in self._each(lambda file: list(file.request_ids())):
            yield from ids

    def placed(
        self, request_id: str, keys: Sequence[int], kinds: Sequence[int]
    ) -> dict[Place, list[str]]:
        """Return which exchanges are at places, as far as they are of the request's day or the day
        before; the newest ones last. Raises sqlite3.Error or OSError."""
        found: dict[Place, list[str]] = {}
        if keys and _REQUEST_ID.fullmatch(request_id):
            for path in self._recent(request_id):
                with _reading(path) as file:
                    rows = file.placed(keys, kinds) if file is not None else ()
                for key, kind, each in rows:
                    found.setdefault(Place(key, kind), []).append(each)
        return found

    def _recent(self, request_id: str) -> list[Path]:
        """Return the files of a request's day and of the day before, the oldest first."""
        millis = _millis_of(request_id)
        days = {_day_at(millis - _DAY_MILLIS), _day_at(millis)}
        return [path for path, day, _ in self._files() if day in days]

    def search(self, question: str, limit: int) -> list[Hit]:
        """Return what has all words of *question*, newest first."""
        found: list[Hit] = []
        for some in self._each(lambda file: file.search(question, limit), newest_first=True):
            found += some
            if len(found) >= limit:
                break
        return found[:limit]

    def unreadable(self) -> list[str]:
        """Return the names of the files that could not be read since it was made."""
        return sorted(self._reported)

    def _each(
        self, ask: Callable[[DayFile], Sequence[_T]], *, newest_first: bool = False
    ) -> Iterator[Sequence[_T]]:
        """Give the answers of all files that can be read; of others one line in the log tells."""
        for path, _, _ in sorted(self._files(), key=_place, reverse=newest_first):
            try:
                with _reading(path) as file:
                    answer = ask(file) if file is not None else ()
            except sqlite3.Error as error:
                if path.name not in self._reported:
                    self._reported.add(path.name)
                    log.error("content_file_not_readable", file=path.name, reason=str(error))  # noqa: TRY400  a fact
                continue
            yield answer

    def _files(self, day: str | None = None, *, damaged: bool = False) -> list[_File]:
        """Return (path, day, part), the oldest first; *damaged* ones only where asked for."""
        found: list[_File] = []
        try:
            paths = list(self._directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return found
        for path in paths:
            match = _NAME.fullmatch(path.name)
            if match and day in (None, match[1]) and (damaged or not match[3]):
                found.append((path, match[1], int(match[2] or 1)))
        return sorted(found, key=_place)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[DayFile | None]:
    """Open a file for one question; None where it was deleted meanwhile."""
    try:
        file = DayFile(path, read_only=True)
    except sqlite3.OperationalError:
        if path.exists():
            raise
        yield None
        return
    try:
        yield file
    finally:
        file.close()


def _days_of(request_ids: Iterable[str]) -> dict[str, list[str]]:
    """Return request ids by their days, without what is none."""
    days: dict[str, list[str]] = {}
    for each in request_ids:
        if _REQUEST_ID.fullmatch(each):
            days.setdefault(_day_of(each), []).append(each)
    return days


def _place(file: _File) -> tuple[str, int]:
    return file[1:]


def _day_of(request_id: str) -> str:
    return _day_at(_millis_of(request_id))


def _millis_of(request_id: str) -> int:
    return int(request_id[:8] + request_id[9:13], 16)


def _day_at(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, UTC).date().isoformat()


def _begin_of(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def _size(path: Path) -> int:
    size = 0
    for suffix in ("", "-wal"):
        with contextlib.suppress(OSError):
            size += path.with_name(path.name + suffix).stat().st_size
    return size

"""How many requests have no row, and never will: counted where the count outlives its process.

Each process that writes a journal keeps ``<worker id>.ledger``: one JSON object, written at once by
one ``pwrite`` into blocks that were allocated when the file was made, and locked (``flock``) while
the process lives. So a full disk does not stop the counting, and ``kill -9`` loses none of it. It
lies beside the segments, or where that cannot be (a read-only file system), in the memory of the
system (:func:`spare_directory`). What is counted, and when: docs/adr/0010-ledger.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from .segments import is_locked, open_own, private_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = structlog.get_logger(__name__)

_SIZE = 1024
_NAME = re.compile(r"([0-9a-f]{32})\.ledger")
_MEMORY = Path("/dev/shm")  # noqa: S108  a folder of our own in it, which is checked to be ours
UNKNOWN_REASON = "unwritable"


@dataclass(frozen=True, slots=True)
class Account:
    """What one process had counted when it wrote its ledger for the *turn*-th time."""

    worker: str
    turn: int = 0
    unwritten: int = 0
    """Requests of which no line is on disk yet. They have no row if the process dies now."""
    waiting: int = 0
    """Requests that ended, and whose end is not on disk yet."""
    half_written: int = 0
    """Those of them whose start is on disk: they have a row whatever happens."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Requests that have no row and never will, by reason."""
    trouble: str | None = None
    """Why lines cannot be written, where they cannot; else why they last could not."""
    in_trouble: bool = False
    closed: bool = False
    """The process let go of its journal; nothing was in flight."""

    @property
    def lost(self) -> dict[str, int]:
        """What dies with the process: by reason, requests that were not counted as dropped yet."""
        return {self.trouble or UNKNOWN_REASON: self.unwritten} if self.unwritten else {}

    @property
    def final(self) -> dict[str, int]:
        """All requests without a row, by reason, once the process is dead."""
        found = dict(self.dropped)
        for reason, count in self.lost.items():
            found[reason] = found.get(reason, 0) + count
        return found


@dataclass(frozen=True, slots=True)
class FoundLedger:
    """A ledger as others see it."""

    account: Account
    alive: bool
    paths: tuple[Path, ...]

    @property
    def dropped(self) -> Mapping[str, int]:
        """Requests without a row, by reason, as things are."""
        return self.account.dropped if self.alive else self.account.final


class Ledger:
    """The ledger of this process. Nothing here raises."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._name = f"{worker}.ledger"
        self._places = [directory, spare_directory(directory)]
        """Where it may be; the first one is where it is, or will be."""
        self._fd: int | None = None

    def write(self, account: Account) -> None:
        """Put *account* in the place of what was there; where no place takes it, it is not kept."""
        text = orjson.dumps(account).ljust(_SIZE - 1) + b"\n"
        while self._places:
            if self._fd is None:
                self._fd = self._opened(text)
            elif not self._put(text):
                self.close()
            if self._fd is not None:
                return
            self._places.pop(0)
            if not self._places:
                log.error("ledger_not_kept", worker=account.worker)

    def _put(self, text: bytes) -> bool:
        try:
            return self._fd is not None and os.pwrite(self._fd, text, 0) == len(text)
        except OSError as error:
            log.warning("ledger_not_writable", path=str(self._places[0]), reason=error.strerror)
            return False

    def _opened(self, text: bytes) -> int | None:
        place = self._places[0]
        hidden = place / f".{self._name}.new"
        try:
            if len(self._places) == 1:
                private_directory(place)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(hidden, flags, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, _SIZE)
            os.pwrite(fd, text, 0)
            hidden.rename(place / self._name)
        except OSError:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            return None
        return fd

    @property
    def is_missing(self) -> bool:
        """True where the file was removed under our hands, or there is none yet."""
        return self._fd is None or os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        """Let go of the file: from now on this process counts as dead."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Let go of it and delete it: there is nothing in it that anybody needs."""
        if self._fd is not None:
            _unlink(self._places[0] / self._name)
        self.close()


def spare_directory(directory: Path) -> Path:
    """Return where ledgers lie that cannot be in the journal's *directory*."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return _MEMORY / f"ccproxy-ledger-{os.getuid()}-{digest}"


def read_ledgers(directory: Path) -> list[FoundLedger]:
    """Return the ledgers of all processes that write to the journal in *directory*, or did."""
    found: dict[str, FoundLedger] = {}
    for place in (directory, spare_directory(directory)):
        for path, worker in _ledgers_in(place):
            account = _read(path, worker)
            if account is None:
                continue
            alive = _is_locked(path)
            before = found.get(worker)
            if before is not None:  # it moved from one place to the other
                newest = max(before.account, account, key=lambda one: one.turn)
                paths = (*before.paths, path)
                found[worker] = FoundLedger(newest, alive or before.alive, paths)
            else:
                found[worker] = FoundLedger(account, alive, (path,))
    return list(found.values())


def remove_ledger(ledger: FoundLedger) -> None:
    """Delete the files of a *ledger*, as far as that is possible."""
    for path in ledger.paths:
        _unlink(path)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        if path.parent.parent == _MEMORY:
            path.parent.rmdir()
    except OSError:
        return  # it is read-only, or others are in use


def _ledgers_in(place: Path) -> Iterator[tuple[Path, str]]:
    try:
        paths = list(place.iterdir())
    except OSError:
        return
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            yield path, match[1]


def _read(path: Path, worker: str) -> Account | None:
    try:
        fd = open_own(path)
    except OSError:
        return None
    try:
        fields: Any = orjson.loads(os.pread(fd, _SIZE, 0))
    except (OSError, orjson.JSONDecodeError):
        return None
    finally:
        os.close(fd)
    return _account(fields, worker) if isinstance(fields, dict) else None


def _account(fields: dict[str, Any], worker: str) -> Account | None:
    dropped = fields.get("dropped")
    if not isinstance(dropped, dict):
        return None
    numbers = {name: fields.get(name) for name in ("turn", "unwritten", "waiting", "half_written")}
    if not all(
        type(value) is int and value >= 0 for value in [*numbers.values(), *dropped.values()]
    ):
        return None
    trouble = fields.get("trouble")
    return Account(
        worker,
        **numbers,  # type: ignore[arg-type]  # they were just looked at
        dropped={str(reason)[:32]: count for reason, count in dropped.items()},
        trouble=str(trouble)[:32] if trouble else None,
        in_trouble=fields.get("in_trouble") is True,
        closed=fields.get("closed") is True,
    )


def _is_locked(path: Path) -> bool:
    try:
        return is_locked(path)
    except OSError:
        return False

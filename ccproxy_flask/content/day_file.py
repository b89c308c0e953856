"""What was said on one day: one SQLite file, complete in itself, deleted as a whole.

A body is a list of pieces, and each piece is kept once, compressed. All methods are for one
thread at a time; readers open the file for themselves.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import zstandard

from . import prompt_table
from .prompt import Prompt, PromptPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS dictionary (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS piece (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, dictionary INTEGER, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS exchange (
    id INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, session_id TEXT,
    facts BLOB NOT NULL, request BLOB NOT NULL, response BLOB NOT NULL, times BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS exchange_session ON exchange (session_id, at);
CREATE TABLE IF NOT EXISTS said (id INTEGER PRIMARY KEY, exchange INTEGER NOT NULL, part TEXT);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    text, content='', columnsize=0, detail=none, tokenize='unicode61');
"""
    + prompt_table.SCHEMA
)
# A power cut may cost the last seconds, never the file (SQLite's documentation of WAL mode).
_SETTINGS = (
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-8192;"
    "PRAGMA journal_size_limit=16777216;"
)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# A symbolic link, or a directory, in the place of a file.
_IN_THE_WAY = (errno.ELOOP, errno.EISDIR)
SUFFIXES = ("", "-wal", "-shm")
"""A file, its log of changes, and what its users share."""
_AT_ONCE = 500  # values of one question
_LEVEL = 9
_WORD = re.compile(r"[^\W_]+")  # what the tokenizer of the index takes for one
_DICTIONARY_BYTES = 64 << 10
_SAMPLES = 400
_LARGEST_SAMPLE = 16 << 10
_WELL_ALONE = 32 << 10  # a larger piece gains nothing by a dictionary


@dataclass(slots=True)
class Exchange:
    """What is kept of one exchange. Bodies are what may be kept of them, cut into pieces.

    *at* is µs since 1970; *facts* are JSON; *times* are (offset, µs since *at*) of the pieces of
    the response as they came; *texts* are what is to be found by a search: (part, text); *prompt*
    is what the request is made of for a cache.
    """

    request_id: str
    at: int
    session_id: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    request: Sequence[bytes] = ()
    response: Sequence[bytes] = ()
    times: Sequence[tuple[int, int]] = ()
    texts: Sequence[tuple[str, str]] = ()
    prompt: Sequence[PromptPart] = ()


class Damaged(sqlite3.DatabaseError):
    """What is in the file is not what was put there."""


def is_damage(error: Exception) -> bool:
    """True where *error* says that the file itself is of no use, and not that there is no room."""
    if isinstance(error, OSError):
        return error.errno in _IN_THE_WAY
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


class DayFile:
    """The file *path*. Every method raises sqlite3.Error where the file cannot be used."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._inode = 0 if read_only else _inode_of(path)
        self._db = _opened_to_read(path) if read_only else _connected(path, "mode=rw")
        self._prompts = prompt_table.PromptTable(self._db)
        self._packers: dict[int, zstandard.ZstdCompressor] = {}
        self._unpackers: dict[int, zstandard.ZstdDecompressor] = {}
        self._samples: list[bytes | bytearray | memoryview[int]] = []
        self._current = 0
        if not read_only:
            try:
                self._db.executescript(_SETTINGS)
                self._db.executescript(_SCHEMA)
                self._current = self._newest_dictionary()
            except sqlite3.Error:
                self._db.close()
                raise

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def size(self) -> int:
        """Return the bytes of the file."""
        return self.path.stat().st_size

    def is_in_place(self) -> bool:
        """False where the file was removed or replaced under our hands."""
        try:
            return self.path.lstat().st_ino == self._inode
        except OSError:
            return False

    # -- keep --------------------------------------------------------------------------------------

    def are_new(self, pieces: Sequence[bytes]) -> list[bool]:
        """Return of each of *pieces* whether it is not kept yet."""
        hashes = [_hash(piece) for piece in pieces]
        known: set[bytes] = set()
        for begin in range(0, len(hashes), _AT_ONCE):
            some = hashes[begin : begin + _AT_ONCE]
            asked = f"SELECT hash FROM piece WHERE hash IN ({_marks(some)})"  # noqa: S608  ours
            known.update(row[0] for row in self._db.execute(asked, some))
        return [digest not in known for digest in hashes]

    def add(self, exchanges: Sequence[Exchange]) -> None:
        """Keep *exchanges*, all of them or none; one that is there already is left as it is."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for exchange in exchanges:
                self._add(exchange)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise
        if len(self._samples) >= _SAMPLES and not self._current:
            self._learn()

    def _add(self, exchange: Exchange) -> None:
        if self.has(exchange.request_id):
            return
        request, response = (
            _packed_ids([self._piece_id(piece) for piece in pieces])
            for pieces in (exchange.request, exchange.response)
        )
        runs = {"prompt": self._prompts.add(exchange.prompt)} if exchange.prompt else {}
        facts = _pack_plain(orjson.dumps(exchange.facts | runs))
        times = _pack_plain(_varints(_steps(exchange.times)))
        row = (exchange.request_id, exchange.at, exchange.session_id, facts)
        (number,) = self._db.execute(
            "INSERT INTO exchange (request_id, at, session_id, facts, request, response, times)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (*row, request, response, times),
        ).fetchone()
        for part, text in exchange.texts:
            (said,) = self._db.execute(
                "INSERT INTO said (exchange, part) VALUES (?, ?) RETURNING id", (number, part)
            ).fetchone()
            self._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (said, text))

    def _piece_id(self, piece: bytes) -> int:
        digest = _hash(piece)
        found = self._db.execute("SELECT id FROM piece WHERE hash = ?", (digest,)).fetchone()
        if found is None:
            dictionary = self._current if len(piece) < _WELL_ALONE else 0
            found = self._db.execute(
                "INSERT INTO piece (hash, dictionary, data) VALUES (?, ?, ?) RETURNING id",
                (digest, dictionary, self._packer(dictionary).compress(piece)),
            ).fetchone()
            if not self._current:
                self._samples.append(piece[:_LARGEST_SAMPLE])
        return int(found[0])

    def _learn(self) -> None:
        """Make a dictionary of what came so far; what comes is compressed with it."""
        samples, self._samples = self._samples, []
        try:
            data = zstandard.train_dictionary(_DICTIONARY_BYTES, samples).as_bytes()
        except zstandard.ZstdError:  # the samples have nothing in common
            return
        self._db.execute("INSERT INTO dictionary (data) VALUES (?)", (data,))
        self._current = self._newest_dictionary()

    # -- read --------------------------------------------------------------------------------------

    def has(self, request_id: str) -> bool:
        """True where the exchange is kept here."""
        return bool(self.having([request_id]))

    def having(self, request_ids: Sequence[str]) -> set[str]:
        """Return those of *request_ids* whose exchanges are kept here."""
        found: set[str] = set()
        for begin in range(0, len(request_ids), _AT_ONCE):
            some = request_ids[begin : begin + _AT_ONCE]
            asked = f"SELECT request_id FROM exchange WHERE request_id IN ({_marks(some)})"  # noqa: S608  ours
            found.update(row[0] for row in self._db.execute(asked, some))
        return found

    def exchange(self, request_id: str) -> Exchange | None:
        """Return an exchange, None where it is not here. Raises Damaged."""
        row = self._db.execute(
            "SELECT request_id, at, session_id, facts, request, response, times FROM exchange"
            " WHERE request_id = ?",
            (request_id,),
        ).fetchone()
        if row is None:
            return None
        try:
            facts = orjson.loads(_unpack_plain(row[3]))
            request, response = (self._pieces(_unpacked_ids(blob)) for blob in row[4:6])
            times = list(_sums(_numbers(_unpack_plain(row[6]))))
        except (zstandard.ZstdError, ValueError, LookupError) as error:
            raise Damaged(f"{request_id} in {self.path.name} is damaged: {error}") from error
        return Exchange(row[0], row[1], row[2], facts, request, response, times)

    def facts(self, request_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the facts of those of the exchanges that are here, by request id."""
        asked = "SELECT request_id, facts FROM exchange WHERE request_id = ?"
        rows = (self._db.execute(asked, (each,)).fetchone() for each in request_ids)
        return {row[0]: orjson.loads(_unpack_plain(row[1])) for row in rows if row is not None}

    def prompts(self, request_ids: Sequence[str]) -> dict[str, tuple[dict[str, Any], Prompt]]:
        """Return the facts of those of the exchanges that are here, and what a cache looks at.

        Raises Damaged.
        """
        found = self.facts(request_ids)
        try:
            parts = self._prompts.read(facts.get("prompt", ()) for facts in found.values())
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(f"a prompt in {self.path.name} is damaged: {error}") from error
        return {
            request_id: (facts, _prompt(facts, some))
            for (request_id, facts), some in zip(found.items(), parts, strict=True)
        }

    def session(self, session_id: str) -> list[str]:
        """Return the ids of the requests of a session, in order."""
        asked = "SELECT request_id FROM exchange WHERE session_id = ? ORDER BY at, id"
        return [row[0] for row in self._db.execute(asked, (session_id,))]

    def request_ids(self) -> Iterator[str]:
        """Yield the ids of all exchanges, in the order in which they were kept."""
        for row in self._db.execute("SELECT request_id FROM exchange ORDER BY id"):
            yield row[0]

    def search(self, question: str, limit: int) -> list[tuple[str, int, str]]:
        """Return (request id, at, part) of what has all words of *question*, newest first."""
        # In the order of the index, so that a word that is everywhere is not looked up everywhere.
        asked = (
            "SELECT e.request_id, e.at, s.part FROM words w JOIN said s ON s.id = w.rowid"
            " JOIN exchange e ON e.id = s.exchange WHERE words MATCH ? ORDER BY w.rowid DESC"
        )
        found: dict[tuple[str, int, str], None] = {}
        for row in self._db.execute(asked, (as_match(question),)):
            found[row] = None
            if len(found) >= limit:
                break
        return list(found)

    def counts(self) -> dict[str, int]:
        """Return how many exchanges and pieces there are."""
        return {
            table: self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608  ours
            for table in ("exchange", "piece")
        }

    def _pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [self._piece(number) for number in ids]

    def _piece(self, number: int) -> bytes:
        asked = "SELECT dictionary, data FROM piece WHERE id = ?"
        row = self._db.execute(asked, (number,)).fetchone()
        if row is None:
            raise LookupError(f"there is no piece {number}")
        return self._unpacker(row[0] or 0).decompress(row[1])

    def _newest_dictionary(self) -> int:
        found = self._db.execute("SELECT coalesce(max(id), 0) FROM dictionary").fetchone()
        return int(found[0])

    def _dictionary(self, number: int) -> zstandard.ZstdCompressionDict | None:
        if not number:
            return None
        asked = "SELECT data FROM dictionary WHERE id = ?"
        return zstandard.ZstdCompressionDict(self._db.execute(asked, (number,)).fetchone()[0])

    def _packer(self, dictionary: int) -> zstandard.ZstdCompressor:
        if dictionary not in self._packers:
            self._packers[dictionary] = zstandard.ZstdCompressor(
                level=_LEVEL, dict_data=self._dictionary(dictionary), write_dict_id=False
            )
        return self._packers[dictionary]

    def _unpacker(self, dictionary: int) -> zstandard.ZstdDecompressor:
        if dictionary not in self._unpackers:
            self._unpackers[dictionary] = zstandard.ZstdDecompressor(
                dict_data=self._dictionary(dictionary)
            )
        return self._unpackers[dictionary]


def _prompt(facts: dict[str, Any], parts: Sequence[PromptPart]) -> Prompt:
    cache = facts.get("cache") or {}
    return Prompt(parts, cache.get("settings", {}), cache.get("marks", ()))


def as_match(question: str) -> str:
    """Return *question* as a query of FTS5: all its words, the last one as a beginning."""
    words = [f'"{word}"' for word in _WORD.findall(question)]
    return " ".join(words) + "*" if words else '""'


def _connected(path: Path, options: str) -> sqlite3.Connection:
    name = f"file:{quote(str(path))}?{options}"
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)


def _opened_to_read(path: Path) -> sqlite3.Connection:
    db = _connected(path, "mode=ro")
    try:
        db.execute("SELECT 1 FROM dictionary LIMIT 1")
    except sqlite3.OperationalError as error:
        db.close()
        log_of_changes = path.with_name(f"{path.name}-wal")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or log_of_changes.exists():
            raise
        # On a disk that is read-only there is no room for what readers share (SQLite's
        # documentation of WAL mode); nobody writes there either.
        return _connected(path, "immutable=1")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _inode_of(path: Path) -> int:
    """Return the inode of the file, which is made where there is none."""
    if not os.path.lexists(path):
        _make(path)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _make(path: Path) -> None:
    """Make the file for this user alone. It gets its name when it is whole: a reader that opens it
    earlier would find no tables, and keep it from being made."""
    new = path.with_name(f"{path.name}.new")
    for suffix in SUFFIXES:
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    # SQLite gives the files beside it the same mode (its documentation of temporary files).
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with contextlib.closing(_connected(new, "mode=rw")) as db:
        db.executescript(_SETTINGS)
        db.executescript(_SCHEMA)
    new.rename(path)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _hash(piece: bytes) -> bytes:
    return hashlib.blake2b(piece, digest_size=16).digest()


def _pack_plain(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def _unpack_plain(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def _packed_ids(ids: Sequence[int]) -> bytes:
    """Return *ids* as steps from one to the next: mostly 1, and so next to nothing."""
    return _pack_plain(
        _varints((b - a) << 1 ^ (b - a) >> 63 for a, b in zip([0, *ids], ids, strict=False))
    )


def _unpacked_ids(data: bytes) -> list[int]:
    ids, last = [], 0
    for number in _numbers(_unpack_plain(data)):
        last += number >> 1 ^ -(number & 1)
        ids.append(last)
    return ids


def _steps(times: Sequence[tuple[int, int]]) -> Iterator[int]:
    last = (0, 0)
    for offset, micros in times:
        yield offset - last[0]
        yield max(0, micros - last[1])
        last = offset, max(micros, last[1])


def _sums(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    offset = micros = 0
    for index in range(0, len(numbers), 2):
        offset, micros = offset + numbers[index], micros + numbers[index + 1]
        yield offset, micros


def _varints(numbers: Iterable[int]) -> bytes:
    """Return *numbers*, none negative, as LEB128."""
    found = bytearray()
    for number in numbers:
        while number > 0x7F:
            found.append(number & 0x7F | 0x80)
            number >>= 7  # noqa: PLW2901  what is left of it
        found.append(number)
    return bytes(found)


def _numbers(data: bytes) -> list[int]:
    found, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(number)
            number = shift = 0
    return found

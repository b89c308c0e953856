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
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import orjson
import zstandard

from . import prompt_table
from .cache_parts import Prompt, PromptPart
from .packing import LEVEL, pack, packed_ids, packed_times, unpack, unpacked_ids, unpacked_times
from .places import PASSED, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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
CREATE TABLE IF NOT EXISTS said (
    id INTEGER PRIMARY KEY, exchange INTEGER NOT NULL, part TEXT, first INTEGER, last INTEGER,
    answer BLOB);
CREATE TABLE IF NOT EXISTS place (
    key INTEGER NOT NULL, kind INTEGER NOT NULL, exchange INTEGER NOT NULL,
    PRIMARY KEY (key, kind, exchange)) WITHOUT ROWID;
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
_LONGEST_ANSWER = 65_536  # characters that can be shown of one
_MOST_SHOWN = 32  # pieces in which words are looked for, to be shown
_MOST_PASSED = 8  # exchanges that are known to have passed a place
_AT_ONCE = 500  # values of one question
_WORD = re.compile(r"[^\W_]+")  # what the tokenizer of the index takes for one
_DICTIONARY_BYTES = 64 << 10
_SAMPLES = 400
_LARGEST_SAMPLE = 16 << 10
_WELL_ALONE = 32 << 10  # a larger piece gains nothing by a dictionary


class Text(NamedTuple):
    """Words that were said, and where they stand: in the pieces of the request from *first* to
    *last*, or nowhere as they are, which is so of an answer."""

    part: str
    words: str
    first: int | None = None
    last: int | None = None


class Hit(NamedTuple):
    """What a search found, and where its words stand: JSON in part, or as they were said."""

    request_id: str
    at: int
    part: str
    json: bytes | None
    words: str | None
    session_id: str | None
    facts: dict[str, Any]


@dataclass(slots=True)
class Exchange:
    """What is kept of one exchange. Bodies are what may be kept of them, cut into pieces.

    *at* is µs since 1970; *facts* are JSON; *times* are (offset, µs since *at*) of the pieces of
    the response as they came; *texts* are what is to be found by a search; *prompt* is what the
    request is made of for a cache; *places* are what others find it by (:mod:`.places`).
    """

    request_id: str
    at: int
    session_id: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    request: Sequence[bytes] = ()
    response: Sequence[bytes] = ()
    times: Sequence[tuple[int, int]] = ()
    texts: Sequence[Text] = ()
    prompt: Sequence[PromptPart] = ()
    places: Sequence[Place] = ()
    conversation: dict[str, Any] | None = None
    """What was asked, and *answer*: in the shape of :mod:`ccproxy_flask.dialects.said`. Not kept:
    it is made of the bodies again."""
    answer: dict[str, Any] | None = None


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
            packed_ids([self._piece_id(piece) for piece in pieces])
            for pieces in (exchange.request, exchange.response)
        )
        runs = {"prompt": self._prompts.add(exchange.prompt)} if exchange.prompt else {}
        facts = pack(orjson.dumps(exchange.facts | runs))
        times = packed_times(exchange.times)
        row = (exchange.request_id, exchange.at, exchange.session_id, facts)
        (number,) = self._db.execute(
            "INSERT INTO exchange (request_id, at, session_id, facts, request, response, times)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (*row, request, response, times),
        ).fetchone()
        for text in exchange.texts:
            self._add_text(number, text)
        for place in exchange.places:
            self._add_place(number, place)

    def _add_place(self, number: int, place: Place) -> None:
        # Many may begin with the same examples: a few of them say all that is asked of them.
        self._db.execute(
            "INSERT INTO place (key, kind, exchange) SELECT ?1, ?2, ?3 WHERE ?2 <> ?4 OR"
            " (SELECT count(*) FROM place WHERE key = ?1 AND kind = ?2) < ?5",
            (place.key, place.kind, number, PASSED, _MOST_PASSED),
        )

    def _add_text(self, number: int, text: Text) -> None:
        answer = None
        if text.first is None:
            words = text.words[:_LONGEST_ANSWER].encode("utf-8", "replace")
            answer = bytes([self._current]) + self._packer(self._current).compress(words)
        (said,) = self._db.execute(
            "INSERT INTO said (exchange, part, first, last, answer) VALUES (?, ?, ?, ?, ?)"
            " RETURNING id",
            (number, text.part, text.first, text.last, answer),
        ).fetchone()
        self._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (said, text.words))

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
        return bool(self.sessions_of([request_id]))

    def sessions_of(self, request_ids: Sequence[str]) -> dict[str, str | None]:
        """Return those of *request_ids* whose exchanges are kept here, each with its session."""
        found: dict[str, str | None] = {}
        for begin in range(0, len(request_ids), _AT_ONCE):
            some = request_ids[begin : begin + _AT_ONCE]
            asked = (
                "SELECT request_id, session_id FROM exchange"  # noqa: S608  ours
                f" WHERE request_id IN ({_marks(some)})"
            )
            found.update(self._db.execute(asked, some))
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
            facts = orjson.loads(unpack(row[3]))
            request, response = (self._pieces(unpacked_ids(blob)) for blob in row[4:6])
            times = unpacked_times(row[6])
        except (zstandard.ZstdError, ValueError, LookupError) as error:
            raise Damaged(f"{request_id} in {self.path.name} is damaged: {error}") from error
        return Exchange(row[0], row[1], row[2], facts, request, response, times)

    def facts(self, request_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the facts of those of the exchanges that are here, by request id."""
        asked = "SELECT request_id, facts FROM exchange WHERE request_id = ?"
        rows = (self._db.execute(asked, (each,)).fetchone() for each in request_ids)
        return {row[0]: orjson.loads(unpack(row[1])) for row in rows if row is not None}

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

    def placed(self, keys: Sequence[int], kinds: Sequence[int]) -> list[tuple[int, int, str]]:
        """Return (key, kind, request id) of the exchanges at places, the newest last."""
        found: list[tuple[int, int, str]] = []
        for begin in range(0, len(keys), _AT_ONCE):
            some = keys[begin : begin + _AT_ONCE]
            asked = (
                "SELECT p.key, p.kind, e.request_id FROM place p JOIN exchange e"  # noqa: S608  ours
                f" ON e.id = p.exchange WHERE p.key IN ({_marks(some)})"
                f" AND p.kind IN ({_marks(kinds)}) ORDER BY e.id"
            )
            found += self._db.execute(asked, [*some, *kinds]).fetchall()
        return found

    def name_session(self, request_id: str, session_id: str) -> None:
        """Let an exchange that belongs to no session belong to one."""
        asked = "UPDATE exchange SET session_id = ? WHERE request_id = ? AND session_id IS NULL"
        self._db.execute(asked, (session_id, request_id))

    def rename_session(self, old: str, new: str) -> None:
        """Let exchanges that belong to *old* belong to *new*."""
        self._db.execute("UPDATE exchange SET session_id = ? WHERE session_id = ?", (new, old))

    def search(self, question: str, limit: int) -> list[Hit]:
        """Return what has all words of *question*, newest first."""
        # In the order of the index, so that a word that is everywhere is not looked up everywhere.
        asked = (
            "SELECT e.request_id, e.at, e.session_id, e.facts, s.part, s.first, s.last, s.answer,"
            " e.request FROM words w JOIN said s ON s.id = w.rowid"
            " JOIN exchange e ON e.id = s.exchange WHERE words MATCH ? ORDER BY w.rowid DESC"
        )
        found: dict[tuple[str, str], Hit] = {}
        rows = self._db.execute(asked, (as_match(question),))
        for request_id, at, session_id, facts, part, *where in rows:
            if (request_id, part) not in found:
                words = self._words(*where)
                known = _facts_or_none(facts)
                found[request_id, part] = Hit(request_id, at, part, *words, session_id, known)
            if len(found) >= limit:
                break
        return list(found.values())

    def _words(
        self, first: int | None, last: int, answer: bytes | None, request: bytes
    ) -> tuple[bytes | None, str | None]:
        try:
            if first is None:
                words = self._unpacker(answer[0]).decompress(answer[1:]) if answer else b""
                return None, words.decode("utf-8", "replace")
            some = unpacked_ids(request)[first : min(last, first + _MOST_SHOWN) + 1]
            return b"".join(self._pieces(some)), None
        except (zstandard.ZstdError, ValueError, LookupError):
            return None, ""  # it is damaged; that it was said is still true

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
                level=LEVEL, dict_data=self._dictionary(dictionary), write_dict_id=False
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


def _facts_or_none(packed: bytes) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = orjson.loads(unpack(packed))
    except (zstandard.ZstdError, ValueError):
        return {}  # they are damaged; that it was said is still true
    return facts


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

"""Named pipes: the database writes a file, and who asked for it reads it meanwhile. Pure Python."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ccproxy_flask.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

_PIECE = 128 << 10


class Pipes:
    """Some pipes with the *paths* given, made anew; each is for one transfer at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._free = list(paths)
        self._lock = threading.Lock()
        self._open: set[_Reader] = set()
        for path in paths:
            path.unlink(missing_ok=True)
            os.mkfifo(path, 0o600)

    def transfer(
        self, write: Callable[[Path], object], cancel: Callable[[], object]
    ) -> Generator[bytes]:
        """Give what *write* writes to the path it is called with, in a thread, as it comes.

        *cancel* is called to end *write* where nobody reads on. What *write* raises is raised
        behind its last byte. Raises StoreUnavailable where all pipes are in use.
        """
        with self._pipe() as path:
            reader = _Reader(path)
            failures: list[BaseException] = []
            writer = threading.Thread(
                target=_run, args=(write, path, reader, failures), daemon=True, name="export"
            )
            self._open.add(reader)
            writer.start()
            try:
                while piece := reader.read():
                    yield piece
            except BaseException:
                reader.close()
                cancel()
                raise
            finally:
                reader.close()
                writer.join()
                self._open.discard(reader)
            if failures:
                raise failures[0]

    @contextmanager
    def _pipe(self) -> Iterator[Path]:
        with self._lock:
            if not self._free:
                raise StoreUnavailable("other exports are running", retry_after=10)
            path = self._free.pop()
        try:
            yield path
        finally:
            self._free.append(path)

    def close(self) -> None:
        """Break off what is being transferred, and remove the pipes."""
        for reader in list(self._open):
            reader.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


class _Reader:
    """The reading end, and a writing end that keeps it open until the writer is done."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._fd, True)
        self._held = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        with self._lock:
            return b"" if self._closed else os.read(self._fd, _PIECE)

    def written(self) -> None:
        """Let the reader see the end, now that the writer has ended."""
        os.close(self._held)

    def close(self) -> None:
        """End reading; a writer that is waiting for a reader gets an error."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with suppress(OSError):
                    os.close(self._fd)


def _run(
    write: Callable[[Path], object], path: Path, reader: _Reader, failures: list[BaseException]
) -> None:
    try:
        write(path)
    except Exception as error:  # noqa: BLE001  raised again where the bytes are read
        failures.append(error)
    finally:
        reader.written()

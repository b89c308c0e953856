"""Why the recorder does not run: it says so itself, in a file that workers read."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .ledger import spare_directory
from .segments import open_own, private_directory

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "recorder.failed"
_LONGEST = 500


def note_failure(directory: Path, reason: str) -> bool:
    """Keep *reason* beside the journal in *directory*, or in the system's memory; False where it
    is known already. Never raises."""
    if recorder_failure(directory) == reason[:_LONGEST]:
        return False
    spare = spare_directory(directory)
    for place in (directory, spare):
        with contextlib.suppress(OSError):
            if place == spare:
                private_directory(place)
            flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(place / _NAME, flags | os.O_NONBLOCK, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
                file.write(reason[:_LONGEST])
            break
    return True


def recorder_failure(directory: Path) -> str | None:
    """Return why the recorder of the journal in *directory* could not start; None where it could,
    or did not try."""
    for place in (directory, spare_directory(directory)):
        with contextlib.suppress(OSError), os.fdopen(open_own(place / _NAME), "rb") as file:
            return file.read(_LONGEST).decode(errors="replace") or None
    return None


def clear_failure(directory: Path) -> None:
    """Forget it: the recorder runs."""
    spare = spare_directory(directory)
    for place in (directory, spare):
        with contextlib.suppress(OSError):
            (place / _NAME).unlink()
    with contextlib.suppress(OSError):
        spare.rmdir()

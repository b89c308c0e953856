"""Folders for this user alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_private(path: Path) -> None:
    """Make the folder *path*, and each above it that is missing, for this user alone.

    ``Path.mkdir(parents=True)`` gives those above to whom the umask leaves them. Raises OSError.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise

"""What the page for the server's state shows besides what the recorder says: settings, their
secrets hidden, what is on the disk, and versions."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import format as texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ccproxy_flask.settings import Settings

_HIDDEN = "***"
# A user and a password in an address.
_PASSWORD = re.compile(r"(?<=//)[^/@\s]+(?=@)")


_PACKAGES = ("ccproxy-flask", "duckdb", "flask", "gevent", "gunicorn", "requests")
_MOST_FILES = 2_000


def about(settings: Settings) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what is on the disk, and the versions of what runs."""
    database = settings.duckdb_path
    own = [path for path in _inside(database.parent) if path.name.startswith(database.name)]
    places = (
        ("database", [path for path in own if path.is_file()]),
        ("files by day", [path for path in own if path.is_dir()]),
        ("journal", [settings.journal_directory]),
        ("content", [settings.content_directory]),
    )
    sizes = [(name, _size(paths)) for name, paths in places]
    return [("On the disk", sizes), ("Versions", list(_versions()))]


def _inside(folder: Path) -> list[Path]:
    try:
        return list(islice(folder.iterdir(), _MOST_FILES))
    except OSError:
        return []  # it is not there, or not ours to read


def _size(paths: Iterable[Path]) -> str:
    """Return how large files are, or what is in folders; of very many files, that there are."""
    files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
    total = 0
    for file in files:
        with suppress(OSError):  # it went just now
            total += file.stat().st_size
    return f"over {texts.size(total)}" if len(files) >= _MOST_FILES else texts.size(total)


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue  # it runs from a folder
    return tuple(found)


def settings_shown(settings: Settings) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the settings by section, secrets hidden."""
    found = settings.model_dump()
    top = [(name, setting(value)) for name, value in found.items() if not isinstance(value, dict)]
    sections = [
        (name, list(_flat(value)))
        for name, value in found.items()
        if isinstance(value, dict) and value
    ]
    return [("server", top), *sections]


def _flat(section: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield path + name, setting(value)


def setting(value: Any) -> str:
    """Return *value* as a text; of a secret, that it is set."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _PASSWORD.sub(_HIDDEN, value)
    if isinstance(value, tuple | list):
        return ", ".join(setting(each) for each in value) or "none"
    # A secret is no text of its own accord.
    return str(value) if isinstance(value, os.PathLike) else _HIDDEN

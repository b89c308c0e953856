"""One load of the settings for a server and all of its processes.

gunicorn's arbiter loads them. Workers are forked from it and find them in their memory; a process
that it starts anew (the recorder) reads them from its standard input. So a file that is edited
meanwhile counts for all of them at the next reload, or for none. Neither argv, the environment nor
the disk has them.
"""

from __future__ import annotations

import pickle
from typing import IO, TYPE_CHECKING

from ccproxy_flask.errors import SettingsError

from .loading import load_settings

if TYPE_CHECKING:
    from .options import Settings

FLAG = "--settings-from-stdin"
"""The option of a process that reads them from there."""

_handed_on: list[Settings] = []


def hand_on(settings: Settings) -> None:
    """Let *settings* be those of this process and of all it forks from now on."""
    _handed_on[:] = [settings]


def current() -> Settings:
    """Return what was handed on, else load the settings. Raises SettingsError."""
    return _handed_on[0] if _handed_on else load_settings()


def packed(settings: Settings) -> bytes:
    """Return *settings*, secrets too, for the standard input of a process of ours."""
    return pickle.dumps(settings)


def received(stream: IO[bytes]) -> Settings:
    """Return the settings that the parent writes to *stream*. Raises SettingsError."""
    try:
        settings: Settings = pickle.load(stream)  # noqa: S301  from our parent, by a pipe of its own
    except (EOFError, pickle.UnpicklingError):
        raise SettingsError("the parent gave no settings") from None
    return settings

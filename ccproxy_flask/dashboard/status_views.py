"""The settings as the page for the server's state shows them: secrets hidden. Pure."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ccproxy_flask.settings import Settings

_HIDDEN = "***"
# A user and a password in an address.
_PASSWORD = re.compile(r"(?<=//)[^/@\s]+(?=@)")


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

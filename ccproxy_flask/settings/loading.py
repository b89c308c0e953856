"""Where settings come from.

Strongest first: the environment (``SECTION__NAME``; ``CCPROXY_HOST`` and the like for what has no
section), ``.env``, a TOML file (``$CONFIG_FILE``, else ``.ccproxy.toml`` or ``ccproxy.toml`` in the
working directory, else ``$XDG_CONFIG_HOME/ccproxy/config.toml``), the default. Names may be in
either case. An empty value in the environment or in ``.env`` counts as not set.
"""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values
from pydantic import ValidationError

from ccproxy_flask.errors import SettingsError

from .options import SECTIONS, TOP_LEVEL, Settings
from .problems import Source, one_line, printable, shown, unknown
from .rules import refuse_contradictions, shown_by_profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def load_settings(
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    *,
    profile: str = "library",
    **overrides: object,
) -> Settings:
    """Read all sources and return the settings; *overrides* (sections by name) win over all.

    *profile* counts where no source says which. Raises SettingsError with one line that names the
    setting, what is wrong, and where a name is unknown the nearest valid one. No secret is ever in
    that line.
    """
    environ = os.environ if environ is None else environ
    directory = Path.cwd() if directory is None else directory
    dotenv = _read_dotenv(directory / ".env")
    defaults: dict[str, Any] = {"profile": profile}
    if data_home := environ.get("XDG_DATA_HOME"):
        defaults["observability"] = {"duckdb_path": f"{data_home}/ccproxy/metrics.duckdb"}
    sources = [
        Source("", defaults),
        *_from_toml(_toml_path({**dotenv, **environ}, directory)),
        Source(".env", _from_names(dotenv)),
        Source("", _from_names(environ)),
        Source("", overrides),
    ]
    settings = _validated(sources)
    if by_profile := shown_by_profile(settings):
        settings = _validated([*sources, Source("", {"observability": by_profile})])
    refuse_contradictions(settings)
    return settings


def _validated(sources: list[Source]) -> Settings:
    merged: dict[str, Any] = {}
    for source in sources:
        _merge(merged, source.sections)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(one_line(error, sources)) from None


def _from_toml(path: Path | None) -> Iterator[Source]:
    if path is None:
        return
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(printable(f"{path} is not TOML: {error}")) from None
    yield Source(path.name, _lower_case(parsed))


def _lower_case(section: dict[str, Any]) -> dict[str, Any]:
    return {
        name.lower(): _lower_case(value) if isinstance(value, dict) else value
        for name, value in section.items()
    }


def _toml_path(environ: Mapping[str, str], directory: Path) -> Path | None:
    if named := environ.get("CONFIG_FILE"):
        path = directory / Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(printable(f"CONFIG_FILE: there is no file {path}"))
        return path
    home = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    candidates = (
        directory / ".ccproxy.toml",
        directory / "ccproxy.toml",
        home / "ccproxy" / "config.toml",
    )
    return next((path for path in candidates if path.is_file()), None)


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        # As written: a `$` in a password is a `$`.
        found = dotenv_values(path, interpolate=False)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8") from None
    return {name: value for name, value in found.items() if value}


def _from_names(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return ``SECTION__NAME=value`` pairs as nested sections."""
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if value and (path := _path_of(name)):
            _place(found, path, value)
    return found


def _path_of(name: str) -> tuple[str, ...]:
    """Return the sections and the setting *name* means, nothing where it is not one of ours."""
    parts = name.lower().split("__")
    if parts[0].startswith("ccproxy_"):
        path = (parts[0].removeprefix("ccproxy_"), *parts[1:])
        if path[0] not in TOP_LEVEL or len(path) > 1:
            raise SettingsError(unknown(name, f"CCPROXY_{'__'.join(path).upper()}"))
        return path
    if len(parts) == 1 or parts[0] in SECTIONS:
        return tuple(parts) if len(parts) > 1 else ()
    if get_close_matches(parts[0], SECTIONS, n=1, cutoff=0.8):
        raise SettingsError(unknown(name, name))
    return ()


def _place(sections: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    target = sections
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            name = shown(path[:-1])
            raise SettingsError(printable(f"{shown(path)}: {name} is a setting, not a section"))
    target[path[-1]] = value


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = dict(value) if isinstance(value, dict) else value

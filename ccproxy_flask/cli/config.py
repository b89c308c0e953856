"""``ccproxy-flask config``: the settings as they are now."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import click

from ccproxy_flask.settings import Settings, has_operator_pages

from .remote import CommandError, local_url, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_HIDDEN = "***"
# A user and a password in an address.
_PASSWORD = re.compile(r"(?<=//)[^/@\s]+(?=@)")


@click.group("config")
def config_commands() -> None:
    """Show and check the settings (docs/configuration.md)."""


@config_commands.command("show")
@click.option(
    "--format", "form", type=click.Choice(["toml", "json"]), default="toml", show_default=True
)
@click.option("--set", "only_set", is_flag=True, help="Only what differs from the default.")
def show_command(form: str, only_set: bool) -> None:
    """Show all settings, secrets hidden."""
    # What a profile turns on is not set by anybody.
    configured = settings("library" if only_set else "local")
    found = configured.model_dump(exclude_defaults=only_set)
    if only_set and "providers" in found:
        built_in = Settings().providers
        own = {
            n: it
            for n, it in found["providers"].items()
            if configured.providers[n] != built_in.get(n)
        }
        found = {**found, "providers": own}
    shown = _masked({name: it for name, it in found.items() if it != {}})
    if form == "json":
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo("\n".join(_toml(shown, ())).strip())


@config_commands.command("check")
def check_command() -> None:
    """Tell whether the proxy could start with these settings.

    Ends with 2 and one line where a setting is wrong, with 1 where a directory cannot be written.
    """
    configured = settings()
    for path in _written(configured):
        _refuse_unwritable(path)
    kept = configured.records_place if configured.recording else "not kept"
    pages = "on" if has_operator_pages(configured) else "off"
    click.echo("The settings are right.")
    click.echo(f"  address  {local_url(configured)}, {configured.workers} workers")
    click.echo(f"  records  {kept}")
    click.echo(f"  pages    {pages}")


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(it) for name, it in value.items()}
    if isinstance(value, tuple):
        return [_masked(it) for it in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _PASSWORD.sub(_HIDDEN, value)
    # A secret is no text of its own accord.
    return str(value) if isinstance(value, os.PathLike) else _HIDDEN


def _toml(section: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for name, value in section.items():
        if value is None:
            yield f"# {name} is not set"
        elif not isinstance(value, dict):
            # What JSON writes of texts, numbers and lists of texts is TOML too.
            yield f"{name} = {json.dumps(value)}"
    for name, value in section.items():
        if isinstance(value, dict):
            if any(not isinstance(it, dict) for it in value.values()):
                yield f"\n[{'.'.join((*path, name))}]"
            yield from _toml(value, (*path, name))


def _written(configured: Settings) -> Iterator[Path]:
    if configured.recording:
        yield configured.duckdb_path.parent
        yield configured.journal_directory
    if configured.tracing.file:
        yield configured.traces_directory


def _refuse_unwritable(path: Path) -> None:
    """Raise CommandError where *path* is no directory to write to, and cannot be made."""
    nearest = next(each for each in (path, *path.parents) if each.exists())
    if not nearest.is_dir():
        raise CommandError(f"{nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise CommandError(f"{nearest} cannot be written")

"""Writes the pages that are made from the code: ``python -m docs.generate``.

``docs/configuration.md`` is made of the types, defaults and docstrings in
``ccproxy_flask/settings/options.py``; a test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from ccproxy_flask.settings import Provider, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

PAGE = Path(__file__).with_name("configuration.md")
_INTRO = """\
# Settings

This page is made from `ccproxy_flask/settings/options.py` by `make docs`; change it there.

## Where settings come from

Strongest first:

1. the environment: `SECTION__NAME`, for example `PROXY__MAX_BODY_BYTES=1000000`; options without a section
   have the prefix `CCPROXY_`, for example `CCPROXY_HOST`;
2. `.env` in the working directory, with the same names; values are taken literally, a `$` is a `$`;
3. a TOML file, `[section]` and `name = value`: `$CONFIG_FILE` if it is set, else `.ccproxy.toml` or `ccproxy.toml` in the
   working directory, else `config.toml` in `$XDG_CONFIG_HOME/ccproxy` (`~/.config/ccproxy`);
4. the default.

Names may be in either case. An empty value in the environment or in `.env` counts as not set. If a name in one of our sections
is unknown or a value is wrong, the server does not start. One line says which setting is wrong, in which file, and suggests the
nearest name. The line never contains a secret.

The defaults are those of the library: nothing is recorded or shown. `ccproxy-flask serve` and `run` turn everything on that
you did not set, as long as only this machine can reach it (`CCPROXY_PROFILE`); so does the `ccproxy.toml` of this repository.

A server reads its settings once, at the start and at each reload (SIGHUP), for all of its processes.

These combinations are refused: the dashboard without the logs endpoints; logs endpoints or collection with the backend `none`;
half a lake (the backend `ducklake` without its catalogue or its data); and the operator's pages (`/logs`, `/dashboard`, `/metrics`) on an address that other machines can reach, unless
`SECURITY__AUTH_TOKEN` is set.
"""


def page() -> str:
    """Return the whole of configuration.md."""
    top = {name: field for name, field in Settings.model_fields.items() if not _is_section(field)}
    top.pop("providers")
    parts = [_INTRO, "## Server\n", *_table("CCPROXY_", "", top)]
    for name, field in Settings.model_fields.items():
        if _is_section(field):
            model = field.annotation
            parts += [f"## `[{name}]`\n", f"{_told(model)}\n"]
            parts += _tables(name, model)
    parts += ["## `[providers.<name>]`\n", f"{_told(Provider)} A new one needs settings only.\n"]
    parts += _table("PROVIDERS__<NAME>__", "providers.<name>.", Provider.model_fields)
    return "\n".join([*parts, *_built_in()]).rstrip() + "\n"


def _tables(name: str, model: type[BaseModel]) -> Iterator[str]:
    """Give the table of a section, and those of the sections in it."""
    below = {key: field for key, field in model.model_fields.items() if _is_section(field)}
    plain = {key: field for key, field in model.model_fields.items() if key not in below}
    yield from _table(f"{name.upper().replace('.', '__')}__", f"{name}.", plain)
    for key, field in below.items():
        yield f"### `[{name}.{key}]`\n"
        yield f"{_told(field.annotation)}\n"
        yield from _tables(f"{name}.{key}", field.annotation)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _told(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(prefix: str, path: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| environment | TOML | value | default | what it does |"
    yield "| --- | --- | --- | --- | --- |"
    for name, field in fields.items():
        cells = [
            f"`{prefix}{name.upper()}`",
            f"`{path}{name}`",
            _kind(field.annotation, field.metadata),
            _default(field),
            " ".join((field.description or "").split()),
        ]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _kind(annotation: object, metadata: list[object]) -> str:
    """Return what values an option takes, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [*metadata, *more])
    if origin is Literal:
        return " ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin is tuple:
        return "list of texts"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return _kind(next(one for one in get_args(annotation) if one is not type(None)), metadata)
    names = {
        bool: "`true` `false`", int: "whole number", float: "number", str: "text",
        Path: "path", SecretStr: "secret text",
    }  # fmt: skip
    return names[annotation] + _bounds(metadata)


def _bounds(metadata: list[object]) -> str:
    found = {}
    for each in _flat(metadata):
        for bound in ("gt", "ge", "le", "max_length"):
            if getattr(each, bound, None) is not None:
                found[bound] = getattr(each, bound)
    words = {"gt": "over", "ge": "from", "le": "to", "max_length": "of at most"}
    told = [f"{words[bound]} {value:,}" for bound, value in found.items() if value != 31_536_000]
    return f" {' '.join(told)}" if told else ""


def _flat(metadata: list[object]) -> Iterator[object]:
    for each in metadata:
        yield from getattr(each, "metadata", None) or [each]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "needed"
    if value is None or value == ():
        return "not set"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _built_in() -> Iterator[str]:
    yield "### Built in\n"
    yield "| provider | base URL | API |"
    yield "| --- | --- | --- |"
    for name, provider in Settings().providers.items():
        yield f"| `{name}` | <{provider.base_url}> | `{provider.api}` |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

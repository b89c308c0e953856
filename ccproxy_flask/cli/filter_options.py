"""The options of `logs` that are filters, made of :class:`~ccproxy_flask.filters.LogFilter`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

import click
from pydantic import ValidationError

from ccproxy_flask.filters import LogFilter, filter_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

    Command = Callable[..., None]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TIMES = "15m, 2h, 7d (so long ago), today, yesterday (in UTC), 2026-11-21, or 2026-11-21T02:00:00Z"


def options_of(name: str) -> tuple[str, ...]:
    """Return what the command line calls the parameter *name* of the API; none where it is none."""
    field = LogFilter.model_fields.get(name)
    if field is None:
        return ()
    return filter_of(field).options or (f"--{name.replace('_', '-')}",)


def with_options(text: str) -> str:
    """Return *text*, which names parameters of the API, with the options of those names."""
    return re.sub(r"`?(\w+)`?", lambda name: (options_of(name[1]) or name)[0], text)


def filtered(command: Command) -> Command:
    """Give *command* the filters as options, but for those by time."""
    return _with_options(command, by_time=False)


def filtered_by_time(command: Command) -> Command:
    """Give *command* all filters as options."""
    return _with_options(_with_options(command, by_time=False), by_time=True)


def _with_options(command: Command, *, by_time: bool) -> Command:
    for name, field in reversed(LogFilter.model_fields.items()):
        if _is_time(field) == by_time:
            command = _option(name, field)(command)
    return command


def _is_time(field: FieldInfo) -> bool:
    return filter_of(field).column == "timestamp"


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    is_flag = any("/" in each for each in options_of(name))
    text = f"{'From' if name == 'start_time' else 'Up to'} then: {_TIMES}"
    return click.option(
        *options_of(name),
        name,
        default=None,
        type=bool if is_flag else str,
        callback=None if is_flag else _checked,
        metavar=None if is_flag else ("WHEN" if _is_time(field) else _metavar(field)),
        help=(text if _is_time(field) else with_options(filter_of(field).text)) + ".",
    )


def _metavar(field: FieldInfo) -> str:
    kinds = {str(each) for part in get_args(field.annotation) for each in [part, *get_args(part)]}
    return "NUMBER" if kinds & {str(int), str(float)} else "TEXT"


def _checked(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Return *value* as the API takes it. Raises BadParameter with an example of what is."""
    if value is None or option.name is None:
        return None
    is_time = _is_time(LogFilter.model_fields[option.name])
    given = moment(value) if is_time else value
    try:
        LogFilter.model_validate({option.name: given})
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        wrong = f"not a time. Give {_TIMES}." if is_time else re.sub("^(Input|String) ", "", said)
        raise click.BadParameter(
            f"{value!r} is {wrong}" if is_time else f"{value!r} {wrong}"
        ) from None
    return given


def moment(text: str) -> str:
    """Return the time that *text* means, seen from now; what is not of such a form stays."""
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    found = named.get(text.strip().lower())
    if match := re.fullmatch(r"(\d{1,6})([smhdw])", text):
        try:
            found = now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            raise click.BadParameter(f"{text!r} is too long ago") from None
    return text if found is None else found.isoformat().replace("+00:00", "Z")

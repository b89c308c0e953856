"""``ccproxy-flask limits``: how full each window is, until when, and who filled it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from .remote import remote, url_option
from .show import printable, table, window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAMES = ("provider", "account", "window", "used", "status", "resets", "full at", "stated")
_LESS_NEEDED = ("account", "stated", "status")
_REASONS = {
    "full": "full now",
    "resets_first": "resets before",
    "no_use": "not at this pace",
    "too_little_known": "too little known",
    "refills": "refills all the time",
    "was_reset": "was reset",
    "not_stated": "-",
}
_WARN, _FULL = 0.75, 0.95
_TOP = 3
_BAR = 20


@click.command("limits")
@click.option("--provider", help="One provider.")
@click.option("--account", help="One account, by its hash.")
@click.option("--window", "name", help="One window: 5h, 7d, tokens…")
@click.option(
    "--hours", type=click.IntRange(1, 8784), default=168, show_default=True, help="Of history."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "jsonl"]), default="table",
    show_default=True,
)  # fmt: skip
@url_option
def limits_command(url: str | None, name: str | None, form: str, **asked: Any) -> None:
    """Show the rate limits that providers stated, and who used them."""
    query = {key: value for key, value in {**asked, "window": name}.items() if value is not None}
    found = remote(url).json("/logs/limits", query)["windows"]
    if form == "jsonl":
        for one in found:
            click.echo(json.dumps(one))
    elif form == "json":
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("No provider stated a limit in this time.", err=True)
    else:
        click.echo(table(_NAMES, [_cells(one) for one in found], window(), _LESS_NEEDED), nl=False)
        for one in found:
            for line in _shares(one):
                click.echo(line)


def _cells(one: Mapping[str, Any]) -> tuple[object, ...]:
    used = one["used"]
    full = _clock(one["full_at"]) if one["full_at"] else _REASONS.get(one["full_reason"] or "")
    return (
        one["provider"],
        one["account"],
        one["window"],
        None if used is None else f"{100 * used:.0f}%",
        one["status"],
        _clock(one["reset"]),
        full,
        _clock(one["stated_at"]),
    )


def _shares(one: Mapping[str, Any]) -> Iterator[str]:
    """Give a bar, and below it who filled the window, the largest shares first."""
    told = one["used_by"]
    if told is None or one["used"] is None:
        return
    color = "red" if one["used"] >= _FULL else "yellow" if one["used"] >= _WARN else "green"
    filled = round(_BAR * one["used"])
    bar = click.style("█" * filled, fg=color) + "░" * (_BAR - filled)
    yield ""
    yield f"{click.style(printable(one['window']), bold=True)} {bar} {100 * one['used']:.0f}%"
    for kind in ("session", "model"):
        for each in told["by"][kind][:_TOP]:
            if each["share"] is not None:
                name = printable(str(each["name"] or "none"))
                yield f"  {100 * each['share']:5.1f}%  {kind} {name}"
    if told["moved"] and told["unexplained"]:
        share = 100 * told["unexplained"] / told["moved"]
        yield click.style(f"  {share:5.1f}%  from elsewhere, on the same account", fg="yellow")


def _clock(stamp: str | None) -> str | None:
    """Return a time in the zone of this machine, with its day where that is another one."""
    if stamp is None:
        return None
    moment = datetime.fromisoformat(stamp).astimezone()
    is_today = moment.date() == datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M" if is_today else "%m-%d %H:%M")

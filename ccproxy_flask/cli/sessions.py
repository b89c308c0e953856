"""``ccproxy-flask sessions`` and ``session``: what clients did, from start to end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

import click

from ccproxy_flask.store.sessions import SessionOrder

from .caches import caches_text
from .filter_options import filtered_by_time
from .remote import remote, url_option
from .show import SESSION_LESS_NEEDED, SESSION_NAMES, session_cells, session_text, table, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .remote import Remote

_MOST_OF_A_PAGE = 500
_MOST_TURNS = 1000
_order_option = click.option(
    "--order",
    "order_by",
    type=click.Choice(get_args(SessionOrder)),
    default="last_request_at",
    show_default=True,
    help="The largest first.",
)
_format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "jsonl"]), default="table",
    show_default=True,
)  # fmt: skip


@click.command("sessions")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Most of them."
)
@_order_option
@_format_option
@filtered_by_time
@url_option
def sessions_command(url: str | None, limit: int, form: str, order_by: str, **where: Any) -> None:
    """Show sessions with their totals: of the last week, or from --since on."""
    asked = {name: value for name, value in where.items() if value is not None}
    found = _sessions(remote(url), asked | {"order_by": order_by}, limit)
    if form == "jsonl":
        for session in found:
            click.echo(json.dumps(session))
    elif form == "json":
        click.echo(json.dumps(list(found), indent=2))
    else:
        cells = [session_cells(session) for session in found]
        click.echo(table(SESSION_NAMES, cells, window(), SESSION_LESS_NEEDED), nl=False)


def _sessions(proxy: Remote, asked: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    cursor: dict[str, Any] = {}
    while limit > 0:
        query = {**asked, **cursor, "limit": min(limit, _MOST_OF_A_PAGE)}
        page = proxy.json("/logs/sessions", query)
        yield from page["sessions"]
        limit -= len(page["sessions"])
        if not page["has_more"]:
            return
        cursor = {"cursor": page["next_cursor"]}


@click.command("session")
@click.argument("session_id")
@click.option("--json", "as_json", is_flag=True, help="All that is known, as JSON.")
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST_TURNS),
    default=500,
    show_default=True,
    help="Most turns.",
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Turns to skip.")
@url_option
def session_command(
    url: str | None, session_id: str, as_json: bool, limit: int, offset: int
) -> None:
    """Show one session: the turns of each agent, with what they took and cost."""
    query = {"limit": limit, "offset": offset}
    found = remote(url).json(f"/logs/sessions/{quote(session_id)}", query)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(session_text(found, window()) + caches_text(found, window()), nl=False)
    missing = found["total_count"] - offset - limit
    if missing > 0:
        click.echo(f"{missing:,} more requests; see --limit and --offset", err=True)

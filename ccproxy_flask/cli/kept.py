"""``ccproxy-flask verify`` and ``replay``: content read from its files on this machine."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from datetime import UTC, datetime

import click

from ccproxy_flask.content import view
from ccproxy_flask.content.replay import ReplayServer, Script
from ccproxy_flask.content.store import ContentStore

from .filter_options import moment
from .remote import CommandError, remote, settings
from .show import printable

_OUTCOMES = ("ok", "scrubbed", "damaged")


def _store() -> ContentStore:
    configured = settings()
    if not configured.content_directory.is_dir():
        raise CommandError(f"nothing is kept in {configured.content_directory}")
    options = configured.capture
    return ContentStore(configured.content_directory, options.max_bytes, options.retention_days)


@click.command("verify")
@click.option("--since", metavar="WHEN", help="From then: 15m, 2h, 7d (so long ago), today, …")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify_command(since: str | None, as_json: bool) -> None:
    """Make every kept body again, and compare it with its SHA-256.

    Ends with 1 where one is damaged. Of a `scrubbed` body a secret was taken out: its other parts
    are read, but it cannot be compared.
    """
    begin = _micros(since)
    store, counts, damaged = _store(), Counter[str](), list[str]()
    for request_id in store.request_ids():
        outcome = _outcome(store, request_id, begin)
        counts.update(outcome)
        if "damaged" in outcome:
            damaged.append(request_id)
    unreadable, lost = store.unreadable(), _not_kept(begin)
    found = {
        "bodies": {name: counts[name] for name in _OUTCOMES},
        "not_kept": lost,
        "damaged": damaged,
        "unreadable_files": unreadable,
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _tell(counts, damaged, unreadable, lost)
    sys.exit(1 if damaged or unreadable else 0)


def _tell(
    counts: Counter[str], damaged: list[str], unreadable: list[str], lost: int | None
) -> None:
    told = [f"{counts[name]:,} {name}" for name in _OUTCOMES]
    click.echo(f"bodies: {', '.join(told)}")
    click.echo(f"requests whose content could not be kept: {'unknown' if lost is None else lost}")
    for each in damaged:
        click.echo(click.style(f"damaged: {each}", fg="red"))
    for each in unreadable:
        click.echo(click.style(f"cannot be read: {printable(each)}", fg="red"))


def _outcome(store: ContentStore, request_id: str, begin: int) -> list[str]:
    try:
        exchange = store.exchange(request_id)
    except sqlite3.Error:
        return ["damaged"]
    if exchange is None or exchange.at < begin:  # it is gone since
        return []
    return list(view.verified(exchange).values())


def _not_kept(begin: int) -> int | None:
    """Ask a running proxy for how many requests since *begin* that is so; None without one."""
    asked = {"content": "dropped", "limit": 1}
    if begin:
        start = datetime.fromtimestamp(begin / 1e6, UTC)
        asked["start_time"] = start.isoformat().replace("+00:00", "Z")
    try:
        return int(remote(None).json("/logs/entries", asked, seconds=30)["total_count"])
    except CommandError:
        return None


def _micros(since: str | None) -> int:
    if since is None:
        return 0
    try:
        found = datetime.fromisoformat(moment(since))
    except ValueError:
        raise click.BadParameter(f"{since!r} is not a time", param_hint="--since") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e6)


@click.command("replay")
@click.argument("name", metavar="SESSION|REQUEST_ID")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="[default: a free one]")
@click.option("--no-gaps", is_flag=True, help="As fast as the client reads.")
def replay_command(name: str, port: int, no_gaps: bool) -> None:
    """Serve what was kept of a session as an upstream: the same bytes, the same gaps.

    A client that is run against the address that is printed gets the answers of then, for free. A
    request is answered by what was kept of one with the same method, path and body, or else by the
    next one of the session with the same method and path.
    """
    script = _script(_store(), name)
    try:
        server = ReplayServer(script, port, gaps=not no_gaps, on_request=_tell_of_request)
    except OSError as error:
        raise CommandError(f"port {port} cannot be had: {error.strerror}") from None
    click.echo(f"http://127.0.0.1:{server.port}")
    click.echo(f"{len(script)} exchanges of {printable(name)}; end with Ctrl-C", err=True)
    try:
        server.run()
    except KeyboardInterrupt:
        sys.exit(130)


def _script(store: ContentStore, name: str) -> Script:
    ids = [name] if store.has(name) else store.session(name)
    try:
        found = Script(filter(None, map(store.exchange, ids)), store.exchange)
    except sqlite3.Error as error:
        raise CommandError(f"what was kept of {name} cannot be read: {error}") from None
    if not len(found):
        raise CommandError(f"nothing is kept of {name}: neither a session nor a request id")
    return found


def _tell_of_request(method: str, path: str, request_id: str | None) -> None:
    click.echo(printable(f"{method} {path}: {request_id or 'nothing was kept'}"), err=True)

"""``ccproxy-flask logs``: the records of a running proxy (docs/logs-api.md)."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from .filter_options import filtered, filtered_by_time
from .remote import Away, CommandError, Refused, Remote, remote, url_option
from .show import LESS_NEEDED, ROW_NAMES, event_line, row_cells, stats_text, table, window
from .sse import EventReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .sse import Event

    Command = Callable[..., None]

MOST_OF_A_PAGE = 10_000
# Three heartbeats of the stream.
_SILENCE_SECONDS = 45.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_INTERRUPTED = 130


def _format(*names: str) -> Callable[[Command], Command]:
    choice = click.Choice(names)
    return click.option("--format", "form", type=choice, default=names[0], show_default=True)


def _given(where: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given, as the API takes them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in where.items()
        if value is not None
    }


@click.group("logs")
def logs_commands() -> None:
    """Ask a running proxy for its records.

    The address and, where one is needed, SECURITY__AUTH_TOKEN are those of the settings.
    """


@logs_commands.command()
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most rows.")
@_format("table", "json", "jsonl")
@filtered_by_time
@url_option
def query(url: str | None, limit: int, form: str, **where: Any) -> None:
    """Show records, newest first."""
    found = rows(remote(url), _given(where), limit)
    if form == "jsonl":
        for row in found:
            click.echo(json.dumps(row))
    elif form == "json":
        click.echo(json.dumps(list(found), indent=2))
    else:
        width = window()
        cells = [row_cells(row, short=width is not None) for row in found]
        click.echo(table(ROW_NAMES, cells, width, LESS_NEEDED), nl=False)


def rows(proxy: Remote, where: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """Give the newest *limit* records that *where* keeps, page by page."""
    cursor: dict[str, Any] = {}
    while limit > 0:
        page = proxy.json("/logs/query", {**where, **cursor, "limit": min(limit, MOST_OF_A_PAGE)})
        yield from page["results"]
        limit -= page["count"]
        if not page["has_more"]:
            return
        cursor = {"cursor": page["next_cursor"]}


@logs_commands.command()
@click.option("--hours", type=click.IntRange(1, 168), help="The last hours. [default: 24]")
@_format("table", "json")
@filtered_by_time
@url_option
def stats(url: str | None, form: str, **where: Any) -> None:
    """Show the figures of a time: requests, errors, tokens, cost, latency."""
    found = remote(url).json("/logs/analytics", _given(where))
    if form == "json":
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(stats_text(found), nl=False)


@logs_commands.command()
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), default="csv",
    show_default=True,
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: stdout]"
)
@filtered_by_time
@url_option
def export(url: str | None, form: str, output: Path | None, **where: Any) -> None:
    """Write all records to a file or to standard output.

    A file is whole, or it is not there: it gets its name when the last byte is written.
    """
    if output is None and form == "parquet" and sys.stdout.isatty():
        raise CommandError("parquet is not for a terminal: give --output", 2)
    query = {**_given(where), "format": form}
    with remote(url).open("/logs/export", query, seconds=300) as answer:
        if output is None:
            _copy(answer.pieces(), sys.stdout.buffer)
            return
        with _whole_file(output) as file:
            size = _copy(answer.pieces(), file)
    click.echo(f"{output}: {size:,} bytes", err=True)


def _copy(pieces: Iterator[bytes], file: BinaryIO) -> int:
    size = 0
    for piece in pieces:
        file.write(piece)
        size += len(piece)
    file.flush()
    return size


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            partial.chmod(0o600)  # as all that is kept
            yield file
        partial.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


@logs_commands.command()
@click.option("--starts", is_flag=True, help="Show requests when they start, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--count", type=click.IntRange(1), help="End after this number of lines.")
@filtered
@url_option
def tail(url: str | None, starts: bool, as_json: bool, count: int | None, **where: Any) -> None:
    """Follow the requests of all workers as they end, until Ctrl-C.

    A connection that is lost is made again, and what was missed meanwhile is shown.
    """
    try:
        for shown, event in enumerate(_events(remote(url), _given(where), starts), 1):
            click.echo(event.data if as_json else event_line(json.loads(event.data)))
            if shown == count:
                return
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _events(proxy: Remote, where: dict[str, Any], starts: bool) -> Iterator[Event]:
    """Give the events of requests; say on standard error what else happens."""
    wanted = {"request_complete", "request_error"} | ({"request_start"} if starts else set())
    reader, pause, was_there = EventReader(), _FIRST_PAUSE, False
    while True:
        try:
            for event in _stream(proxy, where, reader):
                if not was_there:
                    click.echo(f"following {proxy.url}", err=True)
                pause, was_there = _FIRST_PAUSE, True
                if event.name in wanted:
                    yield event
                elif event.name == "overflow":
                    missed = json.loads(event.data)["data"]["missed"]
                    click.echo(f"missed: {'some' if missed is None else missed} events", err=True)
            reason = "the proxy ended the stream"
        except (Away, Refused) as error:
            if not was_there or (isinstance(error, Refused) and error.status < 500):
                raise
            reason = error.message
        if pause == _FIRST_PAUSE:
            click.echo(f"{reason}; trying again", err=True)
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)


def _stream(proxy: Remote, where: dict[str, Any], reader: EventReader) -> Iterator[Event]:
    reader.forget_half()
    headers = {"Accept": "text/event-stream"}
    if reader.last_id:
        headers["Last-Event-ID"] = reader.last_id
    with proxy.open("/logs/stream", where, headers=headers, seconds=_SILENCE_SECONDS) as answer:
        for piece in answer.pieces():
            yield from reader.feed(piece)


@logs_commands.command()
@click.argument("text", metavar="SELECT")
@click.option("--limit", type=click.IntRange(1), help="Most rows. [default: 1000]")
@_format("table", "json", "csv")
@url_option
def sql(url: str | None, text: str, limit: int | None, form: str) -> None:
    """Ask the database with one SELECT; `-` reads it from standard input."""
    if text == "-":
        text = sys.stdin.read()
    asked = _given({"sql": text, "limit": limit})
    found = remote(url).json("/logs/sql", body=json.dumps(asked).encode())
    names, answers = found["columns"], found["rows"]
    if form == "table":
        click.echo(table(names, answers, window()), nl=False)
    elif form == "json":
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in answers], indent=2))
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([names, *answers])
    if found["truncated"]:
        click.echo(f"there are more than these {len(answers):,} rows; see --limit", err=True)

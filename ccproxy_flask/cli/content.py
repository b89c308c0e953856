"""``ccproxy-flask show``, ``diff``, ``search``: what was said, asked of a running proxy."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from .caches import verdict_lines
from .remote import CommandError, Remote, remote, url_option
from .show import printable, table, window

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINES = 12
_INDENT = "  "
_COLORS = {"changed": "yellow", "added": "green", "appended": "green", "removed": "red"}
_LAST = "last"

request_argument = click.argument("request_id", default=_LAST)


def _id(proxy: Remote, request_id: str) -> str:
    if request_id != _LAST:
        return request_id
    found = proxy.json("/logs/query", {"limit": 100})["results"]
    kept = [row["request_id"] for row in found if row.get("content") == "kept"]
    if not kept:
        raise CommandError("no content is kept of the last requests")
    return str(kept[0])


@click.command("show")
@request_argument
@click.option(
    "--raw", type=click.Choice(["request", "response", "events"]), help="One of them as it was."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--full", is_flag=True, help="Long texts as a whole.")
@url_option
def show_command(
    request_id: str, raw: str | None, as_json: bool, full: bool, url: str | None
) -> None:
    """Show what was said in the request REQUEST_ID, or in the `last` one."""
    proxy = remote(url)
    entry = f"/logs/entries/{_id(proxy, request_id)}"
    path = f"{entry}/content"
    if raw is not None:
        _raw(proxy, path, raw)
        return
    found = proxy.json(path) | {"cache_verdict": _verdict(proxy, entry)}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in content_lines(found, None if full else _LINES):
        click.echo(line)


def _verdict(proxy: Remote, entry: str) -> Any:
    """Return why the cache missed; None where that is not known, as the row is not stored yet."""
    try:
        return proxy.json(f"{entry}/cache")["cache_verdict"]
    except CommandError:
        return None


def _raw(proxy: Remote, path: str, raw: str) -> None:
    with proxy.open(path, {"raw": raw}) as answer:
        if sys.stdout.isatty():  # nothing that was said may steer the terminal
            text = answer.read().decode("utf-8", "replace")
            click.echo("\n".join(printable(line) for line in text.split("\n")))
            return
        for piece in answer.pieces():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def content_lines(found: dict[str, Any], most: int | None = None) -> Iterator[str]:
    """Give the lines that show an exchange (docs/logs-api.md), *most* of each text."""
    yield _bold(printable(f"{found['method']} {found['target']}"))
    yield printable(
        f"{found['request_id']}  {_clock(found['at'])}  {found['status']}  {found['api']}"
    )
    for body in ("request", "response"):
        facts, told = found[body], found["verified"][body]
        secrets = f", without {', '.join(facts['secrets'])}" if facts.get("secrets") else ""
        yield f"{body}: {facts['bytes']:,} bytes, {told}{secrets}"
    yield from verdict_lines(found.get("cache_verdict"))
    if found.get("prompt"):
        yield from _prompt_lines(found["prompt"], found["request_id"])
    if found["tools"]:
        yield from _titled("tools")
        names = (("tool", "bytes"), [(tool["name"], tool["bytes"]) for tool in found["tools"]])
        yield from table(*names, window()).splitlines()
    if found["system"]:
        yield from _titled("system")
        yield from _blocks(found["system"], most)
    for message in found["messages"]:
        yield from _titled(str(message["role"]))
        yield from _blocks(message["blocks"], most)
    answer = found.get("answer")
    if answer is not None:
        yield from _titled(f"answer ({answer.get('model') or '-'}, {answer.get('stop') or '-'})")
        yield from _blocks(answer["blocks"], most)
    if found.get("error") is not None:
        yield from _titled("error")
        yield from _text(json.dumps(found["error"], indent=2), most)


def _prompt_lines(prompt: dict[str, Any], request_id: str) -> Iterator[str]:
    """Give what is to be said of where a prompt comes from."""
    if prompt["previous"]:
        yield printable(f"goes on from {prompt['previous']}: {prompt['shared']:,} messages")
    earlier = [each for each in prompt["sources"] if each["request_id"] != request_id]
    if earlier:
        turns = len({each["request_id"] for each in earlier})
        count = sum(each["messages"] for each in earlier)
        yield f"{count:,} messages were sent by {turns:,} earlier turns"
    for name, value in (prompt["missing"] or {}).items():
        text = f"what came before is not kept: {name.replace('_', ' ')} {value}"
        yield click.style(printable(text), fg="yellow")


def _blocks(blocks: list[dict[str, Any]], most: int | None) -> Iterator[str]:
    for block in blocks:
        kind = block["type"]
        if kind == "tool_use":
            given = json.dumps(block.get("input"), ensure_ascii=False)
            yield from _text(f"→ {block.get('name')} {given}", most, "cyan")
        elif kind == "tool_result":
            mark = "← error: " if block.get("is_error") else "← "
            color = "red" if block.get("is_error") else "blue"
            yield from _text(mark + str(block.get("text") or ""), most, color)
        elif block.get("text") is not None:
            yield from _text(block["text"], most, "bright_black" if kind == "thinking" else None)
        else:
            size = block.get("bytes")
            about = f"{block.get('media_type') or block.get('name') or ''}"
            yield from _text(f"[{kind} {about}{f', {size:,} bytes' if size else ''}]", most)


def _text(text: str, most: int | None, color: str | None = None) -> Iterator[str]:
    lines = text.split("\n")
    for line in lines[:most]:
        yield _INDENT + click.style(printable(line), fg=color)
    if most is not None and len(lines) > most:
        yield f"{_INDENT}… {len(lines) - most:,} more lines; see --full"


def _titled(title: str) -> Iterator[str]:
    yield ""
    yield _bold(printable(title))


def _bold(text: str) -> str:
    return click.style(text, bold=True)


def _clock(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@click.command("diff")
@request_argument
@click.option("--with", "other", default="previous", help="A request id. [default: the one before]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@url_option
def diff_command(request_id: str, other: str, as_json: bool, url: str | None) -> None:
    """Show what changed from another request to REQUEST_ID, in the order in which caches read."""
    proxy = remote(url)
    found = proxy.json(f"/logs/entries/{_id(proxy, request_id)}/diff", {"with": other})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in diff_lines(found):
        click.echo(line)


def diff_lines(found: dict[str, Any]) -> Iterator[str]:
    """Give the lines that show a difference (docs/logs-api.md)."""
    yield printable(f"from {found['before']} to {found['after']}")
    first = found["first"]
    if first is None:
        yield click.style("the common prefix is whole: nothing but additions", fg="green")
    else:
        yield click.style(f"the common prefix ends at {_place(first)}", fg="yellow")
    for part in found["parts"]:
        yield ""
        yield click.style(f"{part['change']} {_place(part)}", fg=_COLORS.get(part["change"]))
        for mark, name, color in (("-", "before", "red"), ("+", "after", "green")):
            if part.get(name) is not None:
                yield click.style(printable(f"{mark} {part[name]}"), fg=color)
    for name, (old, new) in found["settings"].items():
        yield ""
        yield printable(f"{name}: {json.dumps(old)} → {json.dumps(new)}")


def _place(part: dict[str, Any]) -> str:
    name = f" ({part['name']})" if part.get("name") else ""
    return printable(f"{part['section']}[{part['index']}]{name}")


@click.command("search")
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "jsonl"]), default="table",
    show_default=True,
)  # fmt: skip
@url_option
def search_command(words: tuple[str, ...], limit: int, form: str, url: str | None) -> None:
    """Find where all of WORDS were said, newest first."""
    found = remote(url).json("/logs/search", {"q": " ".join(words), "limit": limit})["results"]
    if form == "json":
        click.echo(json.dumps(found, indent=2))
    elif form == "jsonl":
        for hit in found:
            click.echo(json.dumps(hit))
    else:
        rows = [(_clock(hit["at"]), hit["part"], hit["text"], hit["request_id"]) for hit in found]
        click.echo(
            table(("time", "part", "text", "request"), rows, window(), ("part", "time")), nl=False
        )

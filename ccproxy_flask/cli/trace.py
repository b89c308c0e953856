"""``ccproxy-flask trace``: exchanges that the file tracer kept (docs/request_context.md)."""

from __future__ import annotations

from typing import Any

import click

from ccproxy_flask.capture import show as tracers
from ccproxy_flask.capture.files import read_trace

from .remote import CommandError, settings


@click.group("trace")
def trace_commands() -> None:
    """Show exchanges that were kept as files (TRACING__FILE)."""


@trace_commands.command("show")
@click.argument("request_id")
def show_command(request_id: str) -> None:
    """Show the exchange of REQUEST_ID: heads, bodies, events with their times."""
    click.echo(tracers.show(_kept(request_id)), nl=False)


@trace_commands.command("curl")
@click.argument("request_id")
def curl_command(request_id: str) -> None:
    """Print a curl command that sends the request of REQUEST_ID again."""
    click.echo(tracers.curl(_kept(request_id)), nl=False)


def _kept(request_id: str) -> dict[str, Any]:
    configured = settings()
    try:
        return read_trace(configured.traces_directory, request_id)
    except FileNotFoundError as error:
        hint = "" if configured.tracing.file else "; TRACING__FILE is off"
        raise CommandError(f"{error.strerror or error}{hint}") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"the trace of {request_id} cannot be read: {error}") from None

"""``ccproxy-flask serve``: the server, with our settings of gunicorn."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .remote import settings

if TYPE_CHECKING:
    from ccproxy_flask.settings import Settings

_SERVER = (
    *("-m", "gunicorn", "-k", "gevent"),
    *("-c", "python:ccproxy_flask.gunicorn_config"),
)
_APPLICATION = "ccproxy_flask.app:create_app()"


def server_command() -> list[str]:
    """Return the command that serves."""
    return [sys.executable, *_SERVER, _APPLICATION]


def server_environment(configured: Settings, **options: object) -> dict[str, str]:
    """Return the environment in which that command serves as *configured*.

    Only *options*, which somebody gave, stand in it: the others may change at a reload.
    """
    given = {f"CCPROXY_{name.upper()}": str(value) for name, value in options.items()}
    return {**os.environ, "CCPROXY_PROFILE": configured.profile, **given}


@click.command("serve")
@click.option("--host", help="The address to listen on. [default: the settings]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on.")
@click.option("--workers", type=click.IntRange(1, 256), help="How many processes pass requests on.")
def serve_command(host: str | None, port: int | None, workers: int | None) -> None:
    """Start the proxy and print where it is.

    It runs in the foreground until SIGTERM or Ctrl-C; requests in flight may end.
    """
    options: dict[str, Any] = {"host": host, "port": port, "workers": workers}
    given = {name: value for name, value in options.items() if value is not None}
    environ = server_environment(settings(**given), **given)  # one line where something is wrong
    sys.stdout.flush()
    # The server takes the place of this process: signals, and whoever watches it, reach it.
    os.execve(sys.executable, server_command(), environ)  # noqa: S606  our own command

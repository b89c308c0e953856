"""``ccproxy-flask serve``: the server, with our settings of gunicorn."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ccproxy_flask.errors import SettingsError
from ccproxy_flask.settings import Settings, load_settings

from .remote import CommandError

_SERVER = (
    *("-m", "gunicorn", "-k", "gevent"),
    *("-c", "python:ccproxy_flask.gunicorn_config"),
)
_APPLICATION = "ccproxy_flask.app:create_app()"


def server_command(host: str | None, port: int | None, workers: int | None) -> list[str]:
    """Return the command that serves; what is None is as the settings say."""
    command = [sys.executable, *_SERVER]
    if host is not None or port is not None:
        configured = settings_with(host, port, workers)
        bare = configured.host.strip("[]")
        address = f"[{bare}]" if ":" in bare else bare
        command += ["-b", f"{address}:{configured.port}"]
    if workers is not None:
        command += ["-w", str(workers)]
    return [*command, _APPLICATION]


def settings_with(host: str | None, port: int | None, workers: int | None) -> Settings:
    """Return the settings with these instead of theirs; raises CommandError."""
    given: dict[str, Any] = {"host": host, "port": port, "workers": workers}
    try:
        return load_settings(**{name: it for name, it in given.items() if it is not None})
    except SettingsError as error:
        raise CommandError(str(error), 2) from None


@click.command("serve")
@click.option("--host", help="The address to listen on. [default: the settings]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on.")
@click.option("--workers", type=click.IntRange(1, 256), help="How many processes pass requests on.")
def serve_command(host: str | None, port: int | None, workers: int | None) -> None:
    """Start the proxy and print where it is.

    It runs in the foreground until SIGTERM or Ctrl-C; requests in flight may end.
    """
    settings_with(host, port, workers)  # one clear line where something is wrong
    sys.stdout.flush()
    # The server takes the place of this process: signals, and whoever watches it, reach it.
    os.execv(sys.executable, server_command(host, port, workers))  # noqa: S606  our own command

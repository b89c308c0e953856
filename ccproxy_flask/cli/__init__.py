"""The command line, ``ccproxy-flask``: see docs/cli.md.

Each command is a module; all of them end with 0 where everything went well, 1 where something did
not work, 2 where the command or a setting is wrong, and `run` with the exit code of its client.
"""

from __future__ import annotations

import click

from ccproxy_flask import __version__

from .config import config_commands
from .content import diff_command, search_command, show_command
from .kept import replay_command, verify_command
from .lake import lake_commands
from .limits import limits_command
from .logs import logs_commands
from .run import run_command
from .serve import serve_command
from .sessions import session_command, sessions_command
from .trace import trace_commands

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="ccproxy-flask")
def main() -> None:
    """A transparent proxy that records what your LLM traffic is.

    Settings come from the environment, .env and TOML files; `config show` shows them.
    """


_COMMANDS = (
    serve_command,
    run_command,
    logs_commands,
    show_command,
    diff_command,
    search_command,
    verify_command,
    replay_command,
    sessions_command,
    session_command,
    limits_command,
    trace_commands,
    config_commands,
    lake_commands,
)
for _command in _COMMANDS:
    main.add_command(_command)

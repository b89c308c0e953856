"""``ccproxy-flask run -- <client>``: a client through the proxy, and what it cost."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from ccproxy_flask.settings import is_loopback

from .autostart import running_proxy
from .clients import Client
from .remote import CommandError, Refused, Remote, remote, settings, url_option
from .show import printable, summary_lines

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_PASSED_ON = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_STORED_SECONDS = 5.0
_SETTLED_SECONDS = 0.5
# A client that gave up may have left answers behind, whose records end when that is noticed.
_HANGUP_SECONDS = 1.5
_LOOK_SECONDS = 0.1


@click.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@url_option
@click.option("--plain", is_flag=True, help="Set the base URLs alone.")
@click.option("--explain", is_flag=True, help="Show what would be set, and why; start nothing.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(url: str | None, plain: bool, explain: bool, command: tuple[str, ...]) -> None:
    """Run a client through the proxy, and tell what it cost.

    COMMAND is started with ANTHROPIC_BASE_URL, OPENAI_BASE_URL and GOOGLE_GEMINI_BASE_URL set to
    the proxy. Claude Code also gets what keeps it from switching features off behind a base URL
    that is not Anthropic's. Signals are passed on to it, and its exit code is that of this command.
    Where no proxy runs at the address of the settings, one is started, and stopped again at the
    end.
    """
    _leave_tidily()
    proxy = remote(url)
    client = Client(command, os.environ, proxy.url, plain=plain)
    if explain:
        click.echo(client.explained(), nl=False)
        return
    if url is None:
        with running_proxy(settings(), proxy):
            code = _run_and_tell(proxy, client)
    elif proxy.is_up():
        code = _run_and_tell(proxy, client)
    else:
        raise CommandError(f"nothing answers at {url}")
    sys.exit(code)


def _leave_tidily() -> None:
    """Let a signal that comes while no client runs end us the way an error does."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, leave)


def _run_and_tell(proxy: Remote, client: Client) -> int:
    try:
        since = _clock(proxy)
    except CommandError as error:
        since = None
        click.echo(f"ccproxy: what it costs will not be known: {error.message}", err=True)
    code = _run(client.argv(), client.environment())
    if since is not None:
        try:
            for line in _figures(proxy, since, _HANGUP_SECONDS if code else _SETTLED_SECONDS):
                click.echo(f"ccproxy: {line}", err=True)
        except CommandError as error:
            click.echo(f"ccproxy: what it cost is not known: {error.message}", err=True)
    return code


def _run(command: list[str], environ: dict[str, str]) -> int:
    """Run *command* in our terminal, and return its exit code, as a shell tells it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    try:
        pid = os.posix_spawnp(
            command[0],
            command,
            environ,
            setsigmask=before,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
        )
        code = _wait(pid)
    except FileNotFoundError:
        click.echo(f"ccproxy-flask: {printable(command[0])}: not found", err=True)
        return _NOT_FOUND
    except OSError as error:
        problem = f"{printable(command[0])}: {error.strerror}"
        click.echo(f"ccproxy-flask: {problem}", err=True)
        return _NOT_EXECUTABLE
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 128 - code if code < 0 else code


def _wait(pid: int) -> int:
    """Pass signals on to *pid* until it ends."""
    while True:
        received = signal.sigwaitinfo(_PASSED_ON | {signal.SIGCHLD})
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        elif received.si_code <= 0:
            # Sent by a process to us alone. What the terminal sends, the client has got as well.
            os.kill(pid, received.si_signo)


def _clock(proxy: Remote) -> float:
    """Return the time by the clock of the machine that makes the records."""
    if is_loopback(urlsplit(proxy.url).hostname or ""):
        proxy.json("/logs/status")  # may we ask for figures at all?
        return time.time()
    return float(proxy.json("/logs/query", {"limit": 1})["timestamp"])


def _figures(proxy: Remote, since: float, patience: float) -> list[str]:
    """Return what the records since then sum up to, once all of them are stored."""
    summary = _settled(proxy, since, patience)
    return summary_lines(summary) if summary["total_requests"] else ["no request came through"]


def _settled(proxy: Remote, since: float, patience: float) -> dict[str, Any]:
    """Return the figures when nothing waits in the journal, and they no longer change.

    Not before *patience* seconds.
    """
    began = time.monotonic()
    settled_at, last = began + patience, None
    while True:
        is_late = time.monotonic() - began > _STORED_SECONDS
        try:
            status = proxy.json("/logs/status")
            until = _clock(proxy) + 1  # both given: a long run is not cut to the last day
            found = proxy.json("/logs/analytics", {"start_time": since, "end_time": until})
        except Refused as error:
            if is_late or not error.is_passing:
                raise
            time.sleep(_LOOK_SECONDS)
            continue
        summary: dict[str, Any] = found["summary"]
        if summary != last or status["backlog_bytes"] or status["backlog_lines"]:
            last, settled_at = summary, max(settled_at, time.monotonic() + _SETTLED_SECONDS / 2)
        if is_late or time.monotonic() >= settled_at:
            return summary
        time.sleep(_LOOK_SECONDS)

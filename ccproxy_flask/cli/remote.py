"""A running proxy, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import click

from ccproxy_flask.banner import reachable
from ccproxy_flask.errors import SettingsError
from ccproxy_flask.settings import Settings, load_settings

from .filter_options import with_options
from .show import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_SECONDS = 30.0
# Where packets are thrown away, nothing is heard: who starts a proxy there has more to look at.
_LOOK_SECONDS = 5.0
_SOON = 10
_PIECE = 65_536


class CommandError(click.ClickException):
    """The command cannot do what it was told; *exit_code* as in the package's description."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click's documented way

    def show(self, file: Any = None) -> None:
        """Write the one line that says why."""
        click.echo(f"ccproxy-flask: {self.message}", err=True, file=file)


class Away(CommandError):
    """Nothing answers, or what answered broke off."""


class NotOurs(CommandError):
    """Something answers that is not the proxy."""


class Refused(CommandError):
    """The proxy said no, with this HTTP *status*; *is_passing* where it may soon say yes."""

    def __init__(self, status: int, message: str, retry_after: str = "") -> None:
        super().__init__(message, 2 if status in (400, 422) else 1)
        self.status = status
        self.is_passing = status == 503 and retry_after.isdecimal() and int(retry_after) <= _SOON


class Answer:
    """An answer that is read as it comes. All failures to read are :class:`Away`."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self._missing = response.length

    def header(self, name: str) -> str:
        """Return the value of a header, empty where there is none."""
        return self._response.getheader(name) or ""

    def read(self) -> bytes:
        """Return all of the body."""
        with _broken_off():
            return self._response.read()

    def pieces(self) -> Iterator[bytes]:
        """Give the body as it comes in. Raises Away where its end is missing."""
        while True:
            with _broken_off():
                piece = self._response.read1(_PIECE)
            if not piece:
                break
            if self._missing is not None:
                self._missing -= len(piece)
            yield piece
        if self._missing:
            raise Away("the proxy broke off its answer")


@contextlib.contextmanager
def _broken_off() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Away(f"the proxy broke off its answer: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Remote:
    """The proxy at *url*, with the operator's *token* where it needs one."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token

    @contextlib.contextmanager
    def open(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = _SECONDS,
    ) -> Iterator[Answer]:
        """Ask for *path*, with POST where there is a *body*. *seconds* bound each wait.

        Raises Away where nothing answers, Refused where the status is 400 or more.
        """
        connection = self._connection(seconds)
        target = urlsplit(self.url).path + path + (f"?{urlencode(query)}" if query else "")
        sent = {"Accept": "*/*", **self._authorization(), **(headers or {})}
        try:
            try:
                connection.request("GET" if body is None else "POST", target, body, sent)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise Away(f"nothing answers at {self.url}: {_reason(error)}") from None
            answer = Answer(response)
            if response.status >= 400:
                raise _refusal(answer, response.status)
            yield answer
        finally:
            connection.close()

    def json(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        seconds: float = _SECONDS,
    ) -> Any:
        """Return the JSON at *path*; raises NotOurs where it is none."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        with self.open(path, query, body=body, headers=headers, seconds=seconds) as answer:
            try:
                return json.loads(answer.read())
            except ValueError:
                raise NotOurs(f"what answers at {self.url} is not the proxy") from None

    def is_up(self) -> bool:
        """Tell whether the proxy answers. Raises NotOurs where something else does."""
        try:
            found = self.json("/health", seconds=_LOOK_SECONDS)
        except Away:
            return False
        except Refused:
            found = None
        if not isinstance(found, dict) or "version" not in found:
            raise NotOurs(f"what answers at {self.url} is not the proxy")
        return True

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return kind(parts.hostname or "", parts.port, timeout=seconds)

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}


def _refusal(answer: Answer, status: int) -> Refused:
    """Return what the proxy says in its error, which is of one of two shapes (docs/logs-api.md)."""
    wait = answer.header("Retry-After")
    try:
        found = json.loads(answer.read())
        if "detail" in found:
            return Refused(status, "; ".join(_problem(each) for each in found["detail"]))
        return Refused(status, str(found["error"]["message"]), wait)
    except (ValueError, KeyError, TypeError, IndexError):
        return Refused(status, f"the proxy answers {status}", wait)


def _problem(found: dict[str, Any]) -> str:
    """Return what is wrong with a parameter, by the names of the command line."""
    return with_options(f"{found['loc'][-1]}: {found['msg'].removeprefix('Value error, ')}")


def settings(profile: str = "local", **overrides: Any) -> Settings:
    """Return the settings as `serve` has them; raises CommandError with what is wrong."""
    try:
        return load_settings(profile=profile, **overrides)
    except SettingsError as error:
        raise CommandError(str(error), 2) from None


def local_url(configured: Settings) -> str:
    """Return where the proxy of these settings is reached from this machine."""
    bare = configured.host.strip("[]")
    host = f"[{bare}]" if ":" in bare else bare
    return reachable(f"http://{host}:{configured.port}")


def remote(url: str | None) -> Remote:
    """Return the proxy at *url*, by default that of the settings."""
    configured = settings()
    token = configured.security.auth_token
    return Remote(url or local_url(configured), token.get_secret_value() if token else None)


def checked_url(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check the value of `--url`."""
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # what urlsplit says of a port that is none
        good = False
    if not good:
        raise click.BadParameter("must be http://host:port")
    return value


url_option = click.option(
    "--url", metavar="URL", callback=checked_url, help="Where the proxy is. [default: the settings]"
)

"""Which provider a request is for, and what it means there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..dialects import Dialect, claimed_by, meaning_of
from ..errors import UnknownRoute
from ..redact import kept_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..settings import Provider, Settings


class Route(NamedTuple):
    """Where a request goes."""

    provider: str
    upstream: Provider
    path: str
    """The raw path at the provider, below its base URL; begins with a slash."""
    endpoint: str
    """The API route as a label, one of a closed set."""
    dialect: Dialect
    """The wire format of request and answer."""
    generates: bool
    """A model answers."""


class Providers:
    """The configured providers, and the table of routes (SPEC §1)."""

    def __init__(self, settings: Settings) -> None:
        self._rows = settings.providers

    def resolve(self, method: str, path: str, headers: Mapping[str, str]) -> Route:
        """Return where a request to the raw *path* goes.

        Raises UnknownRoute where no provider is meant.
        """
        if path.startswith("/api/"):
            path = path.removeprefix("/api")
        name, rest = self._split(path, headers)
        upstream = self._rows[name]
        dialect, endpoint, generates = meaning_of(method, rest, headers, upstream.api)
        return Route(name, upstream, rest, endpoint, dialect, generates)

    def _split(self, path: str, headers: Mapping[str, str]) -> tuple[str, str]:
        claiming = claimed_by(path, headers)
        if claiming in self._rows:
            return claiming, path
        first, slash, rest = path[1:].partition("/")
        if first.lower() in self._rows and slash:
            return first.lower(), slash + rest
        names = ", ".join(sorted(self._rows))
        raise UnknownRoute(
            f"no provider is configured for the path {kept_path(path, 200)!r}. Use /v1/…, "
            f"/v1beta/…, or /<provider>/… with one of: {names}"
        )

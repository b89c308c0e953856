"""gunicorn's own log, for operators who switch it on: nothing in it that may be a key.

``--access-logfile`` and ``--log-level debug`` write what clients send: whole request lines, the
user of an ``Authorization`` header, any header that a format asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gunicorn import glogging

from . import redact
from .server import middleware

if TYPE_CHECKING:
    from collections.abc import Iterable

# gunicorn's names of what is not the client's to choose ("Settings": access_log_format).
_KEPT = frozenset("hltsHbBTDMLp")


class RedactingLogger(glogging.Logger):  # type: ignore[misc]  # gunicorn is untyped
    """gunicorn's logger, with the same rules for what may be kept as everything else."""

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return what a format of the access log can show of a request."""
        found = super().atoms(resp, req, environ, request_time)
        kept = {name: value for name, value in found.items() if name in _KEPT}
        path, query = middleware.raw_target(environ)
        path, shown = redact.kept_path(path), redact.kept_query(query)
        method = redact.kept_method(environ["REQUEST_METHOD"])
        target = f"{path}?{shown}" if shown else path
        kept |= {"m": method, "U": path, "q": shown or "", "u": "-", "f": "-"}
        kept["r"] = f"{method} {target} {environ['SERVER_PROTOCOL']}"
        kept["a"] = redact.kept_agent(environ.get("HTTP_USER_AGENT")) or "-"
        return kept | _shown("i", middleware.request_headers(environ)) | _shown("o", resp.headers)

    def _get_user(self, environ: Any) -> str:  # noqa: ARG002  gunicorn's signature
        return "-"


def _shown(kind: str, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    kept = redact.kept_headers(headers)
    return {f"{{{name.lower()}}}{kind}": value for name, value in kept}

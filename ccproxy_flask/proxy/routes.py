"""The blueprint that passes requests on (SPEC §1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from flask import Blueprint

from .. import request_context
from ..settings import RESERVED_NAMES
from .proxied_request import ProxiedRequest, ProxyDeps

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from flask import Flask
    from flask.blueprints import BlueprintSetupState

__all__ = ["ProxyDeps", "init_app", "make_blueprint"]

SERVICE_TYPE = "proxy_service"
_OWN_NAMES = "|".join(sorted(RESERVED_NAMES - {"api", "v1"}))
_OWN_PAGE = re.compile(rf"/(?:{_OWN_NAMES})(?:/.*)?", re.DOTALL)
# What browsers ask every origin for by themselves, whatever page they show.
_BROWSERS_OWN = re.compile(
    r"/(?:favicon\.ico|robots\.txt|apple-touch-icon[\w-]*\.png"
    r"|\.well-known/appspecific/com\.chrome\.devtools\.json)"
)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def init_app(app: Flask, parts: ProxyDeps) -> None:
    """Serve the proxy in *app*, for every method and every path that is not a page of ours."""
    app.register_blueprint(make_blueprint(parts))


def make_blueprint(parts: ProxyDeps) -> Blueprint:
    """Return the blueprint. It has a lane of its own, before Flask's dispatch."""
    blueprint = Blueprint("proxy", __name__)

    def open_lane(state: BlueprintSetupState) -> None:
        app = cast("Flask", state.app)
        sinks: request_context.Sinks = app.extensions[request_context.EXTENSION]
        app.wsgi_app = ProxyMiddleware(app.wsgi_app, parts, sinks)  # type: ignore[method-assign]  # Flask's documented way

    blueprint.record_once(open_lane)
    return blueprint


class ProxyMiddleware:
    """Takes the requests that are passed on past Flask's dispatch, which serves all the others.

    Contexts, sessions, signals and a table of routes are of no use to them, and take as long as
    all the rest of the proxy (docs/adr/0007).
    """

    def __init__(
        self, app: WSGIApplication, parts: ProxyDeps, sinks: request_context.Sinks
    ) -> None:
        self._app, self._parts, self._sinks = app, parts, sinks

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if is_own_page(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            return self._app(environ, start_response)
        trace = request_context.begin(environ, self._sinks, service_type=SERVICE_TYPE, stored=True)
        return ProxiedRequest(self._parts, trace, environ).answer()(environ, start_response)


def is_own_page(method: str, path: str) -> bool:
    """Tell whether a request is for one of our own pages, whether there is such a page or not."""
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if method in _READING and (path == "/" or _BROWSERS_OWN.fullmatch(path)):
        return True
    return _OWN_PAGE.fullmatch(path) is not None

"""The pages: the dashboard, its icon, signing in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, redirect, render_template, request
from flask_sock import Sock
from wsproto.utilities import RemoteProtocolError

from ccproxy_flask import request_context
from ccproxy_flask.access import (
    COOKIE,
    SESSION_SECONDS,
    auth_token,
    error_response,
    guard,
    is_token,
    issue_session,
    local_path,
    relative_url,
    seconds_to_wait,
    session_fits,
)
from ccproxy_flask.errors import StoreUnavailable

from .feed import SOCKET_OPTIONS, events, follow, snapshot
from .pages import pages

if TYPE_CHECKING:
    from flask.sansio.blueprints import BlueprintSetupState
    from werkzeug.wrappers import Response as AnyResponse

# Beside the package in the repository, inside it in the wheel.
_PACKAGE = Path(__file__).resolve().parents[1]
_ASSETS = next(place for place in (_PACKAGE, _PACKAGE.parent) if (place / "templates").is_dir())

# Fetched with npm when this is set up (docs/dashboard.md); not there without npm.
_CHARTS = _ASSETS / "static" / "vendor" / "uPlot.js"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: that makes browsers send `Origin: null` with our own sign-in form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_ICON = _ASSETS / "static" / "dashboard" / "favicon.svg"
_ICON_SECONDS = 86_400
_LONGEST_FORM = 16 << 10

blueprint = Blueprint(
    "dashboard",
    __name__,
    url_prefix="/dashboard",
    template_folder=str(_ASSETS / "templates"),
    static_folder=str(_ASSETS / "static"),
    static_url_path="/static",
)
request_context.trace(blueprint, "dashboard_service")
blueprint.register_blueprint(pages)
guard(blueprint, public=("static", "favicon", "sign_in", "sign_in_form"))
Sock().route("/ws", bp=blueprint)(follow)


@blueprint.record_once
def _set_up(state: BlueprintSetupState) -> None:
    state.app.extensions["ccproxy.dashboard_charts"] = (
        _ASSETS / "static/vendor/uPlot.js"
    ).is_file()
    state.app.config.setdefault("SOCK_SERVER_OPTIONS", SOCKET_OPTIONS)


@blueprint.after_request
def _harden(response: AnyResponse) -> AnyResponse:
    response.headers.update(_HEADERS)
    if request.endpoint == "dashboard.follow" and response.status_code == 200:
        response.status_code = 101  # a WebSocket was served; this answer is for the log alone
    return response


@blueprint.errorhandler(RemoteProtocolError)
def _bad_handshake(_error: RemoteProtocolError) -> Response:
    return error_response(400, "bad_request", "This is not a WebSocket handshake.")


@blueprint.errorhandler(StoreUnavailable)
def _away(error: StoreUnavailable) -> Response:
    return error_response(503, "store_unavailable", str(error))


@blueprint.get("/events")
def server_sent_events() -> Response:
    """What the WebSocket says, for pages that cannot have one."""
    answer = Response(events(), mimetype="text/event-stream")
    answer.headers["x-accel-buffering"] = "no"  # nginx passes each event on at once
    return answer


@blueprint.get("/snapshot")
def current_snapshot() -> Response:
    """What a new WebSocket says first, for pages that can keep no line open."""
    return Response(snapshot(), mimetype="application/json")


@blueprint.get("/favicon.svg")
def favicon() -> Response:
    """The icon."""
    answer = Response(_ICON.read_bytes(), mimetype="image/svg+xml")
    answer.cache_control.max_age = _ICON_SECONDS
    return answer


@blueprint.get("/sign-in")
def sign_in() -> AnyResponse | str:
    """The sign-in page; those who need no sign-in go straight on."""
    token = auth_token()
    wanted = local_path(request.args.get("next"))
    if token is None or session_fits(token, request.cookies.get(COOKIE)):
        return redirect(relative_url(wanted), 303)
    return _sign_in_page(wanted)


@blueprint.post("/sign-in")
def sign_in_form() -> AnyResponse | tuple[str, int, dict[str, str]]:
    """Give a session to one who knows the token: 303 to where they wanted; 401, 429 otherwise."""
    request.max_content_length = _LONGEST_FORM
    wanted = local_path(request.form.get("next"))
    token = auth_token()
    if token is None:
        return redirect(relative_url(wanted), 303)
    if seconds := seconds_to_wait():
        problem = f"Too many attempts. Try again in {seconds} s."
        return _sign_in_page(wanted, problem), 429, {"Retry-After": str(seconds)}
    if not is_token(token, request.form.get("token", "").strip().encode()):
        return _sign_in_page(wanted, "That is not the token."), 401, {}
    answer = redirect(relative_url(wanted), 303)
    answer.set_cookie(COOKIE, issue_session(token), max_age=SESSION_SECONDS, **_cookie_options())
    return answer


@blueprint.post("/sign-out")
def sign_out() -> AnyResponse:
    """Take the session away again."""
    answer = redirect("sign-in", 303)
    answer.delete_cookie(COOKIE, **_cookie_options())
    return answer


def _cookie_options() -> dict[str, Any]:
    """For the whole of what is ours at this address, and for nobody's scripts."""
    path = f"{request.root_path}/"
    return {"path": path, "httponly": True, "samesite": "Strict", "secure": request.is_secure}


@blueprint.app_context_processor
def _addresses() -> dict[str, Any]:
    return {
        "link": relative_url,
        "static": lambda name: relative_url(f"/dashboard/static/{name}"),
    }


def _sign_in_page(wanted: str, problem: str | None = None) -> str:
    return render_template("dashboard/sign_in.html", wanted=wanted, problem=problem)

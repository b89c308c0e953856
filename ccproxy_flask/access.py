"""Who may see the operator's pages: `/logs`, `/dashboard`, `/metrics`.

Three checks, in this order, before any view of a guarded blueprint:

1. The ``Host`` header names this machine or a configured name. A page of a foreign site whose name
   was made to point here (DNS rebinding) stops at this.
2. A request that changes something, and a WebSocket handshake, comes from our own pages or from no
   page at all. Browsers say so in ``Origin`` and ``Sec-Fetch-Site`` (Fetch standard;
   Fetch Metadata).
3. Where ``SECURITY__AUTH_TOKEN`` is set, the request has it: as a bearer token, or as the session
   cookie that the sign-in page gives for it.

The cookie is signed with a key derived from the token: nothing is kept on the server, every worker
accepts it, and a new token ends all sessions.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import math
import re
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import orjson
from flask import Response, current_app, redirect, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from flask import Blueprint
    from flask.sansio.blueprints import BlueprintSetupState
    from werkzeug.wrappers import Response as AnyResponse

    from .settings import Settings

COOKIE = "ccproxy_session"
SESSION_SECONDS = 7 * 24 * 3600
SIGN_IN_ENDPOINT = "dashboard.sign_in"

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_LOCAL_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_TOKEN = 4096
_THROTTLE = "ccproxy.login_throttle"


def guard(blueprint: Blueprint, public: Collection[str] = ()) -> None:
    """Put the three checks before every view of *blueprint*.

    *public* are the names of its views that need no sign-in (the sign-in page and what it shows);
    the first two checks hold for them too. Refusals are 403 and 401 with a JSON body
    ``{"error": {"type", "message"}}``; a person's browser without a session is sent to the sign-in
    page instead. Reads ``current_app.extensions["ccproxy.settings"]``.
    """
    open_endpoints = {f"{blueprint.name}.{name}" for name in public}

    def check_access() -> AnyResponse | None:
        refusal = _refuse_foreign_host() or _refuse_cross_site()
        if refusal is not None or request.endpoint in open_endpoints:
            return refusal
        return _refuse_stranger()

    def set_up(state: BlueprintSetupState) -> None:
        state.app.extensions.setdefault(_THROTTLE, LoginThrottle())

    blueprint.before_request(check_access)
    blueprint.after_request(harden)
    blueprint.record_once(set_up)


def harden(response: Response) -> Response:
    """Let no page of another site read or embed *response*, and nobody guess its type.

    For every answer of our own; those of upstreams pass as they came.
    """
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def error_response(status: int, kind: str, message: str) -> Response:
    """Return an error of the operator's API: ``{"error": {"type", "message"}}``."""
    body = orjson.dumps({"error": {"type": kind, "message": message}})
    return Response(body, status, mimetype="application/json")


# -- the Host header ---------------------------------------------------------------------------


@lru_cache(maxsize=256)
def host_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Tell whether *host*, a ``Host`` header's value, is one that this server goes by.

    IP addresses, ``localhost`` and ``*.localhost`` always are, other names where *allowed* lists
    them; with or without a port. An IP address cannot be rebound, a name can.
    """
    lowered = host.lower()
    match = _HOST.fullmatch(lowered)
    if match is None:
        return False
    name = match["name"].removesuffix(".")
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return True
    return any(entry.lower() in (name, lowered) for entry in allowed)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _refuse_foreign_host() -> Response | None:
    # Where a trusted proxy told another name, both count: a page whose name was made to point
    # here can send X-Forwarded-Host, but not another Host.
    given = request.environ.get("HTTP_HOST", "")
    received = request.environ.get("werkzeug.proxy_fix.orig", {}).get("HTTP_HOST") or given
    allowed = _settings().security.allowed_hosts
    if host_allowed(given, allowed) and host_allowed(received, allowed):
        return None
    message = "This host name is not served here. Add it to SECURITY__ALLOWED_HOSTS to allow it."
    return error_response(403, "not_allowed", message)


# -- other sites' pages ------------------------------------------------------------------------


def _refuse_cross_site() -> Response | None:
    is_websocket = request.headers.get("Upgrade", "").lower() == "websocket"
    if request.method in _SAFE_METHODS and not is_websocket:
        return None
    if comes_from_own_page(request.environ):
        return None
    return error_response(403, "not_allowed", "Requests from pages of other sites are refused.")


def comes_from_own_page(environ: Mapping[str, Any]) -> bool:
    """Tell whether the request *environ* comes from our own page or from no page at all.

    Its ``Sec-Fetch-Site`` decides. `same-site` is not enough: every port of localhost is the same
    site. Only where a browser does not send it (WebSockets; plain HTTP to another machine),
    ``Origin`` is compared with ``Host``, which a proxy may have changed; and ``Referer`` where
    there is no ``Origin`` (an image): of browsers alone, as other clients write there what they
    want to be known as.
    """
    fetch_site = environ.get("HTTP_SEC_FETCH_SITE")
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    page = environ.get("HTTP_ORIGIN")
    if page is None and environ.get("HTTP_USER_AGENT", "").startswith("Mozilla/"):
        page = environ.get("HTTP_REFERER")
    if page is None:
        return True
    # The scheme is left out: behind a proxy that ends TLS we do not know what the browser used.
    host = environ.get("HTTP_HOST", "")
    return _without_default_port(_netloc(page)) == _without_default_port(host)


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:  # "http://[" is no address
        return ""


def _without_default_port(netloc: str) -> str:
    return re.sub(r":(?:80|443)$", "", netloc.lower())


# -- the token ---------------------------------------------------------------------------------


def _refuse_stranger() -> AnyResponse | None:
    token = auth_token()
    if token is None or session_fits(token, request.cookies.get(COOKIE)):
        return None
    given = _bearer()
    if given is not None:
        wait = seconds_to_wait()
        if wait:
            return _refuse_for_now(wait)
        if is_token(token, given):
            return None
    if _is_person() and SIGN_IN_ENDPOINT in current_app.view_functions:
        wanted = local_path(request.full_path.removesuffix("?"))
        return redirect(relative_url(f"/dashboard/sign-in?{urlencode({'next': wanted})}"), 303)
    refusal = error_response(
        401, "authentication", "Send SECURITY__AUTH_TOKEN as a bearer token, or sign in."
    )
    refusal.headers["WWW-Authenticate"] = 'Bearer realm="ccproxy"'
    return refusal


def auth_token() -> str | None:
    """Return the operator's token, None where none is set."""
    secret = _settings().security.auth_token
    return (secret.get_secret_value() or None) if secret is not None else None


def seconds_to_wait() -> int:
    """Return how long the client of the request in hand has to wait before it may try a token."""
    return math.ceil(_throttle().wait_seconds(request.remote_addr or ""))


def is_token(token: str, given: bytes) -> bool:
    """Compare *given* with *token* in a time that says nothing about either; count a failure."""
    if hmac.compare_digest(_digest(token.encode()), _digest(given)):
        return True
    _throttle().failed(request.remote_addr or "")
    return False


def issue_session(token: str) -> str:
    """Return the value of a session cookie for one who knows *token*; good for a week."""
    return str(_signer(token).dumps("operator"))


def session_fits(token: str, cookie: str | None, seconds: int = SESSION_SECONDS) -> bool:
    """Tell whether *cookie* was issued for this *token*, within the last *seconds*."""
    if not cookie or len(cookie) > _LONGEST_TOKEN:
        return False
    try:
        return bool(_signer(token).loads(cookie, max_age=seconds) == "operator")
    except BadSignature:
        return False


def local_path(path: str | None) -> str:
    """Return *path* where it is one of this server, else the dashboard: no open redirects."""
    if path is not None and len(path) <= 2048 and _LOCAL_PATH.fullmatch(path):
        return path
    return "/dashboard"


def relative_url(path: str) -> str:
    """Return *path*, one of this server, as seen from the page in hand (RFC 3986 §4.2).

    So links and redirects lead to the right place behind every scheme, name, port and prefix.
    """
    return "../" * (request.path.count("/") - 1) + path.removeprefix("/") or "."


def _refuse_for_now(seconds: int) -> Response:
    message = f"Too many wrong tokens came from this address. Try again in {seconds} s."
    refusal = error_response(429, "rate_limit", message)
    refusal.headers["Retry-After"] = str(seconds)
    return refusal


def _bearer() -> bytes | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # WSGI hands header bytes over as latin-1 (PEP 3333); this gives them back as they were sent.
    return given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None


def _is_person() -> bool:
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")


@lru_cache(maxsize=4)
def _signer(token: str) -> URLSafeTimedSerializer:
    key = hmac.new(token.encode(), b"ccproxy operator session", hashlib.sha256).digest()
    return URLSafeTimedSerializer(
        key, salt="ccproxy", signer_kwargs={"digest_method": hashlib.sha256}
    )


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _settings() -> Settings:
    settings: Settings = current_app.extensions["ccproxy.settings"]
    return settings


def _throttle() -> LoginThrottle:
    throttle: LoginThrottle = current_app.extensions[_THROTTLE]
    return throttle


class LoginThrottle:
    """Counts wrong tokens by address and makes the impatient wait: *burst* at once, then one each
    *seconds*.

    Who has to wait is told so, whatever the token: else a right guess would show. What comes in
    meanwhile is not counted, so the wait is never longer than *seconds*, for the right token too;
    sessions go on. IPv6 addresses count by their /64. Kept in one process and bounded: a light
    brake on guessing. A token should be long and random, and then no guessing helps.
    """

    def __init__(
        self,
        burst: int = 5,
        seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        most: int = 1000,
    ) -> None:
        self._burst, self._seconds, self._clock, self._most = burst, seconds, clock, most
        self._free_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait_seconds(self, address: str) -> float:
        """Return how long *address* has to wait before its next attempt; 0.0 is not at all."""
        with self._lock:
            used = self._free_at.get(_network(address), 0.0) - self._clock()
        return max(0.0, used - (self._burst - 1) * self._seconds)

    def failed(self, address: str) -> None:
        """Count one failure of *address*."""
        with self._lock:
            now = self._clock()
            if len(self._free_at) >= self._most:
                self._forget(now)
            network = _network(address)
            self._free_at[network] = max(now, self._free_at.get(network, now)) + self._seconds

    def _forget(self, now: float) -> None:
        self._free_at = {name: at for name, at in self._free_at.items() if at > now}
        while len(self._free_at) >= self._most:
            del self._free_at[next(iter(self._free_at))]


def _network(address: str) -> str:
    """Return whom *address* belongs to: one host can have all addresses of an IPv6 /64."""
    if ":" not in address:
        return address
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    return address

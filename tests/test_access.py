"""Who gets to the operator's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urljoin

import pytest
from flask import Blueprint, Flask

from ccproxy_flask import access, dashboard, request_context
from ccproxy_flask.access import LoginThrottle, host_allowed
from ccproxy_flask.server.middleware import BehindProxies
from ccproxy_flask.settings import Settings

if TYPE_CHECKING:
    from flask.testing import FlaskClient

TOKEN = "a-long-and-random-token/+="  # noqa: S105  a test's token
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PERSON = {"Accept": "text/html,application/xhtml+xml"}


def make_app(token: str | None = TOKEN, hosts: tuple[str, ...] = ()) -> Flask:
    """Return an application with the dashboard and one more guarded blueprint."""
    pages = Blueprint("logs", __name__, url_prefix="/logs")
    access.guard(pages)

    @pages.get("/entries")
    def entries() -> dict[str, Any]:
        return {"entries": []}

    @pages.post("/reset")
    def reset() -> dict[str, Any]:
        return {"status": "success"}

    app = Flask("guarded", static_folder=None)
    app.extensions["ccproxy.settings"] = Settings.model_validate(
        {"security": {"auth_token": token, "allowed_hosts": hosts}}
    )
    request_context.init_app(app, request_context.Sinks(node="test"))
    app.register_blueprint(pages)
    app.register_blueprint(dashboard.blueprint)
    return app


@pytest.fixture
def client() -> FlaskClient:
    """A browser of an application with a token."""
    return make_app().test_client()


@pytest.fixture
def open_client() -> FlaskClient:
    """A browser of an application without a token."""
    return make_app(token=None).test_client()


def sign_in(client: FlaskClient, token: str = TOKEN, **more: Any) -> Any:
    """Send the sign-in form."""
    return client.post("/dashboard/sign-in", data={"token": token, **more.pop("data", {})}, **more)


class TestHost:
    """The Host header."""

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "localhost:8000",
            "LOCALHOST",
            "localhost.",
            "proxy.localhost:8000",
            "127.0.0.1",
            "127.0.0.1:8000",
            "10.1.2.3",
            "[::1]",
            "[::1]:8000",
            "proxy.example",
            "Proxy.Example:8000",
        ],
    )
    def test_own_names_are_allowed(self, host: str) -> None:
        """IP addresses, localhost and configured names pass, with and without a port."""
        assert host_allowed(host, ("proxy.example",))

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil-localhost",
            "127.0.0.1.evil.example",
            "proxy.example.evil",
            "a.proxy.example",
            "localhost:8000:1",
            "user@localhost",
            "localhost/",
            "local\thost",
            "[localhost]",
            "::1",
        ],
    )
    def test_foreign_names_are_not(self, host: str) -> None:
        """Any other name does not pass, however much it looks like one that does."""
        assert not host_allowed(host, ("proxy.example",))

    def test_a_name_can_be_configured_with_its_port(self) -> None:
        """A configured name with a port is that port only."""
        assert host_allowed("proxy.example:8443", ("proxy.example:8443",))
        assert not host_allowed("proxy.example:1", ("proxy.example:8443",))

    def test_rebound_name_is_refused_before_anything_else(self, open_client: FlaskClient) -> None:
        """A page that made its own name point here gets a JSON 403, on public pages too."""
        for path in ("/logs/entries", "/dashboard", "/dashboard/favicon.svg", "/dashboard/sign-in"):
            answer = open_client.get(path, headers={"Host": "evil.example"})

            assert answer.status_code == 403, path
            assert answer.json == {
                "error": {
                    "type": "not_allowed",
                    "message": "This host name is not served here. "
                    "Add it to SECURITY__ALLOWED_HOSTS to allow it.",
                }
            }

    def test_configured_name_is_served(self) -> None:
        """A name in SECURITY__ALLOWED_HOSTS reaches the pages."""
        client = make_app(token=None, hosts=("proxy.example",)).test_client()

        assert client.get("/logs/entries", headers={"Host": "proxy.example"}).status_code == 200


class TestOtherSites:
    """What pages of other sites make a browser send."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:3000"},
            {"Origin": "http://localhost.evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
            {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        ],
    )
    def test_cross_site_post_is_refused(
        self, open_client: FlaskClient, headers: dict[str, str]
    ) -> None:
        """A POST from another site, another port of this host, or nowhere is a 403."""
        answer = open_client.post("/logs/reset", headers=headers)

        assert (answer.status_code, answer.json["error"]["type"]) == (403, "not_allowed")

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "http://localhost"},
            {"Origin": "https://localhost:443"},
            {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
        ],
    )
    def test_own_pages_and_programs_may_post(
        self, open_client: FlaskClient, headers: dict[str, str]
    ) -> None:
        """Our own page may POST, and so may a program that is no browser."""
        assert open_client.post("/logs/reset", headers=headers).status_code == 200

    def test_cross_site_websocket_is_refused(self, open_client: FlaskClient) -> None:
        """A handshake is a GET, and still refused from other sites."""
        handshake = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Origin": "http://evil.example",
        }

        assert open_client.get("/dashboard/ws", headers=handshake).status_code == 403

    def test_cross_site_link_may_open_a_page(self, open_client: FlaskClient) -> None:
        """A link on another site may lead here: reading changes nothing."""
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}

        assert open_client.get("/dashboard", headers=headers).status_code == 200

    def test_token_does_not_excuse_another_site(self, client: FlaskClient) -> None:
        """A session does not help a page of another site."""
        sign_in(client)

        answer = client.post("/logs/reset", headers={"Origin": "http://evil.example"})

        assert answer.status_code == 403


class TestToken:
    """SECURITY__AUTH_TOKEN."""

    def test_without_a_token_everybody_is_let_in(self, open_client: FlaskClient) -> None:
        """No token is set: the pages are open (on loopback; the settings see to that)."""
        assert open_client.get("/logs/entries").status_code == 200

    def test_bearer_token_is_let_in(self, client: FlaskClient) -> None:
        """The token as a bearer header is enough, whatever the case of the scheme's name."""
        assert client.get("/logs/entries", headers=BEARER).status_code == 200
        lowered = {"Authorization": BEARER["Authorization"].replace("Bearer", "bearer")}
        assert client.get("/logs/entries", headers=lowered).status_code == 200

    @pytest.mark.parametrize(
        "value",
        ["", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", TOKEN, "Bearer é"],
    )
    def test_programs_without_it_get_401(self, client: FlaskClient, value: str) -> None:
        """Anything else is a JSON 401 that says how to do it."""
        answer = client.get("/logs/entries", headers={"Authorization": value})

        assert answer.status_code == 401
        assert answer.json["error"]["type"] == "authentication"
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="ccproxy"'

    def test_person_is_sent_to_the_sign_in_page_and_back(self, client: FlaskClient) -> None:
        """A browser is redirected to the form, and after it to the page it wanted."""
        first = client.get("/logs/entries?limit=5", headers=PERSON)
        form = client.get(urljoin("/logs/entries", first.location))
        after = sign_in(client, data={"next": "/logs/entries?limit=5"})

        assert (first.status_code, form.status_code, after.status_code) == (303, 200, 303)
        assert first.location == "../dashboard/sign-in?next=%2Flogs%2Fentries%3Flimit%3D5"
        assert 'value="/logs/entries?limit=5"' in form.text
        assert after.location == "../logs/entries?limit=5"
        assert client.get(urljoin("/dashboard/sign-in", after.location)).status_code == 200

    def test_session_cookie_is_out_of_reach_of_scripts_and_sites(self, client: FlaskClient) -> None:
        """The cookie is HttpOnly and SameSite=Strict, and does not hold the token."""
        cookie = sign_in(client).headers["Set-Cookie"]

        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Secure" not in cookie
        assert "Secure" in sign_in(client, base_url="https://localhost").headers["Set-Cookie"]

    @pytest.mark.parametrize(
        "wanted", ["//evil.example", "/\\evil", "http://evil.example", "x", ""]
    )
    def test_sign_in_never_leads_to_another_site(self, client: FlaskClient, wanted: str) -> None:
        """Where to go after signing in is a path of this server, else the dashboard."""
        assert sign_in(client, data={"next": wanted}).location == "../dashboard"

    def test_sign_out_ends_the_session(self, client: FlaskClient) -> None:
        """After signing out the browser is a stranger again."""
        sign_in(client)
        assert client.get("/logs/entries").status_code == 200

        client.post("/dashboard/sign-out")

        assert client.get("/logs/entries").status_code == 401

    def test_new_token_ends_old_sessions(self, client: FlaskClient) -> None:
        """A cookie that was signed for another token is worth nothing."""
        cookie = access.issue_session("another token")
        client.set_cookie(access.COOKIE, cookie)

        assert client.get("/logs/entries").status_code == 401

    @pytest.mark.parametrize("cookie", ["", "x", "x.y.z", "é", "a" * 10_000])
    def test_made_up_cookie_is_refused(self, cookie: str) -> None:
        """A cookie that we did not sign is refused, whatever it looks like."""
        assert not access.session_fits(TOKEN, cookie)

    def test_old_session_is_refused(self) -> None:
        """A session ends when it is too old."""
        cookie = access.issue_session(TOKEN)

        assert access.session_fits(TOKEN, cookie, seconds=60)
        assert not access.session_fits(TOKEN, cookie, seconds=-1)

    def test_sign_in_page_needs_no_sign_in(self, client: FlaskClient) -> None:
        """The form, its style sheet and its icon are public; the dashboard is not."""
        for path in (
            "/dashboard/sign-in",
            "/dashboard/favicon.svg",
            "/dashboard/static/dashboard/dashboard.css",
        ):
            answer = client.get(path)
            assert answer.status_code == 200, path
            answer.close()
        assert client.get("/dashboard").status_code == 401

    def test_signed_in_and_open_pages_skip_the_form(
        self, client: FlaskClient, open_client: FlaskClient
    ) -> None:
        """Who needs no sign-in is sent straight on."""
        sign_in(client)

        for browser in (client, open_client):
            assert browser.get("/dashboard/sign-in").location == "../dashboard"
            assert sign_in(browser).location == "../dashboard"

    def test_impatient_guesser_has_to_wait(self, client: FlaskClient) -> None:
        """After five wrong tokens the sixth attempt is a 429 that says how long to wait."""
        wrong = [sign_in(client, "wrong").status_code for _ in range(5)]
        refused = sign_in(client, TOKEN)

        assert wrong == [401] * 5
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
        assert "Too many attempts" in refused.text
        elsewhere = {"REMOTE_ADDR": "10.0.0.9"}
        assert sign_in(client, TOKEN, environ_base=elsewhere).status_code == 303

    def test_wrong_token_is_said_so(self, client: FlaskClient) -> None:
        """The form comes back with the problem, tied to the field for screen readers."""
        answer = sign_in(client, "<script>alert(1)</script>")

        assert answer.status_code == 401
        assert 'aria-describedby="problem"' in answer.text
        assert "<script>alert" not in answer.text


class TestProxiesInFront:
    """What is believed of X-Forwarded-… headers."""

    FORWARDED: ClassVar = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "proxy.example:8443",
        "X-Forwarded-Prefix": "/ccproxy",
    }

    def trusting(self) -> FlaskClient:
        """A client of an application that has a proxy in front."""
        app = make_app(hosts=("proxy.example",))
        app.wsgi_app = BehindProxies(app.wsgi_app, 1)
        return app.test_client()

    def test_nobody_is_believed_by_default(self, client: FlaskClient) -> None:
        """Without a proxy of ours the headers change nothing: not even the cookie."""
        cookie = sign_in(client, headers=self.FORWARDED).headers["Set-Cookie"]

        assert "Secure" not in cookie
        assert "Path=/;" in cookie + ";"

    def test_cookie_is_for_tls_and_the_prefix_alone(self) -> None:
        """Behind TLS the cookie is Secure, behind a prefix it is for that prefix."""
        cookie = sign_in(self.trusting(), headers=self.FORWARDED).headers["Set-Cookie"]

        assert "Secure" in cookie
        assert "Path=/ccproxy/" in cookie

    @pytest.mark.parametrize(
        ("host", "origin", "status"),
        [
            ("proxy.example", "https://proxy.example:8443", 303),
            ("127.0.0.1:8000", "https://proxy.example:8443", 303),
            ("127.0.0.1:8000", "https://proxy.example", 403),
            ("127.0.0.1:8000", "http://127.0.0.1:8000", 403),
            ("evil.example", "https://proxy.example:8443", 403),
        ],
    )
    def test_origin_is_compared_with_what_the_browser_asked(
        self, host: str, origin: str, status: int
    ) -> None:
        """Name and port are those that the proxy was asked for; its own Host counts as well."""
        headers = self.FORWARDED | {"Host": host, "Origin": origin}

        assert sign_in(self.trusting(), headers=headers).status_code == status

    def test_foreign_forwarded_host_is_refused(self) -> None:
        """A name that is not ours is refused, also where a proxy tells it."""
        headers = self.FORWARDED | {"X-Forwarded-Host": "evil.example"}

        assert self.trusting().get("/dashboard/sign-in", headers=headers).status_code == 403

    def test_guessers_are_told_apart(self) -> None:
        """The brake on guessing is for the client behind the proxy, not for the proxy."""
        client = self.trusting()
        wrong = [sign_in(client, "wrong", headers=self.FORWARDED) for _ in range(6)]
        other = self.FORWARDED | {"X-Forwarded-For": "203.0.113.8"}

        assert wrong[-1].status_code == 429
        assert sign_in(client, headers=other).status_code == 303


class TestLoginThrottle:
    """The brake on guessing."""

    def test_failures_are_forgiven_with_time(self) -> None:
        """One more attempt is free after each interval, all of them after a while."""
        now = 100.0
        attempts = LoginThrottle(burst=3, seconds=10, clock=lambda: now)
        for _ in range(3):
            attempts.failed("a")
        assert attempts.wait_seconds("a") == 10
        now += 10
        assert attempts.wait_seconds("a") == 0
        attempts.failed("a")
        assert attempts.wait_seconds("a") == 10
        now += 1000
        attempts.failed("a")
        assert attempts.wait_seconds("a") == 0

    def test_memory_is_bounded(self) -> None:
        """Many addresses cost no more than the set number of entries; the oldest go first."""
        attempts = LoginThrottle(burst=1, most=10)
        for number in range(100):
            attempts.failed(f"10.0.0.{number}")

        waiting = [number for number in range(100) if attempts.wait_seconds(f"10.0.0.{number}")]
        assert waiting == list(range(90, 100))

"""The dashboard behind the servers that docs/operations.md describes, in a real browser."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from browser_support import Visit, browser_test, chromium
from conftest import ROOT, Server, free_port
from debian_support import needs
from playwright.sync_api import Browser, expect
from scripted import ScriptedUpstream, wait_until

NAME = "proxy.example"
TOKEN = "long-token-1234567890"  # noqa: S105  a test's token
pytestmark = [*browser_test, needs("nginx")]

# What docs/operations.md printed before: Host without its port, and nobody trusted.
PORTLESS = """
server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $ccproxy_connection;
        proxy_buffering off;
    }}
    {more}
}}
"""
DEAF = "location /dashboard/ws { return 400; } location /dashboard/events { return 400; }"


def blocks(language: str) -> list[str]:
    """Return the blocks of docs/operations.md in *language*, in order."""
    text = (ROOT / "docs" / "operations.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Front:
    """The server in front: its configuration in *home*, and the ports it got for those of docs."""

    def __init__(self, home: Path, upstream: int, certificates: tuple[Path, Path]) -> None:
        self.home, self.upstream, self.certificates = home, upstream, certificates
        self.ports: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None

    def here(self, block: str) -> str:
        """Return *block* for this machine: other ports and files, nothing else."""
        self.ports.append(free_port())
        port = str(self.ports[-1])
        certificate, key = map(str, self.certificates)
        for old, new in (
            ("127.0.0.1:8000", f"127.0.0.1:{self.upstream}"),
            ("/etc/ssl/proxy.example.pem", certificate),
            ("/etc/ssl/private/proxy.example.key", key),
        ):
            assert old in block
            block = block.replace(old, new)
        block = re.sub(r"listen (443|8443) ", f"listen 127.0.0.1:{port} ", block)
        return re.sub(r"^https://proxy.example(:8443)?", f"https://{NAME}:{port}", block)

    def portless(self, more: str = "") -> str:
        """Return a block as the docs had it once; *more* are further locations."""
        self.ports.append(free_port())
        certificate, key = self.certificates
        return PORTLESS.format(
            port=self.ports[-1],
            upstream=self.upstream,
            certificate=certificate,
            key=key,
            more=more,
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """Run it, and wait until it listens on all ports."""
        env = {"HOME": str(self.home), "PATH": "/usr/sbin:/usr/bin:/bin"}
        with (self.home / "front.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log, env=env)
        try:
            for port in self.ports:
                wait_until(lambda port=port: self._listens(port), 20)
            yield
        finally:
            self.process.terminate()
            self.process.wait(20)

    def _listens(self, port: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "front.log").read_text()[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the name in the docs, and its key."""
    home = tmp_path_factory.mktemp("certificates")
    issued = trustme.CA().issue_cert(NAME)
    issued.private_key_pem.write_to_path(home / "key.pem")
    for part in issued.cert_chain_pems:
        part.write_to_path(home / "certificate.pem", append=True)
    return home / "certificate.pem", home / "key.pem"


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[Server]:
    """A server set up as the docs say for other machines."""
    server = Server(
        tmp_path_factory.mktemp("guarded"),
        shared_upstream.url,
        workers=1,
        SECURITY__AUTH_TOKEN=TOKEN,
        SECURITY__ALLOWED_HOSTS=NAME,
        SECURITY__TRUSTED_PROXIES="1",
    )
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, guarded: Server, certificates: tuple[Path, Path]
) -> Iterator[Front]:
    """Nginx with the blocks of the docs, and with two that let less through."""
    front = Front(tmp_path_factory.mktemp("nginx"), guarded.port, certificates)
    written = [front.here(block) for block in blocks("nginx")]
    written += [front.portless(), front.portless(DEAF)]
    (front.home / "nginx.conf").write_text(
        f"daemon off; pid {front.home}/pid; error_log {front.home}/error.log;\n"
        "events {}\nhttp {\naccess_log off; "
        + " ".join(
            f"{kind}_temp_path {front.home}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + "\n".join(written)
        + "}\n"
    )
    with front.running(
        "nginx", "-e", str(front.home / "start.log"), "-c", str(front.home / "nginx.conf")
    ):
        yield front


@pytest.fixture(scope="module")
def caddy(
    tmp_path_factory: pytest.TempPathFactory, guarded: Server, certificates: tuple[Path, Path]
) -> Iterator[Front]:
    """Caddy with the blocks of the docs."""
    front = Front(tmp_path_factory.mktemp("caddy"), guarded.port, certificates)
    written = [front.here(block) for block in blocks("caddyfile")]
    options = "{\n  admin off\n  auto_https disable_redirects\n  skip_install_trust\n}\n"
    (front.home / "Caddyfile").write_text(options + "\n".join(written))
    with front.running(
        "caddy", "run", "--adapter", "caddyfile", "--config", str(front.home / "Caddyfile")
    ):
        yield front


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that finds the name of the docs on this machine."""
    with chromium(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A page that takes our certificate."""
    seen = Visit(browser, ignore_https_errors=True)
    yield seen
    seen.close()


def sign_in(seen: Visit, base: str) -> list[str]:
    """Open the dashboard below *base*, sign in, and return where its WebSockets led."""
    sockets: list[str] = []
    seen.page.on("websocket", lambda opened: sockets.append(opened.url))
    seen.page.goto(base)
    seen.page.get_by_label("Operator token").fill(TOKEN)
    seen.page.keyboard.press("Enter")
    seen.expect_live()
    assert seen.page.url == f"{base}/dashboard"
    return sockets


def ask(front: Front, port: int, method: str, path: str) -> http.client.HTTPResponse:
    """Send a request over TLS as a client does that trusts the certificate."""
    context = ssl.create_default_context(cafile=front.certificates[0])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    connection = http.client.HTTPConnection(NAME, port)
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sock = context.wrap_socket(plain, server_hostname=NAME)
    with closing(connection):
        connection.request(method, path, b"{}", {"anthropic-version": "2023-06-01"})
        answer = connection.getresponse()
        answer.read()
        return answer


def expect_live_row(seen: Visit, front: Front, port: int, prefix: str = "") -> None:
    """Send a request through the server in front, and see it on the page."""
    answer = ask(front, port, "POST", f"{prefix}/v1/messages")
    cell = seen.cell(answer.headers["x-ccproxy-request-id"], "status")
    expect(cell).to_have_text(str(answer.status))


def session_cookie(seen: Visit) -> Any:
    """Return the session cookie as the browser keeps it."""
    [cookie] = [one for one in seen.page.context.cookies() if one["name"] == "ccproxy_session"]
    return cookie


@pytest.mark.parametrize(("block", "prefix"), [(0, ""), (1, "/ccproxy")])
def test_nginx_block_of_the_docs_shows_live_traffic(nginx, visit, upstream, block, prefix):
    """With TLS, on another port, under a prefix, with a token: a live row over a WebSocket."""
    upstream.script = lambda talk: talk.answer(b"{}")
    port = nginx.ports[block]
    base = f"https://{NAME}:{port}{prefix}"

    sockets = sign_in(visit, base)
    expect_live_row(visit, nginx, port, prefix)

    assert sockets == [f"wss://{NAME}:{port}{prefix}/dashboard/ws?"]
    cookie = session_cookie(visit)
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
    assert cookie["path"] == f"{prefix}/"
    visit.page.get_by_role("navigation").get_by_role("link", name="Requests").click()
    expect(visit.page).to_have_url(f"{base}/dashboard/requests")
    visit.page.locator("[data-rows] .row").first.click()
    panel = visit.page.get_by_role("complementary", name="Request")
    panel.get_by_role("link", name="Open as a page").click()
    expect(visit.page).to_have_url(re.compile(f"^{base}/dashboard/requests/[0-9a-f-]{{36}}$"))
    visit.page.get_by_role("navigation").get_by_role("link", name="Status").click()
    expect(visit.page.locator(".tile [data-status=status]")).to_have_text("healthy")
    assert visit.complaints == []
    visit.page.get_by_role("button", name="Sign out").click()
    expect(visit.page.get_by_label("Operator token")).to_be_visible()
    assert visit.page.url == f"{base}/dashboard/sign-in"


@pytest.mark.parametrize(("block", "way"), [(2, "/dashboard/events?"), (3, "/dashboard/snapshot?")])
def test_page_is_live_where_websockets_are_not_let_through(nginx, visit, upstream, block, way):
    """Where the port is lost or WebSockets are refused, the page has other ways to be live."""
    upstream.script = lambda talk: talk.answer(b"{}")
    port = nginx.ports[block]
    asked = set()
    visit.page.on("request", lambda request: asked.add(request.url.split(str(port))[1]))

    sign_in(visit, f"https://{NAME}:{port}")
    expect_live_row(visit, nginx, port)

    assert way in asked


def test_websocket_is_logged_as_what_it_was(nginx, visit, guarded):
    """The log says 101 of a WebSocket, not 200."""
    sign_in(visit, f"https://{NAME}:{nginx.ports[0]}")
    visit.close()

    def logged():
        return re.search(r".*path=/dashboard/ws .*", guarded.log_path.read_text())

    line = wait_until(logged, 20)[0]
    assert "status_code=101" in line, line


class TlsServer(Server):
    """A server that speaks TLS itself, as the docs say."""

    def __init__(self, home: Path, upstream: str, certificates: tuple[Path, Path]) -> None:
        arguments = "--certfile {} --keyfile {}".format(*certificates)
        more = {"SECURITY__AUTH_TOKEN": TOKEN, "SECURITY__ALLOWED_HOSTS": NAME}
        super().__init__(home, upstream, 1, GUNICORN_CMD_ARGS=arguments, **more)
        self.front = Front(home, self.port, certificates)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()[-2000:]
        try:
            return ask(self.front, self.port, "GET", "/health").status == 200
        except OSError:
            return False


def test_page_is_live_over_our_own_tls(tmp_path, shared_upstream, certificates, visit):
    """gunicorn with a certificate needs no server in front: WebSocket, and a Secure cookie."""
    server = TlsServer(tmp_path, shared_upstream.url, certificates)
    server.start()
    try:
        sockets = sign_in(visit, f"https://{NAME}:{server.port}")
        expect_live_row(visit, server.front, server.port)
        cookie = session_cookie(visit)
    finally:
        server.stop()

    assert sockets[0] == f"wss://{NAME}:{server.port}/dashboard/ws?"
    assert (cookie["secure"], cookie["path"]) == (True, "/")


def test_path_below_a_prefix_arrives_as_it_was_written(nginx, upstream):
    """The prefix is taken off; escapes in the rest stay; the front's own headers end with us."""
    upstream.script = lambda talk: talk.answer(b"{}")
    ask(nginx, nginx.ports[1], "GET", "/ccproxy/v1/models/a%2Fb%20c?x=%2F")

    [received] = upstream.seen
    assert received.line == "GET /v1/models/a%2Fb%20c?x=%2F HTTP/1.1"
    assert not [name for name, _ in received.headers if name.startswith("x-forwarded")]


@needs("caddy")
@pytest.mark.parametrize(("block", "prefix"), [(0, ""), (1, "/ccproxy")])
def test_caddy_block_of_the_docs_shows_live_traffic(caddy, visit, upstream, block, prefix):
    """Behind Caddy, too: TLS, another port, a prefix, a token, a live row over a WebSocket."""
    upstream.script = lambda talk: talk.answer(b"{}")
    port = caddy.ports[block]
    base = f"https://{NAME}:{port}{prefix}"

    sockets = sign_in(visit, base)

    assert sockets == [f"wss://{NAME}:{port}{prefix}/dashboard/ws?"]
    assert session_cookie(visit)["path"] == f"{prefix}/"
    assert visit.complaints == []

"""A page of another site never spends a key that the proxy injects, and reads nothing of ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser_support import browser_test, chromium
from conftest import Server
from playwright.sync_api import Browser
from scripted import Conversation, ScriptedUpstream, wait_until

KEY = "sk-or-v1-injected-0123456789abcdef"
TOKEN = "a-long-and-random-operator-token"  # noqa: S105  a test's token
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
CHAT = "/openrouter/v1/chat/completions"


@pytest.fixture(scope="module")
def keyed(
    tmp_path_factory: pytest.TempPathFactory, shared_upstream: ScriptedUpstream
) -> Iterator[Server]:
    """One server that has the key of a provider, and a token for its pages."""
    server = Server(
        tmp_path_factory.mktemp("keyed"),
        shared_upstream.url,
        workers=1,
        PROVIDERS__OPENROUTER__API_KEY=KEY,
        SECURITY__AUTH_TOKEN=TOKEN,
    ).start()
    yield server
    server.stop()


def answer_to_all(talk: Conversation) -> None:
    """Answer as an upstream that lets every page read."""
    talk.answer(b'{"spent": true}', headers=(("access-control-allow-origin", "*"),))


@pytest.fixture
def target(keyed: Server, upstream: ScriptedUpstream) -> Server:
    """That server, before an upstream that lets every page read its answers."""
    upstream.script = answer_to_all
    return keyed


FOREIGN = {
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same site": {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    "another origin": {"Origin": "http://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "a sandbox": {"Origin": "null"},
    "no origin at all": {"Origin": ""},
    "no address": {"Origin": "http://["},
    "an image": {"User-Agent": BROWSER, "Referer": "http://evil.example/page"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_pages_do_not_spend_the_key(target, upstream, method, headers):
    """What a page of another origin sends is refused in the API's shape before it goes anywhere."""
    body = b'{"model":"m"}' if method == "POST" else None
    headers = {"Content-Type": "text/plain", **headers}
    status, named, answer = target.request(method, CHAT, body, headers)
    assert status == 403
    assert b'"code":"not_allowed"' in answer
    assert b"key of your own" in answer
    assert "access-control-allow-origin" not in named
    assert upstream.seen == []


OWN = {
    "no page": {},
    "our page": {"Sec-Fetch-Site": "same-origin"},
    "the address bar": {"Sec-Fetch-Site": "none", "Origin": "null"},
    "a program that names itself": {"Referer": "https://my-app.example"},
}


@pytest.mark.parametrize("headers", OWN.values(), ids=OWN)
def test_others_use_the_key(target, upstream, headers):
    """Programs and our own pages get the key injected as before."""
    assert target.request("POST", CHAT, b"{}", headers)[0] == 200
    assert upstream.seen[0].header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_pages_with_a_key_of_their_own_pass(target, upstream, headers):
    """A page with a key of its own spends nothing of ours: it passes, as does its preflight."""
    own = {**headers, "Authorization": "Bearer sk-own"}
    assert target.request("POST", CHAT, b"{}", own)[0] == 200
    assert upstream.seen[0].header("authorization") == "Bearer sk-own"

    preflight = {**headers, "Access-Control-Request-Method": "POST"}
    assert target.request("OPTIONS", CHAT, None, preflight)[0] == 200
    assert upstream.seen[1].header("authorization") is None


def test_providers_without_a_key_are_open_to_pages(target, upstream):
    """Where nothing is injected there is nothing to spend."""
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    assert target.request("POST", "/v1/chat/completions", b"{}", headers)[0] == 200
    assert len(upstream.seen) == 1


# -- headers of our own answers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "cache"),
    [
        ("/metrics", 200, "no-cache"),
        ("/logs/query", 200, "no-store"),
        ("/logs/status", 200, "no-store"),
        ("/logs/query?limit=x", 422, "no-store"),
        ("/logs/export?format=csv", 200, None),
        ("/logs/nothing", 404, "no-store"),
        ("/metrics/nothing", 404, "no-store"),
        ("/dashboard", 200, "no-store"),
        ("/dashboard/static/dashboard/missing.js", 404, None),
        ("/health", 200, "no-store"),
    ],
)
def test_no_answer_of_ours_is_for_other_pages(target, path, status, cache):
    """Every page and API of ours forbids other sites to embed it and browsers to guess its type."""

    def asked() -> tuple[int, dict[str, str]]:
        return target.request("GET", path, None, {"Authorization": f"Bearer {TOKEN}"})[:2]

    wait_until(lambda: asked()[0] != 503, 20)  # the recorder is still starting
    found, headers = asked()
    assert found == status
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert cache is None or headers["cache-control"] == cache


def test_refusals_are_hardened_too(target):
    """Strangers' answers have the same headers."""
    for path in ("/metrics", "/logs/query", "/dashboard"):
        status, headers, _ = target.request("GET", path)
        assert status == 401
        assert headers["x-content-type-options"] == "nosniff"


def test_answers_of_upstreams_get_nothing_added(target):
    """The headers are for our own answers: those of upstreams pass as they came."""
    _, headers, _ = target.request("POST", "/v1/chat/completions", b"{}")
    added = {"x-content-type-options", "cross-origin-resource-policy", "cache-control"}
    assert not added & headers.keys()


# -- guessing ----------------------------------------------------------------------------------


def test_guessing_is_slowed_down(start_server):
    """After some wrong tokens all have to wait, for seconds; then the right one is taken."""
    server = start_server(workers=1, SECURITY__AUTH_TOKEN=TOKEN)

    def ask(token: str) -> tuple[int, dict[str, str]]:
        return server.request("GET", "/logs/query", None, {"Authorization": f"Bearer {token}"})[:2]

    assert ask(TOKEN)[0] in (200, 503)
    answers = [ask(f"guess-{number}") for number in range(30)]
    kinds = [status for status, _ in answers]
    assert kinds[:5] == [401] * 5
    assert kinds.count(429) > 15
    assert all(0 < int(found["retry-after"]) <= 5 for status, found in answers if status == 429)
    assert server.request("GET", "/logs/query")[0] == 401  # no guess, no wait
    wait_until(lambda: ask(TOKEN)[0] in (200, 503), 20)


# -- a real browser ----------------------------------------------------------------------------

WAYS = {
    "fetch": """
        fetch(TARGET, {method: 'POST', mode: 'no-cors', body: '{}'})
            .then(() => done('sent'), () => done('sent'))""",
    "readable fetch": """
        fetch(TARGET, {method: 'POST', body: '{}'})
            .then(answer => answer.text()).then(done, () => done('unreadable'))""",
    "form": """
        const form = document.createElement('form');
        form.method = 'post'; form.enctype = 'text/plain'; form.action = TARGET;
        form.target = 'frame'; form.innerHTML = '<input name=\\'{"a":"\\' value=\\'"}\\'>';
        const frame = document.createElement('iframe');
        frame.name = 'frame';
        document.body.append(form, frame);
        frame.onload = () => done('sent'); form.submit()""",
    "image": """
        const image = new Image();
        image.onload = image.onerror = () => done('sent'); image.src = TARGET""",
    "sandbox": """
        const box = document.createElement('iframe');
        box.sandbox = 'allow-scripts';
        addEventListener('message', event => done(event.data));
        box.srcdoc = `<script>fetch('${TARGET}', {method: 'POST', body: '{}'})
            .then(answer => answer.text())
            .then(text => parent.postMessage(text, '*'), () => parent.postMessage('no', '*'))
            <` + '/script>';
        document.body.append(box)""",
}


class Page(BaseHTTPRequestHandler):
    """An empty page of another site."""

    def do_GET(self) -> None:
        """Answer with it."""
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><body>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    """The port on which that page is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def sends(browser: Browser, foreign_port: int) -> Iterator[Callable[[str, str, str], str]]:
    """Return a function that lets a page on *host* send in some *way*, and says what it read."""
    context = browser.new_context()

    def send(host: str, way: str, url: str) -> str:
        page = context.new_page()
        page.goto(f"http://{host}:{foreign_port}/")
        code = WAYS[way].replace("TARGET", "target")
        script = f"target => new Promise(done => {{ {code} }})"
        read: str = page.evaluate(script, url)
        return read

    yield send
    context.close()


class TestBrowser:
    """What Chromium lets a page do."""

    pytestmark = browser_test

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    @pytest.mark.parametrize("way", WAYS)
    def test_page_of_another_origin_spends_nothing(self, target, upstream, sends, host, way):
        """Neither a page of another site nor one of another port spends the key or reads."""
        read = sends(host, way, target.url + CHAT)
        assert "spent" not in read
        assert [seen.header("authorization") for seen in upstream.seen] == []

    @pytest.mark.parametrize("way", ["fetch", "form", "image"])
    def test_page_reaches_what_has_no_key(self, target, upstream, sends, way):
        """The ways work: without an injected key the same pages get through."""
        sends("localhost", way, f"{target.url}/v1/chat/completions")
        assert len(upstream.seen) == 1

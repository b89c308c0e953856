"""gunicorn's own log: useful lines, and no key in them, whatever its format asks for."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

from gunicorn.config import Config

from ccproxy_flask.gunicorn_logger import RedactingLogger

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "RAW_URI": f"/v1/models/{KEY}?key={KEY}&beta=true",
    "PATH_INFO": f"/v1/models/{KEY}",
    "QUERY_STRING": f"key={KEY}&beta=true",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_REFERER": f"http://localhost/?{KEY}",
    "HTTP_USER_AGENT": "claude-cli/2.0.1 (external, cli)",
    "HTTP_AUTHORIZATION": f"Basic {KEY}",
    "ccproxy.headers": [("authorization", f"Bearer {KEY}"), ("accept", "*/*")],
}


def atoms() -> dict[str, object]:
    """Return what a format can ask for."""
    answer = SimpleNamespace(status="200 OK", sent=12, headers=[("Set-Cookie", KEY), ("Vary", "a")])
    request = SimpleNamespace(headers=[("AUTHORIZATION", KEY)])
    return RedactingLogger(Config()).atoms(answer, request, ENVIRON, timedelta(seconds=1))


def test_no_atom_shows_a_key():
    """Request line, path, query, referer, headers and environment show nothing secret."""
    assert KEY not in repr(atoms())


def test_lines_stay_useful():
    """What is harmless is shown as gunicorn shows it."""
    found = atoms()
    assert found["r"] == "GET /v1/models/***?key=***&beta=true HTTP/1.1"
    assert (found["h"], found["s"], found["b"], found["M"]) == ("127.0.0.1", "200", "12", 1000)
    assert found["a"] == "claude-cli/2.0.1 (external, cli)"
    assert (found["{accept}i"], found["{vary}o"]) == ("*/*", "a")

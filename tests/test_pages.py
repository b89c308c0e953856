"""The small pages: health, metrics, and what is said of pages that are not there."""

from __future__ import annotations

import orjson
import pytest
import structlog
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ccproxy_flask import __version__
from ccproxy_flask.app import create_app
from ccproxy_flask.proxy.routes import ProxyDeps, ProxyMiddleware, is_own_page
from ccproxy_flask.request_context import Sinks
from ccproxy_flask.settings import Settings


@pytest.fixture
def client_with(tmp_path):
    """Return a client of an application with given settings; everything is closed at the end."""
    apps = []

    def make(store=None, **sections):
        observability = {"duckdb_path": tmp_path / "db", **sections.pop("observability", {})}
        app = create_app(
            Settings.model_validate({"observability": observability, **sections}), store
        )
        apps.append(app)
        return app.test_client()

    yield make
    for app in apps:
        app.extensions["ccproxy.components"].close()


def test_process_that_answers_is_alive(client_with):
    """/health says that the process answers, and which version it is."""
    assert client_with().get("/health").get_json() == {"status": "alive", "version": __version__}


def test_ready_says_whether_it_records(client_with):
    """/health/ready tells whether records are written, and how many wait."""
    ready = client_with().get("/health/ready").get_json()
    assert ready == {"status": "ready", "recording": False, "records_waiting": 0}
    recording = client_with(observability={"logs_collection_enabled": True})
    assert recording.get("/health/ready").get_json()["recording"] is True


def test_pages_that_are_off_are_not_there(client_with):
    """A page that is switched off is a 404 that says so, in JSON."""
    client = client_with()
    for path in ("/metrics", "/logs/status", "/dashboard"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.get_json()["error"]["message"]


def test_defect_is_json_too(client_with):
    """What goes wrong inside is in the log; the client is told so, as of any other error."""
    switched_on = {"logs_collection_enabled": True, "logs_endpoints_enabled": True}
    client = client_with(store=object(), observability=switched_on)
    client.application.logger.disabled = True
    answer = client.get("/logs/status")
    assert answer.status_code == 500
    assert answer.get_json()["error"]["type"] == "internal_error"
    assert answer.headers["x-ccproxy-request-id"]


def test_metrics_are_text_for_prometheus(client_with):
    """/metrics is Prometheus text, and OpenMetrics where that is accepted."""
    client = client_with(observability={"metrics_endpoint_enabled": True})
    client.get("/health", buffered=True)
    plain = client.get("/metrics")
    assert plain.mimetype == "text/plain"
    assert 'ccproxy_build_info{version="' in plain.text
    assert 'service_type="health_service"' in plain.text
    opened = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert opened.mimetype == "application/openmetrics-text"
    assert opened.text.endswith("# EOF\n")


def test_metrics_ask_for_the_token(client_with):
    """With a token set, /metrics is for those who have it; /health is for all."""
    client = client_with(
        observability={"metrics_endpoint_enabled": True}, security={"auth_token": "t0ken"}
    )
    assert client.get("/metrics").status_code == 401
    bearer = {"authorization": "Bearer t0ken"}
    assert client.get("/metrics", headers=bearer).status_code == 200
    assert client.get("/health").status_code == 200


def test_other_methods_are_refused(client_with):
    """A page answers the methods it has."""
    client = client_with(observability={"metrics_endpoint_enabled": True})
    answer = client.post("/metrics")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


def test_root_leads_somewhere(client_with):
    """The root leads to the dashboard where there is one, else it says that the process lives."""
    assert client_with().get("/").get_json()["status"] == "alive"
    shown = client_with(observability={"dashboard_enabled": True, "logs_endpoints_enabled": True})
    assert shown.get("/").location == "dashboard"


def test_every_page_names_its_request(client_with):
    """Each answer of ours carries our request id."""
    assert len(client_with().get("/health").headers["x-ccproxy-request-id"]) == 36


@pytest.mark.parametrize(
    ("method", "path", "own"),
    [
        ("GET", "/", True),
        ("POST", "/", False),
        ("DELETE", "/health", True),
        ("GET", "/logs/none", True),
        ("GET", "//metrics", True),
        ("GET", "/static/a\nb", True),
        ("GET", "/logstash/v1/messages", False),
        ("POST", "/v1/logs", False),
        ("GET", "/health\n", False),
        ("OPTIONS", "*", False),
        ("CONNECT", "a:443", False),
    ],
)
def test_own_pages_are_told_from_what_is_passed_on(method, path, own):
    """Names of our own pages are never passed on, and nothing else is kept from it."""
    assert is_own_page(method, path) == own


def test_defect_on_the_way_of_a_request_is_answered_and_recorded():
    """In the shape of the API; its log has the reason, without the client's key."""
    key = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"

    class Broken:
        def resolve(self, _method, _path, headers):
            raise ZeroDivisionError(headers["x-api-key"])

    records = []
    parts = ProxyDeps(Settings(), Broken(), None, None, b"")
    lane = ProxyMiddleware(None, parts, Sinks(stored_ended=[records.append]))
    builder = EnvironBuilder("/v1/messages", method="POST", headers={"x-api-key": key})
    environ = builder.get_environ()
    with structlog.testing.capture_logs() as logged:
        body, status, headers = run_wsgi_app(lane, environ, buffered=True)
    assert status.startswith("500")
    assert orjson.loads(b"".join(body))["error"]["type"] == "api_error"
    [record] = records
    assert (record.status_code, record.error_type) == (500, "internal_error")
    assert headers["x-ccproxy-request-id"] == record.request_id
    assert [line["event"] for line in logged] == ["proxy_defect"]
    assert "ZeroDivisionError: ***" in logged[0]["exception"]
    assert key not in repr([logged, record])

"""The description of the logs API says what the API does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask
from recording_support import make_record

from ccproxy_flask import logs
from ccproxy_flask.logs import filters, openapi
from ccproxy_flask.record import COLUMNS

# The two that are left out expect a schema to say that a start is before an end, and that every
# form of a time is one string; test_logs.py sends those, one by one.
CHECKS = ",".join(
    (
        *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
        *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
    )
)


def test_every_route_is_described(server):
    """Paths and methods of the document are those that are served."""
    described = {
        (path, method.upper())
        for path, methods in server.get_json("/logs/openapi.json")["paths"].items()
        for method in methods
    }
    app = Flask("routes")
    app.register_blueprint(logs.blueprint)
    served = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("logs.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == served


def test_filters_and_columns_are_those_that_are_checked():
    """Every endpoint with rows takes all filters; a row has all columns."""
    found = openapi.description()
    for path in ("entries", "query", "analytics", "export", "stream"):
        names = {each["name"] for each in found["paths"][f"/logs/{path}"]["get"]["parameters"]}
        assert names >= filters.FILTERS
    assert tuple(found["components"]["schemas"]["Row"]["required"]) == COLUMNS
    assert make_record().as_dict().keys() == set(COLUMNS)


@pytest.mark.slow
def test_schemathesis_finds_nothing(server, tmp_path):
    """A thousand made-up requests get nothing but answers that are described."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/logs/openapi.json"),
            *("--checks", CHECKS, "--max-examples", "25", "--seed", "1"),
            *("--exclude-path", "/logs/stream", "--request-timeout", "20", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert Path(server.log_path).read_text().count("Traceback") == 0

"""The description of the logs API says what the API does."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from conftest import Server
from flask import Flask
from logs_support import ON, Site
from recording_support import make_record, recording_settings
from schemathesis_hooks import close
from stream_support import Reader

from ccproxy_flask import logs
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.logs import openapi, parameters
from ccproxy_flask.record import COLUMNS
from ccproxy_flask.settings import Settings

HERE = Path(__file__).parent
TOKEN = "a-token-that-nobody-guesses"  # noqa: S105  of a server that lives for seconds


def shape(name: str) -> Any:
    """Return what tells whether a value has the described shape *name*, and no key besides."""
    components = openapi.description(needs_token=False)["components"]
    close(components["schemas"])
    return jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{name}", "components": components}, validate_formats=True
    )


def test_every_route_is_described(server):
    """Paths and methods of the document are those that are served."""
    described = {
        (path, method.upper())
        for path, methods in server.get_json("/logs/openapi.json")["paths"].items()
        for method in methods
    }
    app = Flask("routes")
    app.extensions["ccproxy.settings"] = Settings()
    app.register_blueprint(logs.blueprint)
    served = {
        (re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("logs.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == served


def test_filters_and_columns_are_those_that_are_checked():
    """Every endpoint with rows takes all filters; a row has all columns."""
    found = openapi.description(needs_token=False)
    for path in ("entries", "query", "analytics", "export", "stream"):
        names = {each["name"] for each in found["paths"][f"/logs/{path}"]["get"]["parameters"]}
        assert names >= LogFilter.model_fields.keys()
    assert tuple(found["components"]["schemas"]["Row"]["required"]) == COLUMNS
    assert make_record().as_dict().keys() == set(COLUMNS)


def test_examples_are_of_the_shape_they_show():
    """What is shown as an example of a parameter is a value that it can have."""
    for methods in openapi.description(needs_token=False)["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                for example in parameter.get("examples", {}).values():
                    jsonschema_rs.validate(parameter["schema"], example["value"])


def test_token_is_described_where_it_is_needed(tmp_path):
    """Who needs the token is told so; who does not is not asked for one."""
    assert openapi.description(needs_token=False)["security"] == []
    settings = recording_settings(tmp_path, observability=ON, security={"auth_token": TOKEN})
    site = Site(settings, None)
    _, _, found = site.ask("/logs/openapi.json", headers={"authorization": f"Bearer {TOKEN}"})
    site.close()
    assert [list(each) for each in found["security"]] == [["token"], ["session"]]
    assert found["components"]["securitySchemes"].keys() == {"token", "session"}


def test_status_without_a_store_is_described(tmp_path):
    """The status has its shape also where there is nothing to tell."""
    settings = recording_settings(
        tmp_path, observability=ON | {"logs_collection_enabled": False, "dashboard_enabled": False}
    )
    site = Site(settings, None)
    shape("Status").validate(site.get("/status"))
    status, _, refusal = site.ask("/logs/query")
    site.close()
    assert status == 503
    shape("Error").validate(refusal)


def test_every_event_is_described(server, upstream):
    """What the stream sends, first to last, has the described shape."""
    event = shape("Event")
    with Reader(server.port) as reader:
        sent = [reader.connection]
        for status in ("200 OK", "529 Overloaded"):
            upstream.script = lambda talk, status=status: talk.answer(b"{}", status)
            server.request("POST", "/v1/messages", b"{}")
            sent += reader.take(2)
    with Reader(server.port, last_id="of-no-journal:1") as reader:
        sent.append(reader.next())
    for each in sent:
        event.validate(each.body)
    assert [each.name for each in sent] == [
        *("connection", "request_start", "request_complete"),
        *("request_start", "request_error", "overflow"),
    ]


def test_last_event_is_described(start_server):
    """What a reader gets at a stop of the server has the described shape."""
    server = start_server()
    with Reader(server.port) as reader:
        stop = threading.Thread(target=server.stop)
        stop.start()
        last = reader.next()
        stop.join()
    assert last.name == "disconnect"
    shape("Event").validate(last.body)


def test_exported_rows_are_described(server, upstream):
    """Each line of an export as JSON is a described row; as CSV it has the same columns."""
    server.request("POST", "/v1/messages", b"{}")
    server.records(1)
    row = shape("Row")
    _, _, lines = server.request("GET", "/logs/export?format=jsonl")
    [line] = lines.splitlines()
    row.validate(json.loads(line))
    _, _, table = server.request("GET", "/logs/export?format=csv")
    assert tuple(next(csv.reader(table.decode().splitlines()))) == COLUMNS


def test_longest_statement_is_answered(server):
    """As many characters as are described are taken, whatever they are and however written."""
    text = "SELECT '" + "😀" * (parameters.LONGEST_SQL - 9) + "'"
    assert len(text) == parameters.LONGEST_SQL
    body = json.dumps({"sql": text}).encode()
    assert len(body) > 200_000, "each of them is written as two escapes"
    status, _, answer = server.request("POST", "/logs/sql", body)
    assert (status, json.loads(answer)["rows"]) == (200, [[text[8:-1]]])


# -- made-up requests ------------------------------------------------------------------------------


@contextlib.contextmanager
def traffic(server: Server, newest: Path) -> Iterator[None]:
    """Meanwhile, let requests be proxied; the id of one that is stored stands in *newest*."""
    ended = threading.Event()

    def work() -> None:
        sent = []
        while not ended.wait(0.5):
            session = {"x-claude-code-session-id": "made-up"}
            _, headers, _ = server.request("POST", "/v1/messages", b"{}", session)
            written = newest.with_suffix(".new")
            sent.append(headers["x-ccproxy-request-id"])
            if len(sent) > 2:  # what came before the last is stored, and so is one before that
                written.write_text(sent[-2])
                written.replace(newest)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_schemathesis(server: Server, folder: Path, *argv: str) -> str:
    """Send made-up requests to all of the logs API and return the report; fail on any finding.

    All checks and all phases; what schemathesis has to be told stands in schemathesis.toml and
    schemathesis_hooks.py. The pattern is there because the description's own path is left out
    without one.
    """
    newest = folder / "newest"
    before = server.log_path.read_text().count("Traceback")
    with traffic(server, newest):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"{server.url}/logs/openapi.json", "--checks", "all", "--seed", "1"),
                *("--include-path-regex", "^/logs/", "--no-color", *argv),
            ],
            cwd=folder,
            env=server.env
            | {
                "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"),
                "NEWEST_RECORD": str(newest),
            },
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert server.log_path.read_text().count("Traceback") == before
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(server, tmp_path):
    """Made-up requests, right and wrong, get the answers that the description promises."""
    report = run_schemathesis(server, tmp_path, "--max-examples", "4")
    assert re.search(r"Selected: (\d+)/\1\n\s+Tested: \1\n", report), report
    phases = re.findall(r"✅ (Examples|Coverage|Fuzzing|Stateful)\n", report)
    assert phases == ["Examples", "Coverage", "Fuzzing", "Stateful"], report


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing_behind_the_token(start_server, tmp_path):
    """The same with a token (what else is wrong is tried above).

    Without guesses of it, which are slowed down: test_access.py tries those.
    """
    server = start_server(SECURITY__AUTH_TOKEN=TOKEN)
    run_schemathesis(
        server,
        tmp_path,
        *("--mode", "positive", "--phases", "fuzzing", "--max-examples", "3"),
        *("--exclude-checks", "ignored_auth"),
        *("--header", f"Authorization: Bearer {TOKEN}"),
    )


def test_each_endpoint_asks_for_the_token(start_server):
    """Without the token nothing is answered but that it is needed."""
    server = start_server(SECURITY__AUTH_TOKEN=TOKEN)
    for path, methods in openapi.description(needs_token=True)["paths"].items():
        for method in methods:
            status, headers, _ = server.request(
                method.upper(), path.replace("{", "").replace("}", "")
            )
            assert (status, headers["www-authenticate"][:6]) == (401, "Bearer"), path

"""The table of filters: one line is a filter everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT

from ccproxy_flask.cli import main
from ccproxy_flask.cli.filter_options import options_of
from ccproxy_flask.filters import LogFilter, filter_of, matching
from ccproxy_flask.logs import openapi
from ccproxy_flask.record import COLUMNS
from ccproxy_flask.store.statements import condition

NEW = "    node: Annotated[Text | None, Equals(column='node', text='One machine')] = None\n"
# Run where `node` is a filter, with the store and the logs API as they are.
EVERYWHERE = """
import json, sys
from pathlib import Path
from click.testing import CliRunner
from logs_support import ON, Site
from recording_support import make_record, recording_settings
from stream_support import Reader, open_writer
from ccproxy_flask.cli import main
from ccproxy_flask.journal import Feed
from ccproxy_flask.logs import openapi
from ccproxy_flask.record import to_json
from ccproxy_flask.store.duckdb import DuckDBStore

home = Path(sys.argv[1])
settings = recording_settings(home, observability=ON)
rows = [make_record(number, node=node) for number, node in enumerate(["here", "there", "here"])]
store = DuckDBStore(settings.duckdb_path)
store.append([to_json(row) for row in rows], [], {})
feed = Feed(settings.journal_directory)
site = Site(settings, store, feed=feed)
found = {
    "openapi": [each["schema"] for each in openapi.description(False)["paths"]["/logs/query"]
                ["get"]["parameters"] if each["name"] == "node"],
    "http": site.get("/query", node="here")["count"],
    "refused": site.ask("/logs/entries?node=")[0],
    "cli": "--node" in CliRunner().invoke(main, ["logs", "query", "--help"]).output,
}
reader = Reader(site.port, node="there")
writer = open_writer(settings.journal_directory)
for row in rows:
    writer.start(row)
    writer.end(row)
found["feed"] = [event.data["node"] for event in reader.take(2)]
reader.close()
writer.close()
print(json.dumps(found), flush=True)
feed.close()
site.close()
store.close()
"""


def test_one_line_adds_a_filter_everywhere(tmp_path):
    """A line in the table: HTTP, OpenAPI, SQL, the live feed and the command line have it."""
    shutil.copytree(ROOT / "ccproxy_flask", tmp_path / "ccproxy_flask")
    table = tmp_path / "ccproxy_flask" / "filters" / "table.py"
    table.write_text(re.sub(r"(?=    # fmt: on\n)", NEW, table.read_text()))
    done = subprocess.run(
        [sys.executable, "-c", EVERYWHERE, str(tmp_path)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "openapi": [{"type": "string", "minLength": 1, "maxLength": 256}],
        "http": 2,
        "refused": 422,
        "cli": True,
        "feed": ["there", "there"],
    }


@pytest.mark.parametrize("name", LogFilter.model_fields)
def test_each_filter_is_in_every_place(name):
    """Each has a column, a description, a condition, a word on rows, an option, a doc."""
    found = filter_of(LogFilter.model_fields[name])
    assert set(found.column.split()) <= set(COLUMNS)
    parameters = openapi.description(needs_token=False)["paths"]["/logs/stream"]["get"][
        "parameters"
    ]
    assert found.text in [each["description"] for each in parameters if each["name"] == name]
    assert (
        options_of(name)[0].split("/")[0]
        in CliRunner().invoke(main, ["logs", "query", "-h"]).output
    )
    assert f"`{name}`" in (ROOT / "docs" / "logs-api.md").read_text()
    values = ("2026-11-21", "200", "true", "rate_limit", "main", "http", "kept")
    given = next(value for value in values if accepts(name, value))
    where = LogFilter.model_validate({name: given})
    text, marks = condition(where)
    assert text.count("?") == len(marks) > 0
    counts_as_one = name == "generation"  # what has no class
    assert matching.matches(where.asked(), {}) is counts_as_one


def accepts(name: str, value: str) -> bool:
    try:
        LogFilter.model_validate({name: value})
    except ValueError:
        return False
    return True


def test_start_is_judged_by_what_is_final():
    """A start is wanted, not wanted, or left to its end, whatever else is asked."""
    row = {"provider": "openai", "path": "/v1/x", "user_agent": "me", "timestamp": "2026-11-21"}

    def told(**asked: str) -> bool | None:
        return matching.matches_start(LogFilter.model_validate(asked).asked(), row)

    assert told() is True
    assert told(provider="openai", q="V1/X", start_time="2026-11-20") is True
    assert told(provider="groq", model="m") is False
    assert told(provider="openai", model="m") is None
    assert told(q="elsewhere") is None


# -- times on the command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    "when", ["now", "today", "yesterday", "15m", "2h", "3d", "2026-11-21", "1795226400"]
)
def test_times_are_taken_as_people_write_them(when):
    """What is a time gets as far as asking the proxy, which is not there."""
    asked = ["logs", "query", "--url", "http://127.0.0.1:1", "--since", when]
    told = CliRunner().invoke(main, asked)
    assert (told.exit_code, "nothing answers" in told.stderr) == (1, True)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--since", "last week", "'--since': 'last week' is not a time. Give 15m, 2h, 7d"),
        ("--until", "9" * 6 + "w", "'--until': '999999w' is too long ago"),
        ("--status-min", "x", "'--status-min': 'x' should be a valid integer"),
        ("--error-type", "x", "'--error-type': 'x' should be 'authentication'"),
    ],
)
def test_wrong_option_is_named_with_what_is_accepted(option, value, told):
    """An error names the option of the command, not the parameter of the API."""
    found = CliRunner().invoke(main, ["logs", "query", option, value])
    assert found.exit_code == 2
    assert told in found.stderr


def test_reversed_range_is_told_by_options(server):
    """What only the API can say is told by the names of the command line too."""
    asked = ["--url", server.url, "--since", "today", "--until", "yesterday"]
    found = CliRunner().invoke(main, ["logs", "query", *asked])
    assert found.exit_code == 2
    assert "--until: --until must not be less than --since" in found.stderr

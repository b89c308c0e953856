"""CONTRIBUTING.md: what it tells to do is all there is to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from recording_support import make_record, recording_settings

from ccproxy_flask.record import to_json
from ccproxy_flask.store.factory import open_store

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
# The steps: a file, where in it, and the lines that go there.
STEPS = {
    "option": (
        "settings/options.py",
        r'(?<="""One line for each request\."""\n)',
        '    flavour: str = "plain"\n    """How lines taste."""\n',
    ),
    "column": ("record.py", r"(?=\n    @property\n)", "    flavour: str | None = None\n"),
    "figure": (
        "totals.py",
        r"(?=    # fmt: on\n)",
        '    flavours: Annotated[int, Figure("requests", "count(flavour)")] = 0\n',
    ),
    "metric": (
        "metrics/collectors.py",
        r"(?=        self\._bytes = counter)",
        '        self._flavours = counter("flavours", "Flavoured requests")\n',
    ),
    "counting": (
        "metrics/collectors.py",
        r"(?=        if record\.client_disconnected:\n)",
        "        if record.flavour:\n            self._flavours.inc()\n",
    ),
    "tile": (
        "dashboard/tiles.py",
        r"(?<=def _token_tiles\(now: Mapping\[str, Any\]\) -> dict\[str, dict\[str, Any\]\]:\n)",
        '    return {"flavours": {"label": "Flavours", "figure": now["flavours"], "note": ""}}\n',
    ),
    "store": ("store/factory.py", r"DuckDBStore(?=\()", "OtherStore"),
    "its class": (
        "store/factory.py",
        r"(?=\ndef open_store)",
        '\nclass OtherStore(DuckDBStore):\n    """Another."""\n\n    backend = "other"\n\n',
    ),
}
# Run where all of it is done. The database is one of the package as it is.
AFTER = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from recording_support import make_record, recording_settings
from ccproxy_flask.app import create_app
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.logs.schemas import schemas
from ccproxy_flask.record import to_json
from ccproxy_flask.settings import load_settings
from ccproxy_flask.store.factory import open_store
from docs import generate

names = ("metrics_endpoint", "logs_endpoints", "dashboard")
pages = {f"{name}_enabled": True for name in names}
settings = recording_settings(Path(sys.argv[1]), observability=pages)
row = make_record(1, flavour="mild")
row.timestamp = datetime.now(UTC)
with_all = open_store(settings)
with_all.append([to_json(row)], [], {})
app = create_app(settings, with_all)
app.extensions["ccproxy.metrics"].observe(row)
client = app.test_client()
found = {
    "option": load_settings().logging.flavour,
    "option's page": "`LOGGING__FLAVOUR`" in generate.page(),
    "column": [one["flavour"] for one in client.get("/logs/entries").json["entries"]],
    "column's shape": "flavour" in schemas()["Row"]["properties"],
    "figure": client.get("/logs/analytics").json["summary"]["flavours"],
    "figure's shape": "flavours" in schemas()["Figures"]["properties"],
    "metric": "ccproxy_flavours_total 1.0" in client.get("/metrics").text,
    "tile": "Flavours" in client.get("/dashboard").text,
    "store": with_all.status().backend,
}
app.extensions["ccproxy.components"].close()
with_all.close()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What is there after all steps, in a copy of the package."""
    tree = tmp_path_factory.mktemp("copy")
    for part in ("ccproxy_flask", "docs", "templates", "static"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (path, where, lines) in STEPS.items():
        text, count = re.subn(where, lines, (tree / "ccproxy_flask" / path).read_text(), count=1)
        assert count == 1, f"the step {name!r} finds no place in {path}"
        (tree / "ccproxy_flask" / path).write_text(text)
    places = f"{tree}:{ROOT / 'tests'}"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": places, "LOGGING__FLAVOUR": "hot"}
    run = subprocess.run(
        [sys.executable, "-c", AFTER, str(_with_database(tree / "home"))],
        cwd=tree, env=environ, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return found


def _with_database(home: Path) -> Path:
    """Return *home*, with a database that knows nothing of the new column."""
    home.mkdir()
    store = open_store(recording_settings(home))
    store.append([to_json(make_record(0))], [], {})
    store.close()
    return home


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        ("option", "hot"),
        ("option's page", True),
        ("column", ["mild", None]),
        ("column's shape", True),
        ("figure", 1),
        ("figure's shape", True),
        ("metric", True),
        ("tile", True),
        ("store", "other"),
    ],
)
def test_steps_of_the_guide_are_all_there_is(done: dict[str, object], thing: str, expected: object):
    """After the steps that CONTRIBUTING.md tells, the new thing is in every place."""
    assert done[thing] == expected


def test_guide_names_what_there_is() -> None:
    """Every file that CONTRIBUTING.md names is there, and every file of a step is named there."""
    named = set(re.findall(r"`([\w./-]+(?:/|\.(?:py|md|html|sql|toml|txt)))`", GUIDE))
    homes = (ROOT, ROOT / "ccproxy_flask")
    assert {name for name in named if not any((home / name).exists() for home in homes)} == set()
    assert {f"ccproxy_flask/{path}" for path, *_ in STEPS.values()} <= named


@pytest.mark.parametrize(
    "thing",
    ["option", "column", "filter", "figure", "metric", "panel", "store", "wire format", "observer"],
)
def test_guide_has_a_way_for_each(thing: str) -> None:
    """There is a walk-through for whatever one may want to add."""
    assert re.search(
        rf"^(## A new {thing}\b|\* \*\*{thing}\*\*)", GUIDE, re.IGNORECASE | re.MULTILINE
    )

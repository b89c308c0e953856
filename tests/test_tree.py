"""The tree itself: rules of the project that are checked over all of its files."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from conftest import LONG

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ccproxy_flask"
SOURCES = sorted([*PACKAGE.rglob("*.py"), ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROGRAMS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAKE = PROJECT["project"]["optional-dependencies"]["lake"]

# One home per library: who may import it directly. Whatever is not named here may be imported
# by the modules it is declared for in pyproject.toml alone.
HOMES = {
    "duckdb": {
        f"store/{name}.py"
        for name in (
            "database",
            "duckdb",
            "intake",
            "limits",
            "parts",
            "questions",
            "schema",
            "sql_process",
            "statements",
            "sums",
            "upkeep",
            *(
                f"lake/{one}"
                for one in ("engine", "doctor", "extensions", "hot", "questions", "writer")
            ),
        )
    },
    "psycopg": {"store/lake/catalogue.py", "store/lake/nodes.py"},
    "genai_prices": {f"pricing/{name}.py" for name in ("book", "rates", "vendors")},
    "gunicorn": {
        *(f"server/{name}.py" for name in ("middleware", "request_parser", "response_writer")),
        "gunicorn_logger.py",
    },
    "prometheus_client": {
        *(f"metrics/{name}.py" for name in ("aggregation", "collectors", "multiprocess_values")),
        *("export/pushgateway.py", "gunicorn_config.py"),
    },
    "prometheus_flask_exporter": {"metrics/scrape.py"},
    "pydantic": {
        *(f"settings/{name}.py" for name in ("lake", "options", "loading", "problems")),
        *("filters/table.py", "filters/values.py", "logs/parameters.py", "logs/openapi.py"),
        "logs/routes.py",
        "cli/filter_options.py",
        "caching/rules.py",
    },
    "dotenv": {"settings/loading.py"},
    "requests": {
        f"proxy/upstream/{name}.py"
        for name in ("__init__", "adapter", "calls", "connection", "proxied")
    },
    "urllib3": {"proxy/upstream/calls.py", "proxy/upstream/proxied.py"},
    "waitress": {"recorder/server.py"},
}
# The one place that reads it for settings; the others see to what the Prometheus library reads.
READS_ENVIRONMENT = {
    *("settings/loading.py", "gunicorn_config.py", "metrics/multiprocess_values.py"),
    *("cli/run.py", "cli/autostart.py", "cli/serve.py"),  # they start other programs in it
}


# Modules that no test imports: they are tested through what is around them.
TESTED_BY = {
    "caching/changes.py": "caching",
    "capture/exchange.py": "exchange_capture",
    "capture/fields.py": "capture_redaction",
    "cli/autostart.py": "cli",
    "cli/caches.py": "caching_wire",
    "cli/config.py": "cli",
    "cli/kept.py": "cli_content",
    "cli/run.py": "cli",
    "cli/serve.py": "cli",
    "cli/trace.py": "cli",
    "content/difference.py": "content_conversation",
    "content/prompt_table.py": "caching",
    "content/questions.py": "content_wire",
    "dashboard/cache_views.py": "dashboard_sessions",
    "dashboard/limit_views.py": "dashboard_limits",
    "dashboard/panel_sql.py": "dashboard_overview",
    "dashboard/request_views.py": "dashboard",
    "dashboard/routes.py": "dashboard",
    "dashboard/tiles.py": "dashboard_overview",
    "dialects/base.py": "dialects",
    "dialects/gemini.py": "usage_gemini",
    "dialects/ollama.py": "usage_ollama",
    "dialects/openai.py": "usage_openai",
    "dialects/openai_chat.py": "usage_openai",
    "dialects/openai_completions.py": "usage_openai",
    "dialects/openai_embeddings.py": "usage_openai",
    "filters/comparisons.py": "filters",
    "filters/values.py": "filters",
    "metrics/scrape.py": "metrics",
    "pricing/overrides.py": "pricing",
    "pricing/rates.py": "pricing",
    "pricing/vendors.py": "pricing",
    "proxy/accounting.py": "recording",
    "proxy/content_observer.py": "content_wire",
    "proxy/hangup.py": "hangups",
    "proxy/headers.py": "proxy",
    "proxy/proxied_request.py": "proxy",
    "proxy/refusal.py": "wire",
    "proxy/relay.py": "proxy",
    "proxy/timing.py": "recording",
    "proxy/upstream/connections.py": "upstream",
    "proxy/upstream/proxied.py": "upstream",
    "recorder/maintenance.py": "parts",
    "recorder/others.py": "lake_servers",
    "recorder/scheduling.py": "lanes",
    "settings/handover.py": "gunicorn_config",
    "settings/problems.py": "settings",
    "store/batch.py": "store",
    "store/intake.py": "store",
    "store/lake/catalogue.py": "lake",
    "store/lake/doctor.py": "lake",
    "store/lake/files.py": "lake",
    "store/lake/hot.py": "lake",
    "store/lake/nodes.py": "lake",
    "store/lake/questions.py": "lake",
    "store/lake/snapshots.py": "lake",
    "store/lake/state.py": "lake",
    "store/lake/tables.py": "lake",
    "store/nnls.py": "quota",
    "store/pipes.py": "logs_questions",
    "store/quota_fit.py": "quota",
    "store/quota_periods.py": "quota",
    "store/quota_shares.py": "quota",
    "store/quota_weights.py": "quota",
    "store/snapshots.py": "logs_questions",
    "store/sql_policy.py": "logs_questions",
    "store/sql_process.py": "logs_questions",
    "store/transfer.py": "lake",
    "usage/sse.py": "usage_sse",
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


def functions(path: Path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(path: Path):
    """Give the top names of what *path* imports from outside the project."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how long a function is, its docstring not counted."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return length
    docstring = node.body[0]
    return length - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def test_functions_are_short():
    """Nine of ten functions have at most 20 lines, and none more than 50."""
    lengths = {
        f"{named(path)}:{node.name}": lines_of(node) for path in SOURCES for node in functions(path)
    }
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 20
    assert {name: length for name, length in lengths.items() if length > 50} == {}


def broad_handlers(path: Path):
    """Give the handlers that catch everything and keep it."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.id if isinstance(node.type, ast.Name) else None
        passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        if (node.type is None or caught in {"Exception", "BaseException"}) and not passed_on:
            yield node


def test_catching_everything_says_why():
    """A broad `except` that does not pass on what it caught carries its reason in its line."""
    silent = []
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for handler in broad_handlers(path):
            comment = lines[handler.lineno - 1].partition("#")[2]
            if not re.search(r"\w+ \w+", re.sub(r"noqa: [A-Z0-9, ]*[A-Z0-9]", "", comment)):
                silent.append(f"{named(path)}:{handler.lineno}")
    assert silent == []


def test_few_catch_everything():
    """Of 1,000 lines at most one catches everything."""
    broad = sum(1 for path in SOURCES for _ in broad_handlers(path))
    lines = sum(len(path.read_text().splitlines()) for path in SOURCES)
    assert broad <= lines / 1000


def test_lint_exceptions_say_why():
    """Whatever switches a check off names the check and the reason."""
    marks = re.compile(
        r"#\s*(noqa(?P<codes>:[ A-Z0-9,]+)?|type: ignore(\[[a-z-, ]+\])?)(?P<why>.*)$"
    )
    bare = []
    for path in [*SOURCES, *PROGRAMS]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = marks.search(line)
            if found and not re.search(r"\w{2}", found["why"]):
                bare.append(f"{named(path)}:{number}")
    assert bare == []


def test_nothing_is_global():
    """No function declares anything `global`; imports inside functions are ruff's to refuse."""
    found = [
        f"{named(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Global)
    ]
    assert found == []


@pytest.mark.parametrize("library", HOMES)
def test_library_has_one_home(library):
    """Each outside library is used in its own place, so that it can be replaced there."""
    users = {
        named(path)
        for path in SOURCES
        if path.is_relative_to(PACKAGE) and library in imported(path)
    }
    assert users <= HOMES[library]


def test_environment_is_read_in_one_place():
    """Settings come from settings/loading.py; nothing else looks at the environment."""
    readers = {
        named(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert readers <= READS_ENVIRONMENT


def test_names_say_what_a_thing_does():
    """No class, function or module is called by a word that fits everything."""
    empty = re.compile(r"(?i)manager|handler|helper|util|service$|^base[A-Z]|^simple[A-Z]")
    # Published names, and one of requests' own.
    allowed = {"proxy_service", "logs_service", "dashboard_service", "proxy_manager_for"}
    names = [
        f"{named(path)}:{node.name}"
        for path in [*SOURCES, *PROGRAMS]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and empty.search(node.name)
        and node.name not in allowed
    ]
    modules = [
        named(path)
        for path in SOURCES
        if empty.search(path.stem) or path.stem in {"common", "core"}
    ]
    assert names + modules == []


def test_every_test_states_a_behaviour():
    """Each test has a docstring of one sentence."""
    silent = [
        f"{path.name}:{node.name}"
        for path in TESTS
        for node in functions(path)
        if node.name.startswith("test_")
        and not re.search(r"[.…]$", (ast.get_docstring(node) or "").partition("\n")[0])
    ]
    assert silent == []


def test_tests_use_real_things():
    """No mocks: sockets, processes and files are real; only limits (in capitals) are patched."""
    forbidden = {"mock", "unittest", "pytest_mock", "responses", "requests_mock", "respx"}
    users = {path.name: set(imported(path)) & forbidden for path in TESTS}
    assert {name: found for name, found in users.items() if found} == {}
    patched = [
        f"{path.name}:{node.lineno}"
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"setattr", "delattr"}
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "monkeypatch"
        and not (isinstance(node.args[1], ast.Constant) and str(node.args[1].value).isupper())
    ]
    assert patched == []


def of_the_package(path: Path):
    """Give what a test file imports of the package: (module, name), name empty for a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node.module, alias.name) for alias in node.names)


def test_every_module_has_its_tests():
    """Each module has a test file of its name, is imported by one, or is said to be tested by one.

    What a package gives under its own name counts for the module that defines it.
    """
    names = set(chain.from_iterable(of_the_package(path) for path in TESTS))
    named_there = {module for module, _ in names} | {f"{module}.{name}" for module, name in names}
    ran = "".join(path.read_text() for path in TESTS)
    own = {path.stem.removeprefix("test_") for path in TESTS}
    untested = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        package = module.rpartition(".")[0]
        public = {(package, node.name) for node in tree(path).body if hasattr(node, "name")}
        if (
            path.stem not in own | {"__init__", "__main__"}
            and module not in named_there
            and f"-m {module}" not in ran
            and not public & names
        ):
            untested.add(named(path))
    missing = sorted(untested - TESTED_BY.keys())
    assert not missing, f"import in a test, or name in TESTED_BY with its test: {missing}"
    assert [name for name in TESTED_BY if not (PACKAGE / name).exists()] == []
    files = {path.stem.removeprefix("test_") for path in TESTS}
    assert {name for name in TESTED_BY.values() if name not in files} == set()


def test_files_that_come_first_are_there():
    """Whoever renames a test file that takes long finds it here."""
    assert [name for name in LONG if f"test_{name}.py" not in {path.name for path in TESTS}] == []


def test_public_things_are_described():
    """Every public module, class and function says what it is."""
    silent = []
    for path in SOURCES:
        if path.stat().st_size and ast.get_docstring(tree(path)) is None:
            silent.append(named(path))
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                silent += [f"{named(path)}:{node.name}"] if ast.get_docstring(node) is None else []
    assert silent == []


def test_what_is_imported_is_declared():
    """Each library that the package imports is a dependency of its own, not of another's."""
    distributions = {
        "dotenv": "python-dotenv",
        "pydantic_core": "pydantic",
        "flask_sock": "flask-sock",
        "genai_prices": "genai-prices",
        "prometheus_client": "prometheus-client",
        "prometheus_flask_exporter": "prometheus-flask-exporter",
        "simple_websocket": "simple-websocket",
    }
    needed = [*PROJECT["project"]["dependencies"], *LAKE]
    declared = {re.split(r"[\[<>=~ ]", each)[0] for each in needed}
    used = set(chain.from_iterable(imported(path) for path in SOURCES))
    outside = used - set(sys.stdlib_module_names) - {"ccproxy_flask"}
    assert {distributions.get(name, name) for name in outside} - declared == set()


@pytest.mark.parametrize("group", ["run", "lake", "test", "check", "bootstrap"])
def test_lock_file_fits_the_project(group):
    """Each dependency is pinned with hashes, and no place to get it from is named."""
    text = (ROOT / "requirements" / f"{group}.txt").read_text()
    known = {"run": PROJECT["project"]["dependencies"], "lake": LAKE}
    wanted = known.get(group) or PROJECT["dependency-groups"][group]
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    assert {re.split(r"[\[<>=~ ]", each)[0] for each in wanted} <= pinned
    assert "://" not in text
    assert "--index" not in text
    for block in re.split(r"\n(?=[a-z])", text.strip()):
        assert "--hash=sha256:" in block


def test_no_package_host_is_named():
    """No file of the project names a host that packages come from."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    # Put together here so that this file does not name them.
    hosts = re.compile("|".join(("py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.org")))
    naming = [
        name
        for name in listed.stdout.splitlines()
        if (ROOT / name).is_file() and hosts.search((ROOT / name).read_text(errors="replace"))
    ]
    assert naming == []

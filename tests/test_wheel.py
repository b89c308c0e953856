"""The wheel: what is installed from it runs without the checkout."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as its build system makes it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it; the libraries are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def test_wheel_has_everything_the_pages_need(wheel):
    """Templates, static files, SQL and the mark for type checkers are in the wheel."""
    names = zipfile.ZipFile(wheel).namelist()
    for folder, suffix in (("static", ".js"), ("static", ".css"), ("templates", ".html")):
        shipped = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(f"*{suffix}")}
        assert shipped
        assert shipped <= {name.removeprefix("ccproxy_flask/") for name in names}
    assert "ccproxy_flask/py.typed" in names
    assert "ccproxy_flask/store/migrations/0001_first.sql" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


@pytest.mark.slow
def test_installed_wheel_serves_outside_the_checkout(installed, tmp_path, upstream):
    """From an empty directory and without settings, `serve` proxies, records, shows all pages."""
    with served(installed, tmp_path, upstream.url) as url:
        assert until(lambda: requests.get(f"{url}/health", timeout=20).status_code == 200)
        page = requests.get(f"{url}/dashboard", timeout=20)
        assert page.status_code == 200
        linked = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.text)
        assert linked
        for path in linked:
            assert requests.get(f"{url}/{path}", timeout=20).status_code == 200
        assert until(lambda: requests.get(f"{url}/logs/entries", timeout=20).status_code == 200)
        requests.post(f"{url}/v1/chat/completions", b"{}", timeout=20)
        assert until(
            lambda: requests.get(f"{url}/logs/entries", timeout=20).json()["total_count"] == 1
        )
        # No provider is meant by this path: answered and counted without any network.
        assert requests.get(f"{url}/nobody/here", timeout=20).status_code == 404
        assert "ccproxy_" in requests.get(f"{url}/metrics", timeout=20).text


def test_installed_wheel_has_its_command(installed, tmp_path):
    """The wheel brings the script `ccproxy-flask`, which works from an empty directory."""
    script = (
        "import sys\nfrom importlib.metadata import entry_points\n"
        "[found] = entry_points(group='console_scripts', name='ccproxy-flask')\n"
        "sys.argv = ['ccproxy-flask', 'config', 'check']\nfound.load()()\n"
    )
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    told = subprocess.run(
        [installed, "-c", script], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.startswith(b"The settings are right.")


@contextlib.contextmanager
def served(python: Path, directory: Path, upstream_url: str):
    """Start the server from *directory*, give its URL, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = {"HOME": str(directory), "TMPDIR": str(directory), "PATH": os.environ["PATH"]}
    server = subprocess.Popen(
        [python, "-m", "ccproxy_flask.cli", "serve", "--workers", "1", "--port", str(port)],
        cwd=directory,
        env={**home, "PROVIDERS__OPENAI__BASE_URL": upstream_url},
    )
    try:
        assert until(lambda: server.poll() is not None or connects(port))
        assert server.poll() is None
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition, seconds=90.0):
    """Return whether *condition* came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False

"""What the dashboard takes from npm, and how it does without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard_support import Site, make_record
from test_dashboard import get

ROOT = Path(__file__).parent.parent
FILES = ("browser_packages.py", "package.json", "package-lock.json", ".npmrc")


def fetched(home: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Run browser_packages.py in a copy of what it needs, with programs from *path* alone."""
    for name in FILES:
        shutil.copy(ROOT / name, home / name)
    return subprocess.run(
        [sys.executable, "browser_packages.py"],
        cwd=home,
        env={"PATH": path, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_npm_there_is_a_note(tmp_path):
    """A machine without npm is told what is missing and how to get it, and goes on."""
    done = fetched(tmp_path, str(tmp_path))

    assert done.returncode == 0
    assert "npm is not here" in done.stderr
    assert not (tmp_path / "static").exists()


def test_npm_that_fails_is_told_in_a_line(tmp_path):
    """Where npm cannot fetch, its first line is the reason, and nothing is half there."""
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network is unreachable' >&2\nexit 1\n")
    npm.chmod(0o755)
    done = fetched(tmp_path, f"{tmp_path}:{os.environ['PATH']}")

    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "network is unreachable" in done.stderr
    assert not (tmp_path / "static").exists()


def test_lock_file_has_hashes_and_no_host():
    """Each package is checked by its hash, wherever it is fetched from."""
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    named = {name: package for name, package in packages.items() if name}

    assert named
    for package in named.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


@pytest.mark.parametrize("charts", [True, False])
def test_page_without_charts_says_why(tmp_path, charts):
    """Without uPlot the page has its figures, and a note in the place of the charts."""
    site = Site(tmp_path)
    try:
        site.app.extensions["ccproxy.dashboard_charts"] = charts
        site.store.keep(make_record())
        html = get(site, "/dashboard")[2]
    finally:
        site.close()

    assert ("Charts need uPlot" in html) is not charts
    assert ("vendor/vendor.css" in html) is charts
    assert 'data-total="requests">1<' in html

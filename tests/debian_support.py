"""Debian's monitoring programs, started for one test: Pushgateway, VictoriaMetrics, Prometheus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import free_port
from scripted import wait_until


def needs(program: str) -> pytest.MarkDecorator:
    """Return the mark that skips a test where *program* is not installed.

    In CI a missing program is a failure, not a reason to test less.
    """
    return pytest.mark.skipif(
        shutil.which(program) is None and os.environ.get("CI") != "true",
        reason=f"{program} is not installed (a Debian package)",
    )


def fetch(url: str) -> str:
    """Return the text at *url*."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own http URLs
        return str(answer.read().decode())


def fetch_json(url: str, **query: str) -> Any:
    """Return the JSON at *url*."""
    return json.loads(fetch(f"{url}?{urlencode(query)}" if query else url))


@contextmanager
def running(home: Path, ready: str, *command: str) -> Iterator[str]:
    """Run *command*, ``{address}`` in it replaced, and give its URL once *ready* answers."""
    address = f"127.0.0.1:{free_port()}"
    log = home / f"{command[0]}.log"
    with log.open("ab") as output:
        argv = [part.replace("{address}", address) for part in command]
        process = subprocess.Popen(argv, cwd=home, stdout=output, stderr=output)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            fetch(f"http://{address}{ready}")
        except (OSError, urllib.error.URLError):
            return False
        return True

    try:
        wait_until(answers, 20)
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def pushgateway(tmp_path: Path) -> Iterator[str]:
    """The URL of a Pushgateway."""
    with running(
        tmp_path, "/-/ready", "prometheus-pushgateway", "--web.listen-address={address}"
    ) as url:
        yield url


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Iterator[str]:
    """The URL of a VictoriaMetrics."""
    with running(
        tmp_path,
        "/health",
        "victoria-metrics",
        "-httpListenAddr={address}",
        f"-storageDataPath={tmp_path / 'victoria'}",
        "-search.latencyOffset=0s",
    ) as url:
        yield url

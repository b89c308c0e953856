"""Three servers on one lake, as deploy/ starts them, with nginx before them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, free_port
from debian_support import needs
from lake_support import Cluster, cluster
from scripted import ScriptedUpstream, wait_until

__all__ = ["cluster"]
pytestmark = needs("nginx")
DEPLOY = ROOT / "deploy"
REQUESTS = 9


class Servers:
    """Three servers and their nginx, in *home*."""

    def __init__(self, home: Path, catalog: str, upstream: str) -> None:
        self.home = home
        self.ports = [free_port() for _ in range(3)]
        self.front = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "CCPROXY": f"{sys.executable} -m ccproxy_flask.cli",
            "CCPROXY_WORKERS": "1",
            "CONFIG_FILE": str(home / "empty.toml"),
            "HOMES": str(home),
            "PORTS": " ".join(map(str, self.ports)),
            "OBSERVABILITY__LAKE__CATALOG": catalog,
            "OBSERVABILITY__LAKE__DATA": str(home / "data"),
            "PROVIDERS__OPENAI__BASE_URL": upstream,
            "CAPTURE__CONTENT": "on",
        }
        (home / "empty.toml").touch()

    def start(self, running: ExitStack) -> None:
        """Start them all."""
        self._program(running, ["sh", str(DEPLOY / "lake.sh")], self.environment)
        text = (DEPLOY / "lake.nginx.conf").read_text()
        for named, port in zip(
            ("8001", "8002", "8003", "8080"), (*self.ports, self.front), strict=True
        ):
            text = text.replace(f"127.0.0.1:{named}", f"127.0.0.1:{port}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = " ".join(f"{kind}_temp_path {self.home}/{kind};" for kind in kinds)
        (self.home / "nginx.conf").write_text(
            f"daemon off; pid {self.home}/pid; events {{}}\n"
            f"http {{ access_log off; {folders}\n{text}}}\n"
        )
        log = str(self.home / "nginx.log")
        self._program(running, ["nginx", "-e", log, "-c", str(self.home / "nginx.conf")], None)
        for port in (*self.ports, self.front):
            wait_until(lambda port=port: self.ask(port, "/health/ready")[0] == 200, 60)

    def _program(self, running: ExitStack, argv: list[str], env: dict[str, str] | None) -> None:
        with (self.home / "log").open("ab") as output:
            process = subprocess.Popen(argv, env=env, stdout=output, stderr=output)
        running.callback(process.wait, 40)
        running.callback(process.terminate)

    def ask(self, port: int, path: str, body: bytes | None = None, **headers: str) -> Any:
        """Return the status and the JSON of an answer; 0 where there is none."""
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310  ours
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except (OSError, json.JSONDecodeError):
            return 0, None

    def rows(self, port: int, query: str = "") -> list[dict[str, Any]]:
        """Return the rows that a server knows of."""
        status, found = self.ask(port, f"/logs/query?limit=100{query}")
        return found["results"] if status == 200 else []


@pytest.fixture(scope="module")
def servers(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers, after some requests of different clients through nginx."""
    with closing(ScriptedUpstream()) as upstream, ExitStack() as running:
        upstream.script = lambda talk: talk.answer(b'{"model":"gpt-test"}')
        home = tmp_path_factory.mktemp("servers")
        found = Servers(home, cluster.new_database(), upstream.url)
        found.start(running)
        for number in range(REQUESTS):
            body = b'{"model":"gpt-test","messages":[]}'
            headers = {"session-id": f"session-{number}", "content-type": "application/json"}
            assert found.ask(found.front, "/v1/chat/completions", body, **headers)[0] == 200
        yield found


def test_every_server_answers_for_all(servers: Servers):
    """Whatever server a request went to, all of them know it, and which one it was."""
    for port in servers.ports:
        wait_until(lambda port=port: len(servers.rows(port)) == REQUESTS, 20)
    nodes = {row["node"] for row in servers.rows(servers.ports[0])}
    assert nodes <= {f"server-{port}" for port in servers.ports}
    assert len(nodes) > 1
    for node in nodes:
        found = [servers.rows(port, f"&node={node}") for port in servers.ports]
        assert found[0]
        assert found[0] == found[1] == found[2]


def test_status_names_every_machine(servers: Servers):
    """The status of each server lists all of them."""
    names = [f"server-{port}" for port in sorted(servers.ports)]

    def told() -> list[str]:
        status, found = servers.ask(servers.ports[0], "/logs/status")
        return sorted(each["node"] for each in found["nodes"]) if status == 200 else []

    wait_until(lambda: told() == sorted(names), 20)
    found = servers.ask(servers.front, "/logs/status")[1]
    assert (found["backend"], found["path"]) == ("ducklake", f"{servers.home}/data/")


def test_content_is_said_to_be_elsewhere(servers: Servers):
    """Who asks the wrong machine for what was said is told which one keeps it."""
    first = servers.ports[0]
    wait_until(lambda: len(servers.rows(first)) == REQUESTS, 20)
    row = next(row for row in servers.rows(first) if row["node"] != f"server-{first}")
    own = int(re.sub(r"\D", "", row["node"]))
    path = f"/logs/entries/{row['request_id']}/content"
    wait_until(lambda: servers.ask(own, path)[0] == 200, 20)

    status, found = servers.ask(first, path)
    assert status == 404
    assert row["node"] in found["error"]["message"]


def test_live_feed_has_the_requests_of_all_machines(servers: Servers):
    """Who follows the events of one server sees the end of a request that another one served."""
    first, second = servers.ports[:2]
    address = f"http://127.0.0.1:{first}/logs/stream"
    with urllib.request.urlopen(address, timeout=30) as stream:
        stream.readline()
        body = b'{"model":"gpt-test","messages":[]}'
        headers = {"content-type": "application/json"}
        assert servers.ask(second, "/v1/chat/completions", body, **headers)[0] == 200
        events = (json.loads(line[5:]) for line in stream if line.startswith(b"data:"))
        ended = (each["data"] for each in events if each["type"] == "request_complete")
        assert next(row for row in ended if row["node"] == f"server-{second}")

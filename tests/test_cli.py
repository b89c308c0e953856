"""The command line: real processes, in front of a real server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import launcher
import pytest
from conftest import ROOT, free_port
from scripted import wait_until

from ccproxy_flask.cli import logs
from ccproxy_flask.cli.clients import Client
from ccproxy_flask.cli.remote import Remote
from ccproxy_flask.cli.show import (
    LESS_NEEDED,
    ROW_NAMES,
    event_line,
    money,
    printable,
    row_cells,
    summary_lines,
    table,
)
from ccproxy_flask.cli.sse import Event, EventReader

MODULE = "ccproxy_flask.cli"
COMMAND = (sys.executable, "-m", MODULE)
CHAT = (
    b'{"id":"c","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200}}'
)
MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":'
    b'"claude-sonnet-4-5-20250929","usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
)
CALL_OPENAI = """
import os, urllib.request
urllib.request.urlopen(os.environ["OPENAI_BASE_URL"] + "/chat/completions",
                       b'{"model":"gpt-4o-mini","messages":[]}').read()
"""
TOKEN = "a-token-of-the-test"  # noqa: S105  no secret
SLEEP = "import time; print('ready', flush=True); time.sleep(60)"


def bare_environment(home: Path) -> dict[str, str]:
    """Return an environment without settings, whose files are in *home*."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(home),
        "COLUMNS": "100",
    }


@pytest.fixture
def cli(tmp_path):
    """Return a function that runs a command to its end: ``cli("logs", "query", env=…)``."""

    def run(*args, env=None, cwd=tmp_path, text=None, seconds=60):
        env = env or bare_environment(tmp_path)
        return launcher.run(MODULE, *args, env=env, cwd=cwd, text=text, seconds=seconds)

    return run


@pytest.fixture
def ask(cli, server):
    """Return a function that runs a command with the settings of the shared server."""

    def run(*args, text=None, **more):
        return cli(*args, env=server.env | more, cwd=server.home, text=text)

    return run


@pytest.fixture
def traffic(server, upstream):
    """Three good requests and a failed one, stored."""
    upstream.script = lambda talk: (
        talk.answer(b'{"error":{"message":"slow down","type":"x"}}', "429 Too Many Requests")
        if b"fail" in talk.request.body
        else talk.answer(CHAT)
    )
    for body in (b"{}", b"{}", b'{"model":"fail"}', b"{}"):
        server.request("POST", "/v1/chat/completions", body)
    return server.records(4)


@contextlib.contextmanager
def started(*args, env, cwd):
    """Give a command that runs meanwhile, as a process with pipes; kill what is left of it."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    process = launcher.start(MODULE, *args, env=env, cwd=cwd, text=True, **pipes)
    with process:  # waits for its end
        try:
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    """Tell whether somebody listens on *port*."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- the command as such -----------------------------------------------------------------------


def test_help_names_the_commands(cli):
    """Without arguments and with --help the commands are listed."""
    told = cli("--help")
    assert told.returncode == 0
    for name in ("serve", "run", "logs", "trace", "config"):
        assert f"\n  {name} " in told.stdout


def test_unknown_command_is_wrong_use(cli):
    """What is no command ends with 2."""
    assert cli("nonsense").returncode == 2


def test_console_script_is_this_command():
    """The installed script runs the same function."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ccproxy-flask": "ccproxy_flask.cli:main"}


# -- serve -------------------------------------------------------------------------------------


def test_serve_listens_where_it_is_told(tmp_path):
    """--port and --workers win over the settings; SIGTERM ends it with 0."""
    port = free_port()
    env = bare_environment(tmp_path) | {"CCPROXY_PORT": str(free_port())}
    with started("serve", "--port", str(port), "--workers", "1", env=env, cwd=tmp_path) as process:
        wait_until(Remote(f"http://127.0.0.1:{port}").is_up)
        process.terminate()
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"listens on http://127.0.0.1:{port}" in told


@pytest.mark.parametrize(
    ("args", "settings", "told"),
    [
        (("--port", "70000"), {}, "--port"),
        (("--workers", "0"), {}, "--workers"),
        (("--host", "a b"), {}, "CCPROXY_HOST"),
        ((), {"CCPROXY_PROT": "1"}, "did you mean CCPROXY_PORT?"),
        (
            ("--host", "192.0.2.1"),
            {"OBSERVABILITY__METRICS_ENDPOINT_ENABLED": "true"},
            "set SECURITY__AUTH_TOKEN",
        ),
    ],
)
def test_serve_refuses_what_is_wrong(cli, tmp_path, args, settings, told):
    """A wrong option or setting ends it with 2, and says which one."""
    ended = cli("serve", *args, env=bare_environment(tmp_path) | settings)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


# -- config ------------------------------------------------------------------------------------

SECRETS = {
    "SECURITY__AUTH_TOKEN": "canary-1",
    "SECURITY__API_KEY_HASH_SECRET": "canary-2",
    "PROVIDERS__ACME__BASE_URL": "https://acme.example/v1",
    "PROVIDERS__ACME__API_KEY": "canary-3",
    "PROXY__OUTBOUND_PROXY": "http://canary-4:canary-5@proxy.example:3128",
}


@pytest.mark.parametrize("form", ["toml", "json"])
def test_config_show_hides_secrets(cli, tmp_path, form):
    """All settings are shown, in a form that programs can read, without any secret."""
    told = cli("config", "show", "--format", form, env=bare_environment(tmp_path) | SECRETS)
    shown = {"toml": tomllib.loads, "json": json.loads}[form](told.stdout)
    assert shown["port"] == 8000
    assert shown["security"]["auth_token"] == shown["security"]["api_key_hash_secret"]
    assert shown["providers"]["acme"]["api_key"] == "***"
    assert shown["proxy"]["outbound_proxy"] == "http://***@proxy.example:3128"
    assert "canary" not in told.stdout + told.stderr


def test_config_show_can_leave_out_defaults(cli, tmp_path):
    """With --set there is only what somebody set."""
    env = bare_environment(tmp_path) | {"CCPROXY_PORT": "9000", "LOGGING__LEVEL": "debug"}
    shown = tomllib.loads(cli("config", "show", "--set", env=env).stdout)
    assert shown == {"port": 9000, "logging": {"level": "debug"}}


def test_config_check_says_what_would_run(cli, tmp_path):
    """Right settings end with 0, and address and database are named."""
    env = bare_environment(tmp_path) | {"OBSERVABILITY__LOGS_COLLECTION_ENABLED": "true"}
    told = cli("config", "check", env=env)
    assert told.returncode == 0
    assert "http://127.0.0.1:8000" in told.stdout
    assert "metrics.duckdb" in told.stdout


def test_config_check_names_the_wrong_setting(cli, tmp_path):
    """A wrong setting ends with 2 and one line."""
    told = cli("config", "check", env=bare_environment(tmp_path) | {"CCPROXY_PORT": "many"})
    assert told.returncode == 2
    assert told.stderr == "ccproxy-flask: CCPROXY_PORT: must be a whole number\n"


def test_config_check_tries_the_directories(cli, tmp_path):
    """A database where no directory can be ends with 1."""
    (tmp_path / "file").touch()
    env = bare_environment(tmp_path) | {
        "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "true",
        "OBSERVABILITY__DUCKDB_PATH": str(tmp_path / "file" / "metrics.duckdb"),
    }
    told = cli("config", "check", env=env)
    assert told.returncode == 1
    assert "is not a directory" in told.stderr


# -- logs --------------------------------------------------------------------------------------


def test_query_shows_rows_newest_first(ask, traffic):
    """A table has the time, status, model, tokens, cost and error of each request."""
    told = ask("logs", "query")
    assert told.returncode == 0, told.stderr
    head, *lines = told.stdout.splitlines()
    assert head.split()[:3] == ["time", "status", "method"]
    assert [line.split()[1] for line in lines] == ["200", "429", "200", "200"]
    assert "gpt-4o-mini-2024-07-18" in lines[0]
    assert "rate_limit" in lines[1]


def test_query_takes_filters(ask, traffic):
    """Filters and --limit reach the API; JSON lines are whole rows."""
    told = ask("logs", "query", "--format", "jsonl", "--status-max", "399", "--limit", "2")
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert [row["status_code"] for row in rows] == [200, 200]
    told = ask("logs", "query", "--format", "json", "--since", "1h", "--error-type", "rate_limit")
    assert [row["status_code"] for row in json.loads(told.stdout)] == [429]
    assert ask("logs", "query", "--format", "jsonl", "--until", "1h").stdout == ""


def test_query_goes_on_after_a_page(server, traffic, monkeypatch):
    """More rows than a page holds are read page by page."""
    monkeypatch.setattr(logs, "MOST_OF_A_PAGE", 2)
    found = list(logs.rows(Remote(server.url), {}, 3))
    assert [row["request_id"] for row in found] == [row["request_id"] for row in traffic[::-1][:3]]
    assert len(list(logs.rows(Remote(server.url), {}, 100))) == 4


def test_wrong_parameter_is_named(ask):
    """A value that is none ends with 2 and the name of the option."""
    told = ask("logs", "query", "--error-type", "nonsense")
    assert told.returncode == 2
    assert "Invalid value for '--error-type'" in told.stderr


def test_nobody_there(cli):
    """Where nothing answers the command ends with 1 and says where it asked."""
    port = free_port()
    told = cli("logs", "query", "--url", f"http://127.0.0.1:{port}")
    assert told.returncode == 1
    assert told.stderr.startswith(f"ccproxy-flask: nothing answers at http://127.0.0.1:{port}: ")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://", "ftp://host", "http://h:x"])
def test_wrong_url(cli, url):
    """--url has to be one."""
    assert cli("logs", "query", "--url", url).returncode == 2


def test_token_of_the_settings_is_sent(cli, start_server):
    """With SECURITY__AUTH_TOKEN in the settings a guarded proxy answers, without it does not."""
    server = start_server(SECURITY__AUTH_TOKEN=TOKEN)
    allowed = {"authorization": f"Bearer {TOKEN}"}
    wait_until(lambda: server.request("GET", "/logs/query", headers=allowed)[0] == 200)
    told = cli("logs", "query", "--format", "json", env=server.env, cwd=server.home)
    assert (told.returncode, json.loads(told.stdout)) == (0, [])
    told = cli("logs", "query", "--url", server.url)
    assert told.returncode == 1
    assert "SECURITY__AUTH_TOKEN" in told.stderr


def test_stats(ask, traffic):
    """The figures of the records, as text and as JSON."""
    told = ask("logs", "stats").stdout
    assert "4 requests, 1 with errors · 3,000 tokens in · 600 out" in told
    assert "gpt-4o-mini-2024-07-18" in told
    found = json.loads(ask("logs", "stats", "--format", "json", "--status-max", "399").stdout)
    assert found["summary"]["total_requests"] == 3


def test_export_writes_whole_files(ask, traffic, tmp_path):
    """All rows are written, to standard output or to a file that is whole."""
    lines = ask("logs", "export").stdout.splitlines()
    assert lines[0].startswith("request_id,timestamp,method")
    assert len(lines) == 5
    rows = ask("logs", "export", "--format", "jsonl", "--status-min", "400").stdout
    assert json.loads(rows)["error_type"] == "rate_limit"
    path = tmp_path / "rows.parquet"
    told = ask("logs", "export", "--format", "parquet", "-o", str(path))
    assert told.returncode == 0, told.stderr
    assert path.read_bytes()[:4] == path.read_bytes()[-4:] == b"PAR1"
    assert [each.name for each in tmp_path.iterdir()] == ["rows.parquet"]
    assert path.stat().st_mode & 0o077 == 0


def test_export_that_fails_leaves_no_file(cli, tmp_path):
    """An answer that breaks off ends with 1 and leaves what was there as it was."""
    path = tmp_path / "rows.csv"
    path.write_text("before")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with started(
            *("logs", "export", "--url", url, "-o", str(path)),
            env=bare_environment(tmp_path),
            cwd=tmp_path,
        ) as process:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")
            _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "broke off" in told
    assert [each.name for each in tmp_path.iterdir()] == ["rows.csv"]
    assert path.read_text() == "before"


def test_sql(ask, traffic):
    """A SELECT is answered as a table, as CSV and as JSON; anything else is refused."""
    text = "SELECT status_code, count(*) AS n FROM access_logs GROUP BY 1 ORDER BY 1"
    lines = ask("logs", "sql", text).stdout.splitlines()
    assert [line.split() for line in lines] == [["status_code", "n"], ["200", "3"], ["429", "1"]]
    assert ask("logs", "sql", "-", "--format", "csv", text=text).stdout == (
        "status_code,n\n200,3\n429,1\n"
    )
    assert json.loads(ask("logs", "sql", "--format", "json", text).stdout) == [
        {"status_code": 200, "n": 3},
        {"status_code": 429, "n": 1},
    ]
    cut = ask("logs", "sql", "--limit", "1", "SELECT status_code FROM access_logs")
    assert (len(cut.stdout.splitlines()), "see --limit" in cut.stderr) == (2, True)
    refused = ask("logs", "sql", "DROP TABLE access_logs")
    assert refused.returncode == 2
    assert refused.stderr.startswith("ccproxy-flask: ")


def test_tail_follows(server, upstream):
    """Each request of any worker is a line when it ends; filters hold; --count ends it."""
    upstream.script = lambda talk: talk.answer(CHAT)
    args = ("logs", "tail", "--count", "2", "--model", "gpt-4o-mini-2024-07-18")
    with started(*args, env=server.env, cwd=server.home) as process:
        assert process.stderr.readline() == f"following {server.url}\n"
        server.request("GET", "/nowhere/at/all")
        for _ in range(2):
            server.request("POST", "/v1/chat/completions", b"{}")
        told, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    lines = told.splitlines()
    assert len(lines) == 2
    assert " 200 POST /v1/chat/completions gpt-4o-mini-2024-07-18 " in lines[0]
    assert " in 1,000 out 200 $0.000270" in lines[0]


def test_tail_ends_quietly_by_ctrl_c(server, upstream):
    """SIGINT ends it with 130, without a traceback; --starts and --json show events whole."""
    args = ("logs", "tail", "--json", "--starts")
    with started(*args, env=server.env, cwd=server.home) as process:
        assert process.stderr.readline() == f"following {server.url}\n"
        server.request("POST", "/v1/chat/completions", b"{}")
        kinds = [json.loads(process.stdout.readline())["type"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert kinds == ["request_start", "request_complete"]
    assert (process.returncode, errors) == (130, "")


@pytest.mark.slow
def test_tail_outlives_a_restart(start_server, upstream):
    """A proxy that is started again is followed again; both requests are shown once."""
    server = start_server()
    upstream.script = lambda talk: talk.answer(CHAT)
    args = ("logs", "tail", "--count", "2", "--json")
    with started(*args, env=server.env, cwd=server.home) as process:
        assert process.stderr.readline() == f"following {server.url}\n"
        server.request("POST", "/v1/chat/completions", b"{}")
        first = json.loads(process.stdout.readline())
        server.stop()
        server.log = server.log_path.open("ab")
        server.start()
        server.request("POST", "/v1/chat/completions", b"{}")
        second, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "trying again" in errors
    seen = [first["data"]["request_id"], json.loads(second)["data"]["request_id"]]
    assert seen == [row["request_id"] for row in server.records(2)]
    assert "Traceback" not in server.log_path.read_text()


# -- trace -------------------------------------------------------------------------------------


def test_trace_shows_a_kept_exchange(cli, start_server, upstream):
    """What the file tracer kept is shown, and can be sent again by curl, without the key."""
    upstream.script = lambda talk: talk.answer(CHAT)
    server = start_server(TRACING__FILE="true", TRACING__VERBOSE="true")
    key = {"authorization": "Bearer sk-canary-000000", "content-type": "application/json"}
    body = b'{"model":"gpt-4o-mini","messages":[]}'
    _, headers, _ = server.request("POST", "/v1/chat/completions", body, key)
    request_id = headers["x-ccproxy-request-id"]

    wait_until(lambda: trace(cli, server, "show", request_id).returncode == 0)
    shown = trace(cli, server, "show", request_id)
    assert f"POST {upstream.url}/v1/chat/completions" in shown.stdout
    assert "HTTP 200" in shown.stdout
    curl = trace(cli, server, "curl", request_id)
    assert curl.stdout.startswith(f"curl -X POST {upstream.url}/v1/chat/completions")
    assert "canary" not in shown.stdout + curl.stdout


def trace(cli, server, *args):
    return cli("trace", *args, env=server.env, cwd=server.home)


@pytest.mark.parametrize("request_id", ["01a1fc33-c93b-7b12-a10d-8f6e8a7ddd5c", "../../etc/passwd"])
def test_trace_that_is_not_there(cli, request_id):
    """An exchange that was not kept ends with 1 and says why."""
    told = cli("trace", "show", request_id)
    assert told.returncode == 1
    assert "TRACING__FILE is off" in told.stderr
    assert "Traceback" not in told.stderr


# -- run ---------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, upstream):
    """Return the environment of a machine where no proxy runs."""
    upstream.script = lambda talk: talk.answer(CHAT)
    return bare_environment(tmp_path) | {
        "CCPROXY_PORT": str(free_port()),
        "CCPROXY_WORKERS": "1",
        "PROVIDERS__OPENAI__BASE_URL": upstream.url,
    }


def test_run_starts_a_proxy_and_tells_what_it_cost(cli, home):
    """Without a proxy one is started, shows all pages, and is stopped; the exit code is kept."""
    pages = (
        "for page in ('/dashboard', '/metrics', '/logs/status'):\n"
        "    urllib.request.urlopen(os.environ['ANTHROPIC_BASE_URL'] + page).read()\n"
    )
    client = CALL_OPENAI + pages + "raise SystemExit(7)"
    told = cli("run", "--", sys.executable, "-c", client, env=home)
    assert told.returncode == 7, told.stderr
    assert "ccproxy: 1 request · 1,000 tokens in · 200 out\n" in told.stderr
    assert "ccproxy: cost: $0.000270\n" in told.stderr
    assert not answers(int(home["CCPROXY_PORT"]))


def test_run_sets_the_base_urls(cli, home):
    """The client finds the proxy in its environment, and its own settings besides."""
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    told = cli("run", "--", sys.executable, "-c", show, env=home | {"OWN": "kept"})
    url = f"http://127.0.0.1:{home['CCPROXY_PORT']}"
    seen = json.loads(told.stdout)
    assert seen["ANTHROPIC_BASE_URL"] == seen["GOOGLE_GEMINI_BASE_URL"] == url
    assert seen["OPENAI_BASE_URL"] == f"{url}/v1"
    assert seen["OWN"] == "kept"
    assert "no request came through" in told.stderr


def test_run_uses_the_proxy_that_runs(ask, server, traffic):
    """A running proxy is used and left running; only what was made meanwhile is counted."""
    told = ask("run", sys.executable, "-c", CALL_OPENAI)
    assert told.returncode == 0, told.stderr
    assert "ccproxy: 1 request · 1,000 tokens in" in told.stderr
    assert "started" not in told.stderr
    assert server.request("GET", "/health")[0] == 200


def test_run_counts_what_a_client_gave_up(ask, server, upstream):
    """A stream that the client left behind is part of what it cost, with the tokens seen."""

    def script(talk):
        talk.start_stream()
        talk.chunk(MESSAGE_START)
        talk.wait_for_hangup()

    upstream.script = script
    client = (
        "import os, urllib.request\n"
        "url = os.environ['ANTHROPIC_BASE_URL'] + '/v1/messages'\n"
        "request = urllib.request.Request(url, b'{}', {'anthropic-version': '2023-06-01'})\n"
        "urllib.request.urlopen(request).readline()\n"
        "os._exit(3)"
    )
    told = ask("run", sys.executable, "-c", client)
    assert told.returncode == 3
    assert "ccproxy: 1 request, 1 with errors · 25 tokens in · 1 out\n" in told.stderr


def test_run_with_an_address(cli, server, upstream):
    """--url names a proxy, which has to be there."""
    upstream.script = lambda talk: talk.answer(CHAT)
    told = cli("run", "--url", server.url, "--", sys.executable, "-c", CALL_OPENAI)
    assert (told.returncode, "1 request" in told.stderr) == (0, True)
    told = cli("run", "--url", f"http://127.0.0.1:{free_port()}", "true")
    assert told.returncode == 1
    assert "nothing answers" in told.stderr


@pytest.mark.slow
def test_commands_share_the_proxy_they_started(tmp_path, home):
    """The one that started it may end first: the last one stops it."""
    port = int(home["CCPROXY_PORT"])
    client = ("run", "--", sys.executable, "-c", SLEEP)
    with (
        started(*client, env=home, cwd=tmp_path) as first,
        started(*client, env=home, cwd=tmp_path) as second,
    ):
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        endings = []
        for process in (first, second):
            process.terminate()
            _, told = process.communicate(timeout=30)
            endings.append((process.returncode, answers(port), "not known" in told))
    assert endings == [(143, True, False), (143, False, False)]


@pytest.mark.slow
def test_proxy_of_a_killed_command_is_stopped_by_the_next(cli, tmp_path, home):
    """A command that is killed leaves its proxy running; the next one uses and stops it."""
    port = int(home["CCPROXY_PORT"])
    with started("run", "--", "sh", "-c", "echo $$; exec sleep 60", env=home, cwd=tmp_path) as lost:
        client = int(lost.stdout.readline())
        lost.kill()
        lost.wait(10)
        os.kill(client, signal.SIGKILL)
    assert answers(port)
    told = cli("run", "true", env=home)
    assert (told.returncode, "started" in told.stderr) == (0, False)
    assert not answers(port)


def test_proxy_on_any_address_is_found_on_this_machine(cli, home):
    """A proxy that listens on all addresses is reached through the loopback one."""
    everywhere = {"CCPROXY_HOST": "0.0.0.0", "SECURITY__AUTH_TOKEN": TOKEN}  # noqa: S104  meant
    told = cli("run", "sh", "-c", "echo $OPENAI_BASE_URL", env=home | everywhere)
    assert told.stdout == f"http://127.0.0.1:{home['CCPROXY_PORT']}/v1\n"
    assert "no request came through" in told.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_run_passes_signals_on(ask, server, number):
    """A signal sent to the command reaches the client, once, and the client decides."""
    client = (
        "import signal, sys, time; seen = []\n"
        f"signal.signal({number:d}, lambda number, frame: seen.append(number))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.2); sys.exit(40 + len(seen))"
    )
    with started(
        "run", "--", sys.executable, "-c", client, env=server.env, cwd=server.home
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == 41


def test_run_tells_of_a_client_that_was_killed(ask):
    """A client that a signal ended gives 128 and the signal's number, as in a shell."""
    assert ask("run", "--", "sh", "-c", "kill -9 $$").returncode == 137


@pytest.mark.parametrize(("command", "code"), [("/no/such/program", 127), ("/etc", 126)])
def test_run_without_a_client(ask, command, code):
    """A client that is not there, or is no program, gives the codes of a shell."""
    told = ask("run", "--", command)
    assert told.returncode == code
    assert command in told.stderr


def test_run_gives_the_client_the_terminal(server):
    """In a terminal Ctrl-C reaches the client once, and not the command or the proxy."""
    client = (
        "import signal, sys, time; seen = []\n"
        "signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))\n"
        "print('ready', sys.stdin.isatty(), flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.2); sys.exit(40 + len(seen))"
    )
    ours, theirs = pty.openpty()
    # The first terminal that the leader of a session opens becomes that of the session.
    in_terminal = f'exec "$0" "$@" <>{os.ttyname(theirs)} >&0 2>&0'
    process = subprocess.Popen(
        ["sh", "-c", in_terminal, *COMMAND, "run", "--", sys.executable, "-c", client],
        env=server.env,
        cwd=server.home,
        start_new_session=True,
    )
    try:
        shown = b""
        while b"ready True" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"\x03")
        assert process.wait(20) == 41
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_run_where_something_else_listens(cli, home):
    """A server that is not the proxy is not taken for it."""
    with (
        socket.create_server(("127.0.0.1", int(home["CCPROXY_PORT"]))) as listener,
        started("run", "true", env=home, cwd=home["HOME"]) as process,
    ):
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "is not the proxy" in told


def test_run_with_a_proxy_that_cannot_start(cli, home):
    """The reason for which a proxy did not start is told, and the client is not run."""
    told = cli("run", "echo", "ran", env=home | {"CCPROXY_HOST": "192.0.2.1"})
    assert told.returncode == 1
    assert "the proxy did not start: " in told.stderr
    assert told.stdout == ""


def test_run_with_records_switched_off(cli, home):
    """Where records are switched off on purpose they stay off, and the cost is not known."""
    off = {
        "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "false",
        "OBSERVABILITY__LOGS_ENDPOINTS_ENABLED": "true",
    }
    told = cli("run", "true", env=home | off)
    assert told.returncode == 0
    assert "what it cost is not known: Logs collection is disabled" in told.stderr


def test_codex_is_told_by_an_option():
    """Codex reads its base URL from its configuration alone; others get their command as it is."""
    url = "http://127.0.0.1:8000"
    assert Client(["/usr/bin/codex", "exec", "hi"], {}, url).argv() == [
        "/usr/bin/codex",
        "-c",
        'openai_base_url="http://127.0.0.1:8000/v1"',
        "exec",
        "hi",
    ]
    assert Client(["claude", "-p", "hi"], {}, url).argv() == ["claude", "-p", "hi"]


def test_clients_reach_the_proxy_directly():
    """A client that goes out through a proxy of its own does not look for ours there."""
    found = Client(["x"], {"NO_PROXY": "a.example"}, "http://127.0.0.1:8000").environment()
    assert found["NO_PROXY"] == "a.example,127.0.0.1"
    assert found["no_proxy"] == "127.0.0.1"
    assert "NO_PROXY" not in Client(["x"], {}, "https://proxy.example").environment()


FEATURES = {
    "ENABLE_TOOL_SEARCH": "true",
    "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
    "CLAUDE_CODE_PROPAGATE_TRACEPARENT": "1",
    "CLAUDE_CODE_ENABLE_FINE_GRAINED_TOOL_STREAMING": "1",
}
SHOW_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


def test_run_keeps_the_features_of_claude_code(ask):
    """What it switches off behind a foreign base URL is on again, but for what somebody set."""
    client = ("--", sys.executable, "-c", SHOW_ENVIRONMENT)
    assert FEATURES.items() <= json.loads(ask("run", *client).stdout).items()
    seen = json.loads(ask("run", *client, ENABLE_TOOL_SEARCH="auto:5").stdout)
    assert seen["ENABLE_TOOL_SEARCH"] == "auto:5"
    seen = json.loads(ask("run", "--plain", *client).stdout)
    assert not FEATURES.keys() & seen.keys()
    assert seen["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")


def test_run_explains_what_it_sets(cli, tmp_path, home):
    """--explain names each variable, why, and its documentation, and starts nothing."""
    environ = home | {"ENABLE_TOOL_SEARCH": "false"}
    told = cli("run", "--explain", "--", "claude", env=environ).stdout
    assert "ENABLE_TOOL_SEARCH=false (yours, left as it is)\n    Load the definitions" in told
    for name in FEATURES:
        assert name in told
    assert told.count("    https://") == 3 + len(FEATURES)
    assert not answers(int(home["CCPROXY_PORT"]))
    plain = cli("run", "--explain", "--plain", "--", "codex", "exec", env=environ).stdout
    assert "CLAUDE_CODE" not in plain
    assert "codex -c 'openai_base_url=" in plain


# -- what is shown -----------------------------------------------------------------------------


def test_events_may_be_cut_anywhere():
    """The stream's events are the same wherever its bytes are cut."""
    stream = (
        ": heartbeat\n\nevent: a\r\nid: 1\r\ndata: {\r\ndata: é}\r\n\r\n"
        "retry: 1\nid: 2\ndata:x\n\nid: 3\n\ndata: half"
    ).encode()
    wanted = [Event("a", "{\né}", "1"), Event("message", "x", "2")]
    for cut in range(len(stream)):
        reader = EventReader()
        assert [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])] == wanted
        assert reader.last_id == "3"


def test_half_an_event_is_forgotten():
    """After a break the stream goes on behind the last whole event."""
    reader = EventReader()
    list(reader.feed(b"id: 1\ndata: a\n\nid: 2\ndata: lost"))
    reader.forget_half()
    assert reader.last_id == "1"
    assert list(reader.feed(b"id: 2\ndata: b\n\n")) == [Event("message", "b", "2")]


def test_tables_keep_to_their_columns():
    """Numbers are to the right; long texts are cut, and cannot command the terminal."""
    text = table(("name", "n"), [("a\x1b[2J\nb", 5), ("x" * 80, None), (True, 1234)])
    assert text.splitlines() == [
        f"name{' ' * 61}n",
        f"a [2J b{' ' * 58}5",
        f"{'x' * 59}…     -",
        f"yes{' ' * 59}1234",
    ]


@pytest.mark.parametrize("width", [80, 100, 140, 400])
def test_tables_fit_the_window(width):
    """No line is wider than the window; status, model, output and cost are always there."""
    row = {
        "timestamp": "2026-11-21T16:20:34.123456Z", "status_code": 200, "method": "POST",
        "path": "/v1/chat/completions?" + "x" * 60, "model": "gpt-4o-mini-2024-07-18",
        "duration_ms": 123456.7, "tokens_input": 1_234_567, "cache_read_tokens": 1_234_567,
        "tokens_output": 12_345, "cost_usd": "12.345678", "error_type": "client_disconnected",
    }  # fmt: skip
    head, line = table(ROW_NAMES, [row_cells(row, short=True)], width, LESS_NEEDED).splitlines()
    assert max(len(head), len(line)) <= width
    assert {"time", "status", "path", "model", "output", "USD"} <= set(head.split())
    assert line.startswith("11-21 16:20:34")
    assert "12.345678" in line


def test_what_came_from_outside_is_shown_as_text():
    """Control characters, and those that turn the direction around, are shown as blanks."""
    assert printable("a\x1b]0;x\x07b\u202ec\x9bd\ud800") == "a ]0;x b c d "
    event = {"type": "request_error", "data": {"path": "/\x1b[31m", "method": "GET"}}
    assert event_line(event) == "- --- GET / [31m"


def test_unknown_costs_are_told():
    """What has no known cost is named beside the sum of what has one."""
    summary = {
        "total_requests": 4,
        "total_successful_requests": 3,
        "total_error_requests": 1,
        "total_tokens_input": 1,
        "total_tokens_output": 2,
        "total_cache_read_tokens": 3000,
        "total_cache_write_tokens": 4,
        "total_cost_usd": 1.5,
        "total_tokens_all_input": 3005,
        "unpriced_requests": 1,
    }
    assert summary_lines(summary) == [
        "4 requests, 1 with errors · 3,005 tokens in (3,000 read from and 4 written to caches)"
        " · 2 out",
        "cost: $1.50 (1 request without a price)",
    ]
    assert summary_lines(summary | {"total_cost_usd": None})[1] == "cost: unknown"


@pytest.mark.parametrize(
    ("usd", "shown"),
    [("0", "$0.00"), ("0.0000123", "$0.000012"), ("0.1234567", "$0.1235"), ("1234.5", "$1,234.50")],
)
def test_money(usd, shown):
    """Small amounts have more digits."""
    assert money(Decimal(usd)) == shown

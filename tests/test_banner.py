"""The banner: where the server is, and what each client needs to be told."""

from __future__ import annotations

import itertools
import subprocess

from conftest import ROOT

from ccproxy_flask.banner import CLAUDE_CODE, CLIENTS, banner
from ccproxy_flask.settings import Settings

EVERYTHING = {
    "metrics_endpoint_enabled": True,
    "logs_endpoints_enabled": True,
    "dashboard_enabled": True,
    "logs_collection_enabled": True,
}


def settings(**sections):
    return Settings.model_validate(sections)


def test_each_client_has_one_line_with_the_address():
    """Every client's line carries the address of the server and nothing to fill in."""
    lines = banner(settings(), ["http://127.0.0.1:8123"]).splitlines()
    assert max(map(len, lines[:-1])) <= 100
    for client, _ in CLIENTS:
        [line] = [line for line in lines if line.strip().startswith(client)]
        assert "http://127.0.0.1:8123" in line
        assert "{url}" not in line


def test_what_does_not_fit_a_line_goes_on_below_it():
    """The columns stay columns: each further line begins where the commands and names do."""
    lines = banner(settings(), ["http://127.0.0.1:8000"]).splitlines()[2:]
    begin = lines[0].index("ANTHROPIC_BASE_URL")
    listed = list(itertools.takewhile(bool, lines))
    assert {(line[begin - 1] == " ", line[begin] != " ") for line in listed} == {(True, True)}


def test_codex_is_told_by_its_configuration():
    """Codex takes its address from its configuration, never from the environment."""
    text = banner(settings(), ["http://127.0.0.1:8000"])
    assert """codex -c 'openai_base_url="http://127.0.0.1:8000/v1"'""" in text


def test_pages_are_named_where_they_are_served():
    """What is turned off is not advertised."""
    shown = banner(settings(observability=EVERYTHING), ["http://127.0.0.1:8000"])
    assert "http://127.0.0.1:8000/dashboard" in shown
    assert "http://127.0.0.1:8000/metrics" in shown
    assert "metrics.duckdb" in shown
    hidden = banner(settings(), ["http://127.0.0.1:8000"])
    assert "/dashboard" not in hidden
    assert "/metrics" not in hidden
    assert "are not kept" in hidden


def test_any_address_is_shown_as_one_that_can_be_called():
    """Listening everywhere, clients of this machine are told the loopback address."""
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:9 " in banner(settings(), ["http://0.0.0.0:9"])
    assert "ANTHROPIC_BASE_URL=http://[::1]:9 " in banner(settings(), ["http://[::]:9"])


def test_line_of_claude_code_is_one_command():
    """However it is wrapped, a shell reads it as one command with all variables."""
    text = banner(settings(), ["http://127.0.0.1:8000"])
    command = text[text.index("ANTHROPIC_BASE_URL") : text.index("Codex")]
    shown = command.replace(" claude\n", " env\n")
    told = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True).stdout
    wanted = {f"{each.name}={each.value}" for each in CLAUDE_CODE}
    assert wanted | {"ANTHROPIC_BASE_URL=http://127.0.0.1:8000"} <= set(told.splitlines())


def test_readme_says_what_the_banner_says():
    """The README has each client's line, word for word."""
    text = " ".join((ROOT / "README.md").read_text().replace("\\\n", " ").split())
    for _, line in CLIENTS:
        assert line.format(url="http://127.0.0.1:8000") in text


def test_no_secret_is_printed():
    """Tokens and keys stay out of what is printed."""
    secret = settings(security={"auth_token": "CANARY"}, providers={"groq": {"api_key": "CANARY"}})
    assert "CANARY" not in banner(secret, ["http://127.0.0.1:8000"])

"""Settings: where they come from, which one counts, and what a wrong one says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccproxy_flask.errors import SettingsError
from ccproxy_flask.settings import Settings, is_loopback, load_settings

SHIPPED = Path(__file__).parent.parent / "ccproxy.toml"


FLAGS = {
    "metrics_endpoint_enabled",
    "logs_endpoints_enabled",
    "logs_collection_enabled",
    "dashboard_enabled",
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An environment and a working directory without any settings."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def refusal(directory: Path, **environ: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ, directory)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_defaults_are_the_published_ones(elsewhere):
    """With nothing set, nothing is recorded or shown, and only this machine is served."""
    settings = load_settings({}, elsewhere)
    shown = settings.observability
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert not shown.metrics_endpoint_enabled
    assert not shown.logs_endpoints_enabled
    assert not shown.dashboard_enabled
    assert not shown.logs_collection_enabled
    assert (shown.log_storage_backend, shown.pushgateway_url) == ("duckdb", None)
    assert (shown.pushgateway_job, shown.stats_printing_format) == ("ccproxy", "console")
    scheduler = settings.scheduler
    assert not scheduler.pushgateway_enabled
    assert not scheduler.stats_printing_enabled
    assert scheduler.pushgateway_interval_seconds == 60
    assert scheduler.pushgateway_max_backoff_seconds == 300
    assert scheduler.stats_printing_interval_seconds == 300
    assert settings.duckdb_path == elsewhere / "home/.local/share/ccproxy/metrics.duckdb"
    assert settings == load_settings({}, elsewhere)


@pytest.mark.parametrize(
    ("environ", "off"),
    [
        ({}, set()),
        ({"OBSERVABILITY__DASHBOARD_ENABLED": "false"}, {"dashboard_enabled"}),
        (
            {"OBSERVABILITY__LOGS_ENDPOINTS_ENABLED": "false"},
            {"logs_endpoints_enabled", "dashboard_enabled"},
        ),
        (
            {"OBSERVABILITY__LOG_STORAGE_BACKEND": "none"},
            {"logs_endpoints_enabled", "logs_collection_enabled", "dashboard_enabled"},
        ),
        ({"CCPROXY_HOST": "0.0.0.0"}, FLAGS),  # noqa: S104  meant
        ({"CCPROXY_HOST": "0.0.0.0", "SECURITY__AUTH_TOKEN": "t0ken"}, set()),  # noqa: S104
        ({"CCPROXY_PROFILE": "library"}, FLAGS),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_local_profile_shows_what_is_not_turned_off(elsewhere, environ, off):
    """`serve` turns on what the settings leave open, where other machines cannot see it."""
    shown = load_settings(environ, elsewhere, profile="local").observability
    assert {name for name in FLAGS if not getattr(shown, name)} == off


def test_shipped_file_turns_everything_on_for_this_machine(elsewhere):
    """The checkout's ccproxy.toml records and shows everything, on the loopback address."""
    settings = load_settings({"CONFIG_FILE": str(SHIPPED)}, elsewhere)
    shown = settings.observability
    assert settings.recording
    assert shown.logs_endpoints_enabled
    assert shown.dashboard_enabled
    assert shown.metrics_endpoint_enabled
    assert is_loopback(settings.host)


def test_environment_wins_over_dotenv_over_toml(elsewhere):
    """The environment is the strongest source, then .env, then the TOML file."""
    (elsewhere / "ccproxy.toml").write_text(
        "port = 1\nworkers = 1\n[proxy]\nmax_body_bytes = 1\nmax_idle_connections = 7\n"
    )
    (elsewhere / ".env").write_text("CCPROXY_PORT=2\nPROXY__MAX_BODY_BYTES=2\n")
    settings = load_settings({"CCPROXY_PORT": "3"}, elsewhere)
    assert (settings.port, settings.workers) == (3, 1)
    assert (settings.proxy.max_body_bytes, settings.proxy.max_idle_connections) == (2, 7)


@pytest.mark.parametrize("place", [".ccproxy.toml", "ccproxy.toml", "xdg/ccproxy/config.toml"])
def test_toml_file_is_found_in_its_places(elsewhere, place):
    """The working directory and the user's configuration directory are looked at."""
    (elsewhere / place).parent.mkdir(parents=True, exist_ok=True)
    (elsewhere / place).write_text("port = 4321\n")
    settings = load_settings({"XDG_CONFIG_HOME": str(elsewhere / "xdg")}, elsewhere)
    assert settings.port == 4321


def test_hidden_file_wins_over_the_shipped_one(elsewhere):
    """.ccproxy.toml, a person's own, counts instead of ccproxy.toml."""
    (elsewhere / ".ccproxy.toml").write_text("port = 1\n")
    (elsewhere / "ccproxy.toml").write_text("port = 2\n")
    assert load_settings({}, elsewhere).port == 1


def test_config_file_may_be_named_in_dotenv(elsewhere):
    """CONFIG_FILE counts from the environment and from .env."""
    (elsewhere / "own.toml").write_text("port = 5\n")
    (elsewhere / ".env").write_text("CONFIG_FILE=own.toml\n")
    assert load_settings({}, elsewhere).port == 5


def test_names_are_read_in_either_case(elsewhere):
    """A provider of the file can be completed from the environment, whatever its case."""
    (elsewhere / "ccproxy.toml").write_text("[Providers.Groq]\nBase_URL = 'http://own'\n")
    settings = load_settings({"PROVIDERS__GROQ__API": "openai"}, elsewhere)
    assert settings.providers["groq"].base_url == "http://own"
    assert settings.providers["groq"].api == "openai"


def test_empty_value_counts_as_not_set(elsewhere):
    """An empty variable, as compose files make them, changes nothing."""
    (elsewhere / "ccproxy.toml").write_text("[security]\nauth_token = 'kept'\n")
    names = ("SECURITY__AUTH_TOKEN", "CCPROXY_HOST", "CCPROXY_PORT", "PROXY__MAX_BODY_BYTES")
    settings = load_settings(dict.fromkeys(names, ""), elsewhere)
    assert settings.security.auth_token is not None
    assert settings.security.auth_token.get_secret_value() == "kept"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_dollar_in_dotenv_is_a_dollar(elsewhere):
    """Values of .env are taken as they are written."""
    (elsewhere / ".env").write_text("SECURITY__AUTH_TOKEN='a${HOME}b'\n")
    token = load_settings({}, elsewhere).security.auth_token
    assert token is not None
    assert token.get_secret_value() == "a${HOME}b"


def test_overrides_win_over_the_environment(elsewhere):
    """What create_app is called with counts most."""
    settings = load_settings({"CCPROXY_PORT": "1"}, elsewhere, port=2, proxy={"max_body_bytes": 9})
    assert (settings.port, settings.proxy.max_body_bytes) == (2, 9)


def test_data_home_moves_database_and_journal(elsewhere):
    """$XDG_DATA_HOME holds the database, and the journal beside it."""
    settings = load_settings({"XDG_DATA_HOME": "/data"}, elsewhere)
    assert settings.duckdb_path == Path("/data/ccproxy/metrics.duckdb")
    assert settings.journal_directory == Path("/data/ccproxy/journal")
    assert settings.recorder_socket == Path("/data/ccproxy/journal/recorder.sock")


def test_socket_path_stays_short_enough_for_the_system(elsewhere):
    """A deep journal directory does not make a socket that cannot be bound."""
    settings = load_settings({"JOURNAL__DIRECTORY": "/" + "deep/" * 40}, elsewhere)
    again = load_settings({"JOURNAL__DIRECTORY": "/" + "deep/" * 40}, elsewhere)
    assert len(str(settings.recorder_socket)) < 104
    assert settings.recorder_socket == again.recorder_socket


def test_new_provider_needs_an_address_alone(elsewhere):
    """A provider is a row of settings; the built-in ones stay."""
    settings = load_settings({"PROVIDERS__MY_LLM__BASE_URL": "https://llm.example/v1/"}, elsewhere)
    assert settings.providers["my_llm"].base_url == "https://llm.example/v1"
    assert settings.providers["my_llm"].api == "auto"
    assert {"anthropic", "openai", "gemini", "groq", "ollama"} <= settings.providers.keys()


def test_allowed_hosts_are_a_list_with_commas(elsewhere):
    """The environment lists hosts with commas, the file as a list."""
    settings = load_settings({"SECURITY__ALLOWED_HOSTS": "A.example, b.example,"}, elsewhere)
    assert settings.security.allowed_hosts == ("a.example", "b.example")


def test_settings_cannot_be_changed(elsewhere):
    """Settings are read once; nothing changes them later."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}, elsewhere).port = 1  # type: ignore[misc]


WRONG = [
    (
        "PROXY__MAX_BODY",
        "1",
        "PROXY__MAX_BODY: unknown setting; did you mean PROXY__MAX_BODY_BYTES?",
    ),
    (
        "OBSERVABILTY__DASHBOARD_ENABLED",
        "1",
        (
            "OBSERVABILTY__DASHBOARD_ENABLED: unknown setting; "
            "did you mean OBSERVABILITY__DASHBOARD_ENABLED?"
        ),
    ),
    ("CCPROXY_PROT", "1", "CCPROXY_PROT: unknown setting; did you mean CCPROXY_PORT?"),
    (
        "CCPROXY_PROXY__MAX_BODY_BYTES",
        "1",
        "CCPROXY_PROXY__MAX_BODY_BYTES: unknown setting; did you mean PROXY__MAX_BODY_BYTES?",
    ),
    (
        "PROVIDERS__X__BASE",
        "http://x",
        "PROVIDERS__X__BASE: unknown setting; did you mean PROVIDERS__X__BASE_URL?",
    ),
    ("CCPROXY_PORT", "x", "CCPROXY_PORT: must be a whole number"),
    ("CCPROXY_PORT", "70000", "CCPROXY_PORT: must be less than or equal to 65535"),
    ("CCPROXY_HOST", " ", "CCPROXY_HOST: must match pattern"),
    ("CCPROXY_WORKERS", "0", "CCPROXY_WORKERS: must be greater than or equal to 1"),
    ("PROXY__TIMEOUT_READ_SECONDS", "nan", "PROXY__TIMEOUT_READ_SECONDS: must be"),
    ("PROXY__TIMEOUT_READ_SECONDS", "1e300", "PROXY__TIMEOUT_READ_SECONDS: must be less than"),
    ("PROXY__TIMEOUT_READ_SECONDS", "0", "PROXY__TIMEOUT_READ_SECONDS: must be greater than 0"),
    ("PROXY__CA_BUNDLE", "/nowhere", "PROXY__CA_BUNDLE: there is no file /nowhere"),
    ("PROXY__MAX_BODY_BYTES__X", "1", "PROXY__MAX_BODY_BYTES: must be a valid integer"),
    ("JOURNAL__MAX_BYTES", "5GB", "JOURNAL__MAX_BYTES: must be a whole number"),
    ("LOGGING__LEVEL", "loud", "LOGGING__LEVEL: must be 'debug', 'info', 'warning' or 'error'"),
    (
        "OBSERVABILITY__DASHBOARD_ENABLED",
        "maybe",
        "OBSERVABILITY__DASHBOARD_ENABLED: must be true or false",
    ),
    (
        "OBSERVABILITY__LOG_STORAGE_BACKEND",
        "sqlite",
        "OBSERVABILITY__LOG_STORAGE_BACKEND: must be 'duckdb'",
    ),
    ("PROVIDERS__LOGS__BASE_URL", "http://x", "PROVIDERS__LOGS: cannot be the name of a provider"),
    ("PROVIDERS__1X__BASE_URL", "http://x", "PROVIDERS__1X: cannot be the name of a provider"),
    ("PROVIDERS__X__API", "openai", "PROVIDERS__X__BASE_URL: is needed"),
    ("PROVIDERS__X", "http://x", "PROVIDERS__X: is a section with settings in it"),
    ("PROVIDERS__GROQ__BASE_URL", "ftp://x", "PROVIDERS__GROQ__BASE_URL: must be http"),
    ("PROVIDERS__GROQ__BASE_URL", "http://x:port", "PROVIDERS__GROQ__BASE_URL: must be http"),
    ("PROVIDERS__GROQ__BASE_URL", "http://x?y", "PROVIDERS__GROQ__BASE_URL: must be http"),
    (
        "PROVIDERS__GROQ__BASE_URL",
        "http://\u4f8b.example",
        "PROVIDERS__GROQ__BASE_URL: must be ASCII",
    ),
    ("PROVIDERS__GROQ__API_KEY", "a\r\nx-more: 1", "PROVIDERS__GROQ__API_KEY: must be one line"),
    ("PROVIDERS__GROQ__API_KEY", "sk-\u20ac", "PROVIDERS__GROQ__API_KEY: must be one line"),
    ("SECURITY__ALLOWED_HOSTS", "http://x", "SECURITY__ALLOWED_HOSTS__0: must be host names"),
    ("SECURITY__AUTH_TOKEN", "two words", "SECURITY__AUTH_TOKEN: must be of ASCII letters"),
    ("CONFIG_FILE", "nowhere.toml", "CONFIG_FILE: there is no file"),
]


@pytest.mark.parametrize(("name", "value", "told"), WRONG, ids=[f"{n}={v}" for n, v, _ in WRONG])
def test_wrong_variable_is_one_clear_line(elsewhere, name, value, told):
    """A wrong setting is named with what is wrong; an unknown one with the nearest there is."""
    assert refusal(elsewhere, **{name: value}).startswith(told)


WRONG_TOML = [
    ("x = ", "ccproxy.toml is not TOML: Invalid value"),
    ("port = true", "CCPROXY_PORT (in ccproxy.toml): must be a number, not true or false"),
    ("port = 1.5", "CCPROXY_PORT (in ccproxy.toml): must be a whole number"),
    ("prot = 1", "PROT (in ccproxy.toml): unknown setting; did you mean CCPROXY_PORT?"),
    ("[observe]\nx = 1", "OBSERVE (in ccproxy.toml): unknown setting; did you mean OBSERVABILITY?"),
    ("proxy = 1", "PROXY (in ccproxy.toml): is a section with settings in it, not a setting"),
    ("providers = 1", "PROVIDERS (in ccproxy.toml): is a section with settings in it"),
    ("security.allowed_hosts = 5", "SECURITY__ALLOWED_HOSTS (in ccproxy.toml): must be a list"),
    ('[security]\n"a\\nb" = 1', "SECURITY__A B (in ccproxy.toml): unknown setting"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_TOML, ids=[text for text, _ in WRONG_TOML])
def test_wrong_file_is_one_clear_line(elsewhere, text, told):
    """A mistake in the file names the file."""
    (elsewhere / "ccproxy.toml").write_text(text)
    assert told in refusal(elsewhere)


def test_files_that_are_not_text_are_refused(elsewhere):
    """Bytes that are not UTF-8 are an error line, in TOML and in .env."""
    (elsewhere / "ccproxy.toml").write_bytes(b"\xff\xfe")
    assert "ccproxy.toml is not TOML" in refusal(elsewhere)
    (elsewhere / "ccproxy.toml").unlink()
    (elsewhere / ".env").write_bytes(b"CCPROXY_PORT=\xff\xfe")
    assert ".env is not UTF-8" in refusal(elsewhere)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OBSERVABILITY__DASHBOARD_ENABLED": "1"}, "needs OBSERVABILITY__LOGS_ENDPOINTS_ENABLED"),
        (
            {
                "OBSERVABILITY__LOGS_COLLECTION_ENABLED": "1",
                "OBSERVABILITY__LOG_STORAGE_BACKEND": "none",
            },
            "OBSERVABILITY__LOG_STORAGE_BACKEND=none contradicts",
        ),
        (
            {"OBSERVABILITY__METRICS_ENDPOINT_ENABLED": "1", "CCPROXY_HOST": "0.0.0.0"},  # noqa: S104  refused
            "CCPROXY_HOST: 0.0.0.0 is not a loopback address: set SECURITY__AUTH_TOKEN",
        ),
    ],
    ids=["dashboard without logs", "collection without store", "open pages without token"],
)
def test_contradictions_are_refused(elsewhere, environ, told):
    """Settings that cannot be meant together stop the start."""
    assert told in refusal(elsewhere, **environ)


def test_open_pages_with_a_token_are_allowed(elsewhere):
    """Other machines may be served once a token guards the operator pages."""
    environ = {
        "OBSERVABILITY__METRICS_ENDPOINT_ENABLED": "1",
        "CCPROXY_HOST": "0.0.0.0",  # noqa: S104  guarded by the token
        "SECURITY__AUTH_TOKEN": "t0ken",
    }
    assert load_settings(environ, elsewhere).host == environ["CCPROXY_HOST"]


def test_names_of_other_programs_are_left_alone(elsewhere):
    """Only names under our own prefixes are ours to complain about."""
    environ = {"DJANGO__DEBUG": "1", "HTTP_PROXY": "http://x", "PATH": "/bin", "A__B__C": "1"}
    assert load_settings(environ, elsewhere) == load_settings({}, elsewhere)


CANARY = "canary-sk-ant-0123456789"
SECRET_NAMES = (
    "SECURITY__AUTH_TOKEN",
    "SECURITY__API_KEY_HASH_SECRET",
    "PROVIDERS__X__API_KEY",
    "PROVIDERS__GROQ__API_KEY",
    "PROXY__OUTBOUND_PROXY",
)


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("value", [CANARY, f" {CANARY}\n", f"http://u:{CANARY}@h:1"])
def test_secrets_are_in_no_error_line_and_no_repr(elsewhere, name, value):
    """Whatever else is wrong, a secret is not in what is said about it."""
    environ = {name: value, "PROVIDERS__X__BASE_URL": "http://x"}
    for more in ({}, {"CCPROXY_PORT": "x"}, {"PROVIDERS__X__NOPE": "1"}, {f"{name}__X": "1"}):
        try:
            told = repr(load_settings({**environ, **more}, elsewhere))
        except SettingsError as refused:
            told = str(refused)
        assert CANARY not in told


@given(
    st.text(max_size=40),
    st.sampled_from(["[security]\nauth_token = ", "[providers.x]\napi_key = "]),
)
def test_broken_toml_does_not_show_the_secret_in_it(tmp_path_factory, text, before):
    """A syntax error near a secret tells where, not what."""
    directory = tmp_path_factory.mktemp("toml")
    (directory / "ccproxy.toml").write_bytes((before + f"{text}'{CANARY}").encode())
    try:
        told = repr(load_settings({}, directory))
    except SettingsError as refused:
        told = str(refused)
        assert "\n" not in told
    assert CANARY not in told


def test_every_setting_is_described():
    """Every option has a sentence that says what it does; the reference is made of them."""
    assert list(undescribed(Settings)) == []


def undescribed(model, path=""):
    for name, field in model.model_fields.items():
        below = field.annotation
        if hasattr(below, "model_fields"):
            yield from undescribed(below, f"{path}{name}.")
        elif not re.search(r"[.…]$", field.description or ""):
            yield f"{path}{name}"


@pytest.mark.parametrize(("value", "kept"), [("sk-1\n", "sk-1"), (" \n", None), ("", None)])
def test_key_from_a_file_is_taken_without_its_line_end(
    elsewhere: Path, value: str, kept: str | None
) -> None:
    """A key is taken without white space around it; an empty one is none."""
    settings = load_settings({"PROVIDERS__GROQ__API_KEY": value}, elsewhere)

    key = settings.providers["groq"].api_key
    assert (key.get_secret_value() if key is not None else None) == kept

"""Every option, typed, in one place. ``docs/configuration.md`` is generated from here.

Sources, strongest first: the environment (``SECTION__NAME``; ``CCPROXY_HOST`` and the like for
what has no section), ``.env``, a TOML file
(``$CONFIG_FILE``, else ``.ccproxy.toml`` or ``ccproxy.toml`` in the working directory, else
``$XDG_CONFIG_HOME/ccproxy/config.toml``), the default.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from .errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Api = Literal["auto", "anthropic_messages", "openai", "gemini", "ollama"]
RESERVED_NAMES = frozenset({"api", "v1", "logs", "dashboard", "metrics", "health", "static"})
_PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# A unix socket's path has a bound of 104 (BSD) or 108 (Linux) bytes.
_LONGEST_SOCKET_PATH = 100

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


class Observability(_Section):
    """What is recorded and shown."""

    metrics_endpoint_enabled: bool = False
    """Serve `/metrics`."""
    logs_endpoints_enabled: bool = False
    """Serve `/logs/…`."""
    dashboard_enabled: bool = False
    """Serve `/dashboard`; needs the logs endpoints."""
    logs_collection_enabled: bool = False
    """Write a record of each proxied request."""
    log_storage_backend: Literal["duckdb", "none"] = "duckdb"
    """Where records are kept."""
    duckdb_path: Path | None = None
    """The database file. Default: `$XDG_DATA_HOME/ccproxy/metrics.duckdb`, that is
    `~/.local/share/ccproxy/metrics.duckdb`."""
    max_models: Annotated[int, Field(ge=1, le=10_000)] = 100
    """How many different models get a metric label of their own; later ones are `other`."""
    node: Annotated[str, Field(max_length=64)] | None = None
    """The name of this machine in records. Default: its host name."""


class Journal(_Section):
    """The queue on disk between the workers and the recorder."""

    directory: Path | None = None
    """Where the segments are. Default: `journal` beside the database."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Over this size of all segments new records are dropped, and counted."""
    min_free_bytes: Size = 64 << 20
    """With less free space than this on the disk new records are dropped, and counted."""
    segment_bytes: Annotated[int, Field(ge=4096)] = 8 << 20
    """A worker starts a new segment at this size…"""
    segment_seconds: Seconds = 60.0
    """…or when the segment is this old."""


class Proxy(_Section):
    """How requests are passed on."""

    max_body_bytes: Size = 256 << 20
    """The largest request body that is passed on; over it the answer is 413."""
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 << 10
    """The largest header block of a request; over it the answer is 431."""
    inject_stream_usage: bool = False
    """Ask for the usage of OpenAI chat streams whose client did not, and take the extra chunk
    out of the answer again."""
    timeout_connect_seconds: Seconds = 10.0
    """How long a connection to an upstream may take to open."""
    timeout_read_seconds: Seconds = 900.0
    """How long an upstream may be silent."""
    max_idle_connections: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How many idle connections a worker keeps for each upstream."""
    idle_connection_seconds: Seconds = 30.0
    """How long an idle connection is kept. What the upstream's `Keep-Alive` header says counts
    where it is shorter."""
    dns_cache_seconds: Seconds = 30.0
    """How long a looked-up address is used before it is looked up again, in the background."""
    ca_bundle: Path | None = None
    """Certificates to trust for upstreams (PEM). Default: those of `certifi`."""
    outbound_proxy: str | None = None
    """URL of an HTTP proxy to reach the upstreams through."""


class Security(_Section):
    """Who may do what."""

    auth_token: SecretStr | None = None
    """Needed for `/logs`, `/dashboard` and `/metrics`: a bearer header, or a sign-in."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names clients may use besides `localhost`, `*.localhost` and IP addresses."""
    api_key_hash_secret: SecretStr | None = None
    """The key of the keyed hash in `api_key_id`. Default: made once, kept beside the database."""


class Logging(_Section):
    """The lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe line that is written."""
    format: Literal["console", "json"] = "console"
    """For people, or one JSON object a line."""
    access_log: bool = True
    """One line for each request."""


class Scheduler(_Section):
    """What is done at intervals."""

    pushgateway_enabled: bool = False
    """Push the metrics to a Pushgateway."""
    pushgateway_interval_seconds: Seconds = 60
    """Between two pushes."""
    pushgateway_max_backoff_seconds: Seconds = 300
    """The longest wait after a failed push."""
    stats_printing_enabled: bool = False
    """Print figures of the traffic."""
    stats_printing_interval_seconds: Seconds = 300
    """Between two prints."""


class Provider(_Section):
    """One upstream: `PROVIDERS__<NAME>__…`."""

    base_url: str
    """Where it is: http or https; may carry a path."""
    api: Api = "auto"
    """The wire format of its answers; `auto` tells it by the path."""
    service_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = "proxy_service"
    """The value of `service_type` in its records and metrics."""
    api_key: SecretStr | None = None
    """Sent where the client sends none."""
    timeout_connect_seconds: Seconds | None = None
    """Instead of `PROXY__TIMEOUT_CONNECT_SECONDS`."""
    timeout_read_seconds: Seconds | None = None
    """Instead of `PROXY__TIMEOUT_READ_SECONDS`."""

    @field_validator("base_url")
    @classmethod
    def _checked_url(cls, value: str) -> str:
        return _http_url(value)


class Settings(_Section):
    """All settings of one application."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 8000
    """The port to listen on."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """How many worker processes serve requests."""
    observability: Observability = Observability()
    journal: Journal = Journal()
    proxy: Proxy = Proxy()
    security: Security = Security()
    logging: Logging = Logging()
    scheduler: Scheduler = Scheduler()
    providers: dict[str, Provider] = Field(default_factory=dict)

    @field_validator("providers", mode="before")
    @classmethod
    def _named_providers(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {name: _provider_row(name, row) for name, row in (_BUILT_IN | _folded(value)).items()}

    @property
    def duckdb_path(self) -> Path:
        """The database file, absolute."""
        configured = self.observability.duckdb_path or Path("~/.local/share/ccproxy/metrics.duckdb")
        return configured.expanduser().absolute()

    @property
    def journal_directory(self) -> Path:
        """Where the segments are, absolute."""
        configured = self.journal.directory
        return (configured or self.duckdb_path.parent / "journal").expanduser().absolute()

    @property
    def recorder_socket(self) -> Path:
        """The unix socket on which the recorder answers queries."""
        path = self.journal_directory / "recorder.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"ccproxy-{os.getuid()}-{digest}" / "recorder.sock"

    @property
    def recording(self) -> bool:
        """True where records are written and a recorder is needed."""
        kept = self.observability
        return kept.logs_collection_enabled and kept.log_storage_backend != "none"


# Where the providers' APIs are (each provider's API reference, 2026-11).
_BUILT_IN: dict[str, dict[str, Any]] = {
    "anthropic": {"base_url": "https://api.anthropic.com"},
    "openai": {"base_url": "https://api.openai.com"},
    "gemini": {"base_url": "https://generativelanguage.googleapis.com", "api": "gemini"},
    "openrouter": {"base_url": "https://openrouter.ai/api"},
    "groq": {"base_url": "https://api.groq.com"},
    "mistral": {"base_url": "https://api.mistral.ai"},
    "deepseek": {"base_url": "https://api.deepseek.com"},
    "xai": {"base_url": "https://api.x.ai"},
    "perplexity": {"base_url": "https://api.perplexity.ai"},
    "moonshot": {"base_url": "https://api.moonshot.ai"},
    "together": {"base_url": "https://api.together.xyz"},
    "cerebras": {"base_url": "https://api.cerebras.ai"},
    "fireworks": {"base_url": "https://api.fireworks.ai/inference"},
    "ollama": {"base_url": "http://127.0.0.1:11434"},
    "lmstudio": {"base_url": "http://127.0.0.1:1234"},
    "vllm": {"base_url": "http://127.0.0.1:8001"},
}


def load_settings(
    environ: Mapping[str, str] | None = None, directory: Path | None = None, **overrides: Any
) -> Settings:
    """Read all sources and return the settings; *overrides* (sections by name) win over all.

    Raises SettingsError with one line that names the setting, what is wrong, and where a name is
    unknown the nearest valid one.
    """
    environ = os.environ if environ is None else environ
    directory = Path.cwd() if directory is None else directory
    merged: dict[str, Any] = {}
    if data_home := environ.get("XDG_DATA_HOME"):
        merged = {"observability": {"duckdb_path": f"{data_home}/ccproxy/metrics.duckdb"}}
    for source in (_from_toml(environ, directory), _from_dotenv(directory), _from_names(environ)):
        _merge(merged, source)
    _merge(merged, overrides)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    _refuse_contradictions(settings)
    return settings


def _from_toml(environ: Mapping[str, str], directory: Path) -> dict[str, Any]:
    path = _toml_path(environ, directory)
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"CONFIG_FILE: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None


def _toml_path(environ: Mapping[str, str], directory: Path) -> Path | None:
    if named := environ.get("CONFIG_FILE"):
        return directory / Path(named).expanduser()
    home = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    candidates = (
        directory / ".ccproxy.toml",
        directory / "ccproxy.toml",
        home / "ccproxy" / "config.toml",
    )
    return next((path for path in candidates if path.is_file()), None)


def _from_dotenv(directory: Path) -> dict[str, Any]:
    path = directory / ".env"
    if not path.is_file():
        return {}
    return _from_names({name: value or "" for name, value in dotenv_values(path).items()})


def _from_names(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return ``SECTION__NAME=value`` pairs as nested sections."""
    found: dict[str, Any] = {}
    for name, value in environ.items():
        parts = name.lower().split("__")
        if parts[0] in _SECTIONS and len(parts) > 1:
            target = found
            for part in parts[:-1]:
                target = target.setdefault(part, {})
                if not isinstance(target, dict):
                    raise SettingsError(f"{name}: {part.upper()} is a setting, not a section")
            target[parts[-1]] = _listed(parts, value)
        elif name.startswith("CCPROXY_"):
            found[parts[0].removeprefix("ccproxy_")] = value
    return found


def _listed(parts: list[str], value: str) -> Any:
    if parts == ["security", "allowed_hosts"]:
        return tuple(host.strip() for host in value.split(",") if host.strip())
    return None if value == "" else value


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = dict(value) if isinstance(value, dict) else value


def _folded(value: dict[str, Any]) -> dict[str, Any]:
    return {str(name).lower(): row for name, row in value.items()}


def _provider_row(name: str, row: Any) -> Any:
    if name in RESERVED_NAMES or not _PROVIDER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a provider")
    built_in = _BUILT_IN.get(name)
    return {**built_in, **row} if built_in and isinstance(row, dict) else row


def _http_url(value: str) -> str:
    match = re.fullmatch(r"https?://([^/?#\s@]+)(/[^?#\s]*)?", value)
    if match is None:
        raise ValueError("must be http:// or https://, with a host and at most a path")
    return value.rstrip("/")


def _refuse_contradictions(settings: Settings) -> None:
    shown = settings.observability
    if shown.dashboard_enabled and not shown.logs_endpoints_enabled:
        raise SettingsError(
            "OBSERVABILITY__DASHBOARD_ENABLED needs OBSERVABILITY__LOGS_ENDPOINTS_ENABLED"
        )
    wants_store = shown.logs_endpoints_enabled or shown.logs_collection_enabled
    if wants_store and shown.log_storage_backend == "none":
        raise SettingsError(
            "OBSERVABILITY__LOG_STORAGE_BACKEND=none contradicts logs endpoints and collection"
        )
    if has_operator_pages(settings) and not is_loopback(settings.host):
        refuse_open_pages(settings, settings.host)


def has_operator_pages(settings: Settings) -> bool:
    """True where `/logs`, `/dashboard` or `/metrics` is served."""
    shown = settings.observability
    return bool(
        shown.logs_endpoints_enabled or shown.dashboard_enabled or shown.metrics_endpoint_enabled
    )


def refuse_open_pages(settings: Settings, host: str) -> None:
    """Raise SettingsError where operator pages would be open to other machines."""
    if settings.security.auth_token is None:
        raise SettingsError(
            f"HOST={host} is not a loopback address: set SECURITY__AUTH_TOKEN, "
            "or turn the operator pages off"
        )


def is_loopback(host: str) -> bool:
    """True where only this machine can reach *host*."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost") or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _one_line(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = tuple(str(part) for part in problem["loc"])
    name = "__".join(where).upper()
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, list(_names_beside(where)), n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{name}: unknown setting{hint}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"


def _names_beside(where: tuple[str, ...]) -> Iterator[str]:
    if len(where) == 1:
        yield from (f"CCPROXY_{name.upper()}" for name in Settings.model_fields)
        return
    section = Provider if where[0] == "providers" else _SECTIONS[where[0]]
    prefix = "__".join(where[:-1]).upper()
    for name in section.model_fields:
        yield f"{prefix}__{name.upper()}"


_SECTIONS: dict[str, type[_Section]] = {
    "observability": Observability,
    "journal": Journal,
    "proxy": Proxy,
    "security": Security,
    "logging": Logging,
    "scheduler": Scheduler,
    "providers": Provider,
}

"""Every option, typed, in one place. ``docs/configuration.md`` is generated from here.

Sources, strongest first: the environment (``SECTION__NAME``; ``CCPROXY_HOST`` and the like for
what has no section), ``.env``, a TOML file
(``$CONFIG_FILE``, else ``.ccproxy.toml`` or ``ccproxy.toml`` in the working directory, else
``$XDG_CONFIG_HOME/ccproxy/config.toml``), the default. Names may be in either case. An empty
value in the environment or in ``.env`` counts as not set.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tempfile
import tomllib
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from .errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic_core import ErrorDetails

Api = Literal["auto", "anthropic_messages", "openai", "gemini", "ollama"]
RESERVED_NAMES = frozenset({"api", "v1", "logs", "dashboard", "metrics", "health", "static"})
_PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# A unix socket's path has a bound of 104 (BSD) or 108 (Linux) bytes.
_LONGEST_SOCKET_PATH = 100


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004  pydantic's way
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _http_url(value: str) -> str:
    match = re.fullmatch(r"https?://([^/?#\s@]+)(/[^?#\s]*)?", value)
    if match is None or not _has_port_of_range(value):
        raise ValueError("must be http:// or https://, with a host and at most a port and a path")
    if not (value.isascii() and value.isprintable()):
        raise ValueError("must be ASCII: write such a host with xn--, such a path with %XX")
    return value.rstrip("/")


def _header_secret(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    text = value.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must be one line of ASCII characters: it is sent in a header")
    return SecretStr(text) if text else None


def _proxy_url(value: str) -> str:
    if not re.fullmatch(r"https?://([^/?#\s@]+@)?[^/?#\s@]+/?", value) or (
        not _has_port_of_range(value)
    ):
        raise ValueError("must be http://host:port, with user:password@ before the host or without")
    return value


def _has_port_of_range(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # what urlsplit says of a port or an IPv6 address that is none
        return False


def _provider_name(value: str) -> str:
    if value in RESERVED_NAMES or not _PROVIDER_NAME.fullmatch(value):
        raise ValueError(
            "cannot be the name of a provider: it is reserved, or not of at most 32 letters, "
            "digits, - and _, a letter first"
        )
    return value


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be of ASCII letters, digits and signs, without spaces")
    return value


def _host_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]+|\[?[0-9a-f:.]+\]?", value.lower()):
        raise ValueError("must be host names alone: no scheme, port or path")
    return value.lower()


def _existing_file(value: Path) -> Path:
    path = value.expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


# A year bounds what the clocks of the operating system have to hold.
_LONGEST_SECONDS = 31_536_000
Port = Annotated[int, BeforeValidator(_no_flag), Field(ge=0, le=65535)]
Seconds = Annotated[
    float, BeforeValidator(_no_flag), Field(gt=0, le=_LONGEST_SECONDS, allow_inf_nan=False)
]
Size = Annotated[int, BeforeValidator(_no_flag), Field(ge=0)]


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
    retention_days: Annotated[float, BeforeValidator(_no_flag), Field(gt=0, le=36_500)] | None = (
        None
    )
    """Records older than this go. Default: none does."""
    retention_max_bytes: Annotated[int, BeforeValidator(_no_flag), Field(ge=4 << 20)] | None = None
    """Over this size of the data in the database the oldest records go. Default: none does."""
    max_models: Annotated[int, Field(ge=1, le=10_000)] = 100
    """How many different models get a metric label of their own; later ones are `other`."""
    node: Annotated[str, Field(max_length=64)] | None = None
    """The name of this machine in records. Default: its host name."""
    pushgateway_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """The Pushgateway to push metrics to, or VictoriaMetrics: its `/api/v1/import/prometheus`."""
    pushgateway_job: Annotated[str, Field(min_length=1, max_length=128)] = "ccproxy"
    """The job name under which metrics are pushed; the instance is `<node>:<port>`."""
    stats_printing_format: Literal["console", "rich", "log", "json"] = "console"
    """How figures of the traffic are printed: lines or a table on standard output, a line of the
    log, or a JSON object a line on standard output."""


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
    max_header_bytes: Annotated[int, Field(ge=1024, le=256 << 10)] = 64 << 10
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
    ca_bundle: Annotated[Path, AfterValidator(_existing_file)] | None = None
    """Certificates to trust for upstreams (PEM). Default: those of `certifi`."""
    outbound_proxy: Annotated[str, AfterValidator(_proxy_url)] | None = Field(
        default=None, repr=False
    )
    """URL of an HTTP proxy to reach the upstreams through; may name a user and a password."""


class Security(_Section):
    """Who may do what."""

    auth_token: Annotated[SecretStr, AfterValidator(_token)] | None = None
    """Needed for `/logs`, `/dashboard` and `/metrics`: a bearer header, or a sign-in."""
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    """Host names clients may use besides `localhost`, `*.localhost` and IP addresses; in the
    environment with commas between them."""
    api_key_hash_secret: SecretStr | None = None
    """The key of the keyed hash in `api_key_id`. Default: made once, kept beside the database."""


class Logging(_Section):
    """The lines on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """The least severe line that is written."""
    format: Annotated[Literal["console", "json"], BeforeValidator(_lower)] = "console"
    """For people, or one JSON object a line."""
    access_log: bool = True
    """One line for each request."""


class Tracing(_Section):
    """Whole exchanges with the upstreams, to find out what goes wrong. What is not known to be
    harmless is hidden; prompts and answers are shown."""

    console: bool = False
    """Show exchanges on standard error."""
    file: bool = False
    """Keep exchanges as files."""
    directory: Path | None = None
    """Where the files are. Default: `traces` beside the database."""
    verbose: bool = False
    """Bodies as a whole and each event of streams, not only their beginning."""
    preview_chars: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """How much of a body is shown where `verbose` is off."""
    include_paths: tuple[str, ...] = ()
    """Patterns of the paths to trace, such as `/v1/messages*`; in the environment with commas
    between them. Default: all."""
    exclude_paths: tuple[str, ...] = ()
    """Patterns of the paths not to trace."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 << 20)] = 1 << 20
    """How much of each body is gathered."""
    max_exchanges: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Over this number of exchanges the oldest files are removed…"""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20
    """…and over this size of all files…"""
    max_age_seconds: Seconds = 604_800.0
    """…and at this age."""
    queue_bytes: Annotated[int, Field(ge=64 << 10)] = 32 << 20
    """How much may wait in a worker to be written; exchanges over it are dropped, and counted."""


class Scheduler(_Section):
    """What is done at intervals, in one process however many workers there are."""

    pushgateway_enabled: bool = False
    """Push the metrics to `OBSERVABILITY__PUSHGATEWAY_URL`, which it needs."""
    pushgateway_interval_seconds: Seconds = 60
    """Between two pushes."""
    pushgateway_max_backoff_seconds: Seconds = 300
    """The longest wait after a failed push; never less than the interval."""
    stats_printing_enabled: bool = False
    """Print figures of the traffic, where there was any."""
    stats_printing_interval_seconds: Seconds = 300
    """Between two prints."""


class Provider(_Section):
    """One upstream: `PROVIDERS__<NAME>__…`."""

    base_url: Annotated[str, AfterValidator(_http_url)]
    """Where it is: http or https; may carry a path."""
    api: Api = "auto"
    """The wire format of its answers; `auto` tells it by the path."""
    service_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = "proxy_service"
    """The value of `service_type` in its records and metrics."""
    api_key: Annotated[SecretStr | None, AfterValidator(_header_secret)] = None
    """Sent where the client sends none."""
    timeout_connect_seconds: Seconds | None = None
    """Instead of `PROXY__TIMEOUT_CONNECT_SECONDS`."""
    timeout_read_seconds: Seconds | None = None
    """Instead of `PROXY__TIMEOUT_READ_SECONDS`."""


class Settings(_Section):
    """All settings of one application."""

    host: Annotated[str, Field(pattern=r"^\S+$")] = "127.0.0.1"
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
    tracing: Tracing = Tracing()
    scheduler: Scheduler = Scheduler()
    providers: dict[Annotated[str, AfterValidator(_provider_name)], Provider] = Field(
        default_factory=dict, validate_default=True
    )
    """The upstreams by name; each is reached under `/<name>/…`."""

    @field_validator("providers", mode="before")
    @classmethod
    def _with_built_in(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: {**_BUILT_IN.get(name, {}), **row} if isinstance(row, dict) else row
            for name, row in (_BUILT_IN | value).items()
        }

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
    def traces_directory(self) -> Path:
        """Where traced exchanges are kept, absolute."""
        configured = self.tracing.directory
        return (configured or self.duckdb_path.parent / "traces").expanduser().absolute()

    @property
    def scheduling(self) -> bool:
        """True where something is to be done at intervals."""
        return self.scheduler.pushgateway_enabled or self.scheduler.stats_printing_enabled

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


class _Source(NamedTuple):
    """Where settings come from: what it is called in an error line, and what it says."""

    name: str
    sections: dict[str, Any]


def load_settings(
    environ: Mapping[str, str] | None = None, directory: Path | None = None, **overrides: object
) -> Settings:
    """Read all sources and return the settings; *overrides* (sections by name) win over all.

    Raises SettingsError with one line that names the setting, what is wrong, and where a name is
    unknown the nearest valid one. No secret is ever in that line.
    """
    environ = os.environ if environ is None else environ
    directory = Path.cwd() if directory is None else directory
    dotenv = _read_dotenv(directory / ".env")
    sources = [
        *_from_toml(_toml_path({**dotenv, **environ}, directory)),
        _Source(".env", _from_names(dotenv)),
        _Source("", _from_names(environ)),
        _Source("", overrides),
    ]
    merged: dict[str, Any] = {}
    if data_home := environ.get("XDG_DATA_HOME"):
        merged = {"observability": {"duckdb_path": f"{data_home}/ccproxy/metrics.duckdb"}}
    for source in sources:
        _merge(merged, source.sections)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_one_line(error, sources)) from None
    _refuse_contradictions(settings)
    return settings


def _from_toml(path: Path | None) -> Iterator[_Source]:
    if path is None:
        return
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(_printable(f"{path} is not TOML: {error}")) from None
    yield _Source(path.name, _lower_case(parsed))


def _lower_case(section: dict[str, Any]) -> dict[str, Any]:
    return {
        name.lower(): _lower_case(value) if isinstance(value, dict) else value
        for name, value in section.items()
    }


def _toml_path(environ: Mapping[str, str], directory: Path) -> Path | None:
    if named := environ.get("CONFIG_FILE"):
        path = directory / Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(_printable(f"CONFIG_FILE: there is no file {path}"))
        return path
    home = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    candidates = (
        directory / ".ccproxy.toml",
        directory / "ccproxy.toml",
        home / "ccproxy" / "config.toml",
    )
    return next((path for path in candidates if path.is_file()), None)


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        # As written: a `$` in a password is a `$`.
        found = dotenv_values(path, interpolate=False)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8") from None
    return {name: value for name, value in found.items() if value}


def _from_names(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return ``SECTION__NAME=value`` pairs as nested sections."""
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if value and (path := _path_of(name)):
            _place(found, path, value)
    return found


def _path_of(name: str) -> tuple[str, ...]:
    """Return the sections and the setting *name* means, nothing where it is not one of ours."""
    parts = name.lower().split("__")
    if parts[0].startswith("ccproxy_"):
        path = (parts[0].removeprefix("ccproxy_"), *parts[1:])
        if path[0] not in _TOP_LEVEL or len(path) > 1:
            raise SettingsError(_unknown(name, f"CCPROXY_{'__'.join(path).upper()}"))
        return path
    if len(parts) == 1 or parts[0] in _SECTIONS:
        return tuple(parts) if len(parts) > 1 else ()
    if get_close_matches(parts[0], _SECTIONS, n=1, cutoff=0.8):
        raise SettingsError(_unknown(name, name))
    return ()


def _place(sections: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    target = sections
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            name = _shown(path[:-1])
            raise SettingsError(_printable(f"{_shown(path)}: {name} is a setting, not a section"))
    target[path[-1]] = _listed(value) if path in _LISTS else value


_LISTS = {
    ("security", "allowed_hosts"),
    ("tracing", "include_paths"),
    ("tracing", "exclude_paths"),
}


def _listed(value: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in value.split(",") if each.strip())


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = dict(value) if isinstance(value, dict) else value


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
    if settings.scheduler.pushgateway_enabled and shown.pushgateway_url is None:
        raise SettingsError("SCHEDULER__PUSHGATEWAY_ENABLED needs OBSERVABILITY__PUSHGATEWAY_URL")
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
            f"CCPROXY_HOST: {host} is not a loopback address: set SECURITY__AUTH_TOKEN, "
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


def _one_line(error: ValidationError, sources: Sequence[_Source]) -> str:
    problems = error.errors(include_url=False, include_input=False)
    # A name that does not exist is the cause where another one is missing.
    problem = min(problems, key=lambda found: found["type"] != "extra_forbidden")
    where = tuple(str(part) for part in problem["loc"] if part != "[key]")
    origin = next((it.name for it in reversed(sources) if _says(it.sections, where)), "")
    told = f" (in {origin})" if origin else ""
    if problem["type"] == "extra_forbidden":
        return _unknown(_shown(where) + told, _shown(where))
    return _printable(f"{_shown(where)}{told}: {_said_plainly(problem)}")


def _says(sections: Mapping[str, object], where: tuple[str, ...]) -> bool:
    for part in where:
        if part not in sections:
            return False
        below = sections[part]
        if not isinstance(below, dict):
            return True  # the rest of the way, if any, is the position in a list
        sections = below
    return True


def _said_plainly(problem: ErrorDetails) -> str:
    kind, text = problem["type"], problem["msg"]
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    if kind == "literal_error":
        return f"must be {problem['ctx']['expected']}"
    return _PLAIN_TEXTS.get(kind) or re.sub("^(Input|String) should", "must", text)


_IS_SECTION = "is a section with settings in it, not a setting"
_PLAIN_TEXTS = {
    "dict_type": _IS_SECTION,
    "missing": "is needed",
    "model_attributes_type": _IS_SECTION,
    "model_type": _IS_SECTION,
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "tuple_type": "must be a list",
}


def _shown(where: tuple[str, ...]) -> str:
    """Return the name of a setting as the environment spells it."""
    if len(where) == 1 and where[0] in _TOP_LEVEL:
        return f"CCPROXY_{where[0].upper()}"
    return "__".join(where).upper()


def _unknown(told: str, name: str) -> str:
    meant = name.upper().removeprefix("CCPROXY_")
    nearest = max(
        _names_beside(name),
        key=lambda known: SequenceMatcher(None, meant, known.removeprefix("CCPROXY_")).ratio(),
    )
    return _printable(f"{told}: unknown setting; did you mean {nearest}?")


def _names_beside(name: str) -> Iterator[str]:
    """Give all names that *name* may be meant for: of its section, where it has one of ours."""
    section, in_section, _ = name.lower().partition("__")
    if not in_section:
        yield from (name.upper() for name in _SECTIONS)
    elif section == "providers":
        prefix = name.upper().rpartition("__")[0]
        yield from (f"{prefix}__{field.upper()}" for field in Provider.model_fields)
        return
    for prefix in [section] if section in _SECTIONS else _SECTIONS:
        between = "__<NAME>__" if prefix == "providers" else "__"
        fields = _SECTIONS[prefix].model_fields
        yield from (f"{prefix}{between}{field}".upper() for field in fields)
    if section not in _SECTIONS:
        yield from (_shown((field,)) for field in _TOP_LEVEL)


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


_SECTIONS: dict[str, type[_Section]] = {
    "observability": Observability,
    "journal": Journal,
    "proxy": Proxy,
    "security": Security,
    "logging": Logging,
    "tracing": Tracing,
    "scheduler": Scheduler,
    "providers": Provider,
}
_TOP_LEVEL = tuple(name for name in Settings.model_fields if name not in _SECTIONS)

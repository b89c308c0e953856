"""Every option, typed, in one place. ``docs/configuration.md`` is generated from here."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
)

from ..dialects import BY_SETTING
from . import lake

if TYPE_CHECKING:
    Api = str
else:
    Api = Literal[("auto", *BY_SETTING)]  # a new wire format is known here by itself
RESERVED_NAMES = frozenset({"api", "v1", "logs", "dashboard", "metrics", "health", "static"})
_PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# A unix socket's path has a bound of 104 (BSD) or 108 (Linux) bytes.
_LONGEST_SOCKET_PATH = 100
# Where one is too long: short, and the same for all processes, whatever TMPDIR says to each.
_SHORT_FOLDER = Path("/tmp")  # noqa: S108  what is made in there is private, and looked at before use


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004  pydantic's way
    return value


def _on_or_off(value: object) -> object:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value.lower() if isinstance(value, str) else value


def _split(value: object) -> object:
    """Return the names in a text like ``a, b``, as the environment has them."""
    if isinstance(value, str):
        return tuple(each.strip() for each in value.split(",") if each.strip())
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
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


class Lake(_Section):
    """Where several machines keep their records, with the storage backend `ducklake`."""

    catalog: Annotated[SecretStr, AfterValidator(lake.catalog)] | None = None
    """The catalogue, a database of PostgreSQL: `postgresql://user:password@host/database`, or
    `host=… dbname=…`."""
    data: Annotated[str, AfterValidator(lake.data)] | None = None
    """Where the files are: a directory that all machines have under this path, or
    `s3://bucket/prefix`."""
    s3_endpoint: Annotated[str, AfterValidator(_http_url)] | None = None
    """The address of an object store that is not Amazon's."""
    s3_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = "us-east-1"
    """The region of the bucket."""
    s3_access_key_id: SecretStr | None = None
    """The key for the bucket; needed with `s3://`…"""
    s3_secret_access_key: SecretStr | None = None
    """…and its secret."""


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
    log_storage_backend: Literal["duckdb", "ducklake", "none"] = "duckdb"
    """Where records are kept: in a file of this machine, in a lake that several machines share, or
    nowhere."""
    lake: Lake = Lake()
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
    timeout_client_seconds: Seconds = 60.0
    """How long a client may be silent in the middle of its request; over it the answer is 408."""
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
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host_name)], ...], BeforeValidator(_split)
    ] = ()
    """Host names clients may use besides `localhost`, `*.localhost` and IP addresses; in the
    environment with commas between them."""
    trusted_proxies: Annotated[int, BeforeValidator(_no_flag), Field(ge=0, le=10)] = 0
    """How many proxies of yours stand in front, one behind the other. The `X-Forwarded-For`,
    `-Proto`, `-Host`, `-Port` and `-Prefix` that they set are believed, and not passed on to
    upstreams. With 0 nobody's are: they are headers like any other."""
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
    include_paths: Names = ()
    """Patterns of the paths to trace, such as `/v1/messages*`; in the environment with commas
    between them. Default: all."""
    exclude_paths: Names = ()
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


class Capture(_Section):
    """What is kept of what was said: requests and answers, without secrets, to read them later."""

    content: Annotated[Literal["off", "on"], BeforeValidator(_on_or_off)] = "off"
    """Keep the content of exchanges, on this machine and for its user alone."""
    directory: Path | None = None
    """Where it is kept. Default: `content` beside the database."""
    retention_days: Annotated[float, BeforeValidator(_no_flag), Field(gt=0, le=36_500)] = 7
    """What is older is deleted, a day at a time."""
    max_bytes: Annotated[int, Field(ge=16 << 20)] = 2 << 30
    """Over this size the oldest content is deleted."""
    max_exchange_bytes: Annotated[int, Field(ge=1 << 20, le=256 << 20)] = 64 << 20
    """The content of a larger exchange is not kept."""
    queue_bytes: Annotated[int, Field(ge=1 << 20)] = 64 << 20
    """How much may wait in a worker, and in the recorder, to be kept; the content of exchanges over
    it is dropped, and counted."""
    include_paths: Names = ()
    """Patterns of the paths whose content is kept, such as `/v1/messages*`; in the environment with
    commas between them. Default: all."""
    exclude_paths: Names = ()
    """Patterns of the paths whose content is not kept."""
    include_providers: Names = ()
    """Patterns of the providers whose content is kept. Default: all."""
    exclude_providers: Names = ()
    """Patterns of the providers whose content is not kept."""
    include_clients: Names = ()
    """Patterns of the user agents whose content is kept, such as `claude-cli/*`. Default: all."""
    exclude_clients: Names = ()
    """Patterns of the user agents whose content is not kept."""


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
    profile: Literal["library", "local"] = "library"
    """What is recorded and shown where `[observability]` does not say: `library`, nothing; `local`,
    everything, if only this machine can reach the address or `SECURITY__AUTH_TOKEN` is set.
    `ccproxy-flask serve` and `run` use `local` unless you set it."""
    observability: Observability = Observability()
    journal: Journal = Journal()
    proxy: Proxy = Proxy()
    security: Security = Security()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()
    capture: Capture = Capture()
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
    def node(self) -> str:
        """The name of this machine in records."""
        return self.observability.node or platform.node()[:64]

    @property
    def records_place(self) -> str:
        """Where records are kept, as people are told."""
        kept = self.observability
        return (
            kept.lake.data or ""
            if kept.log_storage_backend == "ducklake"
            else str(self.duckdb_path)
        )

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
        return _SHORT_FOLDER / f"ccproxy-{os.getuid()}-{digest}" / "recorder.sock"

    @property
    def traces_directory(self) -> Path:
        """Where traced exchanges are kept, absolute."""
        configured = self.tracing.directory
        return (configured or self.duckdb_path.parent / "traces").expanduser().absolute()

    @property
    def content_directory(self) -> Path:
        """Where content is kept, absolute."""
        configured = self.capture.directory
        return (configured or self.duckdb_path.parent / "content").expanduser().absolute()

    @property
    def content_socket(self) -> Path:
        """The unix socket on which the recorder takes content."""
        return self.recorder_socket.with_name("content.sock")

    @property
    def capturing(self) -> bool:
        """True where content is kept; that takes a recorder."""
        return self.recording and self.capture.content == "on"

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

SECTIONS: dict[str, type[BaseModel]] = {
    "observability": Observability,
    "journal": Journal,
    "proxy": Proxy,
    "security": Security,
    "logging": Logging,
    "tracing": Tracing,
    "capture": Capture,
    "scheduler": Scheduler,
    "providers": Provider,
}
TOP_LEVEL = tuple(name for name in Settings.model_fields if name not in SECTIONS)
"""The options that are in no section: the environment spells them ``CCPROXY_HOST``."""

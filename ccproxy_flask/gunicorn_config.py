"""How gunicorn serves the application: ``gunicorn -c python:ccproxy_flask.gunicorn_config …``.

Every name here is a gunicorn setting (its documentation: "Settings"); the command line wins.
"""

from __future__ import annotations

import functools
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import gevent

from . import metrics_folders
from .banner import banner
from .errors import SettingsError
from .listening import CannotListen, refuse_taken
from .recorder.supervisor import Supervisor
from .server import client_connections, middleware
from .settings import (
    handover,
    has_operator_pages,
    is_loopback,
    load_settings,
    refuse_open_pages,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .settings import Settings

_WRONG_SETTING, _CANNOT_LISTEN = 2, 1


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        _give_up(error, _WRONG_SETTING)


def _give_up(error: Exception, code: int) -> NoReturn:
    sys.stderr.write(f"ccproxy_flask: {error}\n")
    sys.exit(code)


def _descriptors() -> int:
    """Return how many files a process may have open, after asking for all that are allowed."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _connections_for(descriptors: int) -> int:
    """Return how many clients a worker serves at once: each may take one file more upstream."""
    return max(16, min(_MOST_CONNECTIONS, (descriptors - _OTHER_DESCRIPTORS) // 2))


_MOST_DESCRIPTORS, _OTHER_DESCRIPTORS = 65_536, 128
_MOST_CONNECTIONS = 4096
# So many connections of a worker are kept for those who come when all others are taken.
_ROOM_PART = 16


# Nothing that is written here is for other users of the machine.
os.umask(0o077)
_loaded = _settings()
handover.hand_on(_loaded)
_host = f"[{_loaded.host}]" if ":" in _loaded.host else _loaded.host
bind = [f"{_host}:{_loaded.port}"]
worker_class = "gevent"
logger_class = "ccproxy_flask.gunicorn_logger.RedactingLogger"
worker_connections = _connections_for(_descriptors())
# Longer than clients keep idle connections, so that it is they who close them.
keepalive = 75
timeout = 60
graceful_timeout = 30
# Oversized headers are answered by the proxy, in the shape that the client's SDK reads.
limit_request_line = 8190
limit_request_fields = 200
limit_request_field_size = 128 << 10
# Header names with underscores are passed on like any other; nothing here is taken from them.
header_map = "dangerous"
forwarder_headers = ""
# Nobody's word is taken for anything, so there is nobody to tell apart.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
permit_unconventional_http_method = True
control_socket_disable = True
# Where workers say that they live: in memory, where no disk can be full or slow (gunicorn's FAQ).
if os.access(metrics_folders.IN_MEMORY, os.W_OK):
    worker_tmp_dir = str(metrics_folders.IN_MEMORY)


def _changeable(settings: Settings) -> dict[str, Any]:
    """Return those settings of gunicorn that a reload may change."""
    # Never gunicorn's "debug": there it shows what clients send, with their keys.
    loglevel = "warning" if settings.logging.level != "debug" else "info"
    return {"workers": settings.workers, "loglevel": loglevel}


globals().update(_changeable(_loaded))

# Must be set before the first import of the Prometheus library, here and in the workers.
_owns_metrics = "PROMETHEUS_MULTIPROC_DIR" not in os.environ
if _owns_metrics:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folders.make_folder())


def _companion(settings: Settings) -> str | None:
    """Return the module that runs beside the workers."""
    if settings.recording:
        return "ccproxy_flask.recorder"
    # In the recorder's place: it is the recorder that does this too.
    return "ccproxy_flask.scheduler" if settings.scheduling else None


_recorder: Supervisor | None = None
if (_module := _companion(_loaded)) is not None:
    _recorder = Supervisor([sys.executable, "-m", _module, handover.FLAG], handover.packed(_loaded))


def on_starting(server: Any) -> None:
    """Refuse addresses that are taken, and pages open to other machines without a token."""
    try:
        _refuse_open_pages(handover.current(), server.cfg.address)
        # Else it has the listeners of systemd, or of the server in whose place it comes.
        if not {"LISTEN_FDS", "GUNICORN_FD"} & os.environ.keys():
            refuse_taken(server.cfg.address)
    except SettingsError as error:
        _give_up(error, _WRONG_SETTING)
    except CannotListen as error:
        _give_up(error, _CANNOT_LISTEN)
    server.reload = functools.partial(_reload, server, server.reload)


def _refuse_open_pages(settings: Settings, addresses: Sequence[Any]) -> None:
    hosts = [address[0] if isinstance(address, tuple) else "unix:" for address in addresses]
    for host in hosts if has_operator_pages(settings) else ():
        if not is_loopback(host):
            refuse_open_pages(settings, host)


def _reload(server: Any, reload: Callable[[], None]) -> None:
    """Load the settings anew, for all processes; where they are wrong, go on with the old ones."""
    try:
        settings = load_settings()
        _refuse_lasting_changes(handover.current(), settings)
        _refuse_open_pages(settings, server.cfg.address)
    except SettingsError as error:
        sys.stderr.write(f"ccproxy_flask: not reloaded, the settings stay as they were: {error}\n")
        return
    handover.hand_on(settings)
    globals().update(_changeable(settings))
    reload()
    if _recorder is not None:
        _recorder.restart(handover.packed(settings))


def _refuse_lasting_changes(old: Settings, new: Settings) -> None:
    lasting = {
        "CCPROXY_HOST": (old.host, new.host),
        "CCPROXY_PORT": (old.port, new.port),
        "OBSERVABILITY__DUCKDB_PATH": (old.duckdb_path, new.duckdb_path),
        "OBSERVABILITY__LOG_STORAGE_BACKEND": (
            old.observability.log_storage_backend,
            new.observability.log_storage_backend,
        ),
        "OBSERVABILITY__LAKE__DATA": (old.observability.lake.data, new.observability.lake.data),
        "JOURNAL__DIRECTORY": (old.journal_directory, new.journal_directory),
        "OBSERVABILITY__LOGS_COLLECTION_ENABLED": (old.recording, new.recording),
        "SCHEDULER__…_ENABLED": (_companion(old), _companion(new)),
    }
    for name, (before, after) in lasting.items():
        if before != after:
            raise SettingsError(f"{name} cannot change while the server runs: restart it")


def when_ready(server: Any) -> None:
    """Start the recorder, and say where everything is."""
    if _recorder is not None:
        _recorder.start()
    addresses = [str(listener) for listener in server.LISTENERS]
    sys.stderr.write(banner(handover.current(), addresses) + "\n")
    sys.stderr.flush()


def post_fork(_server: Any, _worker: Any) -> None:
    """Let a worker be stopped while it starts."""
    # It has the arbiter's functions for signals, which only note them down for the arbiter; with
    # those a stop would wait for the graceful timeout.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def post_worker_init(worker: Any) -> None:
    """Let gunicorn read, write and refuse as we do; end watchers when the worker stops."""
    # Only now: sockets must be gevent's before they are imported.
    from . import request_context  # noqa: PLC0415  after the patching
    from .proxy.refusal import error_answers  # noqa: PLC0415  after the patching

    middleware.install()
    _settle(worker.cfg)
    limit = worker.cfg.worker_connections
    client_connections.connections.room = limit - max(1, limit // _ROOM_PART)
    # The first look-up of an address loads the resolver: it keeps nobody waiting, either.
    socket.getaddrinfo("127.0.0.1", 80)
    # A page that is rendered for the first time keeps nobody waiting.
    for name in worker.wsgi.jinja_env.list_templates():
        worker.wsgi.jinja_env.get_template(name)
    worker.handle = client_connections.connections.watched(worker.handle)
    hub: Any = gevent.get_hub()
    hub.handle_error = client_connections.AcceptErrors(hub.handle_error)
    worker.handle_error = error_answers(
        worker.cfg, worker.wsgi.extensions[request_context.EXTENSION]
    )
    components = worker.wsgi.extensions["ccproxy.components"]
    threading.Thread(target=_end_with, args=(worker, components), daemon=True).start()
    # What is loaded stays. To look through all of it for garbage, again and again, would hold up
    # all requests for some 50 ms.
    gc.collect()
    gc.freeze()


def _settle(cfg: Any) -> None:
    """Let settings be plain attributes: gunicorn looks each one up some dozen times a request."""
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})


# At a stop, how long a connection that has asked nothing yet may still ask.
_ASK_SECONDS = 1.0


def _end_with(worker: Any, components: Any) -> None:
    patience = components.settings.proxy.timeout_client_seconds
    while worker.alive:
        time.sleep(0.1)
        client_connections.connections.end_silent(patience)
    components.stop_watching()
    client_connections.connections.stop()
    while True:  # until the process ends: new ones come in for another second
        time.sleep(_ASK_SECONDS)
        client_connections.connections.end_silent(_ASK_SECONDS)


def pre_request(_worker: Any, _request: Any) -> None:
    """Do nothing; gunicorn's own writes each raw path into its log at the level "debug"."""


def post_request(_worker: Any, _request: Any, environ: dict[str, Any], _response: Any) -> None:
    """End the connection in peace where the request is not read to its end; else it is idle."""
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        middleware.linger(environ, sock)
        client_connections.connections.end(sock)


def worker_exit(_server: Any, worker: Any) -> None:
    """Close the worker's journal."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.extensions["ccproxy.components"].close()


def child_exit(_server: Any, worker: Any) -> None:
    """Take the gauges of a dead worker out of the figures."""
    # Only now: the library looks at the environment when it is imported.
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415  reads the environment

    for folder in metrics_folders.folders(os.environ["PROMETHEUS_MULTIPROC_DIR"]):
        mark_process_dead(worker.pid, str(folder))  # type: ignore[no-untyped-call]  # it has no types


def on_exit(_server: Any) -> None:
    """Stop the recorder, which first stores what the workers left."""
    if _recorder is not None:
        _recorder.stop()
    metrics_folders.remove_folders(os.environ["PROMETHEUS_MULTIPROC_DIR"], own=_owns_metrics)

"""The one place where all parts meet."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import structlog
from flask import Flask
from flask.cli import run_command

from . import (
    __version__,
    credentials,
    dashboard,
    logging,
    logs,
    metrics,
    pages,
    request_context,
)
from .capture import CaptureFactory, ConsoleTracer, FileTracer, QueuedTracer
from .content.handover import Handover
from .folders import make_private
from .journal import Feed, JournalWriter
from .metrics.scrape import Scrape
from .pricing import PriceBook
from .proxy import routes as proxy
from .proxy.accounting import accounting
from .proxy.content_observer import Chosen, ContentObservers
from .proxy.hangup import HangupWatch
from .proxy.providers import Providers
from .proxy.secrecy import Secrecy
from .proxy.timing import timing
from .proxy.upstream import make_transport
from .recorder.supervisor import Supervisor
from .server import middleware
from .settings import Settings, handover
from .store.remote import RemoteStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .proxy.observers import ObserverFactory
    from .settings.options import Capture
    from .store.base import ContentSource, Store

log = structlog.get_logger(__name__)

_MAINTAIN_SECONDS = 1.0
_REMEMBER_SECONDS = 60.0
"""What was made of a client's key is made anew after so long."""


class Components:
    """What :func:`create_app` made and shutdown closes: ``extensions["ccproxy.components"]``."""

    def __init__(self, settings: Settings, store: Store | None) -> None:
        kept, journal = settings.observability, settings.journal
        self.settings = settings
        self.writer = logging.set_up(settings.logging)
        self.metrics = metrics.application_metrics(kept.max_models)
        self.metrics.set_version(__version__)
        self.scrape = Scrape(self.metrics)
        self.upstreams = make_transport(settings.proxy)
        self.tracer = self._tracer() if settings.tracing.console or settings.tracing.file else None
        self.handover = self._handover() if settings.capturing else None
        self.journal: JournalWriter | None = None
        self.feed: Feed | None = None
        self.store: Store | None = None
        self.content: ContentSource | None = None
        if settings.recording:
            self.journal = JournalWriter(
                settings.journal_directory,
                max_bytes=journal.max_bytes,
                min_free_bytes=journal.min_free_bytes,
                segment_bytes=journal.segment_bytes,
                segment_seconds=journal.segment_seconds,
                on_drop=self.metrics.dropped,
            )
            self.feed = Feed(settings.journal_directory)
            recorder = RemoteStore(settings.recorder_socket)
            self.store, self.content = store or recorder, recorder
            self.scrape = Scrape(self.metrics, recorder.metrics)
        self._closing = threading.Event()
        self._maintaining = False

    def _handover(self) -> Handover:
        options = self.settings.capture
        return Handover(
            self.settings.content_socket,
            options.queue_bytes,
            options.max_exchange_bytes,
            self.metrics.content_dropped,
        )

    def _tracer(self) -> QueuedTracer:
        options = self.settings.tracing
        queued = QueuedTracer(options.queue_bytes, self.metrics.trace_dropped)
        common: dict[str, Any] = {
            "verbose": options.verbose,
            "preview": options.preview_chars,
            "max_body_bytes": options.max_body_bytes,
            "clock": queued.clock,
        }
        files = FileTracer(
            self.settings.traces_directory,
            max_exchanges=options.max_exchanges,
            max_bytes=options.max_bytes,
            max_age_seconds=options.max_age_seconds,
            on_drop=queued.lost,
            **common,
        )
        console = ConsoleTracer(self.writer.msg, **common)
        chosen = ((files, options.file), (console, options.console))
        queued.targets = [target for target, is_on in chosen if is_on]
        return queued

    def start_recorder(self) -> None:
        """Start the recorder as a child of this process, and stop it with the process."""
        argv = [sys.executable, "-m", "ccproxy_flask.recorder", handover.FLAG]
        recorder = Supervisor(argv, handover.packed(self.settings))
        recorder.start()
        atexit.register(recorder.stop)
        atexit.register(self.close)  # before it: the recorder stores what this writes

    def maintain(self) -> None:
        """Start to look after journal and metrics in the background, once; safe to call again."""
        if not self._maintaining:
            self._maintaining = True
            threading.Thread(target=self._maintain, daemon=True, name="maintain").start()

    def _maintain(self) -> None:
        forgotten_at = time.monotonic()
        while not self._closing.wait(_MAINTAIN_SECONDS):
            if time.monotonic() - forgotten_at > _REMEMBER_SECONDS:
                credentials.forget()
                forgotten_at = time.monotonic()
            self.metrics.maintain()
            if self.journal is not None:
                self.journal.maintain()

    def stop_watching(self) -> None:
        """End the sockets and streams of those who only watch, so that a stop need not wait."""
        if self.feed is not None:
            self.feed.close()

    def close(self) -> None:
        """Close everything; records that wait are written."""
        self._closing.set()
        self.stop_watching()
        self.upstreams.close()
        if self.journal is not None:
            self.journal.close()
        if self.tracer is not None:
            self.tracer.close()
        if self.handover is not None:
            self.handover.close()
        self.writer.close()


def create_app(
    settings: Settings | None = None,
    store: Store | None = None,
    observers: Iterable[ObserverFactory] = (),
) -> Flask:
    """Return the application.

    *settings* default to those that the server handed on, else to those of the environment
    (:mod:`.settings.handover`; raises SettingsError).
    *store* answers queries instead of the recorder behind its socket. *observers* are told of
    each exchange, after our own.
    """
    settings = handover.current() if settings is None else settings
    app = Flask(
        "ccproxy_flask", static_folder=_folder("static"), template_folder=_folder("templates")
    )
    app.url_map.merge_slashes = False
    components = Components(settings, store)
    app.extensions.update(
        {
            "ccproxy.components": components,
            "ccproxy.settings": settings,
            "ccproxy.metrics": components.metrics,
            "ccproxy.journal": components.journal,
            "ccproxy.feed": components.feed,
            "ccproxy.store": components.store,
            "ccproxy.content": components.content,
        }
    )
    request_context.init_app(app, _sinks(components))
    _register_pages(app, settings)
    proxy.init_app(app, _proxy_deps(components, [*_observers(components), *observers]))
    if settings.security.trusted_proxies:
        app.wsgi_app = middleware.BehindProxies(app.wsgi_app, settings.security.trusted_proxies)  # type: ignore[method-assign]  # Flask's documented way
    app.wsgi_app = middleware.GunicornMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # Flask's documented way
    components.maintain()
    if settings.recording and _is_flask_run():
        components.start_recorder()
    return app


def _is_flask_run() -> bool:
    """Tell whether Flask's own server is starting: nobody but the application can start a recorder
    there."""
    context = click.get_current_context(silent=True)
    return context is not None and context.command is run_command


def _sinks(components: Components) -> request_context.Sinks:
    sinks = request_context.Sinks(node=components.settings.node)
    sinks.ended.append(components.metrics.observe)
    sinks.stored_started.append(components.metrics.request_started)
    if components.journal is not None:
        sinks.stored_started.append(components.journal.start)
        sinks.stored_ended.append(components.journal.end)
    sinks.stored_ended.append(components.metrics.request_ended)
    if components.settings.logging.level == "debug":
        sinks.started.append(request_context.log_start)
        sinks.ended.append(request_context.log_end)
    if components.settings.logging.access_log:
        sinks.ended.append(logging.AccessLog(components.settings.logging, components.writer))
    return sinks


def _proxy_deps(components: Components, observers: list[ObserverFactory]) -> proxy.ProxyDeps:
    return proxy.ProxyDeps(
        settings=components.settings,
        providers=Providers(components.settings),
        upstreams=components.upstreams,
        watch=HangupWatch(components.settings.proxy.timeout_client_seconds),
        key_secret=_key_secret(components.settings),
        observers=observers,
    )


def _observers(components: Components) -> list[ObserverFactory]:
    """Return who sees each exchange, in the order in which they are told."""
    observers: list[ObserverFactory] = [
        accounting(PriceBook()),
        Secrecy,
        timing(components.metrics.observe_gap),
    ]
    options = components.settings.tracing
    if components.tracer is not None:
        chosen = (options.include_paths, options.exclude_paths)
        observers.append(CaptureFactory(components.tracer, *chosen, options.max_body_bytes))
    if components.handover is not None:
        observers.append(_content_observers(components.handover, components.settings.capture))
    return observers


def _content_observers(handover: Handover, options: Capture) -> ContentObservers:
    return ContentObservers(
        handover,
        Chosen(options.include_paths, options.exclude_paths),
        Chosen(options.include_providers, options.exclude_providers),
        Chosen(options.include_clients, options.exclude_clients),
    )


def _register_pages(app: Flask, settings: Settings) -> None:
    shown = settings.observability
    pages.init_app(app)
    if shown.logs_endpoints_enabled:
        app.register_blueprint(logs.blueprint)
    if shown.dashboard_enabled:
        app.register_blueprint(dashboard.blueprint)


def _folder(name: str) -> str:
    """Return the folder *name*: inside the package where it is installed, else beside it."""
    package = Path(__file__).parent
    inside = package / name
    return str(inside if inside.is_dir() else package.parent / name)


def _key_secret(settings: Settings) -> bytes:
    """Return the key of the hash in ``api_key_id``: configured, or made once and kept."""
    configured = settings.security.api_key_hash_secret
    if configured is not None:
        return configured.get_secret_value().encode()
    if not settings.recording:
        return secrets.token_bytes(32)
    path = settings.duckdb_path.parent / "api-key-id.secret"
    try:
        make_private(path.parent)
        own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        own.touch(mode=0o600, exist_ok=False)
        own.write_bytes(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(own, path)  # whole or not at all, and the first process wins
        own.unlink()
        return path.read_bytes()
    except OSError as error:
        log.warning("key_secret_not_kept", path=str(path), reason=error.strerror)
        return secrets.token_bytes(32)

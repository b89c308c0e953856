"""A real server with the dashboard, the journal it follows, and a store that tests fill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask
from werkzeug.serving import make_server

from ccproxy_flask import dashboard, logs, request_context
from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.journal import Feed, JournalWriter, Subscription
from ccproxy_flask.journal.events import Event
from ccproxy_flask.record import RequestRecord, new_request_id, to_json
from ccproxy_flask.settings import Settings, load_settings
from ccproxy_flask.store.duckdb import DuckDBStore

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 10) -> T:
    """Return the first true value of *condition*."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


class SwitchedStore:
    """The real store, which a test can fill, and take *away* for a reason."""

    def __init__(self, path: Path) -> None:
        self._store = DuckDBStore(path)
        self.away: str | None = None

    def keep(self, *records: RequestRecord) -> None:
        """Store *records*."""
        self._store.append([to_json(record) for record in records], [], {})

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()

    def __getattr__(self, name: str) -> Any:
        if self.away is not None:
            raise StoreUnavailable(self.away)
        return getattr(self._store, name)


class WatchedFeed(Feed):
    """The real feed, and what was subscribed to it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.subscriptions: list[Subscription] = []

    def subscribe(self, limit: int = 1000) -> Subscription:
        """Subscribe, and remember the subscription."""
        subscription = super().subscribe(limit)
        self.subscriptions.append(subscription)
        return subscription

    @property
    def open_subscriptions(self) -> int:
        """How many watch now."""
        return sum(not one.closed for one in self.subscriptions)


class Site:
    """A server on a real socket whose only page is the dashboard."""

    def __init__(self, home: Path, *, ping_seconds: float | None = None, **settings: Any) -> None:
        self.settings = make_settings(home, **settings)
        self._ping_seconds = ping_seconds
        self.store = SwitchedStore(self.settings.duckdb_path)
        self.journal = open_journal(self.settings)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Serve, on the same port as before."""
        self.feed = WatchedFeed(self.settings.journal_directory)
        self.app = self._app()
        self._server = make_server("127.0.0.1", self.port, self.app, threaded=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """End the server as a shutdown does: the feed first."""
        self.feed.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def close(self) -> None:
        """End the server and the journal."""
        self.stop()
        self.journal.close()
        self.store.close()

    def _app(self) -> Flask:
        app = Flask("site", static_folder=None)
        recording = self.settings.recording
        app.extensions["ccproxy.settings"] = self.settings
        app.extensions["ccproxy.feed"] = self.feed if recording else None
        app.extensions["ccproxy.store"] = self.store if recording else None
        app.extensions["ccproxy.journal"] = self.journal if recording else None
        if self._ping_seconds is not None:
            app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": self._ping_seconds}
        request_context.init_app(app, request_context.Sinks(node="test"))
        app.register_blueprint(logs.blueprint)
        app.register_blueprint(dashboard.blueprint)
        return app

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return f"http://localhost:{self.port}/dashboard"

    @property
    def socket_url(self) -> str:
        """The WebSocket's address."""
        return f"ws://localhost:{self.port}/dashboard/ws"

    def tell_anew(self) -> None:
        """Let every viewer get a snapshot soon, as one that missed something does."""
        for subscription in self.feed.subscriptions:
            subscription.put([Event("overflow", {"missed": 1})])

    def finish(self, **fields: Any) -> RequestRecord:
        """Let a request begin and end, as a worker would, and return its record."""
        record = make_record(**fields)
        self.journal.start(record)
        self.journal.end(record)
        return record


@contextmanager
def sites(home: Path) -> Iterator[Callable[..., Site]]:
    """Give a function that starts a site in *home*; all are closed at the end."""
    started: list[Site] = []

    def start(**settings: Any) -> Site:
        started.append(Site(home, **settings))
        return started[-1]

    yield start
    for site in started:
        site.close()


def make_settings(home: Path, *, collect: bool = True, token: str | None = None) -> Settings:
    """Return settings with the dashboard on and everything kept in *home*."""
    return load_settings(
        {},
        home,
        observability={
            "dashboard_enabled": True,
            "logs_endpoints_enabled": True,
            "logs_collection_enabled": collect,
            "duckdb_path": str(home / "metrics.duckdb"),
        },
        security={"auth_token": token},
    )


def open_journal(settings: Settings) -> JournalWriter:
    """Return a journal as one worker has it."""
    options = settings.journal
    return JournalWriter(
        settings.journal_directory,
        max_bytes=options.max_bytes,
        min_free_bytes=0,
        segment_bytes=options.segment_bytes,
        segment_seconds=options.segment_seconds,
        on_drop=lambda _reason: None,
    )


def make_record(ago: float = 0.0, **fields: Any) -> RequestRecord:
    """Return the record of a request that ended well *ago* seconds ago."""
    took = fields.pop("duration_ms", 1234.5)
    values: dict[str, Any] = {
        "method": "POST",
        "endpoint": "/v1/messages",
        "path": "/v1/messages",
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "user_agent": "claude-cli/2.1.44 (external, cli)",
        "status_code": 200,
        "streaming": True,
        "duration_ms": took,
        "duration_seconds": None if took is None else took / 1000,
        "tokens_input": 12,
        "tokens_output": 345,
        "cache_read_tokens": 6789,
        "cache_write_tokens": 0,
        "cost_usd": Decimal("0.0123456"),
        "ttft_ms": 410.0,
    }
    values["timestamp"] = datetime.now(UTC) - timedelta(seconds=ago)
    return RequestRecord(request_id=new_request_id(), **(values | fields))

"""A real server with the dashboard, the journal it follows, and a store that tests fill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import orjson
from flask import Flask
from werkzeug.serving import make_server

from ccproxy_flask import dashboard, request_context
from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.journal import Feed, JournalWriter, Subscription
from ccproxy_flask.journal.events import Event, as_row
from ccproxy_flask.record import RequestRecord, new_request_id, to_json
from ccproxy_flask.settings import Settings, load_settings
from ccproxy_flask.store.base import (
    Cursor,
    EntriesPage,
    LogFilter,
    Page,
    QueryPage,
    StoreStatus,
    Totals,
)

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 10) -> T:
    """Return the first true value of *condition*."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


class ListStore:
    """A store whose rows are a list; *away* is why it does not answer.

    Records in *arriving* are stored just after somebody has asked for rows.
    """

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.arriving: list[RequestRecord] = []
        self.away: str | None = None

    def keep(self, *records: RequestRecord) -> None:
        """Store *records*."""
        self.records.extend(records)

    def _found(self) -> list[RequestRecord]:
        if self.away is not None:
            raise StoreUnavailable(self.away)
        return sorted(self.records, key=lambda record: record.timestamp, reverse=True)

    def entries(self, _where: LogFilter, page: Page) -> EntriesPage:
        """Return the newest rows."""
        found = self._found()
        return EntriesPage(_as_text(found[: page.limit]), len(found))

    def query(self, _where: LogFilter, limit: int, _cursor: Cursor | None = None) -> QueryPage:
        """Return the newest rows."""
        found = self._found()[:limit]
        self.keep(*self.arriving)
        self.arriving.clear()
        return QueryPage(_as_text(found), len(found), None)

    def totals(self, where: LogFilter) -> Totals:
        """Return the figures since the start of *where*."""
        since = where.start_time
        rows = [row for row in self._found() if since is None or row.timestamp >= since]
        took = [row.duration_ms for row in rows if row.duration_ms is not None]
        costs = [row.cost_usd for row in rows if row.cost_usd is not None]
        return Totals(
            total_requests=len(rows),
            total_successful_requests=sum(row.succeeded for row in rows),
            total_error_requests=sum(not row.succeeded for row in rows),
            avg_duration_ms=sum(took) / len(took) if took else None,
            total_cost_usd=float(sum(costs)) if costs else None,
            total_tokens_input=sum(row.tokens_input or 0 for row in rows),
            total_tokens_output=sum(row.tokens_output or 0 for row in rows),
            total_cache_read_tokens=sum(row.cache_read_tokens or 0 for row in rows),
            total_cache_write_tokens=sum(row.cache_write_tokens or 0 for row in rows),
        )

    def status(self) -> StoreStatus:
        """Return its state."""
        return StoreStatus("list", "", len(self._found()), None)

    def reset(self) -> int:
        """Forget all rows."""
        count = len(self.records)
        self.records.clear()
        return count


def _as_text(records: list[RequestRecord]) -> bytes:
    return orjson.dumps([as_row(orjson.loads(to_json(record.as_dict()))) for record in records])


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
        self.store = ListStore()
        self.journal = open_journal(self.settings)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Serve, on the same port as before."""
        self.feed = WatchedFeed(self.settings.journal_directory)
        self._server = make_server("127.0.0.1", self.port, self._app(), threaded=True)
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

    def _app(self) -> Flask:
        app = Flask("site", static_folder=None)
        recording = self.settings.recording
        app.extensions["ccproxy.settings"] = self.settings
        app.extensions["ccproxy.feed"] = self.feed if recording else None
        app.extensions["ccproxy.store"] = self.store if recording else None
        if self._ping_seconds is not None:
            app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": self._ping_seconds}
        request_context.init_app(app, request_context.Sinks(node="test"))
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

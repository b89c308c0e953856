"""PostgreSQL beside the lake's own catalogue: who the nodes are, and whose turn it is.

The table ``ccproxy.nodes`` has a row for each node: when it was last seen, what it has not stored
yet, and its state as far as the lake's snapshots do not tell it any more.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ccproxy_flask.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from .state import NodeState

_TIMEOUTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "client_encoding": "utf8",
}
_STATEMENT_TIMEOUT = "-c statement_timeout=60s -c idle_in_transaction_session_timeout=20min"
_FENCE_SECONDS = 10.0
_TABLE = """
CREATE SCHEMA IF NOT EXISTS ccproxy;
CREATE TABLE IF NOT EXISTS ccproxy.nodes (
    id text PRIMARY KEY,
    name text NOT NULL,
    number bigint NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT '{"number":0,"marks":[],"counts":{}}',
    seen_at timestamptz NOT NULL DEFAULT now(),
    committed_at timestamptz,
    backlog_bytes bigint NOT NULL DEFAULT 0,
    lag_seconds double precision NOT NULL DEFAULT 0,
    reason text
);
"""
_NODES = (
    "SELECT id, name, seen_at, extract(epoch FROM now() - seen_at)::float8, committed_at, "
    "backlog_bytes, lag_seconds, reason FROM ccproxy.nodes ORDER BY name, id"
)
# Of all that use this database, keys for one thing each; any numbers that nobody else has.
_MAKING, _UPKEEP = 0x63637001, 0x63637002


@dataclass(frozen=True, slots=True)
class Node:
    """What a node said last. Ages are seconds; *committed_at* is when it last stored something."""

    id: str
    name: str
    seen_at: datetime
    seconds_ago: float
    committed_at: datetime | None
    backlog_bytes: int
    lag_seconds: float
    reason: str | None


def address(catalog: str, application: str) -> str:
    """Return the connection string of *catalog* for who is called *application*, with bounds in
    time for all that may hang. What the setting says itself counts."""
    own = conninfo_to_dict(catalog)
    options = {"options": f"{_STATEMENT_TIMEOUT} {own.pop('options', '')}".strip()}
    found: dict[str, Any] = {**_TIMEOUTS, **own, **options, "application_name": application}
    return make_conninfo("", **found)


def secrets_of(catalog: str) -> list[str]:
    """Return what of *catalog* nobody is to see."""
    password = conninfo_to_dict(catalog).get("password")
    return [catalog, *([str(password)] if password else [])]


class Catalogue:
    """Connections to *catalog*, each for one thread and one thing. Raises StoreUnavailable."""

    def __init__(self, catalog: str, node_id: str) -> None:
        self._catalog, self.node_id = catalog, node_id
        self.writer = address(catalog, f"ccproxy/{node_id}/lake")
        """The address for DuckDB, by whose name a later process of this node ends what is left."""
        self._hidden = secrets_of(catalog)

    def hide(self, text: str) -> str:
        """Return *text* without what nobody is to see."""
        for secret in (self.writer, *self._hidden):
            text = text.replace(secret, "***")
        return text

    @contextmanager
    def session(self, application: str = "session") -> Iterator[psycopg.Connection[Any]]:
        """A connection for the length of the block; each statement is its own transaction."""
        try:
            name = f"ccproxy/{self.node_id}/{application}"
            with psycopg.connect(address(self._catalog, name), autocommit=True) as connection:
                yield connection
        except psycopg.Error as error:
            reason = self.hide(str(error)).strip().partition("\n")[0]
            raise StoreUnavailable(f"the lake's catalogue: {reason}", 5) from error

    @contextmanager
    def preparing(self, name: str) -> Iterator[None]:
        """For the length of the block nobody else makes or changes tables; and nobody else writes
        for this node, which is called *name*: what an earlier process of it has begun either is in
        the lake by now, or never will be."""
        with self.session() as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [_MAKING])
            connection.execute(_TABLE)
            self._end_others(connection)
            self._register(connection, name)
            yield

    def _register(self, connection: psycopg.Connection[Any], name: str) -> None:
        found = connection.execute(
            "SELECT id FROM ccproxy.nodes WHERE name = %s AND id <> %s "
            "AND seen_at > now() - interval '60 seconds'",
            [name, self.node_id],
        ).fetchall()
        if found:
            raise StoreUnavailable(
                f"another machine of this lake is called {name!r}: set OBSERVABILITY__NODE", 30
            )
        connection.execute(
            "INSERT INTO ccproxy.nodes (id, name) VALUES (%s, %s) "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name, seen_at = now()",
            [self.node_id, name],
        )

    def _end_others(self, connection: psycopg.Connection[Any]) -> None:
        deadline = time.monotonic() + _FENCE_SECONDS
        others = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = %s AND pid <> pg_backend_pid()"
        )
        name = f"ccproxy/{self.node_id}/lake"
        while True:
            [(left,)] = connection.execute(others, [name]).fetchall()
            if not left:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable("an earlier process of this node still writes", 5)
            time.sleep(0.05)

    def stored_states(self) -> dict[str, str]:
        """Return the newest state of each node that was written here, by the node's id."""
        with self.session() as connection:
            return dict(connection.execute("SELECT id, state FROM ccproxy.nodes").fetchall())

    def nodes(self, connection: psycopg.Connection[Any] | None = None) -> list[Node]:
        """Return what each node said last."""
        if connection is None:
            with self.session() as connection:
                return self.nodes(connection)
        return [Node(*row) for row in connection.execute(_NODES).fetchall()]

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Tell whether upkeep is this node's for the length of the block: it is one's at a time."""
        with self.session("upkeep") as connection:
            [(mine,)] = connection.execute("SELECT pg_try_advisory_lock(%s)", [_UPKEEP]).fetchall()
            yield bool(mine)


def keep_state(connection: psycopg.Connection[Any], node_id: str, state: NodeState) -> None:
    """Write *state* down, unless a newer one is."""
    connection.execute(
        "UPDATE ccproxy.nodes SET number = %s, state = %s WHERE id = %s AND number < %s",
        [state.number, state.to_text(), node_id, state.number],
    )

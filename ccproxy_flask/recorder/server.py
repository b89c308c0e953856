"""The recorder's answers: HTTP on a unix socket, for the workers of this user alone."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from waitress import wasyncore  # type: ignore[import-untyped]  # has no types
from waitress.server import create_server  # type: ignore[import-untyped]  # has no types

from ccproxy_flask.caching.prices import InputPricing
from ccproxy_flask.errors import ContentNotKept, StoreUnavailable
from ccproxy_flask.metrics import aggregation, multiprocess_values
from ccproxy_flask.store.base import Cursor, Grouping, LogFilter, Page, QueryRefused, abandoned
from ccproxy_flask.store.limit_rows import LimitsAsked
from ccproxy_flask.store.remote import FACTS_HEADER, LANES, lane_socket
from ccproxy_flask.store.sessions import SessionPage

from .caching import Caching
from .scheduling import yield_to_ingest
from .sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIEnvironment

    from ccproxy_flask.store.base import Store

    from .content import ContentKeeping

log = structlog.get_logger(__name__)

_LONGEST_QUESTION = 1 << 20
_PIECE = 256 << 10
_LOOK_SECONDS = 30.0
"""Without any event; close() makes one."""
# A big answer is handed over piece by piece, as the worker takes it.
_LONGEST_UNSENT = 1 << 20

Answer = tuple[bytes, dict[str, Any]]


class Questions:
    """The WSGI application: ``POST /<question>`` with a JSON body, answered by *store*.

    The rows are the body of the answer; what else is to say is JSON in a header. 503 with
    ``{"reason", "retry_after"}`` where the store cannot answer, 422 with ``{"kind", "message"}``
    where it will not. An export that breaks off is cut short.
    """

    def __init__(
        self,
        store: Store,
        content: ContentKeeping | None = None,
        pricing: InputPricing | None = None,
    ) -> None:
        self._store, self._content = store, content
        self._caching = Caching(store, content, pricing or InputPricing())
        self._told = Sessions(store, content, self._caching)
        self._views: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "/entries": self._entries,
            "/query": self._query,
            "/totals": self._totals,
            "/sessions": self._sessions,
            "/session": self._session,
            "/cache": self._cache,
            "/analytics": self._analytics,
            "/groups": self._groups,
            "/limits": self._limits,
            "/sql": self._sql,
            "/status": self._status,
            "/reset": self._reset,
            "/metrics": self._metrics,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        view = self._views.get(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/export":
            status, found = _answered(environ, self._export)
        elif view is not None:
            status, found = _answered(environ, view)
        elif environ["PATH_INFO"].startswith("/content") and self._content is not None:
            status, found = _answered(environ, partial(self._content.answer, environ["PATH_INFO"]))
        else:
            status, found = "404 Not Found", (b"", {})
        if not isinstance(found, tuple):
            start_response(status, [("content-type", "application/octet-stream")])
            return found
        body, facts = found
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            (FACTS_HEADER, orjson.dumps(facts).decode()),
        ]
        start_response(status, headers)
        return (body[begin : begin + _PIECE] for begin in range(0, len(body), _PIECE))

    def _export(self, asked: dict[str, Any]) -> _Pieces:
        return _Pieces(self._store.export(LogFilter.from_wire(asked["where"]), asked["form"]))

    def _analytics(self, asked: dict[str, Any]) -> Answer:
        where = LogFilter.from_wire(asked["where"])
        return self._store.analytics(where, asked["bucket_seconds"]), {}

    def _groups(self, asked: dict[str, Any]) -> Answer:
        where = LogFilter.from_wire(asked.pop("where"))
        grouping = Grouping(**asked | {"by": tuple(asked["by"])})
        return self._store.groups(where, grouping), {}

    def _limits(self, asked: dict[str, Any]) -> Answer:
        return self._store.limits(LimitsAsked.from_wire(asked)), {}

    def _sql(self, asked: dict[str, Any]) -> Answer:
        return self._store.sql(asked["text"], asked["limit"]), {}

    def _entries(self, asked: dict[str, Any]) -> Answer:
        where = LogFilter.from_wire(asked.pop("where"))
        found = self._store.entries(where, Page(**asked))
        return found.text, {"total_count": found.total_count}

    def _query(self, asked: dict[str, Any]) -> Answer:
        cursor = Cursor.parse(asked["cursor"]) if asked["cursor"] is not None else None
        found = self._store.query(LogFilter.from_wire(asked["where"]), asked["limit"], cursor)
        return found.text, {"count": found.count, "next_cursor": found.next_cursor}

    def _sessions(self, asked: dict[str, Any]) -> Answer:
        where = LogFilter.from_wire(asked.pop("where"))
        found = self._told.page(where, SessionPage(**asked))
        return found.text, {"total_count": found.total_count}

    def _session(self, asked: dict[str, Any]) -> Answer:
        found = self._told.session(**asked)
        return found or b"null", {"found": found is not None}

    def _cache(self, asked: dict[str, Any]) -> Answer:
        found = self._caching.of_request(**asked)
        return orjson.dumps(found), {"found": found is not None}

    def _totals(self, asked: dict[str, Any]) -> Answer:
        return orjson.dumps(self._store.totals(LogFilter.from_wire(asked["where"]))), {}

    def _status(self, _asked: dict[str, Any]) -> Answer:
        return self._store.status().to_wire(), {}

    def _metrics(self, asked: dict[str, Any]) -> Answer:
        multiprocess_values.settle()
        asked["figures"] += multiprocess_values.homeless()
        text, content_type = aggregation.answer(asked)
        return text, {"content_type": content_type}

    def _reset(self, _asked: dict[str, Any]) -> Answer:
        return orjson.dumps({"deleted": self._store.reset()}), {}


class _Pieces:
    """An answer of unknown length; what is wrong with its first piece is raised at once."""

    def __init__(self, pieces: Generator[bytes]) -> None:
        self._rest = pieces
        self._pieces = itertools.chain([next(pieces, b"")], pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """Let go of it; called by the server also where nobody reads to the end."""
        self._rest.close()


def _answered(
    environ: WSGIEnvironment, view: Callable[[dict[str, Any]], Any]
) -> tuple[str, Answer | _Pieces]:
    abandoned.set(environ["waitress.client_disconnected"])
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        asked = orjson.loads(environ["wsgi.input"].read(size))
        return "200 OK", view(asked)
    except ContentNotKept as error:
        return "404 Not Found", (orjson.dumps({"request_id": str(error), "node": error.node}), {})
    except StoreUnavailable as error:
        problem = {"reason": str(error), "retry_after": error.retry_after}
        return "503 Service Unavailable", (orjson.dumps(problem), {})
    except QueryRefused as error:
        problem = {"kind": error.kind, "message": str(error)}
        return "422 Unprocessable Content", (orjson.dumps(problem), {})
    except (TypeError, ValueError, KeyError) as error:
        log.warning("question_not_understood", path=environ["PATH_INFO"], reason=repr(error))
        return "400 Bad Request", (b"", {})


class SocketServer:
    """Serves the WSGI application *app* on the unix socket *path*, so many requests beside each
    other as it has *threads*, until :meth:`close`."""

    def __init__(self, path: Path, app: Callable[..., Iterable[bytes]], threads: int) -> None:
        self._map: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._map,
            unix_socket=str(path),
            unix_socket_perms="600",
            threads=threads,
            max_request_body_size=_LONGEST_QUESTION,
            outbuf_overflow=4 * _LONGEST_UNSENT,  # so that nothing goes through a file on disk
            outbuf_high_watermark=_LONGEST_UNSENT,
            connection_limit=1000,
            channel_request_lookahead=1,  # or else it is not noticed that a worker hangs up
            asyncore_use_poll=True,
            ident="ccproxy-recorder",
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="recorder-socket")
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            wasyncore.loop(timeout=_LOOK_SECONDS, use_poll=True, map=self._map, count=1)

    def close(self) -> None:
        """Stop to listen, and let go of the connections. The socket's file stays, refusing."""
        self._stopping.set()
        self._server.pull_trigger()
        self._thread.join(timeout=5)
        self._server.task_dispatcher.shutdown(timeout=2)
        wasyncore.close_all(self._map, ignore_all=True)


def _beside(app: Questions) -> Callable[..., Iterable[bytes]]:
    """Return *app* for threads that leave the machine to others."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        yield_to_ingest()
        return app(environ, start_response)

    return answer


class LaneServers:
    """A server for each lane (:data:`LANES`) beside the socket *path*."""

    def __init__(
        self,
        path: Path,
        store: Store,
        content: ContentKeeping | None = None,
        pricing: InputPricing | None = None,
    ) -> None:
        self._servers: list[SocketServer] = []
        try:
            for lane, threads in LANES.items():
                app = Questions(store, content, pricing)
                server = SocketServer(
                    lane_socket(path, lane), _beside(app) if lane == "large" else app, threads
                )
                self._servers.append(server)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Stop to listen, and let go of the connections."""
        for server in self._servers:
            server.close()

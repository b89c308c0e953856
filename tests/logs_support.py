"""The logs API alone, on a real socket."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from werkzeug.serving import make_server

from ccproxy_flask import logs, request_context
from ccproxy_flask.record import RequestRecord
from ccproxy_flask.settings import Settings
from ccproxy_flask.store.base import Store

ON = {"logs_endpoints_enabled": True}


class Site:
    """An application with the logs API at *port*, one of its own."""

    def __init__(
        self, settings: Settings, store: Store | None, journal: Any = None, feed: Any = None
    ) -> None:
        app = Flask("logs-test")
        app.extensions |= {
            "ccproxy.settings": settings,
            "ccproxy.store": store,
            "ccproxy.journal": journal,
            "ccproxy.feed": feed,
        }
        self.traced: list[RequestRecord] = []
        self.stored: list[RequestRecord] = []
        request_context.init_app(
            app,
            request_context.Sinks(ended=[self.traced.append], stored_ended=[self.stored.append]),
        )
        app.register_blueprint(logs.blueprint)
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers, and the body, parsed where it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = answer.read()
            named = {name.lower(): value for name, value in answer.getheaders()}
            is_json = named.get("content-type") == "application/json"
            return answer.status, named, json.loads(found) if is_json else found
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of an answer that has to be good."""
        status, _, body = self.ask(f"/logs{path}?{urlencode(query)}")
        assert status == 200, body
        return body

    def sql(self, text: str, **fields: Any) -> tuple[int, dict[str, str], Any]:
        """Ask ``/logs/sql``."""
        body = json.dumps({"sql": text, **fields}).encode()
        return self.ask("/logs/sql", "POST", {"content-type": "application/json"}, body)

    def close(self) -> None:
        """Stop to serve."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

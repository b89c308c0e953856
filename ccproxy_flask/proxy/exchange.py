"""One request on its way upstream, and its answer on the way back (SPEC §1)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from flask import Response

from .. import access, redact, serving, tracing
from ..errors import (
    BadRequest,
    BodyTooLarge,
    CcproxyError,
    ClientDisconnected,
    HeadersTooLarge,
    NotAllowed,
    ProxyError,
    UpgradeRequired,
    error_body,
)
from ..tracers import Both
from ..usage import PriceBook, RequestFacts, answer_reader, request_reader
from . import headers as wire
from .body import RequestBody
from .inject import UsageRemover, asking_for_usage
from .providers import Providers, Route, dialect_of
from .relay import Relay, describe
from .tap import Tap
from .upstream import Answer, Call, Lifeline, Upstreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..record import RequestRecord
    from ..settings import Settings
    from ..tracers import Trail, Trails
    from ..usage import RequestReader
    from .hangup import HangupWatch

log = structlog.get_logger(__name__)

_UPSTREAM_REQUEST_IDS = ("x-request-id", "request-id", "x-oai-request-id")
_LONGEST_ID = 128


@dataclasses.dataclass
class ProxyParts:
    """What exchanges share; made once."""

    settings: Settings
    providers: Providers
    upstreams: Upstreams
    prices: PriceBook
    watch: HangupWatch
    key_secret: bytes
    observe_gap: Callable[[RequestRecord, float], None]
    trails: Trails | None = None
    """Where whole exchanges are traced; None where they are not."""


class Exchange:
    """One request on its way through."""

    def __init__(self, parts: ProxyParts, trace: tracing.Trace, environ: dict[str, Any]) -> None:
        self._parts, self._trace, self._environ = parts, trace, environ
        self._method: str = environ["REQUEST_METHOD"]
        self._headers = serving.request_headers(environ)
        self._named = wire.first_values(self._headers)
        self._path, self._query = serving.raw_target(environ)
        self._trail: Trail | None = None
        self._line = Lifeline()
        self._socket_fd: int | None = None

    def answer(self) -> Response | Relay:
        """Return the answer to the request: its own, or one of ours; a defect's, too."""
        try:
            if self._parts.trails is not None:
                self._trail = self._begin_trail(self._parts.trails)
            self._check()
            return self._run()
        except ProxyError as error:
            return self._refusal(error)
        except ClientDisconnected as error:
            return self._to_nobody(error)
        except Exception as error:  # a defect is an answer and a row, too
            request_id = self._trace.record.request_id
            log.exception("proxy_defect", request_id=request_id)
            tracing.note_error(self._trace.record, error)
            reason = "the proxy failed on this request; its log has the reason"
            return self._refusal(ProxyError(reason))

    def _check(self) -> None:
        """Refuse what is not to be passed on. Raises ProxyError."""
        parts = self._parts
        if not access.host_allowed(
            self._named.get("host", ""), parts.settings.security.allowed_hosts
        ):
            raise NotAllowed(
                "this Host header is not allowed; name it in SECURITY__ALLOWED_HOSTS to allow it"
            )
        if "connection" in self._named and "close" in wire.named_by_connection(self._headers):
            # gunicorn only knows it when it stands alone
            self._environ.get("ccproxy.force_close", lambda: None)()
        size = wire.size_of(self._headers)
        if size > parts.settings.proxy.max_header_bytes:
            raise HeadersTooLarge(
                f"the headers take {size} bytes; the limit is "
                f"{parts.settings.proxy.max_header_bytes} (PROXY__MAX_HEADER_BYTES)"
            )

    def _run(self) -> Relay:
        """Send the request upstream, and return its answer as it comes."""
        route = self._parts.providers.resolve(self._method, self._path, self._named)
        self._note_route(route)
        if "upgrade" in self._named and "upgrade" in self._named.get("connection", "").lower():
            raise UpgradeRequired("this proxy speaks plain HTTP here: send the request over HTTP")
        reader = request_reader(route.api, self._named, route.path)
        try:
            body = self._body(reader)
            call, remover = self._call(route, body)
        finally:
            self._note_facts(reader.close())
            self._trace.start()
        return self._relay(route, call, body, reader, remover)

    def _relay(
        self,
        route: Route,
        call: Call,
        body: RequestBody | None,
        reader: RequestReader,
        remover: UsageRemover | None,
    ) -> Relay:
        self._watch()
        if self._trail is not None:
            is_whole = body is None or body.plain is not None or remover is not None
            changed = body.whole if body is not None and remover is not None else None
            self._trail.sends(call.base_url + call.target, call.headers, changed, is_whole)
        began = self._trace.elapsed()
        try:
            answer = self._parts.upstreams.send(call, self._line)
        except BaseException:
            self._unwatch()
            self._note_sent(began, body, reader)
            self._let_upload_end()
            raise
        try:
            return self._relayed(route, answer, began, body, reader, remover)
        except BaseException:  # nobody else would end the answer
            self._unwatch()
            answer.close()
            raise

    def _relayed(
        self,
        route: Route,
        answer: Answer,
        began: float,
        body: RequestBody | None,
        reader: RequestReader,
        remover: UsageRemover | None,
    ) -> Relay:
        self._let_upload_end()
        head_at = self._trace.elapsed()
        content_type = answer.named.get("content-type", "")
        encoding = answer.named.get("content-encoding", "")
        tap = Tap(answer_reader(route.api, answer.status, content_type, encoding))
        self._note_head(answer, head_at)
        if self._trail is not None:
            self._trail.head(answer.status, answer.headers, content_type)
        if encoding or "event-stream" not in content_type:
            remover = None
        return Relay(
            answer,
            self._answer_headers(answer, remover is not None),
            tap,
            self._trace,
            partial(self._end, route, tap, began, body, reader),
            remover,
            self._trail,
        )

    def _end(
        self,
        route: Route,
        tap: Tap,
        began: float,
        body: RequestBody | None,
        reader: RequestReader,
        error: BaseException | None,
    ) -> None:
        self._unwatch()
        self._note_sent(began, body, reader)
        if self._trail is not None:
            self._trail.end(error)
        record = self._trace.record
        if error is not None:
            tracing.note_error(record, error)
        describe(record, tap, error)
        self._price(route, tap)
        if tap.longest_gap is not None and record.streaming:
            self._parts.observe_gap(record, tap.longest_gap)

    def _price(self, route: Route, tap: Tap) -> None:
        record = self._trace.record
        usage = tap.close().usage
        if usage is None:
            return
        price = self._parts.prices.price(
            record.provider,
            route.api,
            usage,
            model=record.model,
            model_requested=record.model_requested,
            at=record.timestamp,
        )
        if price is None:
            return
        record.cost_usd, record.cost_source = price.total, price.source
        record.cost_input_usd, record.cost_output_usd = price.input, price.output
        record.cost_cache_usd = price.cache
        if price.source == "provider":
            record.cost_sdk_usd = price.total

    def _body(self, reader: RequestReader) -> RequestBody | None:
        limit = self._parts.settings.proxy.max_body_bytes
        watcher = reader if self._trail is None else Both(reader.feed, self._trail.feed)
        length = self._named.get("content-length")
        if length is None:
            coding = self._named.get("transfer-encoding")
            if coding is None:
                return None
            if coding.lower() != "chunked":
                raise BadRequest("the body has a transfer coding other than chunked")
            return RequestBody(self._environ["wsgi.input"], None, limit, watcher)
        if not length.isdigit():
            raise BadRequest(f"content-length {length[:20]!r} is not a number")
        if int(length) > limit:
            raise BodyTooLarge(
                f"the request body of {length} bytes is over the limit of {limit} "
                "(PROXY__MAX_BODY_BYTES)"
            )
        if int(length) == 0:
            return None
        return RequestBody(self._environ["wsgi.input"], int(length), limit, watcher)

    def _call(self, route: Route, body: RequestBody | None) -> tuple[Call, UsageRemover | None]:
        options, upstream = self._parts.settings.proxy, route.upstream
        headers = wire.to_upstream(self._headers)
        if upstream.api_key is not None and wire.client_key(self._named, self._query) is None:
            headers.append(wire.key_header(route.api, upstream.api_key.get_secret_value()))
        remover = None
        if options.inject_stream_usage and body is not None and route.api == "openai_chat":
            remover, headers = _asking(body, headers, self._named)
        call = Call(
            base_url=upstream.base_url,
            method=self._method,
            target=f"{route.path}?{self._query}" if self._query else route.path,
            headers=headers,
            body=body,
            connect_timeout=upstream.timeout_connect_seconds or options.timeout_connect_seconds,
            read_timeout=upstream.timeout_read_seconds or options.timeout_read_seconds,
        )
        return call, remover

    def _answer_headers(self, answer: Answer, is_changed: bool) -> serving.WireHeaders:
        headers = serving.WireHeaders(wire.to_client(answer.headers))
        if is_changed:
            wire.drop(headers, "content-length")
        if tracing.REQUEST_ID_HEADER in answer.named:  # of another ccproxy behind this one
            wire.drop(headers, tracing.REQUEST_ID_HEADER)
        request_id = self._trace.record.request_id
        headers.append((tracing.REQUEST_ID_HEADER, request_id))
        if "x-request-id" not in answer.named:
            headers.append(("x-request-id", request_id))
        return headers

    def _refusal(self, error: ProxyError) -> Response:
        request_id = self._trace.record.request_id
        answer = Response(
            error_body(dialect_of(self._path, self._named), error, request_id),
            status=error.status,
            mimetype="application/json",
        )
        answer.headers["x-request-id"] = request_id
        answer.headers[tracing.REQUEST_ID_HEADER] = request_id
        if isinstance(error, UpgradeRequired):
            answer.headers["Upgrade"] = "HTTP/1.1"
        if isinstance(error, BadRequest | BodyTooLarge | HeadersTooLarge):
            serving.close_after_answer(self._environ)
        return self._own(answer, error)

    def _to_nobody(self, error: ClientDisconnected) -> Response:
        self._trace.record.client_disconnected = True
        self._environ.get("ccproxy.force_close", lambda: None)()
        return self._own(Response(status=499), error)

    def _own(self, answer: Response, error: CcproxyError) -> Response:
        """Return an *answer* of ours, with which the trace ends."""
        record = self._trace.record
        tracing.note_error(record, error)
        record.status_code = answer.status_code
        answer.call_on_close(self._trace.finish)
        if self._trail is not None:
            self._trail.answered(answer.status_code, list(answer.headers), answer.get_data(), error)
        return answer

    def _begin_trail(self, trails: Trails) -> Trail | None:
        target = f"{self._path}?{self._query}" if self._query else self._path
        request_id = self._trace.record.request_id
        return trails.begin(request_id, self._method, target, self._headers)

    def _watch(self) -> None:
        sock = serving.client_socket(self._environ)
        if sock is not None:
            self._socket_fd = sock.fileno()
            self._parts.watch.watch(self._socket_fd, self._line.abort)

    def _unwatch(self) -> None:
        if self._socket_fd is not None:
            self._parts.watch.unwatch(self._socket_fd)
            self._socket_fd = None

    def _let_upload_end(self) -> None:
        """Where the answer came before the end of the request, let it be the connection's last."""
        upload = self._line.upload
        if upload is not None and upload.is_alive():
            serving.close_after_answer(self._environ, upload.join)

    def _note_route(self, route: Route) -> None:
        record = self._trace.record
        record.provider, record.endpoint = route.provider, route.endpoint
        record.service_type = route.upstream.service_type
        record.client_request_id = redact.shortened(self._named.get("x-request-id"), _LONGEST_ID)
        key = wire.client_key(self._named, self._query)
        record.api_key_id = redact.key_id(self._parts.key_secret, key) if key else None

    def _note_facts(self, facts: RequestFacts) -> None:
        record = self._trace.record
        record.model_requested = record.model = facts.model
        record.streaming = bool(facts.streaming)
        record.session_id, record.user_id = facts.session_id, facts.user_id
        record.agent_id, record.retry_count = facts.agent_id, facts.retry_count

    def _note_head(self, answer: Answer, at: float) -> None:
        record = self._trace.record
        record.status_code = answer.status
        record.ttfb_ms = at * 1000
        for name in _UPSTREAM_REQUEST_IDS:
            if value := answer.named.get(name):
                record.upstream_request_id = redact.shortened(value, _LONGEST_ID)
                break

    def _note_sent(self, began: float, body: RequestBody | None, reader: RequestReader) -> None:
        record = self._trace.record
        record.upstream_ms = (self._trace.elapsed() - began) * 1000
        if body is not None:
            record.request_bytes = body.size
            if body.plain is None:  # the rest of a long body was read meanwhile
                self._note_facts(reader.close())


def _asking(
    body: RequestBody, headers: wire.Headers, named: dict[str, str]
) -> tuple[UsageRemover | None, wire.Headers]:
    if "content-encoding" in named:
        return None, headers
    whole = body.read_all()
    changed = asking_for_usage(whole)
    body.replace(whole if changed is None else changed)
    kept = [pair for pair in headers if pair[0] not in ("content-length", "accept-encoding")]
    encoding = "identity" if changed is not None else named.get("accept-encoding")
    if encoding is not None:
        kept.append(("accept-encoding", encoding))
    kept.append(("content-length", str(body.length)))
    return (UsageRemover() if changed is not None else None), kept

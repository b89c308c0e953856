"""One request on its way upstream, and its answer on the way back (SPEC §1)."""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING, Any

import structlog
from flask import Response

from .. import access, redact, request_context
from ..dialects import OTHER, meaning_of
from ..errors import (
    BadRequest,
    BodyTooLarge,
    CcproxyError,
    ClientDisconnected,
    HeadersTooLarge,
    NotAllowed,
    ProxyError,
    RequestTimeout,
    UpgradeRequired,
)
from ..server import middleware, request_parser, response_writer, sockets
from ..usage import limits
from . import headers as wire
from .body import RequestBody
from .observers import Observers, RequestHead, ResponseHead
from .relay import Relay
from .upstream import Transport, UpstreamCall, UpstreamRequest, UpstreamResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..dialects import Dialect
    from ..settings import Settings
    from .hangup import HangupWatch, Watched, WatchedUpload
    from .observers import ObserverFactory
    from .providers import Providers, Route
    from .relay import Filter

log = structlog.get_logger(__name__)

_LONGEST_ID = 128


@dataclasses.dataclass
class ProxyDeps:
    """What exchanges share; made once."""

    settings: Settings
    providers: Providers
    upstreams: Transport
    watch: HangupWatch
    key_secret: bytes
    observers: Sequence[ObserverFactory] = ()
    """Who sees exchanges, in the order in which they are told."""


class ProxiedRequest:
    """One request on its way through."""

    def __init__(
        self, parts: ProxyDeps, context: request_context.RequestContext, environ: dict[str, Any]
    ) -> None:
        self._parts, self._context, self._environ = parts, context, environ
        self._method: str = environ["REQUEST_METHOD"]
        self._headers = middleware.request_headers(environ)
        # The names are small here; the first value of each counts.
        self._named = dict(reversed(self._headers))
        self._path, self._query = middleware.raw_target(environ)
        self._route: Route | None = None
        self._observers: Observers | None = None
        self._body: RequestBody | None = None
        self._shown: Filter | None = None
        self._began: float | None = None
        self._upstream: UpstreamCall | None = None
        self._watched: Watched | None = None
        context.credentials.add_headers(self._headers)
        context.credentials.add_query(self._query)
        self._upload: WatchedUpload | None = None

    def answer(self) -> Response | Relay:
        """Return the answer to the request: its own, or one of ours; a defect's, too."""
        try:
            self._check()
            return self._run()
        except ProxyError as error:
            return self._refusal(error)
        except ClientDisconnected as error:
            return self._to_nobody(error)
        except Exception as error:  # noqa: BLE001  logged; a defect is an answer and a row, too
            request_id = self._context.record.request_id
            told = self._context.credentials.scrub(traceback.format_exc())
            log.error("proxy_defect", request_id=request_id, exception=told)  # noqa: TRY400  searched
            request_context.note_error(self._context.record, error)
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
        if "connection" in self._named and "close" in wire.named_by_connection(
            self._headers, self._named
        ):
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
        self._route = route
        self._note_route(route)
        if "upgrade" in self._named and wire.wants_websocket(self._named):
            raise UpgradeRequired("this proxy speaks plain HTTP here: send the request over HTTP")
        try:
            request = self._request(route)
        except BaseException:
            self._unwatch()
            raise
        finally:
            self._context.start()
        return self._sent(self._parts.upstreams.call(request))

    def _sent(self, upstream: UpstreamCall) -> Relay:
        """Send the request, and return the answer that comes."""
        self._upstream = upstream
        self._watch(upstream)
        self._began = self._context.elapsed()
        try:
            answer = upstream.send()
        except BaseException:
            self._unwatch()
            self._note_sent()
            self._let_upload_end()
            raise
        try:
            return self._relayed(answer)
        except BaseException:  # nobody else would end the answer
            self._unwatch()
            answer.close()
            raise

    def _relayed(self, answer: UpstreamResponse) -> Relay:
        self._let_upload_end()
        head_at = self._context.elapsed()
        self._note_head(answer)
        observers = self._observed()
        observers.response_head(
            ResponseHead(answer.status, answer.reason, answer.headers, answer.named, head_at)
        )
        content_type = answer.named.get("content-type", "")
        if "content-encoding" in answer.named or "event-stream" not in content_type:
            self._shown = None
        headers = self._answer_headers(answer)
        return Relay(answer, headers, self._shown, observers, self._context, self._end)

    def _end(self, error: BaseException | None) -> None:
        self._unwatch()
        self._note_sent()
        record = self._context.record
        if error is not None:
            request_context.note_error(record, error)
        record.client_disconnected = isinstance(error, ClientDisconnected)
        self._observed().end(record, error)

    def _observed(self, sent: wire.Headers | None = None) -> Observers:
        """Return the observers; they are told of the request when they are first asked for.

        *sent* are the headers with which it goes on, None where it does not.
        """
        if self._observers is None:
            record, route = self._context.record, self._route
            head = RequestHead(
                request_id=record.request_id,
                method=self._method,
                target=self._target(self._path),
                headers=self._headers,
                named=self._named,
                client_ip=record.client_ip,
                provider=route.provider if route else None,
                endpoint=route.endpoint if route else OTHER,
                dialect=self._meant(),
                generates=route is not None and route.generates,
                path=route.path if route else "",
                url=(
                    route.upstream.base_url + self._target(route.path)
                    if route is not None and sent is not None
                    else ""
                ),
                sent_headers=sent or [],
                credentials=self._context.credentials,
            )
            self._observers = Observers(self._parts.observers, record, head)
        return self._observers

    def _target(self, path: str) -> str:
        return f"{path}?{self._query}" if self._query else path

    def _read_body(self, on_piece: Callable[[bytes], None]) -> RequestBody | None:
        limit = self._parts.settings.proxy.max_body_bytes
        length = self._named.get("content-length")
        if length is None:
            coding = self._named.get("transfer-encoding")
            if coding is None:
                on_piece(b"")
                return None
            if coding.lower() != "chunked":
                raise BadRequest("the body has a transfer coding other than chunked")
            return self._begun_body(None, on_piece)
        if not length.isdigit():
            raise BadRequest("content-length is not a number")
        if int(length) > limit:
            raise BodyTooLarge(
                f"the request body of {length} bytes is over the limit of {limit} "
                "(PROXY__MAX_BODY_BYTES)"
            )
        if int(length) == 0:
            on_piece(b"")
            return None
        return self._begun_body(int(length), on_piece)

    def _begun_body(self, length: int | None, on_piece: Callable[[bytes], None]) -> RequestBody:
        source = request_parser.body_source(self._environ)
        limit = self._parts.settings.proxy.max_body_bytes
        body = self._body = RequestBody(source, length, limit, on_piece)
        sock = sockets.client_socket(self._environ)
        if sock is not None:
            self._upload = self._parts.watch.watch_upload(sock, body, self._context.start)
        body.begin()
        if body.whole is not None:
            self._unwatch_upload()
        return body

    def _request(self, route: Route) -> UpstreamRequest:
        options, upstream = self._parts.settings.proxy, route.upstream
        headers = wire.to_upstream(self._headers, self._named)
        headers += self._injected_key(route)
        if self._may_ask_for_usage(route):
            headers = self._asking(route.dialect, headers)
        else:
            self._observed(headers)
            self._body = self._read_body(self._observe_piece)
        return UpstreamRequest(
            base_url=upstream.base_url,
            method=self._method,
            target=self._target(route.path),
            headers=headers,
            body=self._body,
            connect_timeout=upstream.timeout_connect_seconds or options.timeout_connect_seconds,
            read_timeout=upstream.timeout_read_seconds or options.timeout_read_seconds,
        )

    def _injected_key(self, route: Route) -> wire.Headers:
        """Return the header with the provider's key, where the client sent none of its own.

        Raises NotAllowed where it is a page of another site that would spend it.
        """
        key = route.upstream.api_key
        if key is None or wire.client_key(self._named, self._query) is not None:
            return []
        if not access.comes_from_own_page(self._environ):
            if self._method == "OPTIONS":
                return []  # a preflight: it has no key, and the request behind it may have one
            raise NotAllowed(
                "a page of another site may not use the key that this proxy adds for "
                f"{route.provider}; send a key of your own"
            )
        injected = route.dialect.key_header(key.get_secret_value())
        self._context.credentials.add_header(*injected)
        return [injected]

    def _observe_piece(self, data: bytes) -> None:
        self._observed().request_chunk(data, self._context.elapsed())

    def _may_ask_for_usage(self, route: Route) -> bool:
        return (
            self._parts.settings.proxy.inject_stream_usage
            and route.generates
            and route.dialect.stream_usage is not None
            and "content-encoding" not in self._named
        )

    def _asking(self, dialect: Dialect, headers: wire.Headers) -> wire.Headers:
        """Read the body whole, let it ask for usage, and return the headers that it then has."""
        came: list[bytes] = []
        try:
            body = self._body = self._read_body(came.append)
            if body is not None and dialect.stream_usage is not None:
                ask, remover = dialect.stream_usage
                whole = body.read_all()
                changed = ask(whole)
                if changed is not None:
                    self._shown = remover()
                body.replace(whole if changed is None else changed)
                came = [body.whole or b"", b""]
                headers = self._asking_headers(headers, body, changed is not None)
        finally:
            self._observed(headers)
            for piece in came:
                self._observe_piece(piece)
        return headers

    def _asking_headers(
        self, headers: wire.Headers, body: RequestBody, is_changed: bool
    ) -> wire.Headers:
        kept = [pair for pair in headers if pair[0] not in ("content-length", "accept-encoding")]
        encoding = "identity" if is_changed else self._named.get("accept-encoding")
        if encoding is not None:
            kept.append(("accept-encoding", encoding))
        kept.append(("content-length", str(body.length)))
        return kept

    def _answer_headers(self, answer: UpstreamResponse) -> response_writer.WireHeaders:
        headers = response_writer.WireHeaders(wire.to_client(answer.headers, answer.named))
        if self._shown is not None:
            wire.drop(headers, "content-length")
        if request_context.REQUEST_ID_HEADER in answer.named:  # of another ccproxy behind this one
            wire.drop(headers, request_context.REQUEST_ID_HEADER)
        request_id = self._context.record.request_id
        headers.append((request_context.REQUEST_ID_HEADER, request_id))
        if "x-request-id" not in answer.named:
            headers.append(("x-request-id", request_id))
        return headers

    def _refusal(self, error: ProxyError) -> Response:
        request_id = self._context.record.request_id
        answer = Response(
            self._meant().error_body(error, request_id),
            status=error.status,
            mimetype="application/json",
        )
        answer.headers["x-request-id"] = request_id
        answer.headers[request_context.REQUEST_ID_HEADER] = request_id
        if isinstance(error, UpgradeRequired):
            answer.headers["Upgrade"] = "HTTP/1.1"
        if isinstance(error, BadRequest | BodyTooLarge | HeadersTooLarge | RequestTimeout):
            middleware.close_after_answer(self._environ)
        return self._own(answer, error)

    def _meant(self) -> Dialect:
        if self._route is not None:
            return self._route.dialect
        return meaning_of(self._method, self._path, self._named).dialect

    def _to_nobody(self, error: ClientDisconnected) -> Response:
        self._context.record.client_disconnected = True
        self._environ.get("ccproxy.force_close", lambda: None)()
        return self._own(Response(status=499), error)

    def _own(self, answer: Response, error: CcproxyError) -> Response:
        """Return an *answer* of ours, with which the trace ends."""
        record = self._context.record
        request_context.note_error(record, error)
        record.status_code = answer.status_code
        answer.call_on_close(self._context.finish)
        observers, at = self._observed(), self._context.elapsed()
        reason = answer.status.partition(" ")[2]
        headers = list(answer.headers)
        named = wire.first_values(headers)
        if observers.response_head(
            ResponseHead(answer.status_code, reason, headers, named, at, own=True)
        ):
            observers.response_chunk(answer.get_data(), at)
        observers.end(record, error)
        return answer

    def _watch(self, upstream: UpstreamCall) -> None:
        sock = sockets.client_socket(self._environ)
        if sock is not None:
            self._watched = self._parts.watch.watch(sock, upstream.cancel)

    def _unwatch(self) -> None:
        self._unwatch_upload()
        if self._watched is not None:
            self._parts.watch.unwatch(self._watched)
            self._watched = None

    def _unwatch_upload(self) -> None:
        if self._upload is not None:
            self._parts.watch.unwatch_upload(self._upload)
            self._upload = None

    def _let_upload_end(self) -> None:
        """Where the answer came before the end of the request, let it be the connection's last."""
        upload = self._upstream.upload if self._upstream is not None else None
        if upload is not None and upload.is_alive():
            middleware.close_after_answer(self._environ, upload.join)

    def _note_route(self, route: Route) -> None:
        record = self._context.record
        record.provider, record.endpoint = route.provider, route.endpoint
        record.service_type = route.upstream.service_type
        record.client_request_id = redact.shortened(self._named.get("x-request-id"), _LONGEST_ID)
        key = wire.client_key(self._named, self._query)
        record.api_key_id = redact.key_id(self._parts.key_secret, key) if key else None

    def _note_head(self, answer: UpstreamResponse) -> None:
        record = self._context.record
        record.status_code = answer.status
        for name in self._meant().request_id_headers:
            if value := answer.named.get(name):
                record.upstream_request_id = redact.shortened(value, _LONGEST_ID)
                break
        self._note_limits(answer.named)

    def _note_limits(self, named: Mapping[str, str]) -> None:
        """Note what the answer says of rate limits, and whose these are."""
        record, dialect, context = self._context.record, self._meant(), self._context
        for name in dialect.account_headers:
            if account := named.get(name) or self._named.get(name):
                record.account_id = redact.key_id(self._parts.key_secret, account)
                break
        else:
            record.account_id = record.api_key_id
        stated = limits.kept(named, dialect.limit_headers)
        # An upstream can say anything, so also what it was sent.
        if stated and not context.credentials.are_in("\0".join(map(str, stated.values())) + "\0"):
            record.stated_limits = stated

    def _note_sent(self) -> None:
        record = self._context.record
        if self._began is not None:
            record.upstream_ms = (self._context.elapsed() - self._began) * 1000
        if self._body is not None:
            record.request_bytes = self._body.size

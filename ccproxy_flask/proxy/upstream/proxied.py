"""The way through an outbound proxy: ``requests``, streamed, on greenlets."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import SKIP_HEADER

from ...errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from .call import READ_SIZE, UpstreamCall, UpstreamResponse

if TYPE_CHECKING:
    from ...errors import ProxyError
    from ...settings import Proxy
    from ..headers import Headers
    from .call import CancelToken, UpstreamRequest

_FOREIGN_ERRORS = (RequestException, urllib3.exceptions.HTTPError, OSError)
_token: ContextVar[CancelToken] = ContextVar("token")


class _Owned:
    """A connection of urllib3 that says to whose call its socket belongs."""

    sock: Any
    _owner: CancelToken | None = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of HTTPConnection
        self._pass_on()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._pass_on()
        super().request(*args, **kwargs)  # type: ignore[misc]  # of HTTPConnection

    def _pass_on(self) -> None:
        token = _token.get()
        if self._owner is not None and self._owner is not token:
            self._owner.release()  # the call before this one
        self._owner = token
        token.hold(self.sock)


class _PlainConnection(_Owned, HTTPConnection):
    pass


class _TlsConnection(_Owned, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """The adapter of ``requests``, whose connections can be cancelled."""

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return manager


class ProxiedTransport:
    """Calls through an outbound proxy."""

    def __init__(self, options: Proxy) -> None:
        self.adapter = _Adapter(max_retries=0)
        self.verify: bool | str = str(options.ca_bundle) if options.ca_bundle else True
        proxy = options.outbound_proxy or ""
        self.proxies = {"http": proxy, "https": proxy}

    def call(self, request: UpstreamRequest) -> ProxiedCall:
        """Return a call that is not sent yet."""
        return ProxiedCall(request, self)

    def close(self) -> None:
        """Close all idle connections."""
        self.adapter.close()


class ProxiedCall(UpstreamCall):
    """A call through an outbound proxy."""

    def __init__(self, request: UpstreamRequest, transport: ProxiedTransport) -> None:
        super().__init__(request)
        self._transport = transport
        self._raw: Any = None

    def send(self) -> UpstreamResponse:
        """Send the request; see :meth:`UpstreamCall.send`."""
        transport, request = self._transport, self.request
        _token.set(self.token)
        try:
            self.token.check()
            response = transport.adapter.send(
                _prepared(request),
                stream=True,
                timeout=(request.connect_timeout, request.read_timeout),
                verify=transport.verify,
                proxies=transport.proxies,
            )
        except _FOREIGN_ERRORS as error:
            self.close()
            self.token.check()
            raise _translated(error) from error
        except BaseException:
            self.close()
            raise
        self._raw = response.raw
        headers = [(str(name), str(value)) for name, value in self._raw.headers.iteritems()]
        return UpstreamResponse(response.status_code, response.reason or "", headers, self)

    @property
    def ready(self) -> bool:
        """Not known before it is read."""
        return False

    def read(self) -> bytes:
        """Return what is there; see :meth:`UpstreamCall.read`."""
        try:
            data: bytes = self._raw.read1(READ_SIZE, decode_content=False)
        except _FOREIGN_ERRORS as error:
            self.token.check()
            raise _translated(error) from error
        if not data:
            self.token.check()
            self.token.release()
        return data

    def close(self) -> None:
        """Close the connection where the body was not read to its end."""
        self.token.release()
        if self._raw is not None:
            self._raw.close()


def _prepared(request: UpstreamRequest) -> requests.PreparedRequest:
    """Return what ``requests`` sends, without what it would normalise."""
    prepared = requests.PreparedRequest()
    prepared.method = request.method
    prepared.url = request.base_url + request.target
    prepared.headers = CaseInsensitiveDict(_joined(request.headers))
    for name in ("user-agent", "accept-encoding"):
        prepared.headers.setdefault(name, SKIP_HEADER)  # else urllib3 adds its own
    body = request.body
    if body is not None:
        # Where there is no length, the chunks are made behind this door.
        whole = body.plain if body.length is None else body.whole
        prepared.body = whole if whole is not None else body.pieces()  # type: ignore[assignment]  # or an iterator
    return prepared


def _joined(headers: Headers) -> dict[str, str]:
    """Return *headers* by name; the values of repeated ones joined."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _translated(error: Exception) -> ProxyError:
    """Return our error for one of ``requests``, ``urllib3`` or the operating system."""
    if isinstance(error, ConnectTimeout):
        return UpstreamTimeout(f"no connection to the upstream in time: {error}")
    if isinstance(error, ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return UpstreamTimeout("the upstream was silent for too long")
    if isinstance(error, NoConnection) and not _is_broken(error):
        return UpstreamUnreachable(f"cannot reach the upstream: {error}")
    return UpstreamBroken(f"the upstream broke off or sent no valid HTTP: {error}")


def _is_broken(error: NoConnection) -> bool:
    """True where the connection was there, but no whole answer came over it."""
    return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ProtocolError)

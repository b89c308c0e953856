"""The way to the upstreams: a transport adapter for ``requests``, on sockets of our own.

``requests`` keeps its session, its adapters' door and its exceptions; the way to the socket is
ours, because the stock one spends most of a request's time on what a proxy must not do (cookies,
redirects, decoding) and holds back parts of a stream. Where an outbound proxy is configured, the
stock adapter takes over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import requests

from ..headers import first_values
from .adapter import WireAdapter
from .calls import FOREIGN_ERRORS, Call, Lifeline, PreparedCall, translated
from .connection import READ_SIZE, Addresses
from .proxied import ProxiedAdapter

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter

    from ...settings import Proxy
    from ..headers import Headers

__all__ = ["Addresses", "Answer", "Call", "Lifeline", "Upstreams"]


class Answer:
    """An upstream's answer: its head, and its body as it arrives.

    *read()* returns what is there, at least one byte, and ``b""`` at the end. Raises
    UpstreamBroken, UpstreamTimeout, or ClientDisconnected after *abort()*. *close()* may be
    called any number of times.
    """

    def __init__(self, response: requests.Response, line: Lifeline) -> None:
        self._response = response
        self._raw = cast("Any", response.raw)
        self._line = line
        self.status: int = response.status_code
        self.reason: str = response.reason or ""
        self.headers: Headers = self._raw.wire_headers
        self.named = first_values(self.headers)

    @property
    def ready(self) -> bool:
        """True where *read()* returns at once."""
        return bool(self._raw.ready)

    def read(self) -> bytes:
        """Return the next bytes of the body, not decoded."""
        try:
            data: bytes = self._raw.read1(READ_SIZE)
        except FOREIGN_ERRORS as error:
            self._line.check()
            raise translated(error) from error
        if not data:
            self._line.check()
        return data

    def close(self) -> None:
        """Give the connection back where the body was read to its end, else close it."""
        self._raw.close()


class Upstreams:
    """Sends calls; one for an application. *close()* closes what is idle."""

    def __init__(self, options: Proxy) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._proxies: dict[str, str] = {}
        adapter: BaseAdapter
        if options.outbound_proxy:
            self._proxies = {"http": options.outbound_proxy, "https": options.outbound_proxy}
            adapter = ProxiedAdapter(verify=str(options.ca_bundle) if options.ca_bundle else True)
        else:
            adapter = WireAdapter(options)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def send(self, call: Call, line: Lifeline) -> Answer:
        """Send *call* and return its answer once the head of it is there.

        Raises UpstreamUnreachable, UpstreamBroken, UpstreamTimeout, BodyTooLarge, or
        ClientDisconnected where the client goes away before.
        """
        prepared = PreparedCall(call)
        adapter = self._session.get_adapter(call.base_url)
        timeouts = (call.connect_timeout, call.read_timeout)
        try:
            if isinstance(adapter, WireAdapter):
                response = adapter.send(prepared, True, timeouts, line=line)
            else:
                response = adapter.send(prepared, True, timeouts, proxies=self._proxies)
        except FOREIGN_ERRORS as error:
            line.check()
            raise translated(error) from error
        return Answer(response, line)

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()

"""The stock transport of ``requests``, where an outbound proxy is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.util import SKIP_HEADER

from .calls import PreparedCall

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from ..headers import Headers


class ProxiedAdapter(HTTPAdapter):
    """The stock transport, for those who reach the upstreams through a proxy."""

    def __init__(self, verify: bool | str) -> None:
        super().__init__(max_retries=0)
        self._verify = verify

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: bool | str = True,  # noqa: ARG002  ours counts
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a :class:`PreparedCall` through the proxy."""
        assert isinstance(request, PreparedCall)  # noqa: S101  the one kind that is ever sent
        request.headers = CaseInsensitiveDict(joined(request.call.headers))
        for name in ("user-agent", "accept-encoding"):
            request.headers.setdefault(name, SKIP_HEADER)  # else urllib3 adds its own
        body = request.call.body
        if body is not None:
            # Where there is no length, the chunks are made behind this door.
            whole = body.plain if body.length is None else body.whole
            request.body = whole if whole is not None else body.pieces()  # type: ignore[assignment]  # or an iterator
        response = super().send(request, stream, timeout, self._verify, cert, proxies)
        raw: Any = response.raw
        raw.wire_headers = [(str(name), str(value)) for name, value in raw.headers.iteritems()]
        raw.ready = False
        return response


def joined(headers: Headers) -> dict[str, str]:
    """Return *headers* by name; the values of repeated ones joined."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found

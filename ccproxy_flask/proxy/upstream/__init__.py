"""The way to the upstreams: calls that own their connections (docs/adr/0009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .call import Transport, UpstreamCall, UpstreamRequest, UpstreamResponse
from .proxied import ProxiedTransport
from .transport import DirectTransport

if TYPE_CHECKING:
    from ...settings import Proxy

__all__ = ["Transport", "UpstreamCall", "UpstreamRequest", "UpstreamResponse", "make_transport"]


def make_transport(options: Proxy) -> Transport:
    """Return the way to the upstreams; one for an application."""
    return ProxiedTransport(options) if options.outbound_proxy else DirectTransport(options)

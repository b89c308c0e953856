"""Ways of the figures out of this machine."""

from .pushgateway import (
    PushgatewayClient,
    client_of,
    get_pushgateway_client,
    reset_pushgateway_client,
)

__all__ = [
    "PushgatewayClient",
    "client_of",
    "get_pushgateway_client",
    "reset_pushgateway_client",
]

"""What can go wrong. How a client is told is the business of its wire format (`dialects`).

The tree::

    CcproxyError
    ├── SettingsError          a setting is unknown or wrong; the start stops with its message
    ├── ProxyError             the proxy answers by itself; has a status and an error type
    │   ├── UnknownRoute       404
    │   ├── NotAllowed         403
    │   ├── RequestTimeout     408  the client was silent in the middle of its request
    │   ├── UpgradeRequired    426
    │   ├── BadRequest         400
    │   ├── Unreadable         400 (or 403, 414, 417, 431, 501)  not HTTP as it is spoken here
    │   ├── HeadersTooLarge    431
    │   ├── BodyTooLarge       413
    │   ├── UpstreamUnreachable 502  no connection: refused, no such host, TLS refused
    │   │   └── NoDescriptors  503  the process may open no more files
    │   ├── UpstreamBroken     502  the answer was cut short or is not HTTP
    │   └── UpstreamTimeout    504
    ├── WorkerStopped          the server was stopped before the answer was complete
    ├── ClientDisconnected     the client went away before its answer was complete
    ├── StoreUnavailable       the store cannot answer now; carries the reason
    ├── ContentNotKept         what was said is not there
    └── InvalidParameter       a query parameter is wrong; carries its name and value
"""

from __future__ import annotations

from typing import Literal, get_args

ErrorType = Literal[
    "authentication",  # 401 from the provider
    "permission",  # 403 from the provider
    "not_found",  # 404 from the provider: no such model or resource
    "invalid_request",  # any other 4xx from the provider
    "request_too_large",  # 413 from the provider
    "rate_limit",  # 429 from the provider
    "overloaded",  # 529 or 503 from the provider
    "api_error",  # any other 5xx from the provider
    "stream_error",  # an error event inside a stream that began with 200
    "bad_request",  # the client's request cannot be passed on
    "body_too_large",  # over our own limit
    "headers_too_large",  # over our own limit
    "client_timeout",  # the client was silent in the middle of its request
    "not_allowed",  # refused by us: foreign host
    "unknown_route",  # no provider is meant by this path
    "upgrade_required",  # a protocol upgrade we do not speak
    "upstream_unreachable",
    "upstream_broken",
    "upstream_timeout",
    "client_disconnected",
    "worker_lost",  # the worker died with the request in flight
    "record_lost",  # the request ended, but its record could not be kept
    "internal_error",  # a defect of ours
]
"""Every value the column and label ``error_type`` can have."""

ERROR_TYPES: frozenset[str] = frozenset(get_args(ErrorType))


class CcproxyError(Exception):
    """Root of everything raised on purpose."""


class SettingsError(CcproxyError):
    """A setting is unknown, wrong, or contradicts another one."""


class ClientDisconnected(CcproxyError):
    """The client went away before its answer was complete."""

    error_type: ErrorType = "client_disconnected"


class WorkerStopped(CcproxyError):
    """The worker was told to stop, and could not wait for the end of the answer."""

    error_type: ErrorType = "worker_lost"


class StoreUnavailable(CcproxyError):
    """The store cannot answer now; *retry_after* says in how many seconds it may."""

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ContentNotKept(CcproxyError):
    """What was said in a request is not there: it was not kept, is deleted already, or is on the
    machine *node*."""

    def __init__(self, request_id: str, node: str | None = None) -> None:
        super().__init__(request_id)
        self.node = node


class InvalidParameter(CcproxyError):
    """The parameter *name* has a *value* that cannot be used; *kind* is a stable code for why."""

    def __init__(
        self,
        name: str,
        value: object,
        message: str,
        kind: str = "value_error",
        where: str = "query",
    ) -> None:
        super().__init__(message)
        self.name, self.value, self.kind, self.where = name, value, kind, where


class ProxyError(CcproxyError):
    """The proxy answers by itself: *status*, and a message that a person can act on."""

    status = 500
    error_type: ErrorType = "internal_error"


class BadRequest(ProxyError):
    """The request cannot be passed on as it is."""

    status = 400
    error_type = "bad_request"


class NotAllowed(ProxyError):
    """The request is refused for the place it comes from."""

    status = 403
    error_type = "not_allowed"


class UnknownRoute(ProxyError):
    """No provider is meant by this path."""

    status = 404
    error_type = "unknown_route"


class RequestTimeout(ProxyError):
    """The client was silent for too long in the middle of its request."""

    status = 408
    error_type = "client_timeout"


class BodyTooLarge(ProxyError):
    """The request body is over the limit."""

    status = 413
    error_type = "body_too_large"


class UpgradeRequired(ProxyError):
    """The client wants a protocol that is not spoken here; it is to use plain HTTP."""

    status = 426
    error_type = "upgrade_required"


class HeadersTooLarge(ProxyError):
    """The request's headers are over the limit."""

    status = 431
    error_type = "headers_too_large"


class Unreadable(ProxyError):
    """The request is not HTTP as it is spoken here; *status* says in which way."""

    status = 400
    error_type: ErrorType = "bad_request"

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        if status == HeadersTooLarge.status:
            self.error_type = HeadersTooLarge.error_type


class UpstreamUnreachable(ProxyError):
    """No connection to the upstream could be made."""

    status = 502
    error_type = "upstream_unreachable"


class NoDescriptors(UpstreamUnreachable):
    """The process has no file descriptor left for a connection."""

    status = 503


class UpstreamBroken(ProxyError):
    """The upstream's answer was cut short or is not HTTP."""

    status = 502
    error_type = "upstream_broken"


class UpstreamTimeout(ProxyError):
    """The upstream did not answer in time."""

    status = 504
    error_type = "upstream_timeout"


def error_type_of_status(status: int) -> ErrorType | None:
    """Return what a provider's HTTP *status* means, None where it is no error."""
    if status < 400:
        return None
    known: dict[int, ErrorType] = {
        401: "authentication",
        403: "permission",
        404: "not_found",
        413: "request_too_large",
        429: "rate_limit",
        503: "overloaded",
        529: "overloaded",
    }
    return known.get(status, "invalid_request" if status < 500 else "api_error")

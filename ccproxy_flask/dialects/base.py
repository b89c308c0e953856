"""What is known of one wire format, and what is the same for most of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..usage.answer import AnswerReader
from ..usage.parser import SMALL_JSON, PlainParser
from ..usage.request import RequestReader, asks_by_member, asks_where_it_says
from .said import Said, plain_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..errors import ProxyError
    from ..usage.parser import ResponseParser
    from ..usage.request_class import RequestClass
    from .stream_usage import UsageRemover

API_ROOT = r"(?:^|/v\d+\w*|/openai|/anthropic|/beta|/deployments/[^/]+)"
"""What may stand before the name of a route: nothing, where the provider's address has it all."""


class Endpoint(NamedTuple):
    """One route of an API; *pattern* is what a path that means it ends with."""

    pattern: str
    name: str
    """The label ``endpoint``."""
    method: str | None = None
    """None: any."""
    generates: bool = False
    """A model answers; else it is a list, a count, a file, and what is stored."""
    of: RequestClass | None = None
    """What requests to it are for, whoever sends them; None: that is for the client to say."""


_PLAIN = Said(plain_request)


def _never(_path: str, _headers: Mapping[str, str]) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Dialect:
    """One wire format. Headers are named in lower case, paths are raw and without query."""

    name: str
    endpoints: tuple[Endpoint, ...]
    """The first one that fits counts, over all dialects in the order of their list."""
    parser: type[ResponseParser] = PlainParser
    """Reads answers and events of those that generate."""
    error_body: Callable[[ProxyError, str], bytes]
    """An error of ours, with our request id, as JSON that makes the format's SDK raise the right
    exception."""
    setting: str | None = None
    """Its name in ``PROVIDERS__<NAME>__API``; None: it is told by the path alone."""
    speaks: Callable[[str, Mapping[str, str]], bool] = _never
    """Whether path or headers show a client of it, whatever the endpoint."""
    claims: Callable[[str, Mapping[str, str]], bool] = _never
    """Whether a request that names no provider is meant for :attr:`provider`."""
    provider: str = ""
    key_headers: tuple[str, ...] = ("authorization",)
    """Where clients put their key; a configured one goes into the first."""
    asks_for_stream: Callable[[str, dict[str, Any] | None], bool | None] = asks_by_member
    """What path and body ask for, None where that is not known."""
    stream_usage: tuple[Callable[[bytes], bytes | None], type[UsageRemover]] | None = None
    """Where streams have no usage unless it is asked for: what makes a body ask for it, and what
    takes it out of the answer again."""
    request_id_headers: tuple[str, ...] = ("x-request-id",)
    """Where answers have the provider's own id; the first one that is there counts."""
    limit_headers: tuple[str, ...] = ()
    """What the names of the headers begin with that state rate limits (:mod:`..usage.limits`)."""
    account_headers: tuple[str, ...] = ()
    """Where answers, or else requests, name the account whose limits these are."""
    said: Said = _PLAIN
    """How it says things."""
    begins_chains: bool = False
    """A later request may name an answer by its id, in place of what was said before."""
    price_vendor: str | None = None
    """Whose prices hold where a provider that the table lacks speaks it."""
    shown: frozenset[str] = field(default=frozenset(), repr=False)
    """Members of its JSON that traces may show, beside those that all have."""

    def key_header(self, key: str) -> tuple[str, str]:
        """Return the header in which *key* is sent."""
        name = self.key_headers[0]
        return (name, f"Bearer {key}") if name == "authorization" else (name, key)

    def request_reader(
        self,
        headers: Mapping[str, str],
        path: str,
        *,
        generates: bool = True,
        small_json: int = SMALL_JSON,
    ) -> RequestReader:
        """Return a reader for one request."""
        asks = self.asks_for_stream if generates else asks_where_it_says
        return RequestReader(asks, headers, path, small_json)

    def answer_reader(
        self,
        status: int,
        content_type: str | None,
        content_encoding: str | None,
        *,
        generates: bool = True,
        small_json: int = SMALL_JSON,
    ) -> AnswerReader:
        """Return a reader for one answer.

        JSON over *small_json* bytes, whole bodies and single events alike, is not parsed whole.
        """
        parser = self.parser if generates else PlainParser
        return AnswerReader(parser(status), content_type, content_encoding, small_json)


def names(text: str) -> frozenset[str]:
    """Return the words of *text*."""
    return frozenset(text.split())

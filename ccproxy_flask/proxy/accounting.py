"""The observer that reads along: model, usage, what it cost, how it ended. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from .. import redact
from ..dialects import CLASSES, OTHER
from ..usage.request_class import TURNS, class_at_end, class_of
from .observers import NullObserver

if TYPE_CHECKING:
    from ..pricing import PriceBook
    from ..record import RequestRecord
    from ..usage import AnswerReader, Usage
    from .observers import ObserverFactory, RequestHead, ResponseHead

log = structlog.get_logger(__name__)

_LONGEST_REASON = 64


class Accounting(NullObserver):
    """Fills *record* with what request and answer say of themselves, and prices it."""

    __slots__ = (
        "_answer",
        "_begins_chain",
        "_begun",
        "_content_seen",
        "_head",
        "_is_noted",
        "_prices",
        "_record",
        "_request",
    )

    def __init__(self, prices: PriceBook, record: RequestRecord, head: RequestHead) -> None:
        self._prices, self._record, self._head = prices, record, head
        self._request = head.dialect.request_reader(head.named, head.path, generates=head.generates)
        self._answer: AnswerReader | None = None
        self._begun = self._is_noted = self._content_seen = self._begins_chain = False

    def request_chunk(self, data: bytes, at: float) -> None:  # noqa: ARG002  an observer's signature
        """Read a piece; what the first one says is noted at once, for the record's first line."""
        if data:
            self._request.feed(data)
            self._is_noted = False
        if not data or not self._begun:
            self._begun = True
            self._note_request()

    def response_head(self, head: ResponseHead) -> None:
        """Begin to read the upstream's answer."""
        if not head.own:
            kind, coding = head.named.get("content-type"), head.named.get("content-encoding")
            self._answer = self._head.dialect.answer_reader(
                head.status, kind, coding, generates=self._head.generates
            )

    def response_chunk(self, data: bytes, at: float) -> None:
        """Read a piece, and take the time of the first token."""
        reader = self._answer
        if reader is None:
            return
        reader.feed(data)
        if not self._content_seen and reader.content_seen:
            self._content_seen = True
            self._record.ttft_ms = at * 1000

    def end(self, record: RequestRecord, error: BaseException | None) -> None:
        """Write down what was found out."""
        self._note_request()
        record.request_class = class_at_end(
            record.request_class, record.method, record.status_code, self._head.endpoint != OTHER
        )
        if self._answer is None:
            return
        answer = self._answer.close()
        self._note_chain(answer.message_id)
        record.model = answer.model or record.model_requested
        record.finish_reason = redact.shortened(answer.finish_reason, _LONGEST_REASON)
        if error is None and answer.error_type is not None:
            record.error_type, record.error_message = answer.error_type, answer.error_message
        if answer.limits:
            self._note_limits(answer.limits)
        if answer.is_implausible:
            log.warning("usage_implausible", request_id=record.request_id, provider=record.provider)
        if answer.usage is not None:
            _note_usage(record, answer.usage)
            self._price(record, answer.usage)

    def _note_request(self) -> None:
        if self._is_noted:
            return
        self._is_noted = True
        facts, record = self._request.close(), self._record
        record.model_requested = record.model = facts.model
        record.streaming = bool(facts.streaming)
        record.session_id, record.user_id = facts.session_id, facts.user_id
        record.agent_id, record.parent_agent_id = facts.agent_id, facts.parent_agent_id
        record.retry_count, record.tools_ms = facts.retry_count, facts.tools_ms
        record.client, record.client_version = facts.client
        record.request_class = class_of(
            record.method,
            CLASSES.get(self._head.endpoint),
            facts.stated_class,
            generates=self._head.generates,
            is_agent=facts.agent_id is not None,
        )
        self._begins_chain = facts.begins_chain or self._head.dialect.begins_chains
        if record.request_class in TURNS:
            record.conversation_id = facts.conversation_id
            record.previous_message_id = facts.previous_message_id

    def _note_chain(self, message_id: str | None) -> None:
        """Name the chain that begins with this answer by it, where nothing else names it."""
        record = self._record
        record.message_id = message_id
        begins = self._begins_chain and record.previous_message_id is None
        if record.conversation_id is None and begins and record.request_class in TURNS:
            record.conversation_id = message_id

    def _note_limits(self, stated: dict[str, Any]) -> None:
        """Take what the body said of rate limits for newer than what the head did."""
        said = "\0".join(map(str, stated.values())) + "\0"
        if not self._head.credentials.are_in(said):
            self._record.stated_limits = (self._record.stated_limits or {}) | stated

    def _price(self, record: RequestRecord, usage: Usage) -> None:
        price = self._prices.price(
            record.provider,
            self._head.dialect.price_vendor,
            usage,
            url=self._head.url,
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


def _note_usage(record: RequestRecord, usage: Usage) -> None:
    record.tokens_input, record.tokens_output = usage.tokens_input, usage.tokens_output
    record.cache_read_tokens = usage.cache_read_tokens
    record.cache_write_tokens = usage.cache_write_tokens
    record.cache_write_1h_tokens = usage.cache_write_1h_tokens
    record.tokens_reasoning = usage.tokens_reasoning


def accounting(prices: PriceBook) -> ObserverFactory:
    """Return what makes an :class:`Accounting` for each exchange."""
    return lambda record, head: Accounting(prices, record, head)

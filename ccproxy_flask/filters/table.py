"""The filters, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from ccproxy_flask.errors import ErrorType
from ccproxy_flask.usage.request_class import GENERATIONS

from .comparisons import (
    Among,
    AtLeast,
    AtMost,
    Contains,
    Equals,
    Filter,
    OneOf,
    Succeeded,
    Unpriced,
)
from .values import Classes, Duration, Flag, IncludeExclude, Moment, Names, Status, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

_SEARCHED = "path model model_requested user_agent error_type error_message"
_RANGES = {
    "end_time": "start_time",
    "status_code_max": "status_code_min",
    "max_duration_ms": "min_duration_ms",
}


class LogFilter(BaseModel):
    """Which rows are meant; None means any. Times are UTC, both ends included; durations are ms.

    Also what a query has to say: texts are read as `values` describes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # fmt: off
    start_time: Annotated[Moment | None, AtLeast(column="timestamp", text="From this time on: RFC 3339, or seconds since 1970", final=True, options=("--since",), examples=(1795226400, "2026-11-21T02:00:00Z", "2026-11-21T03:00:00+01:00"))] = None
    end_time: Annotated[Moment | None, AtMost(column="timestamp", text="Up to this time, which is not before `start_time`", final=True, options=("--until",), examples=("2026-11-22", "20261122T020000Z"))] = None
    model: Annotated[Text | None, Equals(column="model", text="One model, as the answer named it")] = None
    model_contains: Annotated[Text | None, Contains(column="model model_requested", text="A text anywhere in the model, as answered or asked for")] = None
    service_type: Annotated[Names, OneOf(column="service_type", text="`a,b`: one of these; `!a,!b`: none of these", final=True, examples=("proxy_service,other", "!other"))] = IncludeExclude()
    provider: Annotated[Text | None, Equals(column="provider", text="One provider", final=True)] = None
    status_code_min: Annotated[Status | None, AtLeast(column="status_code", text="HTTP statuses from this one on", options=("--status-min",))] = None
    status_code_max: Annotated[Status | None, AtMost(column="status_code", text="HTTP statuses up to this one, not less than `status_code_min`", options=("--status-max",))] = None
    min_duration_ms: Annotated[Duration | None, AtLeast(column="duration_ms", text="Durations from this one on, in ms", options=("--min-ms",))] = None
    max_duration_ms: Annotated[Duration | None, AtMost(column="duration_ms", text="Durations up to this one, not less than `min_duration_ms`", options=("--max-ms",))] = None
    streaming: Annotated[Flag | None, Equals(column="streaming", text="Streams, or what is none", options=("--streaming/--no-streaming",))] = None
    node: Annotated[Text | None, Equals(column="node", text="One machine, by its `OBSERVABILITY__NODE`", final=True)] = None
    session_id: Annotated[Text | None, Equals(column="session_id", text="One session", options=("--session", "--session-id"))] = None
    user_id: Annotated[Text | None, Equals(column="user_id", text="One user, as the client names them")] = None
    api_key_id: Annotated[Text | None, Equals(column="api_key_id", text="One key, by its hash")] = None
    client: Annotated[Names, OneOf(column="client", text="Programs: `a,b` is one of these, `!a,!b` none of these", examples=("claude-code,codex", "!browser"))] = IncludeExclude()
    request_class: Annotated[Classes, OneOf(column="request_class", text="What requests are for: `a,b` is one of these, `!a,!b` none of these", options=("--class", "--request-class"), examples=("main,subagent", "!auxiliary"))] = IncludeExclude()
    generation: Annotated[Flag | None, Among(column="request_class", values=GENERATIONS, text="What a model answers, or what is none of that: counts of tokens, lists, files, probes", options=("--generation/--no-generation",))] = None
    conversation_id: Annotated[Text | None, Equals(column="conversation_id", text="One conversation", options=("--conversation", "--conversation-id"))] = None
    transport: Annotated[Literal["http", "websocket"] | None, Equals(column="transport", text="How it was spoken")] = None
    content: Annotated[Literal["kept", "off", "dropped"] | None, Equals(column="content", text="Whether what was said is kept")] = None
    request_id: Annotated[Text | None, Equals(column="request_id", text="One request", final=True)] = None
    error_type: Annotated[ErrorType | None, Equals(column="error_type", text="One kind of error")] = None
    succeeded: Annotated[Flag | None, Succeeded(column="error_type status_code", text="Whether the client got the whole of an answer that is no error", options=("--succeeded/--failed",))] = None
    unpriced: Annotated[Flag | None, Unpriced(column="error_type status_code cost_usd", text="Successes whose cost is not known, or all else", options=("--unpriced/--no-unpriced",))] = None
    q: Annotated[Text | None, Contains(column=_SEARCHED, text="A text anywhere in path, model, user agent or error", options=("-q", "--text"))] = None
    # fmt: on

    @field_validator(*_RANGES)
    @classmethod
    def _not_reversed(cls, value: Any, info: ValidationInfo) -> Any:
        low_name = _RANGES[str(info.field_name)]
        low = info.data.get(low_name)
        if value is not None and low is not None and value < low:
            raise ValueError(f"{info.field_name} must not be less than {low_name}")
        return value

    def asked(self) -> list[tuple[Filter, Any]]:
        """Return the filters that are set, each with its value."""
        found = ((name, getattr(self, name)) for name in LogFilter.model_fields)
        return [
            (filter_of(LogFilter.model_fields[name]), value)
            for name, value in found
            if value not in (None, IncludeExclude())
        ]

    def to_wire(self) -> dict[str, Any]:
        """Return what is set, in JSON's types."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> Self:
        """Return the filter that :meth:`to_wire` gave *fields* of; raises ValueError."""
        return cls.model_validate(fields)


def filter_of(field: FieldInfo) -> Filter:
    """Return the filter that a field of :class:`LogFilter` is."""
    return next(each for each in field.metadata if isinstance(each, Filter))

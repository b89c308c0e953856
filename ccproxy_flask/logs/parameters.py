"""What each endpoint takes: the filters, and parameters of its own. All that is wrong is said.

The codes and messages are pydantic's, which clients of the published API know.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from ccproxy_flask.errors import CcproxyError, InvalidParameter
from ccproxy_flask.filters import LogFilter, query_formats
from ccproxy_flask.filters.values import AS_INTEGER, Column, Flag, Moment, Text
from ccproxy_flask.store.base import MOST_ROWS, Cursor, Page
from ccproxy_flask.store.limit_rows import LimitsAsked
from ccproxy_flask.store.sessions import CURSOR as SESSION_CURSOR
from ccproxy_flask.store.sessions import SessionCursor, SessionOrder, SessionPage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails
    from werkzeug.datastructures import MultiDict

Kind = TypeVar("Kind", bound=BaseModel)

LONGEST_SQL = 20_000
MOST_OFFSET = 100_000
_OFFSET = "Rows to skip; what is behind so many is reached by the cursor of `/logs/query`"


class InvalidParameters(CcproxyError):
    """*problems* are all that is wrong with the parameters of a request."""

    def __init__(self, problems: Iterable[InvalidParameter]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{one.name}: {one}" for one in self.problems))


class _Rows(LogFilter):
    def where(self) -> LogFilter:
        """Return the filter alone."""
        return LogFilter(**{name: getattr(self, name) for name in LogFilter.model_fields})


class Entries(_Rows):
    """What ``/logs/entries`` takes."""

    limit: Annotated[int, Field(ge=1, le=1000, description="Rows"), AS_INTEGER] = 50
    offset: Annotated[int, Field(ge=0, le=MOST_OFFSET, description=_OFFSET), AS_INTEGER] = 0
    order_by: Annotated[Column, Field(description="A column")] = "timestamp"
    order_desc: Annotated[Flag, Field(description="Largest first")] = True

    def page(self) -> Page:
        """Return which rows of all are meant."""
        return Page(self.limit, self.offset, self.order_by, self.order_desc)


def _cursor(text: str) -> str:
    if not query_formats.CURSOR.fullmatch(text):
        raise ValueError("not a cursor that this API gave")
    return text


_CURSOR = {"type": "string", "pattern": query_formats.CURSOR.pattern}


class Query(_Rows):
    """What ``/logs/query`` takes."""

    limit: Annotated[int, Field(ge=1, le=MOST_ROWS, description="Rows"), AS_INTEGER] = 1000
    cursor: Annotated[
        Annotated[str, AfterValidator(_cursor), WithJsonSchema(_CURSOR)] | None,
        Field(description="`next_cursor` of the page before"),
    ] = None

    def after(self) -> Cursor | None:
        """Return where the page before ended."""
        return None if self.cursor is None else Cursor.parse(self.cursor)


def _session_cursor(text: str) -> str:
    SessionCursor.parse(text)
    return text


_SESSION_CURSOR = {"type": "string", "pattern": SESSION_CURSOR.pattern}


class Sessions(_Rows):
    """What ``/logs/sessions`` takes."""

    limit: Annotated[int, Field(ge=1, le=500, description="Sessions"), AS_INTEGER] = 50
    cursor: Annotated[
        Annotated[str, AfterValidator(_session_cursor), WithJsonSchema(_SESSION_CURSOR)] | None,
        Field(description="`next_cursor` of the page before"),
    ] = None
    order_by: Annotated[SessionOrder, Field(description="What it is sorted by")] = "last_request_at"
    order_desc: Annotated[Flag, Field(description="Largest first")] = True
    hours: Annotated[
        int, Field(ge=1, le=8784, description="The last hours, without `start_time`"), AS_INTEGER
    ] = 168

    def meant(self) -> tuple[LogFilter, SessionPage, SessionCursor]:
        """Return which rows count, which sessions of them are meant, and where these begin."""
        after = SessionCursor.now() if self.cursor is None else SessionCursor.parse(self.cursor)
        where = self.where()
        end = min(where.end_time or after.moment, after.moment)
        start = where.start_time or max(query_formats.EPOCH, end - timedelta(hours=self.hours))
        # A cursor may be older than the start: then the range is a moment, not a reversed one.
        where = where.model_copy(update={"start_time": min(start, end), "end_time": end})
        return where, SessionPage(self.limit, after.offset, self.order_by, self.order_desc), after


class Session(BaseModel):
    """What ``/logs/sessions/<session_id>`` takes."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000, description="Turns"), AS_INTEGER] = 500
    offset: Annotated[
        int, Field(ge=0, le=1_000_000_000, description="Turns to skip"), AS_INTEGER
    ] = 0


class Analytics(_Rows):
    """What ``/logs/analytics`` takes."""

    hours: Annotated[int, Field(ge=1, le=168, description="The last hours"), AS_INTEGER] = 24

    def where(self) -> LogFilter:
        """Return the filter, which has a start."""
        found = super().where()
        if found.start_time is not None:
            return found
        end = found.end_time or datetime.now(UTC)
        start = max(query_formats.EPOCH, end - timedelta(hours=self.hours))
        return found.model_copy(update={"start_time": start})


class RateLimits(BaseModel):
    """What ``/logs/limits`` takes."""

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[Text | None, Field(description="One provider")] = None
    account: Annotated[Text | None, Field(description="One account, by its hash")] = None
    window: Annotated[Text | None, Field(description="One window: `5h`, `7d`, `tokens`…")] = None
    start_time: Annotated[Moment | None, Field(description="From this time on")] = None
    end_time: Annotated[Moment | None, Field(description="As it was at this time")] = None
    hours: Annotated[
        int, Field(ge=1, le=8784, description="The last hours, without `start_time`"), AS_INTEGER
    ] = 168

    @field_validator("end_time")
    @classmethod
    def _not_reversed(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        start = info.data.get("start_time")
        if value is not None and start is not None and value < start:
            raise ValueError("end_time must not be less than start_time")
        return value

    def meant(self) -> LimitsAsked:
        """Return what is asked for, with both times; the start is not behind the end."""
        end = min(self.end_time or datetime.now(UTC), datetime.now(UTC))
        start = self.start_time or max(query_formats.EPOCH, end - timedelta(hours=self.hours))
        return LimitsAsked(min(start, end), end, self.provider, self.account, self.window)


class Export(_Rows):
    """What ``/logs/export`` takes."""

    format: Annotated[Literal["csv", "jsonl", "parquet"], Field(description="Of the file")] = "csv"


class Content(BaseModel):
    """What ``/logs/entries/<request_id>/content`` takes."""

    model_config = ConfigDict(extra="forbid")

    raw: Annotated[
        Literal["request", "response", "events"] | None,
        Field(description="A body as it was sent, or the stream event by event, in place of all"),
    ] = None


class Diff(BaseModel):
    """What ``/logs/entries/<request_id>/diff`` takes."""

    model_config = ConfigDict(extra="forbid")

    other: Annotated[
        Text, Field(alias="with", description="A request id, or `previous` in the session")
    ] = "previous"


class Search(BaseModel):
    """What ``/logs/search`` takes."""

    model_config = ConfigDict(extra="forbid")

    q: Annotated[Text, Field(description="Words, all of them; the last may be a beginning")]
    limit: Annotated[int, Field(ge=1, le=200, description="Results"), AS_INTEGER] = 20


class Nothing(BaseModel):
    """What an endpoint takes that has no parameters."""

    model_config = ConfigDict(extra="forbid")


def read(kind: type[Kind], args: MultiDict[str, str]) -> Kind:
    """Return the query parameters *args* as a *kind*. Raises InvalidParameters."""
    given = dict(args.lists())
    known = {field.alias or name for name, field in kind.model_fields.items()}
    single = {name: values[0] for name, values in given.items() if len(values) == 1}
    unknown = {name: given[name][0] for name in given.keys() - known}
    problems = [
        InvalidParameter(name, values, "Input should be given once", "multiple_values")
        for name, values in given.items()
        if len(values) > 1 and name in known
    ]
    try:
        found = kind.model_validate(single | unknown)
    except ValidationError as error:
        problems += _problems(error, args)
    if problems:
        raise InvalidParameters(problems)
    return found


def _problems(
    error: ValidationError, given: Any, where: str = "query"
) -> Iterator[InvalidParameter]:
    """Give what is wrong by name, with the value as it was *given*."""
    details: list[ErrorDetails] = error.errors(include_url=False, include_input=False)
    for problem in details:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        yield InvalidParameter(name, given.get(name), problem["msg"], problem["type"], where)


def no_parameters(args: MultiDict[str, str]) -> None:
    """Raise InvalidParameters where there is any."""
    read(Nothing, args)


def _of_json(value: object) -> object:
    if isinstance(value, str | bool):  # pydantic would read them as numbers
        raise ValueError("Input should be a number")  # noqa: TRY004  pydantic's way
    return value


class Sql(BaseModel):
    """What the body of ``/logs/sql`` has. To JSON Schema, 10.0 is a whole number too."""

    model_config = ConfigDict(extra="forbid")

    sql: Annotated[str, Field(min_length=1, max_length=LONGEST_SQL)]
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS), BeforeValidator(_of_json)] = 1000


def read_sql(body: bytes) -> Sql:
    """Return what the *body* of ``/logs/sql`` asks for. Raises InvalidParameters."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        problem = InvalidParameter("", None, "Input should be JSON", "json_invalid", "body")
        raise InvalidParameters([problem]) from None
    try:
        return Sql.model_validate(fields)
    except ValidationError as error:
        given = fields if isinstance(fields, dict) else {"": fields}
        if isinstance(given.get("sql"), str):
            given = given | {"sql": None}  # too long to be shown
        raise InvalidParameters(_problems(error, given, "body")) from None

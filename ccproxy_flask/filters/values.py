"""The values of query parameters, as pydantic types: they read texts, and describe themselves.

Codes and messages of what is wrong are pydantic's, which clients of the published API know. Values
that are no texts (from our own code) are checked for their type and bounds alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from ccproxy_flask.record import COLUMNS
from ccproxy_flask.usage.request_class import REQUEST_CLASSES

from . import query_formats

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_TEXT = 256
LONGEST_DURATION_MS = 1e12
_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)

_CLASS = f"!?(?:{'|'.join(REQUEST_CLASSES)})"
_CLASSES = re.compile(f"^{_CLASS}(?:,{_CLASS}){{0,{len(REQUEST_CLASSES) - 1}}}$")


@dataclass(frozen=True, slots=True)
class IncludeExclude:
    """Which values of a column are wanted: one of *include* (empty: all), none of *exclude*."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def _reading(read: Callable[[str], object]) -> BeforeValidator:
    """Return what reads texts with *read*, and leaves other values as they are."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


def _integer(text: str) -> int:
    if not query_formats.INTEGER.fullmatch(text):
        raise PydanticKnownError("int_parsing")
    return int(text)


def _number(text: str) -> float:
    if not query_formats.NUMBER.fullmatch(text):
        raise PydanticKnownError("float_parsing")
    if not isfinite(value := float(text)):
        raise PydanticKnownError("finite_number")
    return value


def _boolean(text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise PydanticKnownError("bool_parsing")
    return value


def _moment(text: str) -> datetime:
    if query_formats.NUMBER.fullmatch(text):
        seconds = _number(text)
        if seconds < 0:
            raise PydanticKnownError("greater_than_equal", {"ge": 0})
        if seconds > query_formats.LAST_SECOND:
            raise PydanticKnownError("less_than_equal", {"le": query_formats.LAST_SECOND})
        return query_formats.EPOCH + timedelta(seconds=seconds)
    value = query_formats.moment(text)
    if value is None:
        message = "Input should be seconds since 1970 or a time as in RFC 3339, from 1970 on"
        raise PydanticCustomError("datetime_parsing", message)
    return value


def _choice(text: str) -> IncludeExclude:
    """Return what ``a,b`` (any of these) and ``!a,!b`` (none of these) mean."""
    _check_length(text)
    if not query_formats.CHOICES.fullmatch(text):
        raise ValueError("Input should be names between commas, each with ! or without")
    parts = [part.strip(" ") for part in text.split(",")]
    return IncludeExclude(
        include=tuple(part for part in parts if not part.startswith("!")),
        exclude=tuple(part[1:].strip(" ") for part in parts if part.startswith("!")),
    )


def _check_length(text: str) -> None:
    if not text:
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    if len(text) > LONGEST_TEXT:
        raise PydanticKnownError("string_too_long", {"max_length": LONGEST_TEXT})


def _column(text: str) -> str:
    if text not in COLUMNS:
        expected = ", ".join(f"'{name}'" for name in COLUMNS[:-1]) + f" or '{COLUMNS[-1]}'"
        raise PydanticKnownError("literal_error", {"expected": expected})
    return text


def _described(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


AS_INTEGER = _reading(_integer)
"""Stands behind the bounds, which are described only so."""
Flag = Annotated[bool, _reading(_boolean)]
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Status = Annotated[int, Field(ge=100, le=599), AS_INTEGER]
Duration = Annotated[float, Field(ge=0, le=LONGEST_DURATION_MS), _reading(_number)]
Column = Annotated[str, AfterValidator(_column), _described(type="string", enum=list(COLUMNS))]
Moment = Annotated[
    datetime,
    _reading(_moment),
    _described(
        anyOf=[
            {"type": "number", "minimum": 0, "maximum": query_formats.LAST_SECOND},
            *({"type": "string", "pattern": each.pattern} for each in query_formats.MOMENTS),
        ]
    ),
]


def _classes(text: str) -> IncludeExclude:
    """Return what a choice of request classes means; refuse others, naming those there are."""
    if not _CLASSES.fullmatch(text):
        message = "Input should be of these, between commas, each with ! or without: {expected}"
        raise PydanticCustomError("enum", message, {"expected": ", ".join(REQUEST_CLASSES)})
    return _choice(text)


Names = Annotated[
    IncludeExclude,
    _reading(_choice),
    _described(type="string", maxLength=LONGEST_TEXT, pattern=query_formats.CHOICES.pattern),
]
Classes = Annotated[
    IncludeExclude, _reading(_classes), _described(type="string", pattern=_CLASSES.pattern)
]

"""How a filter's value is compared with a row: the same in SQL and on the live feed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ccproxy_flask.totals import FAILURE_SQL, failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .values import IncludeExclude


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(ABC):
    """One filter. *text* says for people what it keeps.

    *final*: the column has its last value when the request begins. The model that answers, the
    session (it may stand at the end of a long body), status, duration and error do not.
    *options*: what the command line calls it, ``--<name>`` unless given.
    """

    column: str
    text: str
    final: bool = False
    options: tuple[str, ...] = ()
    examples: tuple[Any, ...] = ()

    @abstractmethod
    def sql(self, value: Any) -> tuple[str, list[Any]]:
        """Return the condition, made of our own text alone, and the values for its marks."""

    @abstractmethod
    def matches(self, value: Any, row: Mapping[str, Any]) -> bool:
        """Tell whether the *row* of a request that is over is wanted."""

    def matches_start(self, value: Any, row: Mapping[str, Any]) -> bool | None:
        """Tell whether a request is wanted whose start has this *row*; None: its end will tell."""
        return self.matches(value, row) if self.final else None


class Equals(Filter):
    """The column has exactly this value."""

    def sql(self, value: Any) -> tuple[str, list[Any]]:
        """As in the base class."""
        return f"{self.column} = ?", [value]

    def matches(self, value: Any, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        return bool(row.get(self.column) == value)


class AtLeast(Filter):
    """The column's value is not below this one."""

    def sql(self, value: Any) -> tuple[str, list[Any]]:
        """As in the base class."""
        return f"{self.column} >= ?", [_stored(value)]

    def matches(self, value: Any, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        found = _comparable(row.get(self.column), value)
        return found is not None and found >= value


class AtMost(Filter):
    """The column's value is not over this one."""

    def sql(self, value: Any) -> tuple[str, list[Any]]:
        """As in the base class."""
        return f"{self.column} <= ?", [_stored(value)]

    def matches(self, value: Any, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        found = _comparable(row.get(self.column), value)
        return found is not None and found <= value


class OneOf(Filter):
    """The column has one of the names to include, and none of those to exclude."""

    def sql(self, value: IncludeExclude) -> tuple[str, list[Any]]:
        """As in the base class."""
        parts = []
        for names, operator in ((value.include, "IN"), (value.exclude, "NOT IN")):
            if names:
                parts.append(f"{self.column} {operator} ({', '.join('?' * len(names))})")
        return " AND ".join(parts), [*value.include, *value.exclude]

    def matches(self, value: IncludeExclude, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        found = row.get(self.column)
        if not isinstance(found, str):
            return False
        return (not value.include or found in value.include) and found not in value.exclude


@dataclass(frozen=True, slots=True, kw_only=True)
class Among(Filter):
    """The column has one of *values*, or none of them; what has no value counts as one of them."""

    values: frozenset[str]

    def sql(self, value: bool) -> tuple[str, list[Any]]:
        """As in the base class."""
        marks = ", ".join("?" * len(self.values))
        found = f"coalesce({self.column} IN ({marks}), true)"
        return found if value else f"NOT {found}", sorted(self.values)

    def matches(self, value: bool, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        found = row.get(self.column)
        return (found is None or found in self.values) is value


class Contains(Filter):
    """One of several columns, between spaces, has this text in it; case does not count."""

    def sql(self, value: str) -> tuple[str, list[Any]]:
        """As in the base class."""
        columns = self.column.split()
        parts = (f"contains(lower({name}), ?)" for name in columns)
        return f"({' OR '.join(parts)})", [value.lower()] * len(columns)

    def matches(self, value: str, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        found = (row.get(name) for name in self.column.split())
        return any(value.lower() in text.lower() for text in found if isinstance(text, str))

    def matches_start(self, value: str, row: Mapping[str, Any]) -> bool | None:
        """Path and user agent stay; what the other columns will have is not known yet."""
        known = {name: row.get(name) for name in ("path", "user_agent")}
        return self.matches(value, known) or None


class Succeeded(Filter):
    """Whether there is no error, and a status below 400."""

    def sql(self, value: bool) -> tuple[str, list[Any]]:
        """As in the base class."""
        return f"(({FAILURE_SQL}) IS NULL) = ?", [value]

    def matches(self, value: bool, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        return (failure(row.get("error_type"), row.get("status_code")) is None) is value


class Unpriced(Filter):
    """Whether there is no error, and yet no cost."""

    def sql(self, value: bool) -> tuple[str, list[Any]]:
        """As in the base class."""
        return f"(({FAILURE_SQL}) IS NULL AND cost_usd IS NULL) = ?", [value]

    def matches(self, value: bool, row: Mapping[str, Any]) -> bool:
        """As in the base class."""
        fine = failure(row.get("error_type"), row.get("status_code")) is None
        return (fine and row.get("cost_usd") is None) is value


def _stored(value: Any) -> Any:
    """Return *value* as the database has it: times are UTC, without saying so."""
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value


def _comparable(found: Any, value: Any) -> Any:
    """Return *found* as something to compare with *value*; None where it is not of its kind."""
    if not isinstance(value, datetime):
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return found if is_number else None
    try:
        return datetime.fromisoformat(found).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):  # of a damaged line that is JSON all the same
        return None

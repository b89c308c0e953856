"""How values are written in a query: what is checked is what ``/logs/openapi.json`` shows. Pure.

The patterns keep to what Python's and ECMA 262's (JSON Schema's) have in common; the whole text is
meant.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_SECOND = 253_402_300_799
"""The last of the year 9999, in seconds since 1970."""
_LAST = EPOCH + timedelta(seconds=LAST_SECOND)

# Longer ones than any program prints, and short enough to be read at once.
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")


def _days(mark: str) -> str:
    """Return the pattern of the calendar's days, 1970 to 9999, with *mark* between the parts."""
    leap_year = (
        "(?:19(?:7[26]|8[048]|9[26])|[2-9][0-9](?:0[48]|[2468][048]|[13579][26])"
        "|(?:[2468][048]|[3579][26])00)"
    )
    months = (
        f"(?:0[13578]|1[02]){mark}(?:0[1-9]|[12][0-9]|3[01])",
        f"(?:0[469]|11){mark}(?:0[1-9]|[12][0-9]|30)",
        f"02{mark}(?:0[1-9]|1[0-9]|2[0-8])",
    )
    any_year = f"(?:19[7-9][0-9]|[2-9][0-9]{{3}}){mark}(?:{'|'.join(months)})"
    return f"{any_year}|{leap_year}{mark}02{mark}29"


_HOUR, _SIXTY = "(?:[01][0-9]|2[0-3])", "[0-5][0-9]"
_FRACTION = r"(?:[.,][0-9]{1,12})?"
# The `+` of an offset comes in as a space where the client did not quote it.
_OFFSET = f"([Zz]|[+ -]{_HOUR}(?::?{_SIXTY})?)?"
MOMENTS = (
    re.compile(
        f"^({_days('-')})(?:[Tt ]({_HOUR}:{_SIXTY}(?::{_SIXTY}{_FRACTION})?){_OFFSET})?$",
    ),
    re.compile(f"^({_days('')})[Tt]({_HOUR}{_SIXTY}(?:{_SIXTY}{_FRACTION})?){_OFFSET}$"),
)
"""A time as in RFC 3339 (with an offset, or none for UTC; or a day alone), and ISO 8601's short
form of it, as in ``20261121T020020Z``."""

MOST_CHOICES = 50
_CHOICE = " *(?:! *)?[^,! ][^,]*"
CHOICES = re.compile(f"^{_CHOICE}(?:,{_CHOICE}){{0,{MOST_CHOICES - 1}}}$")
"""Names between commas, each with ``!`` or without; spaces around them do not count."""

# Microseconds since 1970 up to the year 9987, and the id of a request.
CURSOR = re.compile(
    "^(?:[0-9]{1,17}|1[0-9]{17}|2[0-4][0-9]{16}|25[0-2][0-9]{15})~[!-}]{1,128}$",
)


def moment(text: str) -> datetime | None:
    """Return the time that *text* is a form of, in UTC; None where it is none.

    What is before 1970 or behind the last second of 9999, by its offset or a fraction, is that one.
    """
    match = next((found for each in MOMENTS if (found := each.fullmatch(text))), None)
    if match is None:
        return None
    day, clock, offset = match.groups()
    zone = (offset or "Z").upper().replace(" ", "+")
    try:
        value = datetime.fromisoformat(f"{day}T{clock or '00'}{zone}").astimezone(UTC)
    except OverflowError:
        return _LAST
    return min(max(value, EPOCH), _LAST)

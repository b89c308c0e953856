"""The forms of a time, a list of names and a cursor: as they are described, so they are read."""

from __future__ import annotations

import calendar
import itertools
import re
from datetime import UTC, datetime, timedelta

import jsonschema_rs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from recording_support import make_record

from ccproxy_flask.filters import query_formats
from ccproxy_flask.store.base import Cursor

YEARS = [*range(1968, 1978), 1999, 2000, *range(2024, 2029), 2099, 2100, 2400, 2500, 3600, 9999]


@pytest.mark.parametrize("mark", ["-", ""], ids=["long", "short"])
def test_days_are_those_of_the_calendar(mark):
    """The patterns take each day there is from 1970 on, and no other."""
    clock = "" if mark else "T0000"
    for year, month, day in itertools.product(YEARS, range(14), range(33)):
        found = query_formats.moment(f"{year}{mark}{month:02}{mark}{day:02}{clock}")
        exists = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
        expected = datetime(year, month, day, tzinfo=UTC) if year >= 1970 and exists else None
        assert found == expected


@settings(max_examples=300, deadline=None)
@given(st.one_of([st.from_regex(form, fullmatch=True) for form in query_formats.MOMENTS]))
def test_described_time_is_read(text):
    """Whatever fits a pattern is a time in UTC, between 1970 and 9999."""
    found = query_formats.moment(text)
    assert found is not None
    assert 0 <= found.timestamp() <= query_formats.LAST_SECOND


@settings(max_examples=300, deadline=None)
@given(st.integers(86400, query_formats.LAST_SECOND - 86400), st.timezones())
def test_printed_time_is_read(seconds, zone):
    """A time that a program prints is the same time when it is read."""
    moment = datetime.fromtimestamp(seconds, zone)
    assume(moment.utcoffset() % timedelta(minutes=1) == timedelta())  # RFC 3339 has no finer ones
    found = query_formats.moment(moment.isoformat())
    assert found is not None
    assert found.timestamp() == seconds


@settings(max_examples=300)
@given(st.floats(0, query_formats.LAST_SECOND) | st.integers(0, query_formats.LAST_SECOND))
def test_printed_number_is_read(value):
    """A number is read however Python and JSON print it."""
    assert query_formats.NUMBER.fullmatch(repr(value))


@pytest.mark.parametrize(
    "pattern", [*query_formats.MOMENTS, query_formats.CHOICES, query_formats.CURSOR], ids=str
)
def test_patterns_mean_the_same_to_json_schema(pattern):
    """What reads ECMA 262's syntax takes the same texts."""
    validator = jsonschema_rs.validator_for({"type": "string", "pattern": pattern.pattern})
    texts = ["2026-02-29", "2028-02-29", "20280229T01", "20280229T0100+01", "a,!b", "!", "1~x", ""]
    for text in texts:
        assert validator.is_valid(text) == bool(pattern.fullmatch(text)), text


def test_cursor_of_each_record_is_described():
    """Each cursor that is given fits, up to the last one that can be."""
    record = make_record()
    assert query_formats.CURSOR.fullmatch(str(Cursor(record.timestamp, record.request_id)))
    assert Cursor.parse("252999999999999999~a").timestamp.year == 9987
    assert re.fullmatch(query_formats.CURSOR, "253000000000000000~a") is None

"""The pictures of a session, computed."""

import re

import pytest

from ccproxy_flask.dashboard.session_charts import growth, times


def turn(number, spent, lane=None, kind="main", **sizes):
    """Return a turn as the page has it."""
    return {"number": number, "spent": spent, "lane": lane, "request_class": kind, "sizes": sizes}


def test_contexts_are_stacked_and_costs_a_line():
    """Heights are parts of the largest context; costs rise to the whole; agents are apart."""
    turns = [
        turn(1, 0.5, system=50, messages=0),
        turn(2, 0.75, lane="agent", system=900),
        turn(3, 1.0, system=50, messages=50),
        turn(4, 1.0, kind="count_tokens", system=9000),
    ]
    found = growth(turns, ["system", "tools", "messages"])
    assert [area["name"] for area in found["areas"]] == ["system", "messages"]
    assert found["areas"][0]["d"] == "M0 50 L100 50 L100 100 L0 100Z"
    assert found["areas"][1]["d"] == "M0 50 L100 0 L100 50 L0 50Z"
    assert found["cost"] == "M0 50.00 L100 0.00"
    assert (found["first"], found["last"]) == (1, 3)
    drawn = "".join(area["d"] for area in found["areas"]) + found["cost"]
    assert all(0 <= float(each) <= 100 for each in re.findall(r"[\d.]+", drawn))


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_turns_are_no_picture(count):
    """There is nothing to be drawn of one point."""
    assert growth([turn(1, 0.0, system=1)][:count], ["system"]) is None


def test_turns_that_cost_nothing_are_drawn():
    """Neither an empty context nor no cost divides by nothing."""
    found = growth([turn(1, 0.0, system=0), turn(2, 0.0, system=0)], ["system"])
    assert (found["areas"], found["cost"]) == ([], "M0 100.00 L100 100.00")


def test_times_are_those_of_three():
    """The model's, the tools' and ours add up; half a figure counts for nobody."""
    turns = [
        {"tools_ms": 300.0, "duration_ms": 610.0, "upstream_ms": 600.0},
        {"tools_ms": None, "duration_ms": 90.0, "upstream_ms": 95.0},
        {"tools_ms": None, "duration_ms": 5000.0, "upstream_ms": None},
    ]
    found = times(turns)
    assert [each["name"] for each in found] == ["model", "tools", "proxy"]
    assert [each["width"] for each in found] == [69.0, 30.0, 1.0]
    assert [each["x"] for each in found] == [0.0, 69.0, 99.0]
    assert times([]) == []

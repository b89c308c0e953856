"""Conversations made of answers that name each other, in the recorder."""

from __future__ import annotations

import itertools
import json

import pytest
from recording_support import make_record

from ccproxy_flask.caching.turns import Turn
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.journal.lines import record_line
from ccproxy_flask.record import to_json
from ccproxy_flask.recorder.chains import Chains
from ccproxy_flask.recorder.sessions import tree_of
from ccproxy_flask.store.base import Page
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.sessions import TURN_COLUMNS


def row(**fields):
    """Return the request id and the line of a finished request."""
    record = make_record(**fields)
    return record.request_id, record_line("end", record).rstrip(b"\n")


def names(rows):
    """Return the conversations of *rows*."""
    return [json.loads(line)["conversation_id"] for _, line in rows]


def test_chains_are_followed_in_any_order():
    """What came later in the journal, or in another batch, belongs to the same chain."""
    chains = Chains(lambda ids: {})
    first = row(message_id="r1", conversation_id="r1")
    second = row(message_id="r2", previous_message_id="r1")
    third = row(message_id="r3", previous_message_id="r2")
    assert names(chains.named([third, second, first])) == ["r1", "r1", "r1"]
    assert names(chains.named([row(previous_message_id="r3")])) == ["r1"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_chain_has_one_name_in_the_end(tmp_path, order):
    """Each row in a pass of its own, in any order: those named too early get the right name."""
    given = [
        make_record(message_id="r1", conversation_id="r1"),
        make_record(message_id="r2", previous_message_id="r1"),
        make_record(message_id="r3", previous_message_id="r2"),
        make_record(message_id="r4", previous_message_id="r3"),
    ]
    rows = DuckDBStore(tmp_path / "rows.duckdb")
    try:
        chains = Chains(rows.conversations)
        for index in order:
            line = record_line("end", given[index]).rstrip(b"\n")
            named = chains.named([(given[index].request_id, line)])
            rows.append([line for _, line in named], [], {})
            if chains.renamed:
                rows.name_conversations({}, chains.renamed)
                chains.renamed = {}
        found = rows.entries(LogFilter(), Page(limit=9)).rows
        assert {row["conversation_id"] for row in found} == {"r1"}
    finally:
        rows.close()


def test_names_are_kept_as_they_are(tmp_path):
    """Whatever is in a name, commas and quotes too, it is found, given and changed."""
    odd = "a,b'c\"d\\n\n\N{SNOWMAN}"
    one, other = (make_record(message_id=f"{odd}{number}") for number in (1, 2))
    rows = DuckDBStore(tmp_path / "rows.duckdb")
    try:
        rows.append([to_json(one), to_json(other)], [], {})
        named = {one.request_id: odd, other.request_id: f"{odd}!"}
        assert rows.name_conversations(named, {}) == 2
        assert rows.conversations([f"{odd}1", "nobody"]) == {f"{odd}1": odd}
        assert rows.conversations([]) == {}
        assert rows.name_conversations({}, {f"{odd}!": odd}) == 1
        assert rows.entries(LogFilter(conversation_id=odd), Page()).total_count == 2
    finally:
        rows.close()


def test_the_store_is_asked_for_what_is_not_known():
    """After a start of the recorder, a chain goes on; what nobody knows is named by itself."""
    asked = []

    def look_up(ids):
        asked.append(sorted(ids))
        return {"r7": "r1"}

    chains = Chains(look_up)
    rows = [row(previous_message_id="r7", message_id="r8"), row(previous_message_id="x")]
    assert names(chains.named(rows)) == ["r1", "x"]
    assert names(chains.named([row(previous_message_id="r8")])) == ["r1"]
    assert asked == [["r7", "x"]]


@pytest.mark.parametrize(
    "fields",
    [
        {"conversation_id": "s", "session_id": "s", "message_id": "m"},
        {"error_message": '"conversation_id":null "previous_message_id":"x"'},
        {},
    ],
)
def test_other_rows_stay_as_they_are(fields):
    """A row with a session, or without an answer before it, is untouched, whatever it says."""
    rows = [row(**fields)]
    assert Chains(lambda _ids: pytest.fail("asked")).named(rows) == rows


def test_a_damaged_line_stays_as_it_is():
    """What only looks like such a row does not stop the others."""
    damaged = ("1", b'{"event":"end","conversation_id":null,"previous_message_id":"x')
    assert Chains(lambda _ids: {}).named([damaged]) == [damaged]


def turn(agent=None, parent=None):
    """Return a row of a session."""
    columns = dict.fromkeys([*TURN_COLUMNS, "agent_id", "parent_agent_id"])
    return Turn(columns | {"agent_id": agent, "parent_agent_id": parent})


def shape(agents):
    """Return a tree as nested dictionaries of agent ids."""
    return {agent["agent_id"]: shape(agent["agents"]) for agent in agents}


def test_agents_are_a_tree():
    """Agents stand below who started them, whatever order their turns have."""
    rows = [turn("c", "b"), turn(), turn("b"), turn("a"), turn("d", "gone")]
    assert shape(tree_of(rows, {})) == {None: {"b": {"c": {}}, "a": {}}, "d": {}}
    assert shape(tree_of([turn("a"), turn("b", "a")], {})) == {"a": {"b": {}}}


def test_agents_in_a_circle_are_all_shown():
    """What clients say can be wrong: no agent is lost, and nothing runs for ever."""
    rows = [turn("a", "b"), turn("b", "a"), turn("c", "c"), turn("d", "a")]
    tree = tree_of(rows, {})
    assert sorted(str(shape(tree)).count(f"'{name}'") for name in "abcd") == [1, 1, 1, 1]

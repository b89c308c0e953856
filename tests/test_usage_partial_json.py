"""Reading a few values out of a large JSON text."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usage_support import pieces_of

from ccproxy_flask.usage.partial_json import JsonBody, PartialJsonParser

WANTED = {"a": None, "deep": {"b": None}, "list": [{"c": None}]}


def skim(text: bytes, size: int = 1 << 20, wanted=WANTED) -> PartialJsonParser:
    """Return a skimmer that was fed *text* in pieces."""
    skimmer = PartialJsonParser(wanted)
    for piece in pieces_of(text, size):
        skimmer.feed(piece)
    return skimmer


def pruned(value, wanted):
    """Return of *value* what is wanted: what a skimmer must find."""
    if wanted is None:
        return value
    if isinstance(wanted, dict) and isinstance(value, dict):
        kept = {k: pruned(v, wanted[k]) for k, v in value.items() if k in wanted}
        return {k: v for k, v in kept.items() if v is not ...}
    if isinstance(wanted, list) and isinstance(value, list):
        return [v for v in (pruned(item, wanted[0]) for item in value) if v is not ...]
    return ...


DOCUMENT = {
    "x": {"a": 1, "deep": {"b": 2}, "t": 'say "a": {[ \\" \\\\ é \U0001f600 \\u0041'},
    "deep": {"z": [1, {"b": 9}, "]}"], "b": {"n": [None, True, -1.5e3, "\\"]}},
    "list": [{"c": 1, "d": {"c": 5}}, 7, [], "c", {"c": [2]}, {}],
    "a": '\\\\"} quoted \\"',
    "empty": {},
    "": [],
    "n": 12,
}


@pytest.mark.parametrize("indent", [None, 3])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_cut_finds_the_same(indent, ascii_only):
    """Wherever the text is cut, also inside escapes and characters, the values are found."""
    text = json.dumps(DOCUMENT, indent=indent, ensure_ascii=ascii_only).encode()
    expected = pruned(DOCUMENT, WANTED)
    for size in (*range(1, 40), 1 << 20):
        skimmer = skim(text, size)
        assert (skimmer.found, skimmer.complete) == (expected, True), size


def test_members_of_the_same_name_elsewhere_do_not_count():
    """A name counts only on its path."""
    text = b'{"x":{"a":1,"deep":{"b":1}},"y":[{"a":2}],"deep":{"a":3,"deep":{"b":4}}}'
    assert skim(text).found == {"deep": {}}


def test_long_values_in_many_blocks():
    """Values larger than any block are passed over; what is after them is found."""
    shuffled = random.Random(7)
    filler = [
        {"k": ["\\" * shuffled.randrange(9), '"' * shuffled.randrange(9), {"[": "}" * 50}]}
        for _ in range(4000)
    ]
    document = {"skip": filler, "text": '\\"' * 60_000, "deep": {"big": filler, "b": 1}, "a": [2]}
    text = json.dumps(document).encode()
    assert len(text) > 500_000
    for size in (4096, 10_007, 1 << 22):
        assert skim(text, size).found == {"deep": {"b": 1}, "a": [2]}


def test_cut_text_gives_what_was_found():
    """What is whole before the cut is there, what is cut is not."""
    text = json.dumps({"a": 1, "deep": {"b": 2, "c": 3}, "list": [{"c": 4}, {"c": 55}]}).encode()
    cut = text[: text.index(b"55") + 1]
    skimmer = skim(cut)
    assert skimmer.found == {"a": 1, "deep": {"b": 2}, "list": [{"c": 4}, {}]}
    assert not skimmer.complete


def test_a_wanted_value_that_is_too_long_is_left_out():
    """One value cannot take more than its share of memory."""
    text = json.dumps({"a": "x" * 200_000, "deep": {"b": 1}}).encode()
    assert skim(text, 5000).found == {"deep": {"b": 1}}


def test_lists_are_kept_up_to_a_bound():
    """Of a wanted list no more than some items are kept."""
    text = json.dumps({"list": [{"c": n} for n in range(5000)], "a": 1}).encode()
    found = skim(text, 3000).found
    assert (len(found["list"]), found["a"]) == (64, 1)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"   ", b"<html>", b"7", b'"a"', b"nul", b"[1]", b"}", b"{a:1}", b"{1:2}"),
        *(b'{"a" 1}', b'{"a":tru}', b"{" * 50, b'{"list":' + b"[" * 300_000, b"\xff\xfe{"),
        b'{"' + b"k" * 5000,
    ],
)
def test_what_is_no_json_neither_raises_nor_completes(text):
    """Whatever comes, nothing is raised and memory stays bounded."""
    for size in (1, 1000) if len(text) < 10_000 else (10_000,):
        assert not skim(text, size).complete


def test_memory_does_not_grow_with_the_text():
    """20 MB go through in some hundred kilobytes."""
    piece = json.dumps([{"text": 'word "quoted" ' * 40, "n": [1, 2, {"x": []}]}] * 20).encode()[
        1:-1
    ]
    skimmer = PartialJsonParser(WANTED)
    skimmer.feed(b'{"messages":[')
    skimmer.feed(piece)
    tracemalloc.start()
    for _ in range(1500):
        skimmer.feed(b"," + piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    skimmer.feed(b'],"a":1}')
    assert (skimmer.found, skimmer.complete) == ({"a": 1}, True)
    assert peak < 1 << 20


def test_items_of_a_root_list_are_handed_on():
    """Each item goes out as soon as it is whole, and is not kept."""
    items = []
    skimmer = PartialJsonParser([{"c": None}], items.append)
    text = json.dumps([{"c": n, "d": [n]} for n in range(300)]).encode()
    for piece in pieces_of(text, 10):
        skimmer.feed(piece)
    assert items == [{"c": n} for n in range(300)]
    assert skimmer.found == []


def test_body_of_both_sizes():
    """A small body is parsed whole, a large one is skimmed: the wanted values are the same."""
    text = json.dumps(DOCUMENT).encode()
    for limit in (0, 10, 1 << 20):
        body = JsonBody(WANTED, limit)
        for piece in pieces_of(text, 7):
            body.feed(piece)
        document, complete = body.end()
        assert (pruned(document, WANTED), complete) == (pruned(DOCUMENT, WANTED), True)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\{}[],: é\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "c", "deep", "list", '"', "\\"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(
    document=st.dictionaries(st.sampled_from(["a", "deep", "list", "x", '"']), _VALUES),
    data=st.data(),
)
def test_skimming_is_parsing_and_pruning(document, data):
    """For any document and any cut the result is that of a parser, pruned."""
    text = json.dumps(document, ensure_ascii=data.draw(st.booleans())).encode()
    skimmer = skim(text, data.draw(st.integers(1, 12)))
    assert (skimmer.found, skimmer.complete) == (pruned(document, WANTED), True)

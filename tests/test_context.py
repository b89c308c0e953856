"""What a context is made of, in tokens, and how a conversation began."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccproxy_flask.content.context import context_of, first_words, server_of, shared_out
from ccproxy_flask.content.conversation import parsed_request


def test_each_block_counts_for_its_part():
    """System, words, thinking, results and pictures are told apart; tools by their server."""
    picture = {"type": "image", "source": {"media_type": "image/png", "data": "A" * 99_999}}
    conversation = parsed_request(
        "anthropic_messages",
        {
            "system": "s" * 11,
            "tools": [{"name": "Bash"}, {"name": "mcp__x__y"}, {"name": "mcp__x__z"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "ü" * 5}, picture]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "t" * 13},
                        {"type": "tool_use", "name": "Bash", "input": {"a": 1}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "content": "r" * 17}]},
            ],
        },
    )
    found = context_of(conversation)
    sizes = (found["system"], found["thinking"], found["tool_results"], found["messages"])
    assert sizes == (11, 13, 17, 10 + len('{"a":1}'))
    assert found["media"] == 6000
    assert found["tools"]["x"] == 2 * len('{"name":"mcp__x__y"}')
    assert found["tools"][""] == len('{"name":"Bash"}')


@pytest.mark.parametrize(
    ("tool", "server"),
    [("mcp__a_b__c__d", "a_b"), ("mcp__a", ""), ("Bash", ""), ("", ""), ("x__y__z", "")],
)
def test_tools_are_told_apart_by_server(tool, server):
    """Only a name with a server in it has one."""
    assert server_of(tool) == server


@given(
    st.integers(0, 10**7),
    st.lists(st.integers(0, 10**9), min_size=5, max_size=5),
    st.lists(st.integers(0, 10**9), max_size=4),
)
def test_shares_add_up(tokens, sizes, tools):
    """No token is lost or made, and no share is negative."""
    names = ("system", "messages", "tool_results", "thinking", "media")
    by_server = {str(number): size for number, size in enumerate(tools)}
    context = dict(zip(names, sizes, strict=True)) | {"tools": by_server}
    found = shared_out(tokens, context)
    shares = [*(found[name] for name in names), *found["tools"].values()]
    assert sum(shares) == (tokens if sum(sizes) + sum(tools) else 0)
    assert min(shares) >= 0


def test_nothing_is_shared_out_of_nothing():
    """Without a count, or without content, there are no shares."""
    assert shared_out(None, {"tools": {}}) is None
    assert shared_out(10, None) is None


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["mend  the\ngate"], "mend the gate"),
        (["<system-reminder>x</system-reminder>", "go"], "go"),
        (["# AGENTS.md instructions for /x", "<environment_context>", "go"], "go"),
        (["", "  "], None),
        (["w" * 500], "w" * 159 + "…"),
    ],
)
def test_first_words_are_those_of_the_person(texts, expected):
    """What the client puts before them is left out."""
    messages = [{"role": "user", "content": text} for text in texts]
    assert first_words(parsed_request("openai_chat", {"messages": messages})) == expected

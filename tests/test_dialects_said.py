"""What each wire format says, as a document: put together of a stream, and whole again."""

import pytest

from ccproxy_flask.dialects import BY_NAME
from ccproxy_flask.dialects.anthropic.parser import MessagesParser
from ccproxy_flask.dialects.anthropic.said import SAID as MESSAGES
from ccproxy_flask.dialects.said import Earlier, text_of

RESPONSES = BY_NAME["openai_responses"].said


def test_the_dialect_of_messages_is_put_together_of_its_parts():
    """One name leads to all that is known of a wire format."""
    assert BY_NAME["anthropic_messages"].said is MESSAGES
    assert BY_NAME["anthropic_messages"].parser is MessagesParser


@pytest.mark.parametrize(
    ("said", "document", "earlier"),
    [
        (MESSAGES, {"messages": []}, None),
        (MESSAGES, {"thread": {"type": "create"}}, None),
        (MESSAGES, {"thread": {"type": "continue", "previous_message_id": "m"}}, Earlier("m")),
        (MESSAGES, {"thread": {"type": "continue", "previous_message_id": 7}}, None),
        (RESPONSES, {"input": "x"}, None),
        (RESPONSES, {"previous_response_id": "r"}, Earlier("r")),
        (RESPONSES, {"conversation": "c"}, Earlier(conversation_id="c")),
        (RESPONSES, {"conversation": {"id": "c"}}, Earlier(conversation_id="c")),
        (RESPONSES, {"conversation": [], "previous_response_id": None}, None),
        (BY_NAME["openai_chat"].said, {"previous_response_id": "r"}, None),
    ],
)
def test_what_a_request_goes_on_from(said, document, earlier):
    """Threads and stored responses are named by what they go on from; others are whole."""
    assert said.earlier(document) == earlier


def test_a_thread_keeps_its_instructions_and_tools():
    """A request that goes on with a thread has what was said, and what it was made with."""
    before = {"system": "s", "tools": [{"name": "t"}], "messages": [{"role": "user"}]}
    answer = {"content": [{"type": "text", "text": "a"}]}
    own = {"thread": {"type": "continue"}, "messages": [{"role": "user", "content": "on"}]}
    whole = MESSAGES.whole(before, answer, own)
    assert (whole["system"], whole["tools"]) == ("s", [{"name": "t"}])
    assert [message["role"] for message in whole["messages"]] == ["user", "assistant", "user"]


def test_stored_responses_take_instructions_from_each_request():
    """Items are carried on, instructions and tools are not (OpenAI "Conversation state")."""
    before = {"instructions": "old", "tools": [{"name": "t"}], "input": "hello"}
    answer = {"output": [{"type": "message", "role": "assistant", "content": "a"}]}
    whole = RESPONSES.whole(before, answer, {"input": [{"role": "user", "content": "on"}]})
    found = RESPONSES.request(whole)
    assert (found["system"], found["tools"]) == ([], [])
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("name", list(BY_NAME))
@pytest.mark.parametrize("junk", [{}, {"messages": 5, "input": {}, "thread": "x", "output": 3}])
def test_junk_is_made_whole_without_an_error(name, junk):
    """What strangers sent may be anything, before and after."""
    said = BY_NAME[name].said
    assert isinstance(said.whole(junk, junk, junk), dict)
    assert said.earlier(junk) is None
    said.put_together([junk])


def test_the_first_text_with_something_in_it_counts():
    """Members that are empty, or no text, say nothing."""
    assert text_of({"a": "", "b": 5, "c": "x"}, "a", "b", "c") == "x"
    assert text_of({}, "a") is None

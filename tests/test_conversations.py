"""Conversations told by what was said, and prompts made whole, beside a store of content."""

from __future__ import annotations

import itertools
import json

import orjson
import pytest

from ccproxy_flask.content.assembly import RawExchange, assembled
from ccproxy_flask.content.conversations import Conversations
from ccproxy_flask.content.places import keys_of
from ccproxy_flask.content.questions import ContentQuestions
from ccproxy_flask.content.store import ContentStore, by_day
from ccproxy_flask.content.whole_prompts import WholePrompts
from ccproxy_flask.record import new_request_id

SYSTEM = [{"type": "text", "text": "You are Claude Code, Anthropic's official CLI. " * 40}]
TOOLS = [{"name": "Bash", "description": "Runs a command. " * 30, "input_schema": {}}]


class Kept:
    """A store of content, filled as the recorder does; and what rows are told."""

    def __init__(self, folder):
        self.store = ContentStore(folder, 1 << 30, 7)
        self.names, self.renames = {}, {}
        self.follow()

    def follow(self):
        """Begin anew, as after a start of the recorder."""

        def named(names, renames):
            self.names.update(names)
            self.renames.update(renames)

        self.conversations = Conversations(self.store, named)

    def keep(self, *given):
        """Keep some exchanges in one batch, and return their ids."""
        found = []
        for raw in given:
            found.append(assembled(raw, lambda pieces: [True] * len(pieces)))
            self.conversations.follow(found[-1])
        for some in by_day(found):
            self.store.add(some)
        self.conversations.stored()
        return [each.request_id for each in found]

    def chain(self, request_id):
        """Return what a request goes on from, and how many messages both have."""
        chain = self.store.exchange(request_id).facts["chain"]
        return chain["previous"], chain["shared"]

    def conversation(self, request_id):
        """Return the conversation of a request, as it is called in the end."""
        name = self.store.exchange(request_id).session_id
        while name in self.renames:
            name = self.renames[name]
        return name

    def content(self, request_id):
        """Return what the API shows of a request."""
        return orjson.loads(ContentQuestions(self.store).content(request_id))


@pytest.fixture
def kept(tmp_path):
    """A store of content, and its conversations."""
    kept = Kept(tmp_path / "content")
    yield kept
    kept.store.close()


_moments = itertools.count(1_790_000_000_000)


def request_id():
    """Return the id of a request that came after those before."""
    found = new_request_id()
    millis = f"{next(_moments):012x}"
    return f"{millis[:8]}-{millis[8:]}{found[13:]}"


def raw(api, document, answer, *, status=200, **end):
    """Return an exchange as a worker hands it on."""
    head = {"request_id": request_id(), "at": 1_000_000, "method": "POST", "api": api}
    head |= {"target": "/v1/x", "headers": [], "provider": "p"}
    headers = [["content-type", "application/json"]]
    body = [json.dumps(answer).encode()]
    end = {"request_class": "main", "error": None, **end}
    return RawExchange(
        head, {"status": status, "headers": headers}, end, [json.dumps(document).encode()], body,
        [(0, 1)],
    )  # fmt: skip


def claude(*messages, answer="ok", number="1", system=SYSTEM, **more):
    """Return a turn of the Messages API: *messages* take turns, the person's first."""
    roles = itertools.cycle(("user", "assistant"))
    sent = [
        each if isinstance(each, dict) else {"role": role, "content": each}
        for role, each in zip(roles, messages, strict=False)
    ]
    end = {name: more.pop(name) for name in list(more) if name in END}
    document = {"model": "claude-opus-5", "system": system, "tools": TOOLS, "messages": sent}
    said = {"id": f"msg_{number}", "role": "assistant", "model": "claude-opus-5"}
    said |= {"content": [{"type": "text", "text": answer}], "stop_reason": "end_turn"}
    return raw("anthropic_messages", document | more, said, **end)


END = ("session_id", "agent_id", "retry_count", "error_type", "status", "request_class", "user_id")


def test_a_conversation_without_ids_is_one(kept):
    """SDK traffic that says nothing of itself is followed by what it begins with."""
    first, second, third = (
        kept.keep(claude("hello", answer="hi"))[0],
        kept.keep(claude("hello", "hi", "mend the gate", answer="done"))[0],
        kept.keep(claude("hello", "hi", "mend the gate", "done", "thanks"))[0],
    )
    assert kept.chain(second) == (first, 2)
    assert kept.chain(third) == (second, 4)
    assert kept.names == dict.fromkeys([first, second, third], first)
    assert {kept.conversation(each) for each in (first, second, third)} == {first}


def test_one_question_alone_is_no_conversation(kept):
    """A request that nothing goes on from has no name: a script that asks is no session."""
    (only,) = kept.keep(claude("hello"))
    assert (kept.names, kept.conversation(only)) == ({}, None)


def test_conversations_that_begin_alike_are_two(kept):
    """The same system prompt, the same first words, even the same answer: still two."""
    one, two, other = kept.keep(
        claude("hello", answer="hi"), claude("hello", answer="hi"), claude("go", answer="hi")
    )
    assert kept.chain(two) == (None, 0)
    (on,) = kept.keep(claude("hello", "hi", "more", answer="x"))
    assert kept.chain(on) == (two, 2)
    assert {kept.conversation(each) for each in (one, other)} == {None}


def test_examples_before_a_question_are_no_conversation(kept):
    """What a script puts before each question was never asked: questions stay apart."""
    examples = ("2+2", "4", "3+3", "6")
    kept.keep(claude(*examples, "4+4", answer="8"))
    (other,) = kept.keep(claude(*examples, "5+5", answer="10"))
    assert kept.chain(other) == (None, 0)


def test_a_retried_turn_stays_in_its_conversation(kept):
    """The same request after one that failed, or with the SDK's count, is that turn again."""
    (failed,) = kept.keep(claude("hello", status=529))
    (again,) = kept.keep(claude("hello", answer="hi"))
    assert kept.chain(again) == (failed, 1)
    (counted,) = kept.keep(claude("hello", answer="hi", retry_count=1))
    assert kept.chain(counted) == (again, 1)
    (second,) = kept.keep(claude("hello", "hi", "on", answer="x"))
    (anew,) = kept.keep(claude("hello", "hi", "on", answer="y"))
    assert kept.chain(anew) == (second, 3)
    assert len({kept.conversation(each) for each in (failed, again, counted, second, anew)}) == 1


def test_an_edited_message_is_a_branch(kept):
    """Who goes back and says something else goes on from where both are the same."""
    first, second, third = (
        kept.keep(claude("hello", answer="hi"))[0],
        kept.keep(claude("hello", "hi", "red", answer="is red"))[0],
        kept.keep(claude("hello", "hi", "red", "is red", "more", answer="z"))[0],
    )
    (branch,) = kept.keep(claude("hello", "hi", "green", answer="is green"))
    assert kept.chain(branch) == (first, 2)
    (on,) = kept.keep(claude("hello", "hi", "green", "is green", "more"))
    assert kept.chain(on) == (branch, 4)
    assert {kept.conversation(each) for each in (second, third, branch, on)} == {first}


def test_an_answer_that_the_client_changed_does_not_end_a_conversation(kept):
    """Clients leave out how a model thought, and trim: the question before still counts."""
    (first,) = kept.keep(claude("hello", answer="hi there"))
    (second,) = kept.keep(claude("hello", "hi", "on"))
    assert kept.chain(second) == (first, 1)


def test_agents_of_a_session_are_told_apart(kept):
    """Claude Code: a main conversation and two agents, interleaved, in one session."""
    session = {"session_id": "s"}
    main = kept.keep(claude("build it", answer="I ask two", **session))[0]
    one = kept.keep(claude("look for tests", answer="a", **session))[0]
    two = kept.keep(claude("look for docs", answer="b", **session))[0]
    two_on = kept.keep(claude("look for docs", "b", "more", answer="c", **session))[0]
    one_on = kept.keep(claude("look for tests", "a", "more", answer="d", **session))[0]
    main_on = kept.keep(claude("build it", "I ask two", "found", **session))[0]
    assert [kept.chain(each) for each in (one_on, two_on, main_on)] == [
        (one, 2), (two, 2), (main, 2)
    ]  # fmt: skip
    assert [kept.chain(each) for each in (main, one, two)] == [(None, 0)] * 3
    assert kept.names == {}  # the client says which session it is
    assert kept.chain(kept.keep(claude("build it", "I ask two", "x"))[0]) == (None, 0)


def test_after_a_compaction_all_begins_anew(kept):
    """The summary goes on from the conversation, what comes after it from nothing."""
    session = {"session_id": "s"}
    (first,) = kept.keep(claude("long work", answer="much", **session))
    (summary,) = kept.keep(
        claude("long work", "much", "summarise", answer="short", request_class="compaction",
               **session)
    )  # fmt: skip
    (anew,) = kept.keep(claude("This session continues: short", **session))
    assert [kept.chain(each) for each in (summary, anew)] == [(first, 2), (None, 0)]


def test_what_is_no_turn_is_left_out(kept):
    """Counting tokens sends the whole prompt, too, and is no part of the conversation."""
    (count,) = kept.keep(claude("hello", request_class="count_tokens"))
    assert "chain" not in kept.store.exchange(count).facts


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_turns_are_one_conversation_in_any_order(kept, order):
    """Workers hand on when they can; a recorder that starts gets turns late."""
    given = [
        claude("hello", answer="a1"),
        claude("hello", "a1", "q2", answer="a2"),
        claude("hello", "a1", "q2", "a2", "q3", answer="a3"),
        claude("hello", "a1", "other", answer="b2"),
    ]
    for index in order:
        kept.follow()
        kept.keep(given[index])
    ids = [each.request_head["request_id"] for each in given]
    told = {kept.names.get(each) for each in ids}
    assert len({kept.conversation(each) for each in ids}) == 1
    assert len({_last(kept.renames, name) for name in told}) == 1


def _last(renames, name):
    while name in renames:
        name = renames[name]
    return name


def codex(items, output, number, **more):
    """Return a turn of the Responses API."""
    document = {"model": "gpt-5.6", "instructions": "You are Codex. " * 99, "tools": [], **more}
    answer = {"id": f"resp_{number}", "model": "gpt-5.6", "status": "completed"}
    end = {"conversation_id": None if "previous_response_id" in more else f"resp_{number}"}
    return raw("openai_responses", document | {"input": items}, answer | {"output": output}, **end)


CALL = {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": '{"cmd":"ls"}'}
DONE = {"type": "function_call_output", "call_id": "c1", "output": "a.py"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]}
ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "list"}]}
MORE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "more"}]}


def test_a_session_says_the_same_however_it_is_sent(kept):
    """Sent whole, by previous_response_id, or to a stored conversation: it is one prompt.

    Each part has one size, and it says whose messages those are.
    """
    whole = kept.keep(
        codex([ASKED], [CALL], "a1"),
        codex([ASKED, CALL, DONE], [SAID], "a2"),
        codex([ASKED, CALL, DONE, SAID, MORE], [SAID], "a3"),
    )
    by_id = kept.keep(
        codex([ASKED], [CALL], "b1"),
        codex([DONE], [SAID], "b2", previous_response_id="resp_b1"),
        codex([MORE], [SAID], "b3", previous_response_id="resp_b2"),
    )
    stored = kept.keep(
        codex([ASKED], [CALL], "c1", conversation="conv_1"),
        codex([DONE], [SAID], "c2", conversation={"id": "conv_1"}),
        codex([MORE], [SAID], "c3", conversation="conv_1"),
    )
    for turns in zip(whole, by_id, stored, strict=True):
        shown = [kept.content(each) for each in turns]
        for part in ("system", "tools", "messages"):
            assert shown[0][part] == shown[1][part] == shown[2][part]
        contexts = [kept.store.exchange(each).facts["context"] for each in turns]
        assert contexts[0] == contexts[1] == contexts[2]
        # Nobody but the provider knows whether a stored conversation had begun before.
        missing = [each["prompt"]["missing"] for each in shown]
        assert missing == [None, None, {"conversation_id": "conv_1"}]
    assert kept.content(by_id[2])["prompt"] == {
        "sources": [
            {"request_id": by_id[0], "from": "request", "messages": 1},
            {"request_id": by_id[0], "from": "answer", "messages": 1},
            {"request_id": by_id[1], "from": "request", "messages": 1},
            {"request_id": by_id[1], "from": "answer", "messages": 1},
            {"request_id": by_id[2], "from": "request", "messages": 1},
        ],
        "missing": None,
        "previous": by_id[1],
        "shared": 4,
    }
    assert [kept.chain(each) for each in whole] == [(None, 0), (whole[0], 2), (whole[1], 4)]


def test_a_thread_says_the_same_as_whole_requests(kept):
    """Claude: ``thread`` sends only the new messages, without instructions and tools."""
    whole = [
        kept.keep(claude("hello", answer="hi", number="1"))[0],
        kept.keep(claude("hello", "hi", "on", answer="more", number="2"))[0],
    ]
    create, goes_on = {"type": "create"}, {"type": "continue", "previous_message_id": "msg_t1"}
    threads = kept.keep(claude("hello", answer="hi", number="t1", thread=create))
    second = claude("on", answer="more", number="t2", thread=goes_on)
    document = json.loads(second.request[0])
    second.request = [
        json.dumps({k: document[k] for k in ("model", "messages", "thread")}).encode()
    ]
    threads += kept.keep(second)
    for one, other in zip(whole, threads, strict=True):
        shown, again = kept.content(one), kept.content(other)
        for part in ("system", "tools", "messages", "answer"):
            if part != "answer":
                assert shown[part] == again[part]
        facts = [kept.store.exchange(each).facts["context"] for each in (one, other)]
        assert facts[0] == facts[1]
    assert kept.chain(threads[1]) == (threads[0], 2)
    diff = orjson.loads(ContentQuestions(kept.store).diff(threads[1]))
    assert (diff["before"], diff["same_prefix"]) == (threads[0], True)


def test_what_was_not_kept_of_a_thread_is_said(kept):
    """A prompt whose beginning is not there shows what is, and names what is missing."""
    (only,) = kept.keep(codex([DONE], [SAID], "9", previous_response_id="resp_gone"))
    prompt = kept.content(only)["prompt"]
    assert prompt["missing"] == {"message_id": "resp_gone"}
    assert prompt["sources"] == [{"request_id": only, "from": "request", "messages": 1}]
    kept.keep(codex([ASKED], [CALL], "gone"))  # it comes late
    found = kept.content(only)
    assert (found["prompt"]["missing"], len(found["messages"])) == (None, 3)


def test_answers_in_a_circle_end(kept):
    """What goes on from itself, by what is said, is shown without end or error."""
    (one,) = kept.keep(codex([ASKED], [SAID], "1", previous_response_id="resp_2"))
    (two,) = kept.keep(codex([MORE], [SAID], "2", previous_response_id="resp_1"))
    (own,) = kept.keep(codex([MORE], [SAID], "3", previous_response_id="resp_3"))
    assert len(kept.content(one)["messages"]) == 3
    assert len(kept.content(two)["messages"]) == 3
    assert len(kept.content(own)["messages"]) == 1


def test_a_long_thread_is_bounded_in_memory(kept):
    """Turns are remembered up to a size; what is not is read again."""
    before = None
    ids = []
    for number in range(30):
        more = {"previous_response_id": before} if before else {}
        ids += kept.keep(codex([ASKED], [SAID], f"n{number}", **more))
        before = f"resp_n{number}"
    prompts = WholePrompts(lambda *_: pytest.fail("known"), kept.store.exchange)
    turn = prompts.turn(kept.store.exchange(ids[-1]))
    assert sum(each["messages"] for each in turn.sources) == 59


def test_places_are_those_of_words_not_of_their_form():
    """Neither how it thought nor how a wire format spells it makes another place."""
    plain = [{"role": "assistant", "blocks": [{"type": "text", "text": "a"}]}]
    other = [{"role": "model", "blocks": [
        {"type": "thinking", "text": "t"}, {"type": "text", "text": " a\n"}
    ]}]  # fmt: skip
    assert keys_of("s", plain, None) == keys_of("s", other, None)
    assert keys_of("s", plain, None) != keys_of("z", plain, None)
    assert keys_of("s", [], plain[0]) == keys_of("s", plain, {"role": "assistant", "blocks": []})

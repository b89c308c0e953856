"""What keeping content costs: bytes, the recorder's CPU, and the time of questions about it."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import zstandard

from ccproxy_flask.content import view
from ccproxy_flask.content.assembly import RawExchange, assembled
from ccproxy_flask.content.conversations import Conversations
from ccproxy_flask.content.questions import ContentQuestions
from ccproxy_flask.content.replay import ReplayServer, Script
from ccproxy_flask.content.store import ContentStore
from ccproxy_flask.record import new_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ccproxy_flask.content.day_file import Exchange

_LETTERS = "etaoinshrdlucmfwypvbgk"
_SSE = "text/event-stream"


class Words:
    """Text that compresses about as prose and code do: a few thousand words, few of them often."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  no secret
        self._words = [
            "".join(self.random.choices(_LETTERS, k=self.random.randint(2, 11)))
            for _ in range(6_000)
        ]
        self._weights = [1 / (rank + 3) for rank in range(len(self._words))]

    def text(self, size: int) -> str:
        """Return about *size* letters."""
        words = self.random.choices(self._words, self._weights, k=max(1, size // 6))
        return "".join(
            word + (f"_{self.random.randrange(9999)}\n" if at % 9 == 8 else " ")
            for at, word in enumerate(words)
        )

    def number(self) -> str:
        """Return an id as providers make them."""
        return f"{self.random.getrandbits(96):024x}"


class Turn(NamedTuple):
    """One request and its answer, as they are on the wire."""

    api: str
    target: str
    request_headers: list[list[str]]
    request: bytes
    events: list[bytes]


def claude_code(turns: int, words: Words) -> Iterator[Turn]:
    """Give the turns of a session as Claude Code has them: all messages again, a moving marker."""
    tools = [
        {
            "name": f"Tool{number}",
            "description": words.text(2_400),
            "input_schema": {"type": "object", "properties": _properties(words)},
        }
        for number in range(24)
    ]
    system = [{"type": "text", "text": words.text(size)} for size in (60, 14_000)]
    messages: list[dict[str, Any]] = []
    result: Any = [{"type": "text", "text": words.text(3_000)}]
    for turn in range(turns):
        messages.append({"role": "user", "content": result})
        marked = [*messages[:-1], _marked(messages[-1])]
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cch={words.number()[:5]};"}
        document = {"model": "claude-opus-5", "max_tokens": 32_000, "stream": True}
        document |= {"system": [billing, *system], "tools": tools, "messages": marked}
        said, call = words.text(400), {"path": words.text(60), "text": words.text(500)}
        number = f"toolu_{words.number()}"
        events = _anthropic_events(words, said, json.dumps(call), number)
        yield Turn("anthropic_messages", "/v1/messages?beta=true", [], _dumped(document), events)
        use = {"type": "tool_use", "id": number, "name": f"Tool{turn % 24}", "input": call}
        messages.append({"role": "assistant", "content": [{"type": "text", "text": said}, use]})
        found = words.text(words.random.choice((300, 2_000, 6_000, 18_000)))
        result = [{"type": "tool_result", "tool_use_id": number, "content": found}]


def _properties(words: Words) -> dict[str, Any]:
    return {name: {"type": "string", "description": words.text(80)} for name in "abcd"}


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    *rest, last = message["content"]
    return message | {"content": [*rest, last | {"cache_control": {"type": "ephemeral"}}]}


def _anthropic_events(words: Words, said: str, call: str, number: str) -> list[bytes]:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 90_000, "output_tokens": 1}
    start = {"id": f"msg_{words.number()}", "model": "claude-opus-5", "role": "assistant"}
    found: list[dict[str, Any]] = [
        {"type": "message_start", "message": start | {"content": [], "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for index, kind, text in ((0, "text", said), (1, "partial_json", call)):
        name = "text_delta" if kind == "text" else "input_json_delta"
        found += [
            {"type": "content_block_delta", "index": index, "delta": {"type": name, kind: part}}
            for part in _parts(text, 12)
        ]
    found.append({"type": "content_block_stop", "index": 1, "id": number})
    found.append({"type": "message_stop"})
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in found]


def codex(turns: int, words: Words) -> Iterator[Turn]:
    """Give the turns of a session as Codex has them: items, compressed, echoed in the answer."""
    shared = {"model": "gpt-5.6", "instructions": words.text(20_000), "store": False}
    shared["tools"] = [
        {"type": "function", "name": f"tool{n}", "description": words.text(900)} for n in range(8)
    ]
    asked = {"type": "input_text", "text": words.text(4_000)}
    items: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": [asked]}]
    packer = zstandard.ZstdCompressor(level=3)
    headers = [["content-encoding", "zstd"]]
    for _ in range(turns):
        body = packer.compress(_dumped(shared | {"input": items, "stream": True}))
        reasoning = {"type": "reasoning", "encrypted_content": words.number() * 40, "summary": []}
        number, given = f"call_{words.number()}", json.dumps({"cmd": words.text(200)})
        call = {"type": "function_call", "call_id": number, "name": "shell", "arguments": given}
        events = _responses_events(shared | {"id": f"resp_{words.number()}"}, [reasoning, call])
        yield Turn("openai_responses", "/v1/responses", headers, body, events)
        output = words.text(words.random.choice((300, 2_000, 8_000, 16_000)))
        items += [reasoning, call]
        items.append({"type": "function_call_output", "call_id": number, "output": output})


def _responses_events(echo: dict[str, Any], items: list[dict[str, Any]]) -> list[bytes]:
    """Return the events of an answer, which repeats the request's instructions and tools."""
    found: list[dict[str, Any]] = [
        {"type": f"response.{name}", "response": echo | {"output": []}}
        for name in ("created", "in_progress")
    ]
    call = items[-1]
    found += [
        {
            "type": "response.function_call_arguments.delta",
            "item_id": call["call_id"],
            "delta": part,
        }
        for part in _parts(call["arguments"], 8)
    ]
    found += [{"type": "response.output_item.done", "item": item} for item in items]
    found.append({"type": "response.completed", "response": echo | {"output": items}})
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in found]


def _parts(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _dumped(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def raw_exchange(turn: Turn, session: str) -> RawExchange:
    """Return a turn as a worker hands it on."""
    head = {"request_id": new_request_id(), "at": time.time_ns() // 1000, "method": "POST"}
    head |= {"target": turn.target, "api": turn.api, "provider": "p"}
    key = ["authorization", "Bearer 0123456789abcdef0123"]
    head["headers"] = [["user-agent", "x/1"], key, *turn.request_headers]
    times, offset = [], 0
    for number, event in enumerate(turn.events):
        times.append((offset, 900_000 + number * 17_321))
        offset += len(event)
    answer = {"status": 200, "headers": [["content-type", _SSE]]}
    end = {"session_id": session}
    return RawExchange(head, answer, end, [turn.request], list(turn.events), times)


class Keeper:
    """Does what the recorder does with exchanges."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store
        self._conversations = Conversations(store, lambda _named, _renamed: None)

    def keep(self, turn: Turn, session: str) -> Exchange:
        """Keep one exchange."""
        raw = raw_exchange(turn, session)
        kept = assembled(raw, partial(self._store.are_new, raw.request_head["request_id"]))
        self._conversations.follow(kept)
        self._store.add([kept])
        self._conversations.stored()
        return kept


# -- bytes, CPU, and whether all comes back ----------------------------------------------------


def measure_session(name: str, turns: Iterator[Turn], folder: Path) -> None:
    """Print a row about a session: what is kept of it, what that is, what it took."""
    store = ContentStore(folder, 8 << 30, 7)
    keeper = Keeper(store)
    wire = said = count = 0
    cpu = 0.0
    ids = []
    for turn in turns:
        began = time.process_time()
        kept = keeper.keep(turn, "s")
        cpu += time.process_time() - began
        ids.append(kept.request_id)
        count += 1
        wire += kept.facts["request"]["bytes"] + kept.facts["response"]["bytes"]
        said += sum(map(len, kept.request)) + sum(map(len, kept.response))
    whole = all(_is_whole(store.exchange(each)) for each in ids)
    store.close()
    size = store.size()
    parts = _parts_of(next(folder.glob("*.sqlite")))
    shares = " | ".join(f"{100 * part / said:.2f}" for part in (*parts, size - sum(parts)))
    figures = f"{wire / 1e6:.1f} | {said / 1e6:.1f} | {size / 1e6:.2f} | {100 * size / said:.2f}"
    told = f"{1000 * cpu / count:.0f} | {'yes' if whole else 'NO'}"
    print(f"| {name}, {count} turns | {figures} | {shares} | {told} |", flush=True)


def _is_whole(kept: Exchange | None) -> bool:
    return kept is not None and set(view.verified(kept).values()) == {"ok"}


def _parts_of(path: Path) -> list[int]:
    """Return the bytes of new parts, of lists of parts and facts, and of times."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        [(pieces,)] = db.execute("SELECT sum(length(data)) FROM piece").fetchall()
        [(lists, times)] = db.execute(
            "SELECT sum(length(request) + length(response) + length(facts)), sum(length(times))"
            " FROM exchange"
        ).fetchall()
    return [pieces, lists, times]


# -- questions ---------------------------------------------------------------------------------


def measure_questions(exchanges: int, folder: Path) -> None:
    """Print how long questions take beside so many exchanges, in sessions of 60 turns."""
    store = ContentStore(folder, 64 << 30, 7)
    keeper = Keeper(store)
    ids: list[str] = []
    sessions: dict[str, str] = {}
    began = time.monotonic()
    seed = 0
    while len(ids) < exchanges:
        seed += 1
        turns = _small(60, Words(seed % 7 + 1))
        kept = [keeper.keep(turn, f"session-{seed}").request_id for turn in turns]
        sessions |= dict.fromkeys(kept, f"session-{seed}")
        ids += kept
    filled = time.monotonic() - began
    questions = ContentQuestions(store)
    some = random.Random(3).sample(ids, 200)  # noqa: S311  no secret
    words = Words(1)
    asked: dict[str, Callable[[str], object]] = {
        "content": questions.content,
        "prompts of a session's 60 turns": lambda each: store.prompts(
            store.session(sessions[each])
        ),
        "diff with the one before": lambda each: _diff(questions, each),
        "search, two words": lambda _: questions.search(words.text(12), 20),
        "search, a word that is everywhere": lambda _: questions.search("tool", 20),
    }
    store.close()
    print(f"\n{len(ids):,} exchanges, {store.size() / 1e6:,.0f} MB, kept in {filled:.0f} s\n")
    print("| question | p50, ms | p95, ms | CPU p50, ms | CPU p95, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, ask in asked.items():
        taken = [_seconds(partial(ask, each)) for each in some]
        figures = [
            _at(sorted(each), share) for each in zip(*taken, strict=True) for share in (0.5, 0.95)
        ]
        print(f"| {name} | {' | '.join(f'{1000 * each:.1f}' for each in figures)} |", flush=True)


def _at(taken: Sequence[float], share: float) -> float:
    return taken[int(len(taken) * share)]


def _small(turns: int, words: Words) -> Iterator[Turn]:
    """Give the turns of a session without much in them, so that many are kept soon."""
    messages: list[dict[str, Any]] = []
    for _ in range(turns):
        messages.append({"role": "user", "content": words.text(600) + " tool"})
        document = {"model": "m", "system": "short " * 99, "messages": messages}
        said = words.text(200)
        events = _anthropic_events(words, said, "{}", "t")
        yield Turn("anthropic_messages", "/v1/messages", [], _dumped(document), events)
        messages.append({"role": "assistant", "content": said})


def _diff(questions: ContentQuestions, request_id: str) -> None:
    with contextlib.suppress(Exception):  # the first one of its session has none before it
        questions.diff(request_id)


def _seconds(ask: Callable[[], object]) -> tuple[float, float]:
    """Return how long it took, and the CPU time of that."""
    began, cpu = time.perf_counter(), time.process_time()
    ask()
    return time.perf_counter() - began, time.process_time() - cpu


# -- replay ------------------------------------------------------------------------------------


def measure_replay(folder: Path) -> None:
    """Print how far the pieces of a replayed stream are from where they were."""
    store = ContentStore(folder, 1 << 30, 7)
    kept = Keeper(store).keep(next(claude_code(1, Words(5))), "s")
    server = ReplayServer(Script([kept], store.exchange))
    thread = threading.Thread(target=server.run)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    began = time.monotonic()
    connection.request("POST", "/v1/messages", b"".join(kept.request))
    answer = connection.getresponse()
    arrived, size = [], 0
    while piece := answer.read1(65_536):
        arrived.append((size, time.monotonic() - began))
        size += len(piece)
    server.close()
    thread.join()
    store.close()
    wanted = [(offset, micros / 1e6) for offset, micros in kept.times]
    gaps = [b - a for (_, a), (_, b) in itertools.pairwise(wanted)]
    found = [b - a for (_, a), (_, b) in itertools.pairwise(arrived)]
    off = sorted(abs(a - b) for a, b in zip(gaps, found, strict=False))
    same = [at for at, _ in wanted] == [at for at, _ in arrived]
    print(
        f"\nreplay: {len(wanted)} pieces, {'the same' if same else 'OTHER'} ones; gaps differ by "
        f"{1000 * statistics.median(off):.2f} ms in the middle, "
        f"{1000 * off[int(len(off) * 0.95)]:.2f} ms at p95"
    )


def main() -> int:
    """Print all figures as tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.content", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=20_000, help="beside which to ask")
    parser.add_argument("--folder", type=Path, help="where to keep what is made for it meanwhile")
    options = parser.parse_args()
    names = ["session", "wire, MB", "said, MB", "kept, MB", "kept, % of said", "new parts"]
    names += ["lists, facts", "times", "index, pages", "CPU/turn, ms", "all verified"]
    print(f"| {' | '.join(names)} |\n| --- |{' ---: |' * (len(names) - 2)} --- |")
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        measure_session("Claude Code", claude_code(60, Words(1)), folder / "a")
        measure_session("Codex, zstd", codex(60, Words(2)), folder / "b")
        measure_session("Claude Code", claude_code(200, Words(3)), folder / "c")
        measure_replay(folder / "d")
        measure_questions(options.exchanges, folder / "e")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

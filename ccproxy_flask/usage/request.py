"""Read a request as it passes: which model it wants, how, and on whose behalf.

Where clients say who they are was seen on the wire (2026-11): Claude Code, Codex, opencode, and
the SDKs of OpenAI and Anthropic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003  an annotation of the module reads it
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ..redact import shortened
from .body import BodyReader
from .clients import Client, client_of
from .parser import LONGEST_ID, SMALL_JSON, as_name, as_object, as_text
from .partial_json import JsonBody
from .request_class import BODY_MEMBERS, RequestClass, stated_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from .partial_json import WantedMembers

_MOST_RETRIES = 1000
_LONGEST_CHAIN = 2 * LONGEST_ID
_MOST_TOOLS_MS = 1e9
_WANTED: WantedMembers = dict.fromkeys(
    (
        *BODY_MEMBERS,
        "client_metadata",
        "conversation",
        "metadata",
        "model",
        "previous_response_id",
        "prompt_cache_key",
        "safety_identifier",
        "stream",
        "thread",
        "user",
    )
)
# /v1beta/models/<model>:<method>, Vertex …/publishers/google/models/<model>:<method>, and
# Azure /openai/deployments/<deployment>/….
_MODEL_IN_PATH = re.compile(r"/(?:models|tunedModels|deployments)/([^/:?]+)")
# What older versions of Claude Code put into metadata.user_id.
_OLD_CLAUDE_CODE_USER = re.compile(r"user_(\w+?)_account_([\w-]*?)_session_([\w-]+)")


_UNKNOWN = Client()


@dataclass(slots=True)
class RequestFacts:
    """What a request says of itself."""

    model: str | None = None
    streaming: bool | None = None
    """What it asks for; None where that is not known."""
    session_id: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    parent_agent_id: str | None = None
    """Who started the agent; None: the main conversation."""
    client: Client = _UNKNOWN
    stated_class: RequestClass | None = None
    """What the client says the request is for."""
    previous_message_id: str | None = None
    """The answer that it goes on from, instead of sending again what was said before."""
    conversation_id: str | None = None
    """The chain it belongs to, as far as the client says."""
    begins_chain: bool = False
    """The answer's id may be the name of a chain."""
    tools_ms: float | None = None
    """How long the tools took of which it carries the results, all together."""
    retry_count: int | None = None


class RequestReader(BodyReader):
    """Reads a copy of a request's body; never raises (:class:`BodyReader`).

    *headers* by lower-case name; *path* with or without its query. *asks_for_stream* says what
    the path and the body, None where it is no JSON object, ask for.
    """

    def __init__(
        self,
        asks_for_stream: Callable[[str, dict[str, Any] | None], bool | None],
        headers: Mapping[str, str],
        path: str,
        small_json: int = SMALL_JSON,
    ) -> None:
        super().__init__(headers.get("content-encoding"))
        self._asks_for_stream = asks_for_stream
        self._headers = headers
        self._path = path
        self._body = JsonBody(_WANTED, small_json)
        self._begun = False
        self._facts = RequestFacts()

    def close(self) -> RequestFacts:
        """Return what was found out so far; of a long body again, when its rest has passed."""
        self._end()
        return self._facts

    def _read(self, data: bytes) -> None:
        if self.failed:
            return
        if not self._begun:
            start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            if not start:
                return
            if start != b"{":  # a form, a file
                self.failed = True
                return
            self._begun = True
        self._body.feed(data)

    def _read_end(self) -> None:
        document: dict[str, Any] | None = None
        if self._begun and not self.failed:
            found, _ = self._body.end()
            document = found if isinstance(found, dict) else None
        self._note_body(document)
        _note_client(self._facts, self._headers, document or {})

    def _note_body(self, document: dict[str, Any] | None) -> None:
        facts = self._facts
        if document is not None:
            facts.model = as_name(document.get("model"))
        if facts.model is None and (in_path := _MODEL_IN_PATH.search(self._path)):
            facts.model = as_name(in_path[1])
        facts.streaming = self._asks_for_stream(self._path.partition("?")[0], document)


def asks_by_member(_path: str, document: dict[str, Any] | None) -> bool | None:
    """Tell what the member ``stream`` of a body asks for; nothing asked is no stream."""
    if document is None:
        return None
    return document.get("stream") is True


def asks_where_it_says(_path: str, document: dict[str, Any] | None) -> bool | None:
    """Tell what the member ``stream`` asks for, None where there is none."""
    stream = None if document is None else document.get("stream")
    return stream if isinstance(stream, bool) else None


# Without all of these, a request says neither of what it is a part nor who sent it.
_ID_HEADERS = frozenset(
    {
        "session-id",
        "session_id",
        "thread-id",
        "x-claude-code-agent-id",
        "x-claude-code-parent-agent-id",
        "x-claude-code-prev-tool-durations",
        "x-claude-code-session-id",
        "x-codex-parent-thread-id",
        "x-codex-turn-metadata",
        "x-session-affinity",
        "x-session-id",
        "x-stainless-retry-count",
    }
)
_ID_MEMBERS = frozenset(_WANTED) - {"model", "stream", *BODY_MEMBERS}
_NO_TURN: Mapping[str, Any] = {}


def _note_client(facts: RequestFacts, headers: Mapping[str, str], document: dict[str, Any]) -> None:
    facts.client = client_of(headers)
    turn = _NO_TURN
    if not (_ID_HEADERS.isdisjoint(headers) and _ID_MEMBERS.isdisjoint(document)):
        turn = _note_ids(facts, headers, document)
    facts.stated_class = stated_class(facts.client.name, headers, turn, document)


def _note_ids(
    facts: RequestFacts, headers: Mapping[str, str], document: dict[str, Any]
) -> Mapping[str, Any]:
    """Take note of all ids there are, and return what Codex says of the turn."""
    metadata = as_object(document.get("metadata"))
    user = _claude_code_user(as_text(metadata.get("user_id")))
    more = as_object(document.get("client_metadata"))
    turn = _json_object(headers.get("x-codex-turn-metadata"))
    turn = turn or _json_object(as_text(more.get("x-codex-turn-metadata")))
    _note_session(facts, headers, user, turn, document)
    facts.user_id = _short(
        user.get("account_uuid")
        or user.get("device_id")
        or user.get("user_id")
        or document.get("safety_identifier")
        or document.get("user")
    )
    _note_chain(facts, document)
    facts.tools_ms = _tools_ms(headers.get("x-claude-code-prev-tool-durations"))
    retries = headers.get("x-stainless-retry-count", "")
    if retries.isascii() and retries.isdigit() and len(retries) < 5:
        facts.retry_count = min(int(retries), _MOST_RETRIES)
    return turn


def _note_session(
    facts: RequestFacts,
    headers: Mapping[str, str],
    user: dict[str, Any],
    turn: dict[str, Any],
    document: dict[str, Any],
) -> None:
    thread = headers.get("thread-id") or as_text(turn.get("thread_id"))
    session = (
        headers.get("x-claude-code-session-id")
        or user.get("session_id")
        or headers.get("session-id")
        or headers.get("session_id")  # older versions of Codex
        or as_text(turn.get("session_id"))
        or headers.get("x-session-id")
        or headers.get("x-session-affinity")
        or thread
        or as_text(document.get("prompt_cache_key"))
    )
    # A subagent of Codex is a thread of its own in the session.
    agent = headers.get("x-claude-code-agent-id") or (thread if thread != session else None)
    parent = (
        headers.get("x-claude-code-parent-agent-id")
        or headers.get("x-codex-parent-thread-id")
        or as_text(turn.get("parent_thread_id"))
    )
    facts.session_id = _short(session)
    facts.agent_id = _short(agent)
    facts.parent_agent_id = _short(parent) if agent and parent != session else None


def _note_chain(facts: RequestFacts, document: dict[str, Any]) -> None:
    """Take note of what the request goes on from, and of the name of the chain.

    Sources: OpenAI "Conversation state", Anthropic "Threads" (2026-11).
    """
    thread = document.get("thread")
    stored = document.get("conversation")
    facts.previous_message_id = _short(
        document.get("previous_response_id") or as_object(thread).get("previous_message_id")
    )
    facts.begins_chain = isinstance(thread, dict)
    facts.conversation_id = _short(stored if isinstance(stored, str) else _id_of(stored))
    if facts.conversation_id is None and facts.session_id is not None:
        agent = f"/{facts.agent_id}" if facts.agent_id else ""
        facts.conversation_id = shortened(facts.session_id + agent, _LONGEST_CHAIN)


def _id_of(value: object) -> object:
    return as_object(value).get("id")


def _tools_ms(durations: str | None) -> float | None:
    """Return the sum of ``<name>=<ms>;<name>=<ms>`` (Claude Code "LLM gateway protocol")."""
    parts = [part.rpartition("=")[2].strip() for part in (durations or "").split(";")[:64]]
    known = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 10]
    return min(float(sum(known)), _MOST_TOOLS_MS) if known else None


def _claude_code_user(user_id: str | None) -> dict[str, Any]:
    """Return the parts of metadata.user_id: an id, or JSON with several."""
    if user_id is None:
        return {}
    if parts := _json_object(user_id):
        return {key: value for key, value in parts.items() if as_text(value)}
    if old := _OLD_CLAUDE_CODE_USER.fullmatch(user_id):
        return {"device_id": old[1], "account_uuid": old[2], "session_id": old[3]}
    return {"user_id": user_id}


def _json_object(text: str | None) -> dict[str, Any]:
    if not text or not text.startswith("{"):
        return {}
    try:
        return as_object(orjson.loads(text))
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return {}


def _short(value: object) -> str | None:
    text = as_text(value)
    return shortened(text, LONGEST_ID) if text else None

"""Where an exchange stands in a conversation, as numbers that can be looked up. Pure.

A place is named by all that was said up to it: the hash of a prefix of the messages, whatever the
wire format. So two requests that share a prefix share its places, and the longest one tells what
a request goes on from.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json = dict[str, Any]

ASKED, ANSWERED, PASSED, NAMED, STORED = range(5)
"""Kinds: the end of what was asked, that and the answer, a place before; the id of an answer, the
id of a conversation that the provider stores."""
_ROLES = {"model": "assistant"}


class Place(NamedTuple):
    """A *key* of 64 bits, and what *kind* of place it is of an exchange."""

    key: int
    kind: int


def keys_of(scope: str, messages: Sequence[Json], answer: Mapping[str, Any] | None) -> list[int]:
    """Return the key of each prefix of *messages*, the shortest first; and, where there is an
    answer, that of all of them with it.

    *scope* is what the conversation can be in: a session, or what a person is known by.
    """
    digest = _hash(scope.encode("utf-8", "replace"))
    keys = []
    for message in [*messages, *([answer] if answer is not None and answer["blocks"] else [])]:
        digest = _hash(digest + _canonical(message))
        keys.append(_number(digest))
    return keys


def key_of_answer(message_id: str) -> int:
    """Return the key of the id of an answer."""
    return _number(_hash(b"answer:" + message_id.encode("utf-8", "replace")))


def key_of_conversation(conversation_id: str) -> int:
    """Return the key of the id of a conversation that the provider stores."""
    return _number(_hash(b"conversation:" + conversation_id.encode("utf-8", "replace")))


def last_of(others: Sequence[str], request_id: str, kind: int) -> str | None:
    """Return which of *others* at a place of a *kind* a request goes on from: the newest one, of a
    stored conversation the newest one before it."""
    fit = [each for each in others if each != request_id]
    fit = [each for each in fit if each < request_id] if kind == STORED else fit
    return max(fit, default=None)


def _canonical(message: Mapping[str, Any]) -> bytes:
    """Return what stays of a message when a client sends it again: not how it thought."""
    role = _ROLES.get(message["role"], message["role"])
    return orjson.dumps([role, *_parts(message["blocks"])], option=orjson.OPT_SORT_KEYS)


def _parts(blocks: Sequence[Json]) -> Iterator[list[Any]]:
    for block in blocks:
        kind, text = block["type"], (block.get("text") or "").strip()
        if kind == "text" and text:
            yield [kind, text]
        elif kind == "tool_result":
            yield [kind, block.get("id"), text]
        elif kind not in ("text", "thinking"):
            names = ("name", "id", "input", "media_type", "bytes")
            yield [kind, *(block.get(name) for name in names)]


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big", signed=True)

"""What a request is for: one word of a closed list, by what it and its client say. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

RequestClass = Literal[
    "main",  # a turn of the main conversation; what a model generates, where nobody says more
    "subagent",  # a turn of an agent that another one started
    "workflow",  # a turn of an agent inside a workflow
    "compaction",  # a conversation is summarised, to go on with less
    "auxiliary",  # on the side: titles, classifiers, memories
    "embeddings",
    "images",
    "audio",
    "count_tokens",
    "models",
    "batches",
    "files",
    "probe",  # is anybody there: HEAD, OPTIONS, upgrades refused, browsers, quota checks, warm-ups
    "other",  # what else there is of an API
]
"""Every value the column ``request_class`` can have."""

REQUEST_CLASSES: tuple[str, ...] = get_args(RequestClass)
TURNS: frozenset[str] = frozenset({"main", "subagent", "workflow", "compaction"})
"""They go on with a conversation."""
GENERATIONS: frozenset[str] = TURNS | {"auxiliary", "embeddings", "images", "audio"}
"""A model answers; the others are no generation."""


class Stated(NamedTuple):
    """A place where a client says what its request is for, and what its words mean."""

    client: str
    source: str
    place: str
    """A header; ``turn:`` and a member of Codex' turn metadata; ``body:`` and a member."""
    means: Mapping[Any, RequestClass]
    otherwise: RequestClass | None = None
    """What any other word means; None: nothing."""


_GATEWAYS = "https://code.claude.com/docs/en/llm-gateway-protocol (2.1.273)"
_CODEX = "Codex 0.144 on the wire, and its sources (codex-rs/core/src/client.rs)"
# The first line counts that says something. Seen in 2026-11.
STATED: tuple[Stated, ...] = (
    Stated(
        "claude-code",
        _GATEWAYS,
        "x-claude-code-request-class",
        {
            "main": "main",
            "subagent": "subagent",
            "workflow": "workflow",
            "compaction": "compaction",
            "auxiliary": "auxiliary",
        },
    ),
    Stated("claude-code", _GATEWAYS, "x-claude-code-compaction", {}, "compaction"),
    Stated(
        "claude-code", "on the wire: asks whether there is quota", "body:max_tokens", {1: "probe"}
    ),
    Stated("codex", _CODEX, "body:generate", {False: "probe"}),
    Stated(
        "codex",
        _CODEX,
        "turn:request_kind",
        {"prewarm": "probe", "compaction": "compaction", "memory": "auxiliary"},
    ),
    Stated(
        "codex",
        _CODEX,
        "x-openai-subagent",
        {"compact": "compaction", "memory_consolidation": "auxiliary"},
        "subagent",
    ),
)
_STATING = frozenset(each.client for each in STATED)
BODY_MEMBERS = tuple(
    each.place.removeprefix("body:") for each in STATED if each.place.startswith("body:")
)
"""What of a body is needed."""


def stated_class(
    client: str | None,
    headers: Mapping[str, str],
    turn: Mapping[str, Any],
    body: Mapping[str, Any],
) -> RequestClass | None:
    """Return what a *client* says a request is for, None where it does not.

    *turn* is Codex' turn metadata.
    """
    if client not in _STATING:
        return None
    for each in STATED:
        if each.client == client:
            source, _, member = each.place.rpartition(":")
            places: dict[str, Mapping[str, Any]] = {"": headers, "turn": turn, "body": body}
            word = places[source].get(member)
            found = _meaning(each, word)
            if found is not None:
                return found
    return None


def _meaning(each: Stated, word: object) -> RequestClass | None:
    if word is None or not isinstance(word, str | int):
        return None
    known = next((said for said in each.means if said == word and type(said) is type(word)), None)
    return each.otherwise if known is None else each.means[known]


def class_of(
    method: str,
    of_endpoint: RequestClass | None,
    stated: RequestClass | None,
    *,
    generates: bool,
    is_agent: bool,
) -> RequestClass:
    """Return the class of a request, as far as it can be told before its answer.

    *of_endpoint* is what requests to its endpoint are for, *stated* what its client says, and
    *is_agent* whether an agent sent it that another one started.
    """
    if method in ("HEAD", "OPTIONS"):
        return "probe"
    if of_endpoint is not None:
        return of_endpoint
    if generates:
        return stated or ("subagent" if is_agent else "main")
    return "other"


def class_at_end(known: str | None, method: str, status: int | None, is_route: bool) -> str:
    """Return the class of a request that was answered: only that shows what some were.

    *is_route*: it went to a route that an API is known to have. Browsers look for other things;
    and clients ask for an upgrade to see whether there is one.
    """
    refused = status in (426, 501) or (not is_route and status in (404, 405))
    return "probe" if known in (None, "other") and method == "GET" and refused else known or "other"

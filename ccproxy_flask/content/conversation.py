"""What was said in an exchange, in one shape for all wire formats (:mod:`ccproxy_flask.dialects`).

A stored body may be whatever a stranger sent: nothing here raises for that. Pure.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from ccproxy_flask.dialects import BY_NAME, DIALECTS
from ccproxy_flask.dialects.said import Said, as_text, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]


def said_in(api: str) -> Said:
    """Return how the wire format *api* says things."""
    return BY_NAME.get(api, DIALECTS[-1]).said


def parsed_request(api: str, document: object) -> Json:
    """Return the conversation that a request in the wire format *api* carries."""
    found: Json = {"system": [], "tools": [], "messages": []}
    return found | said_in(api).request(_object(document))


def parsed_answer(api: str, document: object) -> Json | None:
    """Return the answer in the JSON *document*, None where it carries none."""
    return said_in(api).answer(_object(document))


def put_together(api: str, events: Iterable[Json]) -> Json | None:
    """Return the document that the *events* of a stream make up, None where they do not."""
    return said_in(api).put_together(events)


def texts_of(conversation: Json, answer: Json | None) -> list[tuple[str, str]]:
    """Return (part, text) of all words in there; parts are system, tools, a role, ``tool`` for what
    a tool answered in whosoever's message, or answer."""
    found = [("system", words_of(conversation["system"]))]
    found += [("tools", f"{tool['name']} {tool['description']}") for tool in conversation["tools"]]
    for each in conversation["messages"]:
        for is_result, blocks in groupby(each["blocks"], _is_tool_result):
            found.append(("tool" if is_result else each["role"], words_of(list(blocks))))
    if answer is not None:
        found.append(("answer", words_of(answer["blocks"])))
    return [(part, text) for part, text in found if text.strip()]


def _is_tool_result(block: Json) -> bool:
    return bool(block["type"] == "tool_result")


def words_of(blocks: Sequence[Json]) -> str:
    """Return all words of *blocks*, a line for each part."""
    return "\n".join(
        part
        for block in blocks
        for part in (block.get("name"), block.get("text"), as_text(block.get("input")))
        if part
    )


def as_request_parts(api: str, document: object) -> Json:
    """Return the ``tools``, ``system`` and ``messages`` of a request as it has them, in lists, and
    all its other members as ``settings``."""
    document, said = _object(document), said_in(api)
    named = {"tools", said.messages, said.system}
    return {
        "tools": listed(document.get("tools")),
        "system": listed(document.get(said.system)),
        "messages": listed(document.get(said.messages)),
        "settings": {name: value for name, value in document.items() if name not in named},
    }


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}

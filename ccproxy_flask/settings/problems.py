"""What is wrong with a setting, in one line that names it and shows no secret. Pure."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, NamedTuple

from .options import SECTIONS, TOP_LEVEL, Provider

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class Source(NamedTuple):
    """Where settings come from: what it is called in an error line, and what it says."""

    name: str
    sections: dict[str, Any]


def one_line(error: ValidationError, sources: Sequence[Source]) -> str:
    """Return the line for *error*: the setting, the file it stands in, and what is wrong."""
    problems = error.errors(include_url=False, include_input=False)
    # A name that does not exist is the cause where another one is missing.
    problem = min(problems, key=lambda found: found["type"] != "extra_forbidden")
    where = tuple(str(part) for part in problem["loc"] if part != "[key]")
    origin = next((it.name for it in reversed(sources) if _says(it.sections, where)), "")
    where_from = f" (in {origin})" if origin else ""
    if problem["type"] == "extra_forbidden":
        return unknown(shown(where) + where_from, shown(where))
    return printable(f"{shown(where)}{where_from}: {_said_plainly(problem)}")


def _says(sections: Mapping[str, object], where: tuple[str, ...]) -> bool:
    for part in where:
        if part not in sections:
            return False
        below = sections[part]
        if not isinstance(below, dict):
            return True  # the rest of the way, if any, is the position in a list
        sections = below
    return True


def _said_plainly(problem: ErrorDetails) -> str:
    kind, text = problem["type"], problem["msg"]
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    if kind == "literal_error":
        return f"must be {problem['ctx']['expected']}"
    return _PLAIN_TEXTS.get(kind) or re.sub("^(Input|String) should", "must", text)


_IS_SECTION = "is a section with settings in it, not a setting"
_PLAIN_TEXTS = {
    "dict_type": _IS_SECTION,
    "missing": "is needed",
    "model_attributes_type": _IS_SECTION,
    "model_type": _IS_SECTION,
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "tuple_type": "must be a list",
}


def shown(where: tuple[str, ...]) -> str:
    """Return the name of a setting as the environment spells it."""
    if len(where) == 1 and where[0] in TOP_LEVEL:
        return f"CCPROXY_{where[0].upper()}"
    return "__".join(where).upper()


def unknown(label: str, name: str) -> str:
    """Return the line for the unknown *name*, with the nearest there is."""
    meant = name.upper().removeprefix("CCPROXY_")
    nearest = max(
        _names_beside(name),
        key=lambda known: SequenceMatcher(None, meant, known.removeprefix("CCPROXY_")).ratio(),
    )
    return printable(f"{label}: unknown setting; did you mean {nearest}?")


def _names_beside(name: str) -> Iterator[str]:
    """Give all names that *name* may be meant for: of its section, where it has one of ours."""
    section, in_section, _ = name.lower().partition("__")
    if not in_section:
        yield from (name.upper() for name in SECTIONS)
    elif section == "providers":
        prefix = name.upper().rpartition("__")[0]
        yield from (f"{prefix}__{field.upper()}" for field in Provider.model_fields)
        return
    for prefix in [section] if section in SECTIONS else SECTIONS:
        between = "__<NAME>__" if prefix == "providers" else "__"
        fields = SECTIONS[prefix].model_fields
        for field, facts in fields.items():
            below = getattr(facts.annotation, "model_fields", {})
            yield from (f"{prefix}{between}{field}__{one}".upper() for one in below)
            yield f"{prefix}{between}{field}".upper()
    if section not in SECTIONS:
        yield from (shown((field,)) for field in TOP_LEVEL)


def printable(text: str) -> str:
    """Return *text* in one line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)

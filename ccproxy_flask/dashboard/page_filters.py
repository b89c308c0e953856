"""The filters of a page: what they take in an address, and what of the store they become. Pure."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.filters import LogFilter

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 256


class Unreadable(ValueError):
    """A value means nothing; the message says what would."""


def _text(value: str) -> str:
    if not 1 <= len(value) <= _LONGEST:
        raise Unreadable(f"takes 1 to {_LONGEST} characters")
    return value


def _status(value: str) -> dict[str, Any]:
    low: int | None
    high: int | None
    if match := re.fullmatch(r"([1-5])xx", value.lower()):
        low, high = int(match[1]) * 100, int(match[1]) * 100 + 99
    elif match := re.fullmatch(r"(>=|<=|>|<)?([1-5]\d\d)", value):
        bound = int(match[2])
        low, high = {
            ">=": (bound, None),
            ">": (bound + 1, None),
            "<=": (None, bound),
            "<": (None, bound - 1),
            None: (bound, bound),
        }[match[1]]
    elif match := re.fullmatch(r"([1-5]\d\d)\.\.([1-5]\d\d)", value):
        low, high = sorted((int(match[1]), int(match[2])))
    else:
        raise Unreadable("is a status such as 429, 5xx, >=400 or 400..499")
    return _within_statuses(low, high)


def _duration(value: str) -> dict[str, Any]:
    match = re.fullmatch(r"(>=|<=|>|<)?(\d{1,9}(?:\.\d{1,6})?)(ms|s|m)?", value)
    if match is None:
        raise Unreadable("is a time such as >5s, <200ms or >=1m")
    bound = float(match[2]) * {"ms": 1, "s": 1000, "m": 60_000, None: 1}[match[3]]
    if match[1] in ("<", "<="):
        return {"max_duration_ms": bound}
    return {"min_duration_ms": bound}


def _within_statuses(low: int | None, high: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if low is not None:
        found["status_code_min"] = min(max(low, 100), 599)
    if high is not None:
        found["status_code_max"] = min(max(high, 100), 599)
    return found


def _error(value: str) -> dict[str, Any]:
    if value in ("any", "none"):
        return {"succeeded": value == "none"}
    if value not in ERROR_TYPES:
        raise Unreadable("is any, none, or a type of error such as rate_limit")
    return {"error_type": value}


def _model(value: str) -> dict[str, Any]:
    if value.startswith("="):
        return {"model": _text(value[1:])}
    return {"model_contains": _text(value)}


def _flag(name: str) -> Callable[[str], dict[str, Any]]:
    def parse(value: str) -> dict[str, Any]:
        if value not in ("yes", "no"):
            raise Unreadable("is yes or no")
        return {name: value == "yes"}

    return parse


def _choice(name: str, means: str) -> Callable[[str], dict[str, Any]]:
    """Return what reads names between commas, as the store's filter *name* does."""

    def parse(value: str) -> dict[str, Any]:
        try:
            return {name: getattr(LogFilter.from_wire({name: value}), name)}
        except ValueError:
            raise Unreadable(means) from None

    return parse


_classes = _choice(
    "request_class", "is all, others, or classes such as main,subagent or !auxiliary"
)


def _class(value: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = {"all": {}, "others": {"generation": False}}
    return known[value] if value in known else _classes(value)


FILTERS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "provider": ("A provider's name", lambda value: {"provider": _text(value)}),
    "model": ("A part of its name, or =name", _model),
    "status": ("429, 5xx, >=400, 400..499", _status),
    "error": ("any, none, or a type of error", _error),
    "duration": (">5s, <200ms", _duration),
    "client": (
        "A program, or !program",
        _choice("client", "takes names between commas, such as claude-code,codex or !browser"),
    ),
    "session": ("A session's id", lambda value: {"session_id": _text(value)}),
    "user": ("A user, as the client names them", lambda value: {"user_id": _text(value)}),
    "key": ("A key, by its hash", lambda value: {"api_key_id": _text(value)}),
    "stream": ("yes or no", _flag("streaming")),
    "unpriced": ("yes: without a known cost", _flag("unpriced")),
    "class": ("all, others, or main,subagent,…", _class),
    "q": ("A text in path, model, client or error", lambda value: {"q": _text(value)}),
}
"""The filters of a page: what they take, and the fields of a LogFilter that they become."""


def typed(text: str) -> dict[str, str]:
    """Return the filters that a person typed: ``model:opus status:>=400 some text``.

    What is no filter is searched for as a text.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    for word in _split(text):
        name, colon, value = word.partition(":")
        if colon and value and name.lower() in FILTERS:
            found[name.lower()] = value
        else:
            rest.append(word)
    if rest:
        found["q"] = " ".join(rest)
    return found


def _split(text: str) -> list[str]:
    """Return the words of *text*; what is between quotation marks is one."""
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark that is not closed
        return text.split()

"""Rate limits as providers state them: which headers are kept, and what they say. Pure.

Sources: Anthropic "Rate limits" (``anthropic-ratelimit-*``) and what its subscriptions get
(``…-unified-*``); OpenAI "Rate limits", Groq, Azure, Mistral, Cerebras, OpenRouter
(``x-ratelimit-*``); Codex with a ChatGPT login (``x-codex-*``, event ``codex.rate_limits``); all
as of 2026-11.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

IGNORED = "ignored"
"""The key under which it is said how many headers were not understood."""
MOST_HEADERS = 48
"""Of one answer; more are not kept."""
_LONGEST_VALUE = 40
_FARTHEST = timedelta(days=400)
_LATEST = timedelta(days=1)
_NAME = r"[a-z]{1,16}(?:-[a-z]{1,16}){0,2}"
_FORMS = (
    re.compile(
        r"anthropic-ratelimit-unified-(?:(?P<window>[0-9]{1,3}[hd](?:_[a-z]{1,16})?|overage)-)?"
        r"(?P<field>status|reset|utilization|limit|remaining|representative-claim)"
    ),
    re.compile(
        rf"anthropic-ratelimit-(?!unified)(?P<window>{_NAME})-(?P<field>limit|remaining|reset)"
    ),
    re.compile(rf"x-ratelimit-(?P<field>limit|remaining|reset)(?:-(?P<window>{_NAME}))?"),
    re.compile(
        r"x-codex-(?P<window>primary|secondary|credits)-(?P<field>used-percent|window-minutes"
        r"|reset-at|reset-after-seconds|has-credits|unlimited|balance)"
    ),
)
# What is known and says nothing of how full a window is.
_SILENT = re.compile(
    r"anthropic-ratelimit-unified-.*(?:fallback|fallback-percentage|upgrade-paths|disabled-reason"
    r"|surpassed-threshold|in-use)|x-codex-(?:primary|secondary)-over-secondary-limit-percent"
)
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,12})?")
_WORD = re.compile(r"[A-Za-z]{1,16}(?:_[a-z]{1,16}){0,4}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(?:Z|[+-][0-9]{2}:[0-9]{2})")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|us|µs|[dhms]))+")
_PLAIN = re.compile("|".join(form.pattern for form in (_NUMBER, _WORD, _MOMENT, _DURATION)))
_STEP = re.compile(r"([0-9.]+)(ms|us|µs|[dhms])")
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_LENGTH = re.compile(r"([0-9]{1,3})([hd])(?:_.*)?")
_LENGTHS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_FIRST_MOMENT = 1e9  # less is a number of seconds from now
_FIRST_MILLIS = 1e12


class Window(NamedTuple):
    """What an answer says of one limit; None: it does not say."""

    window: str
    """``5h``, ``7d``, ``requests``, ``input-tokens``, ``primary``…; ``unified`` is the verdict over
    all of a subscription's."""
    used: float | None = None
    """How much of it is used: 0 to 1."""
    limit: float | None = None
    remaining: float | None = None
    reset: datetime | None = None
    """When it is empty again, in UTC."""
    status: str | None = None
    """The provider's word: ``allowed``, ``allowed_warning``, ``rejected``…"""
    window_seconds: int | None = None
    """How long it is."""
    note: str | None = None
    """Of ``unified`` the window that decides, as the provider names it."""


@lru_cache(maxsize=512)
def _place(name: str) -> tuple[str, str] | None:
    """Return the window and the field that the header *name* is about; None where it is unknown."""
    for form in _FORMS:
        if match := form.fullmatch(name):
            return match["window"] or _general(name), match["field"]
    return None


def _general(name: str) -> str:
    return "unified" if name.startswith("anthropic") else "requests"


@lru_cache(maxsize=512)
def _is_silent(name: str) -> bool:
    return _SILENT.fullmatch(name) is not None


def kept(named: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Return the headers of *named* (small names) that begin with one of *prefixes* and state a
    limit; ``ignored`` says how many could not be understood. Nothing else of them is looked at.

    What is kept are numbers, times, and single words, whatever the upstream sends.
    """
    names = "\n".join(named)
    if not any(prefix in names for prefix in prefixes):  # quick, for most answers have none
        return {}
    return _understood({name: named[name] for name in named if name.startswith(prefixes)})


def _understood(headers: Mapping[str, str]) -> dict[str, Any]:
    understood: dict[str, Any] = {}
    ignored = 0
    for name, value in headers.items():
        if _is_silent(name):
            continue
        if len(understood) < MOST_HEADERS and _place(name) is not None and _is_plain(value):
            understood[name] = value
        else:
            ignored += 1
    if ignored:
        understood[IGNORED] = ignored
    return understood


def _is_plain(value: str) -> bool:
    return len(value) <= _LONGEST_VALUE and _PLAIN.fullmatch(value) is not None


def of_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event ``codex.rate_limits`` as the headers that say the same."""
    said: dict[str, str] = {}
    stated = event.get("rate_limits")
    for window in ("primary", "secondary"):
        facts = stated.get(window) if isinstance(stated, dict) else None
        for name in ("used_percent", "window_minutes", "reset_at", "reset_after_seconds"):
            _say(said, f"x-codex-{window}-{name}", facts, name)
    for name in ("has_credits", "unlimited", "balance"):
        _say(said, f"x-codex-credits-{name}", event.get("credits"), name)
    return _understood(said)


def _say(said: dict[str, str], header: str, facts: object, name: str) -> None:
    value = facts.get(name) if isinstance(facts, dict) else None
    if isinstance(value, str | int | float):
        said[header.replace("_", "-")] = str(value)[: _LONGEST_VALUE + 1]


def windows(stated: Mapping[str, Any], at: datetime) -> tuple[list[Window], int]:
    """Return what the headers *stated* (of :func:`kept`) at the time *at* say, window by window;
    and how many headers are not understood."""
    fields: dict[str, dict[str, str]] = {}
    ignored = 0
    for name, value in stated.items():
        if name == IGNORED:
            ignored += value if type(value) is int and 0 < value < 100_000 else 1
        elif (place := _place(name)) is not None and isinstance(value, str) and _is_plain(value):
            fields.setdefault(place[0], {})[place[1]] = value
        else:
            ignored += 1
    found = []
    for window, said in fields.items():
        read = _Reading(said, at)
        found.append(_window(window, read))
        ignored += read.ignored
    return [one for one in found if any(value is not None for value in one[1:6])], ignored


class _Reading:
    """The fields of one window, taken one by one; what is no value of its kind is counted."""

    def __init__(self, said: Mapping[str, str], at: datetime) -> None:
        self._said, self._at = said, at
        self.ignored = 0

    def number(self, name: str, most: float = 1e15) -> float | None:
        value = self._said.get(name)
        if value is None:
            return None
        if _NUMBER.fullmatch(value) and float(value) <= most:
            return float(value)
        self.ignored += 1
        return None

    def word(self, name: str) -> str | None:
        value = self._said.get(name)
        if value is None or _WORD.fullmatch(value):
            return value
        self.ignored += 1
        return None

    def moment(self, *names: str) -> datetime | None:
        for name in names:
            if (value := self._said.get(name)) is not None:
                found = _moment(value, self._at)
                self.ignored += found is None
                return found
        return None


def _window(window: str, read: _Reading) -> Window:
    limit, remaining = read.number("limit"), read.number("remaining")
    balance, minutes = read.number("balance"), read.number("window-minutes")
    used, percent = read.number("utilization", 100), read.number("used-percent", 10_000)
    if percent is not None:
        used = percent / 100
    elif used is None and limit and remaining is not None:
        used = 1 - remaining / limit
    seconds = int(minutes * 60) if minutes and minutes < 1e6 else _length_of(window)
    return Window(
        window,
        None if used is None else round(min(max(used, 0.0), 1.0), 6),
        limit,
        remaining if balance is None else balance,
        read.moment("reset-at", "reset", "reset-after-seconds"),
        read.word("status") or _credit_status(read),
        seconds,
        read.word("representative-claim"),
    )


def _credit_status(read: _Reading) -> str | None:
    has, unlimited = read.word("has-credits"), read.word("unlimited")
    if (unlimited or "").lower() == "true":
        return "unlimited"
    return None if has is None else "allowed" if has.lower() == "true" else "none"


def _length_of(window: str) -> int | None:
    if match := _LENGTH.fullmatch(window):
        return int(match[1]) * int(_SECONDS[match[2]])
    return _LENGTHS.get(window.rpartition("-")[2])


def _moment(value: str, at: datetime) -> datetime | None:
    """Return the time that *value* means: one in RFC 3339, seconds (or ms) since 1970, or a time
    to wait (``6m0s``, ``12.5``); None where it is no time near *at*."""
    try:
        if _NUMBER.fullmatch(value):
            number = float(value)
            if number >= _FIRST_MOMENT:
                number /= 1000 if number >= _FIRST_MILLIS else 1
                found = datetime.fromtimestamp(number, UTC)
            else:
                found = at + timedelta(seconds=number)
        elif _DURATION.fullmatch(value):
            waits = sum(float(size) * _SECONDS[unit] for size, unit in _STEP.findall(value))
            found = at + timedelta(seconds=waits)
        elif _MOMENT.fullmatch(value):
            found = datetime.fromisoformat(value).astimezone(UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return found if at - _LATEST <= found <= at + _FARTHEST else None

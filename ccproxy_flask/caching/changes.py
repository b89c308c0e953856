"""What is the first thing, in the order in which a provider caches, that changed between turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ccproxy_flask.content.cache_parts import begins_with, member_of

from .causes import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ccproxy_flask.content.cache_parts import Prompt, PromptPart

    from .causes import Cause, Section
    from .turns import Turn

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What changed. A setting has neither *index* nor *change*."""

    cause: Cause
    section: Section
    name: str
    index: int | None = None
    change: str | None = None

    def as_json(self) -> Json:
        """Return it as it is answered."""
        return {
            "section": self.section,
            "index": self.index,
            "name": self.name,
            "change": self.change,
        }


def first_change(before: Turn, turn: Turn) -> Change | None:
    """Return what ended the reuse of what *before* had put into the cache; None: nothing did.

    Of a turn that goes on from an answer by its id only what it sends again is compared.
    """
    settings = _setting_that_changed(before, turn)
    if before.prompt is None or turn.prompt is None:
        return settings
    if turn.goes_on:
        part = _part_sent_again(before.prompt, turn.prompt)
    else:
        part = _part_that_changed(before.prompt.parts, turn.prompt.parts)
    if settings is None or part is None:
        return settings or part
    return settings if _place(settings) <= _place(part) else part


def _place(change: Change) -> int:
    return SECTIONS.index(change.section)


def _setting_that_changed(before: Turn, turn: Turn) -> Change | None:
    for each in turn.rules.changes:
        old, new = _given(before, each.setting), _given(turn, each.setting)
        # Without content only the models are known.
        is_known = each.setting == "model" or (
            before.prompt is not None and turn.prompt is not None
        )
        if is_known and old != new and not (turn.goes_on and not new):
            return Change(each.cause, each.section, each.setting)
    return None


def _given(turn: Turn, setting: str) -> Json:
    """Return what is given of a *setting*, also of what is in it."""
    inner = f"{setting}."
    return {
        name: value
        for name, value in turn.settings.items()
        if (name == setting or name.startswith(inner)) and value not in (None, False, [])
    }


def _part_sent_again(before: Prompt, now: Prompt) -> Change | None:
    for section in SECTIONS[:2]:
        old, new = (
            [part for part in prompt.parts if part.section == section] for prompt in (before, now)
        )
        if old and new and (found := _part_that_changed(old, new)) is not None:
            return found
    return None


def _part_that_changed(old: Sequence[PromptPart], new: Sequence[PromptPart]) -> Change | None:
    same = same_parts(old, new)
    if same == len(old):
        return None
    was, now = old[same], new[same] if same < len(new) else None
    if now is None or SECTIONS.index(_section(was)) < SECTIONS.index(_section(now)):
        return _change(old, same, "removed")
    if SECTIONS.index(_section(now)) < SECTIONS.index(_section(was)):
        return _change(new, same, "added")
    later = {part.hash for part in new[same + 1 :]}
    if was.hash in later:
        return _change(new, same, "added")
    is_later = now.hash in {part.hash for part in old[same + 1 :]}
    return _change(old, same, "removed") if is_later else _change(new, same, "changed")


def same_parts(old: Sequence[PromptPart], new: Sequence[PromptPart]) -> int:
    """Return how many parts both begin with."""
    if begins_with(new, old):
        return len(old)
    pairs = enumerate(zip(old, new, strict=False))
    least = min(len(old), len(new))
    return next((at for at, (was, now) in pairs if was.hash != now.hash), least)


def _change(parts: Sequence[PromptPart], index: int, change: str) -> Change:
    section = _section(parts[index])
    name = parts[index].name
    return Change(section, section, name, member_of(parts, index), change)


def _section(part: PromptPart) -> Section:
    return next(each for each in SECTIONS if each == part.section)

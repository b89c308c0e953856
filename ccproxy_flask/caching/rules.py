"""How providers cache prompts: ``rules.toml``, checked when it is loaded."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .causes import SECTIONS, Section, SettingCause

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATED = r"(?:[-@]\d{4}-?\d{2}-?\d{2})?"


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Minimum(_Checked):
    """How many tokens a prompt needs to be cached."""

    models: str
    tokens: Annotated[int, Field(ge=0)]


class Lifetime(_Checked):
    """How long what was written or read stays, and of what that is true."""

    seconds: Annotated[int, Field(gt=0)]
    ttl: str | None = None
    setting: str | None = None
    value: str | None = None
    models: str | None = None

    def fits(self, ttl: str, settings: Mapping[str, Any], model: str) -> bool:
        """Tell whether it holds for a breakpoint with this *ttl*."""
        if self.setting is not None:
            given = settings.get(self.setting)
            if given is None or self.value not in (None, given):
                return False
        return self.ttl in (None, ttl) and (self.models is None or _is(model, self.models))


class Change(_Checked):
    """A setting whose change ends the reuse from the beginning of a section on."""

    setting: str
    cause: SettingCause
    section: Section


class Rules(_Checked):
    """The rules of one provider; the fields are described at the top of ``rules.toml``."""

    name: str
    source: str
    checked: Annotated[str, Field(pattern=r"^\d{4}-\d\d$")]
    assumed: str
    apis: list[str]
    providers: list[str] = []
    endpoints: list[str] = []
    puts: Literal["written", "input", "read"]
    puts_written: str | None = None
    step: Annotated[int, Field(ge=1)]
    slack: Annotated[float, Field(ge=0, lt=1)]
    breakpoints: int | None = None
    look_back: int | None = None
    minimum_tokens: list[Minimum]
    lifetimes: list[Lifetime]
    changes: list[Change]

    def hold_for(self, api: str | None, provider: str | None, endpoint: str) -> bool:
        """Tell whether these are the rules for a request (:func:`rules_for`)."""
        is_api = endpoint in self.endpoints if api is None else api in self.apis
        is_provider = not self.providers or provider in self.providers
        return "*" in self.apis or (is_api and is_provider)

    def minimum(self, model: str) -> int:
        """Return how many tokens a prompt for *model* needs to be cached."""
        return next((each.tokens for each in self.minimum_tokens if _is(model, each.models)), 0)

    def seconds(self, ttl: str, settings: Mapping[str, Any], model: str) -> int:
        """Return how long a breakpoint with this *ttl* lives."""
        return next(each.seconds for each in self.lifetimes if each.fits(ttl, settings, model))

    def states_writes(self, model: str) -> bool:
        """Tell whether answers of *model* state all that was written to the cache."""
        return self.puts == "written" or (
            self.puts_written is not None and _is(model, self.puts_written)
        )


def rules_for(api: str | None, provider: str | None, endpoint: str) -> Rules:
    """Return the rules that hold for a request; *api* is None where its content is not kept."""
    return next(rules for rules in RULES if rules.hold_for(api, provider, endpoint))


def _is(model: str, pattern: str) -> bool:
    return re.fullmatch(f"(?:{pattern}){_DATED}", model) is not None


def load(text: str) -> tuple[Rules, ...]:
    """Return the rules that *text* states. Raises ValueError where it states none."""
    found = tuple(Rules.model_validate(each) for each in tomllib.loads(text)["provider"])
    for rules in found:
        _check(rules)
    return found


def _check(rules: Rules) -> None:
    """See to it that patterns are patterns, and that something always fits."""
    minimums, lifetimes = rules.minimum_tokens, rules.lifetimes
    patterns = [*(each.models for each in minimums), *(each.models for each in lifetimes)]
    for pattern in (*patterns, rules.puts_written):
        re.compile(pattern or "")
    if not rules.lifetimes or not rules.lifetimes[-1].fits("", {}, ""):
        raise ValueError(f"{rules.name}: the last lifetime must fit everything")
    places = [SECTIONS.index(each.section) for each in rules.changes]
    if places != sorted(places):
        raise ValueError(f"{rules.name}: changes must be in the order tools, system, messages")


RULES = load((Path(__file__).parent / "rules.toml").read_text(encoding="utf-8"))

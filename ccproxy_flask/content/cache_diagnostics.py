"""What an answer says itself of its cache. Pure.

Anthropic: ``diagnostics.cache_miss_reason`` ("Cache diagnostics") and
``context_management.applied_edits`` ("Context editing"); OpenAI: ``prompt_cache_diagnostics``
("Prompt cache diagnostics"). Looked at in 2026-11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = (b'"cache_miss_reason"', b'"prompt_cache_diagnostics"', b'"applied_edits"')
_LONGEST_REASON = 64


def may_tell(said: bytes) -> bool:
    """Tell whether the answer *said* may have something to say of its cache."""
    return any(name in said for name in _NAMES)


def diagnostics(documents: Iterable[object]) -> dict[str, Any]:
    """Return what the JSON *documents* of an answer say of its cache.

    ``diagnostics``: ``{"reason", "tokens_missed"}``, or None where nothing was missed;
    ``context_edited``: the provider took something out of the request. What is not said is left
    out.
    """
    found: dict[str, Any] = {}
    for document in documents:
        if isinstance(document, dict):
            inner = (document.get(name) for name in ("message", "response", "delta"))
            for part in (document, *inner):
                found |= _told(part) if isinstance(part, dict) else {}
    return found


def _told(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(one := part.get("diagnostics"), dict) and "cache_miss_reason" in one:
        found["diagnostics"] = _reason(one["cache_miss_reason"], "type")
    if isinstance(one := part.get("prompt_cache_diagnostics"), dict):
        found["diagnostics"] = _reason(one, "reason")
    if isinstance(one := part.get("context_management"), dict) and one.get("applied_edits"):
        found["context_edited"] = True
    return found


def _reason(told: Any, name: str) -> dict[str, Any] | None:
    if not isinstance(told, dict) or not isinstance(told.get(name), str):
        return None
    missed = (told.get(each) for each in ("cache_missed_input_tokens", "cache_missed_tokens"))
    counts = (each for each in missed if isinstance(each, int) and not isinstance(each, bool))
    return {"reason": told[name][:_LONGEST_REASON], "tokens_missed": next(counts, None)}

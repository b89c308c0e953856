"""Why the caches of providers missed, and what contexts cost: of rows, and of what is kept of them.

Nothing of it is stored: rules and prices may be mended, and content that is deleted takes its
verdicts with it.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ccproxy_flask.caching.rent import Rents
from ccproxy_flask.caching.turns import Turn
from ccproxy_flask.caching.verdict import verdict_on
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.store.base import Page

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ccproxy_flask.caching.prices import InputPricing
    from ccproxy_flask.caching.verdict import Verdict
    from ccproxy_flask.store.base import Store

    from .content import ContentKeeping

Json = dict[str, Any]
_EARLIER = 16
"""So many turns before are looked at,"""
_LOOK_BACK = timedelta(days=8)
"""of so long before."""


class Caching:
    """Answers about the rows in *store*, with what *content* has of them."""

    def __init__(self, store: Store, content: ContentKeeping | None, pricing: InputPricing) -> None:
        self._store, self._content, self._pricing = store, content, pricing

    def turns(self, rows: Iterable[Json]) -> list[Turn]:
        """Return *rows* as turns."""
        rows = list(rows)
        kept = [row["request_id"] for row in rows if row["content"] == "kept"]
        prompts = self._content.prompts(kept) if self._content is not None and kept else {}
        return [Turn(row, *prompts.get(row["request_id"], ())) for row in rows]

    def of_request(self, request_id: str) -> Json | None:
        """Return the verdict on one request as it is answered; None where it has no row."""
        found = self._store.entries(LogFilter(request_id=request_id), Page(1)).rows
        if not found:
            return None
        row = found[0]
        turns = self.turns([*self._earlier(row), row])
        verdict = _verdicts(turns).get(request_id)
        names = ("request_id", "conversation_id", "timestamp", "model", "provider")
        return {**{name: row[name] for name in names}, "cache_verdict": self._as_json(verdict)}

    def _earlier(self, row: Json) -> list[Json]:
        if row["conversation_id"] is None:
            return []
        sent = datetime.fromisoformat(row["timestamp"])
        where = LogFilter(
            conversation_id=row["conversation_id"],
            start_time=sent - _LOOK_BACK,
            end_time=sent - timedelta(microseconds=1),
        )
        return self._store.entries(where, Page(_EARLIER, 0, "timestamp")).rows[::-1]

    def of_session(self, turns: Sequence[Turn]) -> tuple[dict[str, Json | None], Json]:
        """Return the verdicts on *turns* (the oldest first) by request id, and what they come to:
        ``cache_misses`` by cause, ``cache_miss_cost_usd``, ``rent``."""
        rents, by_id = Rents(), _verdicts(turns)
        counts, cost = Counter[str](), Decimal(0)
        found: dict[str, Json | None] = {}
        for turn in turns:
            request_id = turn.row["request_id"]
            prices = self._pricing.prices(turn.row)
            rents.add(turn, prices)
            verdict = by_id.get(request_id)
            found[request_id] = None if verdict is None else verdict.as_json(prices)
            if verdict is not None and verdict.missed:
                counts[str(verdict.cause)] += 1
                cost += verdict.cost(prices) or 0
        return found, {
            "cache_misses": dict(counts.most_common()),
            "cache_miss_cost_usd": float(round(cost, 10)),
            "rent": rents.as_json(),
        }

    def _as_json(self, verdict: Verdict | None) -> Json | None:
        if verdict is None:
            return None
        return verdict.as_json(self._pricing.prices(verdict.turn.row))


def _verdicts(turns: Iterable[Turn]) -> dict[str, Verdict]:
    """Return the verdicts on those of *turns* that belong to a conversation."""
    conversations: dict[str, list[Turn]] = {}
    found = {}
    for turn in turns:
        if (name := turn.row["conversation_id"]) is None:
            continue
        earlier = conversations.setdefault(name, [])
        verdict = verdict_on(turn, earlier[-_EARLIER:])
        if verdict is not None:
            found[turn.row["request_id"]] = verdict
        earlier.append(turn)
    return found

"""A provider whose quota has a formula that is known, and a fleet of sessions that uses it."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field

KINDS = ("input", "cache_read", "cache_write", "output")
WEIGHTS = {  # what a million tokens take
    "claude-opus": (0.20, 0.02, 0.25, 1.00),
    "claude-sonnet": (0.12, 0.012, 0.15, 0.60),
}
WEEK = 7 * 86_400
FIVE_HOURS = 5 * 3600


@dataclass
class Request:
    """One request: what it used, and what the answer said of the windows when it began."""

    began: float
    ended: float
    session: str
    model: str
    tokens: tuple[int, int, int, int]
    stated: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Window → (utilization, reset)."""

    def takes(self) -> float:
        """Return how much it takes."""
        pairs = zip(self.tokens, WEIGHTS[self.model], strict=True)
        return sum(count * weight for count, weight in pairs) / 1e6


def weights() -> dict[tuple[str, str], float]:
    """Return the weights by model and kind."""
    return {
        (model, kind): weight
        for model, all_kinds in WEIGHTS.items()
        for kind, weight in zip(KINDS, all_kinds, strict=True)
    }


@dataclass
class Provider:
    """Two windows, 5 hours and 7 days: each begins with the first use after its reset."""

    capacity: dict[str, float] = field(default_factory=lambda: {"5h": 5.0, "7d": 50.0})
    lengths: dict[str, int] = field(default_factory=lambda: {"5h": FIVE_HOURS, "7d": WEEK})
    resets: dict[str, float] = field(default_factory=dict)
    used: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Window → session → what it took since the last reset."""
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    _told: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """The same, as it was when somebody was told of the window last."""
    _before: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def state(self, at: float) -> dict[str, tuple[float, float]]:
        """Return what an answer that begins now says: rounded to a hundredth, as providers do."""
        self._turn(at)
        found = {}
        for window in self.lengths:
            self._told[window] = self.used[window].copy()
            used = sum(self.used[window].values()) / self.capacity[window]
            found[window] = (round(used, 2), self.resets[window])
        return found

    def _turn(self, at: float) -> None:
        for window, length in self.lengths.items():
            if at >= self.resets.get(window, 0.0):
                self.resets[window] = math.ceil(at + length)
                self._before[window] += self._told[window]
                self._told[window], self.used[window] = Counter(), Counter()

    def count(self, at: float, request: Request) -> None:
        """Somebody used so much."""
        self._turn(at)
        for window in self.lengths:
            self.used[window][request.session] += request.takes()
        for kind, count in zip(KINDS, request.tokens, strict=True):
            self.by_kind[request.model, kind] += count * weights()[request.model, kind] / 1e6

    @property
    def shares(self) -> dict[tuple[str, str], float]:
        """How much of all use each model and kind of tokens is."""
        return {name: used / self.by_kind.total() for name, used in self.by_kind.items()}

    def told(self, window: str) -> Counter[str]:
        """Return what each session took, as far as anybody was told of it before a reset."""
        return self._before[window] + self._told[window]


def session(name: str, begins: float, rng: random.Random) -> list[Request]:
    """Return the requests of one session: a context that grows, tools, breaks, misses of the
    cache, and side requests without one."""
    main = rng.choice(list(WEIGHTS))
    at, context = begins, rng.randint(8_000, 30_000)
    found = []
    for turn in range(rng.randint(20, 140)):
        fresh, output = rng.randint(200, 9_000), int(rng.expovariate(1 / 1500)) + 20
        missed = turn == 0 or rng.random() < 0.04
        read, write = (0, context) if missed else (context, fresh)
        model, tokens = main, (rng.randint(1, 900), read, write, output)
        if rng.random() < 0.25:
            model = rng.choice(list(WEIGHTS))
            tokens = (rng.randint(300, 40_000), 0, 0, rng.randint(10, 3_000))
        ended = at + 1.5 + tokens[3] / 60 * rng.uniform(0.7, 1.5)
        found.append(Request(at, ended, name, model, tokens))
        context = min(context + fresh + output, 180_000)
        at = ended + rng.choice((0.3, 2, 8, 30, 120)) * rng.uniform(0.5, 1.5)
    return found


def fleet(seed: int, days: float = 7, sessions: int = 90) -> list[Request]:
    """Return the requests of many sessions, in the order of their beginnings."""
    rng = random.Random(seed)
    found = []
    for number in range(sessions):
        day, hour = rng.uniform(0, days), rng.gauss(14, 5)
        found += session(f"s-{number}", int(day) * 86_400 + hour % 24 * 3600, rng)
    return sorted(found, key=lambda request: request.began)


def foreign(seed: int, days: float = 7, bursts: int = 10) -> list[Request]:
    """Return the requests of another device on the same account: some hours here and there."""
    rng = random.Random(seed + 1)
    found = []
    for number in range(bursts):
        found += session(f"foreign-{number}", rng.uniform(0, days) * 86_400, rng)
    return sorted(found, key=lambda request: request.began)


def run(own: list[Request], others: list[Request]) -> Provider:
    """Let *own* requests, and those of *others*, use the *provider*; each of *own* notes what it
    was told. Returns the provider."""
    provider = Provider()
    events: list[tuple[float, int, Request, bool]] = []
    for requests, is_own in ((own, True), (others, False)):
        for request in requests:
            if is_own:
                events.append((request.began + 0.5, 1, request, is_own))
            events.append((request.ended, 0, request, is_own))
    for at, begins, request, _ in sorted(events, key=lambda event: event[:2]):
        if begins:
            request.stated = provider.state(at)
        else:
            provider.count(at, request)
    return provider

"""Who filled a window: a provider whose formula is known, and what is found out about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import orjson
import pytest
import quota_simulator as simulator
from recording_support import make_record

from ccproxy_flask.journal.lines import record_line
from ccproxy_flask.recorder.ingest import Ingest, Limits
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.limit_rows import LimitsAsked

BEGAN = datetime(2026, 11, 9, tzinfo=UTC)


def line(request, number):
    """Return the end line of a request of the simulator's."""
    record = make_record(number)
    record.timestamp = BEGAN + timedelta(seconds=request.began)
    record.ttfb_ms, record.duration_ms = 500.0, (request.ended - request.began) * 1000
    record.account_id, record.session_id, record.model = "acc", request.session, request.model
    (
        record.tokens_input,
        record.cache_read_tokens,
        record.cache_write_tokens,
        record.tokens_output,
    ) = request.tokens
    record.cost_usd = Decimal(round(request.takes() * 100, 6))
    stated = {}
    for window, (used, reset) in request.stated.items():
        name = f"anthropic-ratelimit-unified-{window}"
        at = int(BEGAN.timestamp() + reset)
        stated |= {f"{name}-utilization": f"{used:.2f}", f"{name}-reset": str(at)}
    record.stated_limits = stated
    return record_line("end", record)


def stored(folder, own):
    """Return a store that was told of *own*, the way the recorder does it."""
    journal = folder / "journal"
    journal.mkdir()
    lines = b"".join(line(request, number) for number, request in enumerate(own))
    (journal / f"{'0' * 31}1-00000001.ndjson").write_bytes(lines)
    store = DuckDBStore(folder / "metrics.duckdb")
    ingest = Ingest(store, journal, Limits(1 << 40, 0))
    while ingest.step():
        pass
    return store


def answer(store, days=13.5, **more):
    """Return the windows by name, as they are *days* after the beginning."""
    end = BEGAN + timedelta(days=days)
    found = store.limits(LimitsAsked(BEGAN, end, **more))
    return {one["window"]: one for one in orjson.loads(found)}


@pytest.fixture(scope="module", params=[0, 22], ids=["alone", "shared"])
def weeks(request, tmp_path_factory):
    """Two weeks of many sessions on one account, alone or beside another device: the requests, and
    what is said of the windows."""
    own = simulator.fleet(5, days=13, sessions=170)
    others = simulator.foreign(5, days=13, bursts=request.param)
    provider = simulator.run(own, others)
    store = stored(tmp_path_factory.mktemp("weeks"), own)
    yield provider, answer(store)
    store.close()


@pytest.mark.parametrize("window", ["5h", "7d"])
def test_weights_are_recovered(weeks, window):
    """What a token of each kind takes is found within 5 %, of all that takes a tenth or more.

    The figures are rounded to a hundredth; of the rest the interval says how well it is known.
    """
    provider, windows = weeks
    found = {(one["model"], one["kind"]): one for one in windows[window]["meter"]["weights"]}
    for (model, kind), weight in simulator.weights().items():
        one, true = found[model, kind], weight / provider.capacity[window]
        margin = one["high"] - one["per_million"]
        assert abs(one["per_million"] - true) < 1.5 * margin, (model, kind)
        if provider.shares[model, kind] >= 0.1:
            assert one["per_million"] == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("window", ["5h", "7d"])
def test_shares_of_sessions(weeks, window):
    """Each session's share of all moves is right within 2 points; so is what is from elsewhere."""
    provider, windows = weeks
    told = windows[window]["used_by_range"]
    takes = provider.told(window)
    total = takes.total()
    foreign = sum(used for name, used in takes.items() if name.startswith("foreign"))
    assert told["unexplained"] / told["moved"] == pytest.approx(foreign / total, abs=0.02)
    shares = {one["name"]: one["share"] for one in told["by"]["session"]}
    assert {name for name in shares if name.startswith("foreign")} == set()
    for name, used in takes.items():
        if name.startswith("s-") and (name in shares or used / total > 0.02):
            assert shares[name] == pytest.approx(used / total, abs=0.02)

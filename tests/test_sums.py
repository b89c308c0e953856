"""Sums are kept as rows come, and are at all times those of the rows."""

from __future__ import annotations

import dataclasses
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from recording_support import make_record
from sums_support import check_sums

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.record import RequestRecord, to_json
from ccproxy_flask.store import questions, sums, upkeep
from ccproxy_flask.store.base import CommittedOffset, IncludeExclude, LogFilter, RowsRefused
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.upkeep import Retention

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
CLASSES = ("main", "subagent", "count_tokens", None)


@pytest.fixture(autouse=True)
def few_wait(monkeypatch):
    """Few rows wait, and all is done in small steps."""
    monkeypatch.setattr(sums, "FOLD_ROWS", 10)
    monkeypatch.setattr(upkeep, "SETTLED", timedelta(0))
    monkeypatch.setattr(upkeep, "PART_ROWS", 40)
    monkeypatch.setattr(questions, "EXACT_ROWS", 0)


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


def records(count: int, days: float = 3) -> list[RequestRecord]:
    """Return records of many kinds, spread over the last *days*."""
    chance = random.Random(7)
    made = []
    for number in range(count):
        record = make_record(
            model=chance.choice(("a", "b", None)),
            provider=chance.choice(("p", "q")),
            service_type=chance.choice(("proxy_service", "other")),
            request_class=chance.choice(CLASSES),
            duration_ms=chance.choice((None, 0.0, 1.5, 20.0, 300.5, 4e6)),
            ttft_ms=chance.choice((None, 0.5, 7.0)),
            cost_usd=chance.choice((None, 0.25)),
            status_code=chance.choice((200, 200, 500)),
            cache_read_tokens=chance.choice((None, 5)),
        )
        record.timestamp = TODAY + timedelta(days=0.01) - timedelta(days=days) * (number / count)
        made.append(record)
    return made


def append(store: DuckDBStore, rows: list[RequestRecord]) -> None:
    """Append *rows*, a few at a time."""
    for first in range(0, len(rows), 7):
        store.append(
            [to_json(one) for one in rows[first : first + 7]], [CommittedOffset("s", 1)], {}
        )


def test_sums_are_kept_as_rows_come(store):
    """Rows are in the sums with the transaction that brings the tenth, without any upkeep."""
    append(store, records(90))
    summed, waiting = check_sums(store)
    assert (summed + waiting, waiting < 10) == (90, True)


def test_sums_stay_those_of_the_rows(store):
    """Moved to files, merged, compacted, with late rows: sums and waiting rows are all rows."""
    made = records(300)
    append(store, made[::2])
    while store.maintain():
        check_sums(store)
    append(store, made[1::2])
    while store.maintain():
        check_sums(store)
    assert sum(check_sums(store)) == 300
    with store.database.questions() as cursor:
        cursor.execute("BEGIN TRANSACTION")
        assert sums.Sums().scattered(cursor, 1 << 30) == []


def test_missing_rows_are_summed_once(store):
    """A journal that was put back changes no sum; rows that are new are in them."""
    rows = {one.request_id: to_json(one) for one in records(40)}
    for _ in range(2):
        store.append_missing(rows, [], {})
        assert check_sums(store) == (40, 0)


def test_refused_rows_are_in_no_sum(store):
    """A transaction that fails leaves the sums as they were; the next one goes on from there."""
    append(store, records(9))
    before = check_sums(store)
    with pytest.raises(RowsRefused):
        store.append([to_json(make_record()), b"{}"] * 9, [], {})
    assert check_sums(store) == before
    append(store, records(30))
    assert sum(check_sums(store)) == 39


def test_sums_go_with_their_rows(tmp_path):
    """Rows that go by age or by a reset, and files that were lost, are in no sum any more."""
    path = tmp_path / "metrics.duckdb"
    store = DuckDBStore(path)
    append(store, records(200, days=8))
    while store.maintain():
        pass
    store.close()
    age = 2.5 + (datetime.now(UTC) - TODAY) / timedelta(days=1)
    store = DuckDBStore(path, retention=Retention(days=age))
    while store.maintain():
        check_sums(store)
    summed, waiting = check_sums(store)
    assert 0 < summed + waiting < 100
    store.close()
    min((tmp_path / "metrics.duckdb.days").glob("*.parquet")).unlink()
    store = DuckDBStore(path)
    assert check_sums(store)[0] < summed
    store.reset()
    assert check_sums(store) == (0, 0)
    append(store, records(30))
    assert sum(check_sums(store)) == 30
    store.close()


def test_rows_of_an_older_version_wait(store):
    """Rows without a generation are answered from themselves until they are in a file."""
    append(store, records(50))
    while store.maintain():
        pass
    with store.database.transaction() as cursor:
        cursor.execute("UPDATE recent_logs SET generation = NULL")
        for table in sums.TABLES.values():
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608  our names
        cursor.execute("UPDATE parts SET summed = false")
    assert check_sums(store) == (0, 50)
    assert store.totals(LogFilter()).total_requests == 50
    while store.maintain():
        assert store.totals(LogFilter()).total_requests == 50
    assert sum(check_sums(store)) == 50
    assert store.totals(LogFilter()).total_requests == 50


FILTERS = [
    {},
    {"generation": True},
    {"generation": False},
    {"request_class": IncludeExclude(("main", "count_tokens"))},
    {"model": "a", "generation": True},
    {"provider": "q"},
    {"service_type": IncludeExclude((), ("other",))},
]


@pytest.mark.parametrize("asked", FILTERS, ids=str)
def test_figures_from_sums_are_those_of_rows(store, asked):
    """Whatever the range, its edges, the filter and the buckets: sums tell what the rows tell."""
    append(store, records(400, days=4))
    for _ in range(3):
        store.maintain()
    chance = random.Random(11)
    for bucket in (300, 900, 3600, 6 * 3600, 86_400):
        start = TODAY - timedelta(days=chance.uniform(0, 5))
        for end in (None, start + timedelta(days=chance.uniform(0, 4)), TODAY + timedelta(days=9)):
            where = LogFilter(start_time=start, end_time=end, **asked)
            # Nothing is known of a status as a whole, so that rows are read.
            by_rows = where.model_copy(update={"status_code_min": 100})
            kept, made = (store.analytics(one, bucket) for one in (where, by_rows))
            assert _rounded(json.loads(kept)) == _rounded(json.loads(made))
            assert _rounded(store.totals(where)) == _rounded(store.totals(by_rows))


def _rounded(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 2) if isinstance(value, float) else value


def test_sums_answer_without_rows(store):
    """Of hours that are wholly in the sums no row is read: their files may be gone."""
    append(store, records(200))
    while store.maintain():
        pass
    for path in (store.path.with_name("metrics.duckdb.days")).glob("*.parquet"):
        path.unlink()
    assert store.totals(LogFilter()).total_requests == 200
    assert store.totals(LogFilter(generation=False)).total_requests < 200
    with pytest.raises(StoreUnavailable):
        store.totals(LogFilter(status_code_min=100))


def test_milliseconds_are_rounded(store):
    """Averages and percentiles have three digits behind the point, exact ones too."""
    store.append([to_json(make_record(duration_ms=one)) for one in (1.0, 2.0, 2.00004)], [], {})
    totals = store.totals(LogFilter())
    assert (totals.avg_duration_ms, len(str(totals.p95_duration_ms)) <= 5) == (1.667, True)

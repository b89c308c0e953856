"""What the overview shows of a real store, and the statement behind each of its panels."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
from dashboard_support import make_record
from werkzeug.datastructures import MultiDict

from ccproxy_flask.dashboard import compare_views, overview_views, page_query, sql_views
from ccproxy_flask.record import RequestRecord, to_json
from ccproxy_flask.store.base import Grouping
from ccproxy_flask.store.duckdb import DuckDBStore

USD = Decimal("0.5")


def records() -> list[RequestRecord]:
    """Two models, two sessions, an error twice, a request without a price, a count of tokens."""
    busy = {"status_code": 529, "error_type": "overloaded", "error_message": "Busy; it's full"}
    priced = {"cost_input_usd": Decimal("0.1"), "cost_cache_usd": Decimal("0.2")}
    big = {"tokens_input": 1000, "cache_read_tokens": 8000, "cache_write_tokens": 1000, **priced}
    return [
        make_record(10, model="a", session_id="s1", user_id="ada", cost_usd=USD, **big),
        make_record(7300, model="a", session_id="s2", cost_usd=USD * 4),
        make_record(20, model="b", session_id="s1", client="codex", cost_usd=USD * 2),
        make_record(30, model="c", cost_usd=None),
        make_record(40, model="b", cost_usd=None, **busy),
        make_record(50, model="b", cost_usd=None, **busy),
        make_record(15, model="a", request_class="count_tokens", cost_usd=None, duration_ms=1e6),
    ]


@pytest.fixture(scope="module")
def kept() -> list[RequestRecord]:
    """What the store of this module has."""
    return records()


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, kept: list[RequestRecord]
) -> Iterator[DuckDBStore]:
    """A store with the records."""
    opened = DuckDBStore(tmp_path_factory.mktemp("overview") / "metrics.duckdb")
    opened.append([to_json(record) for record in kept], [], {})
    yield opened
    opened.close()


def read(**parameters: Any) -> page_query.PageQuery:
    """Return what an address with these parameters asks for."""
    return page_query.read(MultiDict(parameters))


def tile(view: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one of the figures on top."""
    return next(each for each in view["tiles"] if each["name"] == name)


def test_figures_are_of_generations(store: DuckDBStore) -> None:
    """A count of tokens is in no figure, chart or list, unless all requests are asked for."""
    shown, whole = (overview_views.overview(store, read(**more)) for more in ({}, {"class": "all"}))

    assert (shown["total"], whole["total"]) == (6, 7)
    assert len(shown["rows"]) == 6
    assert shown["cards"]["slowest"] != whole["cards"]["slowest"]
    assert tile(shown, "errors")["note"] == "2 failed"
    assert tile(shown, "cost")["note"] == "1 unpriced"
    assert tile(shown, "cost")["link"] == "/dashboard/requests?unpriced=yes"


def test_cache_says_what_it_saved(store: DuckDBStore) -> None:
    """9,000 cached tokens at the input's price, 0.1 for 1,000, are 0.90; they cost 0.20."""
    only = overview_views.overview(store, read(user="ada"))

    assert tile(only, "cache")["note"] == "$0.700000 saved"
    assert overview_views.saved([]) is None


def test_cost_is_stacked_by_model(store: DuckDBStore) -> None:
    """The models that cost most come first, each with its cost over time; all of it is there."""
    chart = overview_views.overview(store, read())["chart"]

    assert [line["name"] for line in chart["models"]] == ["a", "b"]
    assert sum(chart["models"][0]["cost"]) == pytest.approx(2.5)
    assert sum(1 for cost in chart["models"][0]["cost"] if cost) == 2
    assert len(chart["models"][0]["cost"]) == len(chart["time"])


def test_spenders_and_errors_are_links(store: DuckDBStore) -> None:
    """What cost most first; errors by type and message, with a link that finds just these."""
    view = overview_views.cards(store, read())
    spent = {each["name"]: each["rows"] for each in view["spenders"]}

    assert [row["name"] for row in spent["model"]] == ["a", "b", "c"]
    assert [row["name"] for row in spent["session"]] == ["s2", "s1"]
    assert spent["session"][0]["link"] == "/dashboard/sessions/s2"
    assert spent["client"][0]["link"] == "/dashboard/requests?client=codex"
    [error] = view["errors"]
    assert (error["name"], error["message"], error["count"]) == (
        "overloaded",
        "Busy; it's full",
        "2",
    )
    assert error["first"] < error["last"]
    asked = MultiDict({"error": "overloaded", "q": "Busy; it's full"})
    assert store.totals(page_query.read(asked).where).total_requests == 2


def test_each_panel_has_a_statement_that_answers(store: DuckDBStore) -> None:
    """The statement of a panel runs, is about the same requests, and takes any filter along."""
    view = overview_views.overview(store, read(q="v1/Messages", client="!aider", range="7d"))
    assert view["total"] == 1  # the others say no client
    statements = overview_views.overview(store, read())["sql"]
    answers = {name: sql_views.sql(store, text) for name, text in statements.items()}

    assert [name for name, answer in answers.items() if "problem" in answer] == []
    assert answers["model"]["rows"][0][:2] == ["a", "2"]
    assert answers["errors"]["rows"][0][:3] == ["overloaded", "Busy; it's full", "2"]
    assert (
        answers["cost"]["chart"]["lines"][0]["name"] == "time" or answers["cost"]["chart"]["time"]
    )
    filtered = sql_views.sql(store, view["sql"]["model"])
    assert filtered["rows"][0][:2] == ["b", "1"]


def test_grouping_is_by_columns_that_are_known(store: DuckDBStore) -> None:
    """Nothing else than the names of columns for it can become part of a statement."""
    with pytest.raises(ValueError, match="no columns to group by"):
        Grouping(by=("model; DROP TABLE",))
    found = orjson.loads(store.groups(read().where, Grouping(by=("model",), often=True, limit=1)))

    assert [(each["model"], each["requests"], each["unpriced"]) for each in found] == [("b", 3, 0)]


def test_two_requests_side_by_side(store: DuckDBStore, kept: list[RequestRecord]) -> None:
    """Figures with how they changed, both bills, and which fields differ; or which is not there."""
    a, b = kept[0].request_id, kept[2].request_id
    view = compare_views.compare(store, [a, b], read())

    tokens = {line["label"]: line for line in view["tokens"]}
    assert tokens["Uncached input"]["change"] == "-99%"
    assert view["costs"][-1] == {
        "label": "In all",
        "a": "$0.500000",
        "b": "$1.0000",
        "change": "+100%",
    }
    assert ("model", "a", "b") in view["different"]
    assert ("session id", "s1") in view["same"]
    assert compare_views.compare(store, [a, "nothing"], read()) == {"missing": ["nothing"]}


@pytest.mark.parametrize(
    ("names", "rows", "lines", "places"),
    [
        (["day", "n"], [["2026-11-20", 2], ["2026-11-19", 1]], [("n", [1, 2])], "time"),
        (["model", "n"], [["x", 1], ["y", None]], [("n", [1, None])], "names"),
        (
            ["at", "model", "cost"],
            [["2026-11-20", "x", 1], ["2026-11-20", "y", 5], ["2026-11-21", "x", 2]],
            [("y", [5, None]), ("x", [1, 2])],
            "time",
        ),
    ],
)
def test_answer_of_sql_as_a_chart(
    names: list[str], rows: list[list[Any]], lines: list[Any], places: str
) -> None:
    """Times are in order, names as they come, and a name beside a time is a line of its own."""
    chart = sql_views.chart(names, rows)

    assert chart is not None
    assert [(line["name"], line["values"]) for line in chart["lines"]] == lines
    assert len(chart[places]) == len(lines[0][1])
    assert sql_views.chart(names, rows[:1]) is None
    assert sql_views.chart(["a", "b"], [["x", "y"], ["x", "z"]]) is None

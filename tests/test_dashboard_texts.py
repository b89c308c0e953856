"""How the dashboard writes values, and what it reads from addresses. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from werkzeug.datastructures import MultiDict

from ccproxy_flask.dashboard import (
    advice,
    page_filters,
    page_query,
    search_views,
    session_views,
    sql_examples,
    status_views,
)
from ccproxy_flask.dashboard import format as texts
from ccproxy_flask.errors import ERROR_TYPES
from ccproxy_flask.settings import load_settings

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (texts.duration, None, "—"),
        (texts.duration, 0.04, "0.0 ms"),
        (texts.duration, 84.4, "84 ms"),
        (texts.duration, 999.6, "1.00 s"),
        (texts.duration, 12345, "12.3 s"),
        (texts.duration, 59960, "1 m 00 s"),
        (texts.duration, 64000, "1 m 04 s"),
        (texts.duration, 3723000, "1 h 02 m"),
        (texts.duration, -5, "0.0 ms"),
        (texts.cost, "0.0000000003", "$0.0000000003"),
        (texts.cost, 0.0000012, "$0.0000012"),
        (texts.cost, 0.0123456, "$0.012346"),
        (texts.cost, 12.5, "$12.5000"),
        (texts.cost, 0, "$0.00"),
        (texts.cost, "abc", "—"),
        (texts.cost_total, 1284.5, "$1,284.50"),
        (texts.cost_total, 0.5, "$0.500000"),
        (texts.cost_total, None, "—"),
        (texts.price, 3.0, "$3.00"),
        (texts.price, 0.025, "$0.025"),
        (texts.count, 6789, "6,789"),
        (texts.count, float("nan"), "—"),
        (texts.count, True, "—"),
        (texts.short_count, 9999, "9,999"),
        (texts.short_count, 13_801, "13.8K"),
        (texts.short_count, 1_234_567, "1.23M"),
        (texts.short_count, 999_960, "1.00M"),
        (texts.short_count, 5e12, "5,000B"),
        (texts.size, 512, "512 B"),
        (texts.size, 1536, "1.5 KB"),
        (texts.size, 5 << 30, "5.0 GB"),
        (texts.words, "rate_limit", "rate limit"),
        (texts.utc, "2026-11-21T02:19:00.123456Z", "2026-11-21 02:19:00.123 UTC"),
        (texts.utc, "nonsense", ""),
        (texts.client_of, "claude-cli/2.1.44 (external, cli)", "claude-cli/2.1.44"),
    ],
)
def test_values_are_written_as_people_read_them(form: Any, value: object, text: str) -> None:
    """A small cost keeps its digits, what is unknown is a dash, and only zero is zero."""
    assert form(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "—"), (99999, 100000, "99.99%"), (1, 100000, "0.01%"), (1, 3, "33.3%"), (2, 2, "100%")],
)
def test_share_with_exceptions_is_never_clean(part: int, whole: int, text: str) -> None:
    """A share is rounded to 100 % or 0 % only where it is that."""
    assert texts.percent(part, whole) == text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [(12, 10, "+20%"), (5, 10, "-50%"), (10, 10, "±0%"), (5, 0, ""), (None, 5, ""), (500, 1, "")],
)
def test_change_is_said_where_it_says_something(now: Any, before: Any, text: str) -> None:
    """The change against the period before; nothing where there was next to nothing."""
    assert texts.change(now, before) == text


def test_bars_add_up() -> None:
    """The parts of the time are as long as the whole, those of the input all of it."""
    bars = texts.bars(
        {
            "duration_ms": 120_000,
            "upstream_ms": 110_000,
            "ttfb_ms": 12_000,
            "ttft_ms": 60_000,
            "tokens_input": 25,
            "cache_read_tokens": 50,
            "cache_write_tokens": 25,
        }
    )

    assert (bars["wait"], bars["first"], bars["stream"]) == (10, 40, 50)
    assert (bars["uncached"], bars["cached"], bars["written"]) == (25, 50, 25)


def test_bars_of_impossible_times_stay_in_their_cells() -> None:
    """Times that contradict each other make no bar longer than its cell."""
    bars = texts.bars({"duration_ms": 10, "ttfb_ms": 1e9, "ttft_ms": -5})

    assert all(0 <= width <= 100 for width in bars.values())


def test_row_has_only_what_the_page_shows() -> None:
    """Query strings and ids of keys and users stay on the server."""
    secret = {"query": "a=b", "api_key_id": "0123", "user_id": "u", "client_ip": "192.0.2.1"}
    row = texts.row({"request_id": "r", "timestamp": "2026-11-21T00:00:00Z", **secret})

    assert not set(secret.values()) & set(map(str, row.values()))


def test_every_error_has_advice() -> None:
    """Each type of error says what a person can do, and no other type does."""
    assert advice.ADVICE.keys() == ERROR_TYPES


def read(**parameters: Any) -> page_query.PageQuery:
    return page_query.read(MultiDict(parameters), NOW)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("1h", NOW - timedelta(hours=1), None),
        ("30d", NOW - timedelta(days=30), None),
        (
            "2026-11-20..2026-11-20",
            datetime(2026, 11, 20, tzinfo=UTC),
            datetime(2026, 11, 21, tzinfo=UTC),
        ),
        (
            "2026-11-20T10:00Z..2026-11-20T12:00:00+01:00",
            datetime(2026, 11, 20, 10, tzinfo=UTC),
            datetime(2026, 11, 20, 11, tzinfo=UTC),
        ),
        ("2026-11-20..", datetime(2026, 11, 20, tzinfo=UTC), NOW),
    ],
)
def test_range_is_a_time(text: str, start: datetime, end: datetime | None) -> None:
    """A range is a length up to now, or two times; a day alone is all of it."""
    found = read(range=text)

    assert (found.where.start_time, found.where.end_time) == (start, end)
    assert found.live is (end is None)
    assert found.problems == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("range", "2h"),
        ("range", "2026-11-21..2026-11-20"),
        ("range", ".."),
        ("range", "0001-01-01T00:00+23:00..2026-11-20"),
        ("status", "many"),
        ("status", "999"),
        ("duration", "fast"),
        ("error", "oops"),
        ("stream", "maybe"),
        ("model", "m" * 300),
        ("client", "a,,b"),
        ("class", "nothing"),
        ("sort", "-nothing"),
        ("cols", "time,nothing"),
        ("cursor", "x"),
        ("page", "0"),
    ],
)
def test_what_cannot_be_read_is_said_and_left_out(name: str, value: str) -> None:
    """A wrong parameter is named with what would be right; the rest of the page is shown."""
    found = read(**{name: value, "provider": "openai"})

    assert len(found.problems) == 1
    assert name in found.problems[0]
    assert found.where.provider == "openai"
    assert name not in found.filters


@pytest.mark.parametrize(
    ("name", "value", "fields"),
    [
        ("status", "429", {"status_code_min": 429, "status_code_max": 429}),
        ("status", "5xx", {"status_code_min": 500, "status_code_max": 599}),
        ("status", ">=400", {"status_code_min": 400}),
        ("status", "<100", {"status_code_max": 100}),
        ("status", "499..400", {"status_code_min": 400, "status_code_max": 499}),
        ("duration", ">5s", {"min_duration_ms": 5000.0}),
        ("duration", "<200ms", {"max_duration_ms": 200.0}),
        ("duration", "1m", {"min_duration_ms": 60000.0}),
        ("error", "any", {"succeeded": False}),
        ("error", "rate_limit", {"error_type": "rate_limit"}),
        ("model", "opus", {"model_contains": "opus"}),
        ("model", "=gpt-5", {"model": "gpt-5"}),
        ("session", "s", {"session_id": "s"}),
        ("stream", "no", {"streaming": False}),
        ("unpriced", "yes", {"unpriced": True}),
        ("client", "codex,aider", {"client": {"include": ("codex", "aider")}}),
        ("q", "a b", {"q": "a b"}),
    ],
)
def test_filters_are_those_of_the_store(name: str, value: str, fields: dict[str, Any]) -> None:
    """Each filter of a page becomes a filter of the store."""
    where = read(**{name: value}).where.model_dump(exclude_defaults=True)

    assert {key: where[key] for key in where if key not in ("start_time", "generation")} == fields


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (None, {"generation": True}),
        ("all", {}),
        ("others", {"generation": False}),
        ("main,subagent", {"request_class": {"include": ("main", "subagent")}}),
        ("!probe", {"request_class": {"exclude": ("probe",)}}),
    ],
)
def test_generations_are_meant_unless_asked(value: str | None, fields: dict[str, Any]) -> None:
    """Probes, counts of tokens and strangers are left out of a page that does not ask for them."""
    found = read(**{"class": value} if value else {})
    where = found.where.model_dump(exclude_defaults=True)

    assert {key: where[key] for key in where if key != "start_time"} == fields
    assert found.filters == ({"class": value} if value else {})
    assert found.before.model_dump(exclude={"start_time", "end_time"}) == found.where.model_dump(
        exclude={"start_time", "end_time"}
    )


def test_api_is_asked_for_the_same() -> None:
    """What a page exports has the parameters of the API that mean what the page shows."""
    found = read(**{"client": "codex,!aider", "class": "!probe", "error": "any", "range": "1h"})

    assert found.api_parameters() == {
        "start_time": "2026-11-21T11:00:00Z",
        "client": "codex,!aider",
        "request_class": "!probe",
        "succeeded": "false",
    }


@pytest.mark.parametrize(
    ("session", "link"),
    [
        ("a/b c", "/dashboard/sessions/a/b%20c?range=7d"),
        ("..", "/dashboard/sessions/?range=7d&id=.."),
        ("a//b", "/dashboard/sessions/?range=7d&id=a//b"),
        ("/a/./b", "/dashboard/sessions/?range=7d&id=/a/./b"),
    ],
)
def test_every_session_has_a_link(session: str, link: str) -> None:
    """Also one whose id would not stay what it is in a path."""
    assert session_views.session_link(read(range="7d"), session) == link


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("model:opus status:>=400", {"model": "opus", "status": ">=400"}),
        ('overloaded model:"a b" again', {"model": "a b", "q": "overloaded again"}),
        ("http://x:80/ MODEL:opus", {"model": "opus", "q": "http://x:80/"}),
        ("it's", {"q": "it's"}),
        ("model:", {"q": "model:"}),
        ("", {}),
    ],
)
def test_typed_text_is_filters_and_a_search(text: str, found: dict[str, str]) -> None:
    """What is typed is split into filters; the rest is searched for."""
    assert page_filters.typed(text) == found


@pytest.mark.parametrize(
    ("text", "question", "marked"),
    [
        ("the Walrus walks", "walrus", ["Walrus"]),
        ("walrus walrusses", "wal", ["walrus", "walrusses"]),
        ("other the then", "the walrus", ["the"]),
        ("Café, caf\u00e9 and cafe", "cafe", ["Café", "caf\u00e9", "cafe"]),
        ("a_b a-b", "a b", ["a", "b", "a", "b"]),
        ("<mark>", "mark", ["mark"]),
        ("nothing", "?!", []),
        ("", "word", []),
    ],
)
def test_words_that_were_asked_for_are_marked(text: str, question: str, marked: list[str]) -> None:
    """Whole words, the last one as a beginning, as the index compares; nothing is lost."""
    found = search_views.pieces(text, question)

    assert [piece.text for piece in found if piece.is_hit] == marked
    assert "".join(piece.text for piece in found) == text


def test_invisible_characters_of_an_excerpt_are_named() -> None:
    """What would turn a line around is text like any other."""
    [piece] = search_views.pieces("a\u202eb", "zebra")
    assert piece.text == "a⟨U+202E⟩b"


@pytest.mark.parametrize(
    ("asked", "limit"), [(None, 20), ("50", 50), ("51", 20), ("-1", 20), ("1e9", 20)]
)
def test_search_shows_so_many_at_once(asked: str | None, limit: int) -> None:
    """What the page offers, and nothing else."""
    assert search_views.limit_of(asked) == limit


def test_link_says_what_is_shown() -> None:
    """A link keeps the range, filters, order and columns, and changes only what it is to change."""
    shown = read(range="7d", model="a b&c", sort="-cost", cols="time,cost", cursor="1~x")
    asked = parse_qs(urlsplit(shown.link("/dashboard/requests", status="5xx", sort=None)).query)

    assert asked == {"range": ["7d"], "model": ["a b&c"], "cols": ["time,cost"], "status": ["5xx"]}
    assert read().link("/dashboard") == "/dashboard"


def test_earlier_and_later_are_one_period_away() -> None:
    """The range before ends where this one begins; the range after one that ended now is live."""
    now = datetime.now(UTC)
    live = page_query.read(MultiDict({"range": "1h"}), now)
    earlier = page_query.read(MultiDict({"range": live.shifted(-1)}), now)

    assert abs(earlier.end - live.start) < timedelta(seconds=1)
    assert not earlier.live
    assert earlier.shifted(1) == "1h"


def test_period_before_has_the_same_filters() -> None:
    """Figures are compared with as long a time before, filtered alike."""
    before = read(range="24h", model="opus").before

    assert before.model_contains == "opus"
    assert (before.start_time, before.end_time) == (
        NOW - timedelta(days=2),
        NOW - timedelta(days=1),
    )


def test_examples_are_for_the_range() -> None:
    """The statements of the SQL page begin where the range does."""
    for text in sql_examples.sql_examples(read(range="1h")).values():
        assert "timestamp >= '2026-11-21 11:00:00'" in text


def test_settings_are_shown_without_secrets(tmp_path: Any) -> None:
    """The status page shows settings, and of secrets that they are set."""
    settings = load_settings(
        {},
        tmp_path,
        security={"auth_token": "token-1234567890"},
        proxy={"outbound_proxy": "http://user:hunter2@proxy:3128"},
        providers={"mine": {"base_url": "https://mine.example", "api_key": "sk-secret"}},
    )
    shown = str(status_views.settings_shown(settings))

    assert "('auth_token', '***')" in shown
    assert "('mine.api_key', '***')" in shown
    assert "http://***@proxy:3128" in shown
    for secret in ("token-1234567890", "hunter2", "sk-secret"):
        assert secret not in shown


def test_titles_say_what_cells_have_no_room_for():
    """Beside each short text of a row is the whole of it, and where a figure comes from."""
    told = {
        "request_id": "1",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "model": "m-2026",
        "model_requested": "m",
        "path": "/v1/messages?beta=true",
        "error_message": "Too busy",
        "user_agent": "tool/1.0 (linux)",
        "cost_source": "provider",
        "tokens_reasoning": 7,
    }
    titles = texts.row(told)["titles"]
    assert titles["time"] == "2026-01-02 03:04:05.678 UTC"
    assert titles["model"] == "m-2026 (asked for m)"
    assert (titles["path"], titles["error"]) == ("/v1/messages?beta=true", "Too busy")
    assert (titles["client"], titles["cost"]) == ("tool/1.0 (linux)", "from provider")
    assert titles["output"] == "7 of them reasoning"
    nothing = texts.row({"request_id": "1", "timestamp": "2026-01-02T03:04:05Z"})["titles"]
    assert set(nothing.values()) == {"2026-01-02 03:04:05.000 UTC", ""}

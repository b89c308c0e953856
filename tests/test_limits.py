"""Rate limits: from the headers of an answer to rows of the table ``rate_limits``."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
import zstandard
from click.testing import CliRunner
from conftest import RECORDINGS, ROOT
from recording_support import make_record

from ccproxy_flask.cli import main
from ccproxy_flask.dialects import anthropic, openai_responses
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.journal.lines import record_line
from ccproxy_flask.recorder.ingest import Ingest, Limits
from ccproxy_flask.store import upkeep
from ccproxy_flask.store.base import Page
from ccproxy_flask.store.duckdb import DuckDBStore
from ccproxy_flask.store.upkeep import Retention
from ccproxy_flask.usage.limits import Window, kept, windows

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
RESET = int((AT + timedelta(hours=3)).timestamp())
CLAUDE = {
    "anthropic-ratelimit-unified-status": "allowed_warning",
    "anthropic-ratelimit-unified-reset": str(RESET),
    "anthropic-ratelimit-unified-representative-claim": "five_hour",
    "anthropic-ratelimit-unified-5h-status": "allowed_warning",
    "anthropic-ratelimit-unified-5h-reset": str(RESET),
    "anthropic-ratelimit-unified-5h-utilization": "0.76",
    "anthropic-ratelimit-unified-7d_oi-utilization": "1.02",
    "anthropic-ratelimit-unified-7d_oi-reset": str(RESET),
    "anthropic-ratelimit-unified-overage-status": "rejected",
    "anthropic-ratelimit-unified-overage-disabled-reason": "org_level_disabled",
    "anthropic-ratelimit-unified-fallback-percentage": "0.5",
}
ANTHROPIC, OPENAI = anthropic.DIALECT.limit_headers, openai_responses.DIALECT.limit_headers


def said(headers, prefixes=ANTHROPIC, at=AT):
    """Return what *headers* say, by window, and how many of them are not understood."""
    found, ignored = windows(kept(headers, prefixes), at)
    return {one.window: one for one in found}, ignored


def test_windows_of_a_subscription():
    """Each window has its share, its reset and its status; what tells no limit is passed over."""
    found, ignored = said({**CLAUDE, "content-type": "application/json"})
    reset = datetime.fromtimestamp(RESET, UTC)
    assert ignored == 0
    assert found["5h"] == Window("5h", 0.76, reset=reset, status="allowed_warning",
                                 window_seconds=18_000)  # fmt: skip
    assert (found["7d_oi"].used, found["7d_oi"].window_seconds) == (1.0, 7 * 86_400)
    assert found["unified"] == Window(
        "unified", reset=reset, status="allowed_warning", note="five_hour"
    )
    assert found["overage"] == Window("overage", status="rejected")


def test_budgets_of_an_api_key():
    """Limit and remaining make the share that is used; a reset is a time, or a time to wait."""
    found, ignored = said(
        {
            "anthropic-ratelimit-input-tokens-limit": "2000000",
            "anthropic-ratelimit-input-tokens-remaining": "1500000",
            "anthropic-ratelimit-input-tokens-reset": "2026-11-21T12:00:30Z",
        }
    )
    assert found == {
        "input-tokens": Window("input-tokens", 0.25, 2e6, 1.5e6, AT + timedelta(seconds=30))
    }
    assert ignored == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("12.5", 12.5), ("0", 0),
     (str(RESET), 10_800), (str(RESET * 1000), 10_800), ("2026-11-21T13:00:01+01:00", 1)],
)  # fmt: skip
def test_every_way_to_write_a_reset(text, seconds):
    """Durations, seconds, seconds and milliseconds since 1970, and RFC 3339 mean a time."""
    found, ignored = said({"x-ratelimit-reset-tokens": text}, OPENAI)
    assert found["tokens"].reset == AT + timedelta(seconds=seconds)
    assert ignored == 0


def test_codex_by_header_and_by_event():
    """The event inside a stream says the same as the headers do."""
    by_header = {
        "x-codex-primary-used-percent": "7.5",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": str(RESET),
        "x-codex-credits-has-credits": "True",
        "x-codex-credits-unlimited": "False",
        "x-codex-credits-balance": "12.50",
        "x-codex-primary-over-secondary-limit-percent": "0",
    }
    event = {
        "type": "codex.rate_limits",
        "rate_limits": {
            "allowed": True,
            "primary": {"used_percent": 7.5, "window_minutes": 300, "reset_at": RESET},
            "secondary": None,
        },
        "credits": {"has_credits": True, "unlimited": False, "balance": "12.50"},
    }
    parser = openai_responses.ResponsesParser(200)
    parser.event(event)
    found, ignored = windows(parser.limits, AT)
    assert ({one.window: one for one in found}, ignored) == said(by_header, OPENAI)
    reset = datetime.fromtimestamp(RESET, UTC)
    assert found[0] == Window("primary", 0.075, reset=reset, window_seconds=18_000)
    assert found[1] == Window("credits", remaining=12.5, status="allowed")


@pytest.mark.parametrize(
    "value",
    ["", "nan", "-1", "1e9", "inf", "9" * 400, "0x10", "sk-ant-api03-abc", "2026-13-45T99:99:99Z",
     "9999999999999999", "5\u0661", "<script>", "1 2"],
)  # fmt: skip
@pytest.mark.parametrize(
    "name",
    ["anthropic-ratelimit-unified-5h-utilization", "anthropic-ratelimit-unified-5h-reset",
     "anthropic-ratelimit-unified-5h-limit"],
)  # fmt: skip
def test_nonsense_is_ignored_and_counted(name, value):
    """A value that is none of its kind damages nothing, and what stands beside it counts."""
    beside = "anthropic-ratelimit-unified-7d-utilization"
    found, ignored = said({name: value, beside: "0.5"})
    assert found["7d"].used == 0.5
    assert ignored == 1
    assert list(found) == ["7d"]


def test_names_that_nobody_knows_are_bounded():
    """Thousands of headers of an upstream's own making are counted, and none is kept."""
    headers = {f"anthropic-ratelimit-{n}-x-{n}": "1" for n in range(3000)}
    headers |= {f"anthropic-ratelimit-{chr(97 + n // 26)}{chr(97 + n % 26)}-limit": "1"
                for n in range(300)}  # fmt: skip
    assert len(kept(headers, ANTHROPIC)) == 49
    assert said(headers)[1] == 3000 + 300 - 48


@pytest.mark.recordings
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not here")
def test_what_real_providers_send_is_understood():
    """Each limit header of the recorded answers is kept, and read without a doubt."""
    seen = 0
    for path in sorted(RECORDINGS.glob("*.json")):
        exchange = json.loads(path.read_text())
        named = {name.lower(): value for name, value in exchange["response_headers"].items()}
        found, ignored = said(named, ANTHROPIC + OPENAI)
        stated = [name for name in named if name.startswith(ANTHROPIC + OPENAI)]
        assert ignored == 0
        assert bool(found) == bool(stated)
        seen += len(stated)
    assert seen > 50


# -- into the store --------------------------------------------------------------------------------

AMPLE = Limits(1 << 40, 0)


def line(number, used, *, window="5h", after=0.0, reset=RESET, **more):
    """Return the end line of an answer that says how much of a window is used."""
    name = f"anthropic-ratelimit-unified-{window}"
    stated = {f"{name}-utilization": str(used), f"{name}-reset": str(reset)}
    record = make_record(number)
    record.timestamp = AT + timedelta(seconds=after)
    record.account_id, record.ttfb_ms = "acc", 0.0
    record.stated_limits = {**stated, **more}
    return record_line("end", record)


@pytest.fixture
def journal(tmp_path):
    """An empty directory."""
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal"


@pytest.fixture
def store(tmp_path):
    """An empty database."""
    store = DuckDBStore(tmp_path / "metrics.duckdb")
    yield store
    store.close()


def ingest(store, journal, *lines, number=1):
    """Let the recorder take *lines* of a worker that is dead; then all is new to it again."""
    (journal / f"{'0' * 31}{number}-00000001.ndjson").write_bytes(b"".join(lines))
    one = Ingest(store, journal, AMPLE)
    while one.step():
        pass


def stored(store):
    """Return (window, used, seconds after the first) of all rows of the table, oldest first."""
    start = AT.replace(tzinfo=None)
    return [
        (row.window, row.used, (row.timestamp - start).total_seconds())
        for row in store.newest_limits(1000)
    ]


def test_a_row_only_when_a_value_moves(store, journal):
    """Answers that say what is known add nothing; the order of their ends does not matter."""
    ingest(store, journal, line(0, 0.1), line(1, 0.1, after=5), line(3, 0.2, after=20),
           line(2, 0.1, after=10), line(4, 0.2, after=30), line(5, 0.0, after=40))  # fmt: skip
    assert stored(store) == [("5h", 0.1, 0), ("5h", 0.2, 20), ("5h", 0.0, 40)]
    ingest(store, journal, line(6, 0.0, after=50), line(7, 0.3, after=60), number=2)
    assert stored(store)[3:] == [("5h", 0.3, 60)]


def test_rows_say_whose_limits_they_are(store, journal):
    """Provider, account, request, reset, status and length of the window stand in a row."""
    ingest(store, journal, line(0, 0.1, **{"anthropic-ratelimit-unified-5h-status": "allowed"}))
    [row] = store.newest_limits(1)
    assert row._replace(timestamp=None, request_id=None) == (
        None, "anthropic", "acc", "5h", 0.1, None, None,
        datetime.fromtimestamp(RESET, UTC).replace(tzinfo=None), "allowed", None, 18_000, None,
    )  # fmt: skip
    assert row.request_id == store.entries(LogFilter(), Page()).rows[0]["request_id"]


def test_a_journal_that_comes_again_adds_nothing(store, journal):
    """What was read before, and is read again by who does not know it, makes no second row."""
    lines = line(0, 0.1), line(1, 0.2, after=5)
    ingest(store, journal, *lines)
    ingest(store, journal, *lines, number=2)
    assert stored(store) == [("5h", 0.1, 0), ("5h", 0.2, 5)]


def test_a_line_with_damaged_limits_keeps_its_row(store, journal):
    """A record is stored whatever stands where its limits should be; that is counted."""
    record = make_record(0)
    record.stated_limits = {"x-ratelimit-limit-tokens": ["\u0000", {}], "ignored": 1e300}
    ingest(store, journal, record_line("end", record))
    assert store.status().rows == 1
    assert store.status().counts["limits_ignored"] == 2
    assert stored(store) == []


def test_small_moves_of_budgets_are_no_rows(store, journal):
    """Of what fills again all the time, a hundredth is a move; less is not."""

    def left(number, tokens):
        record = make_record(number)
        record.stated_limits = {
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": str(tokens),
            "x-ratelimit-reset-tokens": f"{number}s",
        }
        return record_line("end", record)

    ingest(store, journal, left(0, 999), left(1, 995), left(2, 985), left(3, 986))
    assert [used for _, used, _ in stored(store)] == [0.001, 0.015]


def test_they_survive_upgrade_and_the_loss_of_the_database(tmp_path, journal, monkeypatch):
    """A database of 0.1.0 takes them, and one that has to begin anew finds them beside it."""
    packed = (ROOT / "tests" / "data" / "metrics-0.1.0.duckdb.zst").read_bytes()
    path = tmp_path / "metrics.duckdb"
    path.write_bytes(zstandard.decompress(packed))
    monkeypatch.setattr(upkeep, "LIMITS_SECONDS", 0.0)
    store = DuckDBStore(path)
    ingest(store, journal, line(0, 0.1), line(1, 0.2, after=5))
    while store.maintain():
        pass
    store.close()
    path.unlink()
    store = DuckDBStore(path)
    try:
        assert stored(store) == [("5h", 0.1, 0), ("5h", 0.2, 5)]
    finally:
        store.close()


def test_they_go_with_the_records_of_their_time(tmp_path, journal, monkeypatch):
    """What is older than the retention, and all of it at a reset, is deleted."""
    monkeypatch.setattr(upkeep, "LIMITS_SECONDS", 0.0)
    age = (datetime.now(UTC) - AT).total_seconds()
    store = DuckDBStore(tmp_path / "metrics.duckdb", retention=Retention(days=1))
    try:
        reset = int(datetime.now(UTC).timestamp()) + 60
        ingest(store, journal, line(0, 0.1, after=age - 200_000, reset=reset - 200_000),
               line(1, 0.2, after=age, reset=reset))  # fmt: skip
        assert len(stored(store)) == 2
        while store.maintain():
            pass
        assert [used for _, used, _ in stored(store)] == [0.2]
        store.reset()
        assert stored(store) == []
    finally:
        store.close()


# -- over the wire ---------------------------------------------------------------------------------


def test_an_answer_states_limits(server, upstream):
    """The account is a hash; neither the key nor the organisation's id is kept anywhere."""
    key, organisation = "sk-ant-oat01-wren0123456789", "5d3f0a4e-organisation"
    headers = (
        ("content-type", "application/json"),
        ("anthropic-organization-id", organisation),
        ("Anthropic-Ratelimit-Unified-7d-Utilization", "0.25"),
        ("anthropic-ratelimit-unified-5h-utilization", key),
        *((name, value) for name, value in CLAUDE.items() if "5h-util" not in name),
    )
    upstream.script = lambda talk: talk.answer(b'{"type": "message"}', headers=headers)
    server.request("POST", "/v1/messages", b"{}", {"x-api-key": key})
    [row] = server.records(1)
    assert row["account_id"] not in (None, row["api_key_id"])
    assert organisation not in json.dumps(row)
    for path in (server.home / "data").rglob("*.ndjson"):
        assert key not in path.read_text()
        assert organisation not in path.read_text()


def quota(talk, used):
    """Answer as a subscription does: 2 % of its window for each million tokens of output."""
    asked = json.loads(talk.request.body)
    reset = str(int(time.time()) // 3600 * 3600 + 7200)
    headers = (
        ("content-type", "application/json"),
        ("anthropic-organization-id", "org-1"),
        ("anthropic-ratelimit-unified-5h-utilization", f"{sum(used) / 50e6:.2f}"),
        ("anthropic-ratelimit-unified-5h-reset", reset),
    )
    used.append(asked["max_tokens"])
    usage = {"input_tokens": 0, "output_tokens": asked["max_tokens"]}
    answer = {"type": "message", "model": "claude-opus-4-5", "usage": usage, "content": []}
    talk.answer(json.dumps(answer).encode(), headers=headers)


@pytest.fixture(scope="module")
def told(shared_server, shared_upstream):
    """What is said of a window that two sessions filled, one of them three times as much."""
    shared_upstream.reset()
    assert shared_server.request("POST", "/logs/reset")[0] == 200
    used = []
    shared_upstream.script = lambda talk: quota(talk, used)
    for number in range(25):
        sent = {"content-type": "application/json", "x-session-id": f"s-{number % 2}"}
        tokens = 1_500_000 if number % 2 else 500_000
        body = json.dumps({"model": "claude-opus-4-5", "max_tokens": tokens}).encode()
        assert shared_server.request("POST", "/v1/messages", body, sent)[0] == 200
    shared_server.records(25)
    return shared_server


def test_who_filled_a_window(told):
    """The window as it is, when it is full, and the share of each session, without any formula."""
    found = told.get_json("/logs/limits")
    [window] = found["windows"]
    assert (window["window"], window["used"], window["is_current"]) == ("5h", 0.48, True)
    assert window["full_reason"] in (None, "too_little_known", "resets_first")
    assert window["meter"]["method"] in ("by_price", "fitted")
    shares = {one["name"]: one["share"] for one in window["used_by"]["by"]["session"]}
    assert shares["s-1"] == pytest.approx(0.75, abs=0.02)
    assert shares["s-0"] == pytest.approx(0.25, abs=0.02)
    assert window["used_by"]["unexplained"] == 0
    assert [used for _, used in window["history"]][-1] == 0.48


def test_filters_of_limits(told):
    """Windows are chosen by provider, account and name; what is wrong is said."""
    [window] = told.get_json("/logs/limits", window="5h", provider="anthropic")["windows"]
    assert told.get_json("/logs/limits", account=window["account"])["count"] == 1
    for asked in ({"window": "7d"}, {"provider": "openai"}, {"account": "nobody"}):
        assert told.get_json("/logs/limits", **asked)["windows"] == []
    for wrong in ("hours=0", "window=", "start_time=2026-11-21&end_time=2026-11-20", "limit=1"):
        status, _, body = told.request("GET", f"/logs/limits?{wrong}")
        assert status == 422, body


def test_limits_in_sql(told):
    """The table stands beside that of records for the operator's own statements."""
    text = (
        'SELECT max(used), count(DISTINCT account), any_value("window"), count(*) = count(r.model) '
        "FROM rate_limits JOIN access_logs AS r USING (request_id)"
    )
    body = json.dumps({"sql": text}).encode()
    status, _, answer = told.request(
        "POST", "/logs/sql", body, {"content-type": "application/json"}
    )
    assert (status, json.loads(answer)["rows"]) == (200, [[0.48, 1, "5h", True]])


def test_limits_on_the_command_line(told):
    """The table says how full, until when and who; JSON and JSONL are for programs."""

    def run(*argv):
        return CliRunner().invoke(main, ["limits", *argv, "--url", told.url])

    text = run().output
    head, row, *rest = text.splitlines()
    assert head.split() == ["provider", "account", "window", "used", "status", "resets", "full",
                            "at", "stated"]  # fmt: skip
    assert row.split()[0] == "anthropic"
    assert row.split()[2:4] == ["5h", "48%"]
    assert any(re.search(r"7[3-6]\.\d% +session s-1", line) for line in rest), text
    assert [one["window"] for one in json.loads(run("--format", "json").output)] == ["5h"]
    assert json.loads(run("--format", "jsonl", "--window", "5h").output)["used"] == 0.48
    assert "No provider stated a limit" in run("--provider", "nobody").output
    assert run("--window", "").exit_code == 2

"""The lines on standard error: whole, bounded, and never in anybody's way."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest
import structlog

from ccproxy_flask.logging import AccessLog, LineWriter, set_up
from ccproxy_flask.record import RequestRecord
from ccproxy_flask.settings import Logging

RECORD = RequestRecord(
    request_id="id-1",
    timestamp=datetime(2026, 11, 21, tzinfo=UTC),
    method="POST",
    path="/v1/messages",
    model="claude",
    status_code=200,
    duration_ms=12.345,
    tokens_input=3,
    cost_usd=Decimal("0.000012"),
)


@pytest.fixture
def pipe():
    """A pipe: where lines come out, and where they go in."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def writer(pipe):
    """A writer into the pipe."""
    writer = LineWriter(pipe[1])
    yield writer
    writer.close()


@pytest.fixture(autouse=True)
def _structlog_as_it_was():
    kept = structlog.get_config()
    yield
    structlog.configure(**kept)


def read_lines(fd, count):
    data = b""
    while data.count(b"\n") < count:
        data += os.read(fd, 65536)
    return data.decode().splitlines()


def test_access_line_in_json(writer, pipe):
    """One JSON object with what is known of the request; what is unknown is left out."""
    AccessLog(Logging(format="json"), writer)(RECORD)
    [line] = read_lines(pipe[0], 1)
    fields = orjson.loads(line)
    assert (fields["event"], fields["level"]) == ("access_log", "info")
    assert (fields["model"], fields["tokens_input"], fields["cost_usd"]) == (
        "claude",
        3,
        "0.000012",
    )
    assert "error_type" not in fields


def test_access_line_for_people(writer, pipe):
    """The same as words; an error is a warning."""
    log = AccessLog(Logging(), writer)
    log(RECORD)
    failed = RequestRecord("id-2", RECORD.timestamp, error_type="overloaded", error_message="a b")
    log(failed)
    good, bad = read_lines(pipe[0], 2)
    assert "[info" in good
    assert "path=/v1/messages" in good
    assert "duration_ms=12.3" in good
    assert "[warning" in bad
    assert "error_message='a b'" in bad


def test_events_are_json_with_their_context(pipe):
    """structlog's events carry the request's id, a time in UTC, and the exception's traceback."""
    writer = set_up(Logging(format="json"), pipe[1])
    log = structlog.get_logger("test")
    with structlog.contextvars.bound_contextvars(request_id="id-1"):
        log.error("it_failed", figure=1, exc_info=KeyError("x"))
    writer.close()
    fields = orjson.loads(read_lines(pipe[0], 1)[0])
    assert (fields["event"], fields["level"], fields["figure"]) == ("it_failed", "error", 1)
    assert fields["request_id"] == "id-1"
    assert fields["timestamp"].endswith("Z")
    assert "KeyError" in fields["exception"]


def test_level_is_the_least_severe_line(pipe):
    """Lines below the level are not written."""
    writer = set_up(Logging(level="warning", format="json"), pipe[1])
    log = structlog.get_logger("test")
    log.info("not_this")
    log.warning("but_this")
    writer.close()
    [line] = read_lines(pipe[0], 1)
    assert orjson.loads(line)["event"] == "but_this"


def test_slow_reader_holds_up_nobody(writer, pipe):
    """Lines over the bound are left out and counted; the others come whole, in order."""
    for number in range(60_000):
        writer.msg(f"{number:0100d}")
    data, lines, left_out = b"", [], 0
    while len(lines) + left_out < 60_000:
        data += os.read(pipe[0], 65536)
        *whole, data = data.split(b"\n")
        lines += [int(line) for line in whole if line.isdigit()]
        left_out += sum(int(line.partition(b"count=")[2]) for line in whole if not line.isdigit())
    assert lines == sorted(lines)
    assert len(lines) + left_out == 60_000
    assert left_out > 0


def test_reader_that_is_gone_is_no_error():
    """A closed standard error stops the lines, not the program."""
    outlet, inlet = os.pipe()
    os.close(outlet)
    writer = LineWriter(inlet)
    writer.msg("nobody hears this")
    writer.close()
    os.close(inlet)


def test_flushing_from_several_threads_loses_nothing(writer, pipe):
    """A flush at the end may meet the writer's own."""
    failed = []

    def flush():
        try:
            for _ in range(300):
                writer.flush()
        except IndexError as error:
            failed.append(error)

    threads = [threading.Thread(target=flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(400):
        writer.msg(str(number))
    for thread in threads:
        thread.join()
    writer.flush()
    assert failed == []
    assert sorted(int(line) for line in read_lines(pipe[0], 400)) == list(range(400))

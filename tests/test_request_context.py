"""Tracing: one record for each request, closed once, after its last byte."""

from __future__ import annotations

import pytest
import structlog
from flask import Blueprint, Flask, Response, g

from ccproxy_flask import request_context
from ccproxy_flask.errors import UpstreamTimeout
from ccproxy_flask.request_context import Sinks, open_trace


@pytest.fixture
def heard():
    """What the sinks were told, in order."""
    return []


@pytest.fixture
def sinks(heard):
    """Sinks that write down what they are told."""
    return Sinks(
        started=[lambda _: heard.append("started")],
        ended=[lambda record: heard.append(("ended", record))],
        stored_started=[lambda _: heard.append("stored_started")],
        stored_ended=[lambda _: heard.append("stored_ended")],
        node="here",
    )


@pytest.fixture
def app(sinks, heard):
    """An application with one traced blueprint."""
    app = Flask(__name__)
    request_context.init_app(app, sinks)
    blueprint = Blueprint("traced", __name__)
    request_context.trace(blueprint, "test_service")

    @blueprint.get("/stream")
    def stream():
        def pieces():
            heard.append("first piece")
            yield b"a"
            heard.append("last piece")
            yield b"b"

        return Response(pieces())

    @blueprint.get("/context")
    def context():
        known = dict(structlog.contextvars.get_contextvars())
        structlog.contextvars.bind_contextvars(left_over=True)
        return known

    @blueprint.get("/broken")
    def broken():
        raise ZeroDivisionError

    app.register_blueprint(blueprint)
    return app


def opened(sinks, **more):
    return open_trace(sinks, "GET", "/p", "beta=true&key=opaque", "127.0.0.1", "agent/1", **more)


def test_trace_ends_once(sinks, heard):
    """However often it is finished, each sink hears of a request once, and of its start first."""
    trace = opened(sinks, stored=True)
    trace.start()
    trace.start()
    trace.finish()
    trace.finish(UpstreamTimeout("late"))
    assert heard == ["started", "stored_started", "stored_ended", ("ended", trace.record)]
    assert trace.record.error_type is None


def test_request_that_is_not_stored_reaches_no_store(sinks, heard):
    """Requests to our own pages are logged and counted, and have no rows."""
    with opened(sinks) as trace:
        pass
    assert heard == ["started", ("ended", trace.record)]


def test_record_has_the_first_facts(sinks):
    """A trace begins with what the request line and the connection say, searched for secrets."""
    record = opened(sinks, service_type="x").record
    assert (record.method, record.path, record.query) == ("GET", "/p", "beta=true&key=***")
    assert (record.client_ip, record.user_agent, record.node) == ("127.0.0.1", "agent/1", "here")
    assert record.duration_ms is None


def test_durations_agree(sinks):
    """Both columns of the duration say the same."""
    trace = opened(sinks)
    trace.finish()
    record = trace.record
    assert record.duration_seconds is not None
    assert record.duration_ms == round(record.duration_seconds * 1000, 3)
    assert record.duration_seconds == round(record.duration_seconds, 6)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UpstreamTimeout("no answer"), "upstream_timeout"), (KeyError("x"), "internal_error")],
)
def test_error_of_the_block_is_recorded(sinks, error, kind):
    """An exception ends the trace, names its type in the record, and goes on."""
    trace = opened(sinks)
    with pytest.raises(type(error)), trace:
        raise error
    assert trace.record.error_type == kind
    assert trace.record.error_message == str(error)


def test_first_error_counts(sinks):
    """What went wrong first is not written over by what follows from it."""
    trace = opened(sinks)
    trace.record.error_type = "overloaded"
    trace.finish(UpstreamTimeout("no answer"))
    assert trace.record.error_type == "overloaded"


def test_secret_in_an_error_is_hidden(sinks):
    """A message that quotes a key is searched for it."""
    trace = opened(sinks)
    trace.finish(UpstreamTimeout("refused sk-ant-CANARY1234"))
    assert "CANARY" not in str(trace.record.error_message)


def test_broken_sink_disturbs_nobody(sinks, heard):
    """A sink that raises is logged; the others and the request go on."""

    def fail(_record):
        raise OSError("full")

    sinks.started.insert(0, fail)
    sinks.ended.insert(0, fail)
    with structlog.testing.capture_logs() as logged, opened(sinks) as trace:
        pass
    assert heard == ["started", ("ended", trace.record)]
    assert [line["event"] for line in logged] == ["sink_failed", "sink_failed"]


def test_trace_of_a_stream_ends_after_its_last_byte(app, heard):
    """A streamed answer is observed when it was sent, not when it began."""
    answer = app.test_client().get("/stream", buffered=False)
    assert b"".join(answer.iter_encoded()) == b"ab"
    answer.close()
    names = [each if isinstance(each, str) else each[0] for each in heard]
    assert names == ["started", "first piece", "last piece", "ended"]
    record = heard[-1][1]
    assert (record.status_code, record.endpoint) == (200, "/stream")
    assert record.service_type == "test_service"
    assert answer.headers["x-ccproxy-request-id"] == record.request_id


def test_abandoned_stream_ends_its_trace(app, heard):
    """A client that goes away in the middle ends the trace as well."""
    answer = app.test_client().get("/stream", buffered=False)
    answer.close()
    assert heard[-1][0] == "ended"


def test_context_of_a_request_does_not_outlive_it(app):
    """The next request of a connection begins with nothing but its own id."""
    client = app.test_client()
    first, second = (client.get("/context").get_json() for _ in range(2))
    assert first.keys() == second.keys() == {"request_id"}
    assert first != second


def test_view_that_raises_is_recorded(app, heard):
    """A defect of a view is a 500 with one record."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.logger.disabled = True
    assert app.test_client().get("/broken", buffered=True).status_code == 500
    ended = [each[1] for each in heard if each[0] == "ended"]
    assert [record.status_code for record in ended] == [500]


def test_trace_is_at_hand(app):
    """A view finds its trace in ``g.trace``, and may note an error in it."""
    with app.test_request_context("/context"):
        app.preprocess_request()
        request_context.note_error(g.trace.record, UpstreamTimeout("no answer"))
        assert g.trace.record.error_type == "upstream_timeout"

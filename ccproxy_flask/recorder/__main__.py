"""``python -m ccproxy_flask.recorder [--parent PID]``: the recorder as a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys

import structlog

from ccproxy_flask import logging
from ccproxy_flask.errors import SettingsError
from ccproxy_flask.journal.failure import note_failure
from ccproxy_flask.metrics import PrometheusMetrics
from ccproxy_flask.scheduler import scheduled
from ccproxy_flask.settings import Settings, handover

from .recorder import Recorder, on_signal, watch_parent
from .scheduling import yield_to_workers

log = structlog.get_logger(__name__)

# Not 3 and 4: gunicorn's arbiter, which may be the one to collect this process, stops the whole
# service for a child that ends with those.
_CANNOT_START = 2


def _settings(from_stdin: bool) -> Settings:
    settings = handover.received(sys.stdin.buffer) if from_stdin else handover.current()
    if not settings.recording:
        raise SettingsError("OBSERVABILITY__LOGS_COLLECTION_ENABLED is off: nothing to record")
    return settings


def main() -> int:
    """Record until a signal, or until the parent dies. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ccproxy_flask.recorder", description=__doc__)
    parser.add_argument("--parent", type=int, help="end when this process, the parent, does")
    parser.add_argument(handover.FLAG, action="store_true", help="take them from the parent")
    options = parser.parse_args()
    try:
        settings = _settings(options.settings_from_stdin)
    except SettingsError as error:
        sys.stderr.write(f"ccproxy_flask.recorder: {error}\n")
        return _CANNOT_START
    os.umask(0o077)  # DuckDB makes files of its own
    yield_to_workers()
    writer = logging.set_up(settings.logging)
    # Shared with the workers through PROMETHEUS_MULTIPROC_DIR, where the parent has set it.
    figures = PrometheusMetrics(max_models=settings.observability.max_models)
    recorder = Recorder(settings, figures)
    signal.signal(signal.SIGTERM, on_signal(recorder))
    if options.parent is None:
        signal.signal(signal.SIGINT, on_signal(recorder))
    else:
        # Ctrl-C reaches the whole group: the workers have to end first, and be recorded.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        watch_parent(options.parent, recorder)
    try:
        with scheduled(settings, figures, recorder.totals):
            recorder.run()
    except OSError as error:
        # Once: it is tried again and again.
        if note_failure(settings.journal_directory, str(error)):
            log.error("recorder_cannot_run", reason=str(error))  # noqa: TRY400  it says it all
        return _CANNOT_START
    finally:
        writer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The small pages: `/`, `/health`, `/metrics`, and what is said of pages that are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, redirect, request

from . import __version__, access, redact, request_context
from .errors import StoreUnavailable
from .metrics.scrape import pieces
from .server import middleware, request_parser

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException, MethodNotAllowed
    from werkzeug.wrappers import Response as AnyResponse

    from .metrics.scrape import Scrape

health = Blueprint("health", __name__)
request_context.trace(health, "health_service")

scrape = Blueprint("metrics", __name__)
request_context.trace(scrape, "metrics_service")
access.guard(scrape)


def init_app(app: Flask) -> None:
    """Serve the pages that the settings of *app* ask for."""
    settings = app.extensions["ccproxy.settings"]
    app.register_blueprint(health)
    if settings.observability.metrics_endpoint_enabled:
        app.register_blueprint(scrape)
    app.after_request(access.harden)
    app.register_error_handler(404, _not_found)
    app.register_error_handler(405, _method_not_allowed)
    app.register_error_handler(request_parser.ParseException, _malformed)
    app.register_error_handler(500, _defect)


@health.get("/")
def root() -> AnyResponse | dict[str, Any]:
    """The dashboard where there is one."""
    return redirect("dashboard") if "dashboard" in current_app.blueprints else alive()


@health.get("/health")
def alive() -> dict[str, Any]:
    """The process answers."""
    return {"status": "alive", "version": __version__}


@health.get("/health/ready")
def ready() -> dict[str, Any]:
    """Requests are passed on; also while records wait in the journal."""
    journal = current_app.extensions["ccproxy.journal"]
    waiting = journal.backlog_lines if journal is not None else 0
    return {"status": "ready", "recording": journal is not None, "records_waiting": waiting}


@scrape.get("/metrics")
def metrics() -> Response:
    """The figures of all workers, as Prometheus text, or OpenMetrics where that is accepted."""
    figures: Scrape = current_app.extensions["ccproxy.components"].scrape
    try:
        text, content_type = figures.text(request.headers.get("accept"))
    except StoreUnavailable as error:
        answer = access.error_response(503, "service_unavailable", str(error))
        answer.headers["retry-after"] = str(max(1, error.retry_after))
        return answer
    answer = Response(pieces(text), content_type=content_type)
    answer.content_length = len(text)
    answer.headers["cache-control"] = "no-cache"
    return answer


def _not_found(_error: HTTPException) -> Response:
    message = f"There is nothing at {redact.kept_path(request.path, 200)}, or it is switched off."
    return access.error_response(404, "not_found", message)


def _method_not_allowed(error: MethodNotAllowed) -> Response:
    answer = access.error_response(
        405, "method_not_allowed", f"{request.method[:20]} is not allowed here."
    )
    answer.allow.update(error.valid_methods or ())
    return answer


def _malformed(_error: Exception) -> Response:
    middleware.close_after_answer(request.environ)
    return access.error_response(400, "bad_request", "The request body is malformed.")


def _defect(_error: HTTPException) -> Response:
    message = "The server failed on this request; its log has the reason."
    return access.error_response(500, "internal_error", message)

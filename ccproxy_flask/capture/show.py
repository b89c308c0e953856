"""Kept exchanges as text for a terminal, and as a curl command. Pure: JSON in, text out."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import orjson

from ..redact import REDACTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# What curl writes by itself, or must not.
_NOT_SAID = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "transfer-encoding",
    }
)
# Where a client puts its key, as a shell takes it from its environment.
_KEYS = {
    "authorization": "authorization: Bearer $API_KEY",
    "x-api-key": "x-api-key: $API_KEY",
    "x-goog-api-key": "x-goog-api-key: $API_KEY",
    "api-key": "api-key: $API_KEY",
}


def show(trace: Mapping[str, Any]) -> str:
    """Return a kept exchange (:func:`~ccproxy_flask.capture.files.read_trace`) for a person."""
    return _CONTROL.sub("�", "\n".join(_lines(trace))) + "\n"


def curl(trace: Mapping[str, Any]) -> str:
    """Return the curl command that sends the request of a kept exchange again.

    The key is taken from ``$API_KEY``. Comments say what of the request is not known.
    """
    request = trace.get("request")
    if request is None:
        return "# the request was not traced\n"
    body, remarks = _body_of(trace, request)
    parts = [f"curl -X {shlex.quote(request['method'])} {shlex.quote(request['url'])}"]
    for name, value in request["headers"]:
        if name.lower() in _KEYS and value == REDACTED:
            parts.append(f'-H "{_KEYS[name.lower()]}"')
        elif value == REDACTED:
            remarks.append(f"# hidden and left out: {_CONTROL.sub('�', name)}")
        elif name.lower() not in _NOT_SAID:
            parts.append(f"-H {shlex.quote(f'{name}: {value}')}")
    if body:
        parts.append(f"--data-binary {shlex.quote(body)}")
    if REDACTED in request["url"] or REDACTED in body:
        remarks.append(f"# what was hidden stands as {REDACTED}")
    return "\n".join([*remarks, " \\\n  ".join(parts)]) + "\n"


def _body_of(trace: Mapping[str, Any], request: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the body to send, and remarks on what is missing of it."""
    if not request.get("body_bytes"):
        return "", []
    body = request.get("body")
    if body is None:
        _, _, body = str(trace.get("raw_request", "")).partition("\r\n\r\n")
        if body.endswith("…"):
            return body, ["# the body is not whole: TRACING__VERBOSE keeps all of it"]
    remarks = ["# the body was cut: TRACING__MAX_BODY_BYTES"] if request["body_cut"] else []
    return (body if isinstance(body, str) else orjson.dumps(body).decode()), remarks


def _lines(trace: Mapping[str, Any]) -> Iterator[str]:
    took = trace["duration_us"]
    state = "complete" if trace["complete"] else "not complete"
    lasted = "" if took is None else f", {took / 1000:.1f} ms"
    yield f"{trace['request_id']}  {trace['timestamp']}  {state}{lasted}"
    if error := trace.get("error"):
        yield f"error: {error['type']}: {error['message']}"
    if request := trace.get("request"):
        yield ""
        yield f"{request['method']} {request['url']}"
        yield from _message(request)
    if response := trace.get("response"):
        yield ""
        yield f"HTTP {response['status']} after {response['offset_us'] / 1000:.1f} ms"
        yield from _message(response)
    if stream := trace.get("stream"):
        yield ""
        yield from _stream(stream)


def _message(part: Mapping[str, Any]) -> Iterator[str]:
    for name, value in part["headers"]:
        yield f"{name}: {value}"
    body = part.get("body", part.get("body_preview"))
    if body is not None:
        yield ""
        yield (
            body
            if isinstance(body, str)
            else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
        )
    if part.get("body_cut"):
        yield "… (cut)"


def _stream(stream: Mapping[str, Any]) -> Iterator[str]:
    yield f"{stream['total_chunks']} chunks, {stream['total_bytes']} bytes"
    if preview := stream.get("body_preview"):
        yield preview
    for chunk in stream["chunks"]:
        yield f"+{chunk['offset_us'] / 1000:.3f} ms  {chunk['bytes']} bytes"
        for event in chunk.get("events", ()):
            yield f"    {event if isinstance(event, str) else orjson.dumps(event).decode()}"

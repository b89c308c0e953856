"""Errors: what a provider's status means, and the shape in which a client is told ours."""

from __future__ import annotations

import orjson
import pytest

from ccproxy_flask import errors
from ccproxy_flask.dialects import BY_NAME
from ccproxy_flask.errors import (
    ERROR_TYPES,
    ProxyError,
    Unreadable,
    error_type_of_status,
)

APIS = {
    "anthropic": "anthropic_messages",
    "openai": "openai_chat",
    "gemini": "gemini",
    "ollama": "ollama",
}


def error_body(api, error, request_id):
    """Return *error* as an API has it."""
    return BY_NAME[APIS[api]].error_body(error, request_id)


OWN = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, ProxyError)
]


def test_every_error_of_our_own_has_a_status_and_a_known_type():
    """Each is a client's or a server's error, with a type of the closed list."""
    assert len(OWN) > 8
    for each in OWN:
        assert 400 <= each.status < 600
        assert each.error_type in ERROR_TYPES


def test_the_tree_in_the_docstring_is_the_tree():
    """The drawing at the top of the module names every error and its status."""
    assert errors.__doc__ is not None
    for each in OWN[1:]:
        line = next(line for line in errors.__doc__.splitlines() if f" {each.__name__} " in line)
        assert line.split(each.__name__)[1].split()[0] == str(each.status)


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (200, None),
        (304, None),
        (400, "invalid_request"),
        (401, "authentication"),
        (403, "permission"),
        (404, "not_found"),
        (413, "request_too_large"),
        (422, "invalid_request"),
        (429, "rate_limit"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded"),
        (529, "overloaded"),
    ],
)
def test_status_of_a_provider_means_an_error_type(status, meaning):
    """Each status from 400 on has a type of the closed list; below there is none."""
    assert error_type_of_status(status) == meaning
    assert meaning is None or meaning in ERROR_TYPES


def test_every_status_has_a_meaning():
    """No status is left out."""
    assert {error_type_of_status(status) for status in range(400, 600)} <= ERROR_TYPES
    assert {error_type_of_status(status) for status in range(100, 400)} == {None}


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_anthropic_shape(kind):
    """Anthropic's SDK finds type, message and request id where its API has them."""
    body = orjson.loads(error_body("anthropic", kind("what to do"), "id-1"))
    assert body["type"] == "error"
    assert body["error"]["message"] == "what to do"
    assert body["error"]["type"].endswith(("_error", "_too_large"))
    assert body["request_id"] == "id-1"


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_openai_shape(kind):
    """OpenAI's SDK finds message, type, code and param."""
    body = orjson.loads(error_body("openai", kind("what to do"), "id-1"))
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["error"]["code"] == kind.error_type


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_gemini_shape(kind):
    """Google's SDK finds the code as a number and the status as an RPC code."""
    body = orjson.loads(error_body("gemini", kind("what to do"), "id-1"))
    assert body["error"]["code"] == kind.status
    assert body["error"]["status"].isupper()
    assert body["error"]["message"] == "what to do"


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_ollama_shape(kind):
    """Clients of Ollama find a text."""
    assert orjson.loads(error_body("ollama", kind("what to do"), "id-1")) == {"error": "what to do"}


@pytest.mark.parametrize("status", [414, 417, 418])
def test_fault_of_the_client_is_never_called_ours(status):
    """In no dialect, whether the provider has a name of its own for the status or not."""
    error = Unreadable("what to do", status)
    shapes = {api: orjson.loads(error_body(api, error, "id-1"))["error"] for api in APIS}
    assert shapes["anthropic"]["type"] == shapes["openai"]["type"] == "invalid_request_error"
    assert shapes["gemini"]["status"] == "INVALID_ARGUMENT"

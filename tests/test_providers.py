"""Which provider a path means, and what it is called."""

from __future__ import annotations

import pytest

from ccproxy_flask.dialects import ENDPOINTS, meaning_of
from ccproxy_flask.errors import UnknownRoute
from ccproxy_flask.proxy.providers import Providers
from ccproxy_flask.settings import load_settings

ANTHROPIC = {"anthropic-version": "2026-10-21"}


@pytest.fixture(scope="module")
def providers() -> Providers:
    """The built-in providers and one of a user's own."""
    return Providers(load_settings({"PROVIDERS__MINE__BASE_URL": "http://mine.example/x"}))


@pytest.mark.parametrize(
    ("path", "headers", "provider", "upstream_path"),
    [
        ("/v1/messages", {}, "anthropic", "/v1/messages"),
        ("/v1/messages/count_tokens", {}, "anthropic", "/v1/messages/count_tokens"),
        ("/v1/messages/batches/b_1/results", {}, "anthropic", "/v1/messages/batches/b_1/results"),
        ("/v1/complete", {}, "anthropic", "/v1/complete"),
        ("/v1/files", {}, "openai", "/v1/files"),
        ("/v1/files/f_1/content", ANTHROPIC, "anthropic", "/v1/files/f_1/content"),
        ("/v1/models", {}, "openai", "/v1/models"),
        ("/v1/models", ANTHROPIC, "anthropic", "/v1/models"),
        ("/v1/chat/completions", ANTHROPIC, "openai", "/v1/chat/completions"),
        ("/v1/responses/resp_1", {}, "openai", "/v1/responses/resp_1"),
        ("/v1/audio/speech", {}, "openai", "/v1/audio/speech"),
        ("/v1/threads/t_1/messages", {}, "openai", "/v1/threads/t_1/messages"),
        ("/v1/conversations/c_1/messages", {}, "openai", "/v1/conversations/c_1/messages"),
        ("/v1/chat/completions/c_1/messages", {}, "openai", "/v1/chat/completions/c_1/messages"),
        ("/v1/containers/c_1/files", ANTHROPIC, "openai", "/v1/containers/c_1/files"),
        ("/v1/completely", {}, "openai", "/v1/completely"),
        ("/v1beta/models/g:generateContent", {}, "gemini", "/v1beta/models/g:generateContent"),
        ("/v1alpha/x", {}, "gemini", "/v1alpha/x"),
        ("/v1/models/g:generateContent", {}, "gemini", "/v1/models/g:generateContent"),
        ("/v1/models", {"x-goog-api-client": "x"}, "gemini", "/v1/models"),
        ("/v1/models/ft:gpt-4o:me::id", {}, "openai", "/v1/models/ft:gpt-4o:me::id"),
        ("/upload/v1beta/files", {}, "gemini", "/upload/v1beta/files"),
        ("/api/v1/messages", {}, "anthropic", "/v1/messages"),
        ("/api/mine/a%2Fb//c", {}, "mine", "/a%2Fb//c"),
        ("/mine/", {}, "mine", "/"),
        ("/ollama/api/chat", {}, "ollama", "/api/chat"),
        ("/OpenAI/v1/chat/completions", {}, "openai", "/v1/chat/completions"),
    ],
)
def test_routes(
    providers: Providers, path: str, headers: dict[str, str], provider: str, upstream_path: str
) -> None:
    """Each path goes to the provider that the contract names, byte for byte."""
    route = providers.resolve("POST", path, headers)

    assert (route.provider, route.path) == (provider, upstream_path)


@pytest.mark.parametrize(
    "path", ["/", "/nobody/v1/messages", "/mine", "/v1", "/api/hello", "/v2/x"]
)
def test_path_without_provider_is_refused_by_name(providers: Providers, path: str) -> None:
    """An unknown path is an error that says what would be right."""
    with pytest.raises(UnknownRoute, match="mine"):
        providers.resolve("GET", path, {})


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "api"),
    [
        ("POST", "/v1/messages", "/v1/messages", "anthropic_messages"),
        ("GET", "/v1/messages", "other", "other"),
        ("POST", "/openai/deployments/d/chat/completions", "/v1/chat/completions", "openai_chat"),
        ("POST", "/v1/responses", "/v1/responses", "openai_responses"),
        ("GET", "/v1/responses/resp_1", "/v1/responses", "other"),
        ("POST", "/v1/responses/input_tokens", "/v1/responses/input_tokens", "other"),
        ("POST", "/v1/completions", "/v1/completions", "openai_completions"),
        ("POST", "/v1/embeddings", "/v1/embeddings", "openai_embeddings"),
        (
            "POST",
            "/v1beta1/projects/p/locations/l/publishers/google/models/m:streamGenerateContent",
            "/v1beta/models:streamGenerateContent",
            "gemini",
        ),
        ("POST", "/v1beta/models/m:countTokens", "/v1beta/models:countTokens", "other"),
        ("POST", "/api/chat", "/api/chat", "ollama"),
        ("GET", "/v1/models/claude-x", "/v1/models", "other"),
        ("POST", "/v1/threads/t_1/messages", "other", "other"),
        ("POST", "/anthropic/v1/messages", "/v1/messages", "anthropic_messages"),
        ("POST", "/messages", "/v1/messages", "anthropic_messages"),
        ("POST", "/v1/vector_stores/v_1/files", "other", "other"),
        ("GET", "/v1/chat/completions/c_1/messages", "/v1/chat/completions", "other"),
        ("POST", "/beta/completions", "/v1/completions", "openai_completions"),
        ("POST", "/something/else", "other", "other"),
    ],
)
def test_endpoints(method: str, path: str, endpoint: str, api: str) -> None:
    """A path has one label of a closed set, and one way to be read."""
    meant = meaning_of(method, path, {})
    assert (meant.endpoint, meant.dialect.name if meant.generates else "other") == (endpoint, api)
    assert endpoint in ENDPOINTS


def test_configured_api_reads_unknown_paths() -> None:
    """A provider's own setting says how answers at unusual paths are read."""
    meant = meaning_of("POST", "/x/generate", {}, "anthropic_messages")
    assert (meant.endpoint, meant.dialect.name) == ("other", "anthropic_messages")
    assert meant.generates
    assert not meaning_of("GET", "/x/generate", {}, "anthropic_messages").generates


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", {}, "anthropic_messages"),
        ("/anthropic/v1/messages", {}, "anthropic_messages"),
        ("/v1/models", ANTHROPIC, "anthropic_messages"),
        ("/v1/messages/count_tokens", {}, "anthropic_messages"),
        ("/v1/threads/t_1/messages", {}, "openai"),
        ("/v1/chat/completions", {}, "openai_chat"),
        ("/v1/chat/completions", ANTHROPIC, "openai_chat"),
        ("/v1beta/models/m:generateContent", {}, "gemini"),
        ("/v1beta/models", {}, "gemini"),
        ("/v1beta/openai/chat/completions", {}, "openai_chat"),
        ("/v1beta/openai/models", {"x-goog-api-key": "k"}, "openai"),
        ("/vertex/v1/x", {"x-goog-api-key": "k"}, "gemini"),
        ("/ollama/api/chat", {}, "ollama"),
        ("/nobody", {}, "openai"),
    ],
)
def test_dialects(path: str, headers: dict[str, str], dialect: str) -> None:
    """An error of ours has the shape that the client's SDK reads, a key the header it needs."""
    assert meaning_of("POST", path, headers).dialect.name == dialect


def test_configured_key_of_routes_that_generate_nothing(providers: Providers) -> None:
    """Counting tokens and listing models take a key as their provider takes it, too."""
    counted = providers.resolve("POST", "/v1/messages/count_tokens", {})
    assert counted.dialect.key_header("k") == ("x-api-key", "k")
    listed = providers.resolve("GET", "/v1beta/models", {})
    assert listed.dialect.key_header("k") == ("x-goog-api-key", "k")
    listed = providers.resolve("GET", "/v1/models", {})
    assert listed.dialect.key_header("k") == ("authorization", "Bearer k")

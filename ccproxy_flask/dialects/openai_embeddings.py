"""Embeddings (OpenAI API reference, "Embeddings"; 2026-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..usage.parser import ERROR_WANTED
from . import openai
from .base import API_ROOT, Dialect, Endpoint
from .openai_chat import ChatParser

if TYPE_CHECKING:
    from ..usage.partial_json import WantedMembers


class EmbeddingsParser(ChatParser):
    """A list of embeddings: input only."""

    __slots__ = ()

    wanted: ClassVar[WantedMembers] = {
        **ERROR_WANTED,
        "model": None,
        "usage": None,
        "service_tier": None,
    }


DIALECT = Dialect(
    name="openai_embeddings",
    endpoints=(
        Endpoint(
            API_ROOT + r"/embeddings", "/v1/embeddings", "POST", generates=True, of="embeddings"
        ),
    ),
    parser=EmbeddingsParser,
    error_body=openai.error_body,
    key_headers=openai.KEY_HEADERS,
    request_id_headers=openai.REQUEST_ID_HEADERS,
    limit_headers=openai.LIMIT_HEADERS,
    account_headers=openai.ACCOUNT_HEADERS,
    said=openai.DIALECT.said,
    price_vendor="openai",
    shown=openai.SHOWN,
)

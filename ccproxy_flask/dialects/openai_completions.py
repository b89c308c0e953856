"""Legacy completions (OpenAI API reference, "Completions"; 2026-11): like those of a chat."""

from __future__ import annotations

from . import openai
from .base import API_ROOT, Dialect, Endpoint
from .openai_chat import SAID, ChatParser

DIALECT = Dialect(
    name="openai_completions",
    endpoints=(Endpoint(API_ROOT + r"/completions", "/v1/completions", "POST", generates=True),),
    parser=ChatParser,
    error_body=openai.error_body,
    key_headers=openai.KEY_HEADERS,
    request_id_headers=openai.REQUEST_ID_HEADERS,
    limit_headers=openai.LIMIT_HEADERS,
    account_headers=openai.ACCOUNT_HEADERS,
    said=SAID,
    price_vendor="openai",
    shown=openai.SHOWN,
)

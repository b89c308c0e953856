"""Bytes in, numbers out: what a request asks for, what an answer used, and what that costs.

Pure: no network, no files, no framework; constant memory; nothing here raises on any input.
"""

from __future__ import annotations

from .answer import AnswerReader, answer_reader
from .base import Answer, Usage, WireApi
from .pricing import Price, PriceBook
from .request import RequestFacts, RequestReader, request_reader

__all__ = [
    "Answer",
    "AnswerReader",
    "Price",
    "PriceBook",
    "RequestFacts",
    "RequestReader",
    "Usage",
    "WireApi",
    "answer_reader",
    "request_reader",
]

"""Bytes in, numbers out: what all wire formats share of reading requests and answers.

Decoding, event streams, JSON in part, and what is found. What is known of one wire format is in
``dialects``. Pure: no network, no files, no framework; constant memory; nothing here raises on any
input.
"""

from __future__ import annotations

from .answer import AnswerReader
from .parser import ResponseFacts, ResponseParser, Usage
from .request import RequestFacts, RequestReader

__all__ = [
    "AnswerReader",
    "RequestFacts",
    "RequestReader",
    "ResponseFacts",
    "ResponseParser",
    "Usage",
]

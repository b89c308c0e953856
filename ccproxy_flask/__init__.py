"""A transparent proxy that records what LLM traffic is: models, tokens, cost, latency, errors."""

__version__ = "0.1.0"

"""The operator's page: totals, and the traffic as it happens."""

from .routes import blueprint

__all__ = ["blueprint"]

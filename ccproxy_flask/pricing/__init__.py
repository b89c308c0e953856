"""What answers cost."""

from .amounts import Price
from .book import SOURCE_TABLE, PriceBook
from .overrides import OVERRIDES

__all__ = ["OVERRIDES", "SOURCE_TABLE", "Price", "PriceBook"]

"""What can be asked of records: each filter is one line of :class:`LogFilter`. Pure.

From that line come the parameter of the API and its check (``logs.parameters``), its description
(``logs.openapi``), its SQL (``store.statements``), its word on the live feed (``matching``), and
the option of the command line (``cli.filter_options``).
"""

from .comparisons import Filter
from .table import LogFilter, filter_of
from .values import IncludeExclude

__all__ = ["Filter", "IncludeExclude", "LogFilter", "filter_of"]

"""Extensions of DuckDB from installed packages: nothing is downloaded while the program runs.

Each package ``duckdb-extension-…`` has the file of one extension for one version of DuckDB.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from ccproxy_flask.errors import StoreUnavailable

from ..statements import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

_INSTALL = "install ccproxy-flask[lake] (in its repository: make lake)"


def load(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
    """Load the extensions *names* into *connection*.

    Raises StoreUnavailable where a package is missing or is of another version than DuckDB.
    """
    for name in names:
        connection.execute(statement(name))


def statement(name: str, version: str = duckdb.__version__) -> str:
    """Return the statement that loads the extension *name* for a *version* of DuckDB.

    Raises as :func:`load`.
    """
    return f"LOAD {quoted(str(_file(name, version)))}"


def _file(name: str, version: str) -> Path:
    found = find_spec(f"duckdb_extension_{name}")
    if found is None or found.origin is None:
        package = f"duckdb-extension-{name.replace('_', '-')}"
        raise StoreUnavailable(f"the lake needs the package {package}: {_INSTALL}", 60)
    folder = Path(found.origin).parent / "extensions"
    path = folder / f"v{version}" / f"{name}.duckdb_extension"
    if not path.is_file():
        others = ", ".join(sorted(each.name.removeprefix("v") for each in folder.glob("v*")))
        raise StoreUnavailable(
            f"DuckDB is {version}, its extension {name} is for {others}: {_INSTALL}", 60
        )
    return path

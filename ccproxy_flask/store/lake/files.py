"""The lake as a list of files, for the processes of the operator's SQL: they never see its
catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import statements
from ..statements import quoted
from . import extensions
from .engine import LAKE, s3_secret

if TYPE_CHECKING:
    from ccproxy_flask.settings.options import Lake

    from .engine import Cursor, Engine


class SqlFiles:
    """What such a process needs: *setup* to run first, and a relation to ask."""

    def __init__(self, settings: Lake, engine: Engine) -> None:
        self.setup: list[str] = []
        if engine.data.startswith("s3://"):
            self.setup = [extensions.statement("httpfs"), s3_secret(settings)]

    # Everything in these statements is our own: names of columns, and of files that we made.
    # ruff: noqa: S608  our names
    def relation(self, cursor: Cursor, recent: str) -> str:
        """Return the SELECT of all rows of *recent* and of the lake as *cursor* sees it.

        *recent* has all columns; files of an older version may lack some.
        """
        rows = cursor.execute(
            f"SELECT data_file, delete_file FROM ducklake_list_files('{LAKE}', 'access_logs')"
        ).fetchall()
        whole = ", ".join(quoted(data) for data, deleted in rows if deleted is None)
        found = [f"FROM {recent}"]
        if whole:
            found.append(f"FROM read_parquet([{whole}], {_OPTIONS})")
        found += [_without(data, deleted) for data, deleted in rows if deleted is not None]
        return f"SELECT {statements.NAMES} FROM ({' UNION ALL BY NAME '.join(found)})"


_OPTIONS = "union_by_name = true, hive_partitioning = false"


def _without(data: str, deleted: str) -> str:
    """Return the SELECT of the rows of the file *data* but those whose numbers *deleted* has."""
    gone = f"SELECT pos FROM read_parquet({quoted(deleted)})"
    return (
        "SELECT * EXCLUDE (file_row_number) "
        f"FROM read_parquet({quoted(data)}, {_OPTIONS}, file_row_number = true) "
        f"WHERE file_row_number NOT IN ({gone})"
    )

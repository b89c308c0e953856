"""``ccproxy-flask lake``: the records of several machines (docs/operations.md)."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccproxy_flask.errors import StoreUnavailable
from ccproxy_flask.filters import LogFilter
from ccproxy_flask.folders import make_private

from .remote import CommandError, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ccproxy_flask.settings import Settings
    from ccproxy_flask.store.base import RecordingStore, Store


@click.group("lake")
def lake_commands() -> None:
    """Keep the records of several machines in one place (docs/operations.md)."""


@lake_commands.command("init")
def init_command() -> None:
    """Make the lake's tables where they are missing."""
    with _opened(_configured()) as store:
        click.echo(f"The lake is there, with {store.status().rows} records.")


@lake_commands.command("import")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def import_command(file: Path | None) -> None:
    """Add the records of a database FILE to the lake; default: this machine's.

    What is in the lake already is not added again. The server that writes the file must be stopped.
    """
    configured = _configured()
    path = file or configured.duckdb_path
    if not path.is_file():
        raise CommandError(f"there is no database {path}")
    with _opened(configured) as lake, _file(path) as local:
        _move(local, lake, LogFilter())


@lake_commands.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--node", help="The records of this machine alone.")
def export_command(file: Path, node: str | None) -> None:
    """Add the records of the lake to a database FILE, which is made where it is missing.

    What is there already is not added again. This machine's server must be stopped.
    """
    with _opened(_configured()) as lake, _file(file) as local:
        _move(lake, local, LogFilter(node=node))


@lake_commands.command("doctor")
def doctor_command() -> None:
    """Look whether everything that a lake needs is there and well; ends with 1 where it is not."""
    # Only now: other commands do without the database's library.
    try:
        from ccproxy_flask.store.lake.doctor import examine  # noqa: PLC0415  an optional extra
    except ImportError as missing:
        raise CommandError(f"the lake needs the package {missing.name}: make lake") from missing
    configured = _configured()
    all_right = True
    spill = configured.duckdb_path.parent / "lake.doctor.tmp"
    for is_right, text in examine(configured.observability.lake, spill):
        all_right &= is_right
        click.echo(f"{'ok   ' if is_right else 'WRONG'}  {text}")
    sys.exit(0 if all_right else 1)


def _configured() -> Settings:
    configured = settings()
    if configured.observability.log_storage_backend != "ducklake":
        raise CommandError("OBSERVABILITY__LOG_STORAGE_BACKEND is not ducklake", 2)
    return configured


@contextmanager
def _opened(configured: Settings) -> Iterator[RecordingStore]:
    """This machine's store on the lake, while no recorder has it."""
    from ccproxy_flask.store.factory import open_store  # noqa: PLC0415  loads the database's library

    make_private(configured.journal_directory)
    lock = os.open(configured.journal_directory / "recorder.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with closing(open_store(configured)) as store:
            yield store
    except BlockingIOError:
        raise CommandError("this machine's server is running: stop it first") from None
    except StoreUnavailable as error:
        raise CommandError(str(error)) from None
    finally:
        os.close(lock)


@contextmanager
def _file(path: Path) -> Iterator[RecordingStore]:
    from ccproxy_flask.store.duckdb import DuckDBStore  # noqa: PLC0415  loads the database's library

    with closing(DuckDBStore(path.absolute())) as store:
        yield store


def _move(source: Store, target: RecordingStore, where: LogFilter) -> None:
    from ccproxy_flask.store.transfer import transfer  # noqa: PLC0415  as above

    seen = added = 0
    for seen, added in transfer(source, target, where):
        if sys.stderr.isatty():
            click.echo(f"\r{seen} records, {added} of them new", nl=False, err=True)
    click.echo(f"{seen} records were looked at, {added} of them added.")

"""What the settings of a lake may look like. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

_PAIR = r"[a-z_]+\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']*)"
_PAIRS = re.compile(rf"\s*{_PAIR}(\s+{_PAIR})*\s*")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,62}(/[^\s?#*]*)?")


def catalog(value: SecretStr) -> SecretStr:
    """Return the address of a catalogue in PostgreSQL. Raises ValueError."""
    text = value.get_secret_value().strip()
    if text.startswith(("postgresql://", "postgres://")):
        if not _names_database(text):
            raise ValueError("must name a host and a database: postgresql://user@host/database")
    elif not _PAIRS.fullmatch(text) or "dbname" not in text:
        raise ValueError("must be postgresql://user:password@host/database, or host=… dbname=…")
    return SecretStr(text)


def _names_database(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.port != 0 and len(parts.path) > 1
    except ValueError:  # what urlsplit says of a port or an IPv6 address that is none
        return False


def data(value: str) -> str:
    """Return where the files of a lake are, absolute. Raises ValueError."""
    if value.startswith("s3://"):
        if not _BUCKET.fullmatch(value):
            raise ValueError("must be s3://bucket or s3://bucket/prefix")
        return value.rstrip("/") + "/"
    if "://" in value or not value.strip():
        raise ValueError("must be a directory, or s3://bucket/prefix")
    return f"{Path(value).expanduser().absolute()}/"

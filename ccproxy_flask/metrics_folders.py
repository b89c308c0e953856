"""The folders in which the processes of the service share their figures.

Apart from the package ``metrics``, because gunicorn's arbiter may load next to nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

IN_MEMORY = Path("/dev/shm")  # noqa: S108  only directories of ours in there, for this user alone
"""Where the system keeps files in memory (Linux: tmpfs)."""
_WANTED_BYTES = 4 << 20


def folders(shared: str | None) -> list[Path]:
    """Return the folders with figures: *shared*, and one in memory for what it has no room for."""
    if shared is None:
        return []
    digest = hashlib.sha256(os.fsencode(Path(shared).absolute())).hexdigest()[:16]
    return [Path(shared), IN_MEMORY / f"ccproxy-metrics-{os.getuid()}-{digest}"]


def make_folder() -> Path:
    """Return a fresh folder for this process and its children; in memory where the disk is full."""
    name = f"ccproxy-metrics-{os.getuid()}-{os.getpid()}"
    parents = [IN_MEMORY]
    with suppress(FileNotFoundError):  # there is none that can be written
        parents.insert(0, Path(tempfile.gettempdir()))
    for parent in parents:
        with suppress(OSError):
            _remove_those_of_the_dead(parent)
            shutil.rmtree(parent / name, ignore_errors=True)
            (parent / name).mkdir(mode=0o700)
            if shutil.disk_usage(parent / name).free >= _WANTED_BYTES:
                return parent / name
            (parent / name).rmdir()
    return parents[0] / name


def _remove_those_of_the_dead(parent: Path) -> None:
    for old in parent.glob(f"ccproxy-metrics-{os.getuid()}-*"):
        process = old.name.rpartition("-")[2]
        if len(process) == 16:
            continue  # named by a digest: that of a folder which may be in use
        if not Path("/proc", process).exists() and Path("/proc/self").exists():
            remove_folders(str(old))


def remove_folders(shared: str, own: bool = True) -> None:
    """Remove what stands in for *shared*, and *shared* itself where it is our *own*."""
    for folder in folders(shared)[0 if own else 1 :]:
        shutil.rmtree(folder, ignore_errors=True)

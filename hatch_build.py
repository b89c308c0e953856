"""Fetches what the dashboard takes from npm before a wheel is built (browser_packages.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BrowserPackages(BuildHookInterface[Any]):
    """hatchling's hook: a wheel has charts where npm is there when it is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch them; hatchling calls this first."""
        subprocess.run([sys.executable, Path(self.root) / "browser_packages.py"], check=True)

"""Puts what the dashboard takes from npm into `static/vendor`: charts (uPlot) and a font (Inter).

``python browser_packages.py`` does nothing where it is there already, and leaves a note where npm
is not: the dashboard works without, with no charts and the system's font. Needs Python alone.
Versions and hashes are those of package-lock.json. The wheel's build runs this too.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WORK = ROOT / "build" / "npm"
VENDOR = ROOT / "static" / "vendor"
_LISTS = ("package.json", "package-lock.json", ".npmrc")
_FILES = {
    "uplot/dist/uPlot.esm.js": "uPlot.js",
    "uplot/LICENSE": "uPlot.LICENSE",
    "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "inter-latin.woff2",
    "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "inter-latin-ext.woff2",
    "@fontsource-variable/inter/LICENSE": "inter.LICENSE",
}
_FONT = """@font-face {
  font-family: "Inter Variable";
  font-weight: 100 900;
  font-display: swap;
  src: url("inter-latin-ext.woff2") format("woff2");
  unicode-range: U+0100-02BA, U+1E00-1E9F, U+1EF2-1EFF, U+2C60-2C7F, U+A720-A7FF;
}
@font-face {
  font-family: "Inter Variable";
  font-weight: 100 900;
  font-display: swap;
  src: url("inter-latin.woff2") format("woff2");
  unicode-range: U+0000-00FF, U+0131, U+0152-0153, U+02BB-02BC, U+02C6, U+02DA, U+02DC, U+2000-206F,
    U+20AC, U+2122, U+2190-2193, U+2212, U+2215, U+FEFF, U+FFFD;
}
"""
_WITHOUT = "The dashboard will have no charts, and the system's font."
_SECONDS = 120


def main() -> int:
    """Return 0 in any case: the proxy works without."""
    wanted = _hash()
    stamp = VENDOR / ".from"
    if stamp.is_file() and stamp.read_text() == wanted:
        return 0
    npm = shutil.which("npm")
    if npm is None:
        _say(f"npm is not here. {_WITHOUT} (Debian: apt install npm, then make setup)")
        return 0
    problem = _install(npm)
    if problem:
        _say(f"npm could not fetch its packages: {problem}. {_WITHOUT}")
        return 0
    _copy()
    stamp.write_text(wanted)
    return 0


def _hash() -> str:
    found = hashlib.sha256(Path(__file__).read_bytes())
    for name in _LISTS:
        found.update((ROOT / name).read_bytes())
    return found.hexdigest()


def _install(npm: str) -> str | None:
    """Fetch the packages of the lock file; return what went wrong."""
    WORK.mkdir(parents=True, exist_ok=True)
    for name in _LISTS:
        shutil.copy(ROOT / name, WORK / name)
    command = [npm, "ci", "--no-progress", "--loglevel=error", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            command, cwd=WORK, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_SECONDS} s"
    if done.returncode == 0:
        return None
    return next(iter(done.stderr.strip().splitlines()), f"it ended with {done.returncode}")


def _copy() -> None:
    VENDOR.mkdir(parents=True, exist_ok=True)
    for source, name in _FILES.items():
        shutil.copy(WORK / "node_modules" / source, VENDOR / name)
    rules = (WORK / "node_modules/uplot/dist/uPlot.min.css").read_text()
    (VENDOR / "vendor.css").write_text(_FONT + rules)


def _say(text: str) -> None:
    sys.stderr.write(f"browser_packages: {text}\n")


if __name__ == "__main__":
    sys.exit(main())

"""A page as PDF, printed by a browser: what is read on a screen, in the style for paper.

In: HTML. Out: a file. No library of Python sets tables, styles and SVG as a browser does, so one of Chromium's kin does it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome", "msedge",
         "microsoft-edge", "brave-browser")  # fmt: skip
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
"""Where macOS has them, which puts them on no PATH."""
VARIABLE = "MM1_ABLATE_BROWSER"
SECONDS = 180
NO_BROWSER = (
    "a PDF is printed by a browser, and none was found: install Chromium or Google Chrome (Debian, Ubuntu: apt-get install chromium), or "
    f"name one with {VARIABLE}; or write .html and print it from any browser"
)


class CannotPrint(Exception):
    """Why there is no PDF, and what to do."""


def browser() -> str | None:
    """A browser that prints without a window; None where there is none."""
    if named := os.environ.get(VARIABLE):
        return shutil.which(named)
    found = (shutil.which(name) for name in (*NAMES, *PLACES))
    return next((path for path in found if path), None)


def write_pdf(path: Path, page: str) -> None:
    """Print a page that needs nothing from elsewhere.

    Raises:
        CannotPrint: there is no browser, or it fails.
        OSError: the file cannot be written.
    """
    program = browser()
    if program is None:
        raise CannotPrint(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="mm1-ablate-pdf-") as folder:
        source, printed = Path(folder) / "report.html", Path(folder) / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            program,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            *(["--no-sandbox"] if _is_root() else []),  # Chromium refuses its sandbox to root
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            f"--print-to-pdf={printed}",
            source.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise CannotPrint(f"{program} has not printed within {SECONDS} seconds; write .html and print it from a browser") from error
        except OSError as error:
            raise CannotPrint(f"{program} cannot be started: {error.strerror}; name another browser with {VARIABLE}") from error
        if not printed.exists():
            said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
            raise CannotPrint(f"{program} did not print: {said.strip()}; name another browser with {VARIABLE}, or write .html")
        path.write_bytes(printed.read_bytes())


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0

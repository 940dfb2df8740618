"""A comparison in a file of the reader's choice: what is written follows the ending of its name.

In: a `StudyComparison`, learning curves, the sweep's text, and a path. Out: the file, or a folder where the path has no ending.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.report import figures
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.html import html
from mm1_ablate.report.latex import latex
from mm1_ablate.report.markdown import write_markdown
from mm1_ablate.report.pdf import NO_BROWSER, browser, write_pdf

ENDINGS = {
    ".tex": "LaTeX tables",
    ".csv": "a line for each arm and metric, unrounded",
    ".md": "Markdown with pictures beside it",
    ".html": "the page in one file",
    ".pdf": "the page, printed",
}
"""What is written, by the ending of a path in small letters."""


def unwritable(path: Path) -> str | None:
    """Why nothing can be written by the name of a path, and what to do; None where it can."""
    ending = path.suffix.lower()
    if path.is_dir() or not ending:
        return f"{path}: is a file; name a folder, or a file that ends in {', '.join(ENDINGS)}" if path.is_file() else None
    if ending not in ENDINGS:
        known = "; ".join(f"{one}: {what}" for one, what in ENDINGS.items())
        return f"{path}: nothing is known to write into a file that ends in {ending} ({known}; without an ending: a folder)"
    return f"{path}: {NO_BROWSER}" if ending == ".pdf" and browser() is None else None


def write_export(path: Path, comparison: StudyComparison, curves: pd.DataFrame | None = None, sweep_text: str | None = None) -> list[Path]:
    """Write the comparison as the ending of a path says (see `ENDINGS`), or as Markdown with pictures into a folder.

    Args:
        curves: of all trials, for learning curves.
        sweep_text: the sweep and the files that it names, shown on the page.

    Returns:
        What was written, the document first.

    Raises:
        pdf.CannotPrint: no browser prints.
        OSError: it cannot be written.
    """
    ending = "" if path.is_dir() else path.suffix.lower()
    if ending in ("", ".md"):
        return write_markdown(path, comparison, curves)
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".csv":
        path.write_text(without_passwords(comparison.long().to_csv(index=False)), encoding="utf-8")
    elif ending == ".tex":
        path.write_text(without_passwords(latex(comparison)), encoding="utf-8")
    else:
        svgs = {name: figures.svg(figure) for name, figure in figures.drawn(comparison, curves).items()}
        page = html(comparison, svgs, sweep_text, for_paper=ending == ".pdf")
        if ending == ".pdf":
            write_pdf(path, page)
        else:
            path.write_text(page, encoding="utf-8")
    return [path]

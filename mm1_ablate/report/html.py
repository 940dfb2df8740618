"""The report that people open: report.html in one file, and beside it Markdown, tables and pictures.

In: a `StudyComparison`, learning curves and the text of the sweep file, if at hand. Out: files in a folder. The page needs nothing from
elsewhere: styles and pictures are in it, and pictures take the colours of the page, light or dark.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from mm1_ablate.config.metric_name import MetricName, metric_title
from mm1_ablate.config.passwords import hidden, without_passwords
from mm1_ablate.report import figures
from mm1_ablate.report.cells import AGAINST, BETTER, HOLE, IN_LINE, LEANING, NO_VERDICT, TOO_CLOSE, TOO_FEW, WORSE
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import BELOW_FLOOR, bracketed, interval, number, probability, seeds_agree, short_name, signed
from mm1_ablate.report.markdown import PICTURES, markdown
from mm1_ablate.report.pages import foldable, page
from mm1_ablate.report.paper_comparison import HEADING, about_paper, paper_tables
from mm1_ablate.report.task_table import RIGHT, about_tasks, task_lines, task_titles, unasked_lines
from mm1_ablate.report.text import (
    ABOUT_KINDS,
    ABOUT_WITHDRAWN,
    DATA_LOSSES,
    KINDS,
    MARKS,
    WITHDRAWN,
    by_kind,
    declared_in_words,
    footnotes,
    headline,
    how_judged,
    how_measured,
    missing_trials,
    price_in_words,
    why,
)
from mm1_ablate.report.wide_tables import cost, costs_of, metric_tables
from mm1_ablate.version import __version__

CLASSES = {
    BETTER: "better", WORSE: "worse", LEANING: "leaning", TOO_CLOSE: "undecided", TOO_FEW: "undecided", HOLE: "hole", NO_VERDICT: "hole",
    "confirmed": "confirmed", "refuted": "refuted", IN_LINE: "leaning", AGAINST: "leaning",
}  # fmt: skip
"""Of the style, by verdict."""
LONGEST_WORD = 30
"""Characters that are never folded."""


def html(comparison: StudyComparison, pictures: Mapping[str, bytes] = {}, sweep_text: str | None = None, for_paper: bool = False) -> str:
    """The report as one page.

    Args:
        pictures: by name (see `markdown.PICTURES`), as SVG.
        sweep_text: the sweep file and those that it names, shown at the end.
        for_paper: whether nothing is folded away.
    """
    per_task = [metric for metric in comparison.all_metrics if metric not in comparison.metrics and not MetricName.parse(metric).rule]
    further = [metric for metric in comparison.all_metrics if metric not in comparison.metrics and metric not in per_task]
    return page(
        "report.html.jinja",
        comparison=comparison,
        headline=headline(comparison),
        how_measured=how_measured(comparison),
        how_judged=f"{declared_in_words(comparison)} {how_judged(comparison)}" if comparison.expectations else "",
        withdrawn=(WITHDRAWN, ABOUT_WITHDRAWN),
        why=why,
        about_data_losses=DATA_LOSSES,
        primary=comparison.primary,
        pictures={name: _inline(pictures.get(name), label) for name, label in PICTURES.items()},
        for_paper=for_paper,
        detail_tables=[
            (title, metric_tables(metrics)) for title, metrics in (("Scores task by task", per_task), ("Other metrics", further)) if metrics
        ],
        task_titles=task_titles(comparison),
        right=RIGHT,
        tasks=task_lines(comparison),
        about_tasks=about_tasks(comparison),
        unasked=unasked_lines(comparison),
        below_floor=BELOW_FLOOR,
        paper_heading=HEADING,
        about_paper=about_paper(),
        paper_tables=paper_tables(comparison),
        costs=costs_of(comparison),
        cost=cost,
        sweep_text=sweep_text,
        title=metric_title,
        number=number,
        signed=signed,
        interval=interval,
        bracketed=bracketed,
        seeds_agree=seeds_agree,
        price=price_in_words,
        kinds=[(KINDS[kind], ABOUT_KINDS[kind], kind, judged) for kind, judged in by_kind(comparison).items()],
        footnotes=footnotes(comparison),
        missing_trials=missing_trials(comparison),
        probability=probability,
        short_name=short_name,
        folded=_folded,
        marks=MARKS,
        kind=lambda verdict: CLASSES.get(verdict, "same"),
    )


def _folded(text: str) -> Markup:
    """A text whose long names may go on in another line where their parts meet."""
    return Markup(" ").join(foldable(word) if len(word) > LONGEST_WORD else escape(word) for word in text.split(" "))


def _inline(svg: bytes | None, label: str) -> Markup | None:
    """A picture as an element of a page, in the page's own ink."""
    if svg is None:
        return None
    text = svg.decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace(figures.INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
    for colour, name in ((figures.MUTED, "muted"), (figures.FAINT, "line"), ("#ffffff", "page")):
        text = text.replace(colour, f"var(--{name})")
    width = re.search(r'width="([\d.]+)pt"', text)
    points = float(width[1]) if width else 600.0
    # Wide pictures scroll on a narrow screen; shrunk, they would be unreadable.
    limit = "100%" if points < 450 else "none"
    attributes = f'role="img" aria-label="{label}" style="width:{points * 4 / 3:.0f}px;max-width:{limit};height:auto" '
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt"|width="[\d.]+pt"', "", text)
    return Markup(text.replace("<svg ", f"<svg {attributes}", 1))


@cache
def report_version(folder: Path = Path(__file__).parent) -> str:
    """Such as '0.1.0+1f00ba47': the version of the package, and 8 hex digits of a hash over what reports are made by.

    Args:
        folder: with the modules, templates and styles that shape reports.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".jinja", ".css")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return f"{__version__}+{digest.hexdigest()[:8]}"


def write_report(
    folder: Path, comparison: StudyComparison, curves: pd.DataFrame | None = None, sweep_text: str | None = None
) -> list[Path]:
    """Write report.html, report.md, comparison.csv, comparison.json and, as far as there is something to draw, pictures as PNG and SVG.

    Returns:
        What was written, report.html first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.drawn(comparison, curves)
    svgs = {name: figures.svg(figure) for name, figure in drawn.items()}
    contents = {
        "report.html": html(comparison, svgs, sweep_text).encode(),
        "report.md": without_passwords(markdown(comparison, {name: f"{name}.png" for name in drawn})).encode(),
        "comparison.json": (json.dumps(hidden(comparison.to_json()), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        "comparison.csv": without_passwords(comparison.long().to_csv(index=False)).encode(),
    }
    for name, figure in drawn.items():
        contents |= {f"{name}.png": figures.png(figure), f"{name}.svg": svgs[name]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for gone in {f"{name}.{ending}" for name in PICTURES for ending in ("png", "svg")} - contents.keys():
        (folder / gone).unlink(missing_ok=True)  # an earlier report's, of what the study does not have any more
    return [folder / name for name in contents]

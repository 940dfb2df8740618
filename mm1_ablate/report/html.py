"""The report that people open: report.html in one file, and beside it Markdown, tables and pictures.

In: a `Comparison`, learning curves and the text of the sweep file, if at hand. Out: files in a folder. The page needs nothing from
elsewhere: styles and pictures are in it, and pictures take the colours of the page, light or dark.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import MetricName, metric_title
from mm1_ablate.report import figures
from mm1_ablate.report.cells import BETTER, HOLE, ONE_SEED, UNDECIDED, WORSE, amount
from mm1_ablate.report.comparison import Comparison
from mm1_ablate.report.formats import BELOW_FLOOR, bracketed, interval, number, probability, short_name, signed
from mm1_ablate.report.markdown import PICTURES, markdown
from mm1_ablate.report.paper_comparison import HEADING, about_published, beside_tables
from mm1_ablate.report.task_table import RIGHT, about_tasks, task_lines, task_titles, unasked_lines
from mm1_ablate.report.text import DATA_LOSSES, MARKS, detectable, headline, how_judged, how_measured

KINDS = {BETTER: "better", WORSE: "worse", UNDECIDED: "undecided", HOLE: "hole", ONE_SEED: "hole"}


def html(comparison: Comparison, curves: pd.DataFrame | None = None, sweep_text: str | None = None) -> str:
    """The report as one page.

    Args:
        curves: columns arm, seed, step, loss.
        sweep_text: the sweep file, shown at the end.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("mm1_ablate.report") / "report.html.jinja").read_text(encoding="utf-8"))
    drawn = figures.drawn(comparison, curves)
    per_task = [metric for metric in comparison.all_metrics if metric not in comparison.metrics and not MetricName.parse(metric).rule]
    further = [metric for metric in comparison.all_metrics if metric not in comparison.metrics and metric not in per_task]
    return template.render(
        comparison=comparison,
        headline=headline(comparison),
        how_measured=how_measured(comparison),
        how_judged=how_judged(comparison),
        about_data_losses=DATA_LOSSES,
        primary=comparison.primary,
        pictures={name: _inline(drawn.get(name), label) for name, label in PICTURES.items()},
        detail_tables=[(title, metrics) for title, metrics in (("Task by task", per_task), ("Other metrics", further)) if metrics],
        task_titles=task_titles(comparison),
        right=RIGHT,
        tasks=task_lines(comparison),
        about_tasks=about_tasks(comparison),
        unasked=unasked_lines(comparison),
        below_floor=BELOW_FLOOR,
        beside_heading=HEADING,
        about_published=about_published(),
        beside=beside_tables(comparison),
        costs=list(dict.fromkeys(key for row in comparison.rows for key in row.costs)),
        sweep_text=sweep_text,
        title=metric_title,
        number=number,
        signed=signed,
        interval=interval,
        bracketed=bracketed,
        detectable=detectable,
        probability=probability,
        short_name=short_name,
        amount=amount,
        marks=MARKS,
        kind=lambda verdict: KINDS.get(verdict, "same"),
    )


def _inline(figure: Figure | None, label: str) -> Markup | None:
    """A figure as an element of a page, in the page's own ink."""
    if figure is None:
        return None
    text = figures.svg(figure).decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace(figures.INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
    for colour, name in ((figures.MUTED, "muted"), (figures.FAINT, "line"), ("#ffffff", "page")):
        text = text.replace(colour, f"var(--{name})")
    width = re.search(r'width="([\d.]+)pt"', text)
    points = float(width[1]) if width else 600.0
    # Wide pictures scroll on a narrow screen; shrunk, nobody could read them.
    limit = "100%" if points < 450 else "none"
    attributes = f'role="img" aria-label="{label}" style="width:{points * 4 / 3:.0f}px;max-width:{limit};height:auto" '
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt"|width="[\d.]+pt"', "", text)
    return Markup(text.replace("<svg ", f"<svg {attributes}", 1))


def write_report(folder: Path, comparison: Comparison, curves: pd.DataFrame | None = None, sweep_text: str | None = None) -> list[Path]:
    """Write report.html, report.md, comparison.csv, comparison.json and, as far as there is something to draw, pictures as PNG and SVG.

    Returns:
        What was written, report.html first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.drawn(comparison, curves)
    texts = {
        "report.html": html(comparison, curves, sweep_text),
        "report.md": markdown(comparison, {name: f"{name}.png" for name in drawn}),
        "comparison.json": json.dumps(comparison.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "comparison.csv": comparison.long().to_csv(index=False),
    }
    written = []
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    for name, figure in drawn.items():
        for ending, draw in (("png", figures.png), ("svg", figures.svg)):
            (folder / f"{name}.{ending}").write_bytes(draw(figure))
            written.append(folder / f"{name}.{ending}")
    return written

"""Scores by shots and learning curves: a small panel for each arm, with its baseline in black and itself in the colour of its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import PROBABILITY, MetricName
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.style import INK, MUTED, OF_BASELINE, STYLE, blank, key, look, marker
from mm1_ablate.report.formats import short_name
from mm1_ablate.report.terminal import folded

Draw = Callable[[Axes, ArmRow, str], None]
"""Draws one arm: (axes, row, colour)."""
TITLE = 30
"""Characters of a line above a panel."""


def shots(comparison: StudyComparison) -> Figure | None:
    """Average score against the number of shots, a panel for each arm; None without scores at two numbers of shots."""
    parsed = [(metric, MetricName.parse(metric)) for metric in comparison.all_metrics]
    rule = PROBABILITY if MetricName.parse(comparison.primary).rule == PROBABILITY else ""
    found = {one.shots: metric for metric, one in parsed if one.shots is not None and one.is_average and one.rule == rule}
    if len(found) < 2:
        return None
    counts = sorted(found)
    rows = [row for row in comparison.rows if any(row.cells[metric].n for metric in found.values())]

    def draw(axes: Axes, row: ArmRow, colour: str) -> None:
        cells = [row.cells[found[count]] for count in counts]
        means = np.array([cell.mean for cell in cells])
        deviations = np.array([0.0 if math.isnan(cell.deviation) else cell.deviation for cell in cells])
        places = np.arange(len(counts))
        axes.fill_between(places, means - deviations, means + deviations, color=colour, alpha=0.18, linewidth=0)
        axes.plot(places, means, **marker(look(row, comparison), 5))
        axes.set_xticks(places, [str(count) for count in counts])

    return panels(comparison, rows, draw, "shots", f"mean {rule or 'score'}", "bands: standard deviation over seeds")


def curves(comparison: StudyComparison, losses: pd.DataFrame | None) -> Figure | None:
    """Training loss against steps, the mean over seeds in a band from the lowest to the highest, a panel for each arm."""
    if losses is None or losses.empty:
        return None
    by_arm = {str(arm): _binned(rows) for arm, rows in losses.dropna(subset=["loss"]).groupby("arm", sort=False)}
    rows = [row for row in comparison.rows if row.name in by_arm]

    def draw(axes: Axes, row: ArmRow, colour: str) -> None:
        table = by_arm[row.name]
        axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.22, linewidth=0)
        axes.plot(table.index, table.mean(axis=1), color=colour)

    top = float(losses["loss"].quantile(0.98))
    return panels(comparison, rows, draw, "step", "training loss", "bands: lowest to highest seed", top)


def _binned(rows: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Loss by step (at most `bins`, each the mean of its neighbourhood: single steps are mostly noise) and seed."""
    last = float(rows["step"].max())
    size = max(1.0, math.ceil((last + 1) / bins))
    middles = np.minimum((rows["step"] // size + 0.5) * size, last)
    return rows.assign(step=middles).pivot_table(index="step", columns="seed", values="loss")


def panels(
    comparison: StudyComparison, rows: Sequence[ArmRow], draw: Draw, across: str, up: str, footnote: str, top: float | None = None
) -> Figure | None:
    """A panel for each arm, in the order of the study; of a study of baselines alone, one for each of them.

    Args:
        rows: those that have something to draw.
        top: of the vertical axis.
    """
    drawable = {row.name for row in rows}
    shown = [row for row in rows if not row.is_baseline] or list(rows)
    if not shown:
        return None
    columns = min(4, len(shown))
    lines = math.ceil(len(shown) / columns)
    titles = [_title(row) for row in shown]
    with matplotlib.rc_context({**STYLE, "axes.titlesize": 8.5}):
        figure = blank(max(2.5 * columns, 4.5), (1.9 + 0.13 * max(title.count("\n") for title in titles)) * lines + 0.2)
        all_axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes, row, title in zip(all_axes.flat, shown, titles, strict=False):
            baseline = comparison.row(row.baseline)
            if baseline.name in drawable:
                draw(axes, baseline, INK)
            if not row.is_baseline:
                draw(axes, row, look(row, comparison).colour)
            axes.set_title(title)
            axes.tick_params(labelbottom=True)
            if top:
                axes.set_ylim(top=top)
        for axes in list(all_axes.flat)[len(shown) :]:
            axes.set_visible(False)
        for axes in list(all_axes.flat)[max(len(shown) - columns, 0) : len(shown)]:
            axes.set_xlabel(across)
        figure.supylabel(up, fontsize=9)
        lacking = sum(not row.is_baseline and row.name not in drawable for row in comparison.rows)
        figure.supxlabel(
            footnote + (f"; of {lacking} arm{'s' if lacking > 1 else ''} there is nothing yet" if lacking else ""), fontsize=8, color=MUTED
        )
        key(figure, [OF_BASELINE, *(look(row, comparison) for row in shown)], 3, 0.0)
        return figure


def _title(row: ArmRow) -> str:
    """The arm's name, over as many lines as it takes, below that of its group."""
    if row.is_baseline or short_name(row) == row.name:
        return folded(row.name, TITLE)
    return f"{folded(row.group, TITLE)}\n{folded(short_name(row), TITLE)}"

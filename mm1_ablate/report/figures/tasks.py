"""Differences from the baseline task by task: a table of colours, an arm a line."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import MetricName, metric_title
from mm1_ablate.report.cells import Cell
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.style import BLUE, INK, MUTED, STYLE, VERMILION, blank, inches
from mm1_ablate.report.formats import percent, signed
from mm1_ablate.report.wide_tables import in_order

COLOURS = LinearSegmentedColormap.from_list("difference", [VERMILION, "#ffffff", BLUE])
"""Worse to better, in the colours of the verdicts."""
DARK_FROM = 0.8
"""Of the largest difference: from here on words are white."""


def tasks(comparison: StudyComparison) -> Figure | None:
    """Differences of all arms on all tasks whose scores are in percent; None without an arm or with fewer than two tasks."""
    own = [metric for metric in comparison.all_metrics if metric not in comparison.metrics and not MetricName.parse(metric).rule]
    columns = [metric for metric in in_order(own) if comparison.scale(metric).in_percent and not MetricName.parse(metric).is_average]
    rows = [row for row in comparison.rows if not row.is_baseline and any(row.cells[metric].estimate for metric in columns)]
    if len(columns) < 2 or not rows:
        return None
    values = np.array([[_signed_by_worth(row.cells[metric]) for metric in columns] for row in rows])
    values = np.sign(values) * np.sqrt(np.abs(values))  # small differences are to be seen beside large ones
    reach = float(np.nanmax(np.abs(values))) or 1.0
    titles = [metric_title(metric) for metric in columns]
    with matplotlib.rc_context(STYLE):
        figure = blank(inches([row.name for row in rows]) + 0.62 * len(columns) + 0.4, 0.3 * len(rows) + 0.7 * inches(titles) + 0.7)
        axes = figure.subplots()
        edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
        axes.pcolormesh(*edges, values, cmap=COLOURS, norm=TwoSlopeNorm(0.0, -reach, reach))
        axes.invert_yaxis()
        for line, row in enumerate(rows):
            for place, metric in enumerate(columns):
                cell = row.cells[metric]
                if cell.estimate is None:
                    continue
                ink = "#ffffff" if abs(values[line, place]) > DARK_FROM * reach else INK
                weight = "bold" if _excludes_zero(cell) else "normal"
                axes.text(place, line, signed(cell.estimate.difference), ha="center", va="center", fontsize=7, color=ink, fontweight=weight)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_xticks(range(len(columns)), titles, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title("Differences from the baseline, task by task, in points")
        interval = percent(comparison.confidence)
        told = f"blue: better, orange: worse; bold: its {interval} interval excludes 0, by itself and uncorrected"
        figure.supxlabel(told, fontsize=8, color=MUTED)
        return figure


def _signed_by_worth(cell: Cell) -> float:
    """The difference, above zero where it is for the better."""
    if cell.estimate is None:
        return math.nan
    return cell.estimate.difference if cell.scale.higher_is_better else -cell.estimate.difference


def _excludes_zero(cell: Cell) -> bool:
    shown = cell.estimate.shown if cell.estimate else None
    return shown is not None and (shown.low > 0 or shown.high < 0)

"""Differences from the baseline on the primary metric: point, interval, seeds, numbers and verdict, an arm a line."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.cells import BETTER, HOLE, TOO_FEW, WORSE, ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.style import EQUIVALENT, FAINT, INK, MUTED, OF_BETTER, OF_WORSE, STYLE, inches, key, look, marker
from mm1_ablate.report.formats import bracketed, percent, short_name, signed

IN_COLOUR = (OF_BETTER, OF_WORSE, EQUIVALENT)
"""Whose words are in the colour of their points; orange and grey words would be too pale."""
INDENT = 0.18
"""Of names below their group, in inches."""


def forest(comparison: StudyComparison) -> Figure | None:
    """Differences from the baseline on the primary metric, an arm a line: point, interval, numbers, verdict. None without arms."""
    if not comparison.groups:
        return None
    lines: list[ArmRow | str] = []
    for group, rows in comparison.groups.items():
        if len(rows) > 1 or short_name(rows[0]) != rows[0].name:
            lines.append(group)
        lines += rows
    names = [line if isinstance(line, str) else short_name(line) for line in lines]
    numbers = [_numbers(line, comparison.primary) for line in lines]
    verdicts = ["" if isinstance(line, str) else line.verdict for line in lines]
    widths = [inches(names) + INDENT, 4.0, inches(numbers), inches(verdicts)]
    pitch = 0.36 if len(lines) < 15 else 0.3
    width, height = sum(widths) + 0.3, 1.0 + pitch * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        lefts = [0.1 + sum(widths[:place]) + 0.1 * (place > 1) for place in range(4)]
        beside, axes, *columns = (
            figure.add_axes((left / width, 0.55 / height, column / width, pitch * len(lines) / height))
            for left, column in zip(lefts, widths, strict=True)
        )
        for column in (beside, *columns):
            column.set_axis_off()
        low, high = _reach(comparison)
        axes.set_xlim(low, high)
        for column in (beside, axes, *columns):
            column.set_ylim(len(lines) - 0.5, -0.5)
        axes.axvspan(-comparison.margin, comparison.margin, color=FAINT, alpha=0.5, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        for position, line in enumerate(lines):
            weight = "bold" if isinstance(line, str) else "normal"
            indent = INDENT / widths[0] if not isinstance(line, str) and short_name(line) != line.name else 0
            beside.text(indent, position, names[position], va="center", fontweight=weight)
            columns[0].text(0, position, numbers[position], va="center")
            if not isinstance(line, str):
                _draw(axes, line, position, comparison)
                own = look(line, comparison)
                weight = "bold" if line.verdict in (BETTER, WORSE) else "normal"
                columns[1].text(0, position, line.verdict, va="center", color=own.colour if own in IN_COLOUR else INK, fontweight=weight)
        axes.set_title(f"{metric_title(comparison.primary)}: difference from the baseline{in_points(comparison)}", pad=8)
        shading = f"shaded: ±{comparison.margin:g}, the smallest difference of interest"
        axes.set_xlabel(f"{percent(comparison.confidence)} intervals; dots: seeds; {shading}", color=MUTED, fontsize=8)
        key(figure, [look(line, comparison) for line in lines if not isinstance(line, str)], 3, 0.15 / height)
        return figure


def _numbers(line: ArmRow | str, primary: str) -> str:
    if isinstance(line, str) or (estimate := line.cells[primary].estimate) is None:
        return ""
    scale = line.cells[primary].scale
    return f"{signed(estimate.difference, scale)} {bracketed(estimate, scale)}"


def in_points(comparison: StudyComparison) -> str:
    """', in points' of a metric whose scale is that of scores."""
    return ", in points" if comparison.scale(comparison.primary).in_percent else ""


def _reach(comparison: StudyComparison) -> tuple[float, float]:
    """What the axis shows: all points, seeds and intervals, and the differences that are of no interest."""
    estimates = [estimate for row in comparison.rows if (estimate := row.cells[comparison.primary].estimate)]
    ends = [0.0, -comparison.margin, comparison.margin]
    for estimate in estimates:
        ends += [estimate.difference, *estimate.by_seed, *(estimate.span or ())]
    edge = 0.04 * (max(ends) - min(ends))
    return min(ends) - edge, max(ends) + edge


def _draw(axes: Axes, row: ArmRow, position: int, comparison: StudyComparison) -> None:
    """The point, interval and seeds of an arm."""
    estimate, own = row.cells[comparison.primary].estimate, look(row, comparison)
    if estimate is None:
        return
    if shown := estimate.span:
        dotted = row.verdict in (TOO_FEW, HOLE)
        axes.plot(shown, (position, position), color=own.colour, linewidth=1.8, linestyle=":" if dotted else "-", solid_capstyle="butt")
    if len(estimate.by_seed) > 1:
        places = np.full(len(estimate.by_seed), position + 0.24)
        axes.plot(estimate.by_seed, places, ".", color=own.colour, alpha=0.7, markersize=4, markeredgewidth=0)
    axes.plot(estimate.difference, position, linestyle="", **marker(own))

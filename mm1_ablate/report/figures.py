"""Pictures of a comparison: differences with intervals, scores against shots, learning curves.

In: a `StudyComparison`, and for curves a table (arm, seed, step, loss). Out: matplotlib figures, as PNG or SVG bytes. Colours are Okabe and
Ito's (2008), told apart by colour-blind readers; every colour is doubled by a marker or a word. Nothing is shown on a screen.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import AVERAGE, MetricName, metric_title
from mm1_ablate.report.cells import BETTER, HOLE, LEANING, TOO_CLOSE, TOO_FEW, UNDECIDED, WORSE, ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import bracketed, percent, short_name, signed

INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d0d7de"
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"
COLOURS, MARKERS = (SKY, BLUE, VERMILION, GREEN, PURPLE, ORANGE), "Ps^Dv"
"""Six and five: thirty arms until a pair comes again."""
VERDICT_STYLES = {BETTER: (BLUE, "^"), WORSE: (VERMILION, "v"), HOLE: (MUTED, "x")}
VERDICT_STYLES |= dict.fromkeys((LEANING, TOO_CLOSE, TOO_FEW), (MUTED, "o"))
EQUIVALENT_STYLE = (GREEN, "D")
OF_SURROUNDINGS = ("backend", "interactive", "toolbar", "webagg", "tk.", "macosx", "keymap", "date.", "timezone")
STYLE: Any = {
    # Whoever runs the command may have a matplotlibrc, for a paper with LaTeX, say.
    **{name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(OF_SURROUNDINGS)},
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "mm1-ablate",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}
ROW_HEIGHT, INDENT = 0.36, 0.18
"""Of the forest plot, in inches."""
Draw = Callable[[Axes, ArmRow, str, str, float], None]
"""Draws one arm: (axes, row, colour, marker, sideways shift)."""


def png(figure: Figure) -> bytes:
    """200 dots per inch on white."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.1, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """With text as text, and on no background."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        metadata = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.1, transparent=True, metadata=metadata)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(comparison: StudyComparison, losses: pd.DataFrame | None = None) -> dict[str, Figure]:
    """All pictures that there is something to draw for, by name."""
    pictures = {
        "forest": forest(comparison),
        "shots": shots(comparison),
        "effects": effects(comparison),
        "curves": curves(comparison, losses),
    }
    return {name: figure for name, figure in pictures.items() if figure is not None}


# ---------------------------------------------------------------- differences
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
    widths = [_inches(names) + INDENT, 4.0, _inches(numbers), _inches(verdicts)]
    width, height = sum(widths) + 0.3, 1.0 + ROW_HEIGHT * len(lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        lefts = [0.1 + sum(widths[:place]) + 0.1 * (place > 1) for place in range(4)]
        beside, axes, *columns = (
            figure.add_axes((left / width, 0.55 / height, column / width, ROW_HEIGHT * len(lines) / height))
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
                colour = _forest_line(axes, line, position, comparison, low, high)
                weight = "bold" if line.verdict in (BETTER, WORSE) else "normal"
                columns[1].text(0, position, line.verdict, va="center", color=INK if colour == MUTED else colour, fontweight=weight)
        axes.set_title(f"{metric_title(comparison.primary)}: difference from the baseline{_in_points(comparison)}", pad=8)
        shading = f"shaded: ±{comparison.margin:g}, the smallest difference of interest"
        axes.set_xlabel(f"{percent(comparison.confidence)} intervals; dots: seeds; {shading}", color=MUTED, fontsize=8)
        return figure


def _numbers(line: ArmRow | str, primary: str) -> str:
    if isinstance(line, str) or (estimate := line.cells[primary].estimate) is None:
        return ""
    scale = line.cells[primary].scale
    return f"{signed(estimate.difference, scale)} {bracketed(estimate, scale)}"


def _in_points(comparison: StudyComparison) -> str:
    return ", in points" if comparison.scale(comparison.primary).in_percent else ""


def _inches(texts: Sequence[str]) -> float:
    """Room for the longest of some texts in 9 points of a wide typeface."""
    return 0.077 * max(map(len, texts)) + 0.15


def _reach(comparison: StudyComparison) -> tuple[float, float]:
    """What the axis shows: all points, and intervals as far as they do not dwarf them."""
    estimates = [cell.estimate for row in comparison.rows if (cell := row.cells[comparison.primary]).estimate]
    differences = [estimate.difference for estimate in estimates if estimate] or [0.0]
    span = max(max(map(abs, differences)), 2 * comparison.margin)
    seeds = [one for estimate in estimates if estimate for one in estimate.by_seed]
    ends = seeds + [end for estimate in estimates if estimate and estimate.span for end in estimate.span]
    low = max(min([*differences, *ends, -comparison.margin]), min(*differences, 0.0) - 0.8 * span)
    high = min(max([*differences, *ends, comparison.margin]), max(*differences, 0.0) + 0.8 * span)
    edge = 0.06 * (high - low)
    return low - edge, high + edge


def _forest_line(axes: Axes, row: ArmRow, position: int, comparison: StudyComparison, low: float, high: float) -> str:
    """Draws the point, interval and seeds of an arm; the colour of its verdict."""
    estimate = row.cells[comparison.primary].estimate
    colour, marker = VERDICT_STYLES.get(row.verdict, EQUIVALENT_STYLE)
    if estimate is None:
        return colour
    if shown := estimate.span:
        ends = max(shown.low, low), min(shown.high, high)
        dotted = row.verdict in (TOO_FEW, HOLE)
        axes.plot(ends, (position, position), color=colour, linewidth=1.8, linestyle=":" if dotted else "-", solid_capstyle="butt")
        for end, limit, arrow in ((shown.low, low, "<"), (shown.high, high, ">")):
            if (end - limit) * (1 if arrow == ">" else -1) > 0:
                axes.plot(limit, position, arrow, color=colour, markersize=5, clip_on=False)
    if len(estimate.by_seed) > 1:
        places = np.full(len(estimate.by_seed), position + 0.24)
        axes.plot(estimate.by_seed, places, ".", color=colour, alpha=0.7, markersize=4, markeredgewidth=0)
    hollow = row.verdict in UNDECIDED
    face = "white" if hollow else colour
    axes.plot(estimate.difference, position, marker, color=colour, markersize=6.5, markerfacecolor=face, markeredgewidth=1.4)
    return colour


# ---------------------------------------------------------------- effects in grids
def effects(comparison: StudyComparison) -> Figure | None:
    """Main effects and interactions of grids with their intervals, a line each; full points hold after correction. None without grids."""
    shown = [(effect, effect.estimate) for effect in comparison.effects if effect.estimate is not None]
    if not shown:
        return None
    several = len({effect.group for effect, _ in shown}) > 1
    titles = [(f"{effect.group}: " if several else "") + effect.title.replace(", at ", ",\nat ") for effect, _ in shown]
    points = [comparison.margin, *(abs(estimate.difference) for _, estimate in shown)]
    ends = [max(map(abs, estimate.span)) for _, estimate in shown if estimate.span]
    reach = 1.1 * min(max([*ends, *points]), 3 * max(points))
    names = _inches([line for title in titles for line in title.splitlines()])
    with matplotlib.rc_context(STYLE):
        figure = _figure(names + 4.2, 0.9 + sum(0.3 + 0.14 * title.count("\n") for title in titles))
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        for position, (effect, estimate) in enumerate(shown):
            significant = comparison.is_significant(effect)
            colour = ORANGE if effect.is_interaction else BLUE
            if estimate.span:
                axes.plot(estimate.span, (position, position), color=colour, linestyle="-" if effect.complete else ":")
            marker, face = "D" if effect.is_interaction else "o", colour if significant else "white"
            axes.plot(estimate.difference, position, marker, color=colour, markerfacecolor=face, markeredgewidth=1.4)
        axes.set_yticks(range(len(shown)), titles)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(-reach, reach)
        axes.set_title(f"{metric_title(comparison.primary)}: effects in grids{_in_points(comparison)}")
        kinds = "circles: main effects, diamonds: interactions"
        axes.set_xlabel(f"{percent(comparison.confidence)} intervals; {kinds}", color=MUTED, fontsize=8)
        return figure


# ---------------------------------------------------------------- scores by shots
def shots(comparison: StudyComparison) -> Figure | None:
    """Average score against the number of shots, a panel for each group of arms; None without scores at two numbers of shots."""
    parsed = [(metric, MetricName.parse(metric)) for metric in comparison.all_metrics]
    found = {one.shots: metric for metric, one in parsed if one.shots is not None and one.name == AVERAGE}
    if len(found) < 2 or all(row.cells[metric].n == 0 for row in comparison.rows for metric in found.values()):
        return None
    counts = sorted(found)

    def draw(axes: Axes, row: ArmRow, colour: str, marker: str, shift: float) -> None:
        cells = [row.cells[found[count]] for count in counts]
        deviations = [0.0 if math.isnan(cell.deviation) else cell.deviation for cell in cells]
        places = [position + shift for position in range(len(counts))]
        means = [cell.mean for cell in cells]
        label = "baseline" if row.is_baseline else short_name(row)
        width = 2.4 if row.is_baseline else 1.6
        axes.errorbar(places, means, deviations, color=colour, marker=marker, linewidth=width, elinewidth=1, capsize=2, label=label)
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])

    return _panels(comparison, draw, "shots", "mean score", "bars: standard deviation over seeds")


def curves(comparison: StudyComparison, losses: pd.DataFrame | None) -> Figure | None:
    """Training loss against steps, mean over seeds (faint: each seed), a panel for each group of arms."""
    if losses is None or losses.empty:
        return None
    by_arm = {str(arm): rows for arm, rows in losses.dropna(subset=["loss"]).groupby("arm", sort=False)}

    def draw(axes: Axes, row: ArmRow, colour: str, marker: str, shift: float) -> None:
        if row.name not in by_arm:
            return
        table = _binned(by_arm[row.name])
        for seed in table:
            axes.plot(table.index, table[seed], color=colour, linewidth=0.6, alpha=0.35)
        mean = table.mean(axis=1)
        label = "baseline" if row.is_baseline else short_name(row)
        width, every = 2.2 if row.is_baseline else 1.6, max(len(mean) // 6, 1)
        axes.plot(mean.index, mean, color=colour, label=label, linewidth=width, marker=marker, markevery=every, markersize=4)

    top = float(losses["loss"].quantile(0.98))
    return _panels(comparison, draw, "step", "training loss", "faint: single seeds", top)


def _binned(rows: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Loss by step (at most `bins`, each the mean of its neighbourhood: single steps are mostly noise) and seed."""
    last = float(rows["step"].max())
    size = max(1.0, math.ceil((last + 1) / bins))
    middles = np.minimum((rows["step"] // size + 0.5) * size, last)
    return rows.assign(step=middles).pivot_table(index="step", columns="seed", values="loss")


def _panels(comparison: StudyComparison, draw: Draw, across: str, up: str, footnote: str, top: float | None = None) -> Figure:
    """A panel for each group: its baseline in black, its arms in colours."""
    groups = comparison.sections() or [("baseline", list(comparison.rows))]
    columns = 2 if len(groups) == 4 else min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    with matplotlib.rc_context(STYLE):
        figure = _figure(max(3.3 * columns, 5.2), 3.3 * lines + 0.2)
        all_axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes, (title, rows) in zip(all_axes.flat, groups, strict=False):
            step = min(0.06, 0.3 / len(rows))
            for position, row in enumerate(rows):
                colour, marker = (COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]) if position else (INK, "o")
                draw(axes, row, colour, marker, (position - (len(rows) - 1) / 2) * step)
            axes.set_title(title)
            axes.set_xlabel(across)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2 if max(len(short_name(row)) for row in rows) < 18 else 1)
            if top:
                axes.set_ylim(top=top)
        for axes in list(all_axes.flat)[len(groups) :]:
            axes.set_visible(False)
        for line in all_axes:
            line[0].set_ylabel(f"{up}\n({footnote})", multialignment="center")
        return figure

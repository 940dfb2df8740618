"""Score against cost: what an arm's parameters, operations and image tokens buy on the primary metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.style import FAINT, INK, MUTED, STYLE, blank, key, look, marker
from mm1_ablate.report.formats import short_name
from mm1_ablate.report.terminal import folded

TITLES = ("FLOPs per token", "parameters", "image tokens")
MOST_NAMES = 6
"""Arms of a panel that are all named; of more, those that no other arm beats in both cost and score."""
MOST_TICKS = 4
"""Costs of a panel that are all on its axis."""
TITLE = 26
"""Characters of a line of a name."""
LOGARITHMIC_FROM = 4
"""How many times the largest cost must be the smallest for a logarithmic axis."""


def costs(comparison: StudyComparison) -> Figure | None:
    """A panel for each cost in which arms with scores differ; None where there is none."""
    scored = [row for row in comparison.rows if row.cells[comparison.primary].n]
    found: dict[str, dict[str, float]] = {}
    for title in TITLES:
        own = {row.name: float(row.costs[title].value) for row in scored if title in row.costs}
        if len(set(own.values())) > 1:
            found[title] = own
    if not found:
        return None
    with matplotlib.rc_context(STYLE):
        figure = blank(3.6 * len(found) + 0.6, 3.4)
        all_axes = figure.subplots(1, len(found), squeeze=False, sharey=True)
        for axes, (title, own) in zip(all_axes.flat, found.items(), strict=True):
            rows = [row for row in scored if row.name in own]
            best = frontier(rows, own, comparison)
            axes.step([own[row.name] for row in best], [row.cells[comparison.primary].mean for row in best], where="post", color=FAINT)
            for row in rows:
                cell = row.cells[comparison.primary]
                deviation = cell.deviation if cell.n > 1 else None
                axes.errorbar(own[row.name], cell.mean, deviation, elinewidth=1, capsize=2, linestyle="", **marker(look(row, comparison)))
            _name(axes, rows if len(rows) <= MOST_NAMES else best, own, comparison)
            if min(own.values()) > 0 and max(own.values()) >= LOGARITHMIC_FROM * min(own.values()):
                axes.set_xscale("log")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            if len(distinct := sorted(set(own.values()))) <= MOST_TICKS:
                axes.set_xticks(distinct)
            axes.set_title(title)
            axes.margins(x=0.2, y=0.12)
        all_axes[0][0].set_ylabel(metric_title(comparison.primary))
        figure.supxlabel("bars: standard deviation over seeds; line: the best score at this cost or less", fontsize=8, color=MUTED)
        key(figure, [look(row, comparison) for row in scored], 3, 0.0)
        return figure


def _name(axes: Axes, rows: Sequence[ArmRow], cost: Mapping[str, float], comparison: StudyComparison) -> None:
    """Names beside points, on the side of the panel's middle."""
    middle = (min(cost.values()) + max(cost.values())) / 2
    for row in rows:
        right = cost[row.name] > middle
        place = cost[row.name], row.cells[comparison.primary].mean
        name = folded("baseline" if row.is_baseline else short_name(row), TITLE)
        beside = axes.annotate(name, place, (-8 if right else 8, 0), textcoords="offset points", fontsize=7, color=INK)
        beside.set(horizontalalignment="right" if right else "left", verticalalignment="center", in_layout=False)


def frontier(rows: Sequence[ArmRow], cost: Mapping[str, float], comparison: StudyComparison) -> list[ArmRow]:
    """The arms that have a better score than all that cost as much or less, the cheapest first."""
    primary, scale = comparison.primary, comparison.scale(comparison.primary)
    best: list[ArmRow] = []
    for row in sorted(
        rows, key=lambda row: (cost[row.name], -row.cells[primary].mean if scale.higher_is_better else row.cells[primary].mean)
    ):
        if not best or scale.is_better(row.cells[primary].mean - best[-1].cells[primary].mean):
            best.append(row)
    return best

"""Main effects and interactions of grids with their intervals."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.forest import in_points
from mm1_ablate.report.figures.style import INK, MUTED, PURPLE, SKY, STYLE, blank, inches
from mm1_ablate.report.formats import percent


def effects(comparison: StudyComparison) -> Figure | None:
    """Main effects and interactions of grids with their intervals, a line each; full points hold after correction. None without grids."""
    shown = [(effect, effect.estimate) for effect in comparison.effects if effect.estimate is not None]
    if not shown:
        return None
    several = len({effect.group for effect, _ in shown}) > 1
    titles = [(f"{effect.group}: " if several else "") + effect.title.replace(", at ", ",\nat ") for effect, _ in shown]
    points = [comparison.margin, *(abs(estimate.difference) for _, estimate in shown)]
    ends = [max(map(abs, estimate.span)) for _, estimate in shown if estimate.span]
    reach = 1.1 * max([*ends, *points])
    names = inches([line for title in titles for line in title.splitlines()])
    with matplotlib.rc_context(STYLE):
        figure = blank(names + 4.2, 0.9 + sum(0.3 + 0.14 * title.count("\n") for title in titles))
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        for position, (effect, estimate) in enumerate(shown):
            significant = comparison.is_significant(effect)
            colour = PURPLE if effect.is_interaction else SKY
            if estimate.span:
                axes.plot(estimate.span, (position, position), color=colour, linestyle="-" if effect.complete else ":")
            marker, face = "D" if effect.is_interaction else "o", colour if significant else "white"
            axes.plot(estimate.difference, position, marker, color=colour, markerfacecolor=face, markeredgewidth=1.4)
        axes.set_yticks(range(len(shown)), titles)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(-reach, reach)
        axes.set_title(f"{metric_title(comparison.primary)}: effects in grids{in_points(comparison)}")
        kinds = "circles: main effects, diamonds: interactions"
        axes.set_xlabel(f"{percent(comparison.confidence)} intervals; {kinds}", color=MUTED, fontsize=8)
        return figure

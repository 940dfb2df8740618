"""Scores against the mixture of data, as in MM1's figure 5: for each group of arms that change nothing else, the metrics by mixture."""

from __future__ import annotations

import math

import matplotlib
from matplotlib.figure import Figure

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.figures.style import BLUE, INK, MUTED, PURPLE, SKY, STYLE, VERMILION, blank

OF_METRICS = ((PURPLE, "D"), (SKY, "o"), (BLUE, "s"), (INK, "^"), (VERMILION, "v"), (MUTED, "P"))
"""By the place of a metric in the table, the same in all panels."""
PATH = "data.mixture."


def mixtures(comparison: StudyComparison) -> Figure | None:
    """A panel for each group of two arms or more with scores that differ from their baseline in the mixture alone; None without any."""
    groups = {
        group: arms for group, rows in comparison.groups.items() if len(arms := [row for row in rows if _is_mixture(row, comparison)]) > 1
    }
    if not groups:
        return None
    types = list(dict.fromkeys(name for row in comparison.rows for name, share in row.mixture.items() if share))
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    with matplotlib.rc_context(STYLE):
        figure = blank(3.9 * columns, 3.3 * lines + 0.4)
        all_axes = figure.subplots(lines, columns, squeeze=False, sharey=comparison.scale(comparison.primary).in_percent)
        for axes, (group, arms) in zip(all_axes.flat, groups.items(), strict=False):
            rows = sorted([comparison.row(arms[0].baseline), *arms], key=lambda row: [-row.mixture.get(name, 0.0) for name in types])
            for (colour, shape), metric in zip(OF_METRICS, comparison.metrics, strict=False):
                cells = [row.cells[metric] for row in rows]
                deviations = [0.0 if math.isnan(cell.deviation) else cell.deviation for cell in cells]
                means = [cell.mean for cell in cells]
                label = metric_title(metric)
                axes.errorbar(range(len(rows)), means, deviations, color=colour, marker=shape, elinewidth=1, capsize=2, label=label)
            axes.set_xticks(range(len(rows)), [_shares(row, types) for row in rows], fontsize=7)
            axes.set_title(group)
        for axes in list(all_axes.flat)[len(groups) :]:
            axes.set_visible(False)
        figure.supylabel("mean score", fontsize=9)
        told = f"columns: % of {', '.join(types)}, from above; bars: standard deviation over seeds"
        figure.supxlabel(told, fontsize=8, color=MUTED)
        handles, labels = all_axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(labels))
        return figure


def _is_mixture(row: ArmRow, comparison: StudyComparison) -> bool:
    """Whether an arm has scores and differs from its baseline in nothing but the mixture."""
    changed = bool(row.differences) and all(change.path.startswith(PATH) for change in row.differences)
    return changed and bool(row.mixture) and row.cells[comparison.primary].n > 0


def _shares(row: ArmRow, types: list[str]) -> str:
    """A line for each type of data: '45\\n45\\n10', and of the baseline its name below."""
    lines = [f"{100 * row.mixture.get(name, 0.0):.0f}" for name in types]
    return "\n".join([*lines, *(["baseline"] if row.is_baseline else [])])

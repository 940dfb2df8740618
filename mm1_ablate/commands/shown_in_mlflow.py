"""A study brought to MLflow. In: a comparison and the folder of its report. Out: what `tracking` writes; sentences where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mm1_ablate.commands.common import say
from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.study import Study
from mm1_ablate.report.cells import ArmRow, Cell
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import decimals, difference, number
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.text import headline, wide_table
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.mlflow_runs import Tracked, no_files, track
from mm1_ablate.tracking.run_contents import short_metric
from mm1_ablate.tracking.server import TrackingFailed
from mm1_ablate.tracking.shown_study import ComparedArm, ComparedScore, ComparedStudy


def bring_to_mlflow(study: Study, store: Store, compared: ComparedStudy | None = None) -> Tracked | None:
    """Bring MLflow up to the store. If it fails nothing is lost, which is said: it is written again."""
    try:
        tracked = track(study, store, compared)
    except TrackingFailed as error:
        say(f"{error} (everything is in the store; the next run writes it again)")
        return None
    if tracked.without_files:
        say(f"{no_files(tracked)} (everything is in the store)")
    return tracked


def compared_study(comparison: StudyComparison, report: Path | None) -> ComparedStudy:
    """A comparison as MLflow shows it."""
    return ComparedStudy(
        headline=headline(comparison),
        primary=metric_title(comparison.primary),
        arms={row.name: _arm(row, comparison) for row in comparison.rows},
        note=markdown(comparison),
        table=wide_table(comparison),
        report=report,
    )


def _arm(row: ArmRow, comparison: StudyComparison) -> ComparedArm:
    cell = row.cells[comparison.primary]
    return ComparedArm(
        verdict="baseline" if row.is_baseline else row.verdict,
        seeds=row.n,
        scores=_scores(row.cells, comparison),
        also_changed="; ".join(confound.text for confound in row.confounds if not confound.is_minor),
        score=number(cell.mean, cell.scale),
        difference=difference(cell.estimate, cell.scale) if cell.estimate else "",
    )


def _scores(cells: Mapping[str, Cell], comparison: StudyComparison) -> dict[str, ComparedScore]:
    return {short_metric(metric): _score(cells[metric]) for metric in comparison.metrics}


def _score(cell: Cell) -> ComparedScore:
    """Rounded to one digit more than tables show, so that sorting tells apart what they do not."""

    def shown(value: float) -> float:
        return round(value, decimals(value, cell.scale) + 1) + 0.0

    estimate = cell.estimate
    interval = estimate.shown if estimate else None
    return ComparedScore(
        mean=shown(cell.mean),
        difference=shown(estimate.difference) if estimate else None,
        low=shown(interval.low) if interval else None,
        high=shown(interval.high) if interval else None,
        p_adjusted=round(cell.p_adjusted, 4) if cell.p_adjusted >= 0.0001 or not cell.p_adjusted else cell.p_adjusted,
    )

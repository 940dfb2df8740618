"""Arms against their baselines, metric by metric.

In: a study, its results (arm, seed, fingerprint, metric, value; scores on a scale of 0 to 100), the holes in its grid and, if kept,
per-item scores. Out: a `StudyComparison`: rows in the order of the sweep, each baseline before its arms, with means over seeds, differences
with intervals, and on the primary metric a verdict. How it is shown is the work of `text.py`, `markdown.py`,
`figures/` and `html.py`, which import this and are not imported here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mm1_ablate.config.declarations import History
from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.paper_results import Counterparts
from mm1_ablate.config.study import Arm, Study
from mm1_ablate.config.sweep.declaration import Expectation
from mm1_ablate.config.sweep.differences import declared_in_words
from mm1_ablate.report.cells import ArmRow, Cell, Hole, Measure, cell_json
from mm1_ablate.report.confounds import confounds, held_constant
from mm1_ablate.report.effects import Effect, effects
from mm1_ablate.report.expectations import Judgement, priced
from mm1_ablate.report.judged_in_time import judge_in_time
from mm1_ablate.report.looks import Answered, Looks, replay
from mm1_ablate.report.lost_data import DataLoss, data_losses
from mm1_ablate.report.metric_info import PERCENT, Scale, explained, scales
from mm1_ablate.report.price import SeedCost, pooled, typical
from mm1_ablate.report.rules import FixedSeeds, Rule
from mm1_ablate.report.said_before import SaidBefore
from mm1_ablate.report.scores import Scores
from mm1_ablate.report.second_looks import second_looks
from mm1_ablate.report.statistics import LEAST_SEEDS, Estimate, detectable_difference
from mm1_ablate.report.task_scores import TaskScores
from mm1_ablate.report.verdicts import FalseVerdicts, distinct_comparisons, family_sizes, remarks_on, with_prices, with_verdicts

SINGLE_CHANGES = "Single changes"
"""Title of groups of a single arm each, shown together."""


@dataclass(frozen=True)
class Looked:
    """How a study was looked at whose seeds were added until it was decided."""

    at: tuple[int, ...]
    """Numbers of seeds, of all looks that there could be."""
    nominal: float
    """The two-sided level of each look for a single comparison, and that of the intervals."""


@dataclass(frozen=True)
class StudyComparison:
    """A whole study, compared."""

    study: str
    description: str
    primary: str
    metrics: tuple[str, ...]
    """Columns of the table, the primary metric among them."""
    all_metrics: tuple[str, ...]
    """All that the results hold, columns of the table first."""
    confidence: float
    margin: float
    """Smallest difference of interest."""
    seeds: tuple[int, ...]
    families: dict[str, int]
    """Distinct comparisons on the primary metric that share one level of error."""
    rows: tuple[ArmRow, ...]
    holes: tuple[Hole, ...]
    expectations: tuple[Judgement, ...]
    withdrawn: tuple[Judgement, ...]
    """Expectations that were declared once, and are not any more."""
    effects: tuple[Effect, ...]
    """Of grids, on the primary metric; exploratory."""
    held_constant: tuple[str, ...]
    """What all arms have in common with their baselines, as far as it was measured."""
    descriptions: Mapping[str, str]
    """What a group is to find out, by group, where the sweep says it."""
    remarks_on_declarations: tuple[str, ...]
    """What was changed after scores of what the verdicts hang on; shown with the conclusion."""
    remarks: tuple[str, ...]
    """Remarks on how the numbers were measured."""
    data_losses: tuple[DataLoss, ...] = ()
    """Data that was unreadable, not kept, cut or too long, by source and reason."""
    tasks: TaskScores = field(default_factory=TaskScores)
    """Over how many items the score of each task is, between which floor and ceiling it lies, and which items could not be evaluated."""
    published: tuple[Counterparts, ...] = ()
    """The rows of the paper that arms correspond to (see `paper_comparison.py`)."""
    detectable: float = float("nan")
    """The smallest true difference on the primary metric that the design finds with 80 % power, at the first step of the correction, by the
    spread pooled over arms; NaN with fewer than three seeds."""
    looks: Looked | None = None
    """None: the seeds were fixed."""
    false_verdicts: FalseVerdicts | None = None
    """How often arms that equal the baseline were called better or worse, where the study has such arms."""

    def row(self, name: str) -> ArmRow:
        """The row of an arm."""
        return next(row for row in self.rows if row.name == name)

    def scale(self, metric: str) -> Scale:
        """What kind of number a metric is."""
        return next((row.cells[metric].scale for row in self.rows if metric in row.cells), PERCENT)

    def is_below_floor(self, row: ArmRow, metric: str) -> bool:
        """Whether an arm's score is worse than what needs no image and no question."""
        return metric in self.tasks.columns and self.tasks.columns[metric].is_below_floor(row.name, row.cells[metric].mean)

    @property
    def groups(self) -> dict[str, tuple[ArmRow, ...]]:
        """Arms by group, without baselines."""
        names = dict.fromkeys(row.group for row in self.rows if not row.is_baseline)
        return {name: tuple(row for row in self.rows if row.group == name and not row.is_baseline) for name in names}

    def sections(self) -> list[tuple[str, list[ArmRow]]]:
        """Groups under a title, each with its baseline in front; groups of a single arm stand together where they share a baseline."""
        sections: list[tuple[list[str], list[ArmRow]]] = []
        single: dict[str, tuple[list[str], list[ArmRow]]] = {}
        for group, rows in self.groups.items():
            baseline = self.row(rows[0].baseline)
            if len(rows) == 1 and baseline.name in single:
                single[baseline.name][0].append(group)
                single[baseline.name][1].append(rows[0])
            else:
                sections.append(([group], [baseline, *rows]))
                if len(rows) == 1:
                    single[baseline.name] = sections[-1]
        return [(groups[0] if len(groups) == 1 else SINGLE_CHANGES, rows) for groups, rows in sections]

    def is_significant(self, difference: Cell | Effect) -> bool:
        """Whether a difference, or an effect of a grid, is significant after correction."""
        return difference.p_adjusted <= 1 - self.confidence + 1e-12

    def is_significant_alone(self, cell: Cell) -> bool:
        """Whether a difference would be significant if it were the only one, and is not after correction."""
        estimate, level = cell.estimate, self.looks.nominal if self.looks else 1 - self.confidence
        if estimate is None or not estimate.known or estimate.seeds < LEAST_SEEDS:
            return False
        return estimate.p <= level and not self.is_significant(cell)

    def long(self) -> pd.DataFrame:
        """A line for each arm and metric, unrounded: what comparison.csv holds."""
        return pd.DataFrame(
            [
                {"arm": row.name, "group": row.group, "baseline": row.baseline, "metric": metric, **cell_json(cell)}
                | {"verdict": row.verdict if metric == self.primary else ""}
                for row in self.rows
                for metric, cell in row.cells.items()
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, unrounded, as plain JSON values; what is unknown is null."""
        return {
            "study": self.study,
            "description": self.description,
            "primary": self.primary,
            "metrics": list(self.metrics),
            "confidence": self.confidence,
            "smallest_difference_of_interest": self.margin,
            "seeds": list(self.seeds),
            "looks": {"at": list(self.looks.at), "nominal_level": self.looks.nominal} if self.looks else None,
            "families": {"comparisons": self.families, "correction": "Holm"},
            "detectable": None if math.isnan(self.detectable) else self.detectable,
            "arms": [
                {
                    "name": row.name,
                    "group": row.group,
                    "baseline": row.baseline,
                    "n": row.n,
                    "seeds": list(row.seeds),
                    "metrics": {metric: cell_json(cell) for metric, cell in row.cells.items()},
                    "verdict": row.verdict,
                    "decided_at": row.decided_at,
                    "price": row.price.to_json() if row.price else None,
                    "notes": list(row.notes),
                    "changes": list(row.changes),
                    "differences": [change.to_json() for change in row.differences],
                    "brought_along": list(row.also_changed),
                    "costs": {title: measure.value for title, measure in row.costs.items()},
                }
                for row in self.rows
            ],
            "holes": [{"arm": hole.arm, "seed": hole.seed, "reason": hole.reason} for hole in self.holes],
            "expectations": [judgement.to_json() for judgement in self.expectations],
            "withdrawn": [judgement.to_json() for judgement in self.withdrawn],
            "effects": [effect.to_json() for effect in self.effects],
            "published": [known.to_json() for known in self.published],
            "false_verdicts": self.false_verdicts.to_json() if self.false_verdicts else None,
            "held_constant": list(self.held_constant),
            "tasks": self.tasks.to_json(),
            "data_losses": [loss.to_json() for loss in self.data_losses],
            "remarks": [*self.remarks_on_declarations, *self.remarks],
        }


def compare(
    study: Study,
    results: pd.DataFrame,
    holes: Iterable[tuple[str, int, str]] = (),
    items: pd.DataFrame | None = None,
    costs: Mapping[str, Sequence[Measure]] | None = None,
    accounts: Iterable[Mapping[str, Mapping[str, Any]]] = (),
    tasks: TaskScores | None = None,
    warnings: Iterable[str] = (),
    seconds_per_trial: float | None = None,
    history: History | None = None,
) -> StudyComparison:
    """Compare every arm of a study with its baseline.

    Args:
        results: columns arm, seed, metric, value; one line for each score, on a scale of 0 to 100.
        holes: (arm, seed, reason) of trials that gave no scores. What is missing in the results without being named is a hole too.
        items: per-item scores with columns arm, seed, task, family, shots, item, metric, primary, score (see `scores.py`); makes
            intervals cover the sampling of evaluation items.
        costs: by arm, what it took, saw and answered (see `confounds.measures`). What differs from the baseline's is named in the table,
            so that a reader sees what was held constant.
        accounts: of each trial, what became of its data (see `lost_data.py`).
        tasks: what the score of each task stands on (see `task_scores.py`).
        warnings: warnings shown before the run, a line each with its place in a file.
        seconds_per_trial: as they pass on the clock; None where no trial has been timed. Prices name it.
        history: what the study declared and when (see `said_before.py`). None: that is not known, and nothing is said of it.
    """
    declared, tasks = study.sweep.compare, tasks or TaskScores()
    metrics = tuple(dict.fromkeys([*declared.metrics, declared.primary]))
    all_metrics = tuple(dict.fromkeys([*metrics, *map(str, results["metric"])]))
    kinds = scales(all_metrics, items)
    scores = Scores(results, items, declared.confidence, study.arms[0].experiment.evaluation.groups, kinds)
    all_holes = _all_holes(study, scores, holes)
    measured = _measured_rows(study, scores, kinds, costs or {})
    looks = replay(study, scores) if study.sweep.until_decided else None
    measured = [_at_its_look(row, looks, declared.primary) for row in measured] if looks else measured
    rule: Rule = looks or FixedSeeds(1 - declared.confidence)
    cost = SeedCost(_trials_of_a_seed(study), seconds_per_trial)
    judged = with_verdicts(measured, study, metrics, all_holes, rule)
    common = {metric: typical(row.cells[metric].estimate for row in measured) for metric in all_metrics}
    rows = with_prices(judged, study, rule, common[declared.primary], cost)
    families = family_sizes(distinct_comparisons(study).values())
    lacking = {hole.arm for hole in all_holes}

    def evidence(one: Expectation) -> tuple[Estimate | None, str]:
        found = _evidence(one, study, scores, lacking)
        return _at_the_look_of_a_claim(one, *found, looks, study.sweep.expect) if looks else found

    expected, withdrawn = judge_in_time(study, history, evidence, rule)
    if looks:
        expected = tuple(_looked(one, own, looks) for one, own in zip(expected, looks.expectations, strict=True))
    warned = (f"Warning before the run: {line}" for line in warnings)
    remarks = (*remarks_on(study, rows, metrics), *explained(metrics), *tasks.uneven_in_words(), *warned)
    return StudyComparison(
        study=study.name,
        description=study.sweep.description,
        primary=declared.primary,
        metrics=metrics,
        all_metrics=all_metrics,
        confidence=declared.confidence,
        margin=declared.smallest_difference_of_interest,
        seeds=tuple(study.sweep.possible_seeds[: max(looks.needed.values()) if looks else None]),
        families=families,
        rows=rows,
        holes=all_holes,
        expectations=priced(expected, rule, common, cost),
        withdrawn=withdrawn,
        detectable=_detectable(rows, declared.primary, families, rule),
        looks=Looked(looks.design.looks, looks.nominal) if looks else None,
        effects=effects(study, scores, declared.primary),
        held_constant=held_constant(rows),
        descriptions={name: group.description for name, group in study.sweep.ablations.items() if group.description},
        remarks_on_declarations=_remarks_on_declarations(study, history),
        remarks=remarks,
        data_losses=data_losses(accounts),
        tasks=tasks,
        published=study.published,
    )


def _remarks_on_declarations(study: Study, history: History | None) -> tuple[str, ...]:
    """That it is a try, and what was declared again after scores."""
    said = (*SaidBefore(history).remarks(), *second_looks(history, study.sweep.compare.confidence)) if history else ()
    return (*((study.tried,) if study.tried else ()), *said)


def _measured_rows(study: Study, scores: Scores, kinds: Mapping[str, Scale], costs: Mapping[str, Sequence[Measure]]) -> list[ArmRow]:
    """A row for each arm, with means, differences and what was held constant; not yet judged.

    Args:
        kinds: the scale of each metric, in the order of cells.
    """
    primary = study.sweep.compare.primary
    by_title = {arm.name: {measure.title: measure for measure in costs.get(arm.name, ())} for arm in study.arms}
    rows = []
    for arm in _ordered(study.arms):
        cells = {metric: _cell(arm, metric, scores, scale) for metric, scale in kinds.items()}
        rows.append(
            ArmRow(
                arm.name,
                arm.group,
                arm.baseline,
                seeds=tuple(sorted(scores.of(arm.name, primary))),
                cells=cells,
                changes=declared_in_words(arm),
                differences=arm.changes,
                confounds=confounds(arm, by_title[arm.name], by_title[arm.baseline], by_title),
                costs=by_title[arm.name],
                mixture=_shares(arm.experiment.data.mixture),
            )
        )
    return rows


def _shares(mixture: Mapping[Any, float]) -> dict[str, float]:
    total = sum(mixture.values())
    return {str(name): weight / total for name, weight in mixture.items()}


def _cell(arm: Arm, metric: str, scores: Scores, scale: Scale) -> Cell:
    own = np.array(list(scores.of(arm.name, metric).values()))
    return Cell(
        mean=float(own.mean()) if len(own) else float("nan"),
        deviation=float(own.std(ddof=1)) if len(own) > 1 else float("nan"),
        n=len(own),
        estimate=None if arm.name == arm.baseline else scores.difference(arm.name, arm.baseline, metric),
        scale=scale,
    )


def _at_its_look(row: ArmRow, looks: Looks, primary: str) -> ArmRow:
    """A row with the difference on the primary metric as it was at the look that decided it, or at the last one."""
    own = looks.comparisons.get(row.name)
    if own is None:
        return row
    cell = row.cells[primary]
    estimate = own.estimate or (looks.with_its_interval(cell.estimate) if cell.estimate else None)
    notes = [line] if (line := own.in_words(looks.design)) else []
    return replace(
        row,
        cells={**row.cells, primary: replace(cell, estimate=estimate)},
        decided_at=own.seeds if own.decided else None,
        notes=(*notes, *row.notes),
    )


def _at_the_look_of_a_claim(
    expected: Expectation, estimate: Estimate | None, obstacle: str, looks: Looks, declared: Sequence[Expectation]
) -> tuple[Estimate | None, str]:
    """What an expectation is judged by: the difference at the look that decided it, which no hole of a later one takes back."""
    own = next((own for one, own in zip(declared, looks.expectations, strict=True) if one == expected), None)
    if own is None or own.estimate is None:
        return looks.with_its_interval(estimate) if estimate else None, obstacle
    return own.estimate, "" if own.decided else obstacle


def _looked(judgement: Judgement, own: Answered, looks: Looks) -> Judgement:
    if not own.seeds:
        return judgement
    decided_at = own.seeds if own.decided else None
    return replace(judgement, reason=f"{judgement.reason}; {own.in_words(looks.design)}", decided_at=decided_at)


def _evidence(expected: Expectation, study: Study, scores: Scores, lacking: Collection[str]) -> tuple[Estimate | None, str]:
    """The difference that an expectation is about and, where it allows no verdict, why not (empty otherwise)."""
    names = {arm.name for arm in study.arms}
    if not {expected.arm, expected.than or expected.arm} <= names:
        return None, "no such arm"
    reference = expected.than or study.arm(expected.arm).baseline
    if reference == expected.arm:
        return None, "it is a baseline itself"
    estimate = scores.difference(expected.arm, reference, expected.metric)
    if expected.arm in lacking or reference in lacking:
        return estimate, "trials are missing"
    if estimate is None:
        return None, f"no scores for {metric_title(expected.metric)}"
    return estimate, ""


def _trials_of_a_seed(study: Study) -> int:
    """How many trials the study has at a seed that all of its arms share; where an arm gets seeds by itself, its own and its baseline's."""
    if study.sweep.until_decided:
        return 2
    counts = Counter(trial.seed for trial in study.trials)
    return max((counts[seed] for seed in study.sweep.possible_seeds), default=0)


def _detectable(rows: Sequence[ArmRow], primary: str, families: Mapping[str, int], rule: Rule) -> float:
    estimates = [one for row in rows if (one := row.cells[primary].estimate) and len(one.by_seed) >= LEAST_SEEDS and one.known]
    if not estimates:
        return float("nan")
    seeds = rule.design.at_most if isinstance(rule, Looks) else max(len(one.by_seed) for one in estimates)
    variance = pooled(estimates).variance / seeds + sum(one.lasting for one in estimates) / len(estimates)
    level = rule.level_of(max(families.values(), default=1), "different")
    return detectable_difference(variance**0.5, seeds - 1, 1 - level)


def _ordered(arms: Sequence[Arm]) -> list[Arm]:
    """In the order of the sweep, each baseline before the first arm that is compared with it."""
    by_name = {arm.name: arm for arm in arms}
    return [by_name[name] for name in dict.fromkeys(name for arm in arms for name in (arm.baseline, arm.name))]


def _all_holes(study: Study, scores: Scores, holes: Iterable[tuple[str, int, str]]) -> tuple[Hole, ...]:
    named = {(str(arm), int(seed)): str(reason) for arm, seed, reason in holes}
    for arm in study.arms:
        scored = scores.of(arm.name, study.sweep.compare.primary)
        for seed in study.seeds_of(arm.name):
            if seed not in scored:
                named.setdefault((arm.name, seed), f"no score for {study.sweep.compare.primary}")
    order = {arm.name: position for position, arm in enumerate(_ordered(study.arms))}
    in_order = sorted(named.items(), key=lambda hole: (order.get(hole[0][0], len(order)), hole[0]))
    return tuple(Hole(arm, seed, reason) for (arm, seed), reason in in_order)

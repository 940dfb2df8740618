"""Arms against their baselines, metric by metric.

In: a study, its results (arm, seed, fingerprint, metric, value; scores on a scale of 0 to 100), the holes in its grid and, if kept,
per-item scores. Out: a `Comparison`: rows in the order of the sweep, each baseline before its arms, with means over seeds, differences
with intervals, and on the primary metric a verdict. How it is shown is the work of `text.py`, `figures.py` and `html.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mm1_ablate.report.expectations import Judgement, judge
from mm1_ablate.report.items import ItemScores
from mm1_ablate.report.rows import Cell, Cost, Hole, Row, cell_json, describe
from mm1_ablate.report.statistics import Estimate, item_noise, paired_difference, welch_difference
from mm1_ablate.report.verdicts import adjust, distinct_comparisons, judge_row, remarks_on
from mm1_ablate.spec.expansion import Arm, Study

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Comparison:
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
    family: int
    """Distinct comparisons on the primary metric that share one level of error."""
    rows: tuple[Row, ...]
    holes: tuple[Hole, ...]
    expectations: tuple[Judgement, ...]
    remarks: tuple[str, ...]
    """What a reader should know before believing the table."""

    def row(self, name: str) -> Row:
        """The row of an arm."""
        return next(row for row in self.rows if row.name == name)

    @property
    def groups(self) -> dict[str, tuple[Row, ...]]:
        """Arms by group, without baselines."""
        names = dict.fromkeys(row.group for row in self.rows if not row.is_baseline)
        return {name: tuple(row for row in self.rows if row.group == name and not row.is_baseline) for name in names}

    def clear(self, cell: Cell) -> bool:
        """Whether a difference holds after correction."""
        return cell.p_adjusted <= 1 - self.confidence + 1e-12

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

    def table(self) -> pd.DataFrame:
        """A line for each arm, rounded to one decimal: for MLflow and spreadsheets."""
        from mm1_ablate.report.text import wide_table

        return wide_table(self)

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
            "family": {"comparisons": self.family, "correction": "Holm"},
            "arms": [
                {
                    "name": row.name,
                    "group": row.group,
                    "baseline": row.baseline,
                    "n": row.n,
                    "seeds": list(row.seeds),
                    "metrics": {metric: cell_json(cell) for metric, cell in row.cells.items()},
                    "verdict": row.verdict,
                    "notes": list(row.notes),
                    "changes": list(row.changes),
                    "brought_along": list(row.brought_along),
                    "costs": dict(row.costs),
                }
                for row in self.rows
            ],
            "holes": [{"arm": hole.arm, "seed": hole.seed, "reason": hole.reason} for hole in self.holes],
            "expectations": [judgement.to_json() for judgement in self.expectations],
            "remarks": list(self.remarks),
        }

    def markdown(self) -> str:
        """The report as Markdown."""
        from mm1_ablate.report.text import markdown

        return markdown(self)

    def to_terminal(self, console: Console) -> None:
        """Print the report; readable from 100 columns."""
        from mm1_ablate.report.text import print_comparison

        print_comparison(self, console)


def compare(
    study: Study,
    results: pd.DataFrame,
    holes: Iterable[tuple[str, int, str]] = (),
    items: pd.DataFrame | None = None,
    costs: Mapping[str, Mapping[str, Cost]] | None = None,
) -> Comparison:
    """Compare every arm of a study with its baseline.

    Args:
        results: columns arm, seed, metric, value; one line for each score, on a scale of 0 to 100.
        holes: (arm, seed, reason) of trials that gave no scores. What is missing in the results without being named is a hole too.
        items: per-item scores with columns arm, seed, task, family, shots, item, metric, primary, score (see `items.py`); makes
            intervals cover the luck of the evaluation items.
        costs: by arm, what it took: parameters, image tokens, tokens seen, an identity of the evaluation items. What differs from the
            baseline's is named in the table, so that a reader sees what was held constant.
    """
    declared = study.sweep.compare
    metrics = tuple(dict.fromkeys([*declared.metrics, declared.primary]))
    found = list(dict.fromkeys(results["metric"]))
    values: dict[tuple[str, str], dict[int, float]] = {}
    for arm_name, seed, metric, value in results[["arm", "seed", "metric", "value"]].itertuples(index=False):
        if not math.isnan(value):
            values.setdefault((str(arm_name), str(metric)), {})[int(seed)] = float(value)

    all_holes = _all_holes(study, values, holes)
    lacking = {hole.arm for hole in all_holes}
    item_scores = ItemScores(items, values)
    family = distinct_comparisons(study)
    size = len(set(family.values()))
    rows = []
    for arm in _ordered(study.arms):
        cells = {}
        for metric in dict.fromkeys([*metrics, *found]):
            estimate = None if arm.name == arm.baseline else _estimate(arm, metric, values, item_scores, declared.confidence)
            detectable = estimate.detectable(comparisons=size) if estimate and metric == declared.primary else float("nan")
            scores = np.array(list(values.get((arm.name, metric), {}).values()))
            cells[metric] = Cell(
                mean=float(scores.mean()) if len(scores) else float("nan"),
                deviation=float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
                n=len(scores),
                estimate=estimate,
                detectable=detectable,
            )
        seeds = tuple(sorted(values.get((arm.name, declared.primary), {})))
        row = Row(arm.name, arm.group, arm.baseline, seeds, cells, changes=tuple(describe(change) for change in arm.changes))
        rows.append(row.with_costs(costs or {}))
    level, margin = 1 - declared.confidence, declared.smallest_difference_of_interest
    rows = adjust(rows, declared.primary, metrics, family, margin, lacking)
    rows = [judge_row(row, study, declared.primary, level, margin, size, all_holes) for row in rows]

    by_name = {row.name: row for row in rows}

    def look_up(arm: str, metric: str) -> tuple[Estimate | None, str]:
        row = by_name.get(arm)
        if row is None:
            return None, "no such arm"
        cell = row.cells.get(metric)
        if row.is_baseline:
            return None, "it is a baseline itself"
        if arm in lacking or row.baseline in lacking:
            return cell.estimate if cell else None, "a hole in the grid"
        if cell is None or cell.estimate is None:
            return None, f"no scores for {metric}"
        return cell.estimate, "one seed: evaluation noise only" if cell.estimate.seeds < 2 else ""

    return Comparison(
        study=study.name,
        description=study.sweep.description,
        primary=declared.primary,
        metrics=metrics,
        all_metrics=tuple(dict.fromkeys([*metrics, *found])),
        confidence=declared.confidence,
        margin=margin,
        seeds=tuple(study.sweep.seeds),
        family=size,
        rows=tuple(rows),
        holes=all_holes,
        expectations=judge(study.sweep.expect, look_up, level),
        remarks=remarks_on(study, rows, metrics),
    )


def _ordered(arms: Sequence[Arm]) -> list[Arm]:
    """In the order of the sweep, each baseline before the first arm that is compared with it."""
    by_name = {arm.name: arm for arm in arms}
    return [by_name[name] for name in dict.fromkeys(name for arm in arms for name in (arm.baseline, arm.name))]


def _all_holes(study: Study, values: dict[tuple[str, str], dict[int, float]], holes: Iterable[tuple[str, int, str]]) -> tuple[Hole, ...]:
    named = {(str(arm), int(seed)): str(reason) for arm, seed, reason in holes}
    for arm in study.arms:
        scored = values.get((arm.name, study.sweep.compare.primary), {})
        for seed in study.sweep.seeds:
            if seed not in scored:
                named.setdefault((arm.name, seed), f"no score for {study.sweep.compare.primary}")
    order = {arm.name: position for position, arm in enumerate(_ordered(study.arms))}
    in_order = sorted(named.items(), key=lambda hole: (order.get(hole[0][0], len(order)), hole[0]))
    return tuple(Hole(arm, seed, reason) for (arm, seed), reason in in_order)


def _estimate(
    arm: Arm, metric: str, values: dict[tuple[str, str], dict[int, float]], items: ItemScores, confidence: float
) -> Estimate | None:
    """Paired over common seeds; Welch where hardly any are common."""
    ours, theirs = values.get((arm.name, metric), {}), values.get((arm.baseline, metric), {})
    if not ours or not theirs:
        return None
    common = sorted(ours.keys() & theirs.keys())
    enough_apart = min(len(ours), len(theirs))
    if common and (len(common) >= 3 or len(common) >= enough_apart):
        both = items.pair(metric, arm.name, arm.baseline, common, common)
        differences = [mine - other for mine, other in zip(*both, strict=True)] if both else None
        return paired_difference([ours[seed] - theirs[seed] for seed in common], differences, confidence)
    apart = items.pair(metric, arm.name, arm.baseline, sorted(ours), sorted(theirs))
    return welch_difference(list(ours.values()), list(theirs.values()), item_noise(*apart) if apart else None, confidence)

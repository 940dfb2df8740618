"""A/A check: how often the comparison finds an arm better or worse without a true difference.

In: stored results (and item scores) of many seeds of one and the same arm. Out: the rate of false verdicts when some of those seeds
play the baseline and others an arm, judged by the very code that judges real arms: once with the seeds of both sides paired by
position, once unpaired. That rate may not exceed the level that the report promises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mm1_ablate.config.metric_name import MetricName
from mm1_ablate.config.study import Arm, Study, Trial
from mm1_ablate.config.sweep.declaration import Compare, Sweep
from mm1_ablate.report.cells import BETTER, WORSE
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.scores import suites
from mm1_ablate.report.verdicts import FalseVerdicts, Rate

DRAWS = 100
System = tuple[str, int]
"""One trained system: (arm, seed)."""


def false_verdicts(
    results: pd.DataFrame,
    items: pd.DataFrame | None = None,
    *,
    declared: Compare,
    template: Trial,
    seeds_per_side: int = 3,
    draws: int = DRAWS,
    seed: int = 0,
) -> FalseVerdicts | None:
    """Compare one arm with itself many times.

    Args:
        results: arm, seed, metric, value: every (arm, seed) in it is a draw of the same system.
        items: item scores of the same, as `comparison.compare` takes them.
        declared: what the comparison is about; its primary metric alone is looked at.
        template: a trial of the system.
        seeds_per_side: of the pretended baseline and of the pretended arm.
        draws: comparisons in each of the two ways.
        seed: of the drawing.

    Returns:
        None where there are not enough seeds for two sides.
    """
    primary = declared.primary
    results = results[results["metric"] == primary]
    values = _by_system(results)
    answers = _by_system(_of_metric(items, primary))
    pool = list(values)
    if len(pool) < 2 * seeds_per_side:
        return None
    random = np.random.default_rng(seed)
    false = {True: 0, False: 0}
    for drawn in _draws(pool, seeds_per_side, draws, random):
        for paired in (True, False):
            study = _pretended(declared, template, seeds_per_side, paired)
            places = [(arm.name, one) for arm in study.arms for one in study.seeds_of(arm.name)]
            named = dict(zip(drawn, places, strict=True))
            both = pd.concat([values[key].assign(arm=arm, seed=one) for key, (arm, one) in named.items()], ignore_index=True)
            parts = [answers[key].assign(arm=arm, seed=one) for key, (arm, one) in named.items() if key in answers]
            comparison = compare(study, both, items=pd.concat(parts, ignore_index=True) if len(parts) == len(named) else None)
            false[paired] += comparison.row("pretended").verdict in (BETTER, WORSE)
    nominal = 1 - declared.confidence
    return FalseVerdicts(len(pool), seeds_per_side, round(nominal, 9), Rate(false[True], draws), Rate(false[False], draws))


def _draws(pool: Sequence[System], per_side: int, draws: int, random: np.random.Generator) -> Iterator[list[System]]:
    for _ in range(draws):
        yield [pool[place] for place in random.permutation(len(pool))[: 2 * per_side]]


def _by_system(table: pd.DataFrame | None) -> dict[System, pd.DataFrame]:
    if table is None:
        return {}
    found: dict[Any, pd.DataFrame] = dict(iter(table.groupby(["arm", "seed"])))
    return {(str(arm), int(seed)): rows for (arm, seed), rows in found.items()}


def _of_metric(items: pd.DataFrame | None, metric: str) -> pd.DataFrame | None:
    """The lines that a metric is made of, so that the others need not be looked at a hundred times."""
    if items is None or items.empty:
        return None
    of_suite: pd.DataFrame = items[suites(items) == MetricName.parse(metric).suite]
    return of_suite


def _pretended(declared: Compare, template: Trial, per_side: int, paired: bool) -> Study:
    """A study of a baseline and an arm that are the same system."""
    seeds = list(range(per_side))
    others = seeds if paired else [one + per_side for one in seeds]
    baseline = Arm("baseline", "", template.experiment, "baseline")
    arm = Arm("pretended", "pretended", template.experiment, "baseline", seeds=() if paired else tuple(others))
    trials = [
        Trial(f"{name}/seed-{one}", (name,), one, template.experiment, f"{name} {one}", f"{name} {one}")
        for name, own in (("baseline", seeds), ("pretended", others))
        for one in own
    ]
    compared = declared.model_copy(update={"metrics": [declared.primary]})
    sweep = Sweep(sweep="pretended", experiment="none", seeds=seeds, compare=compared)
    return Study("pretended", sweep, path=Path("pretended.yaml"), arms=(baseline, arm), trials=tuple(trials))


def with_false_verdicts(
    comparison: StudyComparison, study: Study, results: pd.DataFrame, items: pd.DataFrame | None = None, draws: int = DRAWS
) -> StudyComparison:
    """The comparison with its rate of false verdicts, where the study has arms that equal the baseline but for their seeds."""
    same = [arm.name for arm in study.arms if arm.seeds and arm.baseline == study.arms[0].name]
    if not same:
        return comparison
    system = [study.arms[0].name, *same]
    own = items[items["arm"].isin(system)] if items is not None else None
    found = false_verdicts(
        results[results["arm"].isin(system)],
        own,
        declared=study.sweep.compare,
        template=study.trials[0],
        seeds_per_side=design.at_least if (design := study.sweep.until_decided) else len(study.sweep.possible_seeds),
        draws=draws,
    )
    return replace(comparison, false_verdicts=found)

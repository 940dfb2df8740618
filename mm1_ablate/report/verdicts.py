"""Conclusions: correction for multiple comparisons, the verdict of each arm, and remarks for readers.

In: rows with estimates. Out: the same rows with adjusted p values, verdicts and notes; remarks on the study as a whole.

Verdicts are about the primary metric alone. Holm's correction runs over the distinct comparisons with a baseline that one sweep file
declares, once for "different" and once for "equivalent"; both claims cannot be false of one arm. So an arm gets the same verdict
whether its sweep is run by itself or included in another. Where both hold, the equivalence is the verdict and a note gives the
direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from scipy import stats

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import Compare
from mm1_ablate.report.cells import BASELINE, BETTER, HOLE, ONE_SEED, UNDECIDED, WORSE, ArmRow, Hole, no_difference
from mm1_ablate.report.statistics import LEAST_SEEDS, benjamini_hochberg, equivalence, holm

TOLERANCE = 1e-12


def _trial_set(study: Study, arm: str) -> frozenset[str]:
    return frozenset(trial.evaluation_fingerprint for trial in study.trials_of(arm))


class ComparisonKey(NamedTuple):
    """Which of the distinct comparisons of a study."""

    family: str
    """The sweep that declares it."""
    number: int


def distinct_comparisons(study: Study) -> dict[str, ComparisonKey]:
    """Each arm's comparison; rows of a family that are fed by the same trials and the same baseline are one comparison."""
    numbers: dict[tuple[str, frozenset[str], frozenset[str]], int] = {}
    found = {}
    for arm in study.arms:
        if arm.name != arm.baseline:
            family = study.sweep_of_group.get(arm.group, "")
            sets = (family, _trial_set(study, arm.name), _trial_set(study, arm.baseline))
            found[arm.name] = ComparisonKey(family, numbers.setdefault(sets, len(numbers)))
    return found


def family_sizes(comparisons: Iterable[ComparisonKey]) -> dict[str, int]:
    """How many distinct comparisons each family has."""
    return dict(Counter(key.family for key in sorted(set(comparisons), key=lambda key: key.number)))


def with_verdicts(rows: Sequence[ArmRow], study: Study, metrics: Sequence[str], holes: Sequence[Hole]) -> tuple[ArmRow, ...]:
    """The rows with adjusted p values, verdicts and notes.

    Args:
        rows: of all arms, with the estimates of all `metrics`.
        metrics: columns of the table, the primary metric among them.
    """
    declared, comparisons = study.sweep.compare, distinct_comparisons(study)
    sizes = family_sizes(comparisons.values())
    lacking = {hole.arm for hole in holes}
    adjusted = _adjusted(rows, declared.primary, metrics, comparisons, declared.smallest_difference_of_interest, lacking)
    return tuple(_judged(row, study, sizes[comparisons[row.name].family] if row.name in comparisons else 0, holes) for row in adjusted)


def _adjusted(
    rows: Sequence[ArmRow],
    primary: str,
    metrics: Sequence[str],
    comparisons: Mapping[str, ComparisonKey],
    margin: float,
    lacking: Collection[str],
) -> list[ArmRow]:
    """Fill in the adjusted p values: Holm on the primary metric, Benjamini-Hochberg over the table's other columns.

    Args:
        comparisons: `distinct_comparisons`; rows of one comparison share its p values.
        margin: smallest difference of interest.
        lacking: arms with a hole; they are not judged, but still count in the size of the family.
    """
    first = {comparison: name for name, comparison in reversed([*comparisons.items()])}
    numbers = sorted(first, key=lambda key: key.number)
    cells = {row.name: dict(row.cells) for row in rows}
    baselines = {row.name: row.baseline for row in rows}

    def p(name: str, metric: str, of_equivalence: bool = False) -> float:
        estimate = cells[name][metric].estimate
        if estimate is None or estimate.seeds < LEAST_SEEDS or name in lacking or baselines[name] in lacking:
            return float("nan")
        return equivalence(estimate, margin) if of_equivalence else estimate.p

    exploratory = [(number, metric) for number in numbers for metric in metrics if metric != primary]
    explored = benjamini_hochberg([p(first[number], metric) for number, metric in exploratory])
    adjusted = dict(zip(exploratory, explored, strict=True))
    equivalent: dict[ComparisonKey, float] = {}
    for family in family_sizes(numbers):
        members = [number for number in numbers if number.family == family]
        different = holm([p(first[number], primary) for number in members])
        adjusted |= {(number, primary): value for number, value in zip(members, different, strict=True)}
        equivalent |= dict(zip(members, holm([p(first[number], primary, True) for number in members]), strict=True))
    for name, number in comparisons.items():
        for metric in metrics:
            cells[name][metric] = replace(cells[name][metric], p_adjusted=float(adjusted[number, metric]))
        cells[name][primary] = replace(cells[name][primary], p_equivalent=float(equivalent[number]))
    return [replace(row, cells=cells[row.name]) for row in rows]


def _judged(row: ArmRow, study: Study, family: int, holes: Sequence[Hole]) -> ArmRow:
    """The verdict on the primary metric, and the notes that it needs.

    Args:
        family: how many comparisons the row's family has.
    """
    notes = [f"seed {hole.seed}: {hole.reason}" for hole in holes if hole.arm == row.name]
    own = _trial_set(study, row.name)
    twins = [arm.name for arm in study.arms if arm.name != row.name and _trial_set(study, arm.name) == own]
    if twins:
        notes.append(f"same trials as {', '.join(twins)}")
    if row.is_baseline:
        return replace(row, verdict=BASELINE, notes=tuple(notes))
    notes += [f"the baseline lacks seed {hole.seed}" for hole in holes if hole.arm == row.baseline]
    verdict, more = _verdict(row, study.sweep.compare, family, any(hole.arm in (row.name, row.baseline) for hole in holes))
    return replace(row, verdict=verdict, notes=(*notes, *more))


def _verdict(row: ArmRow, declared: Compare, family: int, hole: bool) -> tuple[str, list[str]]:
    cell, margin = row.cells[declared.primary], declared.smallest_difference_of_interest
    level = 1 - declared.confidence  # chance of a false verdict in the family
    estimate = cell.estimate
    if hole or estimate is None:
        single = estimate is not None and estimate.seeds < 2
        return HOLE, ["one seed in common with the baseline: the interval covers evaluation items only"] if single else []
    if estimate.seeds < 2:
        return ONE_SEED, []
    if estimate.seeds < LEAST_SEEDS:
        return UNDECIDED, []
    if not estimate.known:
        return UNDECIDED, ["the difference is the same at every seed: no variation to estimate an interval from"]
    notes = ["seeds are not those of the baseline: unpaired (Welch)"] if estimate.method == "Welch" else []
    different = cell.p_adjusted <= level + TOLERANCE
    if cell.p_equivalent <= level + TOLERANCE:
        if different:
            notes.append(f"significantly {'higher' if estimate.difference > 0 else 'lower'}, but by significantly less than {margin:g}")
        return no_difference(margin), notes
    if different:
        return (BETTER if cell.scale.is_better(estimate.difference) else WORSE), notes
    if is_significant_uncorrected(row, declared.primary):
        notes.append(f"significant by itself, not after correction for {family} comparisons")
    return UNDECIDED, notes


def is_significant_uncorrected(row: ArmRow, primary: str) -> bool:
    """Whether an undecided row would be decided if it were the only one."""
    estimate = row.cells[primary].estimate
    return estimate is not None and estimate.seeds >= LEAST_SEEDS and estimate.known and estimate.p <= 1 - estimate.confidence


def remarks_on(study: Study, rows: Sequence[ArmRow], metrics: Sequence[str]) -> tuple[str, ...]:
    """Remarks on how the numbers were measured."""
    remarks = []
    estimates = [cell.estimate for row in rows for metric, cell in row.cells.items() if metric in metrics and cell.estimate]
    seeds = len(study.sweep.seeds)
    if seeds == 1:
        remarks.append("One seed: the variation between seeds is unknown, so there are no verdicts. Use at least three seeds.")
    elif seeds == 2:
        remarks.append("Two seeds leave one degree of freedom: there are intervals, but no verdicts. Use at least three seeds.")
    if estimates and not any(estimate.with_items for estimate in estimates):
        remarks.append("Intervals cover training seeds only, not the sampling of evaluation items: scores of items are missing.")
    else:
        found = [(metric, row.cells[metric].estimate) for metric in metrics for row in rows]
        without = dict.fromkeys(metric for metric, estimate in found if estimate and not estimate.with_items)
        if without:
            remarks.append(
                f"Intervals of {', '.join(map(metric_title, without))} cover training seeds only: matching scores of items are missing."
            )
    models = [arm.experiment.model for arm in study.arms if arm.experiment.model.preparation_seed is not None]
    if any(model.image_encoder.preparation or model.language_model.preparation for model in models):
        remarks.append(
            "All seeds share one prepared image encoder and language model: intervals do not cover the variation between preparations."
        )
    if any(arm.experiment.evaluation.split == "development" for arm in study.arms):
        remarks.append("Scores come from development episodes, which recipes are tuned on: not for reporting.")
    if any(arm.experiment.evaluation.demonstrations == "per_task" for arm in study.arms):
        remarks.append("All arms share one draw of demonstrations: intervals do not cover the variation between draws.")
    return tuple(remarks)


# ---------------------------------------------------------------- false verdicts (see `aa_check.py`)
@dataclass(frozen=True)
class Rate:
    """False verdicts among comparisons."""

    false: int
    comparisons: int

    @property
    def rate(self) -> float:
        return self.false / self.comparisons

    @property
    def upper(self) -> float:
        """95 % upper bound of the true rate (Clopper and Pearson 1934), as if the draws were independent; they share seeds."""
        return float(stats.binomtest(self.false, self.comparisons, alternative="less").proportion_ci(0.95, "exact").high)

    @property
    def lower(self) -> float:
        """95 % lower bound, likewise."""
        return float(stats.binomtest(self.false, self.comparisons, alternative="greater").proportion_ci(0.95, "exact").low)


@dataclass(frozen=True)
class FalseVerdicts:
    """What comparisons of an arm with itself came to."""

    seeds: int
    """Seeds that there were to draw from."""
    seeds_per_side: int
    nominal: float
    """The rate that they should not exceed."""
    paired: Rate
    unpaired: Rate

    @property
    def kept(self) -> bool:
        """Whether neither rate is above the nominal one by more than chance."""
        return max(self.paired.lower, self.unpaired.lower) <= self.nominal

    def in_words(self) -> str:
        ways = [
            f"{rate.false} of {rate.comparisons} {name} ({100 * rate.rate:.1f} %, at most {100 * rate.upper:.1f} %)"
            for name, rate in (("paired", self.paired), ("unpaired", self.unpaired))
        ]
        each = self.seeds_per_side
        promise, warning = ("within", "") if self.kept else ("above", ": do not rely on these verdicts")
        return (
            f"The baseline against itself, {each} against {each} drawn from its {self.seeds} seeds: false verdicts in {ways[0]} and "
            f"{ways[1]} comparisons, {promise} the nominal rate of {100 * self.nominal:g} %{warning}. The bounds (95 %) treat the draws as "
            "independent, though they share seeds."
        )

    def to_json(self) -> dict[str, Any]:
        rates = {
            name: {"false": rate.false, "comparisons": rate.comparisons, "rate": rate.rate, "lower": rate.lower, "upper": rate.upper}
            for name, rate in (("paired", self.paired), ("unpaired", self.unpaired))
        }
        return {"seeds": self.seeds, "seeds_per_side": self.seeds_per_side, "nominal": self.nominal, "kept": self.kept, **rates}

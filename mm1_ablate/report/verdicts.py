"""Conclusions: correction for multiple comparisons, the verdict of each arm, and remarks for readers.

In: rows with estimates. Out: the same rows with adjusted p values, verdicts, notes and prices; remarks on the study as a whole.

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
from mm1_ablate.config.study import Arm, Study
from mm1_ablate.config.sweep.declaration import Compare
from mm1_ablate.report.cells import BASELINE, BETTER, HOLE, LEANING, TOO_CLOSE, TOO_FEW, UNDECIDED, WORSE, ArmRow, Cell, Hole, no_difference
from mm1_ablate.report.price import SeedCost, Spread, differs, lies_within, seeds_to_decide
from mm1_ablate.report.rules import FixedSeeds, Rule, proven
from mm1_ablate.report.statistics import LEAST_SEEDS, benjamini_hochberg, equivalence


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


def with_verdicts(
    rows: Sequence[ArmRow], study: Study, metrics: Sequence[str], holes: Sequence[Hole], rule: Rule | None = None
) -> tuple[ArmRow, ...]:
    """The rows with adjusted p values, verdicts and notes.

    Args:
        rows: of all arms, with the estimates of all `metrics`.
        metrics: columns of the table, the primary metric among them.
        rule: when p values are verdicts; by default Holm's correction at the declared level.
    """
    declared, comparisons = study.sweep.compare, distinct_comparisons(study)
    rule = rule or FixedSeeds(1 - declared.confidence)
    sizes = family_sizes(comparisons.values())
    lacking = {hole.arm for hole in holes}
    adjusted = _adjusted(rows, declared.primary, metrics, comparisons, declared.smallest_difference_of_interest, lacking, rule)
    return tuple(
        _judged(row, study, sizes[comparisons[row.name].family] if row.name in comparisons else 0, holes, rule) for row in adjusted
    )


def _adjusted(
    rows: Sequence[ArmRow],
    primary: str,
    metrics: Sequence[str],
    comparisons: Mapping[str, ComparisonKey],
    margin: float,
    lacking: Collection[str],
    rule: Rule,
) -> list[ArmRow]:
    """Fill in the adjusted p values: the rule's on the primary metric, Benjamini-Hochberg's over the table's other columns.

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
        different = rule.adjusted([p(first[number], primary) for number in members], "different", family)
        adjusted |= {(number, primary): value for number, value in zip(members, different, strict=True)}
        alike = rule.adjusted([p(first[number], primary, True) for number in members], "equivalent", family)
        equivalent |= dict(zip(members, alike, strict=True))
    for name, number in comparisons.items():
        for metric in metrics:
            cells[name][metric] = replace(cells[name][metric], p_adjusted=float(adjusted[number, metric]))
        cells[name][primary] = replace(cells[name][primary], p_equivalent=float(equivalent[number]))
    return [replace(row, cells=cells[row.name]) for row in rows]


def _judged(row: ArmRow, study: Study, family: int, holes: Sequence[Hole], rule: Rule) -> ArmRow:
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
    verdict, more = _verdict(row, study.sweep.compare, family, any(hole.arm in (row.name, row.baseline) for hole in holes), rule)
    return replace(row, verdict=verdict, notes=(*notes, *more))


def _verdict(row: ArmRow, declared: Compare, family: int, hole: bool, rule: Rule) -> tuple[str, list[str]]:
    cell, margin = row.cells[declared.primary], declared.smallest_difference_of_interest
    estimate = cell.estimate
    if hole or estimate is None:
        single = estimate is not None and estimate.seeds < 2
        return HOLE, ["one seed in common with the baseline: the interval covers evaluation items only"] if single else []
    if estimate.seeds < 2:
        return TOO_FEW, [f"one seed: the interval covers {estimate.method}"] if estimate.known else []
    if estimate.seeds < LEAST_SEEDS:
        return TOO_FEW, []
    notes = ["seeds are not those of the baseline: unpaired (Welch)"] if estimate.method == "Welch" else []
    if not estimate.known:
        notes.append("the difference is the same at every seed: no variation to estimate an interval from")
    different = proven(rule, cell.p_adjusted)
    if proven(rule, cell.p_equivalent):
        if different:
            notes.append(f"significantly {'higher' if estimate.difference > 0 else 'lower'}, but by significantly less than {margin:g}")
        return no_difference(margin), notes
    if different:
        return (BETTER if cell.scale.is_better(estimate.difference) else WORSE), notes
    if is_significant_uncorrected(cell, rule):
        notes.append(f"significant by itself, not after correction for {family} comparisons")
        return LEANING, notes
    if estimate.known and equivalence(estimate, margin) <= rule.level:
        notes.append(f"within ±{margin:g} by itself, not after correction for {family} comparisons")
        return LEANING, notes
    return LEANING if estimate.agrees_about(0.0) else TOO_CLOSE, notes


def is_significant_uncorrected(cell: Cell, rule: Rule) -> bool:
    """Whether an undecided arm would be decided if it were the only one."""
    estimate = cell.estimate
    return estimate is not None and estimate.seeds >= LEAST_SEEDS and estimate.known and estimate.p <= rule.level


def with_prices(rows: Iterable[ArmRow], study: Study, rule: Rule, common: Spread, cost: SeedCost) -> tuple[ArmRow, ...]:
    """The rows with what would decide the undecided ones, at the level that the next verdict of their family has to reach.

    Args:
        common: the spread over seeds on the primary metric.
        cost: of another seed.
    """
    rows = tuple(rows)
    primary, margin, comparisons = (
        study.sweep.compare.primary,
        study.sweep.compare.smallest_difference_of_interest,
        distinct_comparisons(study),
    )
    open_ones: dict[str, dict[str, set[ComparisonKey]]] = {"different": {}, "equivalent": {}}
    for row in rows:
        if (key := comparisons.get(row.name)) is not None:
            cell = row.cells[primary]
            for claim, p in (("different", cell.p_adjusted), ("equivalent", cell.p_equivalent)):
                if not proven(rule, p):
                    open_ones[claim].setdefault(key.family, set()).add(key)
    found = []
    for row in rows:
        estimate = row.cells[primary].estimate if primary in row.cells else None
        if row.verdict in UNDECIDED and estimate is not None and estimate.deviation > 0:
            family = comparisons[row.name].family
            apart = rule.level_of(len(open_ones["different"].get(family, ())), "different") / 2
            alike = rule.level_of(len(open_ones["equivalent"].get(family, ())), "equivalent")
            ways = [differs(0.0, apart), lies_within(margin, alike)]
            row = replace(row, price=cost.price(seeds_to_decide(estimate, common, ways)))
        found.append(row)
    return tuple(found)


def drawn_once(arm: Arm) -> bool:
    """Whether demonstrations are drawn, and once only."""
    evaluation = arm.experiment.evaluation
    return len(evaluation.evaluation_seeds) == 1 and (max(evaluation.shots) > 0 or evaluation.zero_shot is not None)


def remarks_on(study: Study, rows: Sequence[ArmRow], metrics: Sequence[str]) -> tuple[str, ...]:
    """Remarks on how the numbers were measured."""
    remarks = []
    estimates = [cell.estimate for row in rows for metric, cell in row.cells.items() if metric in metrics and cell.estimate]
    seeds = len(study.sweep.seeds)
    if seeds == 1:
        remarks.append("One seed: the variation between seeds is unknown; three at least for a verdict.")
    elif seeds == 2:
        remarks.append("Two seeds: both differences stand in place of an interval; three at least for a verdict.")
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
    if any(arm.experiment.evaluation.demonstrations == "per_task" and drawn_once(arm) for arm in study.arms):
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

"""What is concluded: corrections for several comparisons, the verdict of each row, and what a reader should know first.

In: rows with estimates. Out: the same rows with adjusted p values, verdicts and notes; remarks on the study as a whole.

Verdicts are about the primary metric alone. Holm's correction runs over the distinct comparisons with a baseline that one sweep file
declares, once for "different" and once for "equivalent"; both claims cannot be false of one arm. So an arm gets the same verdict
whether its sweep is run by itself or included in another. Where both hold, the equivalence is the verdict and a note gives the
direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from mm1_ablate.config.sweep.expand import Study
from mm1_ablate.report.cells import BASELINE, BETTER, HOLE, ONE_SEED, UNDECIDED, WORSE, Hole, Row, no_difference
from mm1_ablate.report.statistics import LEAST_SEEDS, benjamini_hochberg, equivalence, holm

TOLERANCE = 1e-12


def _trial_set(study: Study, arm: str) -> frozenset[str]:
    return frozenset(trial.evaluation_fingerprint for trial in study.trials_of(arm))


Comparison = tuple[str, int]
"""The family that a comparison belongs to (the sweep that declares it), and its number."""


def distinct_comparisons(study: Study) -> dict[str, Comparison]:
    """Each arm's comparison; rows of a family that are fed by the same trials and the same baseline are one comparison."""
    numbers: dict[tuple[str, frozenset[str], frozenset[str]], int] = {}
    found = {}
    for arm in study.arms:
        if arm.name != arm.baseline:
            family = study.sweep_of_group.get(arm.group, "")
            sets = (family, _trial_set(study, arm.name), _trial_set(study, arm.baseline))
            found[arm.name] = (family, numbers.setdefault(sets, len(numbers)))
    return found


def family_sizes(comparisons: Iterable[Comparison]) -> dict[str, int]:
    """How many distinct comparisons each family has."""
    return dict(Counter(family for family, _ in sorted(set(comparisons), key=lambda comparison: comparison[1])))


def adjust(
    rows: list[Row], primary: str, metrics: Sequence[str], comparisons: dict[str, Comparison], margin: float, lacking: Collection[str]
) -> list[Row]:
    """Fill in the adjusted p values: Holm on the primary metric, Benjamini-Hochberg over the table's other columns.

    Args:
        comparisons: `distinct_comparisons`; rows of one comparison share its p values.
        margin: smallest difference of interest.
        lacking: arms with a hole; they are not judged, but still count in the size of the family.
    """
    first = {comparison: name for name, comparison in reversed(comparisons.items())}
    numbers = sorted(first, key=lambda comparison: comparison[1])
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
    equivalent: dict[Comparison, float] = {}
    for family in family_sizes(numbers):
        members = [number for number in numbers if number[0] == family]
        different = holm([p(first[number], primary) for number in members])
        adjusted |= {(number, primary): value for number, value in zip(members, different, strict=True)}
        equivalent |= dict(zip(members, holm([p(first[number], primary, True) for number in members]), strict=True))
    for name, number in comparisons.items():
        for metric in metrics:
            cells[name][metric] = replace(cells[name][metric], p_adjusted=float(adjusted[number, metric]))
        cells[name][primary] = replace(cells[name][primary], p_equivalent=float(equivalent[number]))
    return [replace(row, cells=cells[row.name]) for row in rows]


def judge_row(row: Row, study: Study, primary: str, level: float, margin: float, family: int, holes: Sequence[Hole]) -> Row:
    """The verdict on the primary metric, and the notes that it needs.

    Args:
        level: chance of a false verdict in the family, such as 0.05.
        family: how many comparisons it has.
    """
    notes = [f"seed {hole.seed}: {hole.reason}" for hole in holes if hole.arm == row.name]
    own = _trial_set(study, row.name)
    twins = [arm.name for arm in study.arms if arm.name != row.name and _trial_set(study, arm.name) == own]
    if twins:
        notes.append(f"same trials as {', '.join(twins)}")
    if row.is_baseline:
        return replace(row, verdict=BASELINE, notes=tuple(notes))
    notes += [f"the baseline lacks seed {hole.seed}" for hole in holes if hole.arm == row.baseline]
    verdict, more = _verdict(row, primary, level, margin, family, any(hole.arm in (row.name, row.baseline) for hole in holes))
    return replace(row, verdict=verdict, notes=(*notes, *more))


def _verdict(row: Row, primary: str, level: float, margin: float, family: int, hole: bool) -> tuple[str, list[str]]:
    cell = row.cells[primary]
    estimate = cell.estimate
    if hole or estimate is None:
        single = estimate is not None and estimate.seeds < 2
        return HOLE, ["one seed in common with the baseline: its interval is evaluation noise only"] if single else []
    if estimate.seeds < 2:
        return ONE_SEED, []
    if estimate.seeds < LEAST_SEEDS:
        return UNDECIDED, []
    if not estimate.known:
        return UNDECIDED, ["every seed differs by exactly the same amount: no spread to judge by"]
    notes = ["seeds are not those of the baseline: unpaired (Welch)"] if estimate.method == "Welch" else []
    different = cell.p_adjusted <= level + TOLERANCE
    if cell.p_equivalent <= level + TOLERANCE:
        if different:
            notes.append(f"clearly {'higher' if estimate.difference > 0 else 'lower'}, and clearly by less than {margin:g}")
        return no_difference(margin), notes
    if different:
        return (BETTER if cell.scale.is_better(estimate.difference) else WORSE), notes
    if clear_by_itself(row, primary):
        notes.append(f"clear by itself, but not among {family} comparisons")
    return UNDECIDED, notes


def clear_by_itself(row: Row, primary: str) -> bool:
    """Whether an undecided row would be decided if it were the only one."""
    estimate = row.cells[primary].estimate
    return estimate is not None and estimate.seeds >= LEAST_SEEDS and estimate.known and estimate.p <= 1 - estimate.confidence


def remarks_on(study: Study, rows: Sequence[Row], metrics: Sequence[str]) -> tuple[str, ...]:
    """What a reader should know before believing the table."""
    remarks = []
    estimates = [cell.estimate for row in rows for metric, cell in row.cells.items() if metric in metrics and cell.estimate]
    seeds = len(study.sweep.seeds)
    if seeds == 1:
        remarks.append("One seed: training noise is unknown, so nothing is concluded. Three seeds are the least to rely on.")
    elif seeds == 2:
        remarks.append("Two seeds leave one degree of freedom: intervals, but no verdicts. Three seeds are the least to rely on.")
    if estimates and not any(estimate.with_items for estimate in estimates):
        remarks.append("Intervals cover training seeds only: no per-item scores were at hand for the luck of the evaluation items.")
    else:
        found = [(metric, row.cells[metric].estimate) for metric in metrics for row in rows]
        without = dict.fromkeys(metric for metric, estimate in found if estimate and not estimate.with_items)
        if without:
            remarks.append(f"No matching per-item scores for {', '.join(without)}: their intervals cover training seeds only.")
    models = [arm.experiment.model for arm in study.arms if arm.experiment.model.preparation_seed is not None]
    if any(model.image_encoder.preparation or model.language_model.preparation for model in models):
        remarks.append("All seeds start from one prepared image encoder and language model: the luck of those is not in the intervals.")
    if any(arm.experiment.evaluation.split == "development" for arm in study.arms):
        remarks.append("Scores come from development episodes, which recipes are tuned on: not for reporting.")
    if any(arm.experiment.evaluation.demonstrations == "per_task" for arm in study.arms):
        remarks.append("Demonstrations were drawn once and are the same for all arms: the luck of that draw is not in the intervals.")
    return tuple(remarks)

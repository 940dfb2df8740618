"""What the declared seeds of a study can show, before anything is spent.

In: a study and a store. Out: the smallest difference that is found with 80 % probability; in standard deviations of the paired difference,
and in points where that deviation is known from finished trials of the same arms, of this study or of another one in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mm1_ablate.config.identity.fingerprint import experiment_identity
from mm1_ablate.config.study import Study, trial_of
from mm1_ablate.store.store import Store

POWER = 0.8
"""Probability of finding a difference that the plan calls detectable."""
COMPARED_SEEDS = (3, 5, 10)
"""Numbers of seeds that a plan is compared with where there are fewer."""


@dataclass(frozen=True)
class Pilot:
    """The standard deviation of paired differences in trials that have been run."""

    deviation: float
    """Standard deviation over seeds of an arm's difference from its baseline on the primary metric, in points, pooled over arms."""
    trials: int
    seeds: tuple[int, ...]
    elsewhere: bool
    """Whether seeds that are not of this study are among them."""

    def in_words(self) -> str:
        where = f"in the store (seeds {', '.join(map(str, self.seeds))})" if self.elsewhere else "of this study"
        return f"{self.trials} finished trials {where}, whose paired differences have a standard deviation of {self.deviation:.1f} points"


@dataclass(frozen=True)
class Detectable:
    """What a study's seeds can find, with 80 % power, in its primary metric."""

    seeds: int
    in_deviations: float | None
    """In standard deviations (over seeds) of the paired difference to the baseline; None with a single seed."""
    in_deviations_after_holm: float | None
    """The same for the first and hardest step of Holm's correction over all comparisons."""
    pilot: Pilot | None
    """None without two common seeds of an arm and its baseline."""
    with_more_seeds: Mapping[int, float] = field(default_factory=dict)
    """`in_deviations` of some larger numbers of seeds."""
    at_least: int | None = None
    """Where seeds are added until all is decided: how many there are at the first look; `seeds` is then how many there may be."""

    @property
    def deviation(self) -> float | None:
        return self.pilot.deviation if self.pilot else None

    @property
    def in_points(self) -> float | None:
        return self.pilot.deviation * self.in_deviations if self.pilot and self.in_deviations else None

    @property
    def in_points_after_holm(self) -> float | None:
        return self.pilot.deviation * self.in_deviations_after_holm if self.pilot and self.in_deviations_after_holm else None

    def to_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "in_deviations": self.in_deviations,
            "in_deviations_after_holm": self.in_deviations_after_holm,
            "deviation": self.deviation,
            "in_points": self.in_points,
            "in_points_after_holm": self.in_points_after_holm,
            "based_on": self.pilot.in_words() if self.pilot else None,
            "power": POWER,
        }

    @property
    def _design(self) -> str:
        return f"{self.at_least} to {self.seeds}" if self.at_least else str(self.seeds)

    def in_words(self) -> str:
        if self.in_deviations is None:
            return "one seed cannot show whether a difference is due to an arm or to chance: declare three or more"
        corrected = self.in_deviations_after_holm is not None and self.in_deviations_after_holm > self.in_deviations
        after = "after Holm's correction over the arms of a sweep"
        if self.pilot and self.in_points is not None:
            holm = f"; {self.in_points_after_holm:.1f} {after}" if corrected else ""
            found = f"smallest detectable difference {self.in_points:.1f} points ({POWER:.0%} power{holm})"
            return f"{self._design} seeds: {found}, estimated from {self.pilot.in_words()}"
        holm = f"; {self.in_deviations_after_holm:.1f} SD {after}" if corrected else ""
        found = f"smallest detectable difference {self.in_deviations:.1f} SD ({POWER:.0%} power{holm})"
        more = "".join(f"; {seeds} seeds: {times:.1f} SD" for seeds, times in self.with_more_seeds.items())
        unit = "SD: standard deviation of the difference over seeds, unknown until trials have finished"
        return f"{self._design} seeds: {found}{more}. {unit}"


def detectable(study: Study, store: Store) -> Detectable:
    """The smallest difference that the declared seeds detect, in deviations, and in points where finished trials give the deviation."""
    design, seeds, error = study.sweep.until_decided, len(study.sweep.possible_seeds), 1 - study.sweep.compare.confidence
    if seeds < 2:
        return Detectable(seeds, None, None, None)
    # Half a second of scipy and pandas, which a single seed does without.
    from mm1_ablate.report.sequential import nominal_level
    from mm1_ablate.report.statistics import minimum_detectable_effect
    from mm1_ablate.report.verdicts import distinct_comparisons, family_sizes

    compared = max(family_sizes(distinct_comparisons(study).values()).values(), default=1)
    # Of a design that looks several times, what its last look finds by itself; with the earlier ones it finds a little more.
    alone, first = (nominal_level(level, design.looks, 2) if design else level for level in (error, error / compared))
    return Detectable(
        seeds,
        minimum_detectable_effect(1.0, seeds, 1 - alone, POWER),
        minimum_detectable_effect(1.0, seeds, 1 - first, POWER),
        pilot(study, store),
        {more: minimum_detectable_effect(1.0, more, 1 - error, POWER) for more in COMPARED_SEEDS if more > seeds and design is None},
        design.at_least if design else None,
    )


def pilot(study: Study, store: Store) -> Pilot | None:
    """The standard deviation of paired differences in finished trials of this study, and of its arms with other seeds; None without any."""
    metric = study.sweep.compare.primary
    results = store.results(study)
    scores = results[results["metric"] == metric]
    found = {(str(arm), int(seed)): float(value) for arm, seed, value in scores[["arm", "seed", "value"]].itertuples(index=False)}
    others = sorted(_seeds_in(store) - {trial.seed for trial in study.possible_trials})
    if others:
        found |= {key: value for key, value in _elsewhere(study, store, others, metric)}
    squares, degrees, used = 0.0, 0, set()
    for arm in study.arms:
        seeds = [] if arm.name == arm.baseline else [seed for name, seed in found if name == arm.name and (arm.baseline, seed) in found]
        if len(seeds) < 2:
            continue
        differences = [found[arm.name, seed] - found[arm.baseline, seed] for seed in seeds]
        mean = sum(differences) / len(differences)
        squares += sum((difference - mean) ** 2 for difference in differences)
        degrees += len(differences) - 1
        used |= {(name, seed) for seed in seeds for name in (arm.name, arm.baseline)}
    if not squares:
        return None
    seeds = sorted({seed for _, seed in used})
    return Pilot((squares / degrees) ** 0.5, len(used), tuple(seeds), elsewhere=bool(set(seeds) & set(others)))


def _seeds_in(store: Store) -> set[int]:
    seeds = set()
    for record in (store.root / "trials").glob("*/trial.json"):
        try:
            seeds.add(int(json.loads(record.read_text(encoding="utf-8"))["seed"]))
        except (OSError, LookupError, ValueError, TypeError):
            continue
    return seeds


def _elsewhere(study: Study, store: Store, seeds: Iterable[int], metric: str) -> Iterable[tuple[tuple[str, int], float]]:
    """Scores of a study's arms at seeds that it does not have itself."""
    for arm in study.arms:
        with study.snapshot.active():
            identity = experiment_identity(arm.experiment)
        for seed in seeds:
            trial = trial_of(arm.experiment, (arm.name,), seed, study.snapshot, identity)
            if store.has_scores(trial) and metric in (scores := store.scores(trial)):
                yield (arm.name, seed), scores[metric]

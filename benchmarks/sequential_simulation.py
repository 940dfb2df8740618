"""How often "seeds until decided" is wrong, how much it decides, and how many seeds that takes: studies simulated with normal seeds.

    python benchmarks/sequential_simulation.py [--studies 20000]

Each world is a baseline and some arms, compared with it seed by seed: differences of arms have the standard deviation `sd` over seeds
and the correlation .5 that a shared baseline gives them. A false verdict is "different" of an arm that equals the baseline, or in the
wrong direction, or "no difference larger than the margin" of one whose difference is at least the margin. The rule itself is the
package's. Expectations have worlds of their own: where a difference lies at its bound, a verdict is most easily false.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mm1_ablate.report.sequential import corrected_for_looks
from mm1_ablate.report.sequential_holm import decide
from mm1_ablate.report.statistics import PASSED_ON

MARGIN, LEVEL = 5.0, 0.05


@dataclass(frozen=True)
class World:
    """A baseline and arms."""

    effects: tuple[float, ...]
    """True differences from the baseline, in points."""
    sd: float
    """Standard deviation of a difference over seeds."""


@dataclass(frozen=True)
class Result:
    """What came out of simulated studies of a world."""

    wrong: float
    """Share of studies with any false verdict."""
    decided: float
    """Share of arms with a verdict."""
    seeds: float
    """Mean number of seeds of an arm."""


LOOKS = tuple(range(3, 9))


def drawn(world: World, studies: int, seeds: int, seed: int) -> np.ndarray:
    """Differences from the baseline, [studies, arms, seeds]."""
    rng = np.random.default_rng([seed, len(world.effects), int(10 * world.sd)])
    # Of an arm and of the baseline that all share, each with half of the variance of a difference.
    own = rng.normal(0, world.sd / 2**0.5, (studies, len(world.effects), seeds))
    shared = rng.normal(0, world.sd / 2**0.5, (studies, 1, seeds))
    return np.array(world.effects)[:, None] + own - shared


def simulate_expectations(world: World, studies: int, looks: Sequence[int] = LOOKS, seed: int = 0) -> Result:
    """Simulate studies with an expectation of each arm, 'above by the margin', of which either answer may be false."""
    differences, arms = drawn(world, studies, looks[-1], seed), len(world.effects)
    t = [(one.mean(axis=-1) - MARGIN) / one.std(axis=-1, ddof=1) * one.shape[-1] ** 0.5 for one in (differences[..., :n] for n in looks)]
    p = np.stack([stats.t.sf(np.abs(one), n - 1) for one, n in zip(t, looks, strict=True)], axis=-1)
    corrected, right = corrected_for_looks(p, looks, 1), np.array(world.effects) >= MARGIN
    wrong = decided = seeds = 0
    for study in range(studies):
        decisions = decide({"expected": corrected[study]}, LEVEL, PASSED_ON)
        answers = [(arm, t[one.look][study, arm] > 0) for arm, one in enumerate(decisions) if one.look is not None]
        wrong += any(answer != right[arm] for arm, answer in answers)
        decided += len(answers)
        seeds += sum(looks[one.looks - 1] for one in decisions)
    return Result(wrong / studies, decided / studies / arms, seeds / studies / arms)


def simulate(world: World, studies: int, looks: Sequence[int] = LOOKS, seed: int = 0) -> Result:
    """Simulate studies that compare each arm with the baseline."""
    differences, effects, arms = drawn(world, studies, looks[-1], seed), world.effects, len(world.effects)
    p: dict[str, list[np.ndarray]] = {"different": [], "equivalent": []}
    means = []
    for n in looks:
        mean = differences[..., :n].mean(axis=-1)
        error = differences[..., :n].std(axis=-1, ddof=1) / n**0.5
        p["different"].append(2 * stats.t.sf(np.abs(mean) / error, n - 1))
        p["equivalent"].append(stats.t.sf((MARGIN - np.abs(mean)) / error, n - 1))
        means.append(mean)
    corrected = {
        "different": corrected_for_looks(np.stack(p["different"], axis=-1), looks, 2),
        "equivalent": corrected_for_looks(np.stack(p["equivalent"], axis=-1), looks, 1),
    }
    wrong = decided = seeds = 0
    for study in range(studies):
        decisions = decide({test: values[study] for test, values in corrected.items()}, LEVEL)
        false = False
        for arm, decision in enumerate(decisions):
            seeds += looks[decision.looks - 1]
            decided += decision.look is not None
            if decision.answer == "different":
                false |= effects[arm] * means[decision.look or 0][study, arm] <= 0
            elif decision.answer == "equivalent":
                false |= abs(effects[arm]) >= MARGIN
        wrong += false
    return Result(wrong / studies, decided / studies / arms, seeds / studies / arms)


def error_of_claims_that_know_the_baseline(seeds: int, studies: int, seed: int = 0) -> float:
    """How often a one-sided claim about an arm that equals its baseline is confirmed when whoever declares it has seen the baseline.

    The claim is that the arm lies on the side to which the baseline's luck sends it: below one that was lucky.
    """
    rng = np.random.default_rng([seed, seeds])
    baseline, arm = rng.normal(size=(2, studies, seeds))
    t = stats.ttest_1samp(arm - baseline, 0.0, axis=1).statistic
    return float((-np.sign(baseline.mean(axis=1)) * t > stats.t.ppf(1 - LEVEL, seeds - 1)).mean())


EXPECTED = {
    "five expectations: all at their bound, sd 3": World((MARGIN,) * 5, 3.0),
    "five expectations: two a little below it, sd 3": World((MARGIN, MARGIN, MARGIN, MARGIN - 0.1, MARGIN - 0.1), 3.0),
    "two expectations: at their bounds, sd 3": World((MARGIN, MARGIN - 1e-9), 3.0),
}
WORLDS = {
    "three arms: -40, -7, -2, sd 3.5": World((-40.0, -7.0, -2.0), 3.5),
    "three arms: all 0, sd 1": World((0.0,) * 3, 1.0),
    "three arms: all 0, sd 3": World((0.0,) * 3, 3.0),
    "three arms: all at the margin, sd 1": World((MARGIN,) * 3, 1.0),
    "five arms: 0, 0, -5, 5, -20, sd 4.4": World((0.0, 0.0, -MARGIN, MARGIN, -20.0), 4.4),
    "five arms: all 0, sd 6": World((0.0,) * 5, 6.0),
    "eight arms: all 0, sd 3": World((0.0,) * 8, 3.0),
    "eight arms: all at the margin, sd 3": World((-MARGIN,) * 8, 3.0),
    "eight arms: four 0, four far, sd 2": World((0.0,) * 4 + (-30.0,) * 4, 2.0),
    "one arm: -40, sd 3.5": World((-40.0,), 3.5),
    "one arm: -7, sd 3": World((-7.0,), 3.0),
    "one arm: -2, sd 4.4": World((-2.0,), 4.4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    studies = parser.parse_args().studies
    print(f"{studies} studies each, looks at 3 to 8 seeds, margin {MARGIN:g}, level {LEVEL:g}\n")
    print("| world | any false verdict | arms decided | seeds of an arm |\n|---|--:|--:|--:|")
    for name, world in WORLDS.items():
        result = simulate(world, studies)
        print(f"| {name} | {result.wrong:.3f} | {result.decided:.0%} | {result.seeds:.1f} |", flush=True)
    for name, world in EXPECTED.items():
        result = simulate_expectations(world, studies)
        print(f"| {name} | {result.wrong:.3f} | {result.decided:.0%} | {result.seeds:.1f} |", flush=True)
    errors = ", ".join(f"{seeds} seeds {error_of_claims_that_know_the_baseline(seeds, 20 * studies):.3f}" for seeds in (3, 5))
    print(f"\nclaims about fixed seeds, declared by whoever has seen the baseline's scores, falsely confirmed: {errors}")


if __name__ == "__main__":
    main()

"""How many seeds a study will come to need whose seeds are added until it is decided, if what it has seen goes on.

In: where its questions stand. Out: by arm, drawn numbers of seeds. A forecast like that of `price.py`: the true difference and its spread
are drawn from what is known of them, then the seeds to come, which are looked at as the rule looks, with the shares that are left now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mm1_ablate.report.looks import Answered, Looks
from mm1_ablate.report.price import Decides, differs, lies_outside, lies_within
from mm1_ablate.report.statistics import LEAST_SEEDS

DRAWS = 500


def drawn_needs(looks: Looks, baselines: Mapping[str, str], margin: float) -> dict[str, NDArray[np.int64]]:
    """By arm, [draws]: how many of its seeds will have been needed.

    Args:
        baselines: of each arm.
        margin: smallest difference of interest.
    """
    needs = {arm: np.full(DRAWS, known) for arm, known in looks.needed.items()}
    asked = [((arm, baselines[arm]), one) for arm, one in looks.comparisons.items()]
    asked += [((one.question.arm, one.question.reference), one) for one in looks.expectations]
    open_ones = {id(one): one.question.family for _, one in asked if not one.decided}  # those of twins are one
    left = Counter(open_ones.values())
    for place, (arms, one) in enumerate(asked):
        drawn = None if one.decided else _drawn(one, looks, left[one.question.family], margin, place)
        if drawn is not None:
            needs |= {arm: np.maximum(needs[arm], drawn) for arm in arms if arm in needs}
    return needs


def _drawn(one: Answered, looks: Looks, left: int, margin: float, seed: int) -> NDArray[np.int64] | None:
    """[draws]: at how many seeds a question is decided, or the most; None: nothing is known of it yet."""
    estimate, most = one.estimate, looks.design.at_most
    if estimate is None or len(estimate.by_seed) < LEAST_SEEDS or one.seeds >= most or not estimate.deviation > 0:
        return None
    seeds, random = np.array(estimate.by_seed), np.random.default_rng(seed)
    count, mean, squares = len(seeds), float(seeds.mean()), float(seeds.var() * len(seeds))
    variance = squares / random.chisquare(count - 1, size=(DRAWS, 1))
    luck = random.normal(size=(DRAWS, most - count + 1)) * variance**0.5
    new = mean + luck[:, :1] / count**0.5 + luck[:, 1:]
    total = np.arange(count + 1, most + 1)
    means = (count * mean + new.cumsum(axis=1)) / total
    spread = (squares + count * mean**2 + (new**2).cumsum(axis=1) - total * means**2).clip(min=0) / (total - 1)
    errors, freedom = (spread / total + estimate.lasting) ** 0.5, np.broadcast_to(total - 1.0, means.shape)
    decided = np.logical_or.reduce([way(means, errors, freedom) for way in _ways(one, looks, left, margin)])
    return np.where(decided.any(axis=1), total[decided.argmax(axis=1)], most)


def _ways(one: Answered, looks: Looks, left: int, margin: float) -> list[Decides]:
    expected = one.question.expectation
    if expected is None:
        return [differs(0.0, looks.level_of(left, "different") / 2), lies_within(margin, looks.level_of(left, "equivalent"))]
    level = looks.level_of(left, "expected")
    if expected.is_ == "within":
        return [lies_within(expected.by, level), lies_outside(expected.by, level / 2)]
    return [differs(expected.by if expected.is_ == "above" else -expected.by, level)]

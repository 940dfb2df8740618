"""What would decide an undecided comparison: the forecast holds in simulated studies, and says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from made_up import made_up_study, scores
from scipy import special

from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.price import MOST, Price, SeedCost, differs, lies_outside, lies_within, pooled, seeds_to_decide, typical
from mm1_ablate.report.statistics import paired_difference

MARGIN, LEVEL = 3.0, 0.05 / 4


def decided(differences: np.ndarray) -> bool:
    """Significantly different or equivalent, at the level of one of four comparisons."""
    found = paired_difference(differences)
    return bool(found.p <= LEVEL or max(found.p_above(-MARGIN), found.p_below(MARGIN)) <= LEVEL)


@pytest.mark.parametrize("deviations", [(3.0, 3.0, 3.0, 3.0), (1.0, 2.0, 4.0, 8.0)])
def test_nine_of_ten_undecided_arms_are_decided_with_the_seeds_that_their_price_names(deviations: Sequence[float]) -> None:
    """True differences of any size; with three seeds, and spreads that are equal or differ eightfold."""
    random, ways = np.random.default_rng(0), [differs(0.0, LEVEL / 2), lies_within(MARGIN, LEVEL)]
    spread = np.array(deviations)
    named = came_out = 0
    for _ in range(60):
        truth = random.normal(scale=2.5 * spread)
        seeds = truth[:, None] + spread[:, None] * random.normal(size=(4, 3 + MOST))
        estimates = [paired_difference(row[:3]) for row in seeds]
        for row, estimate in zip(seeds, estimates, strict=True):
            if not decided(row[:3]) and (more := seeds_to_decide(estimate, typical(estimates), ways)) is not None:
                named += 1
                came_out += decided(row[: 3 + more])
    assert named > 60 and 0.82 <= came_out / named <= 1.0, "binomial noise of about .03"


def test_a_smaller_difference_a_stricter_level_and_what_seeds_do_not_lessen_cost_more() -> None:
    def price(seeds: list[float], level: float = 0.025) -> float:
        estimate = paired_difference(seeds)
        return seeds_to_decide(estimate, typical([estimate]), [differs(0.0, level)]) or MOST + 1

    assert price([9.0, 12.0, 15.0]) < price([3.0, 6.0, 9.0]) <= price([0.0, 3.0, 6.0])
    assert price([9.0, 12.0, 15.0]) < price([9.0, 12.0, 15.0], level=0.001)
    random = np.random.default_rng(0)
    items = random.normal(scale=60, size=(1, 40)) + np.array([[9.0], [12.0], [15.0]])
    table = items - items.mean(axis=1, keepdims=True) + np.array([[9.0], [12.0], [15.0]])
    covered = paired_difference([9.0, 12.0, 15.0], [table])
    assert seeds_to_decide(covered, typical([covered]), [differs(0.0, 0.025)]) is None, "the items' luck stays, whatever seeds are added"


def test_outside_of_a_margin_and_within_it_are_the_two_ways_to_decide() -> None:
    at = np.array([5.0, 0.5, 3.5]), np.array([0.5, 0.5, 0.5]), np.array([20.0, 20.0, 20.0])
    assert list(lies_outside(3.0, 0.05)(*at)) == [True, False, False]
    assert list(lies_within(3.0, 0.05)(*at)) == [False, True, False]
    assert list(differs(3.0, 0.05)(*at)) == [True, True, False]


def test_one_noisy_arm_makes_the_mean_of_the_spreads_and_not_the_typical_one() -> None:
    estimates = [paired_difference([0.0, 1.0, 2.0]), paired_difference([0.0, 1.0, 2.0]), paired_difference([0.0, 30.0, 60.0])]
    assert pooled(estimates) == (pytest.approx((1 + 1 + 900) / 3), 6)
    assert typical(estimates) == (pytest.approx(900 ** (1 / 3) * np.exp(-special.digamma(1))), 6)
    assert typical([]) == pooled([None]) == (0.0, 0)


@pytest.mark.parametrize(
    ("price", "said"),
    [
        (Price(2, 8, 90.0), "2 more seeds, 8 trials, about 1:30, would decide this with 90 % chance"),
        (Price(1, 1), "1 more seed, 1 trial, would decide this with 90 % chance"),
        (Price(3), "3 more seeds would decide this with 90 % chance"),
        (Price(5, 40, 7265.0), "5 more seeds, 40 trials, about 2:01:05, would decide this with 90 % chance"),
        (Price(None), "more than 20 seeds would be needed"),
    ],
)
def test_a_price_in_words(price: Price, said: str) -> None:
    assert price.in_words() == said


def test_a_seed_costs_a_trial_of_each_arm_and_their_time() -> None:
    assert SeedCost(4, 11.25).price(2) == Price(2, 8, 90.0)
    assert SeedCost(4).price(2) == Price(2, 8) and SeedCost(4, 9.0).price(None) == Price(None)


def compared(seconds: float | None = None, **sweep: Any) -> StudyComparison:
    study = made_up_study(["clear", "open"], **sweep)
    truth = {"baseline": [50.0, 51.0, 50.5], "clear": [30.1, 31.0, 30.4], "open": [44.0, 46.5, 49.0]}
    return compare(study, scores(study, truth), seconds_per_trial=seconds)


def test_what_is_undecided_has_a_price_and_what_is_decided_none() -> None:
    expect = [{"arm": arm, "metric": "shot_8/average", "is": "below", "by": 1, "because": "so"} for arm in ("clear", "open")]
    comparison = compared(20.0, expect=expect)
    clear, unclear = comparison.row("clear"), comparison.row("open")
    assert clear.price is None and unclear.price is not None and unclear.price.seeds
    assert (unclear.price.trials, unclear.price.seconds) == (3 * unclear.price.seeds, 60.0 * unclear.price.seeds)
    confirmed, leaning = comparison.expectations
    assert confirmed.verdict == "confirmed" and confirmed.price is None
    assert leaning.verdict == "leaning" and leaning.price is not None and leaning.price.seeds
    told = comparison.to_json()
    assert told["arms"][2]["price"]["seeds"] == unclear.price.seeds and told["expectations"][1]["price"]["trials"] == leaning.price.trials
    assert compared().row("open").price == Price(unclear.price.seeds, unclear.price.trials), "no time where no trial was timed"


def test_a_decided_arm_leaves_its_share_of_the_level_to_the_open_one() -> None:
    """Holm: of two comparisons of which one is decided, the other is priced as if it were alone."""
    study = made_up_study(["open"])
    alone = compare(study, scores(study, {"baseline": [50.0, 51.0, 50.5], "open": [44.0, 46.5, 49.0]}))
    both_open = made_up_study(["open", "other"])
    truth = {"baseline": [50.0, 51.0, 50.5], "open": [44.0, 46.5, 49.0], "other": [44.0, 46.6, 49.1]}
    among = compare(both_open, scores(both_open, truth))
    prices = [comparison.row("open").price for comparison in (alone, compared(), among)]
    seeds = [price.seeds or MOST + 1 for price in prices if price]
    assert seeds[0] <= seeds[2] and seeds[1] <= seeds[2] and len(seeds) == 3

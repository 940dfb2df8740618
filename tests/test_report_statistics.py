"""Statistics against scipy, and against simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mm1_ablate.report.statistics import (
    Estimate,
    Student,
    benjamini_hochberg,
    detectable_difference,
    equivalence,
    holm,
    item_noise,
    minimum_detectable_effect,
    paired_difference,
    welch_difference,
)

OURS, THEIRS = np.array([52.1, 55.0, 50.3, 54.2]), np.array([50.0, 51.2, 49.9, 50.7])


def test_paired_difference_is_the_paired_t_of_scipy() -> None:
    found = paired_difference(OURS - THEIRS, confidence=0.9)
    expected = stats.ttest_rel(OURS, THEIRS)
    low, high = expected.confidence_interval(0.9)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))
    assert (found.seeds, found.method, found.with_items) == (4, "paired t", False)


def test_two_seeds_give_an_interval_on_one_degree_of_freedom() -> None:
    found = paired_difference([3.0, 5.0])
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 1) * 1.0)


def test_welch_is_the_welch_of_scipy() -> None:
    found = welch_difference(OURS, THEIRS[:3])
    expected = stats.ttest_ind(OURS, THEIRS[:3], equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))
    assert found.method == "Welch"


def test_one_seed_without_items_has_no_interval() -> None:
    found = paired_difference([3.0])
    assert found.difference == 3 and not found.known
    assert all(math.isnan(value) for value in (found.low, found.high, found.p, found.detectable(), equivalence(found, 1)))


def test_one_seed_with_items_has_the_interval_of_evaluation_noise_only() -> None:
    items = np.random.default_rng(0).normal(2, 5, size=(1, 80))
    found = paired_difference([items.mean()], [items])
    expected = stats.ttest_1samp(items[0], 0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.method == "evaluation items only"


def test_differences_without_any_spread_are_not_taken_for_certainty() -> None:
    found = paired_difference([-5.0, -5.0 + 1e-13, -5.0])
    assert not found.known and math.isnan(found.p)


def test_items_never_narrow_the_interval_of_the_seeds() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        table = random.normal(size=(3, 1)) * random.choice([0.0, 0.3, 3.0]) + random.normal(size=(3, 40))
        seeds = table.mean(axis=1)
        assert paired_difference(seeds, [table]).half_width >= paired_difference(seeds).half_width - 1e-12


def test_average_over_tasks_shares_out_the_noise_of_each() -> None:
    """Items alone, no luck of seeds: the variance of the mean of T tasks is the sum of theirs over T squared."""
    random = np.random.default_rng(2)
    tasks = [np.tile(random.normal(size=(1, size)), (3, 1)) for size in (50, 200)]
    noise = item_noise(tasks, [np.zeros_like(task) for task in tasks])
    assert noise.items == pytest.approx(sum(task[0].var(ddof=1) / task.shape[1] for task in tasks) / 4)
    assert noise.residual == pytest.approx(0, abs=1e-20)


def test_seeds_that_agree_by_chance_are_no_certainty() -> None:
    """Two seeds with the same mean, though their items differ: the spread cannot truly be less than the items' own noise makes it."""
    random = np.random.default_rng(0)
    items = random.normal(size=(2, 100))
    items -= items.mean(axis=1, keepdims=True)
    estimate = paired_difference([-34.0, -34.0], [items - 34.0])
    residual = (items[0] - items[1]).var(ddof=1) / 2 / 100 / 2
    assert estimate.high - estimate.low == pytest.approx(2 * stats.t.ppf(0.975, 1) * residual**0.5, rel=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_items_that_add_nothing_leave_the_interval_of_the_seeds(seeds: int) -> None:
    """Residuals that happen to cancel between seeds: taking them off the spread of the seeds must not cost its degrees of freedom."""
    random = np.random.default_rng(0)
    residual = random.normal(size=(seeds, 200))
    residual -= residual.mean(axis=0) + residual.mean(axis=1, keepdims=True) - residual.mean()
    table = np.linspace(-0.12, 0.12, seeds)[:, None] + residual
    means = table.mean(axis=1)
    assert means.var(ddof=1) > residual.var() / 200
    assert paired_difference(means, [table]).half_width == pytest.approx(paired_difference(means).half_width)


def test_few_items_keep_their_few_degrees_of_freedom() -> None:
    """Nine seeds, but three items that decide: eight degrees of freedom would be too sure of them."""
    random = np.random.default_rng(0)
    table = random.normal(size=(1, 3)) + random.normal(scale=0.01, size=(9, 3))
    found = paired_difference(table.mean(axis=1), [table])
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 2) * table.mean(axis=0).std(ddof=1) / 3**0.5, rel=0.02)


def test_a_task_of_a_single_item_is_refused() -> None:
    with pytest.raises(ValueError, match="two items"):
        paired_difference([1.0, 2.0], [np.ones((2, 1))])


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("between_seeds", "between_items", "residual"), [(0.0, 0.5, 0.3), (0.1, 0.5, 0.3), (0.05, 0.5, 0.1), (0.5, 0.2, 0.2), (0.0, 0.0, 0.5)]
)
def test_intervals_over_both_levels_of_noise_hold_what_they_promise(
    seeds: int, between_seeds: float, between_items: float, residual: float
) -> None:
    """Coverage of 95 % intervals for a true difference of 2, seeds and items both drawn anew; never less, but for chance."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        luck = random.normal(scale=between_seeds, size=(seeds, 1))
        tasks = [
            2 + luck + random.normal(scale=between_items, size=(1, 60)) + random.normal(scale=residual, size=(seeds, 60)) for _ in range(2)
        ]
        found = paired_difference(np.mean([task.mean(axis=1) for task in tasks], axis=0), tasks)
        covered += found.low <= 2 <= found.high
    assert covered / 400 >= 0.95 - 2.6 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize(
    ("between_seeds", "between_items", "widest"), [(0.3, 0.1, 2.0), (0.3, 0.0, 2.0), (0.02, 0.3, 1.4), (0.0, 0.3, 1.4), (0.0, 0.0, 2.7)]
)
def test_intervals_of_three_seeds_and_200_items_are_neither_too_narrow_nor_needlessly_wide(
    between_seeds: float, between_items: float, widest: float
) -> None:
    """1,000 simulated studies each with large, small and no spread between seeds.

    Args:
        widest: mean length over that of an interval whose variances are known. With two degrees of freedom the t interval is 1.94 times
            as long in the mean. Where residuals alone are the noise, no three seeds can tell that there is no spread between them.
    """
    random = np.random.default_rng(6)
    residual, studies, seeds, items = 0.3, 1000, 3, 200
    known = stats.norm.ppf(0.975) * (between_seeds**2 / seeds + between_items**2 / items + residual**2 / seeds / items) ** 0.5
    covered, widths = 0, []
    for _ in range(studies):
        table = random.normal(scale=residual, size=(seeds, items))
        table += random.normal(size=(seeds, 1)) * between_seeds + random.normal(size=(1, items)) * between_items
        found = paired_difference(table.mean(axis=1), [table])
        covered += found.low <= 0 <= found.high
        widths.append(found.half_width)
    assert covered / studies >= 0.93
    assert np.mean(widths) / known <= widest


def test_seeds_alone_would_miss_the_luck_of_the_items() -> None:
    """Where items are the larger noise, the paired t over seeds covers the truth far too seldom: why items are in the interval."""
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        table = random.normal(scale=0.02, size=(5, 1)) + random.normal(scale=0.5, size=(1, 60)) + random.normal(scale=0.1, size=(5, 60))
        found = paired_difference(table.mean(axis=1))
        covered += found.low <= 0 <= found.high
    assert covered / 300 < 0.7


@pytest.mark.parametrize("seeds", [3, 4])
def test_unpaired_intervals_over_both_levels_of_noise_hold_what_they_promise(seeds: int) -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        hardness = random.normal(scale=0.5, size=(1, 60))
        moved = 1 + hardness + random.normal(scale=0.3, size=(1, 60))
        ours = moved + random.normal(scale=0.1, size=(seeds, 1)) + random.normal(scale=0.2, size=(seeds, 60))
        theirs = hardness + random.normal(scale=0.1, size=(seeds, 1)) + random.normal(scale=0.2, size=(seeds, 60))
        found = welch_difference(ours.mean(axis=1), theirs.mean(axis=1), item_noise([ours], [theirs]))
        covered += found.low <= 1 <= found.high
    assert covered / 400 >= 0.92


# ---------------------------------------------------------------- several comparisons
def test_holm_as_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0


def test_holes_count_in_the_family_but_have_no_p() -> None:
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.06]) and math.isnan(adjusted[1])
    assert holm([0.01], family=5) == pytest.approx([0.05])


def test_benjamini_hochberg_is_that_of_scipy_and_keeps_holes() -> None:
    adjusted = benjamini_hochberg([0.01, math.nan, 0.04, 0.03])
    assert adjusted[[0, 2, 3]] == pytest.approx(stats.false_discovery_control([0.01, 0.04, 0.03])) and math.isnan(adjusted[1])


def test_a_family_of_arms_like_the_baseline_gives_a_false_verdict_no_more_than_one_time_in_twenty() -> None:
    """Six arms against one shared baseline, one of them five times as noisy, three seeds, no true difference."""
    random = np.random.default_rng(6)
    scale = np.array([[1.0], [1], [1], [1], [1], [5]])
    false = 0
    for _ in range(600):
        differences = scale * random.normal(size=(6, 3)) - random.normal(size=3)
        false += holm([paired_difference(row).p for row in differences]).min() <= 0.05
    assert false / 600 <= 0.05 + 2.6 * (0.05 * 0.95 / 600) ** 0.5


# ---------------------------------------------------------------- equivalence and power
def test_equivalence_is_two_one_sided_tests_of_scipy() -> None:
    differences = OURS - THEIRS
    found = equivalence(paired_difference(differences), 4.0)
    above = stats.ttest_1samp(differences, -4, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 4, alternative="less").pvalue
    assert found == pytest.approx(max(above, below))


def test_equivalence_is_seldom_claimed_of_a_difference_as_large_as_the_margin() -> None:
    random = np.random.default_rng(7)
    claims = sum(equivalence(paired_difference(random.normal(1, 0.3, size=4)), 1.0) <= 0.05 for _ in range(600))
    assert claims / 600 <= 0.05 + 2.6 * (0.05 * 0.95 / 600) ** 0.5


@pytest.mark.parametrize(("seeds", "deviations"), [(3, 3.3), (5, 1.7), (8, 1.2)])
def test_minimum_detectable_effect_in_deviations(seeds: int, deviations: float) -> None:
    assert minimum_detectable_effect(1.0, seeds) == pytest.approx(deviations, abs=0.06)


@pytest.mark.parametrize(("degrees", "comparisons"), [(2, 1), (4, 6), (9, 3)])
def test_detectable_difference_has_its_power_by_the_noncentral_t(degrees: int, comparisons: int) -> None:
    shift = detectable_difference(1.0, degrees, comparisons=comparisons)
    critical = stats.t.ppf(1 - 0.025 / comparisons, degrees)
    assert stats.nct.sf(critical, degrees, shift) == pytest.approx(0.8, abs=1e-3)


def test_what_is_detectable_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(8)
    effect = minimum_detectable_effect(2.0, 4)
    found = sum(paired_difference(random.normal(effect, 2, size=4)).p <= 0.05 for _ in range(500))
    assert found / 500 == pytest.approx(0.8, abs=0.05)


def test_nothing_is_detectable_with_one_seed() -> None:
    assert math.isnan(minimum_detectable_effect(1.0, 1))


def test_the_most_cautious_error_counts() -> None:
    wide, narrow = Student(2.0, 2), Student(2.5, 200)
    both = Estimate(3.0, (wide, narrow), 0.95, 3, "paired t", True)
    assert both.half_width == pytest.approx(max(stats.t.ppf(0.975, 2) * 2, stats.t.ppf(0.975, 200) * 2.5))
    assert both.p == pytest.approx(2 * max(stats.t.sf(1.5, 2), stats.t.sf(1.2, 200)))
    assert (both.low <= 0 <= both.high) == (both.p >= 0.05)

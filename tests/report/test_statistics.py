"""Statistics against scipy, and against simulations whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from mm1_ablate.report.statistics import (
    Estimate,
    Student,
    benjamini_hochberg,
    detectable_difference,
    equivalence,
    holm,
    holm_of_directions,
    minimum_detectable_effect,
    paired_difference,
    welch_difference,
)
from mm1_ablate.report.variance_components import ItemNoise, item_noise, paired_item_noise

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
    assert found.method == "evaluation items only" and found.with_items


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


def test_what_a_paired_comparison_detects_is_at_its_own_level_power_and_family() -> None:
    shift = minimum_detectable_effect(2.0, 4, confidence=0.9, power=0.7, comparisons=6) / (2.0 / 4**0.5)
    assert stats.nct.sf(stats.t.ppf(1 - 0.1 / 6 / 2, 3), 3, shift) == pytest.approx(0.7, abs=1e-3)


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


# ---------------------------------------------------------------- what must hold of any numbers
@st.composite
def paired_studies(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray]]:
    """Differences by seed, [seeds], and by task the items that they are the mean of, [seeds, items]; none of these in a third of cases."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seeds, tasks = draw(st.integers(2, 5)), draw(st.integers(0, 2))
    spread, hardness, middle = (draw(st.sampled_from([0.1, 1.0, 5.0])), draw(st.sampled_from([0.0, 1.0, 4.0])), draw(st.integers(-3, 3)))
    luck = middle + spread * random.normal(size=(seeds, 1))
    tables = [
        luck + hardness * random.normal(size=(1, items)) + random.normal(size=(seeds, items)) for items in random.integers(2, 9, size=tasks)
    ]
    return (np.mean([table.mean(axis=1) for table in tables], axis=0) if tables else luck[:, 0]), tables


MANY = settings(max_examples=30, deadline=None)


@MANY
@given(paired_studies(), st.floats(-4, 4))
def test_of_two_arms_that_change_places_nothing_changes_but_the_sign(study: tuple[np.ndarray, list[np.ndarray]], value: float) -> None:
    differences, tables = study
    one, other = paired_difference(differences, tables), paired_difference(-differences, [-table for table in tables])
    assert (other.difference, other.low, other.high) == pytest.approx((-one.difference, -one.high, -one.low))
    assert (other.p, other.detectable()) == pytest.approx((one.p, one.detectable()))
    assert other.p_against(-value) == pytest.approx(one.p_against(value))
    assert (other.p_above(-value), other.p_below(-value)) == pytest.approx((one.p_below(value), one.p_above(value)))
    assert equivalence(other, abs(value)) == pytest.approx(equivalence(one, abs(value)))
    assert (other.seeds, other.method, other.known) == (one.seeds, one.method, one.known)


@MANY
@given(paired_studies(), st.sampled_from([0.5, 0.8, 0.95, 0.99]), st.floats(-4, 4))
def test_p_is_at_most_the_level_exactly_where_the_interval_excludes_the_value(
    study: tuple[np.ndarray, list[np.ndarray]], confidence: float, value: float
) -> None:
    found = paired_difference(*study, confidence=confidence)
    for against in (0.0, value, found.difference - 1.001 * found.half_width, found.difference + 0.999 * found.half_width):
        distance = abs(found.difference - against) / found.half_width
        assume(abs(distance - 1) > 1e-6)
        assert (found.p_against(against) <= 1 - confidence) == (not found.low <= against <= found.high) == (distance > 1)
        assert 0 <= found.p_against(against) <= 1
    assert (found.p <= 1 - confidence) == (found.low > 0 or found.high < 0)


@MANY
@given(paired_studies(), st.sampled_from([1e-4, 0.01, 100.0]), st.randoms())
def test_neither_units_nor_the_order_of_seeds_items_and_tasks_make_a_difference(
    study: tuple[np.ndarray, list[np.ndarray]], unit: float, order: Random
) -> None:
    differences, tables = study
    found = paired_difference(differences, tables)
    scaled = paired_difference(unit * differences, [unit * table for table in tables])
    assert (scaled.difference, scaled.half_width) == pytest.approx((unit * found.difference, unit * found.half_width))
    assert (scaled.p, scaled.known) == (pytest.approx(found.p, rel=1e-6), found.known)
    seeds = order.sample(range(len(differences)), len(differences))
    mixed = [table[seeds][:, ::-1] for table in reversed(tables)]
    again = paired_difference(differences[seeds], mixed)
    assert (again.low, again.high, again.p) == pytest.approx((found.low, found.high, found.p))


@MANY
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_unpaired_arms_change_places_alike_and_what_makes_items_hard_for_both_falls_out(
    seed: int, ours: int, theirs: int, with_items: bool
) -> None:
    random = np.random.default_rng(seed)
    one, other = (1 + random.normal(size=(seeds, 1)) + random.normal(size=(seeds, 12)) for seeds in (ours, theirs))
    hardness = 30 * random.normal(size=(1, 12))
    hardness -= hardness.mean()

    def compared(first: np.ndarray, second: np.ndarray) -> Estimate:
        noise = item_noise([first], [second]) if with_items else None
        return welch_difference(first.mean(axis=1), second.mean(axis=1), noise)

    found, turned, harder = compared(one, other), compared(other, one), compared(one + hardness, other + hardness)
    assert found.seeds == turned.seeds == min(ours, theirs)
    assert found.known == (with_items or min(ours, theirs) > 1)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-found.difference, -found.high, -found.low), nan_ok=True)
    assert turned.p == pytest.approx(found.p, nan_ok=True)
    assert (harder.low, harder.high) == pytest.approx((found.low, found.high), nan_ok=True)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_the_error_over_both_levels_is_that_of_the_two_way_table_of_the_textbook(seeds: int) -> None:
    """Searle, Casella and McCulloch (1992), section 4.2: the variance of the grand mean from the mean squares of a two-way table, with the
    degrees of freedom of Satterthwaite (1946)."""
    random = np.random.default_rng(seeds)
    items = 40
    table = 3 * random.normal(size=(seeds, 1)) + 4 * random.normal(size=(1, items)) + 6 * random.normal(size=(seeds, items))
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    of_seeds = items * ((rows - grand) ** 2).sum() / (seeds - 1)
    of_items = seeds * ((columns - grand) ** 2).sum() / (items - 1)
    rest = ((table - rows[:, None] - columns + grand) ** 2).sum() / (seeds - 1) / (items - 1)
    assert of_seeds > rest
    variance = (of_seeds + of_items - rest) / seeds / items
    degrees = (of_seeds + of_items - rest) ** 2 / (
        of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1) + rest**2 / (seeds - 1) / (items - 1)
    )
    found = paired_difference(rows, [table])
    both = found.errors[-1]
    assert (both.standard_error, both.degrees) == pytest.approx((variance**0.5, max(degrees, seeds - 1)))
    alone = stats.t.ppf(0.975, seeds - 1) * rows.std(ddof=1) / seeds**0.5
    assert found.half_width == pytest.approx(max(alone, stats.t.ppf(0.975, max(degrees, seeds - 1)) * variance**0.5))


def test_the_noise_of_items_between_unpaired_arms_is_that_of_both() -> None:
    """No luck of items but each answer's own: with n seeds and m seeds its variance is that of the one over n and of the other over m."""
    random = np.random.default_rng(0)
    ours, theirs = random.normal(scale=1, size=(4, 4000)), random.normal(scale=3, size=(2, 4000))
    expected = (1 / 4 + 9 / 2) / 4000
    for noise in (item_noise([ours], [theirs]), item_noise([theirs], [ours])):
        assert (noise.items, noise.residual) == pytest.approx((expected, expected), rel=0.1)
    half = item_noise([ours, ours], [theirs, theirs])
    assert (half.items, half.residual) == pytest.approx((noise.items / 2, noise.residual / 2))


def test_a_clear_fall_has_the_p_of_scipy_as_a_clear_rise_has() -> None:
    for differences in (OURS - THEIRS, THEIRS - OURS):
        found = paired_difference(differences)
        for value in (0.0, 1.5, -1.5):
            two, above, below = (
                stats.ttest_1samp(differences, value, alternative=side).pvalue for side in ("two-sided", "greater", "less")
            )
            assert (found.p_against(value), found.p_above(value), found.p_below(value)) == pytest.approx((two, above, below))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_most_cautious_error_counts_whatever_the_sign(sign: int) -> None:
    found = Estimate(sign * 3.0, (Student(2.0, 2), Student(2.5, 200)), 0.95, 3, "paired t", True)
    both = 2 * max(stats.t.sf(1.5, 2), stats.t.sf(1.2, 200))
    assert found.p == pytest.approx(both)
    assert min(found.p_above(0), found.p_below(0)) == pytest.approx(both / 2)
    margin = max(stats.t.sf(1 / 2, 2), stats.t.sf(1 / 2.5, 200))
    assert equivalence(found, 4.0) == pytest.approx(margin)
    for family in (1, 6):
        needed = found.detectable(comparisons=family)
        powers = [
            stats.nct.sf(stats.t.ppf(1 - 0.025 / family, error.degrees), error.degrees, needed / error.standard_error)
            for error in found.errors
        ]
        assert min(powers) == pytest.approx(0.8, abs=1e-3)


def test_differences_on_a_small_scale_are_no_less_known() -> None:
    """Bits per byte of a few models differ in the fourth digit."""
    differences = np.array([1.2e-4, 1.9e-4, 1.1e-4])
    assert paired_difference(differences).p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_one_error_that_is_unknown_leaves_what_the_other_tells() -> None:
    """Seeds that agree exactly, over items that do not: the luck of the items is the interval."""
    table = np.tile(np.random.default_rng(0).normal(size=(1, 30)), (3, 1))
    found = paired_difference(table.mean(axis=1), [table])
    assert found.known and found.half_width == pytest.approx(stats.t.ppf(0.975, 29) * table[0].std(ddof=1) / 30**0.5)
    assert paired_item_noise([table]) == ItemNoise(pytest.approx(table[0].var(ddof=1) / 30), pytest.approx(29), pytest.approx(0), 58)


# ---------------------------------------------------------------- claims about a side of a bound
def test_a_directions_share_passes_on_only_where_it_is_clear() -> None:
    """Three claims at .05: the first is ten times clearer than its .0167, so that two are left; the second is not clear enough."""
    assert holm_of_directions([0.001, 0.02, 0.03], 0.05) == pytest.approx([0.003, 0.04, 0.06])
    assert holm_of_directions([0.01, 0.02, math.nan], 0.05)[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(holm_of_directions([0.01, 0.02, math.nan], 0.05)[2]) and holm_of_directions([], 0.05).size == 0
    assert holm_of_directions([0.04], 0.05) == pytest.approx([0.04]), "alone it has the whole level"


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("expectations", [1, 2, 5])
@pytest.mark.parametrize("together", [-0.9, -0.5, 0.0, 0.9])
def test_at_worst_a_family_of_directions_holds_its_level(seeds: int, expectations: int, together: float) -> None:
    """All differences exactly on their bounds, where every claim is a false one half of the time: 8,000 studies.

    Args:
        together: correlation between what would be false of one expectation and of the next.
    """
    random, studies = np.random.default_rng(11), 8000
    sign = np.where(np.arange(expectations) % 2 == 0, 1.0, np.sign(together) or 1.0)
    common, own = random.normal(size=(studies, 1, seeds)), random.normal(size=(studies, expectations, seeds))
    differences = (abs(together) ** 0.5 * common + (1 - abs(together)) ** 0.5 * own) * sign[:, None]
    t = differences.mean(axis=2) / (differences.std(axis=2, ddof=1) / seeds**0.5)
    above = stats.t.sf(t, seeds - 1)
    false = 0
    for row in above:
        adjusted = holm_of_directions(np.minimum(row, 1 - row), 0.05)
        false += bool(((adjusted <= 0.05) & (row < 0.5)).any())
    assert false / studies <= 0.05 + 2.6 * (0.05 * 0.95 / studies) ** 0.5


def test_holm_itself_would_not_hold_it() -> None:
    """Why a share is passed on from clear claims only: two claims that go together, one true and one false on their bounds."""
    random, studies = np.random.default_rng(12), 20000
    pair = random.multivariate_normal([0, 0], [[1, -0.9], [-0.9, 1]], size=studies)
    above = stats.norm.sf(pair)
    ps = np.minimum(above, 1 - above)
    false = sum(bool(((holm(p) <= 0.05) & (row < 0.5)).any()) for p, row in zip(ps, above, strict=True))
    assert false / studies > 0.055


# ---------------------------------------------------------------- as it is shown
def test_an_interval_is_shown_no_wider_than_is_possible_and_tested_as_it_is() -> None:
    found = paired_difference([-30.0, 10.0, -40.0])
    shown = replace(found, possible=(-38.0, 62.0)).shown
    assert found.low < -38 and shown == (-38.0, found.high)
    assert replace(found, possible=(-38.0, 62.0)).p == found.p
    assert found.shown == (found.low, found.high)


def test_two_seeds_are_shown_themselves_and_one_without_items_not_at_all() -> None:
    two = paired_difference([-30.0, -44.0])
    assert two.shown is None and two.span == (-44.0, -30.0)
    assert paired_difference([3.0]).span is None


def test_seeds_agree_where_all_lie_strictly_on_one_side() -> None:
    found = paired_difference([-1.0, -2.0, 0.0])
    assert (found.seeds_below(0.0), found.seeds_above(0.0)) == (2, 0)
    assert not found.agrees_about(0.0) and found.agrees_about(1.0) and found.agrees_about(-3.0)
    assert not paired_difference([]).agrees_about(0.0)

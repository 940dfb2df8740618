"""Levels of looks: against published and simulated numbers, and what any such level must obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mm1_ablate.report.sequential import corrected_for_looks, error_over_looks, nominal_level

LOOKS = (3, 4, 5, 6, 7, 8)
TWO_SIDED = {0.05: 0.01437, 0.025: 0.00662, 0.05 / 3: 0.00423, 0.0125: 0.00310, 0.01: 0.00243, 0.005: 0.00115}
ONE_SIDED = {0.05: 0.01602, 0.025: 0.00720, 0.05 / 3: 0.00455, 0.0125: 0.00330, 0.01: 0.00257, 0.005: 0.00121}
"""Nominal levels of the t at 3 to 8 seeds, by the error over all looks, from 2,000,000 simulated studies: to 2 %."""


@pytest.mark.parametrize(("sides", "table"), [(2, TWO_SIDED), (1, ONE_SIDED)])
def test_nominal_levels_are_those_of_two_million_simulated_studies(sides: int, table: dict[float, float]) -> None:
    found = {error: nominal_level(error, LOOKS, sides) for error in table}
    assert found == pytest.approx(table, rel=0.015)


@pytest.mark.parametrize("looks", [(3, 5), (4, 6, 9), LOOKS])
@pytest.mark.parametrize("sides", [1, 2])
def test_the_error_of_a_repeated_test_is_what_a_simulation_says(looks: tuple[int, ...], sides: int) -> None:
    studies = 100_000
    x = np.random.default_rng(3).normal(size=(studies, looks[-1]))
    for p in (0.2, 0.05, 0.01):
        rejected = np.zeros(studies, dtype=bool)
        for n in looks:
            t = x[:, :n].mean(axis=1) / (x[:, :n].std(axis=1, ddof=1) / n**0.5)
            rejected |= (np.abs(t) if sides == 2 else t) >= stats.t.isf(p / sides, n - 1)
        error = error_over_looks(p, looks, sides)
        assert rejected.mean() == pytest.approx(error, abs=4 * (error / studies) ** 0.5)


def test_looking_after_each_seed_at_a_level_of_five_percent_is_wrong_in_fifteen() -> None:
    assert error_over_looks(0.05, LOOKS, 2) == pytest.approx(0.147, abs=0.002)


def test_many_looks_have_the_error_that_a_simulation_says() -> None:
    """Of a design of up to 15 seeds, whose bounds are far beyond each other."""
    looks, studies, p = tuple(range(3, 16)), 100_000, 0.01
    x = np.random.default_rng(4).normal(size=(studies, looks[-1]))
    rejected = np.zeros(studies, dtype=bool)
    for n in looks:
        rejected |= stats.ttest_1samp(x[:, :n], 0, axis=1).pvalue <= p
    error = error_over_looks(p, looks, 2)
    assert rejected.mean() == pytest.approx(error, abs=4 * (error / studies) ** 0.5)


@given(p=st.floats(1e-12, 1), sides=st.sampled_from([1, 2]), looks=st.sampled_from([(3, 4), (3, 5, 8)]))
def test_a_corrected_p_value_lies_between_itself_and_bonferronis(p: float, sides: int, looks: tuple[int, ...]) -> None:
    corrected = float(corrected_for_looks(p, looks, sides))
    assert p * 0.9999 <= corrected <= min(1.0, len(looks) * p * 1.0001)


@given(st.lists(st.floats(1e-10, 1), min_size=2, max_size=20))
def test_corrected_p_values_keep_their_order(p: list[float]) -> None:
    corrected = corrected_for_looks(sorted(p), LOOKS, 2)
    assert (np.diff(corrected) >= 0).all()


def test_p_values_that_are_not_known_stay_so_and_one_look_needs_no_correction() -> None:
    assert np.isnan(corrected_for_looks([float("nan"), 0.5], LOOKS, 2)).tolist() == [True, False]
    assert corrected_for_looks(0.04, (5,), 2) == 0.04
    assert nominal_level(0.05, (5,), 2) == 0.05


@pytest.mark.parametrize("p", [0.7, 0.25, 0.04, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("sides", [1, 2])
def test_what_is_interpolated_is_what_is_computed(p: float, sides: int) -> None:
    assert float(corrected_for_looks(p, LOOKS, sides)) == pytest.approx(error_over_looks(p, LOOKS, sides), rel=3e-3)

"""Questions of a family, decided look by look: by hand, by what must hold whatever the scores, and by simulated studies."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mm1_ablate.report.sequential_holm import decide
from mm1_ablate.report.statistics import holm

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from sequential_simulation import WORLDS, World, simulate

NAN = float("nan")


def places(p: list[list[float]], level: float = 0.05, passed_on: float = 1.0) -> list[int | None]:
    return [one.look for one in decide({"different": np.array(p)}, level, passed_on)]


def test_one_look_is_holms_correction() -> None:
    p = [0.012, 0.04, 0.011, 0.5, 0.024]
    decisions = decide({"different": np.array(p)[:, None]}, 0.05)
    assert [one.adjusted["different"] for one in decisions] == pytest.approx(holm(p))
    assert [one.look for one in decisions] == [0 if adjusted <= 0.05 else None for adjusted in holm(p)]


def test_the_share_of_what_was_decided_passes_on_to_what_is_left() -> None:
    # Two questions: .03 is above .025, until the other is decided.
    assert places([[0.03, 0.03], [0.5, 0.02]]) == [1, 1]
    assert places([[0.03, 0.03], [0.5, 0.03]]) == [None, None]
    assert places([[0.03, 0.03], [0.02, 0.9]]) == [0, 0]


def test_where_only_strong_evidence_passes_its_share_on_it_takes_a_tenth() -> None:
    assert places([[0.03], [0.02]], passed_on=10) == [None, 0]
    assert places([[0.03], [0.002]], passed_on=10) == [0, 0]


def test_what_is_decided_stays_decided_and_is_looked_at_no_more() -> None:
    (decision,) = decide({"different": np.array([[0.01, 0.9, 0.001]])}, 0.05)
    assert (decision.look, decision.looks, decision.adjusted["different"]) == (0, 1, 0.01)


def test_a_question_with_a_hole_waits_and_its_share_stays_with_it() -> None:
    decisions = decide({"different": np.array([[NAN, 0.001, 0.001], [0.03, 0.03, 0.024]])}, 0.05)
    assert [one.look for one in decisions] == [None, 2]
    assert [one.looks for one in decisions] == [0, 3]
    assert np.isnan(decisions[0].adjusted["different"])


def test_each_of_two_tests_has_the_whole_level_and_a_family_of_its_own() -> None:
    tests = {"different": np.array([[0.9, 0.9], [0.03, 0.03]]), "equivalent": np.array([[0.02, 0.02], [0.9, 0.9]])}
    decisions = decide(tests, 0.05)
    assert decisions[0].answer == "equivalent"
    assert decisions[1].answer == "", "that the first is equivalent is no reason to doubt less that the second is different"
    tests["different"][1] = 0.024
    assert [one.answer for one in decide(tests, 0.05)] == ["equivalent", "different"]


@given(arrays(float, (4, 3), elements=st.floats(0, 1)), st.integers(0, 3), st.integers(0, 2))
def test_later_and_other_peoples_scores_never_take_a_verdict_back(p: np.ndarray, question: int, look: int) -> None:
    """A run that goes on, and a failed trial that is tried again, only add verdicts."""
    before = p.copy()
    before[question, look:] = NAN
    fewer, more = places(before.tolist(), 0.3), places(p.tolist(), 0.3)
    assert all(then is None or (now is not None and now <= then) for then, now in zip(fewer, more, strict=True))


@given(arrays(float, (4, 3), elements=st.floats(0, 1)))
def test_the_order_of_the_questions_does_not_matter(p: np.ndarray) -> None:
    assert places(p[::-1].tolist(), 0.3)[::-1] == places(p.tolist(), 0.3)


# ---------------------------------------------------------------- simulated studies
def test_verdicts_of_simulated_studies_are_false_no_more_often_than_promised() -> None:
    """Where many arms could be wrong: at the bound of 'no difference', and without any difference and much noise."""
    for world in (World((5.0, -5.0, 0.0, 0.0, 0.0), 2.0), World((0.0,) * 5, 6.0)):
        studies = 1500
        result = simulate(world, studies)
        assert result.wrong <= 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5


@pytest.mark.parametrize(
    ("effects", "sd", "seeds", "decided"),
    [((0.0,) * 3, 1.0, 3.4, 1.0), ((0.0,) * 3, 3.0, 6.3, 0.87), ((0.0,) * 8, 3.0, 7.1, 0.67), ((-40.0,), 3.5, 3.05, 1.0)],
)
def test_simulated_studies_decide_as_much_with_as_many_seeds_as_is_written_down(
    effects: tuple[float, ...], sd: float, seeds: float, decided: float
) -> None:
    result = simulate(World(effects, sd), 800, seed=1)
    assert result.seeds == pytest.approx(seeds, abs=0.15)
    assert result.decided == pytest.approx(decided, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_in_every_world_of_the_documentation_the_error_stays_within_its_level(name: str) -> None:
    studies = 10_000
    assert simulate(WORLDS[name], studies, seed=2).wrong <= 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5

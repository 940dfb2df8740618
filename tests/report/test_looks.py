"""Seeds until decided in the report: each comparison at its look, whatever came after, with the interval of the rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up import made_up_study, scores
from scipy import stats

from mm1_ablate.config.study import Study
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.html import html
from mm1_ablate.report.looks import replay
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.scores import Scores
from mm1_ablate.report.sequential import nominal_level

PRIMARY = "shot_8/average"
BASE = np.array([50.0, 51.0, 49.0, 50.5, 49.5, 50.0])
CLEAR, ALIKE = np.array([30.0, 31, 29, 30, 30, 30]), np.array([0.1, -0.1, 0.2, 0.0, 0.0, 0.0])
SLOW = np.array([8.0, 1.0, 5.0, 5.5, 3.5, 4.8])
"""Is different from 6 seeds on, as one of three."""
DIFFERENCES = {"clear": CLEAR, "alike": ALIKE, "slow": SLOW}


def made_up(arms: Sequence[str] = ("clear", "alike", "slow"), **sweep: Any) -> Study:
    compared = {"smallest_difference_of_interest": 5.0, "metrics": [PRIMARY]}
    return made_up_study(list(arms), seeds=range(6), until_decided=(3, 6), compare=compared, **sweep)


def truth(differences: Mapping[str, np.ndarray], seeds: Mapping[str, int] | int = 6) -> dict[str, list[float]]:
    """Scores by arm, at its first seeds."""
    every = {"baseline": BASE, **{arm: BASE + own for arm, own in differences.items()}}
    return {arm: own[: seeds if isinstance(seeds, int) else seeds[arm]].tolist() for arm, own in every.items()}


def needed(study: Study, known: Mapping[str, Sequence[float]]) -> dict[str, int]:
    return dict(replay(study, Scores(scores(study, known), None, 0.95)).needed)


def compared(study: Study, known: Mapping[str, Sequence[float]]) -> StudyComparison:
    """With the trials that are needed by what is known."""
    own = needed(study, known)
    trials = tuple(trial for trial in study.trials if any(trial.seed < own[arm] for arm in trial.arms))
    return compare(replace(study, needed_seeds=own, trials=trials), scores(study, known))


def test_only_what_is_open_and_its_baseline_need_another_seed() -> None:
    study = made_up()
    assert needed(study, {"baseline": []}) == {"baseline": 3, "clear": 3, "alike": 3, "slow": 3}
    assert needed(study, truth(DIFFERENCES, 2)) == {"baseline": 3, "clear": 3, "alike": 3, "slow": 3}
    assert needed(study, truth(DIFFERENCES, 3)) == {"baseline": 4, "clear": 3, "alike": 3, "slow": 4}
    assert needed(study, truth(DIFFERENCES)) == {"baseline": 6, "clear": 3, "alike": 3, "slow": 6}


def test_each_row_says_at_which_look_it_was_decided_with_the_interval_of_the_rule() -> None:
    comparison = compared(made_up(), truth(DIFFERENCES, {"baseline": 6, "clear": 3, "alike": 3, "slow": 6}))
    rows = {row.name: row for row in comparison.rows}
    verdicts = {"clear": "better", "alike": "no difference larger than 5", "slow": "better"}
    assert {name: rows[name].verdict for name in DIFFERENCES} == verdicts
    assert {name: rows[name].decided_at for name in DIFFERENCES} == {"clear": 3, "alike": 3, "slow": 6}
    level = nominal_level(0.05, (3, 4, 5, 6), 2)
    for name, n in (("clear", 3), ("slow", 6)):
        estimate = rows[name].cells[PRIMARY].estimate
        interval = stats.ttest_1samp(DIFFERENCES[name][:n], 0).confidence_interval(1 - level)
        assert estimate is not None and (estimate.low, estimate.high) == pytest.approx(tuple(interval))
    text = markdown(comparison)
    assert "better; decided at 3 seeds" in text and "better; decided at 6 seeds" in text
    assert html(comparison).count("decided at 3 seeds<") == 2, "once in each of two rows"
    assert "looks at 3 to 6 seeds" in text and "repeated confidence intervals" in text and not comparison.holes
    assert [arm["decided_at"] for arm in comparison.to_json()["arms"]] == [None, 3, 3, 6]


def test_seeds_that_no_look_asked_for_change_no_decision() -> None:
    late = {**DIFFERENCES, "clear": np.array([30.0, 31, 29, -90, 70, 5])}
    comparison = compared(made_up(), truth(late))
    estimate = comparison.row("clear").cells[PRIMARY].estimate
    assert comparison.row("clear").decided_at == 3
    assert estimate is not None and estimate.difference == pytest.approx(30)


def test_a_hole_stops_an_open_comparison_and_takes_no_verdict_back() -> None:
    known = truth(DIFFERENCES, {"baseline": 5, "clear": 3, "alike": 3, "slow": 4})
    known["slow"][3] = float("nan")
    study = made_up()
    assert needed(study, known)["slow"] == 4, "it waits for the seed that is missing"
    comparison = compared(study, known)
    assert comparison.row("slow").verdict == "no verdict: missing trials"
    assert comparison.row("slow").notes[0] == "open after the look at 3 seeds"
    assert comparison.row("clear").verdict == "better"


def test_an_arm_goes_on_for_an_expectation_and_its_comparison_stays_as_it_was_decided() -> None:
    expect = [{"arm": "clear", "than": "other", "metric": PRIMARY, "is": "above", "because": "somebody said so"}]
    study = made_up(("clear", "other"), expect=expect)
    close = CLEAR - np.array([6.0, 2, 4, 4, 4, 4])
    known = truth({"clear": CLEAR, "other": close})
    assert needed(study, truth({"clear": CLEAR, "other": close}, 3)) == {"baseline": 3, "clear": 4, "other": 4}
    comparison = compared(study, known)
    (judgement,) = comparison.expectations
    assert (judgement.verdict, judgement.decided_at) == ("confirmed", 4)
    assert comparison.row("clear").decided_at == comparison.row("other").decided_at == 3


def test_an_expectation_is_tested_on_one_side_at_the_level_of_a_look() -> None:
    differences = SLOW[:5]
    expect = [{"arm": "arm", "metric": PRIMARY, "is": "above", "because": "somebody said so"}]
    comparison = compared(made_up(("arm",), expect=expect), truth({"arm": SLOW}))
    (judgement,) = comparison.expectations
    level = nominal_level(0.05, (3, 4, 5, 6), 1)
    by_hand = next(n for n in (3, 4, 5, 6) if stats.ttest_1samp(SLOW[:n], 0, alternative="greater").pvalue <= level)
    assert (judgement.verdict, judgement.decided_at) == ("confirmed", by_hand)
    assert judgement.estimate is not None and judgement.estimate.difference == pytest.approx(differences[:by_hand].mean())


def test_arms_that_are_the_same_trials_are_one_comparison() -> None:
    study = made_up(("clear", "twin"), same={"twin": "clear"})
    known = truth({"clear": CLEAR}) | {"twin": (BASE + CLEAR).tolist()}
    comparison = compared(study, known)
    assert comparison.families == {"": 1} and comparison.row("twin").decided_at == 3
    assert needed(study, known) == {"baseline": 3, "clear": 3, "twin": 3}

"""The luck of the evaluation items in an interval: of the items that both arms answered, at their weights, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_study
from scipy import stats

from mm1_ablate.report.comparison import compare
from mm1_ablate.report.scores import ItemScores
from mm1_ablate.report.statistics import Estimate

NAN = float("nan")
Answers = Mapping[tuple[str, int], Sequence[float] | np.ndarray]
"""By arm and seed the score of each item; NaN: not answered."""


def table(answers: Answers, task: str = "facts", metric: str = "exact_match", family: str = "text", shots: int = 0) -> pd.DataFrame:
    rows = [
        {"arm": arm, "seed": seed, "task": task, "family": family, "shots": shots, "item": f"{task}-{place}", "metric": metric,
         "primary": True, "score": score}
        for (arm, seed), own in answers.items()
        for place, score in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def reported(items: pd.DataFrame, column: str, digits: int = 9) -> pd.DataFrame:
    """Results as evaluation has them: the mean over the items that were answered, in points."""
    means = (100 * items.groupby(["arm", "seed"])["score"].mean()).round(digits).reset_index(name="value")
    return means.assign(metric=column)


def estimated(items: pd.DataFrame, results: pd.DataFrame, column: str, seeds: Sequence[int], **more: dict) -> Estimate:
    study = made_up_study(["arm"], seeds=seeds, compare={"primary": column, "metrics": [column]}, **more)
    estimate = compare(study, results, items=items).row("arm").cells[column].estimate
    assert estimate is not None
    return estimate


def one_seed(count: int = 30) -> dict[tuple[str, int], np.ndarray]:
    random = np.random.default_rng(0)
    hard = random.normal(0.5, 0.3, size=count)
    return {("baseline", 7): hard + 0.05 * random.normal(size=count), ("arm", 7): hard + 0.1 + 0.05 * random.normal(size=count)}


def test_the_interval_of_a_single_seed_is_that_of_the_paired_items() -> None:
    answers = one_seed()
    items = table(answers)
    found = estimated(items, reported(items, "text_core/facts"), "text_core/facts", [7])
    expected = stats.ttest_rel(answers["arm", 7], answers["baseline", 7])
    low, high = expected.confidence_interval()
    assert (found.low, found.high, found.p) == pytest.approx((100 * low, 100 * high, expected.pvalue))


def test_items_that_an_arm_did_not_answer_count_for_neither_side_of_a_pair() -> None:
    answers = one_seed()
    whole, holed = table(answers), {key: own.copy() for key, own in answers.items()}
    holed["arm", 7][[3, 8, 9]] = NAN
    holed["baseline", 7][[9, 20]] = NAN
    both = np.setdiff1d(np.arange(30), [3, 8, 9, 20])
    items = table(holed)
    results = reported(items, "text_core/facts")
    found = estimated(items, results, "text_core/facts", [7])
    low, high = stats.ttest_rel(answers["arm", 7][both], answers["baseline", 7][both]).confidence_interval()
    assert found.half_width == pytest.approx(100 * (high - low) / 2)
    assert found.half_width < 2 * estimated(whole, reported(whole, "text_core/facts"), "text_core/facts", [7]).half_width
    means = results.set_index("arm")["value"]
    assert found.difference == pytest.approx(means["arm"] - means["baseline"])


def test_items_that_an_arm_did_not_answer_count_for_neither_of_two_unpaired_arms() -> None:
    random = np.random.default_rng(1)
    hard = random.normal(0.5, 0.3, size=25)
    ours, theirs = {0: 0.7, 1: 0.75, 2: 0.72}, {3: 0.5, 4: 0.52, 5: 0.55}
    answers = {("arm", seed): hard + mean - 0.5 + 0.02 * random.normal(size=25) for seed, mean in ours.items()}
    answers |= {("baseline", seed): hard + mean - 0.5 + 0.02 * random.normal(size=25) for seed, mean in theirs.items()}
    answers["arm", 1][4] = answers["baseline", 3][11] = NAN
    items = table(answers)
    values = {
        (arm, "text_core/facts"): {seed: 100 * np.nanmean(own) for (of, seed), own in answers.items() if of == arm}
        for arm in ("arm", "baseline")
    }
    found = ItemScores(items, values).pair("text_core/facts", "arm", "baseline", [0, 1, 2], [3, 4, 5])
    assert found is not None
    both = np.setdiff1d(np.arange(25), [4, 11])
    for arrays, arm, seeds in ((found[0], "arm", ours), (found[1], "baseline", theirs)):
        own = arrays[0].scores[:, 0]
        expected = 100 * np.array([answers[arm, seed][both] for seed in seeds])
        np.testing.assert_allclose(own[:, own[0].argsort()], expected[:, expected[0].argsort()])
    estimate = estimated(items, reported(items, "text_core/facts"), "text_core/facts", range(6))
    assert estimate.method == "Welch" and estimate.with_items


def test_a_contrast_is_the_weighted_sum_of_arms_at_each_seed_and_item_of_each_task() -> None:
    random = np.random.default_rng(2)
    keys = [(arm, seed) for arm in ("a", "b", "c") for seed in (0, 1)]
    tasks = {task: {key: random.normal(size=size) for key in keys} for task, size in (("facts", 6), ("more", 4))}
    items = pd.concat([table(own, task) for task, own in tasks.items()])
    values: dict[tuple[str, str], dict[int, float]] = {}
    for arm, seed in keys:
        mean = np.mean([100 * own[arm, seed].mean() for own in tasks.values()])
        values.setdefault((arm, "text_core/average"), {})[seed] = float(mean)
    weights = {"a": 0.5, "b": 0.5, "c": -1.0}
    found = ItemScores(items, values).contrast("text_core/average", weights, [0, 1])
    assert found is not None and len(found) == 2
    for own, answers in zip(found, tasks.values(), strict=True):
        expected = [100 * sum(weight * answers[arm, seed] for arm, weight in weights.items()) for seed in (0, 1)]
        np.testing.assert_allclose(own.scores[:, 0], expected)


def test_a_weighted_groups_interval_is_that_of_its_weighted_tasks() -> None:
    """One seed, two tasks of which one counts three times: the variance of a weighted mean of independent means."""
    random = np.random.default_rng(3)
    tasks = {task: {(arm, 7): random.normal(0.5, 0.2, size=size) for arm in ("arm", "baseline")} for task, size in (("a", 400), ("b", 300))}
    items = pd.concat([table(own, task) for task, own in tasks.items()])
    column = "text_core/group"
    lines = [(arm, 7, column, 100 * (3 * tasks["a"][arm, 7].mean() + tasks["b"][arm, 7].mean()) / 4) for arm in ("arm", "baseline")]
    groups = {"evaluation.tasks": ["a", "b"], "evaluation.groups": {"group": {"tasks": ["a", "b"], "weights": {"a": 3}}}}
    found = estimated(items, pd.DataFrame(lines, columns=["arm", "seed", "metric", "value"]), column, [7], experiment=groups)
    errors = [own["arm", 7] - own["baseline", 7] for own in tasks.values()]
    variance = sum((share * 100) ** 2 * one.var(ddof=1) / len(one) for share, one in zip((0.75, 0.25), errors, strict=True))
    assert found.errors[0].standard_error == pytest.approx(variance**0.5)


def test_results_that_were_rounded_keep_their_items_and_one_wrong_result_of_many_loses_them() -> None:
    answers = {(arm, seed): one_seed()[arm, 7] + 0.01 * seed for arm in ("arm", "baseline") for seed in range(3)}
    items = table(answers)
    results = reported(items, "text_core/facts", digits=1)
    assert estimated(items, results, "text_core/facts", range(3)).with_items
    results.loc[results.index[-1], "value"] += 0.3
    assert not estimated(items, results, "text_core/facts", range(3)).with_items


@pytest.mark.parametrize("common", [0, 1, 2])
def test_arms_that_share_fewer_than_two_items_have_the_interval_of_the_seeds(common: int) -> None:
    random = np.random.default_rng(4)
    answers = {}
    for seed in range(3):
        answers["baseline", seed], answers["arm", seed] = random.random(8), random.random(8)
        answers["baseline", seed][4:] = NAN
        answers["arm", seed][: 4 - common] = NAN
    items = table(answers)
    results = reported(items, "text_core/facts")
    assert estimated(items, results, "text_core/facts", range(3)).with_items == (common == 2)
    apart = {(arm, seed + 3 * (arm == "arm")): own for (arm, seed), own in answers.items()}
    items = table(apart)
    found = estimated(items, reported(items, "text_core/facts"), "text_core/facts", range(6))
    assert found.method == "Welch" and found.with_items == (common == 2)


def test_the_items_of_a_column_are_those_of_its_tasks_primary_metric_whichever_comes_first() -> None:
    answers = one_seed()
    other = table({key: own[::-1] ** 2 for key, own in answers.items()}, metric="alias_match").assign(primary=False)
    items = pd.concat([other, table(answers)], ignore_index=True)
    found = estimated(items, reported(table(answers), "text_core/facts"), "text_core/facts", [7])
    low, high = stats.ttest_rel(answers["arm", 7], answers["baseline", 7]).confidence_interval()
    assert found.with_items and (found.low, found.high) == pytest.approx((100 * low, 100 * high))


@pytest.mark.parametrize(("off", "kept"), [(0.045, True), (0.055, False), (-0.045, True), (-0.055, False)])
@pytest.mark.parametrize(("family", "metric", "column", "points"), [
    ("text", "exact_match", "text_core/facts", 100.0),
    ("loss", "loss", "loss/facts", 1.0),
])  # fmt: skip
def test_results_may_differ_from_their_items_by_half_a_tenth_of_a_point_of_100(
    off: float, kept: bool, family: str, metric: str, column: str, points: float
) -> None:
    answers = {(arm, seed): one_seed()[arm, 7] + 0.01 * seed for arm in ("arm", "baseline") for seed in range(3)}
    items = table(answers, family=family, metric=metric)
    results = reported(items, column)
    results["value"] = results["value"] * points / 100
    results.loc[results.index[2], "value"] += off * points / 100
    assert estimated(items, results, column, range(3)).with_items == kept


def test_results_of_other_arms_than_the_items_are_no_obstacle_and_items_of_none_of_them_say_nothing() -> None:
    answers = {(arm, seed): one_seed()[arm, 7] + 0.01 * seed for arm in ("arm", "baseline") for seed in range(3)}
    items = table(answers)
    values = {(arm, "text_core/facts"): {seed: 100 * float(answers[arm, seed].mean()) for seed in range(3)} for arm in ("arm", "baseline")}
    weights = {"arm": 1.0, "baseline": -1.0}
    more = values | {("other", "text_core/facts"): {0: 77.0}, ("arm", "text_core/more"): {0: 1.0}}
    assert ItemScores(items, more).contrast("text_core/facts", weights, [0, 1, 2]) is not None
    assert ItemScores(items, more).contrast("text_core/more", weights, [0]) is None
    assert ItemScores(items, more).contrast("text_core/facts", weights, [0, 3]) is None
    assert ItemScores(items, more).pair("text_core/facts", "arm", "baseline", [0], [3]) is None
    assert ItemScores(items, {("other", "text_core/facts"): {0: 77.0}}).contrast("text_core/facts", weights, [0, 1, 2]) is None
    assert ItemScores(items[:0], values).contrast("text_core/facts", weights, [0]) is None
    assert ItemScores(None, values).pair("text_core/facts", "arm", "baseline", [0], [0]) is None
    found = ItemScores(items, values).pair("text_core/facts", "arm", "baseline", [2], [0, 1])
    assert found is not None and [one.scores.shape for one in (*found[0], *found[1])] == [(1, 1, 30), (2, 1, 30)]

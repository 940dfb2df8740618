"""Comparisons of made-up studies: every verdict, every outcome of an expectation, holes, copies, groups, both levels of noise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from made_up import made_up_study, noisy_results, scores
from scipy import stats

from mm1_ablate.config.study import Change
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.text import headline

BASE = [50.0, 51.0, 50.5]
CLEARLY_WORSE, CLEARLY_BETTER = [30.1, 31.0, 30.4], [60.1, 61.0, 60.4]
ALIKE, NOISY, LITTLE_WORSE = [50.05, 50.95, 50.55], [44.0, 58.0, 52.0], [49.52, 50.5, 49.98]


def verdicts(arms: dict[str, list[float]], **sweep: Any) -> dict[str, str]:
    comparison = compared(arms, **sweep)
    return {row.name: row.verdict for row in comparison.rows}


def compared(arms: dict[str, list[float]], **sweep: Any) -> StudyComparison:
    study = made_up_study(list(arms), seeds=range(len(next(iter(arms.values())))), **sweep)
    return compare(study, scores(study, {"baseline": BASE[: len(study.sweep.seeds)], **arms}))


def test_readers_are_told_what_a_probability_is_where_the_table_has_one() -> None:
    for metrics, told in ((["8-shot"], 0), (["8-shot", "8-shot probability"], 1), (["8-shot vqa.probability"], 1)):
        remarks = compared({"arm": ALIKE}, compare={"metrics": metrics}).remarks
        assert sum("per word" in remark for remark in remarks) == told


def test_every_verdict() -> None:
    arms = {"worse": CLEARLY_WORSE, "better": CLEARLY_BETTER, "alike": ALIKE, "noisy": NOISY}
    assert verdicts(arms) == {
        "baseline": "baseline",
        "worse": "worse",
        "better": "better",
        "alike": "no difference larger than 1",
        "noisy": "too close to call",
    }


def test_a_difference_that_is_clear_but_of_no_interest_is_called_so() -> None:
    comparison = compared({"arm": LITTLE_WORSE}, compare={"smallest_difference_of_interest": 2})
    assert comparison.row("arm").verdict == "no difference larger than 2"
    assert "significantly lower, but by significantly less than 2" in comparison.row("arm").notes


def test_numbers_of_a_row() -> None:
    comparison = compared({"arm": NOISY, "other": ALIKE})
    cell = comparison.row("arm").cells["shot_8/average"]
    expected = stats.ttest_rel(NOISY, BASE)
    assert cell.estimate is not None
    assert (cell.mean, cell.n) == (pytest.approx(sum(NOISY) / 3), 3)
    assert (cell.estimate.low, cell.estimate.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert cell.p_adjusted == pytest.approx(min(1, 2 * expected.pvalue), rel=0.01)


def test_one_seed_gives_no_verdict() -> None:
    comparison = compared({"arm": [10.0]})
    assert comparison.row("arm").verdict == "too few seeds"
    assert any("One seed" in remark for remark in comparison.remarks)


def test_two_seeds_have_a_range_and_bear_no_verdict() -> None:
    comparison = compared({"steady": [30.0, 31.01]}, expect=[expectation("below", 5) | {"arm": "steady"}])
    steady = comparison.row("steady")
    estimate = steady.cells["shot_8/average"].estimate
    assert steady.verdict == "too few seeds" and estimate is not None and estimate.shown is None
    (judged,) = comparison.expectations
    assert (judged.verdict, judged.reason) == ("too few seeds", "two seeds; three at least for a verdict")
    assert any("Two seeds" in remark for remark in comparison.remarks)
    assert "too few seeds, three at least for a verdict: steady" in headline(comparison) and "(−20.0 to −20.0)" in headline(comparison)
    told = comparison.to_json()["arms"][1]["metrics"]["shot_8/average"]
    assert (told["low"], told["high"]) == (None, None) and told["differences_by_seed"] == pytest.approx([-20.0, -19.99])


def test_clear_by_itself_but_not_in_its_family() -> None:
    arm = [44.0, 46.5, 45.8]
    assert verdicts({"arm": arm})["arm"] == "worse"
    family = compared({"arm": arm, **{f"other-{index}": NOISY for index in range(5)}})
    assert family.row("arm").verdict == "leaning"
    assert "significant by itself, not after correction for 6 comparisons" in family.row("arm").notes


def test_a_missing_trial_is_named_and_its_arm_has_no_verdict() -> None:
    study = made_up_study(["broken", "fine"])
    results = scores(study, {"baseline": BASE, "broken": [30.1, float("nan"), 30.4], "fine": CLEARLY_WORSE})
    comparison = compare(study, results, [("broken", 1, "out of memory")])
    assert comparison.row("broken").verdict == "no verdict: missing trials"
    assert comparison.row("fine").verdict == "worse"
    assert comparison.row("broken").notes == ("seed 1: out of memory",)
    assert comparison.to_json()["holes"] == [{"arm": "broken", "seed": 1, "reason": "out of memory"}]
    assert comparison.row("broken").cells["shot_8/average"].estimate is not None


def test_missing_scores_are_missing_trials_even_if_not_listed() -> None:
    study = made_up_study(["arm"])
    comparison = compare(study, scores(study, {"baseline": BASE}))
    assert [(hole.arm, hole.seed) for hole in comparison.holes] == [("arm", 0), ("arm", 1), ("arm", 2)]
    assert comparison.row("arm").verdict == "no verdict: missing trials"


def test_a_hole_in_the_baseline_leaves_no_verdicts() -> None:
    study = made_up_study(["arm"])
    comparison = compare(study, scores(study, {"baseline": [50.0, 51.0, float("nan")], "arm": CLEARLY_WORSE}))
    assert comparison.row("arm").verdict == "no verdict: missing trials"
    assert "the baseline lacks seed 2" in comparison.row("arm").notes


def test_an_empty_study_can_be_reported() -> None:
    study = made_up_study(["arm"], expect=[expectation("below", 5)])
    comparison = compare(study, pd.DataFrame(columns=["arm", "seed", "fingerprint", "metric", "value"]))
    assert comparison.row("arm").verdict == "no verdict: missing trials"
    assert comparison.expectations[0].verdict == "no verdict"
    json.dumps(comparison.to_json(), allow_nan=False)
    assert "arm" in markdown(comparison)


def test_rows_of_the_same_trials_are_one_comparison() -> None:
    study = made_up_study(["arm", "copy", "other"], same={"copy": "arm"})
    comparison = compare(study, scores(study, {"baseline": BASE, "arm": CLEARLY_WORSE, "copy": CLEARLY_WORSE, "other": NOISY}))
    assert list(comparison.families.values()) == [2]
    assert "same trials as arm" in comparison.row("copy").notes
    one, two = (comparison.row(name).cells["shot_8/average"].p_adjusted for name in ("arm", "copy"))
    assert one == two


def test_the_comparisons_of_an_included_sweep_are_a_family_of_their_own() -> None:
    truth = {"baseline": BASE, "one/arm": CLEARLY_WORSE, "two/arm": NOISY, "two/other": NOISY}
    together = made_up_study(["one/arm", "two/arm", "two/other"])
    apart = replace(together, sweep_of_group={"one": "first", "two": "second"})
    single = made_up_study(["one/arm"])
    alone = compare(single, scores(single, {"baseline": BASE, "one/arm": CLEARLY_WORSE}))
    cells = [compare(study, scores(study, truth)).row("one/arm").cells["shot_8/average"] for study in (together, apart)]
    assert cells[0].p_adjusted == pytest.approx(3 * cells[1].p_adjusted)
    assert cells[1].p_adjusted == alone.row("one/arm").cells["shot_8/average"].p_adjusted
    assert compare(apart, scores(apart, truth)).families == {"first": 1, "second": 2}


def test_groups_are_compared_with_their_own_baseline_which_comes_first() -> None:
    study = made_up_study(["first/arm", "own/arm"], baselines={"own/arm": "own/baseline"})
    truth = {"baseline": BASE, "first/arm": CLEARLY_WORSE, "own/baseline": CLEARLY_WORSE, "own/arm": [30.0, 31.05, 30.42]}
    comparison = compare(study, scores(study, truth))
    names = [row.name for row in comparison.rows]
    assert names.index("baseline") < names.index("first/arm") and names.index("own/baseline") < names.index("own/arm")
    assert comparison.row("own/baseline").verdict == "baseline"
    assert comparison.row("own/arm").verdict == "no difference larger than 1"


def test_differing_seeds_are_compared_unpaired() -> None:
    study = made_up_study(["arm"], seeds=range(6))
    nothing = float("nan")
    results = scores(study, {"baseline": [*BASE, nothing, nothing, nothing], "arm": [nothing, nothing, nothing, *CLEARLY_WORSE]})
    estimate = compare(study, results).row("arm").cells["shot_8/average"].estimate
    assert estimate is not None and estimate.method == "Welch"
    assert estimate.p == pytest.approx(stats.ttest_ind(CLEARLY_WORSE, BASE, equal_var=False).pvalue)


def test_items_widen_intervals_by_the_luck_of_the_items() -> None:
    study = made_up_study(["arm"])
    results, items = noisy_results(study, {"baseline": 50, "arm": 45}, seed_noise=0.2)
    with_items = compare(study, results, items=items).row("arm").cells
    without = compare(study, results).row("arm").cells
    for metric in ("shot_8/average", "shot_8/vqa", "text_core/average"):
        ours, theirs = with_items[metric].estimate, without[metric].estimate
        assert ours is not None and theirs is not None
        assert ours.with_items and not theirs.with_items
        assert ours.difference == pytest.approx(theirs.difference) and ours.half_width >= theirs.half_width


def test_items_give_a_single_seed_the_interval_of_evaluation_noise() -> None:
    study = made_up_study(["arm"], seeds=[7])
    results, items = noisy_results(study, {"baseline": 50, "arm": 20})
    row = compare(study, results, items=items).row("arm")
    estimate = row.cells["shot_8/average"].estimate
    assert row.verdict == "too few seeds" and row.notes == ("one seed: the interval covers evaluation items only",)
    assert estimate is not None and estimate.known and estimate.method == "evaluation items only"


def test_a_group_called_average_leaves_that_of_suites_without_its_tasks_as_it_is() -> None:
    groups = {"average": {"tasks": ["miniature_vqa"]}}
    study = made_up_study(["arm"], experiment={"evaluation.groups": groups})
    results, items = noisy_results(study, {"baseline": 50, "arm": 45}, tasks=("miniature_vqa",))
    estimate = compare(study, results, items=items).row("arm").cells["text_core/average"].estimate
    assert estimate is not None and estimate.with_items


def test_items_that_the_results_are_not_the_mean_of_are_left_out_and_reported() -> None:
    study = made_up_study(["arm"])
    results, items = noisy_results(study, {"baseline": 50, "arm": 45})
    results.loc[results["metric"] == "shot_4/average", "value"] += 3
    comparison = compare(study, results, items=items)
    estimate = comparison.row("arm").cells["shot_4/average"].estimate
    assert estimate is not None and not estimate.with_items
    assert any("4-shot" in remark for remark in comparison.remarks)


def test_secondary_metrics_of_a_task_stay_out_of_averages() -> None:
    study = made_up_study(["arm"])
    results, items = noisy_results(study, {"baseline": 50, "arm": 45})
    second = items[items["task"] == "vqa"].assign(metric="slot_f1", primary=False, score=0.5)
    estimate = compare(study, results, items=pd.concat([second, items])).row("arm").cells["shot_8/average"].estimate
    assert estimate is not None and estimate.with_items


def test_false_verdicts_on_arms_like_the_baseline_stay_below_the_level() -> None:
    """Twenty-five made-up studies of three arms with the baseline's own truth; both levels of noise."""
    study = made_up_study(["a", "b", "c"], compare={"metrics": ["shot_8/average"]})
    false = 0
    for seed in range(25):
        results, items = noisy_results(study, dict.fromkeys(("baseline", "a", "b", "c"), 50.0), items=30, seed=seed, tasks=("vqa",))
        wanted = results[results["metric"] == "shot_8/average"]
        false += any(row.verdict in ("better", "worse") for row in compare(study, wanted, items=items).rows)
    assert false <= 4


# ---------------------------------------------------------------- expectations
def expectation(direction: str, by: float = 0, arm: str = "arm", metric: str = "shot_8/average") -> dict[str, Any]:
    return {"arm": arm, "metric": metric, "is": direction, "by": by, "because": "somebody said so"}


@pytest.mark.parametrize(
    ("direction", "by", "arm", "verdict"),
    [
        ("below", 5, CLEARLY_WORSE, "confirmed"),
        ("below", 0, CLEARLY_WORSE, "confirmed"),
        ("above", 0, CLEARLY_WORSE, "refuted"),
        ("above", 5, CLEARLY_BETTER, "confirmed"),
        ("below", 0, CLEARLY_BETTER, "refuted"),
        ("below", 30, CLEARLY_WORSE, "refuted"),
        ("below", 5, NOISY, "too close to call"),
        ("above", 0, NOISY, "too close to call"),
        ("within", 1, ALIKE, "confirmed"),
        ("within", 1, CLEARLY_WORSE, "refuted"),
        ("within", 1, NOISY, "too close to call"),
    ],
)
def test_expectations(direction: str, by: float, arm: list[float], verdict: str) -> None:
    judged = compared({"arm": arm}, expect=[expectation(direction, by)]).expectations[0]
    assert judged.verdict == verdict
    assert judged.to_json()["low"] < judged.to_json()["high"]


def test_right_direction_but_too_small_is_refuted_and_reported() -> None:
    judged = compared({"arm": CLEARLY_WORSE}, expect=[expectation("below", 30)]).expectations[0]
    assert judged.reason == "below, but by significantly less than 30"


def test_expectations_are_a_family() -> None:
    arm = [44.0, 46.5, 45.8]
    alone = compared({"arm": arm}, expect=[expectation("below")])
    among = compared({"arm": arm, "noisy": NOISY}, expect=[expectation("below"), *[expectation("above", by, "noisy") for by in range(11)]])
    assert (alone.expectations[0].verdict, among.expectations[0].verdict) == ("confirmed", "leaning")
    assert "significant by itself" in among.expectations[0].reason


def test_expectations_of_each_sweep_file_are_a_family_of_their_own() -> None:
    study = made_up_study(["arm", "noisy"], expect=[expectation("below"), *[expectation("above", by, "noisy") for by in range(11)]])
    results = scores(study, {"baseline": BASE, "arm": [44.0, 46.5, 45.8], "noisy": NOISY})
    apart = replace(study, families=("first", *["second"] * 11))
    assert compare(study, results).expectations[0].verdict == "leaning"
    assert compare(apart, results).expectations[0].verdict == "confirmed"
    assert "there are 2 such families" in markdown(compare(apart, results))


def test_expectations_about_holes_and_single_seeds_have_no_verdict_and_say_why() -> None:
    unheard_of, ghost = expectation("below", metric="shot_8/unheard_of"), expectation("below", arm="ghost")
    study = made_up_study(["arm"], expect=[expectation("below"), unheard_of, ghost])
    hole = compare(study, scores(study, {"baseline": BASE, "arm": [30.0, float("nan"), 30.2]})).expectations
    full = compare(study, scores(study, {"baseline": BASE, "arm": CLEARLY_WORSE})).expectations
    single = compared({"arm": [10.0]}, expect=[expectation("below")]).expectations
    assert (hole[0].verdict, hole[0].reason) == ("no verdict", "trials are missing")
    assert (full[1].verdict, full[1].reason) == ("no verdict", "no scores for 8-shot unheard of")
    assert (full[2].verdict, full[2].reason) == ("no verdict", "no such arm")
    assert (single[0].verdict, single[0].reason) == ("too few seeds", "one seed; three at least for a verdict")


def test_an_arm_can_be_held_against_another_than_its_baseline() -> None:
    expected = [
        {**expectation("above", 25, "good"), "than": "bad", "paper": "62.7 against 58.7"},
        {**expectation("below", 5, "baseline"), "than": "good"},
        {**expectation("above", 0, "good"), "than": "ghost"},
    ]
    comparison = compared({"good": CLEARLY_BETTER, "bad": [30.0, 31.2, 30.3]}, expect=expected)
    against_bad, baseline, ghost = comparison.expectations
    assert against_bad.verdict == baseline.verdict == "confirmed" and ghost.reason == "no such arm"
    assert against_bad.estimate is not None and against_bad.estimate.difference == pytest.approx(30.0)
    assert against_bad.claim == "good above bad by at least 25 on 8-shot"
    told = against_bad.to_json()
    assert (told["than"], told["paper"]) == ("bad", "62.7 against 58.7")
    assert "62.7 against 58.7" in markdown(comparison) and "62.7 against 58.7" in html(comparison)


def test_a_hole_in_either_of_two_arms_leaves_their_expectation_without_a_verdict() -> None:
    expected = [{**expectation("above", 25, "good"), "than": "bad"}]
    study = made_up_study(["good", "bad"], expect=expected)
    results = scores(study, {"baseline": BASE, "good": CLEARLY_BETTER, "bad": [30.0, float("nan"), 30.4]})
    assert compare(study, results).expectations[0].reason == "trials are missing"


# ---------------------------------------------------------------- what a reader should know
def test_what_else_a_change_changed_is_named() -> None:
    study = made_up_study(["arm"])
    same = [Measure("parameters", 1.2e6), Measure("items", "abc")]
    costs = {"baseline": [*same, Measure("image tokens", 4)], "arm": [*same, Measure("image tokens", 16)]}
    row = compare(study, scores(study, {"baseline": BASE, "arm": ALIKE}), costs=costs).row("arm")
    assert row.also_changed == ("image tokens 4 → 16",)
    assert row.changes == ("removed data.mixture.interleaved",)
    declared = Change("model.connector.image_tokens", 4, 16)
    arms = tuple(replace(arm, changes=(declared,)) if arm.changes else arm for arm in study.arms)
    row = compare(replace(study, arms=arms), scores(study, {"baseline": BASE, "arm": ALIKE}), costs=costs).row("arm")
    assert row.also_changed == () and row.changes == ("model.connector.image_tokens 4 → 16",), "what is declared is not told twice"


def test_shared_preparation_and_development_episodes_are_remarked() -> None:
    preparation = {
        "model.preparation_seed": 0,
        "model.image_encoder.preparation": {
            "steps": 1,
            "source": {"type": "miniature", "data_type": "captioned", "content": "synthetic_captions"},
        },
        "evaluation.split": "development",
    }
    remarks = " ".join(compared({"arm": ALIKE}, experiment=preparation).remarks)
    assert "prepared image encoder" in remarks and "development episodes" in remarks


def test_json_has_the_promised_keys_and_is_json() -> None:
    found = json.loads(json.dumps(compared({"arm": NOISY}, expect=[expectation("below")]).to_json(), allow_nan=False))
    assert {"arms", "holes", "expectations"} <= found.keys()
    arm = found["arms"][1]
    assert {"name", "n", "metrics", "verdict"} <= arm.keys() and arm["n"] == 3
    assert {"mean", "difference", "low", "high"} <= arm["metrics"]["shot_8/average"].keys()
    assert found["arms"][0]["metrics"]["shot_8/average"]["difference"] is None
    assert {"because", "verdict"} <= found["expectations"][0].keys()

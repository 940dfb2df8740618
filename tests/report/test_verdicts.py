"""What is concluded from made-up scores, held against scipy: levels, corrections, and what must not depend on the sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_study, scores
from scipy import stats

from mm1_ablate.config.study import Grid
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.markdown import markdown

PRIMARY, OTHERS = "shot_8/average", ("shot_0/average", "shot_4/average")
BASE = np.array([50.0, 51.0, 50.5])
RISE = np.array([1.0, 3.0, 2.9])
"""Paired with a baseline its p is 0.07: clear at a level of 0.1, not at one of 0.05."""


def compared(differences: Mapping[str, Sequence[float] | np.ndarray], **sweep: Any) -> StudyComparison:
    """Arms that differ from the baseline by so much at each seed."""
    seeds = len(next(iter(differences.values())))
    study = made_up_study(list(differences), seeds=range(seeds), **sweep)
    base = np.resize(BASE, seeds)
    truth = {"baseline": base.tolist(), **{arm: (base + np.asarray(own)).tolist() for arm, own in differences.items()}}
    return compare(study, scores(study, truth))


def expectation(direction: str, by: float = 0, arm: str = "arm") -> dict[str, Any]:
    return {"arm": arm, "metric": PRIMARY, "is": direction, "by": by, "because": "somebody said so"}


# ---------------------------------------------------------------- the declared level
@pytest.mark.parametrize(("confidence", "verdict", "judged"), [(0.9, "better", "confirmed"), (0.95, "leaning", "confirmed")])
def test_the_declared_confidence_is_that_of_intervals_verdicts_and_expectations(confidence: float, verdict: str, judged: str) -> None:
    comparison = compared({"arm": RISE}, compare={"confidence": confidence}, expect=[expectation("above")])
    row, expected = comparison.row("arm"), stats.ttest_1samp(RISE, 0)
    estimate = row.cells[PRIMARY].estimate
    assert 0.05 < expected.pvalue < 0.1
    assert estimate is not None and (estimate.low, estimate.high) == pytest.approx(tuple(expected.confidence_interval(confidence)))
    assert (row.verdict, comparison.expectations[0].verdict) == (verdict, judged)
    assert comparison.is_significant(row.cells[PRIMARY]) == (verdict == "better")


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_unpaired_intervals_have_the_declared_confidence_too(confidence: float) -> None:
    study, nothing = made_up_study(["arm"], seeds=range(6), compare={"confidence": confidence}), [float("nan")] * 3
    comparison = compare(study, scores(study, {"baseline": [*BASE, *nothing], "arm": [*nothing, *(BASE + RISE)]}))
    estimate = comparison.row("arm").cells[PRIMARY].estimate
    expected = stats.ttest_ind(BASE + RISE, BASE, equal_var=False).confidence_interval(confidence)
    assert estimate is not None and (estimate.low, estimate.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("confidence", "alone"), [(0.9, True), (0.95, False)])
def test_clear_by_itself_is_at_the_declared_level(confidence: float, alone: bool) -> None:
    noisy = [-6.0, 7.0, 1.5]
    comparison = compared({"arm": RISE, **{f"other-{number}": noisy for number in range(5)}}, compare={"confidence": confidence})
    row = comparison.row("arm")
    assert row.verdict == "leaning" and ("significant by itself, not after correction for 6 comparisons" in row.notes) == alone


# ---------------------------------------------------------------- corrections
def test_what_a_design_could_detect_is_at_the_level_of_its_family_by_the_spread_of_all_arms() -> None:
    for others in (0, 5):
        comparison = compared({"arm": RISE, **{f"other-{number}": 2 * RISE for number in range(others)}})
        pooled = RISE.std(ddof=1) * ((1 + 4 * others) / (1 + others)) ** 0.5
        detectable = comparison.detectable / (pooled / 3**0.5)
        critical = stats.t.ppf(1 - 0.025 / (1 + others), 2)
        assert stats.nct.sf(critical, 2, detectable) == pytest.approx(0.8, abs=1e-3)


def many_columns(arms: Sequence[str], seeds: int = 3, missing: Sequence[tuple[str, int]] = (), **sweep: Any) -> tuple[StudyComparison, Any]:
    """A comparison over three columns, and the differences of each arm on each."""
    study = made_up_study(list(arms), seeds=range(seeds), compare={"metrics": [*OTHERS, PRIMARY], **sweep})
    random = np.random.default_rng(5)
    differences = {(arm, metric): place + random.normal(size=seeds) for place, arm in enumerate(arms) for metric in (*OTHERS, PRIMARY)}
    tables = []
    for metric in (*OTHERS, PRIMARY):
        truth = {"baseline": np.resize(BASE, seeds), **{arm: np.resize(BASE, seeds) + differences[arm, metric] for arm in arms}}
        tables.append(scores(study, {arm: own.tolist() for arm, own in truth.items()}, metric))
    results = pd.concat(tables)
    lost = [(arm, seed) in missing for arm, seed in zip(results["arm"], results["seed"], strict=True)]
    return compare(study, results[~np.array(lost)]), differences


def test_columns_beside_the_primary_are_corrected_together_by_the_false_discovery_rate_and_the_primary_by_holm() -> None:
    arms = ["a", "b", "c"]
    comparison, differences = many_columns(arms)
    cells = [comparison.row(arm).cells[metric] for arm in arms for metric in OTHERS]
    ps = [stats.ttest_1samp(differences[arm, metric], 0).pvalue for arm in arms for metric in OTHERS]
    assert [cell.p_adjusted for cell in cells] == pytest.approx(list(stats.false_discovery_control(ps)))
    primary = np.array([stats.ttest_1samp(differences[arm, PRIMARY], 0).pvalue for arm in arms])
    ranked = np.maximum.accumulate(np.sort(primary) * [3, 2, 1])
    found = [comparison.row(arm).cells[PRIMARY].p_adjusted for arm in arms]
    assert found == pytest.approx([min(1.0, ranked[list(np.sort(primary)).index(one)]) for one in primary])


def test_equivalence_is_corrected_for_the_family_too() -> None:
    """Clearly within a point by itself, but not as one of four comparisons."""
    alike = np.array([0.2, -0.3, 0.35])
    alone = max(stats.ttest_1samp(alike, -1, alternative="greater").pvalue, stats.ttest_1samp(alike, 1, alternative="less").pvalue)
    assert 0.05 / 4 < alone < 0.05
    comparison = compared({"arm": alike})
    assert comparison.row("arm").verdict == "no difference larger than 1"
    family = compared({"arm": alike, **{f"other-{number}": [-6.0, 7.0, 1.5] for number in range(3)}}).row("arm")
    assert family.verdict == "leaning" and family.cells[PRIMARY].p_equivalent == pytest.approx(4 * alone)


def test_neither_two_seeds_nor_arms_with_a_hole_have_a_p_in_any_column() -> None:
    two, _ = many_columns(["a", "b"], seeds=2)
    assert all(np.isnan(cell.p_adjusted) for arm in "ab" for cell in two.row(arm).cells.values())
    holed, _ = many_columns(["a", "b"], seeds=4, missing=[("a", 1)])
    assert all(np.isnan(cell.p_adjusted) for cell in holed.row("a").cells.values())
    assert not any(np.isnan(cell.p_adjusted) for cell in holed.row("b").cells.values())
    of_baseline, _ = many_columns(["a", "b"], seeds=4, missing=[("baseline", 1)])
    for arm in "ab":
        row = of_baseline.row(arm)
        assert row.verdict == "no verdict: missing trials" and all(np.isnan(cell.p_adjusted) for cell in row.cells.values())


def test_the_same_trials_against_two_baselines_are_two_comparisons() -> None:
    study = made_up_study(["arm", "own/arm"], baselines={"own/arm": "own/baseline"}, same={"own/arm": "arm"})
    truth = {"baseline": BASE, "arm": BASE + RISE, "own/baseline": BASE - 20 + [0.1, 0, -0.1], "own/arm": BASE + RISE}
    comparison = compare(study, scores(study, {arm: list(own) for arm, own in truth.items()}))
    assert list(comparison.families.values()) == [2]
    first, second = (comparison.row(name).cells[PRIMARY] for name in ("arm", "own/arm"))
    assert second.p_adjusted < 0.02 < first.p_adjusted
    assert first.estimate is not None and second.estimate is not None
    assert second.estimate.difference == pytest.approx(first.estimate.difference + 20)


# ---------------------------------------------------------------- which way
DIFFERENCES = st.tuples(st.sampled_from([0.0, 0.3, 2.0, 9.0, 30.0]), st.sampled_from([0.05, 0.5, 3.0]), st.integers(0, 10**6))
MIRRORED = {"better": "worse", "worse": "better", "above": "below", "below": "above", "higher": "lower", "lower": "higher"}


def mirrored(text: str) -> str:
    """Words the other way round."""
    return " ".join(MIRRORED.get(word.strip(","), word.strip(",")) + "," * word.endswith(",") for word in text.split(" "))


@settings(max_examples=10, deadline=None)
@given(st.lists(DIFFERENCES, min_size=1, max_size=3), st.sampled_from([0.1, 1.0, 8.0]))
def test_a_rise_is_judged_as_the_fall_of_the_same_size_is(drawn: list[tuple[float, float, int]], by: float) -> None:
    arms = {f"arm-{place}": size + spread * np.random.default_rng(seed).normal(size=3) for place, (size, spread, seed) in enumerate(drawn)}

    def whole(sign: int) -> StudyComparison:
        directions = ("above", "below") if sign > 0 else ("below", "above")
        expect = [expectation(direction, by, arm) for arm in arms for direction in (*directions, "within")]
        declared = {"smallest_difference_of_interest": 1.5}
        return compared({arm: sign * own for arm, own in arms.items()}, expect=expect, compare=declared)

    up, down = whole(1), whole(-1)
    for arm in arms:
        rise, fall = up.row(arm), down.row(arm)
        assert (rise.verdict, rise.notes) == (mirrored(fall.verdict), tuple(mirrored(note) for note in fall.notes))
        one, other = rise.cells[PRIMARY], fall.cells[PRIMARY]
        assert (one.p_adjusted, one.p_equivalent) == pytest.approx((other.p_adjusted, other.p_equivalent))
        assert up.is_significant(one) == down.is_significant(other)
    for one, other in zip(up.expectations, down.expectations, strict=True):
        assert (one.verdict, one.reason) == (other.verdict, mirrored(other.reason))
        assert one.p_adjusted == pytest.approx(other.p_adjusted)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("by", [0.0, 1.0, 4.0])
def test_an_expectations_p_is_that_of_the_test_that_decides_it(sign: int, by: float) -> None:
    """Of two directions one is true, so each has the whole level; either side of within has half of it."""
    differences = sign * RISE

    def p(value: float, side: str) -> float:
        return float(stats.ttest_1samp(differences, value, alternative=side).pvalue)

    def single(direction: str) -> float:
        return compared({"arm": differences}, expect=[expectation(direction, by)]).expectations[0].p_adjusted

    assert single("above") == pytest.approx(min(p(by, "greater"), p(by, "less")))
    assert single("below") == pytest.approx(min(p(-by, "greater"), p(-by, "less")))
    if not by:
        return  # no arm is within nothing
    inside, outside = max(p(-by, "greater"), p(by, "less")), 2 * min(p(by, "greater"), p(-by, "less"))
    assert single("within") == pytest.approx(min(inside, outside, 1))


@pytest.mark.parametrize("sign", [1, -1])
def test_outside_by_a_one_sided_p_just_below_the_level_is_not_refuted(sign: int) -> None:
    """Whatever side an arm falls on, 'within' is wrongly refuted no more than one time in twenty: so 0.04 on one side is not enough."""
    outside = stats.ttest_1samp(RISE, 0.03, alternative="greater").pvalue
    assert 0.025 < outside < 0.05
    judged = compared({"arm": sign * RISE}, expect=[expectation("within", 0.03)]).expectations[0]
    assert judged.verdict == "leaning" and judged.reason == "all 3 seeds agree, the interval allows both"
    clear = compared({"arm": sign * (RISE + 20)}, expect=[expectation("within", 0.03)]).expectations[0]
    assert (clear.verdict, clear.reason) == ("refuted", "significantly outside")


def test_expectations_that_cannot_be_judged_still_count_in_their_family() -> None:
    differences = np.array([3.0, 4.6, 4.3])
    ghosts = [expectation("above", 0, f"ghost-{number}") for number in range(9)]
    alone = compared({"arm": differences}, expect=[expectation("above")]).expectations[0]
    among = compared({"arm": differences}, expect=[expectation("above"), *ghosts]).expectations[0]
    assert among.p_adjusted == pytest.approx(10 * alone.p_adjusted)
    assert (alone.verdict, among.verdict) == ("confirmed", "leaning")


# ---------------------------------------------------------------- pairs
def with_seeds(ours: Sequence[int], theirs: Sequence[int]) -> Any:
    """The estimate of an arm with a score at some of eight seeds against a baseline at others."""
    study = made_up_study(["arm"], seeds=range(8))
    random = np.random.default_rng(1)
    full = {"baseline": 50 + random.normal(size=8), "arm": 52 + random.normal(size=8)}
    kept = {"baseline": theirs, "arm": ours}
    truth = {arm: [one if seed in kept[arm] else float("nan") for seed, one in enumerate(own)] for arm, own in full.items()}
    return compare(study, scores(study, truth)).row("arm").cells[PRIMARY].estimate, full


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ((0, 1, 2, 3), (0, 1, 2, 3), 4),
        ((0, 1, 2), (0, 1, 2, 3, 4, 5), 3),
        ((0, 1, 2, 3, 4), (2, 3, 4, 5, 6), 3),
        ((0, 1, 2), (2, 3, 4), 0),
        ((0, 1, 2, 3), (2, 3, 4, 5), 0),
        ((0, 1, 2), (5, 6, 7), 0),
    ],
)
def test_seeds_are_paired_where_enough_are_common_and_each_side_stands_alone_where_hardly_any_are(
    ours: tuple[int, ...], theirs: tuple[int, ...], pairs: int
) -> None:
    estimate, full = with_seeds(ours, theirs)
    if pairs:
        common = sorted({*ours} & {*theirs})
        expected = stats.ttest_rel(full["arm"][common], full["baseline"][common])
        assert (estimate.method, estimate.seeds) == ("paired t", pairs)
    else:
        expected = stats.ttest_ind(full["arm"][list(ours)], full["baseline"][list(theirs)], equal_var=False)
        assert (estimate.method, estimate.seeds) == ("Welch", min(len(ours), len(theirs)))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_a_rows_spread_is_the_sample_standard_deviation_of_its_seeds() -> None:
    cell = compared({"arm": RISE}).row("arm").cells[PRIMARY]
    assert (cell.mean, cell.deviation) == pytest.approx(((BASE + RISE).mean(), (BASE + RISE).std(ddof=1)))


def test_a_single_common_seed_beside_a_hole_is_called_evaluation_noise() -> None:
    study, nothing = made_up_study(["arm"]), float("nan")
    comparison = compare(study, scores(study, {"baseline": list(BASE), "arm": [55.0, nothing, nothing]}))
    row = comparison.row("arm")
    assert row.verdict == "no verdict: missing trials"
    assert "one seed in common with the baseline: the interval covers evaluation items only" in row.notes


def test_a_shared_draw_of_demonstrations_is_remarked() -> None:
    said = {
        policy: "All arms share one draw of demonstrations"
        in markdown(compared({"arm": RISE}, experiment={"evaluation.demonstrations": policy}))
        for policy in ("per_task", "per_query")
    }
    assert said == {"per_task": True, "per_query": False}


# ---------------------------------------------------------------- effects of grids
POINTS = list(product("ab", "12"))


def grid(values: Mapping[tuple[str, str], np.ndarray | list[float]], seeds: int) -> StudyComparison:
    names = {point: "baseline" if point == POINTS[0] else "grid/" + "".join(point) for point in POINTS}
    study = made_up_study([name for name in names.values() if name != "baseline"], seeds=range(seeds))
    study = replace(study, grids={"grid": Grid({"letter": ("a", "b"), "number": ("1", "2")}, names)})
    return compare(study, scores(study, {names[point]: list(own) for point, own in values.items()}))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_effects_are_judged_with_three_seeds_or_more(seeds: int) -> None:
    """Two seeds that agree within a hundredth of a point are luck as often as not."""
    random = np.random.default_rng(0)
    values = {point: 50 + 10 * place + 0.01 * random.normal(size=seeds) for place, point in enumerate(POINTS)}
    comparison = grid(values, seeds)
    assert len(comparison.effects) == 3
    for effect in comparison.effects:
        assert effect.complete and effect.estimate is not None and effect.estimate.seeds == seeds
        assert np.isnan(effect.p_adjusted) == (seeds < 3)
    main = [effect for effect in comparison.effects if not effect.is_interaction]
    assert [comparison.is_significant(effect) for effect in main] == [seeds == 3] * 2


def test_effects_of_scores_with_the_other_sign_have_the_other_sign_and_the_same_p() -> None:
    random = np.random.default_rng(3)
    values = {point: random.normal(size=4) for point in POINTS}
    up, down = grid(values, 4), grid({point: -own for point, own in values.items()}, 4)
    for one, other in zip(up.effects, down.effects, strict=True):
        assert one.estimate is not None and other.estimate is not None
        assert (one.estimate.low, one.estimate.high) == pytest.approx((-other.estimate.high, -other.estimate.low))
        assert one.p_adjusted == pytest.approx(other.p_adjusted)


def test_each_level_of_an_axis_is_held_against_the_first() -> None:
    sizes, kinds = ("small", "medium", "large"), ("a", "b")
    names = {point: "baseline" if point == ("a", "small") else "grid/" + "-".join(point) for point in product(kinds, sizes)}
    study = made_up_study([name for name in names.values() if name != "baseline"])
    study = replace(study, grids={"grid": Grid({"kind": kinds, "size": sizes}, names)})
    gains = {"small": 0.0, "medium": 4.0, "large": 6.0}
    truth = {name: [40 + gains[size] + (kind == "b") + luck for luck in (0, 0.5, 1)] for (kind, size), name in names.items()}
    found = {effect.levels: effect.estimate for effect in compare(study, scores(study, truth)).effects}
    means = {levels: estimate.difference for levels, estimate in found.items() if estimate is not None}
    assert means == pytest.approx({("b",): 1, ("medium",): 4, ("large",): 6, ("b", "medium"): 0, ("b", "large"): 0})


def test_an_arm_that_falls_out_of_an_effect_need_not_have_its_scores() -> None:
    """Where the letter makes no difference, both letters are one arm; what the letter does elsewhere does not hang on it."""
    names = {("a", "1"): "baseline", ("b", "1"): "baseline", ("a", "2"): "grid/a", ("b", "2"): "grid/b"}
    study = made_up_study(["grid/a", "grid/b"])
    study = replace(study, grids={"grid": Grid({"letter": ("a", "b"), "number": ("1", "2")}, names)})
    truth = {"baseline": [50.0, float("nan"), 51.0], "grid/a": [50.0, 51.0, 52.0], "grid/b": [54.0, 55.5, 56.0]}
    found = {effect.levels: effect for effect in compare(study, scores(study, truth)).effects}
    letter, number = found["b",], found["2",]
    assert letter.complete and letter.estimate is not None and letter.estimate.seeds == 3
    assert letter.estimate.difference == pytest.approx((4 + 4.5 + 4) / 3 / 2) and not np.isnan(letter.p_adjusted)
    assert not number.complete and np.isnan(number.p_adjusted)


def test_an_effect_that_lacks_a_trial_is_not_judged_however_many_seeds_are_left() -> None:
    random = np.random.default_rng(0)
    values = {point: 50 + 10 * place + 0.01 * random.normal(size=5) for place, point in enumerate(POINTS)}
    values["b", "2"][3] = float("nan")
    for effect in grid(values, 5).effects:
        assert effect.estimate is not None and effect.estimate.seeds == 4
        assert not effect.complete and np.isnan(effect.p_adjusted)


# ---------------------------------------------------------------- remarks
@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (1, "One seed: the variation between seeds is unknown; three at least for a verdict."),
        (2, "Two seeds: both differences stand in place of an interval; three at least for a verdict."),
        (3, ""),
    ],
)
def test_what_few_seeds_cannot_tell_is_said(seeds: int, said: str) -> None:
    remarks = compared({"arm": RISE[:seeds]}).remarks
    assert [remark for remark in remarks if "three at least" in remark] == [said] * bool(said)
    assert "Intervals cover training seeds only, not the sampling of evaluation items: scores of items are missing." in remarks


def test_scores_that_recipes_were_tuned_on_are_not_for_reporting() -> None:
    for split, said in (("development", True), ("report", False)):
        remarks = compared({"arm": RISE}, experiment={"evaluation.split": split}).remarks
        assert ("Scores come from development episodes, which recipes are tuned on: not for reporting." in remarks) == said


def test_notes_say_where_seeds_are_not_paired_and_where_they_do_not_vary() -> None:
    study, nothing = made_up_study(["arm"], seeds=range(6)), [float("nan")] * 3
    apart = replace(study, arms=tuple(replace(arm, seeds=(0, 1, 2) if arm.name == "baseline" else (3, 4, 5)) for arm in study.arms))
    unpaired = compare(apart, scores(apart, {"baseline": [*BASE, *nothing], "arm": [*nothing, *(BASE + 20)]})).row("arm")
    assert unpaired.verdict == "better" and unpaired.notes == ("seeds are not those of the baseline: unpaired (Welch)",)
    still = compared({"arm": [2.0, 2.0, 2.0]}).row("arm")
    assert still.verdict == "leaning"
    assert still.notes == ("the difference is the same at every seed: no variation to estimate an interval from",)

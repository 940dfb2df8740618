"""What was held constant: differences that nobody declared are named, small ones in what was seen are not."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from made_up import made_up_study, scores
from tiny import tiny_experiment

from mm1_ablate.config.study import Change
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.confounds import Codes, answered_items, code_measures, measures
from mm1_ablate.report.markdown import markdown

BASE = (
    Measure("parameters", 500_000),
    Measure("tokens", 400_000.0, "seen"),
    Measure("documents", 10_000.0, "seen"),
    Measure("evaluation items", "1,920 (abcd)"),
)


def compared(arm: dict[str, float | str], *changes: Change) -> StudyComparison:
    study = made_up_study(["arm"])
    own = replace(study.arm("arm"), changes=changes)
    study = replace(study, arms=(study.arms[0], own))
    results = scores(study, {"baseline": [50.0, 51, 52], "arm": [50.0, 52, 51]})
    return compare(study, results, costs={"baseline": BASE, "arm": [replace(one, value=arm.get(one.title, one.value)) for one in BASE]})


def test_tokens_seen_are_named_where_they_differ_by_more_than_two_in_a_hundred() -> None:
    assert compared({"tokens seen": 407_000.0}).row("arm").also_changed == ()
    assert compared({"tokens seen": 350_000.0}).row("arm").also_changed == ("tokens seen 400k → 350k (−12 %)",)


def test_other_items_and_parameters_are_always_named() -> None:
    brought = compared({"parameters": 500_001, "evaluation items": "1,919 (bcde)"}).row("arm").also_changed
    assert brought == ("parameters 500,000 → 500,001", "evaluation items 1,920 (abcd) → 1,919 (bcde)")


def test_what_is_the_same_everywhere_is_listed() -> None:
    comparison = compared({"documents seen": 5_000.0, "tokens seen": 401_000.0})
    assert comparison.held_constant == ("parameters", "tokens seen (within 2%)", "evaluation items")
    assert "parameters, tokens seen (within 2%), evaluation items" in markdown(comparison)


def test_settings_that_differ_without_being_declared_are_named() -> None:
    declared = Change("model.connector.type", "average_pool", "attention_pool")
    along = Change("training.steps", 4, 5, declared=False)
    dropped = Change("model.connector.depth", 3, None, declared=False, dropped=True)
    row = compared({}, declared, along, dropped).row("arm")
    assert row.changes == ("model.connector.type average_pool → attention_pool",)
    assert row.also_changed == ("dropped with the type: model.connector.depth 3", "training.steps 4 → 5")


def test_what_an_arm_took_saw_and_answered_is_measured_over_its_trials() -> None:
    experiment = tiny_experiment({"training.steps": 4})
    points = {"step": [2, 4], "tokens": [100, 300.0], "images": [10, 30], "documents": [20, 50]}
    whole, other = pd.DataFrame(points), pd.DataFrame({**points, "tokens": [100, 340.0], "documents": [20, 60]})
    stopped = whole.iloc[:1]
    found = measures(
        experiment,
        parameters=1234,
        flops_per_token=5_678_000.0,
        curves=[whole, other, stopped, pd.DataFrame()],
        accounts=[{"text": {"epochs": 0.5}, "captions": {"epochs": 2.0}}, {"text": {"epochs": 0.25}}],
        answered="8 (abcd)",
        evaluation="ef01",
        codes={"code": {0: "0.1.0+aa", 1: "0.1.0+bb"}},
    )
    assert {measure.title: measure.value for measure in found} == {
        "parameters": 1234, "image tokens": 4, "FLOPs per token": 5_700_000.0, "nominal tokens": 4 * 2 * 128, "rows of a batch": 2,
        "tokens seen": 320.0, "text tokens seen": 320.0 - 30 * 4, "images seen": 30.0, "documents seen": 55.0,
        "epochs of text": pytest.approx(0.375), "epochs of captions": 1.0,
        "evaluation": "ef01", "evaluation items": "8 (abcd)", "code": "0.1.0+aa (seed 0), 0.1.0+bb (seed 1)",
    }  # fmt: skip
    nothing = measures(
        experiment, parameters=1, flops_per_token=1.0, curves=[stopped], accounts=[], answered=None, evaluation="ef01", codes={}
    )
    assert [measure.title for measure in nothing] == [
        "parameters", "image tokens", "FLOPs per token", "nominal tokens", "rows of a batch", "evaluation",
    ]  # fmt: skip


def test_arms_that_answered_the_same_items_have_one_identity_of_them_whatever_their_order_and_seeds() -> None:
    lines = [("one", seed, "vqa", 0, f"item-{number}") for seed in (0, 1) for number in range(1200)]
    lines += [("other", 2, "vqa", 0, f"item-{number}") for number in reversed(range(1200))]
    lines += [("fewer", 0, "vqa", 0, f"item-{number}") for number in range(1199)] + [("shots", 0, "vqa", 4, "item-0")]
    found = answered_items(pd.DataFrame(lines, columns=["arm", "seed", "task", "shots", "item"]))
    assert found["one"] == found["other"] and found["one"].startswith("1,200 (") and len(found["one"]) == len("1,200 (01234567)")
    assert found["fewer"].startswith("1,199 (") and found["shots"].startswith("1 (") and len({*found.values()}) == 3
    assert answered_items(None) == answered_items(pd.DataFrame({"arm": ["one"]})) == {}


# ---------------------------------------------------------------- code
def by_code(baseline: Codes, arm: Codes, other: Codes | None = None) -> tuple[StudyComparison, tuple[str, ...]]:
    """A comparison of a baseline and arms that this code made; with what is told of the first arm."""
    study = made_up_study(["arm", "other"])
    results = scores(study, {"baseline": [50.0, 51, 52], "arm": [50.0, 52, 51], "other": [50.0, 52, 51]})
    codes = {"baseline": baseline, "arm": arm, "other": baseline if other is None else other}
    comparison = compare(study, results, costs={name: tuple(code_measures(own)) for name, own in codes.items()})
    return comparison, comparison.row("arm").also_changed


ONE, TWO = "0.1.0+aaaaaaaa", "0.1.0+bbbbbbbb"


def test_what_trained_and_what_scored_are_told_apart() -> None:
    codes = {"code": {0: ONE, 1: ONE}, "code that scored": {0: ONE, 1: ONE}}
    comparison, told = by_code(codes, {**codes, "code that scored": {0: TWO, 1: TWO}})
    assert told == (f"code that scored {ONE} → {TWO}",)
    assert comparison.held_constant == ("code",)


def test_seeds_of_different_code_are_told_also_where_the_baseline_is_alike() -> None:
    mixed = {"code": {0: ONE, 1: TWO}}
    comparison, told = by_code(mixed, mixed)
    assert told == (f"code {ONE} (seed 0), {TWO} (seed 1), as in the baseline",)
    assert comparison.row("baseline").also_changed == (f"code {ONE} (seed 0), {TWO} (seed 1)",)
    assert comparison.held_constant == ()


def test_files_of_ones_own_are_compared_one_by_one_and_with_arms_that_have_them() -> None:
    plain, own, changed = ({"code": {0: text}} for text in (ONE, f"{ONE}, own.py@1, helper.py@1", f"{ONE}, own.py@1, helper.py@2"))
    assert by_code(plain, own, own)[1] == ()
    assert by_code(plain, own, changed)[1] == ("code of helper.py 1, in other 2",)
    assert by_code(own, changed)[1] == ("code of helper.py 1 → 2",)

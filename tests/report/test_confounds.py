"""What was held constant: differences that nobody declared are named, small ones in what was seen are not."""

from __future__ import annotations

from dataclasses import replace

from made_up import made_up_study, scores

from mm1_ablate.config.study import Change
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.confounds import Codes, code_measures
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

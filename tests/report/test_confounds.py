"""What was held constant: differences that nobody declared are named, small ones in what was seen are not."""

from __future__ import annotations

from dataclasses import replace

from made_up import made_up_study, scores

from mm1_ablate.config.study import Change
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
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

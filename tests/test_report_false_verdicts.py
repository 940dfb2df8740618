"""Arms that equal the baseline but for their seeds: how often they are called better or worse."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from made_up import made_up_study, noisy_results

from mm1_ablate.report.comparison import compare
from mm1_ablate.report.false_verdicts import FalseVerdicts, Rate, false_verdicts, with_false_verdicts
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.spec.expansion import Study

COMPARED = {"metrics": ["shot_8/average"]}


def same_study(groups: int = 3) -> Study:
    """A baseline with three seeds, and arms that are the same system with three others each."""
    study = made_up_study([f"a-a-{number}" for number in range(groups)], compare=COMPARED)
    others = {f"a-a-{number}": tuple(range(3 * number + 3, 3 * number + 6)) for number in range(groups)}
    arms = tuple(replace(arm, changes=(), seeds=others.get(arm.name, ())) for arm in study.arms)
    trials = [
        replace(study.trials[0], name=f"{arm.name}/seed-{seed}", arms=(arm.name,), seed=seed, evaluation_fingerprint=f"{arm.name} {seed}")
        for arm in arms
        for seed in arm.seeds or study.sweep.seeds
    ]
    return replace(study, arms=arms, trials=tuple(trials))


def made_up_scores(study: Study, shift: dict[str, float] | None = None, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Item scores of systems that are the same but for their seeds and, if told so, a shift of some of them."""
    whole = made_up_study([arm.name for arm in study.arms[1:]], seeds=range(12))
    truth = {arm.name: 50.0 + (shift or {}).get(arm.name, 0.0) for arm in study.arms}
    results, items = noisy_results(whole, truth, seed_noise=1.0, items=30, seed=seed, tasks=("vqa",))
    own = {(arm.name, one) for arm in study.arms for one in study.seeds_of(arm.name)}
    return tuple(table[[key in own for key in zip(table["arm"], table["seed"], strict=True)]] for table in (results, items))  # type: ignore


def test_arms_of_other_seeds_are_compared_unpaired_and_undecided() -> None:
    study = same_study()
    results, items = made_up_scores(study)
    comparison = compare(study, results, items=items)
    assert {row.verdict for row in comparison.rows} <= {"baseline", "undecided"} and not comparison.holes
    assert all("unpaired (Welch)" in " ".join(row.notes) for row in comparison.rows if not row.is_baseline)
    assert comparison.row("a-a-0").changes == ("nothing but its seeds: 3, 4, 5",)


def test_false_verdicts_stay_below_what_is_promised() -> None:
    study = same_study()
    results, items = made_up_scores(study)
    found = with_false_verdicts(compare(study, results, items=items), study, results, items, draws=100).false_verdicts
    assert found is not None and (found.seeds, found.seeds_per_side, found.nominal) == (12, 3, 0.05)
    assert found.paired.comparisons == found.unpaired.comparisons == 100
    assert found.paired.rate <= 0.05 and found.unpaired.rate <= 0.05


def test_systems_that_are_not_the_same_are_seen() -> None:
    """The resampling is no rubber stamp: seeds that differ by far more than chance give verdicts."""
    study = same_study(1)
    results, items = made_up_scores(study, {"a-a-0": 30.0})
    found = false_verdicts(results, items, declared=study.sweep.compare, template=study.trials[0], seeds_per_side=3, draws=60)
    assert found is not None and found.paired.false + found.unpaired.false > 0


def test_the_same_draws_come_again() -> None:
    study = same_study()
    results, _ = made_up_scores(study)
    arguments = {"declared": study.sweep.compare, "template": study.trials[0], "draws": 20}
    assert false_verdicts(results, seed=3, **arguments) == false_verdicts(results, seed=3, **arguments)  # type: ignore[arg-type]


def test_too_few_seeds_or_no_such_arms_give_no_rate() -> None:
    study = same_study()
    results, items = made_up_scores(study)
    few = results[results["arm"] == "baseline"]
    assert false_verdicts(few, declared=study.sweep.compare, template=study.trials[0]) is None
    other = made_up_study(["arm"], compare=COMPARED)
    assert with_false_verdicts(compare(other, few), other, few).false_verdicts is None
    comparison = compare(study, few)
    assert with_false_verdicts(comparison, study, few, items).false_verdicts is None


def test_the_upper_bound_is_clopper_and_pearsons() -> None:
    assert Rate(0, 100).upper == pytest.approx(1 - 0.05 ** (1 / 100))
    assert Rate(3, 100).lower < Rate(3, 100).rate == 0.03 < Rate(3, 100).upper


def test_a_rate_above_the_promise_by_more_than_chance_is_called_so() -> None:
    def found(false: int) -> FalseVerdicts:
        return FalseVerdicts(12, 3, 0.05, Rate(false, 100), Rate(0, 100))

    assert found(8).kept and not found(12).kept
    assert "more than is promised" in found(12).in_words() and "more than" not in found(8).in_words()


def test_the_rate_is_told_everywhere() -> None:
    study = same_study()
    results, _ = made_up_scores(study)
    found = FalseVerdicts(12, 3, 0.05, Rate(3, 100), Rate(1, 100))
    comparison = replace(compare(study, results), false_verdicts=found)
    for text in (markdown(comparison), html(comparison)):
        assert "3 of 100 paired (3.0 %" in text and "what is promised (5 %" in text
    told = json.loads(json.dumps(comparison.to_json()))["false_verdicts"]
    assert told["paired"]["rate"] == 0.03 and told["unpaired"]["comparisons"] == 100

"""Arms that equal the baseline but for their seeds: how often they are called better or worse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_study, noisy_results
from scipy import stats

from mm1_ablate.config.study import Study
from mm1_ablate.report import aa_check as module
from mm1_ablate.report.aa_check import false_verdicts, with_false_verdicts
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.verdicts import FalseVerdicts, Rate

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


def test_arms_of_other_seeds_are_compared_unpaired_and_too_close_to_call() -> None:
    study = same_study()
    results, items = made_up_scores(study)
    comparison = compare(study, results, items=items)
    assert {row.verdict for row in comparison.rows} <= {"baseline", "too close to call"} and not comparison.holes
    assert all("unpaired (Welch)" in " ".join(row.notes) for row in comparison.rows if not row.is_baseline)
    assert comparison.row("a-a-0").changes == ("only its seeds: 3, 4, 5",)


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
    assert "above the nominal rate" in found(12).in_words() and "above" not in found(8).in_words()


def test_the_rate_is_reported_everywhere() -> None:
    study = same_study()
    results, _ = made_up_scores(study)
    found = FalseVerdicts(12, 3, 0.05, Rate(3, 100), Rate(1, 100))
    comparison = replace(compare(study, results), false_verdicts=found)
    for text in (markdown(comparison), html(comparison)):
        assert "3 of 100 paired (3.0 %" in text and "within the nominal rate of 5 %" in text
    told = json.loads(json.dumps(comparison.to_json()))["false_verdicts"]
    assert told["paired"]["rate"] == 0.03 and told["unpaired"]["comparisons"] == 100


# ---------------------------------------------------------------- what is compared
@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Study, pd.DataFrame, pd.DataFrame | None, StudyComparison]]:
    """Every pretended comparison, as it comes: paired, then unpaired, of each draw."""
    seen: list[tuple[Study, pd.DataFrame, pd.DataFrame | None, StudyComparison]] = []

    def look(study: Study, results: pd.DataFrame, items: pd.DataFrame | None = None, **more: Any) -> StudyComparison:
        found = compare(study, results, items=items, **more)
        seen.append((study, results, items, found))
        return found

    monkeypatch.setattr(module, "compare", look)
    return seen


def test_each_draw_sets_different_systems_against_each_other_once_paired_and_once_unpaired(compared: list[Any]) -> None:
    study = same_study()
    results, items = made_up_scores(study)
    found = false_verdicts(results, items, declared=study.sweep.compare, template=study.trials[0], draws=8)
    assert found is not None and len(compared) == 16
    drawn = []
    for paired, unpaired in zip(compared[::2], compared[1::2], strict=True):
        for (_, own, answers, comparison), method in ((paired, "paired t"), (unpaired, "Welch")):
            estimate = comparison.row("pretended").cells["shot_8/average"].estimate
            assert (estimate.method, estimate.with_items, estimate.seeds) == (method, True, 3)
            assert own["value"].nunique() == 6, "no system is on both sides"
            assert set(answers["shots"]) == {8} and len(answers) == 6 * 30
        assert set(paired[1]["value"]) == set(unpaired[1]["value"]) <= set(results["value"])
        drawn.append(tuple(paired[1]["value"]))
    assert len(set(drawn)) == 8, "each draw is another"
    assert {value for draw in drawn for value in draw} == set(results.loc[results["metric"] == "shot_8/average", "value"])


def test_verdicts_for_better_and_for_worse_are_counted_alike(compared: list[Any]) -> None:
    """Half of the seeds are far better than the others, so draws that part them give verdicts of both kinds."""
    study = same_study(1)
    results, _ = made_up_scores(study, {"a-a-0": 90.0})
    found = false_verdicts(results, declared=study.sweep.compare, template=study.trials[0], draws=40)
    assert found is not None
    verdicts = [comparison.row("pretended").verdict for *_, comparison in compared]
    assert {"better", "worse"} <= set(verdicts[1::2])
    for rate, own in ((found.paired, verdicts[::2]), (found.unpaired, verdicts[1::2])):
        assert rate.false == own.count("better") + own.count("worse")


def test_only_the_baseline_and_its_equals_are_drawn_at_the_declared_confidence() -> None:
    study = same_study(2)
    arms = [*study.arms, replace(study.arms[1], name="real", group="real", seeds=(), changes=study.arms[1].changes)]
    trials = [
        replace(study.trials[0], name=f"real/seed-{seed}", arms=("real",), seed=seed, evaluation_fingerprint=f"real {seed}")
        for seed in range(3)
    ]
    sweep = study.sweep.model_copy(update={"compare": study.sweep.compare.model_copy(update={"confidence": 0.9})})
    whole = replace(study, arms=tuple(arms), trials=(*study.trials, *trials), sweep=sweep)
    results, _ = made_up_scores(study)
    real = pd.DataFrame({"arm": "real", "seed": range(3), "metric": "shot_8/average", "value": [90.0, 91.0, 92.0]})
    both = pd.concat([results, real])
    found = with_false_verdicts(compare(whole, both), whole, both, draws=10).false_verdicts
    assert found is not None and (found.seeds, found.seeds_per_side, found.nominal) == (9, 3, 0.1)
    assert f"{100 * found.nominal:g} %" in found.in_words()


def test_both_bounds_are_clopper_and_pearsons_and_either_rate_can_break_the_promise() -> None:
    for false in (1, 7, 30):
        rate = Rate(false, 60)
        assert rate.lower == pytest.approx(stats.beta.ppf(0.05, false, 60 - false + 1))
        assert rate.upper == pytest.approx(stats.beta.ppf(0.95, false + 1, 60 - false))
    many, none = Rate(20, 100), Rate(0, 100)
    assert not FalseVerdicts(12, 3, 0.05, many, none).kept and not FalseVerdicts(12, 3, 0.05, none, many).kept
    assert FalseVerdicts(12, 3, 0.05, none, none).kept and np.isclose(none.lower, 0)

"""The words for what is undecided, checks apart from lessons, and intervals that end where nothing more is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import unescape
from typing import Any, cast

import numpy as np
import pytest
from made_up import made_up_study, noisy_results, scores
from numpy.typing import ArrayLike

from mm1_ablate.config.sweep.declaration import Expectation
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.expectations import judge
from mm1_ablate.report.formats import bracketed, plus_minus, seeds_agree
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.metric_info import scales
from mm1_ablate.report.rules import Claims
from mm1_ablate.report.statistics import paired_difference
from mm1_ablate.report.text import footnotes, headline, how_measured
from mm1_ablate.report.verdicts import with_verdicts

PRIMARY = "shot_8/average"
BASE = [50.0, 51.0, 50.5, 50.2]


def compared(differences: Mapping[str, Sequence[float]], base: Sequence[float] = BASE, **sweep: Any) -> StudyComparison:
    seeds = len(next(iter(differences.values())))
    study = made_up_study(list(differences), seeds=range(seeds), **{"compare": {"metrics": [PRIMARY]}, **sweep})
    truth = {"baseline": list(base[:seeds])} | {arm: [b + d for b, d in zip(base, own, strict=False)] for arm, own in differences.items()}
    return compare(study, scores(study, truth))


def expectation(direction: str, by: float = 0, **more: Any) -> dict[str, Any]:
    return {"arm": "arm", "metric": PRIMARY, "is": direction, "by": by, "because": "somebody said so", **more}


@pytest.mark.parametrize(
    ("differences", "verdict", "seeds"),
    [
        ([-1.0, -9.0, -2.0], "leaning", "3/3 below"),
        ([-1.0, -9.0, 0.1], "too close to call", "2/3 below"),
        ([-1.0, -9.0, 0.0], "too close to call", "2/3 below"),
        ([1.0, 9.0], "too few seeds", "2/2 above"),
        ([9.0], "too few seeds", "1/1 above"),
    ],
)
def test_arms_lean_where_all_seeds_lie_on_one_side_of_no_difference(differences: list[float], verdict: str, seeds: str) -> None:
    comparison = compared({"arm": differences}, base=[50.0, 50.0, 50.0])
    row = comparison.row("arm")
    assert row.verdict == verdict and seeds_agree(row.cells[PRIMARY].estimate) == seeds
    assert seeds in markdown(comparison) and seeds in html(comparison) and verdict in headline(comparison)


def test_an_arm_that_is_within_the_margin_by_itself_leans_to_no_difference_though_its_seeds_differ_in_sign() -> None:
    alike = [0.2, -0.3, 0.35]
    others = {f"other-{number}": [-6.0, 7.0, 1.5] for number in range(3)}
    row = compared({"arm": alike, **others}).row("arm")
    assert row.verdict == "leaning" and "within ±1 by itself, not after correction for 4 comparisons" in row.notes


@pytest.mark.parametrize(
    ("direction", "by", "differences", "verdict"),
    [
        ("below", 5, [-6.0, -30.0, -7.0], "leaning"),
        ("below", 5, [-4.0, -30.0, -7.0], "too close to call"),
        ("above", 5, [-4.0, 3.0, 4.9], "leaning"),
        ("within", 9, [-8.0, 8.0, 1.0], "leaning"),
        ("within", 9, [10.0, 30.0, 11.0], "leaning"),
        ("within", 9, [-10.0, 30.0, 11.0], "too close to call"),
        ("within", 9, [8.0, 30.0, 11.0], "too close to call"),
    ],
)
def test_expectations_lean_where_all_seeds_lie_on_one_side_of_the_bound(
    direction: str, by: float, differences: list[float], verdict: str
) -> None:
    (judged,) = compared({"arm": differences}, expect=[expectation(direction, by)]).expectations
    assert judged.verdict == verdict
    said = "all 3 seeds agree, the interval allows both" if verdict == "leaning" else "the interval allows both"
    assert judged.reason == said


def test_what_undecided_words_mean_is_said_once_where_they_are_used() -> None:
    said = how_measured(compared({"arm": [-1.0, -9.0, -2.0]}))
    assert said.count("all seeds agree, or significant by itself") == 1 and said.count("is a forecast") == 1
    clear = how_measured(compared({"arm": [-20.0, -21.0, -20.5]}))
    assert "forecast" not in clear and "all seeds agree" not in clear


def test_the_designs_power_is_said_once_from_three_seeds_on() -> None:
    assert "This design finds differences of " in how_measured(compared({"arm": [-1.0, -3.0, -2.0]}))
    assert "This design" not in how_measured(compared({"arm": [-1.0, -3.0]}))
    wild = how_measured(compared({"arm": [-40.0, 40.0, 3.0]}))
    assert "hardly any difference" in wild


def test_each_method_has_one_footnote_with_its_name() -> None:
    study = made_up_study(["arm"])
    results, items = noisy_results(study, {"baseline": 50, "arm": 45})
    comparison = compare(study, results, items=items)
    text = markdown(comparison)
    for name in ("Holm", "TOST", "Benjamini-Hochberg", "Satterthwaite", "Crossed random effects"):
        assert text.count(name) == 1
    assert len(footnotes(comparison)) == 5 and len(footnotes(compared({"arm": [1.0, 2.0, 4.0]}))) == 3
    page = unescape(html(comparison))
    assert all(line in page for line in footnotes(comparison))


# ---------------------------------------------------------------- checks and lessons
def test_checks_and_lessons_are_corrected_shown_and_counted_apart() -> None:
    """A lesson that is confirmed by itself, not among twelve; checks beside it make no difference."""
    lesson, noisy = expectation("below"), {"arm": "noisy"}
    arms = {"arm": [-6.0, -4.5, -4.7], "noisy": [-6.0, 7.0, 1.5]}
    crowd = [expectation("above", by, **noisy) for by in range(11)]
    among = compared(arms, expect=[lesson, *crowd]).expectations[0]
    comparison = compared(arms, expect=[lesson, *({**one, "kind": "check"} for one in crowd)])
    assert (among.verdict, comparison.expectations[0].verdict) == ("leaning", "confirmed")
    assert comparison.expectations[0].to_json()["kind"] == "lesson" and comparison.expectations[1].to_json()["kind"] == "check"
    assert "; of 11 checks " in headline(comparison) and headline(comparison).endswith("; of 1 lesson 1 confirmed.")
    text = markdown(comparison)
    assert text.index("## Checks") < text.index("## Lessons")
    assert text.split("## Lessons")[1].count("somebody said so") == 1 and text.split("## Lessons")[0].count("somebody said so") == 11
    assert "checks and lessons each by themselves" in text
    page = html(comparison)
    assert page.index("<h2>Checks</h2>") < page.index("<h2>Lessons</h2>")
    assert "## Checks" not in markdown(compared(arms, expect=[lesson]))


def test_an_expectation_is_a_lesson_or_a_check() -> None:
    declared = Expectation.model_validate(expectation("below"))
    assert declared.kind == "lesson"
    with pytest.raises(ValueError, match="check"):
        Expectation.model_validate(expectation("below", kind="hope"))


def test_checks_of_an_included_sweep_are_a_family_of_their_own() -> None:
    expect = [expectation("below", kind="check"), *(expectation("above", by, arm="noisy", kind="check") for by in range(11))]
    study = made_up_study(["arm", "noisy"], expect=expect)
    results = scores(study, {"baseline": BASE[:3], "arm": [44.0, 46.5, 45.8], "noisy": [44.0, 58.0, 52.0]})
    assert compare(study, results).expectations[0].verdict == "leaning"
    assert compare(replace(study, families=("first", *["second"] * 11)), results).expectations[0].verdict == "confirmed"


# ---------------------------------------------------------------- another rule
class Strict:
    """Half of the level for each, whatever else was decided."""

    level = 0.05

    def adjusted(self, p_values: Sequence[float], claims: Claims, family: str) -> Any:
        return 2.0 * np.asarray(cast(ArrayLike, p_values), dtype=float)

    def level_of(self, left: int, claims: Claims) -> float:
        return self.level / 2


def test_a_rule_other_than_holms_decides_arms_and_expectations() -> None:
    differences = [-6.0, -4.0, -3.5]
    study = made_up_study(["arm"], compare={"metrics": [PRIMARY]})
    truth = {"baseline": BASE[:3], "arm": [base + own for base, own in zip(BASE, differences, strict=False)]}
    row = compare(study, scores(study, truth)).row("arm")
    assert row.verdict == "worse"
    judged_again = with_verdicts([compare(study, scores(study, truth)).row("baseline"), row], study, [PRIMARY], [], Strict())
    assert judged_again[1].verdict == "leaning" and judged_again[1].cells[PRIMARY].p_adjusted > 0.05
    found = [(Expectation.model_validate(expectation("below", 2)), paired_difference(differences), "")]
    assert judge(found, 0.05)[0].p_adjusted == pytest.approx(judge(found, 0.05, rule=Strict())[0].p_adjusted / 2)


# ---------------------------------------------------------------- what is possible
def test_intervals_end_at_what_a_score_of_0_to_100_allows() -> None:
    comparison = compared({"arm": [-30.0, 9.0, -38.0]}, base=[40.0, 38.0, 42.0], expect=[expectation("below")])
    cell = comparison.row("arm").cells[PRIMARY]
    assert cell.estimate is not None and cell.estimate.low < -40 and bracketed(cell.estimate) == "[−40.0, +42.8]"
    assert plus_minus(cell) == "[−40, +43]"
    told = comparison.to_json()
    assert told["arms"][1]["metrics"][PRIMARY]["low"] == pytest.approx(-40) == told["expectations"][0]["low"]
    assert comparison.long().set_index("arm")["low"]["arm"] == pytest.approx(-40)


def test_losses_and_scores_beyond_100_have_whatever_interval_they_have() -> None:
    study = made_up_study(["arm"], compare={"primary": "loss/text", "metrics": ["loss/text"]})
    found = compare(study, scores(study, {"baseline": [2.0, 2.1, 2.2], "arm": [1.0, 3.0, 0.5]}, "loss/text")).row("arm").cells["loss/text"]
    assert found.estimate is not None and found.estimate.low < -2.1 and found.estimate.shown == (found.estimate.low, found.estimate.high)
    above = compared({"arm": [-30.0, 9.0, -38.0]}, base=[104.0, 38.0, 42.0]).row("arm").cells[PRIMARY].estimate
    assert above is not None and above.shown == (above.low, above.high)


def test_an_average_with_a_metric_of_no_ceiling_is_not_bounded() -> None:
    _, items = noisy_results(made_up_study(["arm"]), {"baseline": 50, "arm": 45}, items=3)
    assert scales([PRIMARY], items)[PRIMARY].bounded
    of_captions = items["task"] == "vqa"
    items.loc[of_captions & (items["shots"] == 8), "metric"] = "cider_raw"
    found = scales([PRIMARY, "shot_4/average", "loss/text", "shot_8/vqa"], items)
    assert [found[metric].bounded for metric in found] == [False, True, False, False]

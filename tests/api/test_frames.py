"""What `import mm1_ablate as mm` reads of a study is what the report and the commands say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
from command_line import call
from scored_study import Said, write_scores

import mm1_ablate as mm
from mm1_ablate.config.study import Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item

PAPER = """\
paper:
  table: figure5b_text_only
  rows: {baseline: interleaved + text, without/text: interleaved}
expect:
  - {arm: without/text, metric: 0-shot, is: below, because: this is a test}
"""


def answer(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
    """Right more often in the baseline, and not equally often at all seeds."""
    right = 9 - 2 * trial.seed if "baseline" in trial.arms else 4 - trial.seed
    return item.references[0] if place < right else f"not {item.references[0]}"


@pytest.fixture
def sweep(tiny_sweep: Path) -> Path:
    """Three seeds of three arms, twelve items; `without/interleaved` has no scores yet."""
    experiment = tiny_sweep.parents[1] / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("items: 4", "items: 12"))
    tiny_sweep.write_text(tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: [0, 1, 2]") + PAPER)
    write_scores(tiny_sweep, tiny_sweep.parent / "store", answer, ["baseline", "without/text"])
    return tiny_sweep


@pytest.fixture
def study(sweep: Path) -> mm.Study:
    return mm.Study(sweep, sweep.parent / "store")


def reported(study: mm.Study) -> Path:
    """The folder of the report that the command writes."""
    done = call("report", study.path, "--store", study.store)
    assert done.exit_code == 0, done.output
    return Path(study.store) / "studies" / study.name / "report"


def test_the_comparison_is_the_report_s_to_the_last_digit(study: mm.Study) -> None:
    report = reported(study)
    assert study.comparison().to_csv(index=False) == (report / "comparison.csv").read_text()
    # And read again it is the same numbers, of which there are some.
    read = pandas.read_csv(report / "comparison.csv", float_precision="round_trip")
    numbers = ["mean", "deviation", "difference", "low", "high", "p", "p_adjusted"]
    pandas.testing.assert_frame_equal(study.comparison()[numbers], read[numbers], check_exact=True)
    assert read.set_index(["arm", "metric"]).loc[("without/text", study.primary), numbers].notna().all()
    assert study.to_json() == json.loads((report / "comparison.json").read_text())


def test_the_rounded_table_shows_what_the_report_prints(study: mm.Study) -> None:
    table = study.table().set_index("arm")
    page = (reported(study) / "report.md").read_text()
    assert f"{table.loc['baseline', '0-shot']:.1f}" in page and table.loc["baseline", "0-shot"] > 0
    assert f"−{-table.loc['without/text', '0-shot difference']:.1f}" in page


def test_scores_and_items_are_those_that_the_comparison_is_made_of(study: mm.Study) -> None:
    scores = study.scores()
    means = scores[scores["metric"] == study.primary].groupby("arm")["value"].mean()
    compared = study.comparison().set_index(["metric", "arm"]).loc[study.primary]
    assert set(means.index) == {"baseline", "without/text"} and (compared.loc[means.index, "mean"] - means).abs().max() < 1e-9
    items = study.items()
    assert list(items.columns[:3]) == ["arm", "seed", "task"]
    by_items = 100 * items[items["primary"]].groupby(["arm", "seed"])["score"].mean()
    by_trial = scores[scores["metric"] == study.primary].set_index(["arm", "seed"])["value"]
    assert len(by_items) == 6 and (by_items - by_trial).abs().max() < 1e-9


def test_trials_are_those_of_status(study: mm.Study) -> None:
    told = json.loads(call("status", study.path, "--store", study.store, "--json").stdout)["trials"]
    trials = study.trials()
    assert list(trials["trial"]) == [one["name"] for one in told] and list(trials["status"]) == [one["status"] for one in told]
    assert dict(trials.groupby("arm")["status"].first()) == {
        "baseline": "done",
        "without/interleaved": "missing",
        "without/text": "done",
    }


def test_arms_say_what_they_change(study: mm.Study) -> None:
    arms = study.arms().set_index("arm")
    assert arms.loc["without/text", "changes"] == "removed data.mixture.text" and arms.loc["baseline", "changes"] == ""
    assert arms.loc["without/text", "seeds"] == [0, 1, 2] and arms.loc["without/text", "baseline"] == "baseline"


def test_a_study_that_goes_on_is_read_anew(study: mm.Study, sweep: Path) -> None:
    before = study.comparison().set_index(["arm", "metric"])["mean"]
    write_scores(sweep, Path(study.store), answer)
    after = study.comparison().set_index(["arm", "metric"])["mean"]
    assert pandas.isna(before["without/interleaved", study.primary]) and after["without/interleaved", study.primary] > 0
    assert set(study.trials()["status"]) == {"done"} and set(study.scores()["arm"]) == set(study.arms()["arm"])


def test_the_paper_s_numbers_stand_beside_ours(study: mm.Study) -> None:
    paper = study.paper().set_index(["arm", "metric"])
    here = paper.loc["without/text", "shot_0/average"]
    compared = study.comparison().set_index(["arm", "metric"]).loc["without/text", "shot_0/average"]
    assert (here["paper"], here["row"]) == (25.8, "interleaved") and here["paper_difference"] == pytest.approx(25.8 - 24.0)
    assert (here["ours"], here["difference"], here["low"]) == (compared["mean"], compared["difference"], compared["low"])
    assert pandas.isna(paper.loc["baseline", "shot_0/average"]["paper_difference"])


def test_expectations_have_verdicts(study: mm.Study) -> None:
    (expected,) = study.expectations().to_dict("records")
    (told,) = study.to_json()["expectations"]
    assert expected["arm"] == "without/text" and expected["verdict"] == told["verdict"]


def test_figures_can_be_saved(study: mm.Study, tmp_path: Path) -> None:
    figures = study.figures()
    assert set(figures) == {"forest"}, "one number of shots and no curves: there is nothing else to draw"
    figures["forest"].savefig(tmp_path / "forest.pdf")
    assert (tmp_path / "forest.pdf").read_bytes().startswith(b"%PDF")


def test_a_plan_is_that_of_the_command(study: mm.Study) -> None:
    plan = study.plan()
    assert plan.to_json() == json.loads(call("plan", study.path, "--store", study.store, "--json").stdout)
    assert list(plan.trials["status"]).count("run") == 3 and plan.over_budget == ()
    detectable = plan.detectable.loc[study.name]
    assert detectable["in_deviations"] == pytest.approx(mm.detectable_difference(1.0, seeds=3))
    assert detectable["in_deviations_after_holm"] == pytest.approx(mm.detectable_difference(1.0, seeds=3, comparisons=2))


def test_where_nothing_has_been_run_frames_are_empty(sweep: Path, tmp_path: Path) -> None:
    study = mm.Study(sweep, tmp_path / "elsewhere")
    assert study.scores().empty and study.items().empty and study.curves().empty
    assert set(study.trials()["status"]) == {"missing"}
    with pytest.raises(mm.StudyError, match="there is no store at"):
        study.comparison()

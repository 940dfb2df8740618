"""What stands beside scores: floors and ceilings, over how many items, which way is better, and whether items tell how sure one is."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_study
from rich.console import Console
from scored_study import Said, write_scores
from toy_tasks import GENERATE, Toy, record
from typer.testing import CliRunner

from mm1_ablate.cli import app
from mm1_ablate.commands.comparison import compare_study
from mm1_ablate.commands.run import compare_and_write
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item, Unreadable
from mm1_ablate.evaluation.chance_baselines import ceiling, constant_answer
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics.choice_accuracy import ChoiceAccuracy
from mm1_ablate.evaluation.metrics.cider_raw import CiderRaw
from mm1_ablate.evaluation.metrics.exact_match import ExactMatch
from mm1_ablate.evaluation.metrics.vqa_accuracy import VqaAccuracy
from mm1_ablate.evaluation.protocols import load_task
from mm1_ablate.report import html as html_page
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.formats import number, signed
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.metric_info import LOSS, PERCENT, scales
from mm1_ablate.report.task_scores import task_scores
from mm1_ablate.report.task_table import task_lines
from mm1_ablate.report.text import print_comparison
from mm1_ablate.store.store import Store

BAD, GOOD = "without/interleaved", "without/text"


# ---------------------------------------------------------------- ceilings
def items(*references: tuple[str, ...]) -> list[Prediction]:
    return [Prediction(str(place), "", own) for place, own in enumerate(references)]


def test_annotators_who_disagree_set_a_ceiling() -> None:
    apart = tuple("abcdefghij")
    assert ceiling(VqaAccuracy(), items(apart)) == pytest.approx(30)
    assert ceiling(VqaAccuracy(), items(("a",) * 5 + ("b",) * 5)) == pytest.approx(100)
    assert ceiling(VqaAccuracy(), items(apart, ("a",) * 10, ())) == pytest.approx(65)


def test_other_metrics_reach_100_or_have_no_known_ceiling() -> None:
    assert ceiling(ExactMatch(), items(("a", "b"))) == ceiling(ChoiceAccuracy(), items(())) == 100
    assert ceiling(CiderRaw(), items(("a dog",), ("a cat",))) is None
    assert ceiling(VqaAccuracy(), items((), ())) is None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["red", "Red", "a red", "blue", "2", "two"]), min_size=1, max_size=10).map(tuple), min_size=1, max_size=6
    )
)
def test_no_constant_answer_is_above_the_ceiling(references: list[tuple[str, ...]]) -> None:
    highest = ceiling(VqaAccuracy(), items(*references))
    assert highest is not None and constant_answer(VqaAccuracy(), items(*references)).value <= highest + 1e-9 <= 100 + 2e-9


# ---------------------------------------------------------------- a study in a store
def answer(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
    """One arm is always wrong; another cannot be asked the items 3 and 4; nobody can be asked item 7."""
    if place == 7 or (GOOD in trial.arms and place in (3, 4)):
        return Unreadable("truncated JPEG" if place == 7 else "no image", item.id)
    right = BAD not in trial.arms and (place + trial.seed) % 3 > 0
    if task.kind == "choose":
        return [-1.0 if (number == item.correct) == right else -5.0 - number for number in range(len(item.choices))]
    return item.references[0] if right else "nothing of the kind"


@pytest.fixture
def sweep(tiny_sweep: Path, tmp_path: Path) -> Path:
    experiment = tmp_path / "experiments" / "tiny.yaml"
    text = experiment.read_text().replace("items: 4", "items: 24").replace("- miniature_vqa", "- miniature_vqa\n  - miniature_facts")
    experiment.write_text(re.sub(r"shots:\n(\s+)- 0", r"shots:\n\1- 0\n\1- 4", text))
    return tiny_sweep


@pytest.fixture
def stored(sweep: Path, tmp_path: Path) -> tuple[Study, Store]:
    return write_scores(sweep, tmp_path / "store", answer)


def shown(comparison: StudyComparison, width: int = 160) -> str:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def test_a_finished_report_is_written_again_after_an_upgrade(stored: tuple[Study, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = compare_and_write(*stored)
    (folder / "report.html").write_text("written before")
    compare_and_write(*stored)
    assert (folder / "report.html").read_text() == "written before"
    monkeypatch.setattr(html_page, "report_version", lambda: "0.2.0+abcdef01")
    compare_and_write(*stored)
    assert "<html" in (folder / "report.html").read_text()


def test_a_changed_template_is_another_version_of_reports(tmp_path: Path) -> None:
    (tmp_path / "report.html.jinja").write_text("before")
    before = html_page.report_version(tmp_path)
    (tmp_path / "report.html.jinja").write_text("after")
    html_page.report_version.cache_clear()
    assert html_page.report_version(tmp_path) != before


def test_each_task_has_the_floor_of_the_items_that_were_asked(stored: tuple[Study, Store]) -> None:
    study, store = stored
    columns = task_scores(study, store.item_scores(study)).columns
    asked = load_task("miniature_vqa").items.open(count=24).queries
    answers = [item.references[0] for place, item in enumerate(asked) if place != 7]
    most = max(answers.count(one) for one in answers)
    for column in ("shot_0/miniature_vqa", "shot_4/miniature_vqa"):
        bounds = columns[column].bounds["baseline"]
        assert bounds.floor == pytest.approx(100 * most / 23) and answers.count(bounds.answer) == most and bounds.ceiling == 100
    facts = columns["text_core/miniature_facts"].bounds["baseline"]
    right = [item.correct for place, item in enumerate(load_task("miniature_facts").items.open(count=24).queries) if place != 7]
    assert (facts.floor, facts.answer) == (pytest.approx(100 * right.count(3) / 23), "always choice 4") and 100 * right.count(3) / 23 > 25
    # The same questions: the same floor. Other questions: their own.
    assert columns["shot_0/miniature_vqa"].bounds[BAD] == columns["shot_0/miniature_vqa"].bounds["baseline"]
    own = [one for place, one in enumerate(answers) if place not in (3, 4)]
    assert columns["shot_0/miniature_vqa"].bounds[GOOD].floor == pytest.approx(100 * max(own.count(one) for one in own) / 21)


def test_floors_are_reckoned_once_and_remembered_beside_the_report(stored: tuple[Study, Store]) -> None:
    study, store = stored
    comparison = compare_study(study, store)
    path = store.study_folder(study) / "floors.json"
    remembered = json.loads(path.read_text())
    marked = {key: {**bounds, "answer": f"remembered {place}"} for place, (key, bounds) in enumerate(remembered.items())}
    path.write_text(json.dumps(marked))
    again = compare_study(study, store)
    first, second = (one.tasks.columns["shot_0/miniature_vqa"].bounds["baseline"] for one in (comparison, again))
    assert second.answer.startswith("remembered") and second.floor == first.floor
    assert json.loads(path.read_text()) == marked


def test_choices_of_tables_without_the_right_place_are_known_by_their_texts(stored: tuple[Study, Store]) -> None:
    study, store = stored
    items = store.item_scores(study)
    assert items is not None and str(items["correct"].dtype) == "Int64"
    facts = task_scores(study, items.drop(columns="correct")).columns["text_core/miniature_facts"].bounds["baseline"]
    answers = [item.references[0] for place, item in enumerate(load_task("miniature_facts").items.open(count=24).queries) if place != 7]
    most = max(answers.count(one) for one in answers)
    assert facts.floor == pytest.approx(max(25.0, 100 * most / 23)) and facts.answer == ("" if most < 6 else facts.answer)


def test_arms_below_a_floor_are_marked_everywhere(stored: tuple[Study, Store]) -> None:
    comparison = compare_study(*stored)
    row = comparison.row(BAD)
    assert comparison.is_below_floor(row, "shot_4/miniature_vqa") and comparison.is_below_floor(row, "text_core/miniature_facts")
    assert not comparison.is_below_floor(comparison.row("baseline"), "shot_4/miniature_vqa")
    assert not comparison.is_below_floor(row, "shot_0/average")
    text, page, document = shown(comparison), html(comparison), markdown(comparison)
    for output in (text, page, document):
        assert "43.5 always choice 4" in output and f"{BAD} at 0 and 4 shots" in output
    vqa = comparison.tasks.columns["shot_0/miniature_vqa"].usual
    assert f"{number(vqa.floor)} “{vqa.answer}”" in page
    assert page.count('title="below its floor of') == 4  # of two numbers of shots, facts, and its second metric
    facts = {line[0]: line for line in task_lines(comparison)}["miniature facts"]
    assert facts[1:4] == ["21 to 23 ⚑", "43.5 always choice 4", "100"] and facts[-1] == BAD


def test_what_could_not_be_asked_is_named_and_an_arm_with_fewer_items_flagged(stored: tuple[Study, Store]) -> None:
    comparison = compare_study(*stored)
    column = comparison.tasks.columns["shot_0/miniature_vqa"]
    assert column.items == {"baseline": 23, BAD: 23, GOOD: 21} and column.lacks(GOOD) == 2 and column.lacks(BAD) == 0
    told = {(one.task, one.reason): one for one in comparison.tasks.unasked}
    assert told["miniature_vqa", "truncated JPEG"].count == 1 and len(told["miniature_vqa", "truncated JPEG"].arms) == 3
    assert told["miniature_vqa", "no image"].count == 2 and told["miniature_vqa", "no image"].arms == (GOOD,)
    for output in (shown(comparison), html(comparison), markdown(comparison)):
        words = " ".join(output.split())
        assert "miniature_vqa: 2 no image (first: vqa/report-0/3, vqa/report-0/4), in without/text" in words
        assert "miniature_vqa: 1 truncated JPEG (first: vqa/report-0/7)" in words
        assert f"over 23 items, but 21 in {GOOD}" in words and "21 to 23 ⚑" in words


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_of_tasks_fits(stored: tuple[Study, Store], width: int) -> None:
    text = shown(compare_study(*stored), width)
    assert all(len(line) <= width for line in text.splitlines())


def test_the_report_command_tells_it_as_json(stored: tuple[Study, Store], sweep: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(sweep), "--store", str(stored[1].root), "--json"])
    assert done.exit_code == 0, done.output
    tasks = json.loads(done.stdout)["tasks"]
    assert tasks["columns"]["shot_0/miniature_vqa"]["items"] == {"baseline": 23, BAD: 23, GOOD: 21}
    bounds = tasks["columns"]["text_core/miniature_facts"]["bounds"]["baseline"]
    assert bounds == {"floor": pytest.approx(100 * 10 / 23), "answer": "always choice 4", "ceiling": 100.0}
    assert {one["reason"] for one in tasks["unasked"]} == {"truncated JPEG", "no image"}


def test_records_that_are_gone_and_tables_without_references_have_no_floor() -> None:
    study = made_up_study(["arm"], experiment={"evaluation.tasks": ["gone.yaml"]})
    table = pd.DataFrame(
        {"arm": "arm", "seed": 0, "task": "gone", "family": "image", "shots": 0, "item": ["a", "b"], "metric": "exact_match",
         "primary": True, "score": [1.0, 0.0]}
    )  # fmt: skip
    for own in (table, table.assign(problem="", reference="x", log_likelihoods="", evaluation_seed=0)):
        column = task_scores(study, own).columns["shot_0/gone"]
        assert column.items == {"arm": 2} and column.bounds == {} and not column.is_below_floor("arm", 0.0)
    assert task_scores(study, None).columns == {} and task_scores(study, table[["arm", "score"]]).columns == {}


def test_the_floor_of_a_metric_that_weighs_words_by_the_whole_split_is_made_with_it(tmp_path: Path) -> None:
    metric = {"type": "cider_raw", "frequency": "split"}
    path = record(tmp_path, {**GENERATE, "metrics": [metric]})
    study = made_up_study(["arm"], experiment={"evaluation.tasks": [path], "evaluation.items": 4})
    asked = Toy().open("report", 4, 0).queries
    table = pd.DataFrame(
        {"arm": "arm", "seed": 0, "task": "toy", "family": "image", "shots": 0, "item": [item.id for item in asked], "metric": "cider_raw",
         "primary": True, "score": 0.0, "problem": "", "reference": [item.references[0] for item in asked], "log_likelihoods": "",
         "evaluation_seed": 0}
    )  # fmt: skip
    (bounds,) = task_scores(study, table).columns["shot_0/toy"].bounds.values()
    assert bounds.floor is not None and bounds.floor > 0 and bounds.answer in {item.references[0] for item in asked}


# ---------------------------------------------------------------- metrics of other scales
def measured(study: Study, means: dict[str, float], family: str, task: str, metric: str, primary: bool = True) -> pd.DataFrame:
    """Item scores around a mean for each arm, seeds and items with some noise."""
    random = np.random.default_rng(0)
    hardness = random.normal(scale=0.05, size=50)
    rows = []
    for arm, mean in means.items():
        for seed in study.sweep.seeds:
            luck = mean + 0.004 * random.normal()
            rows += [
                {"arm": arm, "seed": seed, "task": task, "family": family, "shots": 0, "item": str(place), "metric": metric,
                 "primary": primary, "score": luck + hard + 0.01 * random.normal()}
                for place, hard in enumerate(hardness)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def results(items: pd.DataFrame, metric: str, aggregate: Any = np.mean) -> pd.DataFrame:
    means = items.groupby(["arm", "seed"])["score"].apply(lambda scores: float(aggregate(scores))).reset_index(name="value")
    return means.assign(metric=metric)


@pytest.mark.parametrize(
    ("family", "metric", "column"),
    [
        ("loss", "bits_per_byte", "bits_per_byte/books"),
        ("text", "bits_per_byte", "text_core/books"),
        ("text", "token_loss", "text_core/books.token_loss"),
    ],
)
def test_losses_have_item_intervals_on_their_own_scale_and_less_is_better(family: str, metric: str, column: str) -> None:
    study = made_up_study(["lower", "higher"], compare={"primary": column, "smallest_difference_of_interest": 0.001})
    items = measured(study, {"baseline": 1.5, "lower": 1.3, "higher": 1.7}, family, "books", metric, primary="." not in column)
    comparison = compare(study, results(items, column), items=items)
    assert comparison.row("lower").verdict == "better" and comparison.row("higher").verdict == "worse"
    estimate = comparison.row("lower").cells[column].estimate
    assert estimate is not None and estimate.with_items and estimate.difference == pytest.approx(-0.2, abs=0.02)
    assert signed(estimate.difference, LOSS) in shown(comparison)
    assert re.search(r"better: lower \(−0\.\d{3} \[", markdown(comparison)) and "lower is better" in markdown(comparison)
    assert "on a scale of 0 to 100" not in markdown(comparison)


def test_perplexity_is_no_mean_of_items_so_its_interval_has_none_and_the_report_says_so() -> None:
    column = "text_core/lambada.perplexity"
    study = made_up_study(["lower"], compare={"primary": column})
    items = measured(study, {"baseline": 3.0, "lower": 2.0}, "text", "lambada", "perplexity", primary=False)
    comparison = compare(study, results(items, column, lambda scores: math.exp(np.mean(scores))), items=items)
    row = comparison.row("lower")
    estimate = row.cells[column].estimate
    assert row.verdict == "better" and estimate is not None and not estimate.with_items
    assert any("scores of items are missing" in remark for remark in comparison.remarks)
    assert row.cells[column].mean == pytest.approx(math.exp(2), abs=0.2)


def test_a_metric_that_is_no_percentage_stays_out_of_averages() -> None:
    study = made_up_study(["arm"], compare={"primary": "text_core/average"})
    accuracy = measured(study, {"baseline": 0.5, "arm": 0.6}, "text", "facts", "exact_match")
    items = pd.concat([accuracy, measured(study, {"baseline": 3.0, "arm": 2.0}, "text", "books", "bits_per_byte")])
    values = results(accuracy, "text_core/average").assign(value=lambda table: 100 * table["value"])
    estimate = compare(study, values, items=items).row("arm").cells["text_core/average"].estimate
    assert estimate is not None and estimate.with_items


def test_a_group_has_the_items_of_its_tasks_at_their_weights() -> None:
    weights = {"tasks": ["a", "both"], "weights": {"a": 3.0}}
    groups = {"average": weights, "both": {"tasks": ["a", "b"]}}
    study = made_up_study(
        ["arm"], compare={"primary": "text_core/average"}, experiment={"evaluation.tasks": ["a", "b"], "evaluation.groups": groups}
    )
    parts = {
        task: measured(study, {"baseline": 0.5, "arm": 0.5 + gain}, "text", task, "exact_match") for task, gain in (("a", 0.1), ("b", 0.3))
    }
    by_task = {task: results(part, "").set_index(["arm", "seed"])["value"] for task, part in parts.items()}
    value = 100 * (3 * by_task["a"] + (by_task["a"] + by_task["b"]) / 2) / 4
    comparison = compare(study, value.reset_index().assign(metric="text_core/average"), items=pd.concat(parts.values()))
    estimate = comparison.row("arm").cells["text_core/average"].estimate
    assert estimate is not None and estimate.with_items


def test_scales_are_known_from_items_and_without_them_from_names() -> None:
    table = pd.DataFrame({"family": ["text"], "shots": [0], "task": ["lambada"], "metric": ["perplexity"], "primary": [True]})
    found = scales(["text_core/lambada", "text_core/average", "loss/books"], table)
    assert not found["text_core/lambada"].higher_is_better and found["text_core/average"] == PERCENT and found["loss/books"] == LOSS
    named = scales(["text_core/lambada.perplexity", "text_core/lambada", "shot_0/a.no_such_metric"])
    assert named["text_core/lambada.perplexity"] == found["text_core/lambada"]
    assert named["text_core/lambada"] == named["shot_0/a.no_such_metric"] == PERCENT


def test_losses_are_shown_with_the_digits_that_they_need() -> None:
    assert (number(1.2745, LOSS), number(23.456, LOSS), number(345.67, LOSS)) == ("1.274", "23.46", "345.7")
    assert (signed(-0.0123, LOSS), signed(0.0001, LOSS), signed(-0.012), number(float("nan"), LOSS)) == ("−0.012", "0.000", "0.0", "–")

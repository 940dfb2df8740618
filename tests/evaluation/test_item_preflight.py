"""Items that cannot be asked and scores that can tell nothing are found before anything is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from config_files import pointed_at
from official_files import write_image
from task_files import RECORD, ROWS, write_evaluation, write_task

from mm1_ablate.commands.validate import validate
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem
from mm1_ablate.evaluation.preflight import unaskable_tasks
from mm1_ablate.evaluation.preflight_items import wrong_items
from mm1_ablate.plan.preflight import CHECKS

TEXT_ITEMS = {"type": "records", "folder": "data", "id": "name", "fields": {"question": "text"}, "queries": {"file": "test.jsonl"}}
GENERATE = {"kind": "generate", "items": {**TEXT_ITEMS, "references": "labels"}, "stop": ["."], "metrics": ["exact_match"]}
QUESTION = "shape : circle colour :"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    study = tmp_path / "study"
    write_evaluation(study, tasks=["miniature_vqa", "tasks/colours.yaml"], shots=[0, 8])
    return study


def told(folder: Path) -> list[FileProblem]:
    """Errors, or else warnings."""
    try:
        return list(load_study(folder / "experiment.yaml", "check", [wrong_items]).warnings)
    except FileErrors as errors:
        return list(errors.problems)


def the_problem(folder: Path) -> FileProblem:
    (problem,) = told(folder)
    assert pointed_at(problem) == "tasks/colours.yaml" and "task 'colours' (" in problem.message
    return problem


def rows(*labels: Any) -> list[dict[str, Any]]:
    return [{"name": str(number), "text": QUESTION, "labels": own} for number, own in enumerate(labels)]


def test_items_that_are_right_are_not_spoken_of(folder: Path) -> None:
    write_task(folder / "tasks")
    assert told(folder) == []
    assert wrong_items in CHECKS


def test_a_right_choice_out_of_range_is_an_error_of_the_record(folder: Path) -> None:
    write_task(folder / "tasks", rows=[{**row, "right": row["right"] + 1} for row in ROWS])  # counted from 1
    problem = the_problem(folder)
    assert not problem.warning
    assert (
        "items.queries: 2 of 4 items cannot be evaluated: no correct choice (first: 1 (2, of 2 choices), 3 (2, of 2 choices))"
        in problem.message
    )
    assert problem.message.endswith("; 'correct' counts choices from 0; exclude rows without a correct choice with 'where'")


def test_an_id_that_occurs_twice_is_an_error_of_the_record(folder: Path) -> None:
    write_task(folder / "tasks", rows=[*ROWS, ROWS[0]])
    problem = the_problem(folder)
    assert not problem.warning and "an id occurs twice (first: 0)" in problem.message
    assert problem.message.endswith(
        "; give each row an id of its own, leave 'id' out, or declare 'merge: true' if rows of one id are one item"
    )


def test_rows_without_a_reference_are_warned_of(folder: Path) -> None:
    write_task(folder / "tasks", rows=rows(["red"], [""], ["green"], []), **GENERATE)
    problem = the_problem(folder)
    assert problem.warning and "items.queries: 2 of 4 items cannot be evaluated: no reference (first: 1, 3)" in problem.message


def test_empty_prompts_are_warned_of(folder: Path) -> None:
    broken = rows(["red"], ["green"], ["blue"])
    broken[1]["text"] = " "
    write_task(folder / "tasks", rows=broken, **{**GENERATE, "prompt": "colour : {question} {answer}"})
    problem = the_problem(folder)
    assert problem.warning and "prompt: 1 (1) of 3 items have an empty question" in problem.message


def test_missing_pictures_of_questions_and_demonstrations_are_warned_of(folder: Path) -> None:
    items = {**TEXT_ITEMS, "references": "labels", "image": "pictures/{name}.png", "demonstrations": {"file": "train.jsonl"}}
    record = {**GENERATE, "family": "image", "items": items, "prompt": "{image} {question} {answer}"}
    write_task(folder / "tasks", rows=rows(["red"], ["green"], ["blue"]), **record)
    data = folder / "tasks" / "data"
    shown = [{"name": f"s{number}", "text": QUESTION, "labels": ["red"]} for number in range(40)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    for name in ["0", "2", *(f"s{number}" for number in range(39))]:
        write_image(data / "pictures" / f"{name}.png")
    questions, demonstrations = told(folder)
    assert (
        questions.warning
        and "items.queries: 1 of 3 items cannot be evaluated: image is missing (first: 1 (pictures/1.png))" in questions.message
    )
    assert (
        demonstrations.warning
        and "items.demonstrations: 1 of " in demonstrations.message
        and "s39 (pictures/s39.png)" in demonstrations.message
    )
    # What is told is told each time, by validate too.
    (data / "pictures" / "0.png").unlink()
    messages = [warning["message"] for warning in validate(folder / "experiment.yaml").warnings]
    assert any("2 of 3 items cannot be evaluated: image is missing" in message for message in messages)


@pytest.mark.parametrize(
    "content, told_so",
    [
        (b"", "no bytes (first: 1 (pictures/1.png))"),
        (b"<!DOCTYPE html><html>403", "not an image (first: 1 (pictures/1.png))"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image (first: 1 (pictures/1.png))"),
    ],
)
def test_files_that_are_no_pictures_are_warned_of_before_anything_is_trained(folder: Path, content: bytes, told_so: str) -> None:
    items = {**TEXT_ITEMS, "references": "labels", "image": "pictures/{name}.png"}
    write_task(
        folder / "tasks",
        rows=rows(["red"], ["green"], ["blue"]),
        **{**GENERATE, "family": "image", "items": items, "prompt": "{image} {question} {answer}"},
    )
    for name in ("0", "2"):
        write_image(folder / "tasks" / "data" / "pictures" / f"{name}.png")
    (folder / "tasks" / "data" / "pictures" / "1.png").write_bytes(content)
    messages = [problem.message for problem in told(folder)]
    assert any(f"items.queries: 1 of the 3 images checked cannot be read: {told_so}" in message for message in messages), messages


@pytest.mark.parametrize("metric", ["vqa_accuracy", "textvqa_accuracy", "vizwiz_accuracy"])
def test_agreement_of_annotators_with_one_reference_an_item_is_an_error(folder: Path, metric: str) -> None:
    write_task(folder / "tasks", rows=rows("red", "green", "blue"), **{**GENERATE, "metrics": [metric]})
    problem = the_problem(folder)
    assert not problem.warning
    assert problem.message.endswith(
        f"metrics: {metric} can only be 0: every item has a single reference, and it counts the agreement with other annotators; "
        "use exact_match"
    )
    write_task(folder / "tasks", rows=rows(["red"] * 4, ["blue"] * 4, "green", "blue"), **{**GENERATE, "metrics": [metric]})
    problem = the_problem(folder)
    assert problem.warning and "can only be 0 for 2 (2, 3) of 4 items: they have a single reference" in problem.message
    write_task(folder / "tasks", rows=rows(["red"] * 4, ["blue"] * 4), **{**GENERATE, "metrics": [metric]})
    assert told(folder) == []


def test_references_that_end_at_a_stop_string_at_once_are_an_error(folder: Path) -> None:
    labels = ["3.5 m", "1.2 m", "0.1 m"]
    write_task(folder / "tasks", rows=rows(*labels), **GENERATE)
    problem = the_problem(folder)
    assert not problem.warning and problem.message.endswith(
        "can only be 0: every reference holds a stop string ('.'), and an answer ends before it; declare other stop strings"
    )
    write_task(folder / "tasks", rows=rows(*labels, "red"), **GENERATE)
    assert told(folder) == []


def test_cider_over_one_item_is_an_error(folder: Path) -> None:
    for metric in ("cider_ptb", "cider_raw"):
        write_task(folder / "tasks", rows=rows(["a red ring", "one ring"]), **{**GENERATE, "metrics": [metric]})
        assert the_problem(folder).message.endswith("can only be 0: over a single item it is 0 by definition; evaluate more items")


def test_a_single_choice_is_always_right_and_that_is_an_error(folder: Path) -> None:
    write_task(folder / "tasks", rows=[{**row, "labels": ["red"], "right": 0} for row in ROWS])
    problem = the_problem(folder)
    assert not problem.warning and problem.message.endswith(
        "metrics: choice_accuracy can only be 100: every item has a single choice; give several, or use lambada_accuracy"
    )


def test_a_task_that_one_answer_solves_is_warned_of(folder: Path) -> None:
    write_task(folder / "tasks", rows=rows(["red"], ["red", "green"], ["Red"]), **GENERATE)
    problem = the_problem(folder)
    assert (
        problem.warning
        and "cannot tell models apart: the same answer to every item, 'red', has 100, the highest possible score" in problem.message
    )


def test_a_task_that_one_answer_nearly_solves_still_tells_models_apart(folder: Path) -> None:
    write_task(folder / "tasks", rows=rows(*[["red"]] * 119, ["green"]), **GENERATE)
    assert told(folder) == []


def test_items_of_which_only_likelihoods_are_measured_are_checked_too(folder: Path) -> None:
    record = {**{name: value for name, value in GENERATE.items() if name != "stop"}, "kind": "likelihood", "metrics": ["perplexity"]}
    write_task(folder / "tasks", rows=rows(["red"], ["green"], []), **record)
    problem = the_problem(folder)
    assert problem.warning and "1 of 3 items cannot be evaluated: no reference (first: 2)" in problem.message


def test_normalised_accuracy_of_prompts_that_hold_the_choice_is_refused(folder: Path) -> None:
    items = {**RECORD["items"], "references": "text"}
    write_task(folder / "tasks", items=items, prompt="{question} {choice} {answer}", metrics=["choice_accuracy"])
    assert told(folder) == []
    write_task(folder / "tasks", items=items, prompt="{question} {choice} {answer}", metrics=["choice_accuracy_normalised"])
    (problem,) = told(folder)
    assert "with {choice} in the prompt the same answer is scored after each; use choice_accuracy" in problem.message


def test_nothing_is_looked_at_where_nothing_may_be(folder: Path) -> None:
    write_task(folder / "tasks", rows=[*ROWS, ROWS[0]])
    assert load_study(folder / "experiment.yaml", "nowhere", [wrong_items, unaskable_tasks]).warnings == ()


# ---------------------------------------------------------------- to the last word
def told_in_full(folder: Path) -> list[tuple[bool, str]]:
    return [(problem.warning, problem.message.partition("): ")[2]) for problem in told(folder)]


def test_a_fault_is_told_with_the_first_three_items_and_how_many_there_are(folder: Path) -> None:
    write_task(folder / "tasks", rows=[{**ROWS[0], "name": f"r{place}", "right": -1 if place % 2 else 1} for place in range(9)])
    ((warning, message),) = told_in_full(folder)
    assert not warning and re.fullmatch(
        r"items\.queries: 4 of 9 items cannot be evaluated: no correct choice \(first: (r[1357] \(-1, of 2 choices\)(, |(?=\);))){3}\); "
        r"'correct' counts choices from 0; exclude rows without a correct choice with 'where'",
        message,
    )


def test_items_without_choices_and_with_empty_ones_are_warned_of_each_by_its_reason(folder: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"labels": []},
        {"labels": ["red", " "], "right": 0},
        {"labels": ["red", "blue"]},
        {"labels": ["a", "b"]},
    ]
    write_task(folder / "tasks", rows=[{**ROWS[place % 2], "name": f"r{place}", **changes} for place, changes in enumerate(wrong)])
    assert sorted(told_in_full(folder)) == [
        (True, "items.queries: 1 of 4 items cannot be evaluated: an empty answer to choose (first: r1)"),
        (True, "items.queries: 1 of 4 items cannot be evaluated: no choices (first: r0 (expected texts, none of them empty, found []))"),
    ]


def test_empty_fields_are_told_together_where_all_that_a_prompt_names_are_empty(folder: Path) -> None:
    items = {**TEXT_ITEMS, "fields": {"question": "text", "hint": "more"}, "references": "labels"}
    asked = [
        {"name": str(number), "text": " ", "more": "" if number else "x", "labels": ["red", "green", "blue"][number % 3 :]}
        for number in range(5)
    ]
    write_task(folder / "tasks", rows=asked, **{**GENERATE, "items": items, "prompt": "colour : {question} {hint} {question} {answer}"})
    messages = [message for warning, message in told_in_full(folder) if warning]
    assert any(re.fullmatch(r"prompt: 4 \(([1-4], ){3}\.\.\.\) of 5 items have an empty question and hint", one) for one in messages)


def test_the_items_of_a_development_split_are_told_as_such(folder: Path) -> None:
    items = {**TEXT_ITEMS, "references": "labels", "development": {"file": "test.jsonl"}}
    write_task(folder / "tasks", rows=rows(["red"], [], ["green"]), **{**GENERATE, "items": items})
    write_evaluation(folder, tasks=["tasks/colours.yaml"], shots=[0], split="development")
    assert told_in_full(folder) == [(True, "items.development: 1 of 3 items cannot be evaluated: no reference (first: 1)")]


def test_an_item_that_alone_has_several_references_is_not_what_others_are_blamed_for(folder: Path) -> None:
    write_task(folder / "tasks", rows=rows(["red"] * 4, ["blue"] * 4, "green"), **{**GENERATE, "metrics": ["vqa_accuracy"]})
    assert told(folder) == []  # one item of a single reference may be an odd one

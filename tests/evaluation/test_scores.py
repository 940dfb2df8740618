"""From predictions to the numbers of tables: what counts, what does not, and over what a mean is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas
import pytest
from toy_tasks import GENERATE, Toy, experiment_on, record, run

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item, ItemSet
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.protocols import load_task
from mm1_ablate.evaluation.requests import ContextOverflow, Need, check_context, prepare_requests
from mm1_ablate.evaluation.scores import ItemOutcome, merged, predictions_of, predictions_table, references_of, scored, summarise

NAN = math.nan


def rows(
    task: str, metric: str, scores: dict[int, list[float]], primary: bool = True, family: str = "text", shots: int = 0
) -> pandas.DataFrame:
    """Item scores by evaluation seed; NaN: the item could not be asked."""
    return pandas.DataFrame(
        {"task": task, "family": family, "shots": shots, "evaluation_seed": seed, "item": f"{task}-{place}", "metric": metric,
         "primary": primary, "problem": "truncated JPEG: x" if math.isnan(score) else "", "replaced": "", "score": score}
        for seed, own in scores.items()
        for place, score in enumerate(own)
    )  # fmt: skip


# ---------------------------------------------------------------- means
def test_a_score_is_the_mean_over_evaluation_seeds_of_what_the_metric_makes_of_each() -> None:
    """Perplexity is no mean of items: of 2 and 8 it is 5, not the 4 of all items together."""
    table = rows("books", "perplexity", {0: [math.log(2)] * 3, 1: [math.log(8)] * 3}, primary=False)
    assert summarise(table)["text_core/books.perplexity"] == pytest.approx(5)
    # A seed of which fewer items could be asked counts as much as another.
    uneven = rows("facts", "exact_match", {0: [1, 1, 0, 0], 1: [1, NAN, NAN, NAN]})
    assert summarise(uneven)["text_core/facts"] == pytest.approx(75)


def test_items_that_could_not_be_asked_count_neither_as_right_nor_as_wrong() -> None:
    table = rows("facts", "exact_match", {0: [1, NAN, 0, 1]})
    assert summarise(table)["text_core/facts"] == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="task facts at 0 shots: no item has a score under exact_match: truncated JPEG: x"):
        summarise(rows("facts", "exact_match", {0: [NAN, NAN]}))


def test_averages_are_of_primary_metrics_in_percent_alone_at_each_number_of_shots_apart() -> None:
    tables = [
        rows("facts", "exact_match", {0: [1, 0]}),
        rows("facts", "alias_match", {0: [1, 1]}, primary=False),
        rows("books", "perplexity", {0: [9.0, 9.0]}),
        rows("vqa", "exact_match", {0: [1, 1]}, family="image"),
        rows("vqa", "exact_match", {0: [0, 1]}, family="image", shots=4),
        rows("more", "exact_match", {0: [0, 0]}, family="image", shots=4),
    ]
    found = summarise(pandas.concat(tables))
    assert found["text_core/books"] == pytest.approx(math.exp(9)) and found["text_core/facts.alias_match"] == 100
    assert {name: score for name, score in found.items() if name.endswith("/average")} == {
        "text_core/average": 50, "shot_0/average": 100, "shot_4/average": 25,
    }  # fmt: skip


def test_weights_of_groups_inside_groups_count() -> None:
    groups = {"inner": {"tasks": ["a", "b"]}, "outer": {"tasks": ["inner", "c"], "weights": {"inner": 3}}}
    evaluation = Evaluation.model_validate({"tasks": ["a", "b", "c"], "groups": groups})
    table = pandas.concat([rows(task, "exact_match", {0: [score]}) for task, score in (("a", 0.2), ("b", 0.6), ("c", 1.0))])
    assert summarise(table, evaluation.groups)["text_core/outer"] == pytest.approx((3 * 40 + 100) / 4)


# ---------------------------------------------------------------- predictions and their scores
def predictions(task: Task, said: list[str | None], *references: tuple[str, ...], **more: Any) -> pandas.DataFrame:
    return predictions_table(
        task,
        [
            ItemOutcome(0, more.get("seed", 0), place, f"q{place}", "", "", 0, "", "", "" if text is not None else "no image: q",
                  None if text is None else Prediction(f"q{place}", text, own))
            for place, (text, own) in enumerate(zip(said, references, strict=True))
        ],
    )  # fmt: skip


def test_scores_stand_beside_the_items_that_they_are_of(tmp_path) -> None:
    """Unasked items in between shift nothing."""
    task = load_task(record(tmp_path, GENERATE))
    table = predictions(task, [None, "red", None, "blue", "red"], ("a",), ("red",), ("red",), ("red",), ("green", "red"))
    found = scored(table, [task], Evaluation(tasks=["x.yaml"])).set_index("item")
    assert found["score"].isna().to_dict() == {"q0": True, "q1": False, "q2": True, "q3": False, "q4": False}
    assert found["score"].dropna().to_dict() == {"q1": 1, "q3": 0, "q4": 1}
    assert found["prediction"].to_dict() == {"q0": "", "q1": "red", "q2": "", "q3": "blue", "q4": "red"}
    assert references_of(found.loc["q4", "reference"]) == ("green", "red") and references_of(found.loc["q1", "reference"]) == ("red",)
    assert [one.references for one in predictions_of(table[table["problem"] == ""])] == [("red",), ("red",), ("green", "red")]


def test_the_parts_of_several_processes_join_in_the_order_of_tasks_shots_seeds_and_items(tmp_path) -> None:
    tasks = [load_task(record(tmp_path, {**GENERATE, "task": name})) for name in ("z", "a")]
    parts = [
        predictions_table(task, [ItemOutcome(shots, seed, place, f"{place}", "", "", 0, "", "", "", Prediction(f"{place}", "", ("a",)))])
        for place in (10, 2)
        for seed in (5, 1)
        for shots in (8, 0)
        for task in tasks[::-1]
    ]
    found = merged(parts, tasks)
    assert found[["task", "shots", "evaluation_seed", "place"]].apply(tuple, axis=1).tolist() == [
        (task, shots, seed, place) for task in "za" for shots in (0, 8) for seed in (1, 5) for place in (2, 10)
    ]


OPENED: list[tuple[str, int | None, int]] = []


class Noting(Toy):
    """Says what it was asked for; captions of the whole split differ from those that are asked."""

    type: str = f"{__name__}.Noting"

    def open(self, split: str, count: int | None, seed: int) -> ItemSet:
        OPENED.append((split, count, seed))
        items = super().open(split, count, seed)
        captions = [f"a {colour} circle" for colour in ("red", "blue", "green", "small", "large")]
        own = [Item(one.id, one.group, one.image, one.fields, (captions[place % 5],)) for place, one in enumerate(items.queries)]
        return ItemSet(own, items.demonstrations)


@pytest.mark.parametrize("split", ["report", "development"])
def test_items_and_the_references_of_their_split_are_opened_as_declared(model, tokenizer, tmp_path, split) -> None:
    fields = {**GENERATE, "items": {"type": f"{__name__}.Noting"}, "metrics": [{"type": "cider_raw", "frequency": "split"}]}
    OPENED.clear()
    run(model, experiment_on([record(tmp_path, fields)], shots=[0], split=split, seed=3, items=4), tokenizer)
    assert set(OPENED) == {(split, 4, 3), (split, None, 3)}


def test_items_of_a_task_are_as_many_as_its_override_says(tokenizer, tmp_path) -> None:
    path = record(tmp_path, {**GENERATE, "items": {"type": f"{__name__}.Noting"}})
    OPENED.clear()
    evaluation = experiment_on([path], items=4, overrides={"toy": {"items": 2}}, seed=8).evaluation
    assert len({one.item.id for one in prepare_requests(load_task(path), evaluation, tokenizer).requests}) == 2
    assert OPENED == [("report", 2, 8)]


# ---------------------------------------------------------------- questions
def test_demonstrations_are_of_the_questions_own_group(tokenizer, tmp_path) -> None:
    path = record(tmp_path, GENERATE)
    for policy in ("per_task", "per_query", {"sets": 2}):
        prepared = prepare_requests(load_task(path), experiment_on([path], demonstrations=policy, items=12).evaluation, tokenizer)
        assert {one.item.group for one in prepared.requests} == {"a", "b"}
        for one in prepared.requests:
            assert [other.group for other in one.solved] == [one.item.group] * 3


def test_without_images_is_at_no_shots_alone(tokenizer, tmp_path) -> None:
    path = record(tmp_path, GENERATE)
    evaluation = experiment_on([path], zero_shot={"text_only": 2}, shots=[0, 1, 3]).evaluation
    for one in prepare_requests(load_task(path), evaluation, tokenizer).requests:
        images = {shots: [len(part.images) for part in one.before(shots)] for shots in (0, 1, 3)}
        assert images == {0: [0, 0], 1: [1], 3: [1, 1, 1]}
        assert [len(one.set_at(shots)) for shots in (0, 1, 3)] == [2, 1, 3]


def test_a_text_task_is_asked_without_demonstrations_at_whatever_shots_image_tasks_are(tokenizer, tmp_path) -> None:
    path = record(tmp_path, {**GENERATE, "family": "text", "prompt": "{q} -> {answer}"})
    prepared = prepare_requests(load_task(path), experiment_on([path], shots=[3, 1], seeds=[0, 5]).evaluation, tokenizer)
    assert prepared.shots == (0,) and len(prepared.requests) == 9
    assert all(prepared.shots_of(one) == (0,) and one.before(0) == () and one.set_at(0) == () for one in prepared.requests)


def test_a_prompt_fits_where_it_and_its_answer_fill_the_context_to_the_last_token() -> None:
    needed = [Need(4, 5, 30, 6)]
    check_context("t", needed, 7, 30 + 5 * 7 + 6)
    with pytest.raises(ContextOverflow, match=r"task t at 4 shots needs 71 tokens of context \(65 of prompt"):
        check_context("t", needed, 7, 70)


def test_the_longest_choice_is_what_a_question_needs(tokenizer, tmp_path) -> None:
    from mm1_ablate.evaluation.requests import needs

    path = record(tmp_path, {**GENERATE, "kind": "choose", "metrics": ["choice_accuracy"]})
    prepared = prepare_requests(load_task(path), experiment_on([path], shots=[0]).evaluation, tokenizer)
    (need,) = needs(prepared)
    whole = [sum(part.text_tokens for part in one.prompts) + max(map(len, one.choices)) for one in prepared.requests]
    assert need.text_tokens + need.answer_tokens == max(whole) and need.images == 1
    assert len({len(choice) for one in prepared.requests for choice in one.choices}) > 1 and np.ptp(whole) > 0

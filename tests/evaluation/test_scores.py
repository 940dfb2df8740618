"""From predictions to the numbers of tables: what counts, what does not, and over what a mean is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas
import pytest
from toy_tasks import GENERATE, Toy, experiment_on, record, run

from mm1_ablate.config.evaluation import Evaluation, TaskGroup
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item, ItemSet
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.protocols import load_task
from mm1_ablate.evaluation.requests import ContextOverflow, Need, check_context, prepare_requests
from mm1_ablate.evaluation.scores import (
    COLUMNS,
    LOSS_COLUMNS,
    ItemOutcome,
    group_mean,
    item_scores,
    loss_items,
    merged,
    predictions_of,
    predictions_table,
    references_of,
    scored,
    summarise,
)

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


# ---------------------------------------------------------------- tables
def test_a_row_of_predictions_holds_all_that_came_of_an_item(tmp_path) -> None:
    task = load_task(record(tmp_path, GENERATE))
    own = Prediction("q", "red", ("red", "dark red"), ("red", "blue"), 1, (-0.5, -1.5), (True, False), (1, 2), (3, 4), (-0.7,))
    outcomes = [
        ItemOutcome(8, 5, 3, "q", "b", "d1 d2", 2, "no image: d3", "<image> what", "", own),
        ItemOutcome(0, 5, 4, "r", "a", "", 0, "", "", "no image: r", None),
    ]
    first, second = predictions_table(task, outcomes).to_dict("records")
    assert first == {
        "task": "toy", "family": "image", "shots": 8, "evaluation_seed": 5, "place": 3, "item": "q", "group": "b",
        "demonstration_set": "d1 d2", "set_number": 2, "replaced": "no image: d3", "prompt": "<image> what", "problem": "",
        "prediction": "red", "correct": 1, "references": '["red", "dark red"]', "choices": '["red", "blue"]',
        "log_likelihoods": "[-0.5, -1.5]", "greedy": "[true, false]", "token_counts": "[1, 2]", "byte_counts": "[3, 4]",
        "reference_log_likelihoods": "[-0.7]",
    }  # fmt: skip
    assert (second["problem"], second["prediction"], second["references"]) == ("no image: r", "", "[]") and pandas.isna(second["correct"])
    table = predictions_table(task, outcomes[:1])
    assert predictions_of(table) == [own]
    older = predictions_of(table.drop(columns=["greedy", "byte_counts", "reference_log_likelihoods"]))
    assert older == [Prediction("q", "red", ("red", "dark red"), ("red", "blue"), 1, (-0.5, -1.5), (), (1, 2), ())]


def test_item_scores_of_choices_show_the_right_one_and_what_each_metric_chose(tmp_path) -> None:
    fields = {**GENERATE, "kind": "choose", "metrics": ["choice_accuracy", "choice_accuracy_normalised"]}
    task = load_task(record(tmp_path, fields))
    own = Prediction("q", "red", (), ("red", "purple"), 1, (-2.0, -3.0))
    table = predictions_table(
        task, [ItemOutcome(0, 0, 0, "q", "a", "", 0, "", "", "", own), ItemOutcome(0, 0, 1, "r", "a", "", 0, "", "", "x", None)]
    )
    found = scored(table, [task], Evaluation(tasks=["x.yaml"]))
    columns = ["item", "metric", "primary", "prediction", "log_likelihoods", "reference", "correct"]
    assert found[columns].fillna(-1).apply(tuple, axis=1).tolist() == [
        ("q", "choice_accuracy", True, "red", "[-2.0, -3.0]", "purple", 1),
        ("r", "choice_accuracy", True, "", "", "", -1),
        ("q", "choice_accuracy_normalised", False, "purple", "[-2.0, -3.0]", "purple", 1),
        ("r", "choice_accuracy_normalised", False, "", "", "", -1),
    ]
    assert found["score"].fillna(-1).tolist() == [0, -1, 1, -1]


@pytest.mark.parametrize(
    ("written", "references"),
    [
        ("red", ("red",)),
        ('["red", "blue"]', ("red", "blue")),
        ("[]", ()),
        ('["red"]', ('["red"]',)),  # the only reference is written as it is
        ("[sic", ("[sic",)),
        ("[1, 2]", ("1", "2")),
    ],
)
def test_references_are_read_from_the_column_as_they_were_written(written: str, references: tuple[str, ...]) -> None:
    assert references_of(written) == references


# ---------------------------------------------------------------- held-out documents
def documents(*rows: tuple[Any, ...]) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=LOSS_COLUMNS)


MEASURED = documents(
    ("b", 7, "second", "text", 4.0, 3, math.log(2) * 4, 4, ""),
    ("b", 2, "first", "captioned", 2.0, 1, math.log(2) * 8, 2, ""),
    ("b", 5, "bad", "text", 0.0, 0, 0.0, 0, "no row"),
    ("a", 0, "silent", "captioned", 3.0, 2, 0.0, 0, ""),
)


def test_scores_of_documents_are_their_sums_over_the_mean_length() -> None:
    """2 and 4 nats over 2 tokens on average; 8 and 4 bits over 3 bytes. A document without text has no bits per byte."""
    found = loss_items(MEASURED, 9)
    columns = ["task", "family", "shots", "evaluation_seed", "item", "group", "problem", "metric", "primary"]
    assert found[columns].apply(tuple, axis=1).tolist() == [
        *(
            ("b", "loss", 0, 9, document, data_type, problem, metric, True)
            for metric in ("loss", "bits_per_byte")
            for document, data_type, problem in (("first", "captioned", ""), ("bad", "text", "no row"), ("second", "text", ""))
        ),
        ("a", "loss", 0, 9, "silent", "captioned", "", "loss", True),
    ]
    assert found["score"].fillna(-1).tolist() == pytest.approx([1, -1, 2, 8 / 3, -1, 4 / 3, 1.5])
    assert summarise(found) == pytest.approx({"loss/b": 6 / 4, "bits_per_byte/b": 12 / 6, "loss/a": 1.5})


def test_documents_of_which_none_could_be_read_are_an_error_that_says_why() -> None:
    bad = documents(*(("b", place, "d", "text", 0.0, 0, 0.0, 0, problem) for place, problem in enumerate("xxyzw")))
    with pytest.raises(ValueError, match=r"^evaluation\.losses\.b: no document could be read: x; y; z$"):
        loss_items(bad, 0)


def test_documents_stand_behind_the_items_in_the_same_columns(tmp_path) -> None:
    task = load_task(record(tmp_path, GENERATE))
    table = predictions(task, ["red"], ("red",))
    evaluation = Evaluation(tasks=["x.yaml"], seeds=[4, 3])
    found = item_scores(table, MEASURED[:2], [task], evaluation)
    assert list(found.columns) == COLUMNS and found["family"].tolist() == ["image"] + ["loss"] * 4
    assert found["evaluation_seed"].tolist() == [0, 4, 4, 4, 4] and found["set_number"].tolist() == [0] * 5
    texts = ["demonstration_set", "replaced", "prompt", "prediction", "log_likelihoods", "reference"]
    assert (found.loc[1:, texts] == "").all().all() and found["set_number"].dtype == int and found.loc[1:, "correct"].isna().all()
    without = item_scores(table, pandas.DataFrame(), [task], evaluation)
    pandas.testing.assert_frame_equal(without, found[:1], check_dtype=False)


# ---------------------------------------------------------------- groups and messages
def test_a_mean_over_a_group_weighs_the_members_that_are_there() -> None:
    groups = {
        "inner": TaskGroup(tasks=["a", "b"], weights={"b": 3}),
        "outer": TaskGroup(tasks=["inner", "c", "gone"], weights={"inner": 2, "gone": 5}),
        "elsewhere": TaskGroup(tasks=["gone"]),
    }
    assert group_mean("inner", groups, {"a": 1.0, "b": 5.0}) == 4
    assert group_mean("outer", groups, {"a": 1.0, "b": 5.0, "c": 10.0}) == 6
    assert group_mean("outer", groups, {"c": 10.0}) == 10
    assert group_mean("elsewhere", groups, {"a": 1.0}) is None
    arrays = group_mean("inner", groups, {"a": np.array([1.0, 2.0]), "b": np.array([5.0, 6.0])})
    assert arrays is not None and arrays.tolist() == [4, 5]


def test_scores_that_are_none_are_an_error_that_says_why() -> None:
    table = rows("facts", "exact_match", {0: [NAN] * 5}, family="image", shots=8)
    table["problem"] = ["x", "x", "y", "z", "w"]
    with pytest.raises(ValueError, match=r"^task facts at 8 shots: no item has a score under exact_match: x; y; z$"):
        summarise(table)
    table["problem"] = ""
    expected = r"under exact_match: none has a reference, or the model's results are not numbers$"
    with pytest.raises(ValueError, match=expected):
        summarise(table)


# ---------------------------------------------------------------- what prompts take
def test_what_longest_prompts_take_is_told_for_each_number_of_shots_and_images(tokenizer, tmp_path) -> None:
    """Demonstrations and questions of words that are a token each: '-> ', the words, and ' |' of demonstrations."""
    from mm1_ablate.evaluation.requests import needs

    path = record(tmp_path, GENERATE)
    prepared = prepare_requests(load_task(path), experiment_on([path], shots=[0, 2], items=6).evaluation, tokenizer)
    asked = [len(one.item.fields["q"].split()) + 1 for one in prepared.requests]
    shown_before = [sum(len(f"{d.fields['q']} {d.references[0]}".split()) + 2 for d in one.solved) for one in prepared.requests]
    assert needs(prepared) == [
        Need(0, 1, max(asked), 5),
        Need(2, 3, max(own + before for own, before in zip(asked, shown_before, strict=True)), 5),
    ]


def test_a_prompt_that_does_not_fit_is_told_with_what_it_takes() -> None:
    with pytest.raises(ContextOverflow) as error:
        check_context("t", [Need(0, 1, 3, 2), Need(4, 5, 30, 6), Need(8, 9, 300, 6)], 7, 70)
    assert str(error.value) == (
        "evaluation: task t at 4 shots needs 71 tokens of context (65 of prompt, where an image takes 7, and 6 of answer), and the "
        "language model has 70; use fewer shots or image tokens, or a longer context"
    )

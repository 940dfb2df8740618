"""What can be said of a protocol, and what comes of it: demonstrations, evaluation seeds, presets, overrides, averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import TEXT, tiny_experiment
from toy_tasks import (
    GENERATE,
    Toy,
    demonstrations_of,
    experiment_on,
    plain_generation,
    record,
    run,
    toy,
)

from mm1_ablate.config.evaluation import Evaluation, Sets
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import canonical
from mm1_ablate.config.paths import plain
from mm1_ablate.config.sweep.compare import metric_problem
from mm1_ablate.config.sweep.overrides import Edit, altered
from mm1_ablate.data.documents import Image, Item
from mm1_ablate.evaluation.demonstrations import assigned_sets, demonstrations
from mm1_ablate.evaluation.protocols import as_asked, load_task, load_tasks
from mm1_ablate.evaluation.scores import ids_in_line, ids_of_line, summarise


# ---------------------------------------------------------------- demonstrations
@settings(deadline=None)
@given(queries=st.integers(1, 60), sets=st.integers(1, 7), seed=st.integers(0, 99))
def test_queries_are_dealt_to_sets_in_equal_numbers(queries: int, sets: int, seed: int) -> None:
    items = [Item(f"q{number}", "g", None, {}, ("a",)) for number in range(queries)]
    numbers = assigned_sets(items, Sets(sets=sets), seed, "t")
    assert numbers == assigned_sets(items, Sets(sets=sets), seed, "t")
    if queries > 20 and sets > 2:
        assert numbers != assigned_sets(items, Sets(sets=sets), seed + 1, "t") and numbers != assigned_sets(
            items, Sets(sets=sets), seed, "u"
        )
    counts = [numbers.count(number) for number in range(sets)]
    assert max(counts) - min(counts) <= 1


@given(written=st.lists(st.text(min_size=1)))
def test_ids_with_spaces_in_them_are_found_again_in_a_line_of_ids(written: list[str]) -> None:
    assert list(ids_of_line(ids_in_line(written))) == written


def test_sets_are_nested_shared_and_different() -> None:
    pool = [Item(f"d{number}", "g", None, {}, ("a",)) for number in range(30)]
    query = Item("q", "g", None, {}, ("a",))

    def drawn(shots: int, number: int, sets: int = 3) -> tuple[Item, ...]:
        return demonstrations(query, pool, shots, 0, "t", Sets(sets=sets), number)

    assert drawn(8, 1)[:4] == drawn(4, 1)
    assert len({tuple(item.id for item in drawn(8, number)) for number in range(3)}) == 3
    assert drawn(8, 1, sets=9) == drawn(8, 1)  # more sets leave those that there are alone


def test_each_query_is_asked_after_the_set_that_it_was_dealt(model, tokenizer, tmp_path) -> None:
    table = run(model, experiment_on([record(tmp_path, GENERATE)], demonstrations={"sets": 2}, items=12), tokenizer)
    three, group = demonstrations_of(table, 3), table.set_index("item")["group"].to_dict()
    own = table[table["shots"] == 3]
    for item, number in zip(own["item"], own["set_number"], strict=True):
        alike = {
            tuple(three[other])
            for other, of in zip(own["item"], own["set_number"], strict=True)
            if of == number and group[other] == group[item]
        }
        assert len(alike) == 1
    assert len({tuple(shown) for shown in three.values()}) == 4  # two groups, two sets each


# ---------------------------------------------------------------- evaluation seeds
def test_each_evaluation_seed_draws_other_demonstrations_for_the_same_items(model, tokenizer, tmp_path) -> None:
    path = record(tmp_path, GENERATE)
    both = run(model, experiment_on([path], seeds=[0, 5]), tokenizer)
    assert both.groupby(["shots", "evaluation_seed"]).size().unique().tolist() == [9]
    alone = {seed: run(model, experiment_on([path], seeds=[seed]), tokenizer) for seed in (0, 5)}
    for seed, table in alone.items():
        own = both[both["evaluation_seed"] == seed].reset_index(drop=True)
        pandas.testing.assert_frame_equal(own, table)
    assert alone[0].query("shots == 3")["demonstration_set"].tolist() != alone[5].query("shots == 3")["demonstration_set"].tolist()
    assert alone[0].query("shots == 0")["prediction"].tolist() == alone[5].query("shots == 0")["prediction"].tolist()
    means = [summarise(table)["shot_3/toy"] for table in alone.values()]
    assert summarise(both)["shot_3/toy"] == pytest.approx(np.mean(means))


def test_true_zero_shot_is_asked_once_for_all_evaluation_seeds(model, tokenizer, tmp_path, monkeypatch) -> None:
    from mm1_ablate.evaluation import evaluate as module

    asked: list[int] = []
    generate = module.generate
    monkeypatch.setattr(module, "generate", lambda *given: asked.append(len(given[4])) or generate(*given))
    run(model, experiment_on([record(tmp_path, GENERATE)], seeds=[0, 1, 2], shots=[0, 1]), tokenizer)
    assert sum(asked) == 9 + 3 * 9


# ---------------------------------------------------------------- tasks that need demonstrations
def test_a_task_is_asked_from_its_fewest_shots_on_and_averages_are_over_the_others_below(model, tokenizer, tmp_path) -> None:
    shown = record(tmp_path, GENERATE | {"task": "shown", "fewest_shots": 1})
    usual = record(tmp_path, GENERATE | {"task": "usual"})
    groups = {"both": {"tasks": ["shown", "usual"]}, "alone": {"tasks": ["shown"]}}
    experiment = experiment_on([shown, usual], shots=[0, 1], groups=groups, seeds=[0, 3])
    asked = run(model, experiment, tokenizer)
    assert set(zip(asked["task"], asked["shots"], strict=True)) == {("shown", 1), ("usual", 0), ("usual", 1)}
    scores = summarise(asked, experiment.evaluation.groups)
    assert scores["shot_0/average"] == scores["shot_0/both"] == scores["shot_0/usual"]
    assert scores["shot_1/average"] == scores["shot_1/both"] == pytest.approx((scores["shot_1/usual"] + scores["shot_1/shown"]) / 2)
    assert not {"shot_0/shown", "shot_0/alone"} & scores.keys()
    alone = run(model, experiment_on([record(tmp_path, GENERATE | {"task": "shown"})], shots=[0, 1], seeds=[0, 3]), tokenizer)
    own = asked.query("task == 'shown'").reset_index(drop=True)
    pandas.testing.assert_frame_equal(own, alone.query("shots == 1").reset_index(drop=True))

    evaluation = experiment.evaluation
    for name in ("shot_0/average", "shot_0/both", "shot_0/usual", "shot_1/shown", "shot_1/alone"):
        assert metric_problem(name, evaluation) is None
    for name in ("shown", "alone"):
        message, hint = metric_problem(f"shot_0/{name}", evaluation) or ("", "")
        assert message == f"'shot_0/{name}' is not evaluated: '{name}' is asked from 1 shots on" and "1 shots or more" in hint


# ---------------------------------------------------------------- OpenFlamingo
def test_the_preset_is_openflamingos_protocol_where_nothing_else_is_written() -> None:
    preset = Evaluation(tasks=["miniature_vqa"], protocol="openflamingo")
    assert preset.demonstrations == "per_query" and preset.zero_shot and preset.zero_shot.text_only == 2
    written = Evaluation(tasks=["miniature_vqa"], protocol="openflamingo", demonstrations="per_task", zero_shot=None)
    assert written.demonstrations == "per_task" and written.zero_shot is None
    assert canonical(preset) != canonical(written)
    assert canonical(Evaluation(tasks=["miniature_vqa"], protocol="mm1", demonstrations="per_task")) == {"tasks": ["miniature_vqa"]}


def test_altering_the_protocol_alters_all_that_it_says() -> None:
    tree = plain(tiny_experiment())
    arm = Experiment.model_validate(altered(tree, [Edit("evaluation.protocol", "openflamingo")]).tree)
    assert arm.evaluation.demonstrations == "per_query"
    back = Experiment.model_validate(altered(plain(arm), [Edit("evaluation.protocol", "mm1")]).tree)
    assert back.evaluation.demonstrations == "per_task" and canonical(back.evaluation) == canonical(tiny_experiment().evaluation)


def test_openflamingos_prompts_are_those_of_its_evaluation_code() -> None:
    evaluation = Evaluation(tasks=["miniature_vqa"], protocol="openflamingo")
    asked = as_asked(load_task("miniature_vqa"), evaluation)
    assert asked.prompt + asked.separator == "{image}Question:{question} Short answer:{answer}<|endofchunk|>"
    assert asked.stop[:4] == ["Question", "Answer", "Short", ", "] and asked.max_new_tokens == 5
    described = as_asked(load_task("miniature_captions"), evaluation)
    assert described.prompt + described.separator == "{image}Output:{answer}<|endofchunk|>"
    assert as_asked(load_task("miniature_facts"), evaluation) == load_task("miniature_facts")


def test_a_record_can_say_how_it_is_asked_under_a_protocol(tmp_path) -> None:
    wording = {"protocols": {"openflamingo": {"prompt": "{image} Q {q} A {answer}", "stop": ["Q"]}}}
    task = load_task(record(tmp_path, {**GENERATE, **wording}))
    asked = as_asked(task, Evaluation(tasks=["x.yaml"], protocol="openflamingo"))
    assert (asked.prompt, asked.stop, asked.separator) == ("{image} Q {q} A {answer}", ["Q"], " |")


def test_zero_shot_can_have_demonstrations_without_their_images(model, tokenizer, tmp_path) -> None:
    path = record(tmp_path, toy(corrupt=["d0", "d1", "d2", "d3"]))
    experiment = experiment_on([path], zero_shot={"text_only": 2}, demonstrations="per_query", shots=[0])
    table = run(model, experiment, tokenizer).set_index("item")
    assert not table["replaced"].any()  # pictures that nobody sees need not be readable
    items = Toy().open("report", None, 0)
    by_id = {item.id: item for item in items.demonstrations}
    shown = {"d0", "d1", "d2", "d3"} & {name for names in table["demonstration_set"] for name in names.split()}
    assert shown and len(set(table["demonstration_set"])) > 2
    for query in items.queries:
        solved = [by_id[name] for name in table.loc[query.id, "demonstration_set"].split()]
        assert len(solved) == 2
        texts: list[str | Image] = [f"{other.fields['q']} -> {other.references[0]} |" for other in solved]
        assert query.image
        parts = [*texts, query.image, f"{query.fields['q']} ->"]
        assert table.loc[query.id, "prediction"] == plain_generation(model, tokenizer, parts, 5)


# ---------------------------------------------------------------- overrides
def test_prompts_stops_limits_and_items_are_settings(model, tokenizer, tmp_path) -> None:
    path = record(tmp_path, GENERATE)
    free = run(model, experiment_on([path]), tokenizer)
    word = free["prediction"].str.split().explode().mode()[0]
    override = {"max_new_tokens": 2, "stop": [word], "items": 4}
    table = run(model, experiment_on([path], overrides={"toy": override}), tokenizer)
    assert table.groupby("shots").size().unique().tolist() == [4]
    first = free[free["item"].isin(table["item"])]["prediction"]
    assert table["prediction"].tolist() == [" ".join(text.split()[:2]).split(word)[0].strip() for text in first]
    prompt = experiment_on([path], overrides={"toy": {"prompt": "{image} what {q} -> {answer}"}})
    assert set(run(model, prompt, tokenizer)["prompt"].str.startswith("<image> what")) == {True}


def test_an_override_is_part_of_what_is_evaluated_and_can_be_swept() -> None:
    tree = plain(tiny_experiment())
    edit = Edit("evaluation.overrides.miniature_vqa", {"max_new_tokens": 7})
    arm = Experiment.model_validate(altered(tree, [edit]).tree)
    assert canonical(arm.evaluation)["overrides"] == {"miniature_vqa": {"max_new_tokens": 7}}
    assert as_asked(load_task("miniature_vqa"), arm.evaluation).max_new_tokens == 7
    further = Experiment.model_validate(altered(plain(arm), [Edit("evaluation.overrides.miniature_vqa.max_new_tokens", 8)]).tree)
    assert as_asked(load_task("miniature_vqa"), further.evaluation).max_new_tokens == 8


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"overrides": {"miniature_vqq": {}}}, "overrides.miniature_vqq: 'miniature_vqq' is not evaluated"),
        ({"groups": {"a": {"tasks": ["b"]}}}, "groups.a.tasks: 'b' is neither an evaluated task nor a group"),
        ({"groups": {"a": {"tasks": ["b"]}, "b": {"tasks": ["a"]}}}, "contains itself"),
        ({"groups": {"miniature_vqa": {"tasks": ["miniature_vqa"]}}}, "a task has this name"),
        ({"groups": {"a": {"tasks": ["miniature_vqa"], "weights": {"x": 1}}}}, "weights.x"),
        ({"demonstrations": {"sets": 0}}, "sets"),
        ({"demonstrations": "per_group"}, "per_task"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "without duplicates"),
        ({"zero_shot": {"text_only": 0}}, "text_only"),
        ({"protocol": "flamingo"}, "openflamingo"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Evaluation.model_validate({"tasks": ["miniature_vqa"], **fields})


def test_names_inside_records_of_ones_own_are_checked_when_they_are_read(tmp_path) -> None:
    path = record(tmp_path, GENERATE)
    assert [task.task for task in load_tasks(Evaluation(tasks=[path], overrides={"toy": {"items": 2}}))] == ["toy"]
    with pytest.raises(ValueError, match=r"evaluation.overrides.tay: 'tay' is not evaluated; the tasks are toy"):
        load_tasks(Evaluation.model_validate({"tasks": [path], "overrides": {"tay": {}}}))
    with pytest.raises(ValueError, match="same name: toy, toy"):
        load_tasks(Evaluation(tasks=[path, record(tmp_path, GENERATE)]))


# ---------------------------------------------------------------- averages
def score_table(**means: float) -> pandas.DataFrame:
    """Two items of each task: captions a and b, questions c and d, and a text task t."""
    rows = [
        {
            "task": task, "family": "text" if task == "t" else "image", "shots": 0 if task == "t" else 8, "evaluation_seed": 0,
            "item": item, "problem": "", "replaced": "",
            "metric": "cider_raw" if task in "ab" else "choice_accuracy" if task == "t" else "exact_match",
            "primary": True, "score": mean + item,
        }
        for task, mean in means.items()
        for item in (-0.1, 0.1)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def test_groups_average_declared_tasks_and_groups_of_groups() -> None:
    groups = {
        "captions": {"tasks": ["a", "b"]},
        "answers": {"tasks": ["c", "d"], "weights": {"d": 3}},
        "average": {"tasks": ["captions", "answers"]},
        "texts": {"tasks": ["t"]},
    }
    evaluation = Evaluation.model_validate({"tasks": ["a", "b", "c", "d", "t"], "groups": groups})
    scores = summarise(score_table(a=1.0, b=0.8, c=0.2, d=0.6, t=0.3), evaluation.groups)
    assert scores["shot_8/captions"] == pytest.approx(90)
    assert scores["shot_8/answers"] == pytest.approx((20 + 3 * 60) / 4)
    assert scores["shot_8/average"] == pytest.approx((90 + 50) / 2)
    assert scores["text_core/texts"] == scores["text_core/average"] == pytest.approx(30)
    assert not {"text_core/captions", "shot_8/texts"} & set(scores)
    assert summarise(score_table(a=1.0, b=0.8, c=0.2, d=0.6))["shot_8/average"] == pytest.approx(65)  # MM1: every task alike


def test_groups_and_losses_can_be_compared_by_name() -> None:
    declared = {"tasks": ["miniature_vqa"], "groups": {"questions": {"tasks": ["miniature_vqa"]}}, "losses": {"text": {"source": TEXT}}}
    evaluation = Evaluation.model_validate(declared)
    for name in ("shot_8/questions", "shot_8/average", "loss/text", "bits_per_byte/text"):
        assert metric_problem(name, evaluation) is None
    assert metric_problem("shot_8/question", evaluation) == (
        "'shot_8/question' is not evaluated: 'question' is not one of average, miniature_vqa, questions",
        "did you mean 'questions'?",
    )
    wrong = metric_problem("loss/texts", evaluation)
    assert wrong == ("'loss/texts' is not measured: evaluation.losses has text", "did you mean 'text'?")

"""What can be said of a protocol, and what comes of it: demonstrations, seeds, presets, averages, bad items, processes, held-out loss."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import TEXT, tiny_experiment
from toy_tasks import (
    CHOOSE,
    CONFIGURATION,
    GENERATE,
    Toy,
    experiment_on,
    plain_generation,
    plain_log_likelihood,
    random_model,
    record,
    run,
    toy,
    word_tokenizer,
)

from mm1_ablate.data.documents import Image, Item
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.packing import tokenise
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.demonstrations import dealt, demonstrations
from mm1_ablate.evaluation.evaluate import coverage, merged, predict, prepare, scored, summarise
from mm1_ablate.evaluation.fit_check import ContextOverflow, check_fits, context_needs
from mm1_ablate.evaluation.protocols import as_asked, load_tasks
from mm1_ablate.evaluation.scores import ids_in_line, ids_of_line
from mm1_ablate.evaluation.task import Task, load_task
from mm1_ablate.model.multimodal import MultimodalModel
from mm1_ablate.spec.alteration import Edit, altered
from mm1_ablate.spec.claims import metric_problem
from mm1_ablate.spec.evaluation import Sets
from mm1_ablate.spec.experiment import Evaluation, Experiment
from mm1_ablate.spec.fingerprint import canonical
from mm1_ablate.spec.paths import plain


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return word_tokenizer()


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    return random_model()


def ids(table: pandas.DataFrame, shots: int) -> dict[str, list[str]]:
    own = table[(table["shots"] == shots) & table["primary"]]
    return {item: text.split() for item, text in zip(own["item"], own["demonstration_set"], strict=True)}


# ---------------------------------------------------------------- demonstrations
@settings(deadline=None)
@given(queries=st.integers(1, 60), sets=st.integers(1, 7), seed=st.integers(0, 99))
def test_queries_are_dealt_to_sets_in_equal_numbers(queries: int, sets: int, seed: int) -> None:
    items = [Item(f"q{number}", "g", None, {}, ("a",)) for number in range(queries)]
    numbers = dealt(items, Sets(sets=sets), seed, "t")
    assert numbers == dealt(items, Sets(sets=sets), seed, "t")
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
    three, group = ids(table, 3), table.set_index("item")["group"].to_dict()
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
    monkeypatch.setattr(module, "generate", lambda *given: asked.append(len(given[3])) or generate(*given))
    run(model, experiment_on([record(tmp_path, GENERATE)], seeds=[0, 1, 2], shots=[0, 1]), tokenizer)
    assert sum(asked) == 9 + 3 * 9


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
        ({"groups": {"a": {"tasks": ["b"]}}}, "groups.a.tasks: 'b' is neither a task that is evaluated nor a group"),
        ({"groups": {"a": {"tasks": ["b"]}, "b": {"tasks": ["a"]}}}, "holds itself"),
        ({"groups": {"miniature_vqa": {"tasks": ["miniature_vqa"]}}}, "a task has this name"),
        ({"groups": {"a": {"tasks": ["miniature_vqa"], "weights": {"x": 1}}}}, "weights.x"),
        ({"demonstrations": {"sets": 0}}, "sets"),
        ({"demonstrations": "per_group"}, "per_task"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "none twice"),
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
        "'shot_8/question' is not evaluated: 'question' is none of average, miniature_vqa, questions",
        "did you mean 'questions'?",
    )
    wrong = metric_problem("loss/texts", evaluation)
    assert wrong == ("'loss/texts' is not measured: evaluation.losses has text", "did you mean 'text'?")


# ---------------------------------------------------------------- bad items
def test_bad_items_are_counted_and_named_and_the_score_is_over_the_others(model, tokenizer, tmp_path) -> None:
    fine = run(model, experiment_on([record(tmp_path, GENERATE)]), tokenizer)
    broken = record(tmp_path, toy(corrupt=["q1", "q4"], incomplete=["q2"], bad=1))
    table = run(model, experiment_on([broken]), tokenizer)
    good = ["q0", "q3", "q5", "q6", "q7", "q8"]
    answered = table[table["problem"] == ""]
    columns = ["shots", "item", "demonstration_set", "prediction", "score"]
    # Other questions, and what they draw, are as they would be without the bad ones.
    pandas.testing.assert_frame_equal(
        answered[columns].reset_index(drop=True), fine[fine["item"].isin(good)][columns].reset_index(drop=True), check_dtype=False
    )
    counted = coverage(table)
    assert counted["items"].tolist() == [6, 6, 6] and counted["left_out"].tolist() == [4, 4, 4]
    assert json.loads(counted["reasons"][0]) == {"no annotation": 1, "no reference": 1, "truncated JPEG": 2}
    assert counted["score"][2] == summarise(table)["shot_3/toy"] == pytest.approx(100 * answered.query("shots == 3")["score"].mean())
    assert set(table.loc[table["item"] == "q4", "problem"]) == {"truncated JPEG: q4"}
    assert table.loc[table["item"] == "q4", "score"].isna().all()


@pytest.mark.parametrize("policy", ["per_task", "per_query"])
def test_a_demonstration_that_cannot_be_shown_is_replaced_by_the_next_in_its_order(model, tokenizer, tmp_path, policy) -> None:
    fine = run(model, experiment_on([record(tmp_path, GENERATE)], demonstrations=policy, shots=[4]), tokenizer)
    corrupt, incomplete = ids(fine, 4)["q0"][0], ids(fine, 4)["q1"][1]
    bad = {corrupt, incomplete}
    path = record(tmp_path, toy(corrupt=[corrupt], incomplete=[incomplete]))
    for size in (2, 64):
        table = run(model, experiment_on([path], demonstrations=policy, shots=[1, 3], batch_items=size), tokenizer)
        three, one = ids(table, 3), ids(table, 1)
        for item, four in ids(fine, 4).items():
            expected = [name for name in four if name not in bad]
            assert three[item][: len(expected)] == expected[:3] and len(three[item]) == 3
            assert one[item] == three[item][:1]
            own = table[(table["item"] == item) & (table["shots"] == 3)]["replaced"].item()
            assert all(name in own for name in four[:3] if name in bad)
        reasons = " ".join(table["replaced"].unique())
        assert f"truncated JPEG: {corrupt}" in reasons and f"no reference: {incomplete}" in reasons
        assert coverage(table)["replaced"].sum() > 0


def test_a_task_of_which_nothing_can_be_asked_is_an_error(model, tokenizer, tmp_path) -> None:
    names = [f"q{number}" for number in range(9)]
    with pytest.raises(ValueError, match="task toy: no items that can be asked: no reference: q0"):
        run(model, experiment_on([record(tmp_path, toy(incomplete=names))]), tokenizer)
    with pytest.raises(ValueError, match="task toy at 0 shots: no item has a score under exact_match: truncated JPEG: q0"):
        summarise(run(model, experiment_on([record(tmp_path, toy(corrupt=names))], shots=[0]), tokenizer))
    with pytest.raises(ValueError, match="3 shots need as many demonstrations"):
        run(model, experiment_on([record(tmp_path, toy(corrupt=[f"d{number}" for number in range(8)]))]), tokenizer)


# ---------------------------------------------------------------- context
def test_prompts_that_do_not_fit_are_found_without_a_model(tmp_path) -> None:
    path = record(tmp_path, GENERATE)

    def declared(length: int, **changes: Any) -> Experiment:
        fields = {**CONFIGURATION, "max_position_embeddings": length}
        return tiny_experiment(
            {"model.language_model.configuration": fields, "evaluation": {"tasks": [path], "shots": [0, 2, 3]}, **changes}
        )

    longest = max(sum(need[2:]) + 4 * need.images for need in context_needs(declared(1).evaluation, "miniature")["toy"])
    check_fits(declared(longest))
    with pytest.raises(ContextOverflow, match=f"task toy at 3 shots needs {longest} tokens of context .* language model has {longest - 1}"):
        check_fits(declared(longest - 1))
    with pytest.raises(ContextOverflow, match="an image takes 1, "):
        check_fits(declared(30, **{"model.connector": {"type": "average_pool", "image_tokens": 1}}))
    remembered = json.loads(json.dumps(context_needs(declared(1).evaluation, "miniature")))
    check_fits(declared(longest), remembered)


# ---------------------------------------------------------------- likelihoods
def test_a_task_can_ask_how_likely_the_right_answer_is(model, tokenizer, tmp_path) -> None:
    fields = {**GENERATE, "kind": "likelihood", "metrics": ["lambada_accuracy", "perplexity"]}
    experiment = experiment_on([record(tmp_path, fields)], shots=[0])
    table = run(model, experiment, tokenizer)
    scores = table.set_index(["metric", "item"])["score"]
    nats = []
    for query in Toy().open("report", None, 0).queries:
        assert query.image
        expected, greedy = plain_log_likelihood(model, tokenizer, [query.image, f"{query.fields['q']} ->"], query.references[0])
        assert scores["perplexity", query.id] == pytest.approx(-expected, abs=1e-4)
        assert scores["lambada_accuracy", query.id] == greedy
        nats.append(expected)
    summary = summarise(table)
    assert summary["shot_0/toy.perplexity"] == pytest.approx(np.exp(-np.mean(nats)), rel=1e-4)


def test_greedy_continuations_are_told_from_others(model, tokenizer, tmp_path) -> None:
    generated = run(model, experiment_on([record(tmp_path, {**GENERATE, "max_new_tokens": 2})], shots=[0]), tokenizer).set_index("item")

    class Answers(Toy):
        def open(self, split: str, count: int | None, seed: int) -> Any:
            items = super().open(split, count, seed)
            queries = [
                Item(item.id, item.group, item.image, item.fields, (generated.loc[item.id, "prediction"] if number % 2 else "red",))
                for number, item in enumerate(items.queries)
            ]
            return type(items)(queries, items.demonstrations)

    fields = {**GENERATE, "kind": "likelihood", "metrics": ["lambada_accuracy"], "items": Answers(type=f"{__name__}.Answers")}
    prepared = prepare(Task.model_validate(fields), experiment_on(["x.yaml"], shots=[0]).evaluation, tokenizer)
    from mm1_ablate.evaluation.embedding import PromptEmbedder
    from mm1_ablate.evaluation.evaluate import _Asker

    with torch.no_grad():
        asker = _Asker(prepared, PromptEmbedder(model, ImagePipeline(24), tokenizer.padding), tokenizer)
        asked = list(asker.ask([prepared.questions], lambda answers: None))
    for one in asked:
        assert one.prediction and one.prediction.token_counts == (len(tokenizer.encode(one.prediction.choices[0])),)
        if one.place % 2:
            assert one.prediction.greedy == (True,) and one.prediction.text == one.prediction.choices[0]
    assert {one.prediction.greedy for one in asked if one.prediction} == {(True,), (False,)}


@pytest.mark.parametrize("window", [None, 9])
def test_a_choice_in_the_middle_is_judged_by_what_follows_it(model, tokenizer, tmp_path, window) -> None:
    if window:
        plain_fields = {name: value for name, value in CONFIGURATION.items() if name != "qk_layernorm"}
        model = random_model(
            {"model_type": "mistral", "configuration": {**plain_fields, "num_key_value_heads": 1, "sliding_window": window}}
        )
    fields = {**CHOOSE, "prompt": "{image} {q} {choice} -> {answer}", "metrics": ["choice_accuracy"]}
    table = run(model, experiment_on([record(tmp_path, fields)], shots=[0]), tokenizer).set_index("item")
    for query in Toy().open("report", None, 0).queries:
        assert query.image
        expected = [
            plain_log_likelihood(model, tokenizer, [query.image, f"{query.fields['q']} {choice} ->"], query.references[0])[0]
            for choice in query.choices
        ]
        assert json.loads(table.loc[query.id, "log_likelihoods"]) == pytest.approx(expected, abs=1e-4)
        assert table.loc[query.id, "prediction"] == query.choices[int(np.argmax(expected))]


# ---------------------------------------------------------------- the same for any batch and number of processes
@pytest.mark.parametrize("ranks, size", [(2, 4), (3, 64), (7, 1)])
def test_processes_share_the_work_and_join_to_the_same_predictions(model, tokenizer, tmp_path, ranks, size) -> None:
    broken = toy(corrupt=["q3", "d4"], incomplete=["q5"])
    paths = [record(tmp_path, broken), record(tmp_path, {**CHOOSE, "task": "other", "items": broken["items"]})]
    settings = {"seeds": [0, 1], "demonstrations": {"sets": 2}, "shots": [0, 2]}
    pipeline = ImagePipeline(24)
    alone = predict(model, experiment_on(paths, **settings), tokenizer, pipeline)
    experiment = experiment_on(paths, **settings, batch_items=size)
    parts = [predict(model, experiment, tokenizer, pipeline, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sum(map(len, parts)) == len(alone) and all(len(part) for part in parts)
    tasks = load_tasks(experiment.evaluation)
    together = merged(parts, tasks)
    others = [column for column in alone.columns if column != "log_likelihoods"]
    pandas.testing.assert_frame_equal(together[others], alone[others])
    for own, expected in zip(together["log_likelihoods"], alone["log_likelihoods"], strict=True):
        assert json.loads(own) == pytest.approx(json.loads(expected), abs=1e-5)
    scores = scored(together, tasks, experiment.evaluation)
    assert summarise(scores) == summarise(run(model, experiment_on(paths, **settings), tokenizer))


def _one_of_two(rank: int, folder: str) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    held_out = {"text": {"source": TEXT, "documents": 9}}
    experiment = experiment_on([f"{folder}/toy.yaml"], losses=held_out)
    run(random_model(), experiment, word_tokenizer(), rank=rank, ranks=2).to_pickle(f"{folder}/{rank}.pickle")
    distributed.destroy_process_group()


def test_two_processes_give_each_the_whole_table(model, tokenizer, tmp_path) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(GENERATE))
    torch.multiprocessing.start_processes(_one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    tables = [pandas.read_pickle(tmp_path / f"{rank}.pickle") for rank in range(2)]
    alone = run(model, experiment_on([str(tmp_path / "toy.yaml")], losses={"text": {"source": TEXT, "documents": 9}}), tokenizer)
    for table in tables:
        pandas.testing.assert_frame_equal(table, alone, atol=1e-6, rtol=1e-6)


def test_predictions_that_are_stored_score_as_before(model, tokenizer, tmp_path) -> None:
    paths = [record(tmp_path, GENERATE), record(tmp_path, {**CHOOSE, "task": "other"})]
    experiment = experiment_on(paths)
    predictions = predict(model, experiment, tokenizer, ImagePipeline(24))
    predictions.to_parquet(tmp_path / "predictions.parquet")
    stored = pandas.read_parquet(tmp_path / "predictions.parquet")
    tasks = load_tasks(experiment.evaluation)
    pandas.testing.assert_frame_equal(scored(stored, tasks, experiment.evaluation), run(model, experiment, tokenizer))


# ---------------------------------------------------------------- held-out documents
def test_held_out_loss_is_that_of_each_document_alone(model, tokenizer) -> None:
    held_out = {
        "text": {"source": {**TEXT, "documents": None}, "first": 40_000 - 6, "documents": 40},
        "captions": {"source": {"type": "miniature", "data_type": "captioned", "content": "alt_text"}, "documents": 3},
    }
    # Sources are read as they are declared; unseen documents of the same world are those behind what training reads.
    held_out["text"]["source"]["documents"] = 40_000
    experiment = experiment_on(["miniature_facts"], items=2, losses=held_out)
    table = run(model, experiment, tokenizer)
    summary = summarise(table)
    assert table[table["family"] == "loss"].groupby(["task", "metric"]).size().to_dict() == {
        ("captions", "bits_per_byte"): 3, ("captions", "loss"): 3, ("text", "bits_per_byte"): 6, ("text", "loss"): 6,
    }  # fmt: skip
    for name, held in experiment.evaluation.losses.items():
        documents = held.source.open(0, name)
        nats, text_nats, tokens, size = 0.0, 0.0, 0, 0
        for index in range(held.first, held.first + (6 if name == "text" else 3)):
            document = documents[index]
            segments = tokenise(document, tokenizer, 4).segments
            parts = [
                model.encode_images(ImagePipeline(24).load([part]))[0] if isinstance(part, Image) else model.embed(torch.tensor(part))
                for part in segments
            ]
            with torch.no_grad():
                logits = model.language_model(inputs_embeds=torch.cat(parts)[None]).logits[0].log_softmax(-1)
            place = 0
            for part in segments:
                if isinstance(part, Image):
                    place += 4
                    continue
                for token in part:
                    if place:
                        own = -float(logits[place - 1, token].detach())
                        nats, tokens = nats + own, tokens + 1
                        text_nats += own if token != tokenizer.end else 0
                    place += 1
            words = document.text if name == "captions" else document.text.split(" ", 1)[1]
            size += len(words.encode())
        assert summary[f"loss/{name}"] == pytest.approx(nats / tokens, abs=1e-4)
        assert summary[f"bits_per_byte/{name}"] == pytest.approx(text_nats / log(2) / size, abs=1e-4)


def test_a_held_out_document_that_does_not_fit_is_an_error(model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(model, "context_length", 12)
    with pytest.raises(ContextOverflow, match=r"evaluation.losses.text: document .* tokens of context"):
        run(model, experiment_on(["miniature_facts"], items=2, losses={"text": {"source": TEXT}}), tokenizer)


def test_a_parquet_of_item_scores_holds_everything(model, tokenizer, tmp_path: Path) -> None:
    experiment = experiment_on([record(tmp_path, toy(corrupt=["q3"]))], losses={"text": {"source": TEXT, "documents": 5}})
    table = run(model, experiment, tokenizer)
    table.to_parquet(tmp_path / "items.parquet")
    assert summarise(pandas.read_parquet(tmp_path / "items.parquet")) == summarise(table)

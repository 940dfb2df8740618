"""The probability of the right answer: of each kind of task, against each answer computed alone, and what averages are made of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from config_files import study_of, the_problem
from hypothesis import given
from hypothesis import strategies as st
from toy_tasks import (
    CHOOSE,
    CONFIGURATION,
    GENERATE,
    Toy,
    experiment_on,
    plain_log_likelihood,
    plain_parts,
    random_model,
    record,
    run,
)

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.data.documents import Item, ItemSet
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics.probability import Probability
from mm1_ablate.evaluation.prediction_shards import shards_of
from mm1_ablate.evaluation.protocols import load_task, load_tasks
from mm1_ablate.evaluation.requests import needs, prepare_requests
from mm1_ablate.evaluation.scores import merged, scored, summarise

LIKELIHOOD = {**GENERATE, "task": "likely", "kind": "likelihood", "metrics": ["perplexity"]}
SLIDING = {
    "model_type": "mistral",
    "configuration": {
        **{name: value for name, value in CONFIGURATION.items() if name != "qk_layernorm"}, "num_key_value_heads": 1, "sliding_window": 9,
    },
}  # fmt: skip


class Several(Toy):
    """Toy questions that have a second reference, and some a first one that is empty."""

    type: str = f"{__name__}.Several"

    def open(self, split: str, count: int | None, seed: int) -> ItemSet:
        items = super().open(split, count, seed)

        def with_references(place: int, item: Item) -> Item:
            first = "" if place in (2, 5) else item.references[0]
            return Item(item.id, item.group, item.image, item.fields, (first, "what"))

        return ItemSet([with_references(place, item) for place, item in enumerate(items.queries)], items.demonstrations)


# ---------------------------------------------------------------- the rule, by hand
def one(prediction: Prediction) -> float:
    return Probability().score([prediction])[0]


def test_of_several_choices_it_is_the_probability_of_the_right_one_among_them() -> None:
    nats = tuple(math.log(share) for share in (0.1, 0.2, 0.1))
    assert one(Prediction("q", "b", (), ("a", "b", "c"), 1, nats)) == pytest.approx(0.5)
    # However unlikely all of them are.
    assert one(Prediction("q", "b", (), ("a", "b", "c"), 2, tuple(each - 5000 for each in nats))) == pytest.approx(0.25)


def test_of_an_answer_it_is_the_geometric_mean_over_its_words() -> None:
    assert one(Prediction("q", "x", ("red", "dark"), reference_log_likelihoods=(math.log(0.3),))) == pytest.approx(0.3)
    three = math.log(0.5) + math.log(0.25) + math.log(0.125)
    assert one(Prediction("q", "x", (" a red  card ",), reference_log_likelihoods=(three,))) == pytest.approx(0.25)
    assert one(Prediction("q", "", ("a red card",), ("a red card",), 0, (three,))) == pytest.approx(0.25)


@given(st.lists(st.floats(-60, 0), min_size=1, max_size=6), st.data())
def test_it_lies_between_nothing_and_certainty(nats: list[float], data: st.DataObject) -> None:
    right = data.draw(st.integers(0, len(nats) - 1))
    texts = tuple(f"{place} word" for place in range(len(nats)))
    assert 0 <= one(Prediction("q", "", (), texts, right, tuple(nats))) <= 1
    if len(nats) > 1:
        assert sum(one(Prediction("q", "", (), texts, place, tuple(nats))) for place in range(len(nats))) == pytest.approx(1)


def test_a_broken_model_has_none_and_what_was_not_asked_is_not_known() -> None:
    assert one(Prediction("q", "a", (), ("a", "b"), 0, (-1.0, math.nan))) == 0
    assert one(Prediction("q", "a", ("a",), reference_log_likelihoods=(math.nan,))) == 0
    assert math.isnan(one(Prediction("q", "a", ("a",))))


# ---------------------------------------------------------------- asked of a model
@pytest.mark.parametrize(
    ("policy", "language_model", "size"),
    [("per_task", None, 4), ("per_query", None, 1), ({"sets": 2}, None, 64), ("per_task", SLIDING, 4)],
    ids=["shared", "alone", "sets", "sliding"],
)
def test_it_is_that_of_the_first_reference_in_a_forward_pass_of_the_whole_sequence(
    tokenizer, tmp_path: Path, policy: Any, language_model: Any, size: int
) -> None:
    model = random_model(language_model)
    experiment = experiment_on([record(tmp_path, GENERATE)], demonstrations=policy, probability=True, batch_items=size)
    table = run(model, experiment, tokenizer)
    scores = table[table["metric"] == "probability"].set_index(["shots", "item"])["score"]
    expected = {}
    for asked in prepare_requests(load_task(experiment.evaluation.tasks[0]), experiment.evaluation, tokenizer).requests:
        reference = asked.item.references[0]
        for shots in (0, 2, 3):
            nats, _ = plain_log_likelihood(model, tokenizer, plain_parts(asked.item, asked.solved[:shots]), reference)
            expected[shots, asked.item.id] = math.exp(nats / len(reference.split()))
    assert len(scores) == len(expected)
    for key, value in expected.items():
        assert scores[key] == pytest.approx(value, rel=1e-5)  # log-likelihoods per word are equal to 1e-5
    assert len({round(math.log(value), 3) for value in expected.values()}) > 15, "else the comparison says little"


@pytest.mark.parametrize("fields", [GENERATE, CHOOSE, LIKELIHOOD], ids=["generate", "choose", "likelihood"])
def test_all_else_is_as_without_it(model, tokenizer, tmp_path: Path, fields: dict[str, Any]) -> None:
    path = record(tmp_path, fields)
    without, beside = (run(model, experiment_on([path], probability=asked), tokenizer) for asked in (False, True))
    added = beside["metric"] == "probability"
    pandas.testing.assert_frame_equal(beside[~added].reset_index(drop=True), without)
    assert added.sum() == 27 and not beside.loc[added, "primary"].any() and beside.loc[added, "score"].between(0, 1).all()


def test_of_choices_and_of_a_text_it_follows_from_likelihoods_that_are_there(model, tokenizer, tmp_path: Path) -> None:
    table = run(model, experiment_on([record(tmp_path, CHOOSE), record(tmp_path, LIKELIHOOD)], shots=[2], probability=True), tokenizer)
    for row in table[table["metric"] == "probability"].to_dict("records"):
        nats = np.array(json.loads(row["log_likelihoods"]))
        expected = np.exp(nats[0]) / np.exp(nats).sum() if row["task"] == "toy" else np.exp(nats[0] / len(row["reference"].split()))
        assert row["score"] == pytest.approx(expected)


def test_processes_that_share_the_questions_find_the_same(model, tokenizer, tmp_path: Path) -> None:
    experiment = experiment_on([record(tmp_path, GENERATE)], seeds=[0, 1], demonstrations={"sets": 2}, shots=[0, 2], probability=True)
    tasks = load_tasks(experiment.evaluation)
    parts = [predict(model, experiment, tokenizer, ImagePipeline(24), rank=rank, ranks=3) for rank in range(3)]
    together = scored(merged(parts, tasks), tasks, experiment.evaluation)
    alone = run(model, experiment, tokenizer)
    pandas.testing.assert_series_equal(together["score"], alone["score"], atol=1e-6, rtol=0)


def test_predictions_that_are_stored_score_as_before(model, tokenizer, tmp_path: Path) -> None:
    experiment = experiment_on([record(tmp_path, GENERATE)], probability=True)
    tasks = load_tasks(experiment.evaluation)
    predict(model, experiment, tokenizer, ImagePipeline(24)).to_parquet(tmp_path / "predictions.parquet")
    stored = pandas.read_parquet(tmp_path / "predictions.parquet")
    pandas.testing.assert_frame_equal(scored(stored, tasks, experiment.evaluation), run(model, experiment, tokenizer))
    earlier = stored.drop(columns="reference_log_likelihoods")
    as_it_was = experiment.evaluation.model_copy(update={"probability": False})
    pandas.testing.assert_frame_equal(scored(earlier, tasks, as_it_was), scored(stored, tasks, as_it_was))


def test_an_item_whose_first_reference_is_empty_is_judged_by_the_other_metrics_alone(model, tokenizer, tmp_path: Path) -> None:
    fields = {**GENERATE, "items": {"type": f"{__name__}.Several"}}
    table = run(model, experiment_on([record(tmp_path, fields)], shots=[0], probability=True), tokenizer)
    missing = table[table["score"].isna()]
    assert sorted(missing["item"]) == ["q2", "q5"] and set(missing["metric"]) == {"probability"}
    judged = table[(table["metric"] == "probability") & table["score"].notna()]["score"]
    assert summarise(table)["shot_0/toy.probability"] == pytest.approx(100 * judged.mean())


@pytest.mark.parametrize("limit", [1, 3, 9])
@pytest.mark.parametrize("probability", [False, True])
def test_a_question_needs_room_for_its_reference_and_for_what_is_generated(
    tokenizer, tmp_path: Path, limit: int, probability: bool
) -> None:
    path = record(tmp_path, {**GENERATE, "max_new_tokens": limit})
    prepared = prepare_requests(load_task(path), experiment_on([path], shots=[0], probability=probability).evaluation, tokenizer)
    questions = [(len(f"{one.item.fields['q']} ->".split()), len(one.item.references[0].split())) for one in prepared.requests]
    assert {answer for _, answer in questions} >= {1, 4}
    (need,) = needs(prepared)
    assert need.text_tokens + need.answer_tokens == max(asked + max(limit, answer * probability) for asked, answer in questions)


# ---------------------------------------------------------------- averages
def rows(task: str, family: str, metric: str, scores: list[float], primary: bool) -> pandas.DataFrame:
    shots = 8 if family == "image" else 0
    return pandas.DataFrame(
        {"task": task, "family": family, "shots": shots, "evaluation_seed": 0, "item": [f"{task}-{place}" for place in range(len(scores))],
         "metric": metric, "primary": primary, "problem": "", "score": scores}
    )  # fmt: skip


def test_averages_and_groups_of_probabilities_stand_beside_those_of_primary_metrics() -> None:
    groups = {"easy": {"tasks": ["a", "b"], "weights": {"a": 3}}}
    evaluation = Evaluation.model_validate({"tasks": ["a", "b", "c", "t"], "groups": groups})
    table = pandas.concat(
        [
            rows("a", "image", "exact_match", [1, 0], True), rows("a", "image", "probability", [0.2, 0.4], False),
            rows("b", "image", "exact_match", [1, 1], True), rows("b", "image", "probability", [0.7, 0.9], False),
            # Its primary metric enters no average; its probability does.
            rows("c", "image", "perplexity", [2.0, 2.0], True), rows("c", "image", "probability", [0.1, 0.1], False),
            rows("t", "text", "choice_accuracy", [0, 1], True), rows("t", "text", "probability", [0.5, 0.7], False),
        ]
    )  # fmt: skip
    found = summarise(table, evaluation.groups)
    assert {name: value for name, value in found.items() if "/average" in name or "/easy" in name} == pytest.approx(
        {
            "shot_8/average": 75, "shot_8/easy": 62.5, "text_core/average": 50,
            "shot_8/average.probability": 40, "shot_8/easy.probability": 42.5, "text_core/average.probability": 60,
        }
    )  # fmt: skip
    assert found["shot_8/a.probability"] == pytest.approx(30)


# ---------------------------------------------------------------- identity, and what files may say
def test_only_what_is_generated_is_asked_again_where_probabilities_are_added(tmp_path: Path) -> None:
    tasks = [record(tmp_path, GENERATE), record(tmp_path, {**CHOOSE, "task": "chosen"})]
    before, after = (shards_of(experiment_on(tasks, probability=asked), "weights") for asked in (False, True))
    same = {part.fingerprint for part in before} & {part.fingerprint for part in after}
    assert [part.name for part in after if part.fingerprint not in same] == ["toy"] * 3
    assert all("probability" not in part.identity for part in before)


PRIMARY = "compare: {{primary: {}, metrics: [8-shot, 8-shot probability]}}"
LESS = "less: {remove: data.mixture.text}"


def test_a_study_may_be_about_it_where_it_is_asked(tmp_path: Path) -> None:
    asked = "everywhere: {evaluation.probability: true}\n"
    for name in ("8-shot probability", "shot_8/average.probability"):
        study = study_of(tmp_path, LESS, asked + PRIMARY.format(name))
        assert study.sweep.compare.primary == "shot_8/average.probability"
        assert study.sweep.compare.metrics == ["shot_8/average", "shot_8/average.probability"]
    told = the_problem(tmp_path, LESS, "compare: {primary: 8-shot probability}")
    assert told[0].startswith("8-shot probability") and "'shot_8/average.probability' is not evaluated" in told[1]
    assert told[2] == "set `evaluation.probability: true`"


def test_a_study_that_does_not_ask_is_evaluated_as_ever(tmp_path: Path) -> None:
    plain, written, asked = (
        study_of(tmp_path, LESS, f"everywhere: {{{setting}}}" if setting else "")
        for setting in ("", "evaluation.probability: false", "evaluation.probability: true")
    )
    fingerprints = [{trial.evaluation_fingerprint for trial in study.trials} for study in (plain, written, asked)]
    assert fingerprints[0] == fingerprints[1] and not fingerprints[0] & fingerprints[2]
    assert [trial.fingerprint for trial in plain.trials] == [trial.fingerprint for trial in asked.trials], "nothing is trained again"


def test_a_record_does_not_list_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"evaluation.probability: true.*a record does not list it"):
        load_task(record(tmp_path, {**GENERATE, "metrics": ["exact_match", "probability"]}))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)

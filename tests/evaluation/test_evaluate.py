"""Evaluation as a whole, on a random model: the same answers as the plain loop, whatever is shared and batched."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
from evaluated import evaluate
from toy_tasks import (
    CHOOSE,
    CONFIGURATION,
    GENERATE,
    experiment_on,
    plain_generation,
    plain_log_likelihood,
    plain_parts,
    random_model,
    record,
    run,
)

from mm1_ablate.config.tasks import shipped_tasks
from mm1_ablate.config.training import Progress
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation.protocols import load_task
from mm1_ablate.evaluation.requests import ContextOverflow, prepare_requests
from mm1_ablate.evaluation.scores import COLUMNS, summarise


@pytest.mark.parametrize("policy, window", [("per_task", None), ("per_query", None), ({"sets": 2}, None), ("per_task", 9)])
def test_shared_and_batched_answers_are_token_for_token_those_of_the_plain_loop(model, tokenizer, tmp_path, policy, window) -> None:
    if window:
        others = {"num_key_value_heads": 1, "sliding_window": window}
        configuration = {name: value for name, value in CONFIGURATION.items() if name != "qk_layernorm"}
        model = random_model({"model_type": "mistral", "configuration": configuration | others})
    experiment = experiment_on([record(tmp_path, GENERATE)], demonstrations=policy)
    prepared = prepare_requests(load_task(experiment.evaluation.tasks[0]), experiment.evaluation, tokenizer)
    scored = run(model, experiment, tokenizer).set_index(["shots", "item"])
    answers = set()
    for shots in (0, 2, 3):
        for asked in prepared.requests:
            expected = plain_generation(model, tokenizer, plain_parts(asked.item, asked.solved[:shots]), 5)
            assert scored.loc[(shots, asked.item.id), "prediction"] == expected
            answers.add(expected)
    assert len(answers) > 5  # else the comparison says little


def test_likelihoods_of_choices_are_those_of_one_choice_at_a_time(model, tokenizer, tmp_path) -> None:
    experiment = experiment_on([record(tmp_path, {**CHOOSE, "prompt": "{image} {q} -> {answer}"})], shots=[0])
    scored = run(model, experiment, tokenizer).query("primary").set_index("item")
    for asked in prepare_requests(load_task(experiment.evaluation.tasks[0]), experiment.evaluation, tokenizer).requests:
        parts = plain_parts(asked.item, ())
        expected = [plain_log_likelihood(model, tokenizer, parts, choice)[0] for choice in asked.item.choices]
        assert json.loads(scored.loc[asked.item.id, "log_likelihoods"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("fields", [GENERATE, CHOOSE], ids=["generate", "choose"])
def test_batch_size_changes_nothing(model, tokenizer, tmp_path, fields) -> None:
    path = record(tmp_path, fields)
    tables = [run(model, experiment_on([path], batch_items=size), tokenizer) for size in (1, 5, 64)]
    columns = [column for column in COLUMNS if column != "log_likelihoods"]  # equal but for rounding
    for other in tables[1:]:
        pandas.testing.assert_frame_equal(tables[0][columns], other[columns])


def test_answers_end_before_stop_strings(model, tokenizer, tmp_path) -> None:
    free = run(model, experiment_on([record(tmp_path, GENERATE)]), tokenizer)["prediction"]
    word = free.str.split().explode().mode()[0]
    stopped = run(model, experiment_on([record(tmp_path, {**GENERATE, "stop": [word]})]), tokenizer)["prediction"]
    assert stopped.tolist() == [text.split(word)[0].strip() for text in free]
    assert stopped.tolist() != free.tolist()


def test_each_image_is_encoded_once_for_all_shots_and_tasks(model, tokenizer, tmp_path, monkeypatch) -> None:
    seen = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda images: seen.extend(image.numpy().tobytes() for image in images) or encode(images))
    run(model, experiment_on([record(tmp_path, GENERATE), record(tmp_path, {**CHOOSE, "task": "other"})]), tokenizer)
    assert seen and len(seen) == len(set(seen))


def test_overflow_is_an_error_that_names_task_and_shots_before_anything_is_generated(model, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(model, "context_length", 44)
    reports: list[Progress] = []
    with pytest.raises(ContextOverflow, match="task toy at 3 shots"):
        evaluate(model, experiment_on([record(tmp_path, GENERATE)]), tokenizer, ImagePipeline(24), reports.append)
    assert not reports


def test_every_task_of_the_miniature_runs_and_is_summarised(model, tokenizer) -> None:
    tasks = sorted(name for name in shipped_tasks() if name.startswith("miniature_"))
    experiment = experiment_on(tasks, items=6, shots=[8, 0], batch_items=6)
    reports: list[Progress] = []
    scored = evaluate(model, experiment, tokenizer, ImagePipeline(24), reports.append)
    assert list(scored.columns) == COLUMNS
    assert reports[-1].step == reports[-1].steps
    summary = summarise(scored)
    assert {"shot_0/average", "shot_8/average", "text_core/average", "shot_8/miniature_captions.cider_raw"} <= set(summary)
    image_tasks = [name for name in tasks if load_task(name).family == "image"]
    assert summary["shot_8/average"] == pytest.approx(np.mean([summary[f"shot_8/{name}"] for name in image_tasks]))
    assert scored.groupby(["task", "shots", "metric"]).size().unique().tolist() == [6]
    assert scored.query("shots == 8")["demonstration_set"].str.split().str.len().unique().tolist() == [8]

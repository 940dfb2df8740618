"""Predictions and scores are the same for any batch and number of processes, and after they have been stored."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from tiny import TEXT
from toy_tasks import (
    CHOOSE,
    GENERATE,
    experiment_on,
    random_model,
    record,
    run,
    toy,
    word_tokenizer,
)

from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.scores import merged, scored, summarise


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


def test_a_parquet_of_item_scores_holds_everything(model, tokenizer, tmp_path: Path) -> None:
    experiment = experiment_on([record(tmp_path, toy(corrupt=["q3"]))], losses={"text": {"source": TEXT, "documents": 5}})
    table = run(model, experiment, tokenizer)
    table.to_parquet(tmp_path / "items.parquet")
    assert summarise(pandas.read_parquet(tmp_path / "items.parquet")) == summarise(table)


def test_held_out_documents_stand_in_the_table_of_items_without_demonstrations_or_answers(model, tokenizer, tmp_path: Path) -> None:
    losses = {"text": {"source": TEXT, "documents": 5}}
    settings = {"demonstrations": {"sets": 2}, "shots": [0, 2], "seeds": [4, 3], "losses": losses}
    table = run(model, experiment_on([record(tmp_path, GENERATE)], **settings), tokenizer)
    documents = table[table["family"] == "loss"]
    assert sorted(documents["metric"].value_counts().items()) == [("bits_per_byte", 5), ("loss", 5)]
    assert table["set_number"].dtype == int and set(table["set_number"]) == {0, 1}
    alike = {"task": "text", "shots": 0, "evaluation_seed": 4, "group": "text", "set_number": 0, "primary": True}
    alike |= dict.fromkeys(("demonstration_set", "replaced", "prompt", "problem", "prediction", "log_likelihoods", "reference"), "")
    for column, value in alike.items():
        assert documents[column].unique().tolist() == [value], column
    assert documents["correct"].isna().all() and documents["score"].gt(0).all()

"""Evaluation in bfloat16: the same questions, nearly the same answers, half the weights, and an evaluation of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_experiment
from toy_tasks import CHOOSE, GENERATE, experiment_on, random_model, record, run, word_tokenizer

from mm1_ablate.config.identity.fingerprint import evaluation_identity, fingerprint
from mm1_ablate.evaluation.evaluation_mode import cast_weights
from mm1_ablate.evaluation.prediction_shards import shards_of
from mm1_ablate.training.fit import TrainedModel

LOSSES = {"text": {"source": {"type": "miniature", "data_type": "text", "content": "text"}, "first": 500, "documents": 5}}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_matrices_that_are_kept_in_bfloat16_answer_as_those_that_are_rounded_in_every_product(tmp_path: Path) -> None:
    model = random_model()
    tasks = [record(tmp_path, GENERATE), record(tmp_path, CHOOSE | {"task": "chosen"})]
    exact = run(model, experiment_on(tasks, losses=LOSSES), word_tokenizer())
    half = experiment_on(tasks, losses=LOSSES, precision="bf16-mixed")
    rounded = run(model, half, word_tokenizer())
    cast_weights(model, "bf16-mixed")
    blocks = [parameter for layer in model.language_model.model.layers for parameter in layer.parameters() if parameter.ndim == 2]
    assert blocks and all(parameter.dtype == torch.bfloat16 for parameter in blocks)
    assert model.embed(torch.tensor([0])).dtype == torch.float32 == next(model.encoder.buffers()).dtype
    kept = run(model, half, word_tokenizer())
    for column in ("prediction", "log_likelihoods", "score"):
        assert list(rounded[column].fillna("")) == list(kept[column].fillna(""))
    likelihoods = [[json.loads(text) for text in table["log_likelihoods"] if text] for table in (exact, rounded)]
    for one, other in zip(*likelihoods, strict=True):
        assert other == pytest.approx(one, rel=0.02, abs=0.05) and other != one


def test_the_head_is_not_rounded_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    """Logits in bfloat16 near 20 are 0.125 apart: two answers would often be exactly as likely."""
    model = random_model()
    experiment = experiment_on([record(tmp_path, CHOOSE)], precision="bf16-mixed")
    table = run(model, experiment, word_tokenizer())
    nats = [one for text in table["log_likelihoods"] for one in json.loads(text)]
    assert len(set(nats)) > 0.8 * len(set(table["item"])) * 3
    head = model.language_model.get_output_embeddings()
    assert "forward" not in vars(head) and not torch.is_autocast_enabled("cpu")
    assert head(torch.ones(1, 32)).dtype == torch.float32


def test_the_precision_is_part_of_what_an_evaluation_is_and_what_was_asked_before_it_stays(tmp_path: Path) -> None:
    plain, declared, half = (tiny_experiment({"evaluation.losses": LOSSES} | more) for more in (
        {}, {"evaluation.precision": "32-true"}, {"evaluation.precision": "bf16-mixed"},
    ))  # fmt: skip
    identities = [fingerprint(evaluation_identity(experiment, "trained")) for experiment in (plain, declared, half)]
    assert identities[0] == identities[1] != identities[2]
    parts = [{part.fingerprint for part in shards_of(experiment, "trained")} for experiment in (plain, declared, half)]
    assert parts[0] == parts[1] and not parts[0] & parts[2]


def test_a_trained_model_is_loaded_again_where_what_is_at_hand_was_rounded() -> None:
    loaded = []

    def load(precision):  # type: ignore[no-untyped-def]
        loaded.append(precision)
        model = random_model()
        cast_weights(model, precision)
        return model

    model = TrainedModel(load, random_model())
    assert model("32-true") is model("32-true") and not loaded
    assert next(model("bf16-mixed").language_model.model.layers[0].self_attn.q_proj.parameters()).dtype == torch.bfloat16
    assert not loaded, "the one at hand is rounded"
    assert next(model("32-true").language_model.model.layers[0].self_attn.q_proj.parameters()).dtype == torch.float32
    assert loaded == ["32-true"]

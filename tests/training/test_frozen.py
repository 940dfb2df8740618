"""What is declared frozen stays as it was, is not counted as trained, and the rest goes on learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny import tiny_experiment

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import experiment_identity
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.multimodal import build
from mm1_ablate.model.profiler import count_parameters
from mm1_ablate.training.fit import fit

PARTS = {"image_encoder": "encoder", "connector": "connector", "language_model": "language_model"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("frozen", [{"language_model"}, {"connector"}, {"image_encoder", "language_model"}, {"image_encoder", "connector"}])
def test_frozen_parts_stay_and_the_others_learn(frozen: set[str], optimizer: str, tmp_path: Path) -> None:
    changes = {f"model.{part}.frozen": True for part in frozen} | {"training.optimizer": {"type": optimizer}, "training.steps": 3}
    experiment = tiny_experiment({**changes, "training.micro_batch_rows": 1})
    before = {name: {key: value.clone() for key, value in module(experiment, name).state_dict().items()} for name in PARTS}
    trained = fit(experiment, 0, None, None, tmp_path, lambda progress: None)
    for part, name in PARTS.items():
        now = getattr(trained, name).state_dict()
        same = all(torch.equal(value, now[key]) for key, value in before[part].items())
        assert same == (part in frozen)
    counted = count_parameters(experiment)
    assert counted["trained"] == sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad)
    assert counted["trained"] == counted["total"] - sum(counted[part] for part in frozen)


def module(experiment, part: str) -> torch.nn.Module:
    return getattr(build(experiment, 0), PARTS[part])


class Normalised(Connector):
    """Keeps a running mean of what it has seen, as batch normalisation does."""

    type: str = "Normalised"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> torch.nn.Module:
        project = torch.nn.Linear(encoder_width, language_width)
        return torch.nn.Sequential(project, torch.nn.BatchNorm1d(grid_side**2), torch.nn.Dropout(0.5))


DROPOUT = {
    "model_type": "gpt2",
    "configuration": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 512, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
}


def test_nothing_is_dropped_or_remembered_in_frozen_parts_while_others_train(tmp_path: Path) -> None:
    connector = {"type": f"{__name__}.Normalised", "image_tokens": 4, "frozen": True}
    experiment = tiny_experiment({"model.connector": connector, "model.language_model": {**DROPOUT, "frozen": True}})
    model = build(experiment, 0).train()
    batch = next(iter(loader_of(experiment)))[0]
    assert torch.equal(model(batch), model(batch))
    assert model.encoder.training and not model.connector.training and not model.language_model.training
    before = {name: value.clone() for name, value in model.connector.state_dict().items()}
    after = fit(experiment, 0, None, None, tmp_path, lambda progress: None).connector.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def test_trained_parts_drop_and_remember(tmp_path: Path) -> None:
    connector = {"type": f"{__name__}.Normalised", "image_tokens": 4}
    experiment = tiny_experiment({"model.connector": connector, "model.language_model": DROPOUT})
    model, batch = build(experiment, 0).train(), next(iter(loader_of(experiment)))[0]
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def loader_of(experiment: Experiment) -> BatchLoader:
    tokenizer, pipeline = load_tokenizer("miniature"), ImagePipeline.of(experiment.model)
    return BatchLoader(experiment.data, tokenizer, experiment.model.connector.image_tokens, pipeline, seed=0, steps=1, batch_rows=2)


def test_text_alone_teaches_a_frozen_language_model_nothing(tmp_path: Path) -> None:
    experiment = tiny_experiment({"model.language_model.frozen": True, "data.mixture": {"text": 1}})
    before = build(experiment, 0).state_dict()
    after = fit(experiment, 0, None, None, tmp_path, lambda progress: None).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_model_of_which_nothing_is_trained_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing is left to train"):
        tiny_experiment({f"model.{part}.frozen": True for part in PARTS})


def test_what_is_frozen_is_part_of_a_trial_but_not_of_what_it_starts_from() -> None:
    plain = tiny_experiment(prepared=True)
    for part in PARTS:
        other = tiny_experiment({f"model.{part}.frozen": True}, prepared=True)
        assert experiment_identity(other) != experiment_identity(plain)
        assert [one.fingerprint for one in preparations_of(other, 0)] == [one.fingerprint for one in preparations_of(plain, 0)]

"""What is declared frozen stays as it was, is not counted as trained, and the rest goes on learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny import tiny_experiment

from mm1_ablate.model.multimodal import build
from mm1_ablate.model.size import count_parameters
from mm1_ablate.spec.fingerprint import experiment_identity
from mm1_ablate.spec.preparation import preparations_of
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

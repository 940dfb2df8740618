"""Prepared encoders and language models are shared by all trials that start from the same ones."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.preparation import Preparation, preparations_of

LANGUAGE = {"steps": 9, "source": {"type": "miniature", "data_type": "text", "content": "text"}, "optimizer": {"type": "adamw"}}


def experiment(**encoder: Any) -> Experiment:
    tree = yaml.safe_load(EXPERIMENT)
    tree["model"]["image_encoder"] |= encoder
    tree["model"]["language_model"]["preparation"] = LANGUAGE
    return Experiment.model_validate(tree)


def encoder_of(seed: int = 0, **encoder: Any) -> Preparation:
    return preparations_of(experiment(**encoder), seed)[0]


def test_a_trial_starts_from_what_has_a_preparation() -> None:
    encoder, language = preparations_of(experiment(), 3)
    assert (encoder.kind, language.kind) == ("image_encoder", "language_model")
    assert (encoder.name, language.name) == ("image_encoder contrastive 48px 3x96 seed 3", "language_model phi seed 3")
    assert encoder.settings.preparation is not None and encoder.settings.preparation.steps == 300
    assert [made.kind for made in preparations_of(experiment(preparation=None), 0)] == ["language_model"]
    tree = yaml.safe_load(EXPERIMENT)
    del tree["model"]["image_encoder"]["preparation"]
    assert preparations_of(Experiment.model_validate(tree), 0) == []


@pytest.mark.parametrize("use", [{"frozen": True}, {"learning_rate_scale": 0.5}])
def test_how_trials_use_an_encoder_is_not_part_of_it(use: dict[str, Any]) -> None:
    assert encoder_of(**use).fingerprint == encoder_of().fingerprint


@pytest.mark.parametrize("what", [{"image_size": 24}, {"width": 48}, {"depth": 2}, {"heads": 2}, {"seed": 1}])
def test_what_an_encoder_is_and_its_seed_are(what: dict[str, Any]) -> None:
    assert encoder_of(**what).fingerprint != encoder_of().fingerprint


def test_a_preparation_seed_is_shared_by_all_trials() -> None:
    shared = experiment().model_copy(update={"model": experiment().model.model_copy(update={"preparation_seed": 7})})
    assert preparations_of(shared, 0) == preparations_of(shared, 1)
    assert {made.seed for made in preparations_of(shared, 0)} == {7}
    assert preparations_of(experiment(), 0) != preparations_of(experiment(), 1)


def test_a_preparation_survives_json() -> None:
    for preparation in preparations_of(experiment(), 0):
        again = Preparation.model_validate_json(preparation.model_dump_json())
        assert again == preparation and again.fingerprint == preparation.fingerprint

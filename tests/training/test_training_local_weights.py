"""A trial from public weights in folders of this machine: an encoder of timm's, a language model in shards, its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from local_models import TINY, tokenizer_folder
from tiny import tiny_experiment
from transformers import LlamaConfig, LlamaForCausalLM

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.model.language_model import token_ids
from mm1_ablate.model.multimodal import build
from mm1_ablate.model.profiler import count_parameters
from mm1_ablate.training.fit import fit, load_trained

TOKENS = 320


def language_model(folder: Path, tokens: int = TOKENS) -> LlamaForCausalLM:
    torch.manual_seed(8)
    config = LlamaConfig(vocab_size=tokens, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="20KB")
    return model


def encoder(folder: Path) -> Any:
    torch.manual_seed(9)
    model = timm.create_model(TINY, img_size=48, num_classes=4)
    timm.models.save_for_hf(model, folder, model_config={"num_classes": 4})
    return model


def declared(folder: Path, **more: Any) -> Experiment:
    """Of folders that `language_model`, `encoder` and `tokenizer_folder` have written."""
    vision = {"type": "timm", "name": TINY, "image_size": 64, "patch_size": 16, "weights": str(folder / "encoder")}
    changes = {"model.image_encoder": vision, "model.language_model": {"name": str(folder / "language")}, "training.steps": 2}
    return tiny_experiment({**changes, "training.optimizer": {"type": "adamw", "learning_rate": 1e-4}, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer_folder(tmp_path / "language")
    return tmp_path


def test_a_trial_starts_from_all_that_lies_in_folders(folder: Path) -> None:
    language, vision = language_model(folder / "language"), encoder(folder / "encoder")
    assert len(list((folder / "language").glob("model-*.safetensors"))) > 2
    experiment = declared(folder)
    start = build(experiment, 0)
    assert all(torch.equal(value, start.language_model.state_dict()[name]) for name, value in language.state_dict().items())
    block = "blocks.3.attn.qkv.weight"
    assert torch.equal(start.encoder.vision.get_parameter(block), vision.get_parameter(block))
    assert start.encoder.vision.pos_embed.shape[1] == 17 > vision.pos_embed.shape[1]
    counts = count_parameters(experiment)
    assert counts["total"] == sum(parameter.numel() for parameter in start.parameters())
    trained = fit(experiment, 0, None, None, folder / "trial", lambda progress: None)
    moved = (trained.encoder.vision.get_parameter(block) - vision.get_parameter(block)).abs().max()
    assert 0 < moved < 1e-3


def test_a_trained_model_needs_the_weights_that_it_started_from_no_more(folder: Path) -> None:
    language_model(folder / "language")
    encoder(folder / "encoder")
    experiment = declared(folder)
    trained = fit(experiment, 0, None, None, folder / "trial", lambda progress: None)
    for weights in [*(folder / "language").glob("model*"), *(folder / "encoder").glob("*")]:
        weights.unlink()
    kept = load_trained(experiment, 0, folder / "trial")
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in trained.state_dict().items())


def test_sizes_of_a_model_by_name_need_no_tokenizer(folder: Path) -> None:
    language_model(folder / "language")
    encoder(folder / "encoder")
    nowhere = declared(folder, **{"model.language_model": {"name": str(folder / "language"), "tokenizer": str(folder / "none")}})
    assert count_parameters(nowhere)["language_model"] == count_parameters(declared(folder))["language_model"]
    assert token_ids(nowhere.model.language_model) == (0, 0, 0)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    language_model(folder / "language", tokens=100)
    encoder(folder / "encoder")
    with pytest.raises(ValueError, match=r"tokenizer: .* has 2\d\d tokens, more than the 100 of .*language"):
        build(declared(folder), 0)

"""Operations of a training step as planned, against those that torch counts while it really trains."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from config_files import load_experiment
from hypothesis import given, settings
from hypothesis import strategies as some
from step_helpers import batch_of, content_of, experiment_with
from tiny import REPOSITORY, tiny_experiment
from torch.nn.functional import conv2d, cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.model import profiler
from mm1_ablate.model.multimodal import build
from mm1_ablate.model.profile import PartProfile
from mm1_ablate.model.profiler import count_parameters
from mm1_ablate.plan.flops import RowContent, row_flops
from mm1_ablate.plan.model_statistics import ModelStatistics

PARTS = ("image_encoder", "connector", "language_model")
LANGUAGE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 512}
LANGUAGE_MODELS = {
    "phi": {"model_type": "phi", "configuration": {**LANGUAGE, "tie_word_embeddings": True}},
    "llama": {"model_type": "llama", "configuration": LANGUAGE},
    "grouped queries, gated MLP": {"model_type": "qwen2", "configuration": {**LANGUAGE, "num_key_value_heads": 2}},
    "one layer": {"model_type": "llama", "configuration": {**LANGUAGE, "num_hidden_layers": 1}},
}
VIT = {"type": "vision_transformer", "image_size": 24, "patches_per_side": 4, "width": 32, "depth": 3, "heads": 2}
ENCODERS = {
    "patches of 14": {**VIT, "image_size": 56, "patches_per_side": None, "patch_size": 14},
    "last block but one": {**VIT, "feature_layer": -2},
    "of timm, with registers": {
        "type": "timm",
        "name": "vit_small_patch14_reg4_dinov2",
        "image_size": 56,
        "patch_size": 14,
        "weights": None,
    },
}
CONNECTORS = {
    "average_pool": {"image_tokens": 4},
    "attention_pool": {"image_tokens": 5},
    "c_abstractor": {"image_tokens": 4, "hidden": 32, "depth": 1},
    "linear": {"image_tokens": 16},
    "mlp": {"image_tokens": 16},
    "pixel_shuffle": {"image_tokens": 4},
    "perceiver_resampler": {"image_tokens": 6, "depth": 2},
}
DOCUMENTS = [(40, 2), (40, 2), (12, 1), (12, 1), (200, 0)]
"""Text tokens and images of documents; each length twice or far from the others, so that no bucket of the CPU's attention pads."""


def counted(experiment: Experiment) -> float:
    """What torch counts of one forward and backward pass over the documents, with our corrections of its formulas, which
    `test_grouped_convolutions_are_counted_as_so_many_small_ones` holds against torch alone."""
    batch = batch_of(experiment, DOCUMENTS)
    model = build(experiment, 0)
    with FlopCounterMode(display=False, custom_mapping=profiler.CORRECTED) as counter:
        cross_entropy(model(batch), batch.targets).backward()
    return counter.get_total_flops()


def planned(experiment: Experiment, folder: Path) -> float:
    return row_flops(experiment, ModelStatistics().profile(experiment), content_of(DOCUMENTS)).total


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_flops_agree_with_torchs_count_for_language_models(name: str, tmp_path: Path):
    experiment = experiment_with({"model.language_model": LANGUAGE_MODELS[name]})
    assert planned(experiment, tmp_path) == pytest.approx(counted(experiment), rel=0.02)


def test_of_a_mixture_of_experts_those_count_that_a_token_goes_through(tmp_path: Path):
    configuration = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 512}
    experiment = experiment_with({"model.language_model": {"model_type": "mixtral", "configuration": configuration | experts}})
    parts = ModelStatistics().profile(experiment)
    attention_and_router, two_experts = 64 * (64 + 32 + 32 + 64) + 64 * 8, 2 * 3 * 64 * 96
    assert parts.language_model.counted
    assert parts.language_model.forward == pytest.approx(2 * 2 * (attention_and_router + two_experts), rel=0.02)
    assert parts.language_model.backward == 2 * parts.language_model.forward
    assert planned(experiment, tmp_path) == pytest.approx(counted(experiment), rel=0.02)


@pytest.mark.parametrize("name", ENCODERS)
def test_flops_agree_with_torchs_count_for_encoders(name: str, tmp_path: Path):
    experiment = experiment_with({"model.image_encoder": ENCODERS[name]})
    assert planned(experiment, tmp_path) == pytest.approx(counted(experiment), rel=0.02)


@pytest.mark.parametrize("name", CONNECTORS)
def test_flops_agree_with_torchs_count_for_connectors(name: str, tmp_path: Path):
    experiment = experiment_with({"model.image_encoder": VIT, "model.connector": {"type": name, **CONNECTORS[name]}})
    assert planned(experiment, tmp_path) == pytest.approx(counted(experiment), rel=0.02)


@pytest.mark.parametrize(
    "frozen",
    [("image_encoder",), ("connector",), ("language_model",), ("image_encoder", "connector"), ("image_encoder", "language_model")],
    ids="+".join,
)
def test_flops_agree_with_torchs_count_for_frozen_parts(frozen: tuple[str, ...], tmp_path: Path):
    changes: dict[str, Any] = {"model.image_encoder": VIT, "model.connector": {"type": "mlp", "image_tokens": 16}}
    experiment = experiment_with(changes | {f"model.{part}.frozen": True for part in frozen})
    assert planned(experiment, tmp_path) == pytest.approx(counted(experiment), rel=0.02)
    assert planned(experiment, tmp_path) < planned(experiment_with(changes), tmp_path)


def test_cached_features_leave_the_encoder_out(tmp_path: Path):
    prepared = experiment_with({"model.image_encoder.frozen": True}, prepared=True)
    parts = row_flops(prepared, ModelStatistics().profile(prepared), content_of(DOCUMENTS))
    assert parts.image_encoder == 0 and parts.connector > 0


def test_activation_checkpointing_adds_a_forward_pass_of_blocks(tmp_path: Path):
    kept, again = (experiment_with({"training.activation_checkpointing": on}) for on in (False, True))
    before, after = (row_flops(each, ModelStatistics().profile(each), content_of(DOCUMENTS)) for each in (kept, again))
    assert after.blocks == pytest.approx(before.blocks * 4 / 3, rel=0.01)
    assert after.attention == pytest.approx(before.attention * 9 / 7)
    assert (after.head, after.connector) == (before.head, before.connector)


def test_grouped_convolutions_are_counted_as_so_many_small_ones():
    """What is corrected in torch's own count."""
    weights, inputs = torch.randn(8, 2, 3, 3, requires_grad=True), torch.randn(1, 8, 6, 6, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=profiler.CORRECTED) as ours:
        conv2d(inputs, weights, padding=1, groups=4).sum().backward()
    with FlopCounterMode(display=False) as one_by_one:
        for part, kernel in zip(inputs.split(2, 1), weights.split(2), strict=True):
            conv2d(part, kernel, padding=1).sum().backward()
    assert ours.get_total_flops() == one_by_one.get_total_flops()


class Asks(torch.nn.Module):
    """A part that asks for a value, which a part without values cannot give."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.linear(patches) if float(patches.sum()) > 0 else patches


def test_a_part_that_cannot_be_run_without_values_is_taken_by_its_parameters():
    with torch.device("meta"):
        part = Asks()
    known = PartProfile(72, width=8)
    run = lambda images: part(torch.empty(images, 4, 8))  # noqa: E731
    found = profiler._profile(part, (), None, run, 1, "32-true", known, 4)
    assert not found.counted and found.forward == 2 * 72 * 4 and found.backward == 2 * found.forward
    assert found.reason == "it cannot be run without values"


def test_a_product_without_a_formula_is_the_reason_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(profiler.FORMULAS, torch.ops.aten.addmm)
    experiment = tiny_experiment()
    connector = profiler.profile_connector(experiment.model.connector, 64, experiment.model.image_encoder.grid_side, 96, "32-true", True)
    assert not connector.counted and connector.reason == "there is no formula for the operations of aten.addmm.default"
    assert connector.forward == 2 * connector.parameters * experiment.model.connector.image_tokens


def test_whatever_else_a_part_fails_at_is_the_reason_that_is_given() -> None:
    def run(images: int) -> torch.Tensor:
        raise RuntimeError("shapes differ\nand more")

    with torch.device("meta"):
        part = torch.nn.Linear(8, 8)
    found = profiler._profile(part, (), None, run, 1, "32-true", PartProfile(72, width=8), 4)
    assert not found.counted and found.reason == "RuntimeError: shapes differ"


def test_the_paper_scale_base_is_counted_as_the_usual_rule_says(tmp_path: Path):
    """ViT-L/14 at 336 px, C-Abstractor of 144 tokens, a language model of 1.2 billion parameters; nothing of it is made."""
    experiment = load_experiment(REPOSITORY / "experiments" / "mm1_base.yaml", "nowhere")
    parts = ModelStatistics().profile(experiment)
    assert {name: getattr(parts, name).parameters for name in PARTS} == {name: count_parameters(experiment)[name] for name in PARTS}
    row = RowContent.declared(experiment)
    flops, again = row_flops(experiment, parts, row), experiment.training.activation_checkpointing
    without_embeddings = parts.language_model.parameters - parts.language_model.head
    assert flops.blocks == pytest.approx((8 if again else 6) * without_embeddings * row.tokens(144), rel=0.01)
    # 577 patches with the class token, 24 blocks of 12 x width^2 matrices, and attention, which the usual rule leaves out.
    assert flops.image_encoder == pytest.approx((8 if again else 6) * 24 * 12 * 1024**2 * 577 * row.images, rel=0.15)
    assert sum(asdict(flops).values()) == flops.total


@given(some.lists(some.tuples(some.integers(1, 50), some.integers(0, 4)), min_size=1, max_size=8), some.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_pairs_of_a_row_are_the_squares_of_its_documents_lengths(documents: list[tuple[int, int]], image_tokens: int):
    expected = sum((text + images * image_tokens) ** 2 for text, images in documents)
    assert content_of(documents).pairs(image_tokens) == pytest.approx(expected)


def test_rows_as_declared_are_full_whatever_the_mixture():
    for mixture in ({"captioned": 1}, {"interleaved": 2, "text": 1}, {"captioned": 45, "interleaved": 45, "text": 10}):
        experiment = experiment_with({"data.mixture": mixture, "data.packing.max_images": 6})
        row = RowContent.declared(experiment)
        packing = experiment.data.packing
        assert row.tokens(packing.nominal_image_tokens) == pytest.approx(packing.row_tokens)
        assert row.pairs(packing.nominal_image_tokens) <= packing.row_tokens**2 * 1.0001
        assert row.supervised <= row.text_tokens

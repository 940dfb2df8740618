"""The whole model: where image tokens go, what the loss is on, and parts that come by name."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_experiment
from transformers import AutoModelForCausalLM

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.settings import component_types
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch, BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.multimodal import build, random_state
from mm1_ablate.model.profiler import count_parameters
from mm1_ablate.training.fit import fit


def batches(experiment: Experiment, count: int) -> list[Batch]:
    pipeline = ImagePipeline(experiment.model.image_encoder.image_size)
    tokenizer, image_tokens = load_tokenizer("miniature"), experiment.model.connector.image_tokens
    loader = BatchLoader(experiment.data, tokenizer, image_tokens, pipeline, seed=0, steps=count, batch_rows=2)
    return [micro for step in islice(loader, count) for micro in step]


def silent(progress) -> None:
    pass


@pytest.mark.parametrize("positions", ["turned", "learned"])
def test_a_packed_batch_gives_the_logits_of_each_document_alone(positions: str):
    """Through image encoder, connector and language model, images included; positions that are learned count from each document's start."""
    learned = {"model_type": "gpt2", "configuration": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 512}}
    experiment = tiny_experiment({"model.language_model": learned} if positions == "learned" else {})
    model = build(experiment, 0).eval()
    (batch,) = batches(experiment, 1)
    with torch.no_grad():
        together = model(batch)
        start, images_before, checked = 0, 0, 0
        for length in batch.document_lengths:
            inside = (batch.image_positions >= start) & (batch.image_positions < start + length)
            own = int(inside.sum()) // model.image_tokens
            embeddings = model.embed(batch.tokens[start : start + length])
            if own:
                features = model.encode_images(batch.images[images_before : images_before + own]).flatten(0, 1)
                embeddings = embeddings.index_copy(0, batch.image_positions[inside] - start, features)
            alone = model.language_model(inputs_embeds=embeddings[None], use_cache=False).logits[0]
            supervised = (batch.supervised >= start) & (batch.supervised < start + length)
            torch.testing.assert_close(together[supervised], alone[batch.supervised[supervised] - start], atol=1e-5, rtol=1e-5)
            start, images_before, checked = start + length, images_before + own, checked + int(supervised.sum())
    assert images_before == len(batch.images) > 3 and checked == len(batch.targets)


def test_the_loss_is_on_text_tokens_only_and_never_on_the_first_of_a_document():
    experiment = tiny_experiment()
    padding = load_tokenizer("miniature").padding
    for batch in batches(experiment, 3):
        assert (batch.targets != padding).all()
        assert torch.equal(batch.tokens[batch.supervised + 1], batch.targets)
        assert (batch.positions[batch.supervised + 1] > 0).all()


def test_one_parts_initialisation_does_not_depend_on_another_part():
    small = build(tiny_experiment(), 0)
    other = build(tiny_experiment({"model.connector": {"type": "attention_pool", "image_tokens": 5}}), 0)
    for part in ("encoder", "language_model"):
        first, second = getattr(small, part).state_dict(), getattr(other, part).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_language_model_is_read_from_a_folder_with_its_weights(tmp_path: Path):
    kept = build(tiny_experiment(), 3).language_model
    kept.save_pretrained(tmp_path / "kept")
    experiment = tiny_experiment({"model.language_model": {"name": str(tmp_path / "kept")}})
    read = build(experiment, 0).language_model
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in kept.state_dict().items())
    assert isinstance(read, type(AutoModelForCausalLM.from_pretrained(tmp_path / "kept")))
    assert count_parameters(experiment)["language_model"] == sum(parameter.numel() for parameter in read.parameters())
    (tmp_path / "trial").mkdir()
    fit(experiment, 0, None, None, tmp_path / "trial", silent)


@pytest.mark.parametrize(("name", "side"), [("vit_tiny_patch16_224", 3), ("test_vit", 3)])
def test_an_encoder_of_timms_comes_by_name_at_any_resolution(name: str, side: int, tmp_path: Path):
    encoder = {"type": "timm", "name": name, "image_size": 16 * side, "patch_size": 16, "weights": None, "feature_layer": -2}
    experiment = tiny_experiment({"model.image_encoder": encoder, "training.steps": 2})
    model = build(experiment, 0)
    assert model.encode_images(torch.zeros(2, 3, 16 * side, 16 * side, dtype=torch.uint8)).shape == (2, 4, 32)
    assert count_parameters(experiment)["image_encoder"] == sum(parameter.numel() for parameter in model.encoder.parameters())
    fit(experiment, 0, None, None, tmp_path, silent)


def test_bf16_trains_to_nearly_the_same_loss(tmp_path: Path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        folder.mkdir()
        seen: list[float] = []
        fit(
            tiny_experiment({"training.precision": precision}),
            0,
            None,
            None,
            folder,
            lambda progress, seen=seen: seen.append(progress.loss),
        )
        losses[precision] = seen[-1]
    assert losses["32-true"] != losses["bf16-mixed"]
    assert losses["32-true"] == pytest.approx(losses["bf16-mixed"], rel=0.02)


# ---------------------------------------------------------------- where parts start from
EVERY_CONNECTOR = [
    {"type": "average_pool", "image_tokens": 4},
    {"type": "attention_pool", "image_tokens": 5},
    {"type": "c_abstractor", "image_tokens": 4, "hidden": 8, "depth": 1},
    {"type": "perceiver_resampler", "image_tokens": 3, "depth": 1},
    {"type": "pixel_shuffle", "image_tokens": 1},
    {"type": "linear", "image_tokens": 4},
    {"type": "mlp", "image_tokens": 4},
]


def test_every_connector_that_is_shipped_is_tried_here():
    assert {connector["type"] for connector in EVERY_CONNECTOR} == set(component_types("mm1_ablate.model.connectors"))


@pytest.mark.parametrize("connector", EVERY_CONNECTOR, ids=[str(connector["type"]) for connector in EVERY_CONNECTOR])
def test_each_part_starts_elsewhere_with_each_seed_and_at_the_same_place_with_the_same(connector: dict[str, Any]):
    experiment = tiny_experiment({"model.connector": connector})
    first, again, other = (build(experiment, seed) for seed in (0, 0, 1))
    for part in ("encoder", "connector", "language_model"):
        own, same, another = (dict(getattr(one, part).named_parameters()) for one in (first, again, other))
        assert all(torch.equal(value, same[name]) for name, value in own.items())
        drawn = [name for name, value in own.items() if value.ndim > 1 and value.std() > 0]  # biases and norms start alike
        assert drawn and not any(torch.equal(own[name], another[name]) for name in drawn), part


def test_initialisation_by_fan_in_gives_embeddings_the_length_of_one():
    table = build(tiny_experiment(), 0).language_model.get_input_embeddings().weight.detach()
    assert float(table.square().sum(1).mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("layer", [-1, -2])
def test_features_are_of_the_declared_block_and_normalised_after_the_last_alone(layer: int):
    encoder = build(tiny_experiment({"model.image_encoder.depth": 2, "model.image_encoder.feature_layer": layer}), 0).eval().encoder
    vision = encoder.vision
    images = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vision.norm.weight.fill_(3.0)
        expected = vision.blocks[0](vision.patch_embed(images / 127.5 - 1) + vision.pos_embed)
        expected = vision.norm(vision.blocks[1](expected)) if layer == -1 else expected
        torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=1e-5)


def test_building_a_model_takes_nothing_from_the_random_numbers_of_others():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(tiny_experiment(), 0)
    assert torch.equal(torch.rand(3), expected)


def test_parts_of_one_seed_draw_other_numbers():
    numbers = []
    for seed in (0, 1):
        for part in ("image_encoder", "connector", "language_model", "training"):
            with random_state(seed, part):
                numbers.append(float(torch.rand(())))
    assert len(set(numbers)) == 8


def test_prepared_parts_are_those_that_are_given(tmp_path: Path):
    given = build(tiny_experiment(), 7)
    paths = tmp_path / "encoder.pt", tmp_path / "language_model.pt"
    torch.save(given.encoder.state_dict(), paths[0])
    torch.save(given.language_model.state_dict(), paths[1])
    plain, read = build(tiny_experiment(), 0), build(tiny_experiment(), 0, *paths)
    for name, value in read.state_dict().items():
        assert torch.equal(value, (plain if name.startswith("connector.") else given).state_dict()[name])


@pytest.mark.parametrize("tied", [True, False])
def test_token_embeddings_are_scaled_by_the_root_of_the_width_where_declared(tied: bool):
    """As in the original transformer (Vaswani et al. 2017, section 3.4)."""
    tokens = torch.tensor([3, 5, 5])
    for scale, factor in ((True, 32**0.5), (False, 1.0)):
        changes = {"model.language_model.scale_embeddings": scale, "model.language_model.configuration.tie_word_embeddings": tied}
        model = build(tiny_experiment(changes), 0)
        torch.testing.assert_close(model.embed(tokens), factor * model.language_model.model.embed_tokens.weight[tokens])


def test_the_scale_of_embeddings_reaches_the_logits():
    experiment = tiny_experiment({"data.mixture": {"text": 1}})
    plain = tiny_experiment({"data.mixture": {"text": 1}, "model.language_model.scale_embeddings": False})
    scaled, unscaled = build(experiment, 0).eval(), build(plain, 0).eval()
    (batch,) = batches(experiment, 1)
    with torch.no_grad():
        expected = scaled(batch)
        assert not torch.allclose(unscaled(batch), expected, atol=1e-2)
        # Left as they come out of the table, they have to come out of a larger table. The head is the same table, made as small again.
        unscaled.language_model.model.embed_tokens.weight.mul_(32**0.5)
        logits = unscaled(batch) - unscaled.language_model.lm_head.bias
        torch.testing.assert_close(logits / 32**0.5 + unscaled.language_model.lm_head.bias, expected, atol=1e-4, rtol=1e-4)


def test_a_frozen_encoder_gives_the_same_for_many_images_as_for_each(monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.model import multimodal

    monkeypatch.setattr(multimodal, "IMAGES_AT_ONCE", 3)
    images = torch.randint(256, (8, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for frozen in (True, False):
        model = build(tiny_experiment({"model.image_encoder.frozen": frozen}), 0).eval()
        together = model.encode_images(images)
        alone = torch.cat([model.encode_images(image[None]) for image in images])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert together.shape == (8, 4, 32) and not torch.allclose(together[0], together[1], atol=1e-3)

"""A model as it is evaluated, what it cannot be asked as it is, and how it is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_tasks import Toy

from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.evaluation_mode import cast_weights, evaluating
from mm1_ablate.evaluation.kv_cache import KVCache, concatenate_rows, last_positions, needs_equal_lengths
from mm1_ablate.evaluation.prompts import tokenise


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_model_is_asked_without_dropout_and_gradients_and_left_as_it_was(model, training, precision) -> None:
    model.train(training)
    try:
        with pytest.raises(KeyError), evaluating(model, precision):
            assert not model.training and not model.language_model.training and not torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16-mixed")
            raise KeyError
        assert model.training is training and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        assert "forward" not in vars(model.language_model.get_output_embeddings())
    finally:
        model.eval()


def test_weights_are_cast_for_bfloat16_alone(model) -> None:
    cast_weights(model, "32-true")
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.language_model.parameters())


@pytest.mark.parametrize(
    ("configuration", "equal"),
    [
        ({}, False),
        ({"sliding_window": None}, False),
        ({"sliding_window": 8}, True),
        ({"layer_types": ["full_attention"] * 2, "sliding_window": 8}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
        ({"layer_types": None, "sliding_window": 4}, True),
    ],
)
def test_rows_need_equal_lengths_where_a_window_counts_places(configuration: dict[str, Any], equal: bool) -> None:
    assert needs_equal_lengths(SimpleNamespace(language_model=SimpleNamespace(config=SimpleNamespace(**configuration)))) is equal  # type: ignore[arg-type]


def test_the_last_position_of_a_row_is_the_last_that_is_valid() -> None:
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    assert last_positions(valid).int().tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def cache(rows: int, size: int, first: int) -> KVCache:
    keys = torch.arange(first, first + rows * size, dtype=torch.float32).reshape(rows, 1, size, 1)
    return KVCache(((keys, keys + 0.5),), torch.ones(rows, size, dtype=torch.bool), torch.full((rows,), size))


def test_rows_of_several_caches_stand_below_each_other_with_gaps_behind_the_shorter() -> None:
    joined = concatenate_rows([cache(1, 2, 1), cache(2, 1, 10), cache(1, 3, 20)])
    assert joined.layers[0][0][:, 0, :, 0].tolist() == [[1, 2, 0], [10, 0, 0], [11, 0, 0], [20, 21, 22]]
    assert joined.layers[0][1][3, 0, :, 0].tolist() == [20.5, 21.5, 22.5] and joined.lengths.tolist() == [2, 1, 1, 3]
    assert joined.seen.int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]
    alone = joined.separate()
    assert [one.layers[0][0].flatten().tolist() for one in alone] == [[1, 2], [10], [11], [20, 21, 22]]
    assert [one.lengths.tolist() for one in alone] == [[2], [1], [1], [3]]


def test_rows_after_a_prefix_are_chosen_flattened_and_branched() -> None:
    after = KVCache.after_prefixes([cache(1, 2, 1), cache(1, 1, 10)], [1, 0, 1])
    assert after.lengths.tolist() == [1, 2, 1] and after.prefix_of is not None and after.prefix_of.tolist() == [1, 0, 1]
    chosen = after.select(torch.tensor([1, 1, 2]))
    assert chosen.lengths.tolist() == [2, 2, 1] and chosen.flat().layers[0][0][:, 0, :, 0].tolist() == [[1, 2], [1, 2], [10, 0]]
    assert after.branch(torch.tensor([1])).prefix is after.prefix  # no prefix of a prefix
    own = cache(2, 2, 1)
    branched = own.branch(torch.tensor([1, 1, 0]))
    assert branched.prefix is own and branched.seen.shape == (3, 0) and branched.lengths.tolist() == [2, 2, 2]
    assert branched.flat().layers[0][0][:, 0, :, 0].tolist() == [[3, 4], [3, 4], [1, 2]] and own.flat() is own


# ---------------------------------------------------------------- images
@torch.no_grad()
def test_images_are_encoded_once_in_batches_and_those_that_cannot_be_read_are_remembered(model, tokenizer, monkeypatch) -> None:
    items = Toy(corrupt=["q1", "q4"]).open("report", 7, 0).queries
    images = [item.image for item in items if item.image]
    sizes: list[int] = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    embedder = PromptEmbedder(model, ImagePipeline(24), tokenizer.padding, batch_images=3)
    embedder.encode([*images, images[0]])
    assert sizes == [2, 2, 1] and embedder.encoded == 5
    assert {key: str(error) for key, error in embedder.unreadable.items()} == {"q1": "truncated JPEG: q1", "q4": "truncated JPEG: q4"}
    embedder.encode(images)
    assert sizes == [2, 2, 1], "what is kept or cannot be read is not tried again"
    monkeypatch.setattr(type(model), "image_tokens_at_most", 9, raising=False)
    assert [embedder.tokens_of(one) for one in (images[0], Image("new", images[0].load))] == [4, 9]
    with pytest.raises(Unreadable, match=r"^truncated JPEG: q1$"):
        embedder([tokenise([images[0], "red"], tokenizer), tokenise([images[1], "red"], tokenizer)])


@torch.no_grad()
def test_tokens_and_images_stand_where_the_prompt_has_them(model, tokenizer) -> None:
    image = Toy().open("report", 1, 0).queries[0].image
    assert image is not None
    embedder = PromptEmbedder(model, ImagePipeline(24), tokenizer.padding)
    embeddings, valid = embedder([tokenise(["red", image, "blue circle"], tokenizer), tokenise(["green"], tokenizer)])
    red, blue, circle, green = (model.embed(torch.tensor(tokenizer.encode(word)))[0] for word in ("red", "blue", "circle", "green"))
    pictures = model.encode_images(ImagePipeline(24).load([image]))[0]
    torch.testing.assert_close(embeddings[0], torch.stack([red, *pictures, blue, circle]))
    torch.testing.assert_close(embeddings[1, 0], green)
    assert valid.int().tolist() == [[1] * 7, [1] + [0] * 6]
